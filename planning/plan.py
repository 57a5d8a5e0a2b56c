"""Decides what to train, how large and how long: a pure function of facts, which reads and measures nothing."""

import math
from dataclasses import dataclass, field

from vqlm.data_prep.collections.sides import is_large_enough
from vqlm.planning.allowance import Budget, Settings, Start, Wishes, budget_for, choosing_seconds
from vqlm.planning.arguments import STRIDES, check_minutes, check_side, side_of
from vqlm.planning.facts import CollectionFacts
from vqlm.planning.machine_speed import MachineSpeed
from vqlm.planning.reasons import (
    Decision,
    compile_decision,
    expectations,
    fit_decision,
    noise_decision,
    rest_decision,
    sampling_decision,
    size_decision,
    stage_decision,
    start_decision,
)
from vqlm.training.errors import UserError

SIDES = (32, 64, 96, 128)  # of pictures that a plan chooses
# Steps of each stage, of 32 and of 48 pictures, that a size above the smallest possible one needs. At 64x64, 1,000 and
# 1,400 steps reach R@1 70%; at 128x128, 1,717 and 1,300 steps reach 74% and look far better.
ENOUGH_VQ, ENOUGH_LM = 800, 800
# With fewer steps of either stage the minutes are refused: nothing worth looking at is learned.
LEAST_VQ, LEAST_LM = 150, 250
FEW_PICTURES = 1500  # with fewer, the training adds noise
WORDS_TO_SPARE = 3  # mean words per caption from which words are dropped: shorter ones would lose their sense
# A larger model trains if there are so many pictures and it still gets so many steps at the largest size.
MANY_PICTURES, MANY_STEPS = 10_000, 4000
LARGE_MODEL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}
LARGE = 2.6  # time of a step of the large model / of the default one
VECTORS_PER_CODE = 16  # training vectors per code of the codebook, at least, so that each code is trained
SMALLEST_CODEBOOK, DEFAULT_CODEBOOK = 64, 1024
TUNING_LEARNING_RATE = 6e-4  # from a finished model: a tenth of the default
# What a person who sets a part of the sampling gets for the rest: the demo's values. Else it is chosen after training.
SAMPLING = {"guidance_scale": 2.0, "temperature": 0.25, "min_p": 0.05}


@dataclass
class Plan:
    """Settings of each stage, as the YAML of its command holds them, with the decisions and what to expect.

    Args:
        settings: by stage.
        decisions: what was decided, and why.
        notes: what to expect, and warnings, one sentence or two each.
        seconds: estimates by part; empty where nothing was measured.
        start: folder of the finished model to start from; None for new models.
    """

    settings: dict[str, Settings]
    decisions: list[Decision] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    start: str | None = None


