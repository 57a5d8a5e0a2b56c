"""Captions of photographs in JSON: COCO's `captions_*.json`, and the `dataset_*.json` of Karpathy's splits."""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from vqlm.data_prep.sources.caption_files import explained_file
from vqlm.data_prep.sources.rows import NoCaption
from vqlm.data_prep.splits import KARPATHY_SPLITS, given_split
from vqlm.training.errors import UserError

NAME = re.compile(r"(captions_.+|dataset(_.+)?)\.json", re.IGNORECASE)
KARPATHY = re.compile(r"dataset(_.+)?\.json", re.IGNORECASE)


class Photograph(NamedTuple):
    """One picture that a file describes: its name there, its captions or why it has none, and its split if known."""

    name: str
    captions: list[Any] | NoCaption
    split: str | None


def may_be_caption_json(name: str) -> bool:
    """Whether a file of this name may be one of the two forms."""
    return NAME.fullmatch(PurePosixPath(name).name) is not None


def is_karpathy(name: str) -> bool:
    """Whether a file that holds captions is named as those of Karpathy's splits."""
    return KARPATHY.fullmatch(PurePosixPath(name).name) is not None


def read_caption_json(path: Path) -> list[Photograph] | None:
    """The pictures that a file describes; None for a file of another form, such as the settings of a data set.

    Raises UserError for a file that looks like one of the two forms and cannot be read.
    """
    with explained_file(path):
        content = path.read_bytes()
    try:
        described = json.loads(content)
    except (ValueError, RecursionError) as error:
        if b'"images"' not in content and not path.name.lower().startswith("captions_"):
            return None
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path} is not JSON ({reason}); copy or unpack it again.") from None
    if not isinstance(described, dict) or not isinstance(described.get("images"), list):
        return None
    images, annotations = described["images"], described.get("annotations")
    if isinstance(annotations, list):
        if any(isinstance(row, dict) and "caption" in row for row in annotations):
            return _of_coco(images, annotations, given_split(path.stem))
        return None
    if any(isinstance(image, dict) and "sentences" in image for image in images):
        return _of_karpathy(images)
    return None


def _of_coco(images: list[Any], annotations: list[Any], split: str | None) -> list[Photograph]:
    photographs, captions = [], {}
    for number, image in enumerate(images, start=1):
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or not isinstance(image.get("id"), int | str):
            photographs.append(Photograph(f"image {number}", NoCaption("it has no file_name or no id"), None))
            continue
        captions[image["id"]] = []
        photographs.append(Photograph(name, captions[image["id"]], split))
    for number, annotation in enumerate(annotations, start=1):
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image, int | str) or image not in captions:
            reason = NoCaption(f"its image_id {image!r:.40} is that of no image of the file")
            photographs.append(Photograph(f"annotation {number}", reason, None))
        else:
            captions[image].append(annotation.get("caption"))
    return photographs


def _of_karpathy(images: list[Any]) -> list[Photograph]:
    photographs = []
    for number, image in enumerate(images, start=1):
        name = image.get("filename") if isinstance(image, dict) else None
        if not isinstance(name, str):
            photographs.append(Photograph(f"image {number}", NoCaption("it has no filename"), None))
            continue
        if isinstance(folder := image.get("filepath"), str) and folder:
            name = f"{folder}/{name}"
        split, sentences = image.get("split"), image.get("sentences")
        if not isinstance(split, str) or split.lower() not in KARPATHY_SPLITS:
            known = ", ".join(KARPATHY_SPLITS)
            photographs.append(Photograph(name, NoCaption(f"its split {split!r:.40} is none of {known}"), None))
            continue
        captions = [_sentence(part) for part in sentences] if isinstance(sentences, list) else []
        photographs.append(Photograph(name, captions, KARPATHY_SPLITS[split.lower()]))
    return photographs


def _sentence(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    tokens = part.get("tokens")
    if part.get("raw") is None and isinstance(tokens, list):
        return " ".join(map(str, tokens))
    return part.get("raw")
