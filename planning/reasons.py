"""The lines of a plan: what was decided, and why."""

from dataclasses import dataclass
from pathlib import Path

from vqlm.planning.allowance import Budget, Settings, Start, Wishes
from vqlm.planning.facts import CollectionFacts
from vqlm.planning.machine_speed import MachineSpeed
from vqlm.training.watching.progress import format_seconds

VERY_FEW = 200
MOSTLY_UNKNOWN = 0.1
POOR_PSNR = 20.0  # dB
START = "start"  # `what` of the decision that names the model to start from


@dataclass(frozen=True)
class Decision:
    """One line of the plan."""

    what: str
    choice: str
    reason: str


def size_decision(
    budget: Budget,
    budgets: list[Budget],
    facts: CollectionFacts,
    minutes: float,
    wishes: Wishes,
    start: Start | None,
    is_largest: bool,
) -> Decision:
    """The size of the pictures. `budgets` are those of all possible sizes; `is_largest`: whether plans choose no larger
    size."""
    choice = f"{budget.side}x{budget.side}, {budget.codes} codes each"
    if start is not None:
        return Decision("pictures", choice, f"as the model in {start.folder} has them")
    if len(budgets) == 1 and (wishes.image_size or wishes.of("train_vq", "network")):
        return Decision("pictures", choice, "as you set it")
    larger = next((other for other in budgets if other.side > budget.side), None)
    if larger is not None:
        why = f"{larger.side}x{larger.side} would get {larger.vq_steps:,} and {larger.lm_steps:,} steps in "
        return Decision("pictures", choice, why + f"{minutes:g} minutes, too few")
    if not is_largest:
        return Decision("pictures", choice, f"yours are about {facts.median_side} pixels wide")
    return Decision("pictures", choice, "the largest that a plan chooses")


def stage_decision(
    name: str, budget: Budget, facts: CollectionFacts, wishes: Wishes, start: Start | None, is_large: bool = False
) -> Decision:
    """How long "stage one" or "stage two" trains."""
    is_first = name == "stage one"
    if is_first and start is not None:
        return Decision(name, "none", f"the image tokenizer of {start.folder} is kept")
    stage, steps, seconds, is_capped = (
        ("train_vq", budget.vq_steps, budget.vq_seconds, budget.is_vq_capped)
        if is_first
        else ("train_lm", budget.lm_steps, budget.lm_seconds, budget.is_lm_capped)
    )
    batch_size = budget.pictures if is_first else budget.rows
    choice = f"about {steps:,} steps of {batch_size} pictures, {format_seconds(seconds)}"
    size = (
        "your model, as long a step as the default's"
        if wishes.of("train_lm", "model")
        else ("15M parameters" if is_large else "5M parameters")
    )
    epochs = f"{steps * batch_size / max(1, facts.trained):.0f} epochs of {facts.trained:,} pictures"
    if wishes.of(stage, "max_steps") is not None or wishes.of(stage, "max_minutes") is not None:
        return Decision(name, choice, "as you set it")
    if is_capped:
        why = "more steps would overfit" if start is None else "more steps would take what it knew before"
        return Decision(name, choice, f"{epochs}; {why}")
    return Decision(name, choice, f"a fifth of the training; {epochs}" if is_first else f"{size}; {epochs}")


def compile_decision(budget: Budget, speed: MachineSpeed, settings: dict[str, Settings]) -> Decision:
    takes = f"takes about {speed.compile_seconds:.0f} s"
    if settings["train_lm"]["compile"] == "no":
        return Decision("compile", "no", f"it {takes} and would not win them back")
    return Decision("compile", "yes", f"it {takes}, then steps are a fifth shorter")


def start_decision(start: Start | None) -> Decision:
    if start is None:
        return Decision(START, "a new model", "no finished one was given")
    return Decision(START, start.folder, f"its image tokenizer reconstructs your pictures at {start.psnr_db:.1f} dB")


def fit_decision(fit: str, facts: CollectionFacts, start: Start | None, is_given: bool) -> Decision:
    if start is not None:
        return Decision("fit", fit, f"as the model in {start.folder} has it")
    if is_given:
        return Decision("fit", fit, "as you set it")
    if facts.not_square == 0:
        return Decision("fit", fit, "all pictures are square")
    flat = f"{max(facts.flat_border, facts.transparent):.0%} are transparent or have a border of one colour"
    return Decision("fit", fit, f"{facts.not_square:.0%} are not square; {flat}: those are padded, others cropped")


def sampling_decision(sampling: Settings | None, seconds: float) -> Decision:
    """How the model draws: `sampling` as a person set it, or None: it is then chosen within `seconds` of drawing."""
    if sampling is None:
        return Decision("sampling", "chosen after training", f"on held-out prompts, in about {seconds:.0f} s")
    choice = ", ".join(f"{name} {value:g}" for name, value in sampling.items() if isinstance(value, int | float))
    return Decision("sampling", choice, "as you set it")


def noise_decision(facts: CollectionFacts, start: Start | None) -> Decision:
    choice = "dropout" if start is not None else "mirrored and shifted pictures, dropout"
    return Decision("noise", choice, f"{facts.trained:,} pictures are few; it slows overfitting")


def rest_decision(budget: Budget, minutes: float, wishes: Wishes) -> Decision:
    training = budget.vq_seconds + budget.lm_seconds
    whole = training + budget.rest_seconds
    choice = f"{format_seconds(whole)}, of it {format_seconds(training)} in training steps ({training / whole:.0%})"
    reason = "the rest reads, compiles, prepares and evaluates"
    is_set = any(wishes.of(stage, name) for stage in wishes.settings for name in ("max_steps", "max_minutes"))
    if whole < 0.9 * 60 * minutes and not is_set:
        reason += f"; your {minutes:g} minutes are more than these pictures need"
    return Decision("in all", choice, reason)


def expectations(facts: CollectionFacts, start: Start | None) -> list[str]:
    """Sentences on what the model will not draw well, for pictures of which that can be foreseen."""
    notes = []
    if facts.trained < VERY_FEW:
        others = "mixtures of them" if start is None else f"mostly what {Path(start.folder).name} knows"
        notes.append(
            f"{facts.trained} pictures are very few: expect the model to draw these again, and {others} for new "
            "prompts. Some hundreds with captions that share words make it draw new ones."
        )
    if facts.known_words < MOSTLY_UNKNOWN and facts.held_out:
        notes.append(
            f"Only {facts.known_words:.0%} of the held-out captions are made of words that are trained on: what the "
            "others look like cannot be known, so judge the model by prompts that it was trained on."
        )
    if start is not None and start.psnr_db < POOR_PSNR:
        notes.append(
            f"The image tokenizer of {start.folder} reconstructs your pictures at {start.psnr_db:.1f} dB only, and "
            "nothing drawn can be better; without `start` they get an image tokenizer of their own."
        )
    return notes
