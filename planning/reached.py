"""What a finished stage reached, in one line, from the files in its folder."""

from pathlib import Path

from vqlm.training.files import read_json
from vqlm.training.progress import format_seconds


def reached_by_vq(folder: Path) -> str:
    """Of a folder that `vqlm train-vq` finished."""
    figures = read_json(folder / "run" / "summary.json")
    return (
        f"image tokenizer: {figures['held_out_psnr_db']:.1f} dB on held-out pictures, "
        f"{figures['held_out_usage']:.0%} of the codes in use, after {figures['steps']:,} steps in "
        f"{format_seconds(figures['seconds'])}; look at {folder / 'reconstructions.png'}"
    )


def reached_by_prepare(folder: Path) -> str:
    """Of a folder that `vqlm prepare` finished."""
    manifest = read_json(folder / "manifest.json")
    counts = ", ".join(f"{count:,} {split}" for split, count in manifest["splits"].items())
    lost = f"; {manifest['skipped']} could not be used" if manifest["skipped"] else ""
    lost += "".join(f"; {count:,} {reason}" for reason, count in manifest.get("left_out", {}).items())
    listed = f", see {folder / 'skipped.jsonl'}" if lost else ""
    return f"prepared: {counts}; {manifest['tokens_per_image']} codes per picture{lost}{listed}"


def reached_by_lm(folder: Path) -> str:
    """Of a folder that `vqlm train-lm` finished."""
    figures = read_json(folder / "run" / "summary.json")
    nll = ", ".join(
        f"{name.removesuffix('_image_nll')} {value:.2f}"
        for name, value in figures.items()
        if name.endswith("image_nll")
    )
    return (
        f"language model: NLL per code {nll}, after {figures['steps']:,} steps in {format_seconds(figures['seconds'])}"
    )
