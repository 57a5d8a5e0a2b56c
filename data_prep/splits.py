"""Which pictures are held out: no stage trains on them.

A rule maps a key to its split. By default it follows the splits that a collection comes with (folders `train` and
`test`, `train-000.tar` and `val-000.tar`, the splits of a data set), else it holds out a tenth by a hash of the key.
"""

import fnmatch
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vqlm.data_prep.pictures.file_kinds import key_of
from vqlm.training.errors import UserError

TRAIN = "train"
HELD_OUT = "held_out"
HELD_OUT_SHARE = 0.1
GIVEN_NAMES = {
    "train": TRAIN, "training": TRAIN, "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
# Of the files dataset_*.json; restval is what was left of the validation set, and is trained on.
KARPATHY_SPLITS = {"train": TRAIN, "restval": TRAIN, "val": "validation", "test": "test"}
NAMED_SET = re.compile(r"held_out-(\w+?)-\d+$")
NUMBER_OF_SPLIT = re.compile(r"[ _-]?\d+$")
REPEATED = re.compile(r" \(row \d+\)$")  # of a key whose id several rows have: they belong to one split


def hash_share(key: str) -> float:
    """A number in [0, 1) that depends on the key alone, the same on every machine and in every version."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def is_held_out(key: str, share: float = HELD_OUT_SHARE) -> bool:
    """Whether the picture with this key belongs to the held-out share."""
    return hash_share(key) < share


@dataclass(frozen=True)
class HashSplit:
    """Holds out a share of the keys by their hash."""

    share: float = HELD_OUT_SHARE
    held_out_names: tuple[str, ...] = (HELD_OUT,)

    def __call__(self, key: str) -> str:
        return HELD_OUT if is_held_out(REPEATED.sub("", key), self.share) else TRAIN


@dataclass(frozen=True)
class GivenSplit:
    """Splits by the first part of a key: a folder, an archive, a table, a split of a data set."""

    splits: Mapping[str, str]  # of the part before a slash; other keys are trained on
    held_out_names: tuple[str, ...]

    def __call__(self, key: str) -> str:
        place = key.find("/")
        while place >= 0:
            if (split := self.splits.get(key[:place])) is not None:
                return split if split in self.held_out_names else TRAIN
            place = key.find("/", place + 1)
        return TRAIN


@dataclass(frozen=True)
class KeySplit:
    """Splits by the whole key, as a file with captions names them."""

    splits: Mapping[str, str]  # other keys are trained on
    held_out_names: tuple[str, ...]

    def __call__(self, key: str) -> str:
        split = self.splits.get(key, TRAIN)
        return split if split in self.held_out_names else TRAIN


@dataclass(frozen=True)
class JoinedSplit:
    """Splits each of several collections by its own rule, or by the split of each key.

    The first part of a key names the collection.
    """

    rules: "Mapping[str, SplitRule | Mapping[str, str]]"
    held_out_names: tuple[str, ...]

    def __call__(self, key: str) -> str:
        name, _, rest = key.partition("/")
        rule = self.rules[name]
        return rule[rest] if isinstance(rule, Mapping) else rule(rest)


@dataclass(frozen=True)
class ListedSplit:
    """Holds out the listed keys."""

    keys: frozenset[str]
    held_out_names: tuple[str, ...] = (HELD_OUT,)

    def __call__(self, key: str) -> str:
        return HELD_OUT if key in self.keys or REPEATED.sub("", key) in self.keys else TRAIN


@dataclass(frozen=True)
class GlobSplit:
    """Holds out the keys that match a pattern such as `test/*`."""

    pattern: str
    held_out_names: tuple[str, ...] = (HELD_OUT,)

    def __call__(self, key: str) -> str:
        return HELD_OUT if fnmatch.fnmatchcase(REPEATED.sub("", key), self.pattern) else TRAIN


SplitRule = HashSplit | GivenSplit | JoinedSplit | KeySplit | ListedSplit | GlobSplit


def described_rule(rule: SplitRule) -> str:
    """The rule as text, the same on every machine."""
    if isinstance(rule, JoinedSplit):
        parts = {
            name: str(sorted(part.items())) if isinstance(part, Mapping) else described_rule(part)
            for name, part in rule.rules.items()
        }
        return f"joined {parts}"
    if isinstance(rule, KeySplit):
        return f"by key {rule.held_out_names} {sorted(rule.splits.items())}"
    return f"listed {sorted(rule.keys)}" if isinstance(rule, ListedSplit) else repr(rule)


def split_rule(
    held_out: str | float | None, given: Mapping[str, str], by_key: Mapping[str, str] | None = None
) -> SplitRule:
    """The rule for the setting `held_out`: None, a share, the name of a given split, a file of keys, or a pattern.

    `given` is the split of each first part of a key, empty where a collection comes without splits; `by_key` is the
    split of each key, where a file with captions names it. Raises UserError for a setting that is none of these.
    """
    by_part: Callable[[tuple[str, ...]], SplitRule] = partial(GivenSplit, given)
    if by_key:
        by_part, given = partial(KeySplit, by_key), by_key
    names = tuple(dict.fromkeys(split for split in given.values() if split != TRAIN))
    if held_out is None:
        return by_part(names) if names and TRAIN in given.values() else HashSplit()
    if isinstance(held_out, str) and _is_number(held_out):
        held_out = float(held_out)
    if not isinstance(held_out, str):
        if not 0 < held_out < 1:
            raise UserError(f"`held_out` as a share must lie between 0 and 1, found {held_out}.")
        return HashSplit(float(held_out))
    if (name := GIVEN_NAMES.get(held_out.lower(), held_out)) in names:
        return by_part((name,))
    if os.path.isfile(held_out):
        try:
            lines = Path(held_out).read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"`held_out` {held_out} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
        keys = frozenset(key_of(line.strip("\r")) for line in lines if line.strip())
        if not keys:
            raise UserError(f"`held_out` {held_out} holds no keys; write one key per line, such as pictures/001.png.")
        return ListedSplit(keys)
    if set(held_out) & set("*?["):
        return GlobSplit(held_out)
    known = f"its splits are {', '.join(sorted({*given.values()}))}" if given else "it comes without splits"
    raise UserError(
        f"`held_out` must be a share such as 0.1, a split of the collection ({known}), a file with one key per line, "
        f"or a pattern of keys such as test/*; found {held_out!r}."
    )


def splits_of_folders(keys: Iterable[str]) -> dict[str, str]:
    """The split of each folder that is named after one, such as train, images/val, cat/test or train2017.

    Only one level counts: the topmost that has folders to train on and others, else the topmost of all.
    """
    folders = {tuple(key.split("/")[:-1]) for key in keys}
    top: dict[str, str] = {}
    for depth in range(1, max(map(len, folders), default=0) + 1):
        names = sorted({folder[:depth] for folder in folders if len(folder) >= depth})
        splits = {name: GIVEN_NAMES.get(NUMBER_OF_SPLIT.sub("", name[-1].lower())) for name in names}
        given = {"/".join(name): split for name, split in splits.items() if split is not None}
        if TRAIN in given.values() and len(set(given.values())) > 1:
            return given
        top = top or (given if depth == 1 else {})
    return top


def given_split(*names: str) -> str | None:
    """The split that the first of these names speaks of, such as `shard-train-000`; None if none does.

    `held_out-things-000` is the held-out set `things`: several sets that differ in kind are never averaged.
    """
    for name in names:
        if named := NAMED_SET.match(name):
            return named[1]
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in GIVEN_NAMES:
                return GIVEN_NAMES[word]
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
