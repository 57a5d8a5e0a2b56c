"""The report of a finished model on a prepared set: figures, sheets of samples, pages. Needs no training run."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vqlm.data_prep.pictures.sheets import sample_sheet
from vqlm.data_prep.prepared_set import PreparedSet, pictures_of, spread
from vqlm.data_prep.splits import TRAIN
from vqlm.lm.evaluate.as_typed import as_typed_markdown, nll_as_typed
from vqlm.lm.evaluate.curves import save_curves
from vqlm.lm.evaluate.gallery import MAX_PROMPTS, decode_flat, gallery
from vqlm.lm.evaluate.metrics import evaluate_nll, recall_at, retrieval_ranks
from vqlm.lm.evaluate.other_tasks import other_tasks_markdown
from vqlm.lm.evaluate.training_record import stage_seconds
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.training.errors import UserError
from vqlm.training.folders.same_run import require_match
from vqlm.training.folders.whole_files import write_json
from vqlm.training.machine.matrix_peak import describe_machine
from vqlm.training.watching.progress import Progress
from vqlm.vq import to_pixel_values
from vqlm.vq.metrics import CodeUsage, psnr

GUIDANCE_SCALES = (1.0, 1.5, 2.0, 3.0)
USAGE_PART = 65_536
SAMPLES_PER_SPLIT = 16
TRAINED_PROMPTS = 64  # drawn beside the held-out ones: enough to tell whether the model knows its own pictures


@dataclass(frozen=True)
class Shown:
    """Prompts and pictures of one split for the pages; pictures are (N, C, H, W) in [-1, 1]. originals: None for
    prompts that were trained on, whose pictures a prepared set does not keep. drawn: with the default sampling."""

    captions: list[str]
    originals: Tensor | None
    reconstructions: Tensor
    drawn: Tensor


def require_same_tokenizers(pipeline: TextToImagePipeline, prepared: PreparedSet) -> None:
    """Raises UserError if the model was not trained on this prepared set's image tokenizer and vocabulary."""
    require_match(
        "the model's image tokenizer is", pipeline.image_tokenizer.fingerprint(),
        "the prepared set's is", prepared.manifest["made_from"]["image_tokenizer"],
    )  # fmt: skip
    require_match(
        "the model's vocabulary is", pipeline.vocabulary.fingerprint(),
        "the prepared set's is", prepared.manifest["vocabulary"],
    )  # fmt: skip


def require_pictures(pipeline: TextToImagePipeline, model: Path) -> None:
    """Raises UserError if the model, of the folder `model`, draws no pictures."""
    network = pipeline.image_tokenizer.config.network
    if network.spatial_dims != 2:
        raise UserError(
            f"pictures are measured; {model} draws arrays of shape {network.input_shape}. Its held-out NLL is in "
            f"{model / 'run' / 'summary.json'}."
        )


