from .config import VQVAEConfig as VQVAEConfig
from .fitting import (
    fit_rgb as fit_rgb,
    has_shape as has_shape,
    scale_and_crop as scale_and_crop,
    to_fitted_rgb as to_fitted_rgb,
)
from .image_processor import VQVAEImageProcessor as VQVAEImageProcessor
from .model import (
    VQVAE as VQVAE,
    VQVAEOutput as VQVAEOutput,
    load_image_tokenizer as load_image_tokenizer,
)
from .pixels import (
    draft as draft,
    picture_grid as picture_grid,
    to_pil as to_pil,
    to_pixel_values as to_pixel_values,
    to_rgb as to_rgb,
    to_uint8 as to_uint8,
)
from .quantizers.settings import (
    FSQConfig as FSQConfig,
    GroupedConfig as GroupedConfig,
    HierarchicalConfig as HierarchicalConfig,
    LFQConfig as LFQConfig,
    QuantizerConfig as QuantizerConfig,
    ResidualConfig as ResidualConfig,
    VQConfig as VQConfig,
)
from .settings import (
    Fit as Fit,
    LossConfig as LossConfig,
    NetworkConfig as NetworkConfig,
    VQTrainingConfig as VQTrainingConfig,
)
