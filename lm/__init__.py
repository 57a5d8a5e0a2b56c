"""Stage two: the autoregressive model over the merged vocabulary: train, decode, pipeline."""

from transformers import AutoModelForCausalLM, AutoProcessor, PreTrainedConfig
from transformers.pipelines import PIPELINE_REGISTRY

from lm.grammar import MixedRowLogitsProcessor
from lm.model import LanguageModelConfig
from lm.pipeline import TextToImageOutput, TextToImagePipeline
from lm.processor import TextToImageProcessor
from lm.sampling import SamplingConfig
from lm.task import TextToImageTask


class _FinishedModelKey(PreTrainedConfig):
    """Under which `AutoProcessor` finds our processor by its name. No model has this configuration: to register it for
    that of the language model would give our processor to every model of that architecture."""


AutoProcessor.register(_FinishedModelKey, TextToImageProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline("text-to-image", TextToImageTask, pt_model=AutoModelForCausalLM, type="text")

__all__ = [
    "LanguageModelConfig",
    "MixedRowLogitsProcessor",
    "SamplingConfig",
    "TextToImageOutput",
    "TextToImagePipeline",
    "TextToImageProcessor",
    "TextToImageTask",
]
