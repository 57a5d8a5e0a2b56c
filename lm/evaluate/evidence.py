"""From the figures of a report to what its verdict is judged by."""

from pathlib import Path
from shlex import quote
from typing import Any

from vqlm.data_prep.captions.known_words import words_of
from vqlm.lm.evaluate.report import Shown
from vqlm.lm.evaluate.training_record import training_log
from vqlm.lm.evaluate.verdict import Evidence, Names, Recall
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.settings import SamplingConfig


def gather_evidence(
    figures: dict[str, Any],
    shown: dict[str, Shown],
    pipeline: TextToImagePipeline,
    model: Path,
    median_side: int | None,
) -> Evidence:
    """Of the report's `figures` and what it shows; `model` is the folder of the pipeline, with its training log;
    `median_side` is the collection's."""
    counts, scale = figures["prompts"], figures["default_sampling"]["guidance_scale"]
    retrieval = figures["retrieval"]
    known = pipeline.settings.known_words
    words = None if known is None else set(known.split())
    log = training_log(model) or []
    return Evidence(
        psnr_db=figures["held_out_psnr_db"],
        image_size=min(pipeline.image_tokenizer.config.network.input_shape),
        pictures=sum(figures["pictures"].values()),
        trained_pictures=figures["pictures"]["train"],
        trained=Recall(**figures["trained_prompts"], prompts=counts["train"]),
        held_out={
            split: Recall(**by_scale[f"{scale:g}"], prompts=counts[split]) for split, by_scale in retrieval.items()
        },
        by_guidance={
            split: {float(name): recall["r10"] for name, recall in by_scale.items()}
            for split, by_scale in retrieval.items()
        },
        guidance=float(f"{scale:g}"),
        known_words={}
        if words is None
        else {split: _known_share(shown[split].captions, words, pipeline) for split in retrieval},
        nll={
            split: [line[f"{split}_image_nll"] for line in log if f"{split}_image_nll" in line] for split in retrieval
        },
        shared_captions=sum(figures["prompts_also_trained_on"].values())
        / sum(figures["pictures"][split] for split in retrieval),
        is_sampling_plain=pipeline.sampling == SamplingConfig(),
        median_side=median_side,
    )


def _known_share(captions: list[str], known: set[str], pipeline: TextToImagePipeline) -> float:
    """Of `captions`, those of which every word is known."""
    return sum(known.issuperset(words_of(caption, pipeline.vocabulary)) for caption in captions) / len(captions)


def names_of(figures: dict[str, Any], model: Path, prepared: Path, data: str) -> Names:
    """What the advice calls things; `data` is what the prepared set was made from."""
    seconds = [value for value in figures["seconds"].values() if value is not None]
    return Names(quote(str(model)), quote(str(prepared)), quote(data), sum(seconds) / 60 if len(seconds) > 1 else None)
