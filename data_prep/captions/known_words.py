"""The words of the training captions, by which the words of a prompt that a model never saw are recognised."""

import re
from collections import Counter
from collections.abc import Collection, Iterable

from vqlm.data_prep.vocabulary import Vocabulary

# Words of more than one letter stand between spaces, but not in Chinese, Japanese and Korean: there a letter is a word.
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
MOST_WORDS = 20_000
RARE = 10_000  # a word that one in so many captions holds is known


def words_of(text: str, vocabulary: Vocabulary) -> list[str]:
    """The words of `text` as the tokenizer sees them: in lower case if it knows no other."""
    normalizer = vocabulary.tokenizer.backend_tokenizer.normalizer  # type: ignore[attr-defined]
    return WORD.findall(normalizer.normalize_str(text) if normalizer else text)


def known_words(captions: Iterable[str], vocabulary: Vocabulary) -> str:
    """The words of training captions, separated by spaces, the commonest first; without rare ones in many captions."""
    counts, captions_read = Counter(), 0
    for caption in captions:
        captions_read += 1
        counts.update(set(words_of(caption, vocabulary)))
    return " ".join(word for word, count in counts.most_common(MOST_WORDS) if count * RARE >= captions_read)


def unknown_words(prompt: str, known: Collection[str], vocabulary: Vocabulary) -> list[str]:
    """The words of `prompt` that are not `known`, each once."""
    return [word for word in dict.fromkeys(words_of(prompt, vocabulary)) if word not in known]
