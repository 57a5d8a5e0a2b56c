"""Pieces of an HTML page: escaped text, pictures as data URIs, cards, tables, sections."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from vqlm.vq import to_pil

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --line: #8885; --shade: #8881; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem 1.25rem 4rem; }
h1 { line-height: 1.2; margin-bottom: .25rem; }
h2 { margin-top: 2.75rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
nav { font-size: .9rem; }
nav a { margin-right: 1rem; white-space: nowrap; }
p { max-width: 48rem; }
.headline { font-size: 1.25rem; font-weight: 600; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; padding: .5rem; background: var(--shade); border-radius: .4rem; }
figure img { width: 6rem; height: auto; background: #fff; vertical-align: top; }
figure img + img { margin-left: .25rem; }
figcaption { font-size: .85rem; width: min-content; min-width: 100%; overflow-wrap: anywhere; }
figure.wide { max-width: 42rem; } figure.wide img { width: 100%; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); }
td img { width: 6rem; height: auto; background: #fff; display: block; }
th { font-weight: 600; } thead th { font-size: .85rem; }
code { font: .85em/1.4 ui-monospace, monospace; background: var(--shade); padding: .1em .3em; border-radius: .2em; }
[class^="limit"] { white-space: nowrap; }
.limit-2, .limit-3 { color: light-dark(#a31515, #ff8f80); font-weight: 600; }
footer { margin-top: 3rem; font-size: .85rem; }
"""


@dataclass(frozen=True)
class Cell:
    """Of a table. kind: its class of style. is_html: whether `content` is HTML rather than text."""

    content: str
    kind: str = ""
    is_html: bool = False


def escaped(text: str) -> str:
    """Text as HTML; what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def picture(pixel_values: Float[Tensor, "c h w"], alt: str) -> str:
    """A picture in [-1, 1] as <img>."""
    file = BytesIO()
    image = to_pil(pixel_values[None])[0]
    image.save(file, "PNG")
    return _image(file, alt, f' width="{image.width}" height="{image.height}"')


def figure_picture(figure: "Figure", alt: str) -> str:
    """A figure of matplotlib."""
    figure.savefig(file := BytesIO(), dpi=120)
    return f'<figure class="wide">{_image(file, alt)}</figure>'


def _image(file: BytesIO, alt: str, size: str = "") -> str:
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}"{size}>'


def cards(shown: Sequence[tuple[str, dict[str, Tensor]]]) -> str:
    """Captions, each under its pictures (C, H, W), which are named by what they are."""
    figures = []
    for caption, pictures in shown:
        images = "".join(picture(pixels, f"{kind}: {caption}") for kind, pixels in pictures.items())
        # A caption is no code of ours: a backtick in it is a backtick.
        figures.append(f"<figure>{images}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<div class="cards">{"".join(figures)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str | Cell]]) -> str:
    """A table whose first column names the rows."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in head)
    lines = []
    for row in rows:
        first, *others = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
        cells = f'<th scope="row">{_content(first)}</th>'
        for cell in others:
            kind = f' class="{cell.kind}"' if cell.kind else ""
            cells += f"<td{kind}>{_content(cell)}</td>"
        lines.append(f"<tr>{cells}</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table><thead><tr>{columns}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _content(cell: Cell) -> str:
    return cell.content if cell.is_html else escaped(cell.content)


def section(title: str, body: str) -> str:
    """A section with a heading, of HTML."""
    anchor = re.sub(r"\W+", "-", title.lower()).strip("-")
    return f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{escape(title)}</h2>\n{body}\n</section>'


def document(title: str, lead: str, sections: Sequence[str], attribution: str | None) -> str:
    """The whole page; empty sections are left out."""
    sections = [part for part in sections if part]
    titles = [re.findall(r'<h2 id="([^"]+)">([^<]+)<', part)[0] for part in sections]
    links = " ".join(f'<a href="#{anchor}">{name}</a>' for anchor, name in titles)
    footer = f"<footer><p>{escape(attribution)}</p></footer>" if attribution else ""
    body = "\n".join(sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p>{escape(lead)}</p>
<nav aria-label="sections">{links}</nav>
</header>
<main>
{body}
</main>
{footer}
</body>
</html>
"""
