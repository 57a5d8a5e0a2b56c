"""How many minutes a collection is worth on this machine, by the plans that they would get."""

from typing import NamedTuple

from vqlm.planning.facts import CollectionFacts
from vqlm.planning.machine_speed import MachineSpeed
from vqlm.planning.plan import Plan, make_plan
from vqlm.training.errors import UserError

MINUTES = (2, 3, 4, 5, 7, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440)


class Worth(NamedTuple):
    """Minutes. least: from which anything is learned; larger: from which pictures get their largest size, None where
    that is not reached; most: of which no step is left out, None where more always helps."""

    least: int
    larger: int | None
    most: int | None
    largest_side: int


def minutes_worth(facts: CollectionFacts, speed: MachineSpeed) -> Worth:
    """What `MINUTES` would do for a training from nothing."""
    plans = {minutes: plan for minutes in MINUTES if (plan := _plan(facts, speed, minutes)) is not None}
    sides = {minutes: plan.settings["train_vq"]["network"]["input_shape"][0] for minutes, plan in plans.items()}
    largest = max(sides.values())
    larger = min(minutes for minutes, side in sides.items() if side == largest)
    spared = [minutes for minutes, plan in plans.items() if sides[minutes] == largest and _is_capped(plan)]
    least = min(plans)
    return Worth(least, larger if larger > least else None, min(spared, default=None), largest)


def _plan(facts: CollectionFacts, speed: MachineSpeed, minutes: int) -> Plan | None:
    """None for minutes that allow no learning."""
    try:
        return make_plan(facts, speed, float(minutes))
    except UserError:
        return None


def _is_capped(plan: Plan) -> bool:
    """Whether both trainings end before their minutes do, since more steps would overfit."""
    return all("max_minutes" not in plan.settings[stage] for stage in ("train_vq", "train_lm"))
