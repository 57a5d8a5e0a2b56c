"""How the text of a caption is written: the rules that preparing, training and prompting share."""

import unicodedata

INVISIBLE = {"Cc", "Cf", "Zl", "Zp", "Zs"}  # categories of Unicode


def normalize_caption(text: str) -> str:
    """`text` with one space between its words and none around them, as captions are trained on."""
    return " ".join(text.split())


def is_visible(text: str) -> bool:
    """Whether anything of the text shows: it is not all spaces, controls and characters of no width."""
    return any(unicodedata.category(letter) not in INVISIBLE for letter in text)


def compared_form(text: str) -> str:
    """`text` as it is compared with other captions: case, spaces and a full stop at the end do not count."""
    return normalize_caption(text).lower().rstrip(".")


def half_character(text: str) -> str | None:
    """The first lone surrogate of a text, which UTF-8 cannot hold, as Python writes it; None if there is none."""
    return next((ascii(letter) for letter in text if "\ud800" <= letter <= "\udfff"), None)


def vary_tags(caption: str, keep: int, dropout: float, is_shuffled: bool) -> str:
    """A caption that is a list of tags between commas, as one epoch shows it; torch's generator draws.

    The first `keep` tags stay. Of the others the share `dropout` is left out, and the rest are shuffled on request.
    At least one tag is left.
    """
    import torch

    tags = [tag for part in caption.split(",") if (tag := part.strip())]
    first, others = tags[:keep], tags[keep:]
    kept = [tag for tag, draw in zip(others, torch.rand(len(others)).tolist(), strict=True) if draw >= dropout]
    if not first and not kept:
        kept = others[:1]
    if is_shuffled:
        kept = [kept[place] for place in torch.randperm(len(kept)).tolist()]
    return ", ".join(first + kept)
