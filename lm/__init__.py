"""Stage two: the autoregressive model over the merged vocabulary: train, decode, pipeline."""

from lm.model import LanguageModelConfig
from lm.pipeline import TextToImageOutput, TextToImagePipeline
from lm.sampling import SamplingConfig

__all__ = ["LanguageModelConfig", "SamplingConfig", "TextToImageOutput", "TextToImagePipeline"]
