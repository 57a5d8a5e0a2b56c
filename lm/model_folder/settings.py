"""What `text_to_image.json` of a finished model folder holds: how to draw, and what the model was trained on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vqlm.lm.settings import SETTINGS_FILE, SamplingConfig
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json_object, write_json

VERSION = 1


@dataclass(frozen=True)
class ModelFolderSettings:
    """What a finished model's folder says of it beside its weights.

    Args:
        sampling: how codes are drawn by default.
        max_caption_tokens: longest prompt, in tokens; the rest of a longer one is left out.
        can_caption: whether it was trained on rows whose picture comes before the caption.
        attribution: licence lines of the pictures that it was trained on.
        trained_on: `data`, what the data were called, `pictures`, their number in each split, and
            `longest_caption_tokens`.
        known_words: words of the training captions, separated by spaces; None where they were not recorded.
    """

    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    max_caption_tokens: int = 64
    can_caption: bool = False
    attribution: str | None = None
    trained_on: Mapping[str, Any] | None = None
    known_words: str | None = field(default=None, repr=False)

    def to_json(self, fingerprints: Mapping[str, str]) -> dict[str, Any]:
        """The content of the file; `fingerprints` are those of the tokenizers beside it."""
        return {"version": VERSION} | dict(fingerprints) | asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ModelFolderSettings":
        """From the content of the file, as this or an earlier version wrote it.

        Raises UserError for the file of a later version, or one that was changed by hand.
        """
        version = content.get("version", VERSION)
        if isinstance(version, int) and version > VERSION:
            raise UserError(
                f"{SETTINGS_FILE} has version {version}, this vqlm reads versions up to {VERSION}; install a newer one."
            )
        known: dict[str, Any] = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        for name, kinds in KINDS.items():
            if not isinstance(known.get(name, cls.__dataclass_fields__[name].default), kinds):
                raise _damaged(f"`{name}` cannot be {known[name]!r:.40}")
        sampling = content.get("sampling")
        if not isinstance(sampling, Mapping) or sampling.keys() - SamplingConfig.__dataclass_fields__:
            raise _damaged(f"`sampling` must hold {', '.join(SamplingConfig.__dataclass_fields__)}")
        known["sampling"] = SamplingConfig(**sampling)
        return cls(**known)


# JSON types; None only where the default is.
KINDS: dict[str, tuple[type, ...]] = {
    "max_caption_tokens": (int,),
    "can_caption": (bool,),
    "attribution": (str, type(None)),
    "trained_on": (Mapping, type(None)),
    "known_words": (str, type(None)),
}


def _damaged(what: str) -> UserError:
    return UserError(f"{SETTINGS_FILE}: {what}; copy the file from where the model came, or train the model again.")


def save_sampling(folder: Path, sampling: SamplingConfig) -> None:
    """Make `sampling` the defaults of the finished model in `folder`. Raises UserError for any other folder."""
    path = folder / SETTINGS_FILE
    write_json(path, read_json_object(path) | {"sampling": vars(sampling)})
