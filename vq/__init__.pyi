from .config import VQVAEConfig as VQVAEConfig
from .fitting import (
    fit_rgb as fit_rgb,
)
from .fitting import (
    has_shape as has_shape,
)
from .fitting import (
    to_fitted_rgb as to_fitted_rgb,
)
from .image_processor import VQVAEImageProcessor as VQVAEImageProcessor
from .model import (
    VQVAE as VQVAE,
)
from .model import (
    VQVAEOutput as VQVAEOutput,
)
from .model import (
    load_image_tokenizer as load_image_tokenizer,
)
from .pixels import (
    draft as draft,
)
from .pixels import (
    picture_grid as picture_grid,
)
from .pixels import (
    scale_and_crop as scale_and_crop,
)
from .pixels import (
    to_pil as to_pil,
)
from .pixels import (
    to_pixel_values as to_pixel_values,
)
from .pixels import (
    to_rgb as to_rgb,
)
from .pixels import (
    to_uint8 as to_uint8,
)
from .quantizers.settings import (
    FSQConfig as FSQConfig,
)
from .quantizers.settings import (
    GroupedConfig as GroupedConfig,
)
from .quantizers.settings import (
    HierarchicalConfig as HierarchicalConfig,
)
from .quantizers.settings import (
    LFQConfig as LFQConfig,
)
from .quantizers.settings import (
    QuantizerConfig as QuantizerConfig,
)
from .quantizers.settings import (
    ResidualConfig as ResidualConfig,
)
from .quantizers.settings import (
    VQConfig as VQConfig,
)
from .settings import (
    Fit as Fit,
)
from .settings import (
    LossConfig as LossConfig,
)
from .settings import (
    NetworkConfig as NetworkConfig,
)
from .settings import (
    VQTrainingConfig as VQTrainingConfig,
)
