"""How the text of a caption is written: the rules that preparing, training and prompting share."""


def normalize_caption(text: str) -> str:
    """`text` with one space between its words and none around them, as captions are trained on."""
    return " ".join(text.split())


def compared_form(text: str) -> str:
    """`text` as it is compared with other captions: case, spaces and a full stop at the end do not count."""
    return normalize_caption(text).lower().rstrip(".")
