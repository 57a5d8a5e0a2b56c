"""Prompts -> the ids after which a picture is drawn. Says in one sentence what is wrong with a prompt."""

from collections.abc import Sequence

from vqlm.data_prep.captions import normalize_caption
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.training.errors import UserError

Prompts = str | Sequence[str | None] | None


def as_list(prompts: Prompts) -> list[str | None]:
    """One prompt, or several, as a list."""
    return [prompts] if prompts is None or isinstance(prompts, str) else list(prompts)


def one_per_picture(prompts: Prompts, count: int, name: str) -> list[str | None]:
    """A prompt for each of `count` pictures, given one for each or one for all; `name` is the argument's.

    Raises UserError for another number of prompts.
    """
    listed = as_list(prompts)
    if len(listed) not in (1, count):
        raise UserError(f"`{name}` must be one, or one for each of the {count}; found {len(listed)}.")
    return listed * count if len(listed) == 1 else listed


def tokenize_prompts(
    vocabulary: Vocabulary, prompts: Sequence[str | None], max_tokens: int, truncation: bool = False
) -> list[list[int] | None]:
    """The caption ids of each prompt, None for None; `truncation` cuts them to `max_tokens`.

    Raises UserError for an empty prompt, or one that is longer than the captions that the model was trained on.
    """
    if empty := [index for index, text in enumerate(prompts) if text is not None and not text.strip()]:
        raise UserError(f"Prompt {empty[0]} is empty; write what to draw, or pass None to draw without a prompt.")
    captions = vocabulary.encode_text([normalize_caption(text) for text in prompts if text is not None])
    if not truncation:
        require_short(captions, max_tokens)
    remaining = iter(captions)
    return [None if text is None else next(remaining)[:max_tokens] for text in prompts]


def prompt_ids(vocabulary: Vocabulary, captions: Sequence[list[int] | None]) -> list[list[int]]:
    """`bos caption boi` for the ids of each caption, `bos boi` for None: what a picture is drawn after."""
    return [[vocabulary.bos, *(caption or []), vocabulary.boi] for caption in captions]


def repeated(rows: list, times: int) -> list:
    """Each of the rows `times` times, one after another."""
    return [row for row in rows for _ in range(times)]


def require_short(captions: list[list[int]], max_tokens: int) -> None:
    """Raises UserError if one of the captions has more than `max_tokens` ids."""
    longest = max(map(len, captions), default=0)
    if longest > max_tokens:
        raise UserError(f"A prompt has {longest} tokens, this model knows at most {max_tokens}; shorten it.")
