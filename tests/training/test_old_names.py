"""Renamed settings are read under their old names."""

from vqlm.training.old_names import with_new_names, with_old_names


def test_nested_and_dotted_names():
    nested = {"warmup_share": 0.1, "network": {"misfit": "pad", "strides": [2]}, "batch_size": 8}
    assert with_new_names(nested) == {
        "warmup_ratio": 0.1, "network": {"size_mismatch": "pad", "strides": [2]}, "batch_size": 8,
    }  # fmt: skip
    assert with_old_names(with_new_names(nested)) == nested
    assert with_new_names({"network.misfit": "pad"}) == {"network.size_mismatch": "pad"}


def test_a_part_of_the_settings():
    assert with_new_names({"misfit": "crop", "type": "patch"}, "network.") == {"size_mismatch": "crop", "type": "patch"}


def test_a_name_that_is_old_elsewhere_stays():
    assert with_new_names({"misfit": 1, "loss": {"warmup_share": 2}}) == {"misfit": 1, "loss": {"warmup_share": 2}}
