"""What to train, how large and how long. A pure function of facts: it reads nothing and measures nothing."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from vqlm.planning.facts import CollectionFacts
from vqlm.planning.machine_speed import PICTURES, ROWS, MachineSpeed
from vqlm.training.errors import UserError
from vqlm.training.progress import format_seconds

Settings = dict[str, Any]
STAGES = ("inspect", "train_vq", "prepare", "train_lm")

SIDES = (32, 64, 96, 128)  # of pictures that a plan chooses; strides [4, 2] make (side / 8)^2 codes of them
STRIDES = [4, 2]
ENLARGED = 1.3  # at most so many times the pictures' own side
# Steps from which a size above the smallest is chosen. At 64x64, 1,000 and 1,400 steps reach R@1 71%; at 128x128,
# 1,717 and 1,300 steps reach 74% and look far better.
ENOUGH_VQ, ENOUGH_LM = 800, 800
# Fewer steps teach nothing that is worth looking at.
LEAST_VQ, LEAST_LM = 150, 250
# More passes over the pictures only learn them by heart.
MOST_VQ_EPOCHS, MOST_LM_EPOCHS = 400, 200
VQ_SHARE = 0.2  # of the training seconds, stage one's
TRAINING_SHARE = 0.85  # of the minutes, at least
# Seconds beside the training: to load the libraries, to measure, to save.
FIXED_SECONDS = 30.0
READINGS = 3  # of every picture: to inspect, to train stage one, to prepare
# Drawing one held-out picture, and a training step of one row: seconds of the first / seconds of the second.
DRAWING = 3.0
DRAWINGS_PER_PROMPT, MOST_PROMPTS = 4, 1000  # of the evaluation
FEW_PICTURES = 1500  # from here on down the training adds noise
VERY_FEW = 200
# A larger model for so many pictures, where the largest pictures still get so many steps.
MANY_PICTURES, MANY_STEPS = 10_000, 4000
LARGE_MODEL = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 6}
LARGE, DEFAULT_PARAMETERS, LARGE_PARAMETERS = 2.6, "5M", "15M"
VECTORS_PER_CODE = 16  # of the codebook, at least, so that each code is trained
SMALLEST_CODEBOOK, DEFAULT_CODEBOOK = 64, 1024
# What makes the demo's pictures good: the model's own distribution smears.
SAMPLING = {"guidance_scale": 2.0, "temperature": 0.25, "min_p": 0.05}
MOSTLY = 0.9
ALL_UNKNOWN = 0.1


@dataclass(frozen=True)
class Start:
    """A finished model that the training starts from. side: of its pictures; psnr_db: of its image tokenizer on a
    sample of the new ones."""

    folder: str
    side: int
    codes: int
    psnr_db: float


@dataclass(frozen=True)
class Wishes:
    """What a person sets instead of leaving it to the plan. `settings`: of each stage, nested as in its YAML."""

    image_size: int | None = None
    settings: dict[str, Settings] = field(default_factory=dict)

    def of(self, stage: str, name: str) -> Any:
        """The setting `name` of `stage`, None where it was not set."""
        return self.settings.get(stage, {}).get(name)


@dataclass(frozen=True)
class Decision:
    """One line of the plan."""

    what: str
    choice: str
    reason: str


@dataclass
class Plan:
    """Settings of each stage, as the YAML of its command holds them, with the decisions and what to expect.

    seconds: estimates of the parts, None where nothing was measured.
    """

    settings: dict[str, Settings]
    decisions: list[Decision] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    start: str | None = None


@dataclass(frozen=True)
class _Budget:
    """Of one size of pictures: steps and seconds of each stage. lm_cap, vq_cap: the most steps that make sense."""

    side: int
    codes: int
    vq_steps: int
    lm_steps: int
    vq_seconds: float
    lm_seconds: float
    rest_seconds: float
    is_compiled: bool
    is_vq_capped: bool
    is_lm_capped: bool

    def has(self, vq_steps: int, lm_steps: int) -> bool:
        """Whether each stage gets so many steps, or as many as make sense."""
        return (self.is_vq_capped or self.vq_steps >= vq_steps) and (self.is_lm_capped or self.lm_steps >= lm_steps)


def make_plan(
    facts: CollectionFacts,
    speed: MachineSpeed,
    minutes: float,
    wishes: Wishes | None = None,
    start: Start | None = None,
    can_fit: bool = False,
    collection: Settings | None = None,
) -> Plan:
    """Decide everything that `wishes` leaves open.

    Args:
        facts: what the collection is.
        speed: seconds per step on this machine.
        minutes: for all stages together.
        wishes: settings that are given.
        start: a finished model to start from.
        can_fit: whether the stages have a setting `fit`.
        collection: settings of how the collection is read, which every stage gets.

    Raises:
        UserError: if the minutes allow no learning, or a wish contradicts `start`.
    """
    wishes = wishes or Wishes()
    _check_minutes(minutes)
    sides = _possible_sides(facts, wishes, start)
    budgets = [_budget(side, facts, speed, minutes, wishes, start) for side in sides]
    chosen = next((budget for budget in reversed(budgets) if budget.has(ENOUGH_VQ, ENOUGH_LM)), budgets[0])
    if not chosen.has(LEAST_VQ, LEAST_LM):
        _refuse_minutes(minutes, chosen, facts, speed, wishes, start)
    is_large = _is_large(chosen, facts, speed, wishes)
    if is_large:
        chosen = _budget(chosen.side, facts, speed, minutes, wishes, start, LARGE)
    fit = _fit(facts)
    settings = _settings(chosen, facts, start, is_large, {**(collection or {}), **({"fit": fit} if can_fit else {})})
    for stage, given in wishes.settings.items():
        settings[stage] = merged(settings[stage], given)
    decisions = [
        _size_decision(chosen, budgets, facts, minutes, wishes, start),
        _stage_decision("stage one", chosen, facts, wishes, start),
        _stage_decision("stage two", chosen, facts, wishes, start, is_large),
        _compile_decision(chosen, speed, settings),
        _start_decision(start),
        *([_fit_decision(fit, facts)] if can_fit else []),
        _sampling_decision(settings),
        _rest_decision(chosen, minutes),
    ]
    if facts.trained < FEW_PICTURES:
        decisions.insert(-1, _noise_decision(facts, start))
    seconds = {
        "train_vq": chosen.vq_seconds,
        "compile": speed.compile_seconds if chosen.is_compiled else 0.0,
        "train_lm": chosen.lm_seconds,
        "rest": chosen.rest_seconds,
    }
    notes = _expectations(facts, start) + ([speed.warning] if speed.warning else [])
    return Plan(settings, decisions, notes, seconds, None if start is None else start.folder)


def merged(settings: Settings, given: Settings) -> Settings:
    """`settings` with the values of `given`, part by part."""
    result = dict(settings)
    for name, value in given.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result


def _check_minutes(minutes: float) -> None:
    if not 0 < minutes < math.inf:
        raise UserError(f"`minutes` must be above 0, found {minutes}.")


def _possible_sides(facts: CollectionFacts, wishes: Wishes, start: Start | None) -> list[int]:
    """Ascending."""
    side = wishes.image_size
    if shape := (wishes.of("train_vq", "network") or {}).get("input_shape"):
        if side is not None and list(shape) != [side, side]:
            raise UserError(f"`image_size` {side} contradicts network.input_shape {shape}; leave one of them out.")
        side = shape[0]
    if start is not None:
        if side not in (None, start.side):
            raise UserError(
                f"{start.folder} draws pictures of {start.side}x{start.side}, `image_size` is {side}; leave "
                "`image_size` out, or `start`."
            )
        return [start.side]
    if side is not None:
        factor = math.prod(STRIDES)
        if side < factor or side % factor:
            raise UserError(f"`image_size` must be a multiple of {factor}, such as 64, 96 or 128; found {side}.")
        return [side]
    if facts.median_side is None:
        return list(SIDES[1:])
    return [side for side in SIDES if side <= ENLARGED * facts.median_side and (side > SIDES[0] or
            facts.median_side < SIDES[1] / ENLARGED)] or [SIDES[0]]  # fmt: skip


def _budget(
    side: int,
    facts: CollectionFacts,
    speed: MachineSpeed,
    minutes: float,
    wishes: Wishes,
    start: Start | None,
    size: float = 1.0,
) -> _Budget:
    codes = start.codes if start is not None else (side // math.prod(STRIDES)) ** 2
    tokens = facts.tokens_per_caption
    pictures, rows = _batch_size(facts, wishes, "train_vq", PICTURES), _batch_size(facts, wishes, "train_lm", ROWS)
    vq_step = speed.vq_seconds(side, pictures)
    plain, compiled = (speed.lm_seconds(codes, tokens, rows, is_compiled, size) for is_compiled in (False, True))
    total = 60 * minutes
    rest = _rest_seconds(side, codes, facts, speed)
    training = max(total - rest, TRAINING_SHARE * total)
    vq_seconds = 0.0 if start is not None else VQ_SHARE * training
    vq_steps, is_vq_capped = _steps(vq_seconds / vq_step, facts, pictures, MOST_VQ_EPOCHS, wishes, "train_vq")
    if start is not None:
        vq_steps, is_vq_capped = 0, True
    vq_seconds = vq_steps * vq_step
    # What stage one leaves, stage two gets; compiling comes out of its part where the rest cannot hold it.
    lm_seconds = training - vq_seconds
    with_compiling = min(lm_seconds, total - rest - speed.compile_seconds - vq_seconds)
    if with_compiling < TRAINING_SHARE * total - vq_seconds:
        with_compiling = lm_seconds - speed.compile_seconds
    is_compiled = with_compiling / compiled > lm_seconds / plain
    lm_step = compiled if is_compiled else plain
    available = with_compiling if is_compiled else lm_seconds
    lm_steps, is_lm_capped = _steps(available / lm_step, facts, rows, MOST_LM_EPOCHS, wishes, "train_lm")
    if is_lm_capped and lm_steps * plain < lm_steps * compiled + speed.compile_seconds:
        is_compiled, lm_step = False, plain
    rest += speed.compile_seconds if is_compiled else 0.0
    return _Budget(
        side, codes, vq_steps, lm_steps, vq_seconds, lm_steps * lm_step, rest, is_compiled, is_vq_capped, is_lm_capped
    )


def _batch_size(facts: CollectionFacts, wishes: Wishes, stage: str, default: int) -> int:
    return wishes.of(stage, "batch_size") or max(1, min(default, facts.trained))


def _steps(
    possible: float, facts: CollectionFacts, batch_size: int, most_epochs: int, wishes: Wishes, stage: str
) -> tuple[int, bool]:
    """Steps of a stage, and whether they are all that make sense: set by the person, or limited by the pictures."""
    if (steps := wishes.of(stage, "max_steps")) is not None:
        return steps, True
    if (minutes := wishes.of(stage, "max_minutes")) is not None:
        return max(1, int(possible)), minutes > 0
    most = max(1, most_epochs * facts.trained // batch_size)
    return (most, True) if possible >= most else (max(0, int(possible)), False)


def _rest_seconds(side: int, codes: int, facts: CollectionFacts, speed: MachineSpeed) -> float:
    """Beside the training and compiling."""
    reading = READINGS * sum(facts.pictures.values()) * facts.seconds_per_picture / speed.cores
    encoding = sum(facts.pictures.values()) * speed.vq_seconds(side, 1) / 3  # without the backward pass
    prompts = min(MOST_PROMPTS, facts.held_out)
    row = speed.lm_seconds(codes, facts.tokens_per_caption, 1, is_compiled=False)
    return FIXED_SECONDS + reading + encoding + DRAWINGS_PER_PROMPT * prompts * DRAWING * row


def _refuse_minutes(
    minutes: float, budget: _Budget, facts: CollectionFacts, speed: MachineSpeed, wishes: Wishes, start: Start | None
) -> None:
    least = next(
        more
        for more in range(math.ceil(minutes), 10**6)
        if _budget(budget.side, facts, speed, more, wishes, start).has(LEAST_VQ, LEAST_LM)
    )
    raise UserError(
        f"{minutes:g} minutes allow {budget.vq_steps} steps of stage one and {budget.lm_steps} of stage two on this "
        f"machine, from which nothing is learned; the least that makes sense is {least} minutes."
    )


def _is_large(budget: _Budget, facts: CollectionFacts, speed: MachineSpeed, wishes: Wishes) -> bool:
    if wishes.of("train_lm", "model") or facts.trained < MANY_PICTURES or budget.side < SIDES[-1]:
        return False
    return budget.lm_steps / LARGE >= MANY_STEPS


def _settings(
    budget: _Budget, facts: CollectionFacts, start: Start | None, is_large: bool, collection: Settings
) -> dict[str, Settings]:
    is_few = facts.trained < FEW_PICTURES
    vq: Settings = {
        "network": {"input_shape": [budget.side, budget.side], "strides": list(STRIDES)},
        "quantizer": {"codebook_size": _codebook_size(facts, budget.codes)},
        "batch_size": min(PICTURES, facts.trained),
        **_stage_budget(budget.vq_steps, budget.vq_seconds, budget.is_vq_capped),
        "eval_every": _eval_every(budget.vq_steps),
        **({"flip": 0.5, "max_shift": budget.side // 32} if is_few else {}),
        **collection,
    }
    lm: Settings = {
        "batch_size": min(ROWS, facts.trained),
        **_stage_budget(budget.lm_steps, budget.lm_seconds, budget.is_lm_capped),
        "eval_every": _eval_every(budget.lm_steps),
        "compile": "auto" if budget.is_compiled else "no",
        "sampling": dict(SAMPLING),
        **({"embedding_dropout": 0.1} if is_few else {}),
        **({"model": dict(LARGE_MODEL)} if is_large else {}),
    }
    if is_few and facts.words_per_caption >= 3:  # noqa: PLR2004  a shorter one loses its sense with a word
        lm["sequences"] = {"word_dropout": 0.1}
    if start is not None:
        lm["init_from"] = start.folder
    return {
        "inspect": {"image_size": budget.side, **collection},
        "train_vq": {} if start is not None else vq,
        "prepare": dict(collection),
        "train_lm": lm,
    }


def _stage_budget(steps: int, seconds: float, is_capped: bool) -> Settings:
    """Minutes, which hold on a machine whose speed varies; or steps, where more would not help."""
    return {"max_steps": max(1, steps)} if is_capped else {"max_minutes": round(seconds / 60, 2)}


def _eval_every(steps: int) -> int:
    return max(50, steps // 4)


def _codebook_size(facts: CollectionFacts, codes: int) -> int:
    """A power of two of which every code occurs often enough to be trained."""
    most = max(1, facts.trained * codes // VECTORS_PER_CODE)
    return max(SMALLEST_CODEBOOK, min(DEFAULT_CODEBOOK, 2 ** int(math.log2(most))))


def _fit(facts: CollectionFacts) -> str:
    """How pictures that are not square become so."""
    flat = max(facts.flat_border, facts.transparent)
    return "crop" if facts.not_square == 0 or flat <= 1 - MOSTLY else "pad" if flat >= MOSTLY else "auto"


# What is said


def _size_decision(
    budget: _Budget,
    budgets: list[_Budget],
    facts: CollectionFacts,
    minutes: float,
    wishes: Wishes,
    start: Start | None,
) -> Decision:
    choice = f"{budget.side}x{budget.side}, {budget.codes} codes each"
    if start is not None:
        return Decision("pictures", choice, "as the start has them")
    if len(budgets) == 1 and (wishes.image_size or wishes.of("train_vq", "network")):
        return Decision("pictures", choice, "as you set it")
    larger = next((other for other in budgets if other.side > budget.side), None)
    if larger is not None:
        why = f"{larger.side}x{larger.side} would get {larger.vq_steps:,} and {larger.lm_steps:,} steps in "
        return Decision("pictures", choice, why + f"{minutes:g} minutes, too few")
    if budget.side < SIDES[-1]:
        return Decision("pictures", choice, f"yours are about {facts.median_side} pixels wide")
    return Decision("pictures", choice, "the largest that a plan chooses")


def _stage_decision(
    name: str, budget: _Budget, facts: CollectionFacts, wishes: Wishes, start: Start | None, is_large: bool = False
) -> Decision:
    is_first = name == "stage one"
    if is_first and start is not None:
        return Decision(name, "none", "the start's image tokenizer is kept")
    stage, steps, seconds, is_capped = (
        ("train_vq", budget.vq_steps, budget.vq_seconds, budget.is_vq_capped)
        if is_first
        else ("train_lm", budget.lm_steps, budget.lm_seconds, budget.is_lm_capped)
    )
    batch_size = _batch_size(facts, wishes, stage, PICTURES if is_first else ROWS)
    choice = f"about {steps:,} steps of {batch_size} pictures, {format_seconds(seconds)}"
    size = f"{LARGE_PARAMETERS if is_large else DEFAULT_PARAMETERS} parameters, "
    passes = f"{steps * batch_size / max(1, facts.trained):.0f} times through {facts.trained:,} pictures"
    if wishes.of(stage, "max_steps") is not None or wishes.of(stage, "max_minutes") is not None:
        return Decision(name, choice, "as you set it")
    if is_capped:
        return Decision(name, choice, f"{passes}; more would learn them by heart")
    return Decision(name, choice, f"a fifth of the training; {passes}" if is_first else size + passes)


def _compile_decision(budget: _Budget, speed: MachineSpeed, settings: dict[str, Settings]) -> Decision:
    takes = f"takes about {speed.compile_seconds:.0f} s"
    if settings["train_lm"]["compile"] == "no":
        return Decision("compile", "no", f"it {takes} and would not win them back")
    return Decision("compile", "yes", f"it {takes}, then steps are a fifth shorter")


def _start_decision(start: Start | None) -> Decision:
    if start is None:
        return Decision("start", "from nothing", "no start was given")
    return Decision("start", start.folder, f"its image tokenizer rebuilds your pictures at {start.psnr_db:.1f} dB")


def _fit_decision(fit: str, facts: CollectionFacts) -> Decision:
    flat = f"{max(facts.flat_border, facts.transparent):.0%} are transparent or have a border of one colour"
    if facts.not_square == 0:
        return Decision("fit", fit, "all pictures are square")
    return Decision("fit", fit, f"{facts.not_square:.0%} are not square; {flat}")


def _sampling_decision(settings: dict[str, Settings]) -> Decision:
    sampling = settings["train_lm"]["sampling"]
    choice = ", ".join(f"{name} {value:g}" for name, value in sampling.items() if isinstance(value, int | float))
    is_ours = sampling == SAMPLING
    return Decision("sampling", choice, "the sharpest pictures so far" if is_ours else "as you set it")


def _noise_decision(facts: CollectionFacts, start: Start | None) -> Decision:
    choice = "dropout" if start is not None else "mirrored and shifted pictures, dropout"
    return Decision("noise", choice, f"{facts.trained:,} pictures are few; it slows learning by heart")


def _rest_decision(budget: _Budget, minutes: float) -> Decision:
    training = budget.vq_seconds + budget.lm_seconds
    whole = training + budget.rest_seconds
    choice = f"{format_seconds(whole)}, of it {format_seconds(training)} in training steps ({training / whole:.0%})"
    reason = "the rest reads, compiles, prepares and evaluates"
    if whole < 0.9 * 60 * minutes:
        reason += f"; your {minutes:g} minutes are more than these pictures need"
    return Decision("in all", choice, reason)


def _expectations(facts: CollectionFacts, start: Start | None) -> list[str]:
    """What to expect of the pictures that are drawn, where that is not everything."""
    notes = []
    if facts.trained < VERY_FEW and start is None:
        notes.append(
            f"{facts.trained} pictures are very few: expect the model to draw these again, and mixtures of them for "
            "new prompts. Some hundreds with captions that share words make it draw new ones."
        )
    if facts.known_words < ALL_UNKNOWN and facts.held_out:
        notes.append(
            f"Only {facts.known_words:.0%} of the held-out captions are made of words that are trained on: what the "
            "others look like cannot be known, so judge the model by prompts that it was trained on."
        )
    if start is not None and start.psnr_db < POOR_PSNR:
        notes.append(
            f"The image tokenizer of {start.folder} rebuilds your pictures at {start.psnr_db:.1f} dB only, and nothing "
            "drawn can be better; without `start` they get an image tokenizer of their own."
        )
    return notes


POOR_PSNR = 20.0


def with_settings(plan: Plan, stage: str, given: Settings) -> Plan:
    """The plan with other settings of one stage."""
    return replace(plan, settings={**plan.settings, stage: merged(plan.settings[stage], given)})
