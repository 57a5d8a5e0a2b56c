"""Runs the stages of a plan one after another, each by its own command, and skips those that are finished."""

import contextlib
import io
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqlm.data_prep.settings import FINDINGS_FILE, CollectionConfig
from vqlm.planning.plan import Plan
from vqlm.planning.reached import reached_by_evaluation
from vqlm.planning.request import Request
from vqlm.planning.saved_plan import MADE_FOR, remove_inspection
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json
from vqlm.training.watching.progress import format_seconds

RunCommand = Callable[[str, list[str]], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """One command of the plan.

    Args:
        command: subcommand of `vqlm`.
        title: what it does, for a person.
        words: its arguments.
        result: the file that exists once it is finished.
    """

    command: str
    title: str
    words: list[str]
    result: Path


def stages_of(plan: Plan, request: Request) -> list[Stage]:
    """The stages after the inspection of the collection."""
    output, configs = request.output, request.plan_folder
    tokenizer, data, model = output / "image_tokenizer", output / "data", output / "model"
    start = plan.start
    copies = ("--drop-copies",) if _drops_copies(request) else ()
    source = ("--image-tokenizer", tokenizer) if start is None else ("--for-model", start)
    stages = [
        Stage(
            "prepare", "encode pictures and captions",
            _words(
                "--config", configs / "prepare.yaml", "--data", request.data, *copies, *_limits(request), *source,
                "--output", data, "--resume",
            ),
            data / "manifest.json",
        ),
        Stage(
            "train-lm", "stage two: learn to draw from captions",
            _words("--config", configs / "train_lm.yaml", "--data", data, "--output", model, "--resume"),
            model / "run" / "summary.json",
        ),
        *([] if "sampling" in plan.settings["train_lm"] else [_choose_sampling(plan, model, data)]),
        Stage(
            "evaluate", "draw the held-out prompts",
            _words("--model", model, "--data", data, "--output", output),
            output / "report.json",
        ),
    ]  # fmt: skip
    if start is None:
        words = (
            "--config", configs / "train_vq.yaml", "--data", request.data, *copies, *_limits(request),
            "--output", tokenizer, "--resume",
        )  # fmt: skip
        stages.insert(
            0,
            Stage(
                "train-vq", "stage one: learn to turn pictures into codes", _words(*words),
                tokenizer / "run" / "summary.json",
            ),
        )  # fmt: skip
    return stages


def _drops_copies(request: Request) -> bool:
    """Whether the inspection found held-out pictures that are trained on too, which the training then leaves out."""
    findings = request.output / "inspection" / FINDINGS_FILE
    if request.ignore_findings or request.collection.drop_copies or not findings.exists():
        return False
    return bool(read_json(findings).get("drop_copies"))  # earlier versions did not write it


def _limits(request: Request) -> tuple[object, ...]:
    """The option `--max-skipped` as it is given now, which a begun plan takes too: it changes no result."""
    if request.ignore_findings:
        return "--max-skipped", 1.0
    share = request.collection.max_skipped
    return () if share == CollectionConfig.max_skipped else ("--max-skipped", share)


def _choose_sampling(plan: Plan, model: Path, data: Path) -> Stage:
    seconds = plan.seconds.get("choose_sampling")
    limit = ("--seconds", f"{seconds:.0f}") if seconds else ()
    words = _words(model, "--choose-on", data, *limit)
    return Stage("set-sampling", "choose how it draws, on held-out prompts", words, model / "run" / "sampling.json")


def run_stages(plan: Plan, request: Request, run_command: RunCommand, prefix: list[str], say: Say) -> None:
    """Run what is not finished yet, `run_command(name, words)` for each stage.

    Raises UserError if the inspection finds what would ruin the training.
    """
    seconds = {"train-vq": "train_vq", "train-lm": "train_lm", "set-sampling": "choose_sampling"}
    _run_inspection(request, run_command, prefix, say, len(stages_of(plan, request)) + 1)
    stages = stages_of(plan, request)  # which depend on what was found
    for number, stage in enumerate(stages, start=2):
        if stage.result.exists():
            continue
        about = plan.seconds.get(seconds.get(stage.command, ""))
        if stage.command == "train-lm" and about:
            about += plan.seconds["compile"]
        duration = f", about {format_seconds(about)}" if about else ""
        say(f"\n[{number}/{len(stages) + 1}] {stage.title}{duration}")
        say(f"$ {shlex.join([*prefix, stage.command, *stage.words])}")
        with _no_output(stage.command == "evaluate"):
            run_command(stage.command, stage.words)


def _run_inspection(request: Request, run_command: RunCommand, prefix: list[str], say: Say, count: int) -> None:
    folder = request.output / "inspection"
    page, result = folder / "inspection.md", folder / FINDINGS_FILE
    is_new = not result.exists()
    if is_new:
        remove_inspection(folder)  # an earlier run was stopped while it wrote
        words = _words("--config", request.plan_folder / "inspect.yaml", "--data", request.data, "--output", folder)
        say(f"\n[1/{count}] look for what is wrong with the pictures and captions")
        say(f"$ {shlex.join([*prefix, 'inspect-data', *words])}")
        with _no_output(True):
            try:
                run_command("inspect-data", words)
            except SystemExit as stopped:
                if stopped.code != 1:  # 1: something is wrong, which the page says
                    raise
    findings = read_json(result)
    repaired = findings.get("drop_copies", []) if _drops_copies(request) else []
    wrong = [text for text in findings["wrong"] if text not in repaired]
    if is_new:
        lines = [f"- wrong: {text}" for text in wrong]
        lines += [f"- {text} This training does so; with --ignore-findings it keeps them." for text in repaired]
        lines += [f"- {text}" for text in findings["remarks"]]
        for line in lines:
            say(line)
        say(f"{'nothing wrong was found; ' if not lines else ''}look at {page}")
    if wrong and not request.ignore_findings:
        raise UserError(
            f"training on {request.data} would go wrong: {wrong[0]} Repair that and run the same command again, or "
            "train all the same with `ignore_findings`."
        )


@contextlib.contextmanager
def _no_output(is_silent: bool) -> Iterator[None]:
    """Suppress what a stage prints to stdout, its report, which the caller sums up. Errors and progress stay."""
    if not is_silent:
        yield
        return
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _words(*parts: object) -> list[str]:
    return [str(part) for part in parts]


def closing_lines(request: Request, prefix: list[str], started: float) -> list[str]:
    """The held-out figures beside what chance gives, what limits the model, the page to look at, the next command."""
    output = request.output
    lines = ["", *reached_by_evaluation(output)]
    seconds = read_json(output / "report.json")["seconds"]
    # The image tokenizer of a model that was started from was trained there.
    trained = ["train_lm", *(["train_vq"] if (output / "image_tokenizer").exists() else [])]
    training = sum(seconds.get(name) or 0.0 for name in trained)
    took = format_seconds(time.monotonic() - started)
    lines.append(f"{format_seconds(training)} in training steps; this command ran for {took}")
    draw = [*prefix, "generate", "--model", str(output / "model"), "--prompt", _a_caption(output), "--output"]
    lines.append(f"Look at {output / 'report.html'} in a browser, then draw your own:")
    lines.append(f"  {shlex.join([*draw, 'picture.png'])}")
    return lines


def _a_caption(output: Path) -> str:
    """A caption that was trained on, as the prompt of an example: such a one is drawn best."""
    from vqlm.data_prep import PreparedSet

    return PreparedSet.load(output / "data", verify=False).train[0]["captions"][0]


def continue_command(request: Request, prefix: list[str], given: list[str]) -> str:
    """The command that continues an interrupted request. Until its plan is saved, that is the whole command as it was
    `given`."""
    if not (request.plan_folder / MADE_FOR).exists():
        return shlex.join([*prefix, "train", *given])
    words: list[Any] = ["train", request.data, "--output", request.output]
    words += ["--ignore-findings"] if request.ignore_findings else []
    return shlex.join([*prefix, *map(str, words)])
