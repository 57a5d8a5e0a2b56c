"""Settings of an earlier run beside those of today."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vqlm.training.errors import UserError
from vqlm.training.folders.same_run import flatten, require_same_run


@dataclass
class Part:
    """The settings of a part."""

    width: int = 3
    strides: list[int] = field(default_factory=lambda: [2])


def test_flat_settings():
    assert flatten({"seed": 0, "loss": {"weight": 1}, "network": Part(4)}) == {
        "seed": 0, "loss.weight": 1, "network.width": 4, "network.strides": [2],
    }  # fmt: skip


def test_a_run_of_an_earlier_version_is_the_same():
    earlier = {"data": "pics/", "collection": "by sizes", "warmup_share": 0.1}
    require_same_run(Path("run"), earlier, {"collection": "by times", "collection_form": 2, "warmup_ratio": 0.1})


def test_a_setting_that_came_later_was_at_its_default():
    require_same_run(Path("run"), {"seed": 0, "network.width": 4}, {"seed": 0, "network": Part(4)})
    require_same_run(Path("run"), {"seed": 0}, {"seed": 0, "width": 3, "strides": [2]}, Part())
    with pytest.raises(UserError, match=r"its `network.strides` is \[2\], now \[4\]"):
        require_same_run(Path("run"), {"seed": 0, "network.width": 4}, {"seed": 0, "network": Part(4, [4])})


def test_the_start_of_no_adversary_decides_nothing():
    earlier, today = ({"loss.adversarial_weight": 0.0, "loss.adversarial_start": start} for start in (1000, 0.5))
    require_same_run(Path("run"), earlier, today)
    with pytest.raises(UserError, match="its `loss.adversarial_start` is 1000, now 0.5"):
        require_same_run(Path("run"), *(run | {"loss.adversarial_weight": 0.5} for run in (earlier, today)))


TODAY = {"collection": "x", "collection_form": 2}


@pytest.mark.parametrize(
    ("earlier", "today", "difference"),
    [
        ({"fit": "auto"}, {"fit": "pad"}, "`fit` is 'auto', now 'pad'"),
        ({"background": "red"}, {"background": "white"}, "`background` is 'red', now 'white'"),
        ({"collection": "by sizes"}, TODAY | {"fit": "pad"}, "`fit` is 'crop', now 'pad'"),
        ({"collection": "by sizes"}, TODAY | {"fit": "crop", "background": "red"}, None),
        (TODAY, TODAY | {"fit": "pad", "background": "red"}, None),
    ],
)
def test_how_pictures_were_fitted(earlier, today, difference):
    if difference is None:
        require_same_run(Path("run"), earlier, today)
        return
    with pytest.raises(UserError, match=f"its {difference}"):
        require_same_run(Path("run"), earlier, today)


def test_another_collection_is_another_run():
    with pytest.raises(UserError, match="its `collection` is 'one', now 'other'"):
        require_same_run(
            Path("run"), {"collection": "one", "collection_form": 2}, {"collection": "other", "collection_form": 2}
        )
