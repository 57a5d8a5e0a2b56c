"""Starts stage two from a finished model: checks it against the prepared set, lengthens its context if needed."""

from dataclasses import replace

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from vqlm.data_prep.prepared_set import PreparedSet
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError


def load_start(folder: str, prepared: PreparedSet) -> TextToImagePipeline:
    """The finished model in `folder`, on the CPU.

    Raises UserError as `from_pretrained` does, and if `prepared` has another vocabulary or image tokenizer: an id must
    mean the same in the rows as to the model.
    """
    pipeline = TextToImagePipeline.from_pretrained(folder, "cpu")
    for part, fingerprint, other in (
        ("vocabulary", pipeline.vocabulary.fingerprint(), prepared.manifest["vocabulary"]),
        ("image tokenizer", pipeline.image_tokenizer.fingerprint(), prepared.manifest["made_from"]["image_tokenizer"]),
    ):
        if fingerprint != other:
            raise UserError(
                f"The {part} of `init_from` {folder!r} is not that of the data in {prepared.folder}; prepare the data "
                f"for this model: `vqlm prepare` with `for_model` {folder}."
            )
    return pipeline


def lengthen_context(pipeline: TextToImagePipeline, folder: str, max_length: int) -> None:
    """Give the model in `folder` a context of at least `max_length` ids, if it was trained on shorter rows.

    Raises UserError for an architecture that has a learned embedding for each position.
    """
    context = getattr(pipeline.model.config, "max_position_embeddings", None)
    if context is None or context >= max_length:
        return
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    config.max_position_embeddings = max_length
    try:
        pipeline.model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
    except RuntimeError:  # its table of position embeddings has another size
        raise UserError(
            f"Rows have up to {max_length} ids, the context of `init_from` {folder!r} {context}, and "
            f"{config.model_type} cannot lengthen it; lower `max_caption_tokens` by {max_length - context} or more, so "
            "that captions are cut."
        ) from None


def inherit(pipeline: TextToImagePipeline, base: TextToImagePipeline) -> None:
    """Let `pipeline`, which was trained from `base`, keep what `base` can do.

    It gets the longer limit of prompts, the known words and the licence lines of both, captioning if either has it, and
    the sampling of `base` unless another was set.
    """
    old, new = base.settings, pipeline.settings
    lines = [line for text in (old.attribution, new.attribution) if text for line in text.splitlines()]
    pipeline.settings = replace(
        new,
        max_caption_tokens=max(new.max_caption_tokens, old.max_caption_tokens),
        can_caption=new.can_caption or old.can_caption,
        sampling=old.sampling if new.sampling == SamplingConfig() else new.sampling,
        attribution="\n".join(dict.fromkeys(lines)) or None,
        known_words=None if old.known_words is None or new.known_words is None else _both(old, new),
    )


def _both(old: ModelFolderSettings, new: ModelFolderSettings) -> str:
    return " ".join(dict.fromkeys(f"{new.known_words} {old.known_words}".split()))
