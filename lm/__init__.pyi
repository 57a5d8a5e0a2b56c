from .decoding.logits_processor import MixedRowLogitsProcessor as MixedRowLogitsProcessor
from .model_folder.processor import TextToImageProcessor as TextToImageProcessor
from .pipeline import (
    TextToImageOutput as TextToImageOutput,
)
from .pipeline import (
    TextToImagePipeline as TextToImagePipeline,
)
from .settings import (
    LanguageModelConfig as LanguageModelConfig,
)
from .settings import (
    LMTrainingConfig as LMTrainingConfig,
)
from .settings import (
    SamplingConfig as SamplingConfig,
)
from .transformers_task import TextToImageTask as TextToImageTask