@torch.no_grad()
def evaluate(
    pipeline: TextToImagePipeline, prepared: PreparedSet, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Shown]]:
    """Measure a finished model on the held-out rows of a prepared set.

    Draws one picture for every held-out prompt at each guidance scale, with the pipeline's other defaults, and one for
    each of `TRAINED_PROMPTS` that were trained on.

    Args:
        pipeline: the finished model.
        prepared: the prepared set on which it was trained, or another one with the same tokenizers.
        seed: decides the drawings.

    Returns:
        All figures of the report; and for each held-out split, then for "train", what the pages show.

    Raises:
        UserError: if the model was not trained with this prepared set's image tokenizer and vocabulary.

    Example:
        >>> from pathlib import Path
        >>> from vqlm.lm.evaluate.report import evaluate
        >>> collection = vqlm.load_collection("pictures")
        >>> prepared = vqlm.prepare(
        ...     collection, pipe.image_tokenizer, Path("data"), "pictures", num_workers=0, vocabulary=pipe.vocabulary
        ... )
        >>> figures, _ = evaluate(pipe, prepared)
        >>> list(figures["retrieval"]["held_out"])
        ['1', '1.5', '2', '3']
    """
    start = time.monotonic()
    require_same_tokenizers(pipeline, prepared)
    image_tokenizer = pipeline.image_tokenizer
    config, quantizer = image_tokenizer.config, image_tokenizer.quantizer
    usage, held_out_usage = (CodeUsage(config.codebook_size, config.quantizer.num_codebooks) for _ in range(2))
    for rows in prepared.rows.values():
        for codes in prepared.code_parts(rows, USAGE_PART):
            usage.add(*quantizer.by_codebook(image_tokenizer.unflatten_codes(codes)))
    psnr_values, nll, as_typed = [], {}, {}
    shown: dict[str, Shown] = {}
    drawings: dict[tuple[str, float], Tensor] = {}
    default = pipeline.sampling.guidance_scale
    scales = sorted({*GUIDANCE_SCALES, default})
    progress = Progress("evaluate")
    for split in prepared.held_out:
        rows = prepared.pictured(split, MAX_PROMPTS)
        codes, captions = prepared.codes_of(rows), [captions[0] for captions in rows["captions"]]
        held_out_usage.add(*quantizer.by_codebook(image_tokenizer.unflatten_codes(codes)))
        originals = image_tokenizer.fit_size(to_pixel_values(pictures_of(rows)))
        reconstructions = decode_flat(pipeline, codes)
        psnr_values.append(psnr(reconstructions, originals))
        nll[split] = evaluate_nll(
            pipeline.model, pipeline.vocabulary, rows, pipeline.max_caption_tokens, prepared.tokens_per_image
        )
        as_typed[split] = nll_as_typed(pipeline, rows, prepared.tokens_per_image, nll[split])
        for scale in scales:
            generator = torch.Generator().manual_seed(seed)
            codes_drawn = pipeline(captions, guidance_scale=scale, generator=generator).codes
            drawings[split, scale] = decode_flat(pipeline, codes_drawn.flatten(1))
            done, all_drawings = len(drawings), len(scales) * len(prepared.held_out)
            elapsed = time.monotonic() - start
            progress.show(done / all_drawings, elapsed * (all_drawings / done - 1), f"{split}, guidance {scale:g}")
        shown[split] = Shown(captions, originals, reconstructions, drawings[split, default])
    shown[TRAIN] = _draw_trained(pipeline, prepared, seed)
    drawings[TRAIN, default] = shown[TRAIN].drawn
    progress.close()
    # One pass over the collection ranks all drawings.
    targets = torch.cat([shown[split].reconstructions for split, _ in drawings])
    ranks = retrieval_ranks(torch.cat(list(drawings.values())), targets, gallery(pipeline, prepared))
    retrieval: dict[str, dict] = {split: {} for split in shown}
    for (split, scale), part in zip(drawings, ranks.split([len(part) for part in drawings.values()]), strict=True):
        retrieval[split][f"{scale:g}"] = {"r1": recall_at(part, 1), "r10": recall_at(part, 10)}
    (trained,) = retrieval.pop(TRAIN).values()
    figures = {
        "held_out_psnr_db": torch.cat(psnr_values).mean().item(),
        "perplexity": held_out_usage.perplexity,
        "perplexity_collection": usage.perplexity,
        "codebook_usage": usage.usage,
        "held_out_image_nll": nll,
        "held_out_image_nll_as_typed": as_typed,
        "retrieval": retrieval,
        "trained_prompts": trained,
        "prompts": {split: len(part.captions) for split, part in shown.items()},
        "default_sampling": vars(pipeline.sampling).copy(),
        "pictures": prepared.manifest["splits"],
        "prompts_also_trained_on": prepared.seen_prompts(),
        "seconds": stage_seconds(pipeline) | {"evaluate": round(time.monotonic() - start, 1)},
        "machine": describe_machine(),
    }
    return figures, shown


def _draw_trained(pipeline: TextToImagePipeline, prepared: PreparedSet, seed: int) -> Shown:
    """Some of the prompts that were trained on, evenly over all, drawn with the default sampling."""
    rows = prepared.train.select(spread(len(prepared.train), TRAINED_PROMPTS))
    captions = [captions[0] for captions in rows["captions"]]
    drawn = pipeline(captions, generator=torch.Generator().manual_seed(seed)).codes
    reconstructions = decode_flat(pipeline, prepared.codes_of(rows))
    return Shown(captions, None, reconstructions, decode_flat(pipeline, drawn.flatten(1)))


def seen_prompts_markdown(figures: dict[str, Any]) -> list[str]:
    """One line of the report for each held-out set of which captions are also trained on."""
    lines = []
    for split, seen in figures.get("prompts_also_trained_on", {}).items():
        if count := figures["pictures"][split]:
            share = "All" if seen == count else f"{seen} of"
            if seen:
                lines.append(
                    f"{share} {count} prompts of {split} are captions that other pictures were trained on with: they "
                    "are no new prompts, only the pictures are new, and there are several right answers to each."
                )
    return ["", *lines] if lines else []


