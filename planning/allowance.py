"""How many steps and seconds each stage gets within the minutes, for one size of pictures."""

import math
from dataclasses import dataclass, field
from typing import Any

from vqlm.planning.arguments import STRIDES
from vqlm.planning.facts import CollectionFacts
from vqlm.planning.machine_speed import PICTURES, ROWS, MachineSpeed

Settings = dict[str, Any]

# More epochs only overfit.
MOST_VQ_EPOCHS, MOST_LM_EPOCHS = 400, 200
# From a finished model: with more epochs it forgets what it knows of other pictures (docs/experiments.md).
MOST_TUNING_EPOCHS = 30
VQ_SHARE = 0.2  # stage one's share of the training seconds
TRAINING_SHARE = 0.85  # at least this share of the minutes is for training steps and compiling
# Seconds beside the training: to load the libraries, to measure, to save.
FIXED_SECONDS = 30.0
READINGS = 3  # how often every picture is read: to inspect, to train stage one, to prepare
# Drawing one held-out picture, and a training step of one row: seconds of the first / seconds of the second.
DRAWING = 3.0
DRAWINGS_PER_PROMPT, MOST_PROMPTS = 4, 1000  # in the evaluation
# To choose the sampling: a share of the minutes, between two numbers of seconds.
CHOOSING_SHARE, LEAST_CHOOSING, MOST_CHOOSING = 0.02, 10.0, 120.0


@dataclass(frozen=True)
class Start:
    """A finished model that the training starts from.

    Args:
        folder: of the model.
        side: height and width of its pictures in pixels.
        codes: codes per picture.
        psnr_db: how well its image tokenizer reconstructs a sample of the new pictures.
        fit: how its image tokenizer learned pictures that are not square.
    """

    folder: str
    side: int
    codes: int
    psnr_db: float
    fit: str = "crop"


@dataclass(frozen=True)
class Wishes:
    """What a person sets instead of leaving it to the plan.

    Args:
        image_size: side of the pictures in pixels.
        settings: by stage, nested as in the YAML of its command.
    """

    image_size: int | None = None
    settings: dict[str, Settings] = field(default_factory=dict)

    def of(self, stage: str, name: str) -> Any:
        """The setting `name` of `stage`, None where it was not set."""
        return self.settings.get(stage, {}).get(name)


@dataclass(frozen=True)
class Budget:
    """What the minutes allow at one size of the pictures.

    Args:
        side: height and width of the pictures in pixels.
        codes: codes per picture.
        vq_steps: steps of stage one, of `pictures` each; `lm_steps` are those of stage two, of `rows` each.
        vq_seconds: seconds of those steps; `lm_seconds` likewise.
        rest_seconds: seconds beside the steps: reading, compiling, preparing, choosing the sampling, evaluating.
        is_compiled: whether compiling stage two gives it more steps.
        is_vq_capped: whether something else than the minutes limits `vq_steps`: the epochs, or what a
            person set; `is_lm_capped` likewise.
    """

    side: int
    codes: int
    vq_steps: int
    lm_steps: int
    vq_seconds: float
    lm_seconds: float
    pictures: int
    rows: int
    rest_seconds: float
    is_compiled: bool
    is_vq_capped: bool
    is_lm_capped: bool

    def has(self, vq_steps: int, lm_steps: int) -> bool:
        """Whether each stage gets at least so many steps, or is capped."""
        return (self.is_vq_capped or self.vq_steps >= vq_steps) and (self.is_lm_capped or self.lm_steps >= lm_steps)


