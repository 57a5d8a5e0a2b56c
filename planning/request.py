"""From a request of `vqlm train` to the plan in its output folder: a saved one is kept, or a new one is made."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vqlm.data_prep import Collection, load_collection
from vqlm.data_prep.captions.names import words_of_name
from vqlm.data_prep.collections.source_names import parts_of
from vqlm.data_prep.settings import CollectionConfig
from vqlm.data_prep.sources.folder import NoCaptions
from vqlm.planning.allowance import Settings, Wishes
from vqlm.planning.arguments import NO_START, folder_of_start, read_settings
from vqlm.planning.facts import CollectionFacts, gather_facts
from vqlm.planning.machine_speed import measure_speed
from vqlm.planning.plan import Plan, make_plan
from vqlm.planning.reasons import Decision
from vqlm.planning.saved_plan import load_plan, remove_inspection, remove_plan, save_plan
from vqlm.planning.starts import base_for, look_at_start, with_start_reason
from vqlm.planning.without_effect import OPTION_OF_STAGE, without_effect
from vqlm.training.errors import UserError
from vqlm.training.folders.same_run import is_same_place

DEFAULT_MINUTES = 30.0
LIMITS = ("max_skipped",)  # arguments that change no result: a begun plan takes new values of them too
MOSTLY_NAMED = 0.5  # share of pictures whose names have words, from which names become the captions
FACTS_SIDE = 64  # side in pixels at which OpenMoji is drawn to be looked at


@dataclass(frozen=True)
class Request:
    """What a person asked for.

    Args:
        data: the collection, see `DATA_HELP`.
        output: folder for all that is made.
        minutes: for all stages together; None for `DEFAULT_MINUTES`.
        image_size: side of the model's pictures; None leaves it to the plan.
        start: a finished model to start from, a folder or a name; `NO_START` for none; None leaves it to the plan.
        plan: a folder of YAML files whose settings are taken as they stand; nothing is measured or decided.
        collection: how the collection is read.
        settings: by stage, nested as in its YAML; they replace the plan's.
        ignore_findings: train even if the inspection finds what would ruin the training, and however few pictures are
            usable.
        seed: decides the sample that the plan looks at.
    """

    data: str
    output: Path
    minutes: float | None = None
    image_size: int | None = None
    start: str | None = None
    plan: Path | None = None
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    settings: dict[str, Settings] = field(default_factory=dict)
    ignore_findings: bool = False
    seed: int = 0

    @property
    def plan_folder(self) -> Path:
        return self.output / "plan"

    def arguments(self) -> dict[str, Any]:
        """What the plan depends on, as JSON values by option name."""
        values: dict[str, Any] = {"minutes": self.minutes, "image_size": self.image_size, "seed": self.seed}
        values["start"] = self.start
        values |= {"plan": None if self.plan is None else str(self.plan)}
        values |= asdict(self.collection)
        return values | {name: self.settings.get(name, {}) for name in sorted(self.settings)}


def plan_for(request: Request, say: Callable[[str], None]) -> Plan:
    """The plan in the request's output folder. A new one is made and saved if there is none, or none for this request.

    A plan that has begun is kept; for each argument that differs from it `say` gets a line that it has no effect.
    Raises UserError for wrong input, before anything is written.
    """
    require_output(request.output)
    saved = load_plan(request.plan_folder)
    if saved is not None and has_begun(request.output):
        plan, made_for = saved
        _require_same_collection(made_for, request)
        given = {name: request.arguments()[name] for name in _given(request) if name not in (*OPTION_OF_STAGE, *LIMITS)}
        for line in without_effect(request.output, plan, given, made_for["arguments"], request.settings):
            say(line)
        return plan
    collection, captions = open_collection(request)
    made_for = {"data": request.data, "collection": collection.fingerprint(), "arguments": request.arguments()}
    if saved is not None and _holds_for(saved[1], made_for, request):
        return saved[0]
    for note in collection.notes:
        say(note)
    plan = _new_plan(replace(request, collection=collection.config), collection, say)
    plan.decisions += captions
    remove_plan(request.plan_folder)
    remove_inspection(request.output / "inspection")
    save_plan(plan, request.plan_folder, made_for)
    return plan


def has_begun(output: Path) -> bool:
    """Whether a stage after the inspection has written anything."""
    return any((output / name).exists() for name in ("image_tokenizer", "data", "model", "report.json"))


def _require_same_collection(made_for: dict[str, Any], request: Request) -> None:
    """Raises UserError if the collection is not the one that the plan was made for: neither its place nor its content
    is the same. It may be named by another path, or have been moved."""
    if _are_same_places(made_for["data"], request.data):
        return
    earlier = {field.name: made_for["arguments"][field.name] for field in fields(CollectionConfig)
               if field.name in made_for["arguments"]}  # fmt: skip
    with contextlib.suppress(UserError):
        collection, _ = open_collection(replace(request, collection=CollectionConfig(**earlier)))
        if collection.fingerprint() == made_for["collection"]:
            return
    raise UserError(
        f"{request.output} was begun with {made_for['data']}, not {request.data}; give {made_for['data']} to "
        "continue it, or another `output`."
    )


def _are_same_places(first: str, second: str) -> bool:
    """Whether two texts name the same collections."""
    parts = [parts_of(first), parts_of(second)]
    return len(parts[0]) == len(parts[1]) and all(
        one == other or is_same_place(one, other) for one, other in zip(*parts, strict=True)
    )


def _holds_for(earlier: dict[str, Any], now: dict[str, Any], request: Request) -> bool:
    """Whether a plan that has not begun was made for this collection and for the arguments that are given now."""
    arguments, before = request.arguments(), earlier["arguments"]
    return earlier["collection"] == now["collection"] and all(
        arguments[name] == before.get(name) or is_same_place(arguments[name], before.get(name))
        for name in _given(request)
    )


def _given(request: Request) -> list[str]:
    """Names of the arguments that differ from their defaults. The command that continues need not repeat any."""
    defaults = Request(request.data, request.output).arguments()
    return [name for name, value in request.arguments().items() if value != defaults.get(name)]


def require_output(output: Path) -> None:
    """Raises UserError if `output` holds what `vqlm train` did not write."""
    if not output.exists():
        return
    ours = {"plan", "inspection", "image_tokenizer", "data", "model"}
    files = {"samples.png", "reconstructions.png", "curves.png", "report.md", "report.json", "report.html"}
    if foreign := sorted(path.name for path in output.iterdir() if path.name not in ours | files):
        raise UserError(
            f"{output} already holds {foreign[0]}, which this command did not write; choose another `output`."
        )


def open_collection(request: Request) -> tuple[Collection, list[Decision]]:
    """The collection. If a folder has no captions and most names have words, the names become captions, and the second
    value holds that decision. Raises UserError for a folder that is not there, or without captions or such names."""
    try:
        return load_collection(request.data, FACTS_SIDE, request.collection), []
    except NoCaptions as error:
        words = {key: words_of_name(PurePosixPath(key).name) for key in error.keys}
        named = [key for key in error.keys if words[key]]
        are_alike = len(error.keys) > 1 and len({words[key] for key in named}) == 1  # cat/1.png, dog/1.png
        if len(named) < MOSTLY_NAMED * len(error.keys) or are_alike:
            raise
        config = replace(request.collection, captions_from="names")
        example = sorted(named, key=len)[len(named) // 2]
        reason = f"no file holds captions, and {example} is {words[example]!r}"
        return load_collection(request.data, FACTS_SIDE, config), [Decision("captions", "from names", reason)]


def _new_plan(request: Request, collection: Collection, say: Callable[[str], None]) -> Plan:
    if request.plan is not None:
        settings = read_settings(request.plan)
        start = None if request.start in (None, NO_START) else str(folder_of_start(request.start))
        return Plan(settings, [Decision("settings", "as they stand", f"in {request.plan}")], start=start)
    say(f"looking at {request.data}")
    facts = gather_facts(collection, request.seed)
    _require_captions(facts, request)
    say(f"{describe(facts)}; measuring how fast this machine trains, about 15 s")
    speed = measure_speed(list(facts.captions))
    given = {name: value for name, value in asdict(request.collection).items()
             if value != getattr(CollectionConfig(), name)}  # fmt: skip
    wishes = Wishes(request.image_size, request.settings)
    minutes = DEFAULT_MINUTES if request.minutes is None else request.minutes
    if request.start not in (None, NO_START):
        start = look_at_start(folder_of_start(request.start), collection)
        return make_plan(facts, speed, minutes, wishes, start, given)
    plan, why = make_plan(facts, speed, minutes, wishes, None, given), "you asked for none"
    if request.start is None:
        base, why = base_for(plan, facts, collection, wishes, given)
        if base is not None:
            plan = make_plan(facts, speed, minutes, wishes, base, given)
    return with_start_reason(plan, why)


def describe(facts: CollectionFacts) -> str:
    """The collection in one line for a person."""
    about = "about " if facts.counted < sum(facts.pictures.values()) else ""
    several = facts.captions_per_picture >= 1.5
    per_picture = f", {facts.captions_per_picture:.0f} captions per picture" if several else ""
    side = "drawings of any size" if facts.median_side is None else f"about {facts.median_side} pixels wide"
    return (
        f"{about}{facts.trained:,} pictures to train on, {facts.held_out:,} held out, {side}; "
        f"{facts.distinct_captions:,} different {'first ' if several else ''}captions of "
        f"{facts.words_per_caption:.1f} words{per_picture}"
    )


def _require_captions(facts: CollectionFacts, request: Request) -> None:
    if facts.distinct_captions == 1 and not request.ignore_findings:
        raise UserError(
            f"all {facts.counted} captions are {facts.captions[0]!r:.60}, so that a prompt decides nothing; write what "
            "each picture shows, or train all the same with `ignore_findings`."
        )
