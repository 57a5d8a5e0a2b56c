"""The report as one HTML file that opens from the disk: pictures are in it, nothing is loaded from elsewhere."""

import math
from pathlib import Path
from typing import Any

import torch

from vqlm.data_prep.prepared_set import PreparedSet, spread
from vqlm.data_prep.splits import TRAIN
from vqlm.lm.evaluate.choose_sampling import SamplingChoice, load_choice
from vqlm.lm.evaluate.curves import draw_curves
from vqlm.lm.evaluate.evidence import gather_evidence, names_of
from vqlm.lm.evaluate.page_drawings import Draws, Grid, PageDrawings
from vqlm.lm.evaluate.page_parts import Cell, cards, document, escaped, figure_picture, picture, section, table
from vqlm.lm.evaluate.report import Shown, seen_prompts_markdown
from vqlm.lm.evaluate.verdict import Limit, Verdict, judge
from vqlm.lm.model_folder.card import data_name
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.settings import SamplingConfig
from vqlm.training.watching.progress import format_seconds
from vqlm.vq.metrics import psnr

PER_SPLIT, WORST = 12, 12  # prompts and reconstructions that are shown
LIMITS = {Limit.NOT: "no limit", Limit.LITTLE: "a little", Limit.MUCH: "limits", Limit.MOST: "limits most"}


def report_page(
    figures: dict[str, Any],
    shown: dict[str, Shown],
    drawings: PageDrawings,
    pipeline: TextToImagePipeline,
    prepared: PreparedSet,
    model: Path,
) -> tuple[str, Verdict]:
    """The page, and the verdict on it.

    Args:
        figures: of `evaluate`.
        shown: of `evaluate`.
        drawings: of `draw_for_page`.
        pipeline: the model.
        prepared: the set that it was evaluated on.
        model: the model's folder, with its training log and the table of its sampling.
    """
    data = prepared.manifest["made_from"]["data"]
    median_side = prepared.manifest.get("median_side")  # which earlier versions did not record
    evidence = gather_evidence(figures, shown, pipeline, model, median_side)
    verdict = judge(evidence, names_of(figures, model, prepared.folder, data))
    held_out = {split: part for split, part in shown.items() if split != TRAIN}
    sections = [
        _verdict(verdict),
        _figures(figures, held_out, pipeline),
        _held_out(held_out),
        _memory(figures, shown[TRAIN], held_out),
        _draws(drawings.draws),
        _grid(drawings.grid, pipeline.sampling),
        _curves(model),
        _worst(held_out),
        _sampling(load_choice(model), pipeline.sampling),
        _time(figures),
    ]
    counts = figures["pictures"]
    lead = (
        f"{counts[TRAIN]:,} pictures trained on, {sum(counts.values()) - counts[TRAIN]:,} held out. Drawn with "
        f"{pipeline.sampling.describe()}, where nothing else is said."
    )
    title = (
        f"What {model.resolve().name} draws" if model.name != "model" else f"What a model of {data_name(data)} draws"
    )
    return document(title, lead, sections, prepared.manifest["attribution"]), verdict


def _verdict(verdict: Verdict) -> str:
    rows = [
        [Cell(finding.part), Cell(LIMITS[finding.limit], f"limit-{finding.limit}"), Cell(finding.text),
         Cell(finding.next or "")]
        for finding in verdict.findings
    ]  # fmt: skip
    caution = f"<p>{escaped(verdict.caution)}</p>" if verdict.caution else ""
    body = f'<p class="headline">{escaped(verdict.headline)}</p>{caution}'
    return section("What limits this model", body + table(["part", "", "what the figures say", "next"], rows))


