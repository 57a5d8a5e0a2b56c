"""Whether a prompt means the same however it is typed: the image NLL under other spellings of the held-out captions."""

from collections.abc import Callable
from typing import Any

from datasets import Dataset

from vqlm.data_prep.captions.wording import normalize_caption
from vqlm.lm.evaluate.metrics import evaluate_nll
from vqlm.lm.pipeline import TextToImagePipeline

FORMS: dict[str, Callable[[str], str]] = {
    "Title Case": str.title,
    "UPPER CASE": str.upper,
    "full stop": lambda caption: f"{caption}.",
    "article a": lambda caption: f"a {caption}",
    "article the": lambda caption: f"the {caption}",
    "double spaces": lambda caption: f" {caption.replace(' ', '  ')} ",
    "typographic quotes": lambda caption: f"“{caption.replace(chr(39), '’')}”",
}


def nll_as_typed(pipeline: TextToImagePipeline, rows: Dataset, tokens_per_image: int, nll: float) -> dict[str, float]:
    """The image NLL of `rows` for each of `FORMS`, in nats per code; `nll` is that of the captions as written.

    Where the tokenizer gives every caption of a form the ids that it has as written, nothing is computed again.
    """
    columns: dict[str, Any] = rows.select_columns(["captions", "codes"]).to_dict()  # type: ignore[assignment]
    captions = [texts[0] for texts in columns["captions"]]
    written, figures = pipeline.vocabulary.encode_text(captions), {}
    for name, form in FORMS.items():
        typed = [normalize_caption(form(caption)) for caption in captions]
        if pipeline.vocabulary.encode_text(typed) == written:
            figures[name] = nll
            continue
        respelled = Dataset.from_dict({"captions": [[text] for text in typed], "codes": columns["codes"]})
        figures[name] = evaluate_nll(
            pipeline.model, pipeline.vocabulary, respelled, pipeline.max_caption_tokens, tokens_per_image
        )
    return figures


def as_typed_markdown(figures: dict[str, dict[str, float]], nll: dict[str, float]) -> list[str]:
    """One line of the report for each held-out set."""
    lines = ["", "As people type (image NLL, nats per code, of the same prompts in other spellings):", ""]
    for split, by_form in figures.items():
        forms = ", ".join(
            f"{name} {value:.3f} ({100 * (value / nll[split] - 1):+.0f}%)" for name, value in by_form.items()
        )
        lines.append(f"- {split}: as written {nll[split]:.3f}, {forms}.")
    return lines
