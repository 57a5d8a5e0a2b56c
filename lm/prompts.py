"""Prompts -> the ids of their captions; `prompt_ids` of `data_prep/sequences.py` puts the special tokens around them.

Says in one sentence what is wrong with a prompt.
"""

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vqlm.data_prep.captions.known_words import unknown_words
from vqlm.data_prep.captions.wording import half_character, normalize_caption
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.training.errors import UserError

Prompts = str | Sequence[str | None] | None
UNKNOWN_WORDS = "The model does not know"
MOST_NAMED = 8  # words in a warning


def as_list(prompts: Prompts, name: str = "prompt") -> list[str | None]:
    """One prompt, or several, as a list; `name` is the argument's. Raises UserError for what is not text."""
    listed: Any = [prompts] if prompts is None or isinstance(prompts, str) else prompts
    listed = list(listed) if isinstance(listed, Iterable) and not isinstance(listed, bytes | Mapping) else [listed]
    if wrong := [text for text in listed if not isinstance(text, str | None)]:
        raise UserError(
            f"`{name}` must be text, None or a list of them, found {wrong[0]!r:.40} of type {type(wrong[0]).__name__}."
        )
    if half := next((half for text in listed if text and (half := half_character(text))), None):
        raise UserError(f"`{name}` holds {half}, half of a character; it must be text that UTF-8 can hold.")
    return listed


def one_per_picture(prompts: Prompts, count: int, name: str) -> list[str | None]:
    """A prompt for each of `count` pictures, given one for each or one for all; `name` is the argument's.

    Raises UserError for another number of prompts.
    """
    listed = as_list(prompts, name)
    if len(listed) not in (1, count):
        raise UserError(f"`{name}` must be one, or one for each of the {count}; found {len(listed)}.")
    return listed * count if len(listed) == 1 else listed


def tokenize_prompts(
    vocabulary: Vocabulary,
    prompts: Sequence[str | None],
    max_tokens: int,
    known_words: Collection[str] | None = None,
    truncation: bool | None = None,
) -> list[list[int] | None]:
    """The caption ids of each prompt, None for None.

    Prompts are cut to `max_tokens`; a warning quotes what is left out, unless `truncation` asks for it. Another one
    says which words of a prompt are not among `known_words`. Raises UserError for an empty prompt.
    """
    texts = [normalize_caption(text) for text in prompts if text is not None]
    captions = vocabulary.encode_text(texts)
    remaining = iter(captions)
    for index, text in enumerate(prompts):
        if text is not None and not (next(remaining) and text.strip()):  # spaces, invisible characters
            raise UserError(f"Prompt {index} is empty; write what to draw, or pass None to draw without a prompt.")
    captions = cut(vocabulary, captions, max_tokens, truncation)
    if known_words is not None:
        _warn_of_unknown_words(vocabulary, texts, known_words)
    remaining = iter(captions)
    return [None if text is None else next(remaining) for text in prompts]


def _warn_of_unknown_words(vocabulary: Vocabulary, texts: list[str], known_words: Collection[str]) -> None:
    unknown = {text: words for text in dict.fromkeys(texts) if (words := unknown_words(text, known_words, vocabulary))}
    if not unknown:
        return
    words = list(dict.fromkeys(word for words in unknown.values() for word in words))
    named = ", ".join(words[:MOST_NAMED]) + (f" and {len(words) - MOST_NAMED} more" if len(words) > MOST_NAMED else "")
    others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
    warnings.warn(
        f"{UNKNOWN_WORDS} {named} of the prompt {next(iter(unknown))!r:.80}{others}: no training caption has it, or "
        "very few.",
        stacklevel=3,
    )


@contextmanager
def without_word_warnings() -> Iterator[None]:
    """No warnings of unknown words: for held-out prompts, whose share of unknown words is a figure."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=UNKNOWN_WORDS)
        yield


def cut(
    vocabulary: Vocabulary, captions: list[list[int]], max_tokens: int, truncation: bool | None = None
) -> list[list[int]]:
    """`captions` with at most `max_tokens` ids; a warning quotes what is left out, unless `truncation` asks for it."""
    if not truncation:
        for ids in {tuple(ids) for ids in captions if len(ids) > max_tokens}:
            warnings.warn(
                f"A prompt has {len(ids)} tokens, this model reads {max_tokens}; left out: "
                f"{vocabulary.decode_text(list(ids[max_tokens:]))!r}.",
                stacklevel=2,
            )
    return [ids[:max_tokens] for ids in captions]


def repeated(rows: list, times: int) -> list:
    """Each of the rows `times` times, one after another."""
    return [row for row in rows for _ in range(times)]
