"""How many minutes of training a collection is worth on this machine, found by planning several."""

from typing import NamedTuple

from vqlm.planning.facts import CollectionFacts
from vqlm.planning.machine_speed import MachineSpeed
from vqlm.planning.plan import Plan, make_plan
from vqlm.training.errors import UserError

MINUTES = (2, 3, 4, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440)


class Worth(NamedTuple):
    """How many of `MINUTES` make sense for a collection.

    Args:
        least: fewest minutes that a plan accepts.
        larger: fewest minutes with pictures of `largest_side`; None where `least` is enough for that.
        most: fewest minutes in which both stages reach their limit of steps, so that more do not help; None where
            none of `MINUTES` reaches it.
        largest_side: side of the largest pictures that any of `MINUTES` gives, in pixels.
    """

    least: int
    larger: int | None
    most: int | None
    largest_side: int


def minutes_worth(facts: CollectionFacts, speed: MachineSpeed) -> Worth:
    """The minutes that make sense, by the plan that each of `MINUTES` gets for a training from nothing."""
    plans = {minutes: plan for minutes in MINUTES if (plan := _plan(facts, speed, minutes)) is not None}
    if not plans:
        raise UserError(f"this machine is too slow: {MINUTES[-1]:,} minutes allow no learning.")
    sides = {minutes: plan.settings["train_vq"]["network"]["input_shape"][0] for minutes, plan in plans.items()}
    largest = max(sides.values())
    larger = min(minutes for minutes, side in sides.items() if side == largest)
    spared = [minutes for minutes, plan in plans.items() if sides[minutes] == largest and _is_capped(plan)]
    least = min(plans)
    return Worth(least, larger if larger > least else None, min(spared, default=None), largest)


def _plan(facts: CollectionFacts, speed: MachineSpeed, minutes: int) -> Plan | None:
    """The plan for so many minutes; None where they are too few to learn anything."""
    try:
        return make_plan(facts, speed, float(minutes))
    except UserError:
        return None


def _is_capped(plan: Plan) -> bool:
    """Whether both trainings end before their minutes do, since more steps would overfit."""
    return all("max_minutes" not in plan.settings[stage] for stage in ("train_vq", "train_lm"))
