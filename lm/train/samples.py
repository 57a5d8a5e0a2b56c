"""Samples while stage two trains: the same prompts, drawn again and again."""

from pathlib import Path

import torch
from PIL import Image
from transformers import PreTrainedModel

from vqlm.data_prep.prepared_set import PreparedSet, spread
from vqlm.lm.image_codes import decode_pictures
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError
from vqlm.training.watching.samples import SampleSource
from vqlm.vq import VQVAE

HELD_OUT_PROMPTS = 8


def sample_prompts(path: str | None) -> list[str] | None:
    """The prompts in a file, one per line; None without a file. Raises UserError where there are none."""
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`sample_prompts` {path} cannot be read ({error}); give a text file.") from None
    if not (prompts := [line.strip() for line in lines if line.strip()]):
        raise UserError(f"`sample_prompts` {path} is empty; write one prompt per line.")
    return prompts


def drawn_samples(
    model: PreTrainedModel,
    prepared: PreparedSet,
    image_tokenizer: VQVAE,
    sampling: SamplingConfig,
    prompts: list[str] | None,
) -> SampleSource | None:
    """Draws `prompts`, each with its own seed, which stays the same; None if the codes are not those of pictures.

    Args:
        model: the one that is being trained.
        prepared: without `prompts`, some of its held-out captions are drawn, with their own pictures at the top of the
            strip.
        image_tokenizer: decodes the drawn codes.
        sampling: how codes are drawn.
        prompts: what to draw; None for held-out captions.
    """
    if not image_tokenizer.config.takes_pictures:
        return None
    originals: list[Image.Image] = []
    if prompts is None:
        rows = next(iter(prepared.held_out.values()))
        rows = rows.select(spread(len(rows), HELD_OUT_PROMPTS))
        prompts = [captions[0] for captions in rows["captions"]]
        originals = decode_pictures(image_tokenizer, image_tokenizer.unflatten_codes(prepared.codes_of(rows)))  # type: ignore[assignment]

    @torch.compiler.set_stance("force_eager")  # compiled parts are for the shapes of a training step
    def draw(start: int, stop: int) -> list[Image.Image]:
        was_training, tokenizer_was_training = model.training, image_tokenizer.training
        pipeline = TextToImagePipeline(model, prepared.vocabulary, image_tokenizer, ModelFolderSettings(sampling))
        try:
            return pipeline(list(prompts[start:stop]), generator=list(range(start, stop))).images  # type: ignore[return-value]
        finally:
            model.train(was_training)
            image_tokenizer.train(tokenizer_was_training)

    return SampleSource(draw, prompts, originals)
