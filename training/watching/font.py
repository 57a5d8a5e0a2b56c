"""The font of labels on pictures."""

import contextlib

from PIL import ImageFont


def label_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans of `size` pixels, which has the letters of most European languages, where the system or matplotlib
    has it; else Pillow's own font, which has those of English."""
    with contextlib.suppress(OSError):
        return ImageFont.truetype("DejaVuSans.ttf", size)
    with contextlib.suppress(ImportError, OSError):
        import matplotlib

        return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
    return ImageFont.load_default(size=size)