def make_plan(
    facts: CollectionFacts,
    speed: MachineSpeed,
    minutes: float,
    wishes: Wishes | None = None,
    start: Start | None = None,
    collection: Settings | None = None,
) -> Plan:
    """Decide everything that `wishes` leaves open.

    Args:
        facts: what the collection is.
        speed: seconds per step on this machine; minutes are refused only if they are too few even when nothing else
            runs on it.
        minutes: for all stages together.
        wishes: settings that are given.
        start: a finished model to start from.
        collection: settings of how the collection is read, for every stage that reads it.

    Raises:
        UserError: if the minutes allow no learning, or a wish contradicts `start`.
    """
    wishes, warning = wishes or Wishes(), speed.warning
    check_minutes(minutes)
    sides = _possible_sides(facts, wishes, start)
    budgets = [budget_for(side, facts, speed, minutes, wishes, start) for side in sides]
    chosen = next((budget for budget in reversed(budgets) if budget.has(ENOUGH_VQ, ENOUGH_LM)), budgets[0])
    busy = []
    if not chosen.has(LEAST_VQ, LEAST_LM):
        now, speed = chosen, speed.undisturbed
        budgets = [budget_for(side, facts, speed, minutes, wishes, start) for side in sides[:1]]
        (chosen,) = budgets
        if not chosen.has(LEAST_VQ, LEAST_LM):
            _refuse_minutes(minutes, chosen, facts, speed, wishes, start, warning)
        busy = [_busy_note(minutes, now, chosen)]
    is_large = _is_large(chosen, facts, speed, wishes)
    if is_large:
        chosen = budget_for(chosen.side, facts, speed, minutes, wishes, start, LARGE)
    fit = _fit(facts, start)
    settings = _settings(chosen, facts, wishes, start, is_large, {"fit": fit, **(collection or {})})
    if wishes.of("train_lm", "sampling") is not None:
        settings["train_lm"]["sampling"] = dict(SAMPLING)
    for stage, given in wishes.settings.items():
        settings[stage] = merged(settings[stage], given)
    decisions = [
        Decision("pictures", f"{chosen.side}x{chosen.side}, {chosen.codes} codes each", "this machine is busy")
        if busy and len(sides) > 1
        else size_decision(chosen, budgets, facts, minutes, wishes, start, chosen.side == SIDES[-1]),
        stage_decision("stage one", chosen, facts, wishes, start),
        stage_decision("stage two", chosen, facts, wishes, start, is_large),
        compile_decision(chosen, speed, settings),
        start_decision(start),
        fit_decision(settings["prepare"]["fit"], facts, start, "fit" in (collection or {})),
        sampling_decision(settings["train_lm"].get("sampling"), choosing_seconds(minutes, wishes)),
        rest_decision(chosen, minutes, wishes),
    ]
    if facts.trained < FEW_PICTURES:
        decisions.insert(-1, noise_decision(facts, start))
    seconds = {
        "train_vq": chosen.vq_seconds,
        "compile": speed.compile_seconds if chosen.is_compiled else 0.0,
        "train_lm": chosen.lm_seconds,
        "choose_sampling": choosing_seconds(minutes, wishes),
        "rest": chosen.rest_seconds,
    }
    notes = expectations(facts, start) + busy + ([warning] if warning else [])
    return Plan(settings, decisions, notes, seconds, None if start is None else start.folder)


def merged(settings: Settings, given: Settings) -> Settings:
    """`settings` with the values of `given`, part by part."""
    result = dict(settings)
    for name, value in given.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result


def _possible_sides(facts: CollectionFacts, wishes: Wishes, start: Start | None) -> list[int]:
    """The sides that the plan may choose from, ascending."""
    side = side_of(wishes.image_size, (wishes.of("train_vq", "network") or {}).get("input_shape"))
    if start is not None:
        if side not in (None, start.side):
            raise UserError(
                f"{start.folder} draws pictures of {start.side}x{start.side}, `image_size` is {side}; leave "
                "`image_size` out, or `start`."
            )
        _refuse_settings_of_new_models(wishes, start)
        return [start.side]
    if side is not None:
        check_side(side)
        return [side]
    possible = [side for side in SIDES if is_large_enough(facts.median_side, side)]
    return possible[1:] or [SIDES[0]]  # the smallest only where no other is possible


def _refuse_settings_of_new_models(wishes: Wishes, start: Start) -> None:
    """Raises UserError for settings that a training from `start` does not take."""
    vq = dict(wishes.settings.get("train_vq", {}))
    network = vq.pop("network", {}).keys() - {"input_shape"}  # which is that of `start`
    names = [f"vq.{name}" for name in sorted({*vq, *(f"network.{name}" for name in network)})]
    names += ["lm.model"] if wishes.of("train_lm", "model") else []
    if names:
        raise UserError(
            f"the setting {names[0]} has no effect with `start` {start.folder}, whose image tokenizer and sizes are "
            "kept; leave one of them out."
        )


