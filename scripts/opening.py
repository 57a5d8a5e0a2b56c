"""How a stage opens its collection: what is left out is said once, whatever the number of processes."""

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