def require_no_other(output: Path) -> None:
    """Raises UserError if `output` holds a report already, or is the folder of another stage."""
    for name in ("report.json", "run", "manifest.json"):
        if (output / name).exists():
            raise UserError(f"{output} already holds {name}; choose another `output` for the report.")


def write_report(
    figures: dict[str, Any],
    shown: dict[str, Shown],
    prepared: PreparedSet,
    model: Path,
    output: Path,
    page: str,
) -> None:
    """`report.html`, which is `page`, `report.json`, `report.md`, `samples.png`, `reconstructions.png` and, where
    `save_curves` can, `curves.png`."""
    output.mkdir(parents=True, exist_ok=True)
    cells = [
        (part.captions[index], [part.originals[index], part.reconstructions[index], part.drawn[index]])
        for part in shown.values()
        if part.originals is not None
        for index in spread(len(part.captions), SAMPLES_PER_SPLIT)
    ]
    sample_sheet(cells).save(output / "samples.png")
    sample_sheet([(caption, pictures[:2]) for caption, pictures in cells]).save(output / "reconstructions.png")
    text = report_markdown(figures, prepared.manifest["attribution"])
    if save_curves(model, output / "curves.png"):
        text += "\n![image NLL over training](curves.png)\n"
    (output / "report.md").write_text(text, encoding="utf-8")
    (output / "report.html").write_text(page, encoding="utf-8")
    write_json(output / "report.json", figures)  # last: where it stands, the report is whole


def report_markdown(figures: dict[str, Any], attribution: str | None) -> str:
    """The figures as a page."""
    machine, counts = figures["machine"], figures["pictures"]
    lines = [
        "# Report",
        "",
        f"{counts['train']} pictures trained on, "
        + ", ".join(f"{count} held out ({split})" for split, count in counts.items() if split != "train")
        + ".",
        "",
        "![held-out prompts: original, reconstruction, drawn](samples.png)",
        "",
        "Held-out prompts: original | reconstruction | drawn. The reconstruction is the ceiling of what can be drawn.",
        "",
        "## Image tokenizer",
        "",
        "| figure | value |",
        "|---|---|",
        f"| held-out PSNR, mean over pictures | {figures['held_out_psnr_db']:.2f} dB |",
        f"| perplexity, held-out pictures | {figures['perplexity']:.0f} |",
        f"| perplexity, whole collection | {figures['perplexity_collection']:.0f} |",
        f"| codebook usage, whole collection | {100 * figures['codebook_usage']:.1f}% |",
        "",
        "## Language model",
        "",
        "One picture drawn for each held-out prompt; rank of its own reconstruction among those of the whole "
        "collection by pixel distance. Drawn with "
        + ", ".join(
            f"{name} {value:g}" if isinstance(value, float | int) else f"{name} {value}"
            for name, value in figures["default_sampling"].items()
        )
        + " as the saved default.",
        "",
        "| held-out set | image NLL, nats per code | guidance | R@1 | R@10 |",
        "|---|---|---|---|---|",
    ]
    for split, by_scale in figures["retrieval"].items():
        for scale, recall in by_scale.items():
            is_default = float(scale) == figures["default_sampling"]["guidance_scale"]
            lines.append(
                f"| {split} | {figures['held_out_image_nll'][split]:.3f} | {scale}{' (default)' if is_default else ''} "
                f"| {100 * recall['r1']:.1f}% | {100 * recall['r10']:.1f}% |"
            )
    lines += seen_prompts_markdown(figures)
    if "held_out_image_nll_as_typed" in figures:
        lines += as_typed_markdown(figures["held_out_image_nll_as_typed"], figures["held_out_image_nll"])
    # Reports before version 0.2.0 call them directions.
    if other_tasks := figures.get("other_tasks", figures.get("directions")):
        lines += other_tasks_markdown(other_tasks)
    lines += ["", "## Time", "", "| stage | seconds |", "|---|---|"]
    lines += [f"| {stage} | {seconds:.0f} |" for stage, seconds in figures["seconds"].items() if seconds is not None]
    lines += [
        "",
        f"{machine['processor']}, {machine['threads']} threads, device {machine['device']}; matrix peak "
        f"{machine['bf16_gflops']} GFLOPS in bf16, {machine['fp32_gflops']} in fp32; torch {machine['torch']}.",
    ]
    if attribution:
        lines += ["", attribution]
    return "\n".join(lines) + "\n"
