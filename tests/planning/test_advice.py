"""How many minutes pictures are worth, from the plans that the minutes would get."""

from tests.planning.test_plan import FAST, OPENMOJI, SLOW, choice, facts, plan_of
from vqlm.planning.advice import MINUTES, minutes_worth
from vqlm.planning.machine_speed import MachineSpeed


def test_openmoji_is_worth_half_an_hour():
    worth = minutes_worth(OPENMOJI, FAST)
    assert (worth.larger, worth.largest_side) == (30, 128)
    assert choice(plan_of(OPENMOJI, FAST, 30), "pictures") == "128x128, 256 codes each"
    assert choice(plan_of(OPENMOJI, FAST, 20), "pictures") == "96x96, 144 codes each"


def test_a_slower_machine_needs_more_minutes():
    fast, slow = minutes_worth(OPENMOJI, FAST), minutes_worth(OPENMOJI, SLOW)
    assert slow.larger > fast.larger
    assert slow.least > fast.least


def test_few_small_pictures_are_worth_few_minutes():
    """More steps would overfit, so that a plan spares them."""
    few = facts(100, median_side=64)
    worth = minutes_worth(few, FAST)
    assert worth.larger is None
    assert worth.most == 15

    def is_limited_by_minutes(minutes: int) -> bool:
        settings = plan_of(few, FAST, minutes).settings
        return "max_minutes" in settings["train_vq"] or "max_minutes" in settings["train_lm"]

    assert not is_limited_by_minutes(worth.most)
    assert is_limited_by_minutes(MINUTES[MINUTES.index(worth.most) - 1])


def test_more_minutes_always_help_many_pictures_on_a_slow_machine():
    slowest = MachineSpeed(vq_step=20.0, lm_step=60.0, bf16_gflops=400)
    assert minutes_worth(facts(50_000), slowest).most is None
