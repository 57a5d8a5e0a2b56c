"""`transformers.pipeline("text-to-image", model=folder)`: our pipeline in the form of one of transformers' own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import AutoModelForCausalLM, Pipeline, PreTrainedModel
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import ModelOutput
from vqlm.lm.model_folder.finished_model import load_finished
from vqlm.lm.model_folder.processor import TextToImageProcessor
from vqlm.lm.pipeline import TextToImageOutput, TextToImagePipeline
from vqlm.training.errors import UserError


@dataclass
class DrawnPictures(ModelOutput):
    """Of one prompt: `made.images` or `made["images"]`, `num_images_per_prompt` PIL pictures."""

    images: list[Image.Image] | list[Tensor] | None = None


class TextToImageTask(Pipeline):
    """One `DrawnPictures` for a prompt, a list of them for a list of prompts, which are drawn together.

    Arguments of `TextToImagePipeline.__call__` may be given for all calls or for one. `drawing` is that pipeline,
    which can do more.
    """

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_feature_extractor = _load_video_processor = False

    def __init__(self, model: PreTrainedModel, processor: TextToImageProcessor, **kwargs: Any):
        super().__init__(model=model, processor=processor, **kwargs)
        if processor.folder is None:
            raise UserError("The processor must come from a finished model folder, by AutoProcessor.from_pretrained.")
        finished = load_finished(processor.folder, model, (processor.vocabulary, processor.image_tokenizer))
        self.drawing = TextToImagePipeline(**vars(finished)).to(self.device)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """`inputs` is a prompt, a list of prompts, or a generator or data set of them, drawn one by one."""
        if not isinstance(inputs, list | tuple):
            return super().__call__(inputs, *args, **kwargs)
        made = self.drawing(inputs, **(self._forward_params | kwargs)).images
        each = len(made) // max(1, len(inputs))
        return [DrawnPictures(images=made[place : place + each]) for place in range(0, len(made), max(1, each))]

    def _sanitize_parameters(self, **pipeline_parameters: Any) -> tuple[dict, dict, dict]:
        return {}, pipeline_parameters, {}

    def preprocess(self, input_: str | None, **preprocess_parameters: Any) -> dict[str, Any]:
        """A prompt needs nothing done to it."""
        return {"prompt": input_}

    def _forward(self, input_tensors: dict[str, Any], **forward_parameters: Any) -> TextToImageOutput:  # type: ignore[override]
        return self.drawing(input_tensors["prompt"], **forward_parameters)

    def postprocess(  # type: ignore[override]
        self, model_outputs: TextToImageOutput, **postprocess_parameters: Any
    ) -> DrawnPictures:
        """Without the codes."""
        return DrawnPictures(images=model_outputs.images)

    def save_pretrained(self, save_directory: Path | str, **kwargs: Any) -> None:  # type: ignore[override]
        """The finished model folder."""
        self.drawing.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]
        """See `TextToImagePipeline.push_to_hub`."""
        return self.drawing.push_to_hub(repo_id, **kwargs)


PIPELINE_REGISTRY.register_pipeline("text-to-image", TextToImageTask, pt_model=AutoModelForCausalLM, type="text")
