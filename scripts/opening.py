"""How a stage opens its collection: what is left out is said once, whatever the number of processes; and the pictures
of a finished image tokenizer, read as it learned them."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from vqlm.data_prep.settings import CollectionConfig
from vqlm.scripts.settings_options import values_of
from vqlm.training.errors import UserError
from vqlm.training.folders.output_folder import require_writable
from vqlm.training.folders.whole_files import read_json


def require_pictures(*paths: Path | str | None) -> None:
    """Raises UserError for a path of a picture at which there is no file."""
    for path in paths:
        if path is not None and not Path(path).is_file():
            raise UserError(f"there is no file {path}; name a picture.")


def require_picture_file(output: Path) -> None:
    """Raises UserError if `output` is no picture file that can be written."""
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"`output` must end in .png, .jpg or .webp, found {output.name!r}.")
    if output.is_dir():
        raise UserError(f"`output` {output} is a folder; name a file.")
    require_writable(output.parent)


def open_collection(settings: Any, side: int, needs_captions: bool = True) -> Any:
    """The collection that `settings.data` names, for pictures of `side` pixels."""
    from vqlm.data_prep import load_collection

    collection = load_collection(settings.data, side, values_of(CollectionConfig, settings), needs_captions)
    if os.environ.get("RANK", "0") == "0":
        for note in collection.notes:
            print(note, flush=True)
    return collection


def fitted_as_begun(collection: Any, output: Path) -> Any:
    """The collection as the run of stage one in `output` began it: runs from before there was a `fit` cropped."""
    begun = output / "run" / "settings.json"
    if collection.array_shape is not None or collection.config.fit is not None or not begun.exists():
        return collection
    cropped = replace(collection, config=replace(collection.config, fit="crop"))
    settings = read_json(begun)
    is_from_before = "collection_form" not in settings or settings.get("collection") == cropped.fingerprint()
    return cropped if is_from_before else collection


def open_for_tokenizer(settings: Any, image_tokenizer: Any, needs_captions: bool = True) -> Any:
    """The collection that `settings.data` names, with the background and the fit that `image_tokenizer` learned."""
    config = image_tokenizer.config
    return open_collection(settings, config.network.input_shape[0], needs_captions).as_learned_by(config)


def load_for_tokenizer(settings: Any, image_tokenizer: Any) -> Any:
    """All pictures of that collection in memory, captioned or not, `settings.max_pictures` of them at most, in the size
    that `image_tokenizer` encodes. What is skipped or left out is said."""
    from vqlm.data_prep import load_pictures

    collection = open_for_tokenizer(settings, image_tokenizer, needs_captions=False)
    pictures = load_pictures(collection, image_tokenizer.config.network.input_shape, settings.max_pictures)
    for note in pictures.notes():
        print(note, flush=True)
    pictures.train, pictures.held_out = map(image_tokenizer.fit_size, (pictures.train, pictures.held_out))
    return pictures
