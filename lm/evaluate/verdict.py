"""What limits a model, in plain words, and what to do next: a pure function of its figures.

Each limit compares a figure with a threshold below. Where a threshold was measured, its comment says by what; the
others are reasoned. PSNR depends on what the pictures are: the measured ones are OpenMoji's, drawings on white.
"""

import math
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any

from vqlm.data_prep.collections.sides import is_large_enough

# dB, held out. The demo (64x64, 64 codes, 1,000 steps) measures 23.87 and looks mottled; OpenMoji at 128x128 with 256
# codes measured 29.04 after 2,600 steps and looks clean. The limit between the two is reasoned; so is 20, below which
# reconstructions of drawings lose their parts.
CLEAR_PSNR, POOR_PSNR = 28.0, 20.0
LARGER_SIDES = (64, 96, 128)  # which may be advised
# Recall below is R@10 above chance, as a share of what is left above chance: in a large collection, R@10 itself.
# Of prompts that were trained on. The demo's 64 measure 98%. A model below the limits has not yet learned its own
# pictures; where they lie is reasoned.
KNOWS_TRAINED, KNOWS_SOME_TRAINED = 0.9, 0.5
# Of held-out prompts. In the demo new combinations of known words measure 99.5% and look like what they are, names
# that the captions never explain 23.9% and mostly do not. The limits between the two are reasoned.
DRAWS_NEW, DRAWS_FEW_NEW = 0.9, 0.5
# Nats per code that the last evaluation of a training must differ from the one before. In the demo, by the end, new
# combinations still fell by 0.11 and unexplained names rose by 0.14; the limit is reasoned.
NLL_MOVES = 0.05
# A guidance scale is better than the default if its R@10 is higher by so many standard errors of the difference. In the
# demo none of the four is above the default of 2.
STANDARD_ERRORS = 2.0
# Where more of the held-out prompts than this share are also captions of trained pictures, several pictures are right
# for a prompt, and which of them is nearest says little. Reasoned.
SHARED_CAPTIONS = 0.5
# Of so few prompts, a share of a half is uncertain by 18 percentage points (two standard errors of a binomial).
FEW_PROMPTS = 30


class Limit(IntEnum):
    """How much a part limits the model."""

    NOT = 0
    LITTLE = 1
    MUCH = 2
    MOST = 3


@dataclass(frozen=True)
class Recall:
    """Shares of `prompts` drawn pictures whose own picture is the nearest, or among the ten nearest."""

    r1: float
    r10: float
    prompts: int


@dataclass(frozen=True)
class Evidence:
    """The figures that a verdict is from.

    Args:
        psnr_db: of the held-out pictures' reconstructions.
        image_size: side of the pictures, in pixels.
        pictures: number of pictures among which a drawing's own is looked for.
        trained_pictures: number of pictures trained on.
        trained: recall of prompts that were trained on.
        held_out: of each held-out split, with the default sampling.
        by_guidance: R@10 of each held-out split by guidance scale, at the other defaults.
        guidance: the default scale.
        known_words: of each held-out split, the share of prompts of which every word was trained on; empty where the
            model does not record its words.
        nll: of each held-out split, nats per code at each evaluation of the training.
        shared_captions: share of the held-out prompts that are also captions of pictures trained on.
        is_sampling_plain: whether codes are drawn from the model's distribution as it is.
        median_side: median of the collection's shorter sides in pixels, before pictures are fitted; None for drawings,
            which have any size.
    """

    psnr_db: float
    image_size: int
    pictures: int
    trained_pictures: int
    trained: Recall
    held_out: dict[str, Recall]
    by_guidance: dict[str, dict[float, float]]
    guidance: float
    known_words: dict[str, float] = field(default_factory=dict)
    nll: dict[str, list[float]] = field(default_factory=dict)
    shared_captions: float = 0.0
    is_sampling_plain: bool = False
    median_side: int | None = None

    @property
    def larger_side(self) -> int | None:
        """The largest side for which the collection's pictures are large enough; None if the model has it."""
        possible = [side for side in LARGER_SIDES if side > self.image_size and is_large_enough(self.median_side, side)]
        return max(possible, default=None)

    @property
    def is_recall_telling(self) -> bool:
        return self.shared_captions <= SHARED_CAPTIONS

    def above_chance(self, recall: Recall) -> float:
        """R@10 in (0, 1], where 0 is chance; of at most ten pictures, R@1."""
        chance = 10 / self.pictures
        return recall.r1 if chance >= 1 else max(0.0, (recall.r10 - chance) / (1 - chance))


