"""What a person types -> the ids that a picture is drawn after. Says what is wrong with it in one sentence."""

from collections.abc import Sequence

from vqlm.data_prep.sequences import prompt_ids
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.training.errors import UserError


def listed(prompt: str | Sequence[str | None] | None) -> list[str | None]:
    """A prompt, or several, as a list of them."""
    return [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)


def one_each(prompt: str | Sequence[str | None] | None, count: int, what: str) -> list[str | None]:
    """One for each of `count` pictures, given one for each or one for all. Raises UserError for another number."""
    prompts = listed(prompt)
    if len(prompts) not in (1, count):
        raise UserError(f"{what} must be one, or one for each of the {count}; found {len(prompts)}.")
    return prompts * count if len(prompts) == 1 else prompts


def require_prompts(prompts: Sequence[str | None]) -> None:
    """Raises UserError if one of them is None."""
    if any(text is None for text in prompts):
        raise UserError("rerank chooses by the prompt; give one for each picture.")


def one_line(text: str) -> str:
    """As captions are trained on: one space between words."""
    return " ".join(text.split())


def checked_prompt_ids(
    vocabulary: Vocabulary, prompts: Sequence[str | None], max_tokens: int, truncation: bool = False
) -> list[list[int]]:
    """`bos prompt boi` for each, `bos boi` for None; `truncation` cuts prompts to `max_tokens`.

    Raises UserError for an empty prompt, or one that is longer than the captions that the model was trained on.
    """
    if empty := [index for index, text in enumerate(prompts) if text is not None and not text.strip()]:
        raise UserError(f"Prompt {empty[0]} is empty; write what to draw, or pass None to draw without a prompt.")
    texts = [None if text is None else one_line(text) for text in prompts]
    if not truncation:
        require_short(vocabulary.encode_text([text for text in texts if text]), max_tokens)
    return prompt_ids(vocabulary, texts, max_tokens)


def require_short(texts: list[list[int]], max_tokens: int) -> None:
    """Raises UserError if the ids of one of the texts are more than `max_tokens`."""
    longest = max(map(len, texts), default=0)
    if longest > max_tokens:
        raise UserError(f"A prompt has {longest} tokens, this model knows at most {max_tokens}; shorten it.")
