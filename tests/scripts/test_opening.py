"""A stage one that an earlier version began is continued with pictures as that version saw them."""

import json

import pytest

from vqlm.data_prep import CollectionConfig, load_collection
from vqlm.scripts.opening import fitted_as_begun


@pytest.mark.parametrize(
    ("fit", "begun", "fitted"),
    [
        (None, {"collection": "crop", "collection_form": 2}, "crop"),
        (None, {"collection": "auto", "collection_form": 2}, None),
        (None, {"collection": "of version 0.1"}, "crop"),
        (None, None, None),
        ("pad", {"collection": "crop", "collection_form": 2}, "pad"),
    ],
)
def test_how_a_run_was_begun(picture_folder, tmp_path, fit, begun, fitted):
    collection = load_collection(str(picture_folder), 16, CollectionConfig(fit=fit))
    if begun is not None:
        prints = {
            name: load_collection(str(picture_folder), 16, CollectionConfig(fit=name)).fingerprint()
            for name in ("auto", "crop")
        }
        (tmp_path / "run").mkdir()
        settings = begun | {"collection": prints.get(begun["collection"], begun["collection"])}
        (tmp_path / "run" / "settings.json").write_text(json.dumps(settings))
    assert fitted_as_begun(collection, tmp_path).config.fit == fitted
