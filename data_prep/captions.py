"""How the text of a caption is written: the one rule that preparing, training and prompting share."""


def normalize_caption(text: str) -> str:
    """`text` with one space between its words and none around them, as captions are trained on."""
    return " ".join(text.split())
