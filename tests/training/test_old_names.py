"""Renamed settings are read under their old names."""

from vqlm.training.old_names import comparable, with_new_names, with_old_names


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


def test_a_run_of_an_earlier_version_is_continued():
    earlier = {"data": "pics/", "collection": "by sizes", "warmup_share": 0.1}
    today = {"collection": "by times", "collection_form": 2, "warmup_ratio": 0.1}
    assert comparable(earlier, today) == today


def test_the_start_of_no_adversary_decides_nothing():
    earlier, today = ({"loss.adversarial_weight": 0.0, "loss.adversarial_start": start} for start in (1000, 0.5))
    assert comparable(earlier, today) == today
    earlier["loss.adversarial_weight"] = 0.5
    assert comparable(earlier, today)["loss.adversarial_start"] == 1000


def test_another_collection_is_not_mistaken_for_the_same():
    earlier = {"collection": "one", "collection_form": 2}
    assert comparable(earlier, {"collection": "other", "collection_form": 2}) == earlier
