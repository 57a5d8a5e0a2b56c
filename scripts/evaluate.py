"""Report on a finished model: figures, samples, a page. The model's card gets the figures too.

vqlm evaluate --model runs/model --data runs/data --output runs/eval
"""

from pathlib import Path

from vqlm.lm.model_folder.names import settings_of
from vqlm.lm.picture_requests import require_seed
from vqlm.scripts.closing import close_stage
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.folders.folder_kinds import require_kind
from vqlm.training.folders.output_folder import require_writable


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Folder that vqlm train-lm finished.")
    parser.add_argument("--data", type=Path, required=True, help="Folder that vqlm prepare wrote.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for the report.")
    parser.add_argument("--seed", type=int, default=0, help="Decides the pictures that are drawn.")
    parser.add_argument(
        "--other_tasks", type=bool, default=False, help="Also: continuing pictures, captioning, choosing among draws."
    )
    settings = parser.parse_args(arguments)
    require_seed(settings.seed)
    require_writable(settings.output)
    settings_of(settings.model)
    require_kind(settings.data, "prepared set")
    require_writable(settings.model, "model")  # which keeps the figures

    from vqlm.data_prep import PreparedSet
    from vqlm.lm import TextToImagePipeline
    from vqlm.lm.evaluate.other_tasks import evaluate_other_tasks
    from vqlm.lm.evaluate.page_drawings import draw_for_page
    from vqlm.lm.evaluate.report import evaluate, require_no_other, require_pictures, write_report
    from vqlm.lm.evaluate.report_page import report_page
    from vqlm.lm.model_folder.finished_model import record_figures
    from vqlm.lm.prompts import without_word_warnings
    from vqlm.planning.reached import reached_by_evaluation

    require_no_other(settings.output)
    prepared = PreparedSet.load(settings.data)
    pipeline = TextToImagePipeline.from_pretrained(settings.model)
    require_pictures(pipeline, settings.model)
    with without_word_warnings():
        figures, shown = evaluate(pipeline, prepared, settings.seed)
        if settings.other_tasks:
            figures["other_tasks"] = evaluate_other_tasks(pipeline, prepared, settings.seed)
        drawings = draw_for_page(pipeline, shown, settings.seed)
    page, verdict = report_page(figures, shown, drawings, pipeline, prepared, settings.model)
    write_report(figures | {"verdict": verdict.to_json()}, shown, prepared, settings.model, settings.output, page)
    record_figures(settings.model, figures)
    print((settings.output / "report.md").read_text(encoding="utf-8"), flush=True)
    next_command = ("generate", "--model", settings.model, "--prompt", next(iter(shown.values())).captions[0])
    reached = "\n".join([*reached_by_evaluation(settings.output), f"look at {settings.output / 'report.html'}"])
    close_stage(reached, *next_command, "--output", "picture.png")


if __name__ == "__main__":
    run_script(main)
