"""A plan on disk: the YAML of each stage's command, a page, and what it was made for.

OUTPUT/plan/
  inspect.yaml  train_vq.yaml  prepare.yaml  train_lm.yaml    what the single commands take with --config
  plan.md       the decisions and their reasons
  made_for.json the arguments and the collection that the plan was made for: a later call compares them
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from vqlm.planning.arguments import STAGES, read_settings
from vqlm.planning.plan import Plan
from vqlm.planning.reasons import Decision
from vqlm.training.folders.whole_files import read_json, write_json

MADE_FOR = "made_for.json"  # written last: with it the plan is whole
PAGE = "plan.md"


def save_plan(plan: Plan, folder: Path, made_for: dict[str, Any]) -> None:
    """Write the plan to `folder`; `made_for` holds JSON values."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        text = yaml.safe_dump(plan.settings[stage], sort_keys=False)  # {} where there are none
        (folder / f"{stage}.yaml").write_text(text, encoding="utf-8")
    (folder / PAGE).write_text(plan_page(plan, made_for), encoding="utf-8")
    decisions = [asdict(decision) for decision in plan.decisions]
    write_json(
        folder / MADE_FOR,
        {**made_for, "decisions": decisions, "notes": plan.notes, "seconds": plan.seconds, "start": plan.start},
    )


def load_plan(folder: Path) -> tuple[Plan, dict[str, Any]] | None:
    """The plan in `folder`, with the edits of a person, and what it was made for; None if there is no plan. Raises
    UserError for YAML that cannot be read."""
    if not (folder / MADE_FOR).exists():
        return None
    made_for = read_json(folder / MADE_FOR)
    decisions = [Decision(**decision) for decision in made_for.pop("decisions")]
    rest = {name: made_for.pop(name) for name in ("notes", "seconds", "start")}
    return Plan(read_settings(folder), decisions, **rest), made_for


def remove_plan(folder: Path) -> None:
    """Remove the plan, and no other file."""
    for name in (MADE_FOR, PAGE, *(f"{stage}.yaml" for stage in STAGES)):
        (folder / name).unlink(missing_ok=True)


def remove_inspection(folder: Path) -> None:
    """Remove the inspection of the collection: one that belongs to another plan, or was not finished."""
    if folder.exists():
        shutil.rmtree(folder)


def plan_lines(plan: Plan) -> list[str]:
    """The decisions in columns, one per line, then the notes."""
    widths = [
        max((len(text) for text in column), default=0)
        for column in zip(*((decision.what, decision.choice) for decision in plan.decisions), strict=True)
    ] or [0, 0]
    lines = [
        f"  {decision.what:{widths[0]}}  {decision.choice:{widths[1]}}  {decision.reason}".rstrip()
        for decision in plan.decisions
    ]
    return lines + [f"  note: {note}" for note in plan.notes]


def plan_page(plan: Plan, made_for: dict[str, Any]) -> str:
    """The plan as Markdown."""
    lines = [f"# Plan for {made_for.get('data', 'a collection')}", "", "| what | choice | why |", "|---|---|---|"]
    lines += [f"| {decision.what} | {decision.choice} | {decision.reason} |" for decision in plan.decisions]
    lines += ["", *(f"- {note}" for note in plan.notes)] if plan.notes else []
    lines += [
        "",
        "The YAML files beside this page hold the settings of each stage. Until a stage has begun its file may",
    ]
    lines += ["be edited: the next `vqlm train` reads it."]
    return "\n".join(lines) + "\n"