def _figures(figures: dict[str, Any], held_out: dict[str, Shown], pipeline: TextToImagePipeline) -> str:
    pictures, scale = sum(figures["pictures"].values()), f"{figures['default_sampling']['guidance_scale']:g}"
    by_split = {split: by_scale[scale] for split, by_scale in figures["retrieval"].items()}
    rows = []
    for split, recall in {**by_split, TRAIN: figures["trained_prompts"]}.items():
        nll = figures["held_out_image_nll"].get(split)
        rows.append(
            [_split_name(split), f"{figures['prompts'][split]:,}", _share(recall["r1"], 1, pictures),
             _share(recall["r10"], 10, pictures), "" if nll is None else f"{nll:.2f}"]
        )  # fmt: skip
    codes = pipeline.image_tokenizer.config.codebook_size
    head = ["prompts", "number", "R@1", "R@10", "NLL per code, nats"]
    originals = torch.cat([part.originals for part in held_out.values() if part.originals is not None])
    mean = psnr(originals.mean(0, keepdim=True).expand_as(originals), originals).mean().item()
    text = (
        "R@k: how often the prompt's own picture is among the k nearest to the drawn one, of "
        f"{pictures:,} pictures of the collection by pixel distance. Codes drawn uniformly have an NLL of "
        f"{math.log(codes):.2f}."
    )
    quality = (
        f"Image tokenizer: {figures['held_out_psnr_db']:.1f} dB PSNR over {len(originals):,} held-out pictures (one "
        f"picture for all, their mean: {mean:.1f} dB), {figures['codebook_usage']:.0%} of {codes:,} codes in use."
    )
    seen = "".join(f"<p>{escaped(line)}</p>" for line in seen_prompts_markdown(figures) if line)
    return section("Figures", f"<p>{escaped(text)}</p>{table(head, rows)}{seen}<p>{escaped(quality)}</p>")


def _share(value: float, k: int, pictures: int) -> str:
    return f"{value:.1%} (chance {100 * min(1.0, k / pictures):.2g}%)"


def _split_name(split: str) -> str:
    return "trained on" if split == TRAIN else split


def _held_out(held_out: dict[str, Shown]) -> str:
    body = "<p>Original, reconstruction, drawn. The reconstruction is the ceiling of what can be drawn.</p>"
    for split, part in held_out.items():
        assert part.originals is not None
        kinds = {"original": part.originals, "reconstruction": part.reconstructions, "drawn": part.drawn}
        chosen = spread(len(part.captions), PER_SPLIT)
        if len(held_out) > 1:
            body += f"<h3>{escaped(split)}</h3>"
        body += cards([(part.captions[n], {kind: tensor[n] for kind, tensor in kinds.items()}) for n in chosen])
    return section("Prompts that were held out", body)


def _memory(figures: dict[str, Any], trained: Shown, held_out: dict[str, Shown]) -> str:
    scale = f"{figures['default_sampling']['guidance_scale']:g}"
    shares = [f"{figures['trained_prompts']['r10']:.0%} of {len(trained.captions)} prompts that were trained on"]
    shares += [
        f"{figures['retrieval'][split][scale]['r10']:.0%} of {len(part.captions)} held out ({split})"
        for split, part in held_out.items()
    ]
    text = (
        f"Among the ten nearest are {', '.join(shares)}. What comes out here but not above is learned by heart. "
        "Reconstruction, drawn."
    )
    kinds = {"reconstruction": trained.reconstructions, "drawn": trained.drawn}
    chosen = spread(len(trained.captions), PER_SPLIT)
    shown = [(trained.captions[n], {kind: tensor[n] for kind, tensor in kinds.items()}) for n in chosen]
    return section("Prompts that were trained on: how much is memory", f"<p>{escaped(text)}</p>{cards(shown)}")


def _draws(draws: list[Draws]) -> str:
    shown = [
        (
            f"{part.caption} ({_split_name(part.split)})",
            {f"draw {number}": drawn for number, drawn in enumerate(part.pictures, start=1)},
        )
        for part in draws
    ]
    text = "With other random numbers. All alike: the model is sure of itself; all different: it does not know."
    return section("One prompt, several draws", f"<p>{text}</p>{cards(shown)}")