@dataclass(frozen=True)
class Names:
    """What the advice calls the model's folder, its prepared set and its data, quoted for a shell; and the minutes that
    all stages took, None where they were not recorded."""

    model: str
    prepared: str
    data: str
    minutes: float | None = None


@dataclass(frozen=True)
class Finding:
    """Of one part of the model. next: what to do, None where nothing helps or nothing is needed."""

    part: str
    limit: Limit
    text: str
    next: str | None = None


@dataclass(frozen=True)
class Verdict:
    """findings: what limits most first. headline: the first of them in a sentence. caution: of the figures themselves,
    where they are from few prompts."""

    headline: str
    findings: list[Finding]
    caution: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values; a limit is its name."""
        return asdict(self) | {
            "findings": [asdict(finding) | {"limit": finding.limit.name.lower()} for finding in self.findings]
        }


def judge(evidence: Evidence, names: Names) -> Verdict:
    """What limits the model and what to do next."""
    findings = [
        _minutes(evidence, names),
        _image_tokenizer(evidence, names),
        _data(evidence),
        _sampling(evidence, names),
    ]
    findings.sort(key=lambda finding: -finding.limit)  # of equal ones, in the order above
    return Verdict(_headline(findings), findings, _caution(evidence))


def _headline(findings: list[Finding]) -> str:
    first = findings[0]
    if first.limit == Limit.NOT:
        return "Nothing that these figures show limits this model."
    others = [finding.part for finding in findings[1:] if finding.limit == first.limit]
    parts = " and ".join([f"the {first.part}", *(f"the {part}" for part in others)])
    verb = "limit" if others or first.part == "minutes" else "limits"
    return f"{parts[0].upper()}{parts[1:]} {verb} this model {'most' if first.limit > Limit.LITTLE else 'a little'}."


def _minutes(evidence: Evidence, names: Names) -> Finding:
    recall, more = evidence.trained, _more_minutes(names)
    known = f"{recall.r10:.0%} of {recall.prompts} prompts that were trained on come out among the ten nearest"
    if evidence.is_recall_telling and evidence.above_chance(recall) < KNOWS_SOME_TRAINED:
        return Finding("minutes", Limit.MOST, f"Only {known}: the model has not learned its own pictures yet.", more)
    if evidence.is_recall_telling and evidence.above_chance(recall) < KNOWS_TRAINED:
        return Finding("minutes", Limit.MUCH, f"{known}: the model has not learned all of its own pictures.", more)
    changes = [values[-1] - values[-2] for values in evidence.nll.values() if len(values) > 1]
    if changes and max(changes) < -NLL_MOVES:
        text = f"{known}, and the NLL of held-out pictures still fell when the training ended."
        return Finding("minutes", Limit.LITTLE, text, more)
    if changes and min(changes) > NLL_MOVES:
        text = f"{known}. The NLL of held-out pictures rose at the end: more minutes only learn these by heart."
        return Finding("minutes", Limit.NOT, text)
    if not evidence.is_recall_telling:
        return Finding("minutes", Limit.NOT, f"{known}. The NLL of held-out pictures no longer fell everywhere.")
    return Finding("minutes", Limit.NOT, f"{known}: the model knows its own pictures.")


def _more_minutes(names: Names) -> str:
    minutes = None if names.minutes is None else max(1, math.ceil(2 * names.minutes))
    if minutes is None:
        return "Train for longer: raise `max_minutes` or `max_steps` of stage two."
    return f"Train for longer: `vqlm train {names.data} --minutes {minutes}`, with an --output of its own."


def _image_tokenizer(evidence: Evidence, names: Names) -> Finding:
    reconstructed = f"It reconstructs held-out pictures at {evidence.psnr_db:.1f} dB"
    larger = "with more steps of stage one"
    if not is_large_enough(evidence.median_side, LARGER_SIDES[-1]):
        larger += f" or with larger pictures: these are about {evidence.median_side} pixels wide"
    if side := evidence.larger_side:
        command = f"`vqlm train {names.data} --image-size {side}`, with an --output of its own"
        larger = f"at {side}x{side}, which has more codes per picture: {command}"
    if evidence.psnr_db < POOR_PSNR:
        text = f"{reconstructed}: parts are lost before anything is drawn, and no drawing surpasses its reconstruction."
        return Finding("image tokenizer", Limit.MOST, text, f"Train it again {larger}. `vqlm inspect-vq` looks closer.")
    if evidence.psnr_db >= CLEAR_PSNR:
        return Finding("image tokenizer", Limit.NOT, f"{reconstructed}, which looks clean.")
    text = f"{reconstructed}: recognisable, with blurred or mottled details that every drawing has too."
    is_next = max(map(evidence.above_chance, evidence.held_out.values())) >= DRAWS_NEW
    return Finding(
        "image tokenizer", Limit.MUCH if is_next else Limit.LITTLE, text, f"For sharper ones train {larger}."
    )


def _data(evidence: Evidence) -> Finding:
    if not evidence.is_recall_telling:
        text = f"{evidence.shared_captions:.0%} of the held-out prompts are captions of trained pictures too: several "
        text += "pictures are right for each, so judge the drawings by eye."
        return Finding("data", Limit.NOT, text)
    if evidence.above_chance(evidence.trained) < KNOWS_TRAINED:
        return Finding("data", Limit.NOT, "Whether they suffice shows once prompts that were trained on come out.")
    held_out, above = evidence.held_out, evidence.above_chance
    weak = {split: recall for split, recall in held_out.items() if above(recall) < DRAWS_FEW_NEW}
    if not weak:
        middling = min(map(above, held_out.values())) < DRAWS_NEW
        text = "Held-out prompts come out " + ("in part" if middling else "as what they are") + ": " + _shares(evidence)
        return Finding("data", Limit.LITTLE if middling else Limit.NOT, text, _more_data() if middling else None)
    text = (
        f"{evidence.trained.r10:.0%} of the trained prompts come out, but {_shares(evidence, weak)}: from "
        f"{evidence.trained_pictures:,} pictures the model has learned these, not what new ones look like."
    )
    unknown = [f"{1 - evidence.known_words[split]:.0%} ({split})" for split in weak if split in evidence.known_words]
    if unknown:
        text += f" Prompts with a word that was never trained on: {', '.join(unknown)}."
    is_all = len(weak) == len(held_out)
    return Finding("data", Limit.MOST if is_all else Limit.MUCH, text, _more_data())


def _more_data() -> str:
    return (
        "Add pictures whose captions use the same words in other combinations; what a word means is learned from "
        "several pictures that share it. Judge the model by prompts of such words."
    )


def _shares(evidence: Evidence, splits: dict[str, Recall] | None = None) -> str:
    chosen = evidence.held_out if splits is None else splits
    return ", ".join(f"{recall.r10:.0%} of {recall.prompts} {split} prompts" for split, recall in chosen.items())


def _sampling(evidence: Evidence, names: Names) -> Finding:
    for split, by_scale in evidence.by_guidance.items():
        default = by_scale[evidence.guidance]
        scale = max(by_scale, key=by_scale.__getitem__)
        error = math.sqrt(
            sum(share * (1 - share) for share in (default, by_scale[scale])) / evidence.held_out[split].prompts
        )
        if by_scale[scale] - default > STANDARD_ERRORS * error:
            text = f"Guidance {scale:g} brings {by_scale[scale]:.0%} of the {split} prompts among the ten nearest, the "
            text += f"default of {evidence.guidance:g} {default:.0%}."
            command = f"vqlm set-sampling {names.model} --guidance-scale {scale:g}"
            return Finding("sampling", Limit.MUCH, text, f"`{command}`")
    if evidence.is_sampling_plain:
        text = "Codes are drawn from the model's distribution as it is, which smears lines."
        return Finding(
            "sampling", Limit.LITTLE, text, f"`vqlm set-sampling {names.model} --choose-on {names.prepared}`"
        )
    return Finding("sampling", Limit.NOT, "No guidance scale that was tried is better by more than chance.")


def _caution(evidence: Evidence) -> str | None:
    few = {split: recall for split, recall in evidence.held_out.items() if recall.prompts < FEW_PROMPTS}
    if not few:
        return None
    most = max(1 / math.sqrt(recall.prompts) for recall in few.values())
    counts = ", ".join(f"{recall.prompts} ({split})" for split, recall in few.items())
    return f"Held-out prompts are few: {counts}. A share of them may be off by {most:.0%} either way."
