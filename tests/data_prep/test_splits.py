"""Which keys are held out: the same ones forever."""

import pytest

from vqlm.data_prep.splits import hash_share, is_held_out


@pytest.mark.parametrize(
    ("key", "share"),
    [
        ("red heart", 0.7766539973527564),
        ("thumbs up medium skin tone", 0.4608609516236015),
        ("cat.png", 0.7238672302128641),
        ("", 0.8894159948913369),
    ],
)
def test_hash_share_never_changes(key, share):
    assert hash_share(key) == share


def test_about_a_tenth_is_held_out():
    held_out = sum(is_held_out(f"key {number}") for number in range(10_000))
    assert held_out == 1003


def test_held_out_are_the_shares_below_a_tenth():
    keys = [f"key {number}" for number in range(1000)]
    assert [key for key in keys if is_held_out(key)] == [key for key in keys if hash_share(key) < 0.1]
