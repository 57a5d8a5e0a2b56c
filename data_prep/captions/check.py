"""The captions of a collection as text: how many, how they begin, in which scripts, which are repeated."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath

from vqlm.data_prep.captions.names import words_of_name

LOOKED_AT = 200_000  # pictures
COMMONEST = 5
SCRIPTS_SHOWN = 6
PREFIX_WORDS = (5, 4, 3, 2)  # an article alone is no finding
# From so many captions on their beginnings say something.
ENOUGH = 20
SHARED_PREFIX = 0.5
SECOND_SCRIPT = 0.05  # share of the captions from which on a further script is a finding
SEVERAL_SCRIPTS = 0.01  # share of the pictures whose own captions are in several
MANY_CAPTIONS = 10  # per picture: more are translations
ONE_CAPTION = 0.05  # share of the pictures that have one and the same caption
PICTURES_PER_CAPTION = 3
JAPANESE = {"HIRAGANA", "KATAKANA"}


@dataclass
class CaptionFacts:
    """Counts of the captions of the first `LOOKED_AT` pictures.

    per_picture: pictures by their number of captions. captions: pictures by caption. prefixes: captions by their first
    words in lower case. scripts: captions by the script of most of their letters. several: pictures whose captions are
    in several scripts. named: pictures whose names have words that are not their caption already.
    """

    per_picture: Counter[int] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)
    prefixes: Counter[tuple[str, ...]] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    several: int = 0
    named: int = 0

    def add(self, key: str, captions: Sequence[str]) -> None:
        if self.pictures >= LOOKED_AT:
            return
        self.per_picture[len(captions)] += 1
        self.captions.update(set(captions))
        words = words_of_name(PurePosixPath(key).name)
        self.named += bool(words) and not any(words in caption for caption in captions)
        scripts = [script for caption in captions if (script := script_of(caption))]
        self.scripts.update(scripts)
        self.several += len(set(scripts)) > 1
        for caption in captions:
            words = caption.lower().split()
            self.prefixes.update(tuple(words[:count]) for count in PREFIX_WORDS if len(words) > count)

    @property
    def pictures(self) -> int:
        return self.per_picture.total()

    @property
    def total(self) -> int:
        """Captions."""
        return sum(number * pictures for number, pictures in self.per_picture.items())

    @property
    def shared_prefix(self) -> tuple[str, float] | None:
        """The longest beginning of more than half of the captions, and of how many."""
        if self.total < ENOUGH:
            return None
        shared = [prefix for prefix, count in self.prefixes.items() if count > SHARED_PREFIX * self.total]
        if not shared:
            return None
        longest = max(shared, key=len)  # of any length only one is shared by more than half
        return " ".join(longest), self.prefixes[longest] / self.total

    @property
    def script_shares(self) -> dict[str, float]:
        """Of the captions with letters, the commonest script first."""
        return {script: count / self.scripts.total() for script, count in self.scripts.most_common()}

    @property
    def commonest(self) -> list[tuple[str, int]]:
        """Captions of several pictures."""
        return [(caption, count) for caption, count in self.captions.most_common(COMMONEST) if count > 1]

    @property
    def median_per_picture(self) -> int:
        numbers = sorted(self.per_picture.elements())
        return numbers[len(numbers) // 2] if numbers else 0


def script_of(text: str) -> str | None:
    """The script of most letters of a text, such as Latin; None without letters."""
    scripts = Counter(script for letter in text if (script := _script(letter)))
    if scripts["Japanese"]:  # which is written with Chinese letters too
        return "Japanese"
    return scripts.most_common(1)[0][0] if scripts.total() else None


@lru_cache(maxsize=100_000)
def _script(letter: str) -> str | None:
    if not letter.isalpha():
        return None
    name = unicodedata.name(letter, "").partition(" ")[0]
    return "Japanese" if name in JAPANESE else "Chinese" if name == "CJK" else name.capitalize() or None


def caption_findings(facts: CaptionFacts) -> list[str]:
    """Remarks on the captions: sentences, each with a remedy."""
    remarks = []
    shares = ", ".join(f"{script} {share:.0%}" for script, share in list(facts.script_shares.items())[:SCRIPTS_SHOWN])
    second = list(facts.script_shares.values())[1:2]
    if facts.several > SEVERAL_SCRIPTS * facts.pictures:
        remarks.append(
            f"{facts.several} pictures have captions in several scripts ({shares}), {facts.median_per_picture} "
            "captions per picture: the model must learn each language from the same pictures. Set `caption_lines` to "
            "first, or to a language such as en, to keep one."
        )
    elif facts.median_per_picture > MANY_CAPTIONS:
        remarks.append(
            f"There are {facts.median_per_picture} captions per picture. If they are translations, set `caption_lines` "
            "to first, or to a language such as en, to keep one."
        )
    elif second and second[0] > SECOND_SCRIPT:
        remarks.append(
            f"The captions are in several scripts ({shares}): a prompt in one draws nothing of what is captioned in "
            "another. Write them in one language, or several for each picture; `caption_lines` chooses one where the "
            "texts beside the pictures have several."
        )
    if facts.shared_prefix is not None:
        prefix, share = facts.shared_prefix
        remarks.append(
            f'{share:.0%} of the captions begin with "{prefix}", which tells no picture from another; leave it out '
            f'with `drop_prefix` "{prefix}", or begin every prompt with it.'
        )
    remarks += _on_shared_captions(facts)
    return remarks


def _on_shared_captions(facts: CaptionFacts) -> list[str]:
    if not facts.commonest or facts.pictures < ENOUGH:
        return []
    caption, count = facts.commonest[0]
    per_caption = facts.total / len(facts.captions)
    if count <= max(2, ONE_CAPTION * facts.pictures) and per_caption < PICTURES_PER_CAPTION:
        return []
    remedy = (
        "Their names have words: `captions_from` names, or {name} in `class_template`, tells them apart."
        if facts.named > facts.pictures / 2
        else "Captions that tell them apart, or {path} in `class_template` where folders do, let a prompt choose."
    )
    return [
        f"{facts.pictures} pictures have {len(facts.captions)} different captions; the commonest, {caption!r:.60}, is "
        f"on {count} of them. {remedy}"
    ]


def caption_rows(facts: CaptionFacts) -> dict[str, str]:
    """Figures for a page."""
    numbers = sorted(facts.per_picture)
    if not numbers:
        return {}
    rows = {
        "captions per picture: fewest, median, most": f"{numbers[0]}, {facts.median_per_picture}, {numbers[-1]}",
        "different captions": f"{len(facts.captions)}",
    }
    shares = list(facts.script_shares.items())[:SCRIPTS_SHOWN]
    return rows | {f"captions in {script}": f"{share:.1%}" for script, share in shares}
