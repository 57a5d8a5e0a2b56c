from .decoding.logits_processor import MixedRowLogitsProcessor as MixedRowLogitsProcessor
from .model_folder.processor import TextToImageProcessor as TextToImageProcessor
from .pipeline import (
    TextToImageOutput as TextToImageOutput,
    TextToImagePipeline as TextToImagePipeline,
)
from .settings import (
    LanguageModelConfig as LanguageModelConfig,
    LMTrainingConfig as LMTrainingConfig,
    SamplingConfig as SamplingConfig,
)
from .transformers_task import TextToImageTask as TextToImageTask