def budget_for(
    side: int,
    facts: CollectionFacts,
    speed: MachineSpeed,
    minutes: float,
    wishes: Wishes,
    start: Start | None,
    size: float = 1.0,
) -> Budget:
    """The steps and seconds of each stage at `side`.

    `size` is the time of a step of the language model / that of the default model.
    """
    codes = start.codes if start is not None else (side // math.prod(STRIDES)) ** 2
    tokens = facts.tokens_per_caption
    pictures, rows = batch_size_of(facts, wishes, "train_vq", PICTURES), batch_size_of(facts, wishes, "train_lm", ROWS)
    vq_step = speed.vq_seconds(side, pictures)
    plain, compiled = (speed.lm_seconds(codes, tokens, rows, is_compiled, size) for is_compiled in (False, True))
    total = 60 * minutes
    rest = _rest_seconds(side, codes, facts, speed) + choosing_seconds(minutes, wishes)
    training = max(total - rest, TRAINING_SHARE * total)
    vq_seconds = 0.0 if start is not None else VQ_SHARE * training
    if (wished := wishes.of("train_vq", "max_minutes")) is not None:
        vq_seconds = 60 * wished
    vq_steps, is_vq_capped = _steps(vq_seconds / vq_step, facts, pictures, MOST_VQ_EPOCHS, wishes, "train_vq")
    if start is not None:
        vq_steps, is_vq_capped = 0, True
    vq_seconds = vq_steps * vq_step
    # What stage one leaves, stage two gets; compiling comes out of its part where the rest cannot hold it.
    lm_seconds = training - vq_seconds
    with_compiling = min(lm_seconds, total - rest - speed.compile_seconds - vq_seconds)
    if with_compiling < TRAINING_SHARE * total - vq_seconds:
        with_compiling = lm_seconds - speed.compile_seconds
    if (wished := wishes.of("train_lm", "max_minutes")) is not None:
        lm_seconds, with_compiling = 60 * wished, 60 * wished - speed.compile_seconds
    is_compiled = with_compiling / compiled > lm_seconds / plain
    lm_step = compiled if is_compiled else plain
    available = with_compiling if is_compiled and wished is None else lm_seconds
    most_epochs = MOST_LM_EPOCHS if start is None else MOST_TUNING_EPOCHS
    lm_steps, is_lm_capped = _steps(available / lm_step, facts, rows, most_epochs, wishes, "train_lm")
    if is_lm_capped and lm_steps * plain < lm_steps * compiled + speed.compile_seconds:
        is_compiled, lm_step = False, plain
    rest += speed.compile_seconds if is_compiled else 0.0
    return Budget(
        side, codes, vq_steps, lm_steps, vq_seconds, lm_steps * lm_step, pictures, rows, rest, is_compiled,
        is_vq_capped, is_lm_capped,
    )  # fmt: skip


def choosing_seconds(minutes: float, wishes: Wishes) -> float:
    """Seconds to draw with several samplings and choose one; 0 where a person has set the sampling."""
    if wishes.of("train_lm", "sampling") is not None:
        return 0.0
    return min(MOST_CHOOSING, max(LEAST_CHOOSING, CHOOSING_SHARE * 60 * minutes))


def batch_size_of(facts: CollectionFacts, wishes: Wishes, stage: str, default: int) -> int:
    """The batch size that was set for `stage`, else `default`, or all pictures where they are fewer."""
    return wishes.of(stage, "batch_size") or max(1, min(default, facts.trained))


def _steps(
    possible: float, facts: CollectionFacts, batch_size: int, most_epochs: int, wishes: Wishes, stage: str
) -> tuple[int, bool]:
    """Steps of a stage, and whether they are capped: set by the person, or limited by the epochs."""
    steps, has_minutes = wishes.of(stage, "max_steps"), wishes.of(stage, "max_minutes") is not None
    if has_minutes:
        in_minutes = max(1, int(possible))
        return in_minutes if steps is None else min(in_minutes, steps), True
    if steps is not None:
        return steps, True
    most = max(1, most_epochs * facts.trained // batch_size)
    return (most, True) if possible >= most else (max(0, int(possible)), False)


def _rest_seconds(side: int, codes: int, facts: CollectionFacts, speed: MachineSpeed) -> float:
    """Seconds for all but training steps and compiling."""
    reading = READINGS * sum(facts.pictures.values()) * facts.seconds_per_picture / speed.cores
    encoding = sum(facts.pictures.values()) * speed.vq_seconds(side, 1) / 3  # without the backward pass
    prompts = min(MOST_PROMPTS, facts.held_out)
    row = speed.lm_seconds(codes, facts.tokens_per_caption, 1, is_compiled=False)
    return FIXED_SECONDS + reading + encoding + DRAWINGS_PER_PROMPT * prompts * DRAWING * row
