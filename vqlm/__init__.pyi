from .data_prep import (
    Collection as Collection,
    CollectionConfig as CollectionConfig,
    PreparedSet as PreparedSet,
    SequenceConfig as SequenceConfig,
    TextConfig as TextConfig,
    ViewConfig as ViewConfig,
    Vocabulary as Vocabulary,
    load_collection as load_collection,
    load_pictures as load_pictures,
    prepare as prepare,
)
from .lm import (
    LanguageModelConfig as LanguageModelConfig,
    LMTrainingConfig as LMTrainingConfig,
    MixedRowLogitsProcessor as MixedRowLogitsProcessor,
    SamplingConfig as SamplingConfig,
    TextToImageOutput as TextToImageOutput,
    TextToImagePipeline as TextToImagePipeline,
    TextToImageProcessor as TextToImageProcessor,
)
from .lm.train import train_lm as train_lm
from .vq import (
    VQVAE as VQVAE,
    FSQConfig as FSQConfig,
    GroupedConfig as GroupedConfig,
    HierarchicalConfig as HierarchicalConfig,
    LFQConfig as LFQConfig,
    LossConfig as LossConfig,
    NetworkConfig as NetworkConfig,
    ResidualConfig as ResidualConfig,
    VQConfig as VQConfig,
    VQTrainingConfig as VQTrainingConfig,
    VQVAEConfig as VQVAEConfig,
    VQVAEImageProcessor as VQVAEImageProcessor,
    VQVAEOutput as VQVAEOutput,
    load_image_tokenizer as load_image_tokenizer,
)
from .vq.train import train_vq as train_vq
