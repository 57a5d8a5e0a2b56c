"""Writes the page of all benchmarks and its plots from the results in outputs/bench/.

    python benchmarks/report.py --results outputs/bench --page docs/benchmarks.md --images docs/images

`make bench` runs it last. Every figure on the page comes from those files.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from measure import RESULTS, table_head, table_row

from vqlm.training.folders.files import read_json

# As a reader wants them; what is not named comes after.
ORDER = ("roofline", "drawing", "lm_training", "lm_step", "vq_training", "data_loading", "nearest_codes",
         "encoding_rate", "encoding_memory", "plan_memory", "opening", "startup", "busy_machine", "growth",
         "speculative", "quantized", "serve")  # fmt: skip
INTRODUCTION = """# Benchmarks

Written by `{command}`; do not edit. Peers run in the same process as ours and in turns with it; figures are medians,
in brackets the least and the most. Absolute speeds hold for one machine on one day: compare ratios only.
[benchmarks/README.md](../benchmarks/README.md) says what may be concluded and how to add a peer.
"""
QUICK = "\nOf a small form of the benchmarks: shows that they run, says little of speed.\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the benchmarks' JSON files")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"), help="Markdown file to write")
    parser.add_argument("--images", type=Path, default=Path("docs/images"), help="folder for its plots")
    options = parser.parse_args(arguments)
    results = [read_json(path) for path in sorted(options.results.glob("*.json"))]
    results.sort(key=lambda result: ORDER.index(result["name"]) if result["name"] in ORDER else len(ORDER))
    options.images.mkdir(parents=True, exist_ok=True)
    is_quick = any(result["is_quick"] for result in results)
    parts = [INTRODUCTION.format(command="make bench-quick" if is_quick else "make bench") + QUICK * is_quick]
    for result in results:
        images = [options.images / f"bench-{plot['name']}.png" for plot in result["plots"]]
        for plot, path in zip(result["plots"], images, strict=True):
            draw(plot, path)
        links = [Path(os.path.relpath(path, options.page.parent)).as_posix() for path in images]
        parts.append(section(result, links))
    options.page.parent.mkdir(parents=True, exist_ok=True)
    options.page.write_text("\n".join(parts), encoding="utf-8")
    print(f"{options.page}: {len(results)} benchmarks")


def section(result: dict[str, Any], images: list[str]) -> str:
    """One benchmark as Markdown."""
    commit = f", commit {result['commit']}" if result.get("commit") else ""
    lines = [f"## {result['question']}", "", f"`{result['command']}`, {result['date']}{commit}", "", "```"]
    lines += [json.dumps(result["machine"], ensure_ascii=False), "```"]
    for table in result["tables"]:
        lines += ["", table["title"] + ":", "", *table_head(table["columns"]), *map(table_row, table["rows"])]
    for remark in result["remarks"]:
        lines += ["", remark]
    for plot, image in zip(result["plots"], images, strict=True):
        lines += ["", f"![{plot['title']}]({image})"]
    return "\n".join(lines) + "\n"


def draw(plot: dict[str, Any], path: Path) -> None:
    """Draw a plot with logarithmic axes; bars show the spread."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for label, points in plot["series"].items():
        if points:
            at, middle, least, most = zip(*points, strict=True)
            below = [a - b for a, b in zip(middle, least, strict=True)]
            above = [a - b for a, b in zip(most, middle, strict=True)]
            axes.errorbar(at, middle, [below, above], marker="o", markersize=4, capsize=3, label=label)
    axes.set(title=plot["title"], xlabel=plot["x"], ylabel=plot["y"], xscale="log", yscale="log")
    low, high = axes.get_ylim()
    if high < 10 * low:  # or noise would look like growth
        middle = (low * high) ** 0.5
        axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
    axes.grid(alpha=0.3)
    if len(plot["series"]) > 1:
        axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
