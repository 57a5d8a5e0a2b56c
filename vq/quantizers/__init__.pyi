from .base import (
    Quantizer as Quantizer,
)
from .base import (
    QuantizerOutput as QuantizerOutput,
)
from .build import (
    QUANTIZERS as QUANTIZERS,
)
from .build import (
    build_quantizer as build_quantizer,
)
from .estimators import (
    rotation as rotation,
)
from .estimators import (
    straight_through as straight_through,
)
from .finite_scalar import FiniteScalarQuantizer as FiniteScalarQuantizer
from .hierarchical import HierarchicalQuantizer as HierarchicalQuantizer
from .lookup_free import LookupFreeQuantizer as LookupFreeQuantizer
from .settings import (
    FSQConfig as FSQConfig,
)
from .settings import (
    GroupedConfig as GroupedConfig,
)
from .settings import (
    HierarchicalConfig as HierarchicalConfig,
)
from .settings import (
    LFQConfig as LFQConfig,
)
from .settings import (
    QuantizerConfig as QuantizerConfig,
)
from .settings import (
    ResidualConfig as ResidualConfig,
)
from .settings import (
    VQConfig as VQConfig,
)
from .settings import (
    quantizer_config as quantizer_config,
)
from .settings import (
    quantizer_config_type as quantizer_config_type,
)
from .several import (
    GroupedQuantizer as GroupedQuantizer,
)
from .several import (
    ResidualQuantizer as ResidualQuantizer,
)
from .vector import VectorQuantizer as VectorQuantizer
