"""The page of `vqlm watch`: the curves and the samples of one run, or of all runs of a `vqlm train`, as one HTML text.

It needs no network and no file beside it.
"""

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

from vqlm.training.errors import UserError
from vqlm.training.watching.log_curves import curves_of, draw_chart
from vqlm.training.watching.progress import format_seconds

STAGES = {"image_tokenizer": "Stage one: pictures to codes", "model": "Stage two: captions to codes"}
# Charts in this order; others follow.
FIRST_CHARTS = ("loss", "psnr", "image_nll", "text_nll", "perplexity", "usage", "rows_per_second")
STYLE = """
body { font: 15px system-ui, sans-serif; margin: 1.5rem auto; max-width: 1340px; padding: 0 1rem; color: #222;
  background: #fff }
h1 { font-size: 1.3rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: .8rem }
svg { width: 100%; height: auto; border: 1px solid #ddd; border-radius: 6px }
svg text { font: 10px system-ui, sans-serif; fill: #555 } svg text.title { font-size: 12px; fill: #222 }
.grid { stroke: #e4e4e4 }
progress { width: 100%; height: .8rem } .strip { max-width: 100%; image-rendering: auto; border: 1px solid #ddd }
.scroll { overflow-x: auto } .quiet { color: #666 } ol { columns: 3; padding-left: 1.5rem }
""".strip()


def find_runs(output: Path) -> dict[str, Path]:
    """The `run/` folders of a stage's folder, or of the folder of a `vqlm train`, by title, the earlier begun first.

    Raises UserError for a folder that is none of these.
    """
    if (output / "run").is_dir():
        return {"Training": output / "run"}
    runs = [path / "run" for path in sorted(output.iterdir()) if (path / "run").is_dir()] if output.is_dir() else []
    is_of_train = (output / "plan").is_dir()
    if not runs and not is_of_train:
        raise UserError(f"{output} holds no training; give the `output` of vqlm train, train-vq or train-lm.")
    runs.sort(key=lambda run: (run / "settings.json").stat().st_mtime if (run / "settings.json").exists() else 0)
    return {STAGES.get(run.parent.name, run.parent.name): run for run in runs}


def watch_page(output: Path, seconds: float | None = None) -> str:
    """The page as it is now; with `seconds` the browser loads it again so often, until every run is finished.

    Raises UserError for a folder without a training.
    """
    runs = find_runs(output)
    is_done = bool(runs) and all((run / "summary.json").exists() for run in runs.values())
    refresh = f'<meta http-equiv="refresh" content="{seconds:g}">' if seconds and not is_done else ""
    parts = [_section(title, run) for title, run in runs.items()] or ["<p>No stage has begun yet.</p>"]
    name = escape(output.resolve().name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}<title>{name}</title>'
        f"<style>{STYLE}</style></head><body><h1>{name}</h1>{''.join(parts)}</body></html>"
    )


def read_log(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a log that may be written to at the moment."""
    path, lines = run / "log.jsonl", []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return lines


def _section(title: str, run: Path) -> str:
    lines = read_log(run)
    parts = [f"<h2>{escape(title)}</h2>", _state(run, lines)]
    charts = curves_of(lines)
    order = sorted(charts, key=lambda name: FIRST_CHARTS.index(name) if name in FIRST_CHARTS else len(FIRST_CHARTS))
    parts.append(f'<div class="charts">{"".join(draw_chart(name, charts[name]) for name in order)}</div>')
    return "".join([*parts, _samples(run / "samples")])


def _state(run: Path, lines: list[dict[str, Any]]) -> str:
    """How far it is, in a bar and a sentence."""
    if not lines:
        return "<p>It has begun; the first line of its log is still to come.</p>"
    last, is_done = lines[-1], (run / "summary.json").exists()
    share = 1.0 if is_done else last.get("share", 0.0)
    texts = [f"step {last['step']:,}", f"{format_seconds(last['seconds'])} of training"]
    if is_done:
        texts.append("finished")
    elif share:
        texts.append(f"{share:.0%}, about {format_seconds(last['seconds'] * (1 - share) / share)} left")
    skipped = [f"step {line['step']} ({line['skipped']})" for line in lines if "skipped" in line]
    if skipped:
        count = f"{len(skipped)} step{'s' if len(skipped) > 1 else ''}"
        texts.append(f"{count} skipped for a gradient that is not finite, the last {skipped[-1]}")
    return f'<progress value="{share:.4f}"></progress><p class="quiet">{escape("; ".join(texts))}</p>'


def _samples(folder: Path) -> str:
    strip = folder / "strip.png"
    if not strip.exists():
        return '<p class="quiet">No samples yet.</p>'
    picture = base64.b64encode(strip.read_bytes()).decode()
    names = json.loads((folder / "names.json").read_text(encoding="utf-8"))
    listed = "".join(f"<li>{escape(name)}</li>" for name in names)
    return (
        "<h3>Samples, each row with its step</h3>"
        f'<div class="scroll"><img class="strip" alt="samples" src="data:image/png;base64,{picture}"></div>'
        f'<ol class="quiet">{listed}</ol>'
    )
