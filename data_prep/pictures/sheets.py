"""Contact sheets of captioned pictures."""

import textwrap

from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from vqlm.training.watching.font import label_font
from vqlm.vq import to_pil

CELL, MARGIN, LINE = 128, 8, 15


def sample_sheet(cells: list[tuple[str, list[Tensor]]], columns: int = 4) -> Image.Image:
    """One picture of many cells: a caption under its pictures, which are (C, H, W) in [-1, 1], side by side."""
    font = label_font(LINE - 2)
    per_cell = len(cells[0][1])
    width, height = per_cell * CELL + 2 * MARGIN, CELL + 3 * LINE + 2 * MARGIN
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, pictures) in enumerate(cells):
        left, top = index % columns * width + MARGIN, index // columns * height + MARGIN
        for place, picture in enumerate(pictures):
            shown = to_pil(picture.unsqueeze(0))[0].convert("RGB")
            shown = ImageOps.pad(shown, (CELL, CELL), Image.Resampling.LANCZOS, color="white")
            sheet.paste(shown, (left + place * CELL, top))
        text = textwrap.wrap(caption, width=per_cell * CELL // 7)[:3]
        draw.multiline_text((left, top + CELL), "\n".join(text), fill="black", font=font, spacing=2)
    return sheet
