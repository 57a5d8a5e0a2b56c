"""Stage two: the autoregressive model over the merged vocabulary: train, decode, pipeline."""

from lm.grammar import MixedRowLogitsProcessor
from lm.model import LanguageModelConfig
from lm.pipeline import TextToImageOutput, TextToImagePipeline
from lm.sampling import SamplingConfig

__all__ = [
    "LanguageModelConfig",
    "MixedRowLogitsProcessor",
    "SamplingConfig",
    "TextToImageOutput",
    "TextToImagePipeline",
]
