"""What a finished stage reached, in one line, from the files in its folder."""

import math
from pathlib import Path
from typing import Any

from vqlm.lm.evaluate.training_record import training_log
from vqlm.lm.evaluate.verdict import NLL_MOVES
from vqlm.training.folders.whole_files import read_json
from vqlm.training.watching.progress import format_seconds
from vqlm.vq import VQVAEConfig


def reached_by_vq(folder: Path) -> str:
    """What stage one reached, from a folder that `vqlm train-vq` finished."""
    figures = read_json(folder / "run" / "summary.json")
    sheet = folder / "reconstructions.png"  # of pictures only
    return (
        f"image tokenizer: {figures['held_out_psnr_db']:.1f} dB on held-out pictures, "
        f"which use {figures['held_out_usage']:.0%} of the codes, after {figures['steps']:,} steps in "
        f"{format_seconds(figures['seconds'])}" + (f"; look at {sheet}" if sheet.exists() else "")
    )


def reached_by_prepare(folder: Path) -> str:
    """What a folder that `vqlm prepare` finished holds."""
    manifest = read_json(folder / "manifest.json")
    counts = ", ".join(f"{count:,} {split}" for split, count in manifest["splits"].items())
    lost = f"; {manifest['skipped']} could not be used" if manifest["skipped"] else ""
    lost += "".join(f"; {count:,} {reason}" for reason, count in manifest.get("left_out", {}).items())
    listed = f", see {folder / 'skipped.jsonl'}" if lost else ""
    return f"prepared: {counts}; {manifest['tokens_per_image']} codes per picture{lost}{listed}"


def reached_by_lm(folder: Path) -> str:
    """What stage two reached, from a folder that `vqlm train-lm` finished."""
    figures = read_json(folder / "run" / "summary.json")
    nll = ", ".join(
        f"{name.removesuffix('_image_nll')} {value:.2f}"
        for name, value in figures.items()
        if name.endswith("image_nll")
    )
    uniform = math.log(VQVAEConfig.from_pretrained(folder / "image_tokenizer").codebook_size)
    return (
        f"language model: NLL per held-out code {nll} (drawn uniformly {uniform:.2f}), after {figures['steps']:,} "
        f"steps in {format_seconds(figures['seconds'])}; look at {folder / 'README.md'}"
        + risen_nll(training_log(folder) or [], figures)
    )


def risen_nll(log: list[dict[str, Any]], final: dict[str, float]) -> str:
    """A line for each held-out split whose NLL was clearly lower during the training that wrote `log`."""
    lines = []
    for name, value in final.items():
        evaluated = [line for line in log if name.endswith("_image_nll") and name in line]
        lowest = min(evaluated, key=lambda line: line[name], default=None)
        if lowest is not None and lowest[name] < value - NLL_MOVES:
            lines.append(
                f"\n  the NLL of {name.removesuffix('_image_nll')} was lower, {lowest[name]:.2f}, at step "
                f"{lowest['step']:,}: after that the model learned its own pictures by heart; whether it draws new "
                "prompts worse, the pictures of both show"
            )
    return "".join(lines)


def reached_by_evaluation(folder: Path) -> list[str]:
    """The held-out figures beside what chance gives, and the verdict, from a folder that `vqlm evaluate` finished."""
    report = read_json(folder / "report.json")
    pictures, scale = sum(report["pictures"].values()), f"{report['default_sampling']['guidance_scale']:g}"
    lines = []
    for split, by_scale in report["retrieval"].items():
        recall = by_scale[scale]
        lines.append(
            f"{split} prompts: the right picture is among the ten nearest of {pictures:,} for {recall['r10']:.1%} of "
            f"{report['prompts'][split]:,} (R@10; chance {chance(10, pictures)}), the nearest for {recall['r1']:.1%} "
            f"(R@1; chance {chance(1, pictures)})"
        )
        if seen := report["prompts_also_trained_on"].get(split):
            count = report["pictures"][split]
            lines.append(f"  {seen:,} of all {count:,} prompts of it were trained on with other pictures")
    return [*lines, report["verdict"]["headline"]]


def chance(k: int, pictures: int) -> str:
    """R@k of pictures drawn without looking at the prompt."""
    return f"{100 * min(1.0, k / pictures):.2g}%"
