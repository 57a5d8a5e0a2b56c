from .data_prep import (
    Collection as Collection,
)
from .data_prep import (
    CollectionConfig as CollectionConfig,
)
from .data_prep import (
    PreparedSet as PreparedSet,
)
from .data_prep import (
    SequenceConfig as SequenceConfig,
)
from .data_prep import (
    TextConfig as TextConfig,
)
from .data_prep import (
    ViewConfig as ViewConfig,
)
from .data_prep import (
    Vocabulary as Vocabulary,
)
from .data_prep import (
    load_collection as load_collection,
)
from .data_prep import (
    load_pictures as load_pictures,
)
from .data_prep import (
    prepare as prepare,
)
from .lm import (
    LanguageModelConfig as LanguageModelConfig,
)
from .lm import (
    LMTrainingConfig as LMTrainingConfig,
)
from .lm import (
    MixedRowLogitsProcessor as MixedRowLogitsProcessor,
)
from .lm import (
    SamplingConfig as SamplingConfig,
)
from .lm import (
    TextToImageOutput as TextToImageOutput,
)
from .lm import (
    TextToImagePipeline as TextToImagePipeline,
)
from .lm import (
    TextToImageProcessor as TextToImageProcessor,
)
from .lm.train import train_lm as train_lm
from .vq import (
    VQVAE as VQVAE,
)
from .vq import (
    FSQConfig as FSQConfig,
)
from .vq import (
    GroupedConfig as GroupedConfig,
)
from .vq import (
    HierarchicalConfig as HierarchicalConfig,
)
from .vq import (
    LFQConfig as LFQConfig,
)
from .vq import (
    LossConfig as LossConfig,
)
from .vq import (
    NetworkConfig as NetworkConfig,
)
from .vq import (
    ResidualConfig as ResidualConfig,
)
from .vq import (
    VQConfig as VQConfig,
)
from .vq import (
    VQTrainingConfig as VQTrainingConfig,
)
from .vq import (
    VQVAEConfig as VQVAEConfig,
)
from .vq import (
    VQVAEImageProcessor as VQVAEImageProcessor,
)
from .vq import (
    VQVAEOutput as VQVAEOutput,
)
from .vq import (
    load_image_tokenizer as load_image_tokenizer,
)
from .vq.train import train_vq as train_vq
