"""Curves of a log as SVG, with nothing but strings."""

import math
from html import escape
from typing import Any

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 26, 22
LINE = 12  # of the legend
COLOURS = ("#3949ab", "#e65100", "#2e7d32", "#8e24aa", "#00838f", "#c62828")
MOST_POINTS = 400

Points = list[tuple[float, float]]


def curves_of(lines: list[dict[str, Any]]) -> dict[str, dict[str, Points]]:
    """The points (step, value) of every figure in the lines of a log, held-out figures beside those of training.

    Returns:
        By chart, such as "psnr", the lines in it, such as "psnr" and "held_out_psnr_db".
    """
    charts: dict[str, dict[str, Points]] = {}
    for line in lines:
        for name, value in line.items():
            if name in ("step", "seconds", "share") or isinstance(value, bool | str | list) or value is None:
                continue
            if math.isfinite(value):
                charts.setdefault(chart_of(name), {}).setdefault(name, []).append((float(line["step"]), float(value)))
    return charts


def chart_of(name: str) -> str:
    """The chart that a figure belongs to: "held_out_psnr_db" -> "psnr", "by_seed_image_nll" -> "image_nll"."""
    if name.endswith("image_nll"):
        return "image_nll"
    return name.removeprefix("held_out_").removesuffix("_db")


def draw_chart(title: str, curves: dict[str, Points]) -> str:
    """One chart; a figure of few points, such as a held-out one, has its points marked."""
    points = [point for curve in curves.values() for point in curve]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    if high == low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    right = right if right > left else left + 1.0
    top = TOP + LINE * (len(curves) - 1)  # under the legend

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return across, top + (high - y) / (high - low) * (HEIGHT - top - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts.append(f'<text x="{LEFT}" y="14" class="title">{escape(title)}</text>')
    for value in (low, (low + high) / 2, high):
        _, y = place(left, value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for value, anchor in ((left, "start"), (right, "end")):
        parts.append(
            f'<text x="{place(value, low)[0]:.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{value:,.0f}</text>'
        )
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [place(*point) for point in _thinned(curve)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(places) <= 40:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="{colour}"/>' for x, y in places]
        label = f'<text x="{WIDTH - RIGHT}" y="{14 + LINE * number}" text-anchor="end" style="fill: {colour}">'
        parts.append(f"{label}{escape(name) if len(curves) > 1 else ''} {curve[-1][1]:.4g}</text>")
    return "".join([*parts, "</svg>"])


def _thinned(curve: Points) -> Points:
    """At most about `MOST_POINTS` points, each the mean of its neighbours where there are more."""
    size = -(-len(curve) // MOST_POINTS)
    parts = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]
