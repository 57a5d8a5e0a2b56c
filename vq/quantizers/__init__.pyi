from .base import (
    Quantizer as Quantizer,
    QuantizerOutput as QuantizerOutput,
)
from .build import (
    QUANTIZERS as QUANTIZERS,
    build_quantizer as build_quantizer,
)
from .estimators import (
    rotation as rotation,
    straight_through as straight_through,
)
from .finite_scalar import FiniteScalarQuantizer as FiniteScalarQuantizer
from .hierarchical import HierarchicalQuantizer as HierarchicalQuantizer
from .lookup_free import LookupFreeQuantizer as LookupFreeQuantizer
from .settings import (
    FSQConfig as FSQConfig,
    GroupedConfig as GroupedConfig,
    HierarchicalConfig as HierarchicalConfig,
    LFQConfig as LFQConfig,
    QuantizerConfig as QuantizerConfig,
    ResidualConfig as ResidualConfig,
    VQConfig as VQConfig,
    quantizer_config as quantizer_config,
    quantizer_config_type as quantizer_config_type,
)
from .several import (
    GroupedQuantizer as GroupedQuantizer,
    ResidualQuantizer as ResidualQuantizer,
)
from .vector import VectorQuantizer as VectorQuantizer