def _refuse_minutes(
    minutes: float,
    budget: Budget,
    facts: CollectionFacts,
    speed: MachineSpeed,
    wishes: Wishes,
    start: Start | None,
    warning: str | None,
) -> None:
    least = next(
        more
        for more in range(math.ceil(minutes), 10**6)
        if budget_for(budget.side, facts, speed, float(more), wishes, start).has(LEAST_VQ, LEAST_LM)
    )
    raise UserError(
        f"{minutes:g} minutes allow {budget.vq_steps} steps of stage one and {budget.lm_steps} of stage two on this "
        f"machine, from which nothing is learned; the least that makes sense is {least} minutes."
        + (f" {warning}" if warning else "")
    )


def _busy_note(minutes: float, now: Budget, undisturbed: Budget) -> str:
    return (
        f"At the speed that was measured now, {minutes:g} minutes allow {now.vq_steps:,} steps of stage one and "
        f"{now.lm_steps:,} of stage two, from which little is learned; undisturbed, this machine should do "
        f"{undisturbed.vq_steps:,} and {undisturbed.lm_steps:,}, which are planned: while other programs "
        "run, that takes longer than your minutes."
    )


def _is_large(budget: Budget, facts: CollectionFacts, speed: MachineSpeed, wishes: Wishes) -> bool:
    if wishes.of("train_lm", "model") or facts.trained < MANY_PICTURES or budget.side < SIDES[-1]:
        return False
    return budget.lm_steps / LARGE >= MANY_STEPS


def _settings(
    budget: Budget, facts: CollectionFacts, wishes: Wishes, start: Start | None, is_large: bool, collection: Settings
) -> dict[str, Settings]:
    is_few = facts.trained < FEW_PICTURES
    vq: Settings = {
        "network": {"input_shape": [budget.side, budget.side], "strides": list(STRIDES)},
        "quantizer": {"codebook_size": _codebook_size(facts, budget.codes)},
        "batch_size": budget.pictures,
        **_stage_limit(budget.vq_steps, budget.vq_seconds, budget.is_vq_capped, wishes.settings.get("train_vq", {})),
        **({"flip": 0.5, "max_shift": budget.side // 32} if is_few else {}),
        **collection,
    }
    lm: Settings = {
        "batch_size": budget.rows,
        **_stage_limit(budget.lm_steps, budget.lm_seconds, budget.is_lm_capped, wishes.settings.get("train_lm", {})),
        "compile": "auto" if budget.is_compiled else "no",
        **({"embedding_dropout": 0.1} if is_few else {}),
        **({"model": dict(LARGE_MODEL)} if is_large else {}),
    }
    if is_few and facts.words_per_caption >= WORDS_TO_SPARE:
        lm["sequences"] = {"word_dropout": 0.1}
    if start is not None:
        lm |= {"init_from": start.folder, "learning_rate": TUNING_LEARNING_RATE}
    return {
        "inspect": {"image_size": budget.side, **collection},
        "train_vq": {} if start is not None else vq,
        "prepare": dict(collection),
        "train_lm": lm,
    }


def _stage_limit(steps: int, seconds: float, is_capped: bool, wishes: Settings) -> Settings:
    """The limit of a stage: minutes, which hold on a machine whose speed varies; steps if it is capped; none if
    `wishes` limit it."""
    if wishes.get("max_minutes") is not None:
        return {}
    if not is_capped:
        return {"max_minutes": round(seconds / 60, 2)}
    limit = {} if wishes.get("max_steps") is not None else {"max_steps": max(1, steps)}
    return {**limit, "eval_every": max(50, steps // 4)}


def _codebook_size(facts: CollectionFacts, codes: int) -> int:
    """The largest power of two, within bounds, with which every code gets enough vectors to be trained."""
    most = max(1, facts.trained * codes // VECTORS_PER_CODE)
    return max(SMALLEST_CODEBOOK, min(DEFAULT_CODEBOOK, 2 ** int(math.log2(most))))


def _fit(facts: CollectionFacts, start: Start | None) -> str:
    """The setting `fit`: how pictures that are not square become square."""
    if start is not None:
        return start.fit
    return "crop" if facts.not_square == 0 else "auto"