def _grid(grid: Grid, default: SamplingConfig) -> str:
    rows = []
    for scale, by_temperature in zip(grid.guidance_scales, grid.pictures, strict=True):
        row = [Cell(f"guidance {scale:g}")]
        for temperature, cell in zip(grid.temperatures, by_temperature, strict=True):
            is_default = (scale, temperature) == (default.guidance_scale, default.temperature)
            image = picture(cell, f"{grid.caption}, guidance {scale:g}, temperature {temperature:g}")
            row.append(Cell(image + ("<small>default</small>" if is_default else ""), is_html=True))
        rows.append(row)
    text = (
        f"“{grid.caption}”, of the prompts above the one whose draws differ most; the same random numbers everywhere."
    )
    head = ["", *(f"temperature {temperature:g}" for temperature in grid.temperatures)]
    return section("Guidance by temperature", f"<p>{escaped(text)}</p>{table(head, rows)}")


def _curves(model: Path) -> str:
    figure = draw_curves(model)
    if figure is None:
        return ""
    text = "A held-out curve that turns upwards while the other falls: the model learns its pictures by heart."
    return section("The training", f"<p>{text}</p>{figure_picture(figure, 'image NLL over training steps')}")


def _worst(held_out: dict[str, Shown]) -> str:
    originals = torch.cat([part.originals for part in held_out.values() if part.originals is not None])
    reconstructions = torch.cat([part.reconstructions for part in held_out.values()])
    captions = [caption for part in held_out.values() for caption in part.captions]
    values = psnr(reconstructions, originals)
    shown = [
        (f"{values[n]:.1f} dB: {captions[n]}", {"original": originals[n], "reconstruction": reconstructions[n]})
        for n in values.argsort()[:WORST].tolist()
    ]
    text = f"Original, reconstruction, of {len(captions):,} held-out pictures; the median has {values.median():.1f} dB."
    return section("Reconstructions, the worst first", f"<p>{text}</p>{cards(shown)}")


def _sampling(choice: SamplingChoice | None, default: SamplingConfig) -> str:
    if choice is None:
        text = f"{default.describe()}: as it was set, not chosen by what it draws."
        return section("The sampling", f"<p>{escaped(text)}</p>")
    text = (
        f"Chosen on {choice.prompts} of the held-out prompts, among {choice.pictures:,} pictures, by the mean of the "
    )
    text += "logarithm of the rank; settings that draw blank pictures are left out. So few prompts leave a share "
    text += f"uncertain by up to {1 / math.sqrt(choice.prompts):.0%} either way: neighbours in the table are alike. "
    if default != choice.sampling:
        text += f"Changed since then to {default.describe()}."
    rows = []
    for line in sorted(choice.table, key=lambda line: line["mean_log_rank"]):
        settings = SamplingConfig(**{name: line[name] for name in vars(default)})
        chosen = " (chosen)" if settings == choice.sampling else ""
        rows.append(
            [settings.describe() + chosen, f"{line['r1']:.1%}", f"{line['r10']:.1%}", f"{line['mean_log_rank']:.2f}",
             f"{line['blank']:.0%}"]
        )  # fmt: skip
    head = ["settings", "R@1", "R@10", "mean log rank", "blank"]
    return section("How the sampling was chosen", f"<p>{escaped(text)}</p>{table(head, rows)}")


def _time(figures: dict[str, Any]) -> str:
    machine = figures["machine"]
    rows = [[name, format_seconds(value)] for name, value in figures["seconds"].items() if value is not None]
    text = (
        f"{machine['processor']}, {machine['threads']} threads, device {machine['device']}; matrix peak "
        f"{machine['bf16_gflops']:,} GFLOPS in bf16; torch {machine['torch']}."
    )
    return section("Time", f"{table(['stage', 'minutes'], rows)}<p>{escaped(text)}</p>")
