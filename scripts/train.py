"""From a folder of captioned pictures to a model that draws a prompt: plans, trains both stages, evaluates.

vqlm train my_pictures --minutes 30 --output runs/mine

It prints what it plans and why before it begins, and writes that to OUTPUT/plan. Run again, it continues. Any setting
of a stage can be given: --vq.NAME is NAME of `vqlm train-vq`, --prepare.NAME of `vqlm prepare`, --lm.NAME of
`vqlm train-lm`. Or run it with --plan-only, edit the YAML files in OUTPUT/plan, and run it again.
"""

import sys
import time
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from vqlm.data_prep.collections.source_names import require_data
from vqlm.data_prep.settings import DATA_HELP, CollectionConfig
from vqlm.planning.arguments import NO_START, check_minutes, check_side, folder_of_start, read_settings, side_of
from vqlm.scripts.closing import without_next_command
from vqlm.scripts.commands import command_prefix, run_command
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.scripts.settings_options import values_of
from vqlm.scripts.stage_settings import STAGES, split_by_stage, typed_settings
from vqlm.training.folders.output_folder import require_writable

FIRST = ("data", "minutes", "output", "image_size", "start", "plan_only", "plan", "ignore_findings")
# Folders that people collected hold more broken and oversized files than a prepared data set; each is listed.
MAX_SKIPPED = 0.1
PREFIXES = {"train-vq": "vq.", "prepare": "prepare.", "train-lm": "lm."}  # of a command's options here


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__, FIRST)
    parser.add_argument("data", help=DATA_HELP)
    parser.add_argument("--output", type=Path, required=True, help="Folder for all that is made.")
    parser.add_argument("--minutes", type=float, help="For all stages together; 30 by default.")
    parser.add_argument("--image_size", type=int, help="Side of the model's pictures; by default the plan chooses.")
    parser.add_argument(
        "--start",
        help="Finished model to start from, whose image tokenizer is kept: a folder, or emoji, which comes with a "
        "checkout; none for a new one. By default emoji where pictures are few.",
    )
    parser.add_argument("--plan_only", type=bool, default=False, help="Write OUTPUT/plan, which may be edited; stop.")
    parser.add_argument("--plan", type=Path, help="Folder of train_vq.yaml, train_lm.yaml, ... to take as they stand.")
    parser.add_argument(
        "--ignore_findings", type=bool, default=False, help="Train even if `vqlm inspect-data` finds faults."
    )
    parser.add_argument("--seed", type=int, default=0, help="Decides which pictures the plan looks at.")
    parser.add_class_arguments(CollectionConfig)
    parser.set_defaults(max_skipped=MAX_SKIPPED)
    given = list(sys.argv[1:] if arguments is None else arguments)
    words, of_stages = split_by_stage(given)
    settings = parser.parse_args(words)
    require_writable(settings.output)
    with parser.around():
        stage_settings = {STAGES[prefix]: typed_settings(prefix, of_stage) for prefix, of_stage in of_stages.items()}
    _check(settings, stage_settings)

    started = time.monotonic()
    report = settings.output / "report.json"
    from vqlm.planning.request import Request, plan_for
    from vqlm.planning.saved_plan import plan_lines
    from vqlm.planning.stages import closing_lines, continue_command, run_stages
    from vqlm.training.stop_signals import Interrupted

    request = Request(
        settings.data, settings.output, settings.minutes, settings.image_size, settings.start, settings.plan,
        values_of(CollectionConfig, settings),
        stage_settings,
        settings.ignore_findings, settings.seed,
    )  # fmt: skip

    def say(text: str) -> None:
        print(parser.in_options(text), flush=True)

    def run_stage(name: str, words: list[str]) -> None:
        with parser.around(PREFIXES.get(name, "")):
            run_command(name, words)

    try:
        plan = plan_for(request, say)
        if report.exists():
            page = next(path for path in (report.with_suffix(".html"), report.with_suffix(".md")) if path.exists())
            say(f"All is done: {page}. Remove {settings.output} to start again.")
            return
        say("\n".join([f"plan for {request.data}, written to {request.plan_folder}:", *plan_lines(plan)]))
        if settings.plan_only:
            say(f"Begin with: {continue_command(request, command_prefix(), given)}")
            return
        with without_next_command():
            run_stages(plan, request, run_stage, command_prefix(), say)
    except (KeyboardInterrupt, Interrupted) as stopped:
        say(f"\nstopped; continue with: {continue_command(request, command_prefix(), given)}")
        sys.exit(stopped.code if isinstance(stopped, Interrupted) else 130)
    say("\n".join(closing_lines(request, command_prefix(), started)))


def _check(settings: Namespace, stage_settings: dict[str, Any]) -> None:
    """Raises UserError for what the arguments alone show to be wrong, before anything heavy is imported or read."""
    if settings.minutes is not None:
        check_minutes(settings.minutes)
    network = stage_settings.get("train_vq", {}).get("network", {})
    side = side_of(settings.image_size, network.get("input_shape"))
    if side is not None and settings.start in (None, NO_START):
        check_side(side)
    require_data(settings.data)
    if settings.start not in (None, NO_START):
        folder_of_start(settings.start)
    if settings.plan is not None:
        read_settings(settings.plan)


if __name__ == "__main__":
    run_script(main)
