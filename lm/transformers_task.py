"""`transformers.pipeline("text-to-image", model=folder)`: our pipeline as one of transformers."""

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
    """The `images` of one prompt: `num_images_per_prompt` PIL pictures."""

    images: list[Image.Image] | list[Tensor] | None = None


class TextToImageTask(Pipeline):
    """One `DrawnPictures` for a prompt, a list of them for a list of prompts, which are drawn together.

    Arguments of `TextToImagePipeline.__call__` may be given for all calls or for one. `drawing` is that pipeline,
    which can do more.

    Args:
        model (PreTrainedModel): the language model of a finished model folder.
        processor (TextToImageProcessor): loaded from the same folder.
        kwargs: arguments of `transformers.Pipeline`, and defaults of the call.

    Raises:
        UserError: for a processor that was not loaded from a finished model folder.

    Example:
        >>> import vqlm
        >>> import transformers
        >>> draw = transformers.pipeline("text-to-image", model="outputs/demo/model", device="cpu")
        >>> draw("red heart").images[0].save("heart.png")
    """

    _load_processor = True
    _load_tokenizer = _load_image_processor = _load_feature_extractor = _load_video_processor = False

    def __init__(self, model: PreTrainedModel, processor: TextToImageProcessor, **kwargs: Any):
        super().__init__(model=model, processor=processor, **kwargs)
        if processor.folder is None:
            raise UserError("The processor must come from a finished model folder, by AutoProcessor.from_pretrained.")
        finished = load_finished(processor.folder, model, (processor.vocabulary, processor.image_tokenizer))
        self.drawing = TextToImagePipeline(*finished).to(self.device)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Draw prompts.

        Args:
            inputs (str, None, list of them, or iterable): a prompt; a list of prompts, which are drawn together; or a
                generator or data set of prompts, which are drawn one by one.
            args: see `transformers.Pipeline`.
            kwargs: arguments of `TextToImagePipeline.__call__`.

        Returns:
            DrawnPictures, or a list or iterator of them: the pictures of each prompt.

        Example:
            >>> draw = transformers.pipeline("text-to-image", model="outputs/demo/model", device="cpu")
            >>> [len(drawn.images) for drawn in draw(["red heart", "blue square"], num_images_per_prompt=2)]
            [2, 2]
        """
        if not isinstance(inputs, list | tuple):
            return super().__call__(inputs, *args, **kwargs)
        images = self.drawing(inputs, **(self._forward_params | kwargs)).images
        each = len(images) // max(1, len(inputs))
        return [DrawnPictures(images=images[start : start + each]) for start in range(0, len(images), max(1, each))]

    def _sanitize_parameters(self, **pipeline_parameters: Any) -> tuple[dict, dict, dict]:
        return {}, pipeline_parameters, {}

    def preprocess(self, input_: str | None, **preprocess_parameters: Any) -> dict[str, Any]:
        """The prompt as it is."""
        return {"prompt": input_}

    def _forward(self, input_tensors: dict[str, Any], **forward_parameters: Any) -> TextToImageOutput:  # type: ignore[override]
        return self.drawing(input_tensors["prompt"], **forward_parameters)

    def postprocess(  # type: ignore[override]
        self, model_outputs: TextToImageOutput, **postprocess_parameters: Any
    ) -> DrawnPictures:
        """The pictures without their codes."""
        return DrawnPictures(images=model_outputs.images)

    def save_pretrained(self, save_directory: Path | str, **kwargs: Any) -> None:  # type: ignore[override]
        """Save the finished model folder; see `TextToImagePipeline.save_pretrained`."""
        self.drawing.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]
        """See `TextToImagePipeline.push_to_hub`."""
        return self.drawing.push_to_hub(repo_id, **kwargs)


PIPELINE_REGISTRY.register_pipeline("text-to-image", TextToImageTask, pt_model=AutoModelForCausalLM, type="text")
