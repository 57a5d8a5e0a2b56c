"""How a stage opens its collection: what is left out is said once, whatever the number of processes; and the pictures
of a finished image tokenizer, read as it learned them."""

import os
from typing import Any

from vqlm.data_prep.settings import CollectionConfig
from vqlm.scripts.options import values_of


def open_collection(settings: Any, side: int, needs_captions: bool = True) -> Any:
    """The collection that `settings.data` names, for pictures of `side` pixels."""
    from vqlm.data_prep import load_collection

    collection = load_collection(settings.data, side, values_of(CollectionConfig, settings), needs_captions)
    if os.environ.get("RANK", "0") == "0":
        for note in collection.notes:
            print(note, flush=True)
    return collection


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
