"""Change how a finished model draws by default, or choose it on held-out prompts.

vqlm set-sampling runs/model --guidance-scale 2 --temperature 0.25 --min-p 0.05
vqlm set-sampling runs/model --choose-on runs/data
"""

from pathlib import Path

from vqlm.lm.model_folder.settings import ModelFolderSettings, save_sampling
from vqlm.lm.settings import SETTINGS_FILE, SamplingConfig
from vqlm.scripts.closing import close_stage
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.scripts.settings_options import add_overrides, overrides_of
from vqlm.training.errors import UserError, require_range
from vqlm.training.folders.folder_kinds import require_kind
from vqlm.training.folders.output_folder import require_writable
from vqlm.training.folders.whole_files import read_json_object


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path, help="Folder that vqlm train-lm finished.")
    add_overrides(parser, SamplingConfig, "as it was")
    parser.add_argument(
        "--choose_on", type=Path, help="Instead: folder that vqlm prepare wrote, on whose held-out prompts to choose."
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="For drawing with --choose-on; it tries what fits.")
    settings = parser.parse_args(arguments)
    require_range(settings, "(0, inf)", "seconds")

    require_kind(settings.model, "finished model")
    if settings.choose_on is not None:
        require_kind(settings.choose_on, "prepared set")
    if settings.seconds <= 0:
        raise UserError(f"`seconds` must be above 0, found {settings.seconds}.")
    saved = ModelFolderSettings.from_json(read_json_object(settings.model / SETTINGS_FILE))
    require_writable(settings.model, "model")
    given = overrides_of(SamplingConfig, settings)
    named = [name for name, value in given.items() if value is not None]
    if settings.choose_on is not None:
        if named:
            raise UserError(f"`{named[0]}` has no effect with `choose_on`; leave one of them out.")
        _choose(settings.model, settings.choose_on, settings.seconds)
        return
    if not named:
        raise UserError(f"there is nothing to change; give one of {', '.join(f'`{name}`' for name in given)}.")
    sampling = saved.sampling.override(**given)
    save_sampling(settings.model, sampling)
    print(f"{settings.model} now draws with {', '.join(f'{name} {value}' for name, value in vars(sampling).items())}")


def _choose(model: Path, data: Path, seconds: float) -> None:
    from vqlm.data_prep import PreparedSet
    from vqlm.lm import TextToImagePipeline
    from vqlm.lm.evaluate.choose_sampling import choose_sampling, save_choice
    from vqlm.lm.evaluate.report import require_pictures, require_same_tokenizers

    prepared, pipeline = PreparedSet.load(data), TextToImagePipeline.from_pretrained(model)
    require_same_tokenizers(pipeline, prepared)
    require_pictures(pipeline, model)
    choice = choose_sampling(pipeline, prepared, seconds)
    table = save_choice(choice, model)
    recall = f"R@10 {choice.line['r10']:.1%}, chance {min(1, 10 / choice.pictures):.1%}"
    recall += f", {choice.plain['r10']:.1%} as the model itself draws" if choice.plain else ""
    close_stage(
        f"sampling: {choice.sampling.describe()}; the best of {len(choice.table)} settings on {choice.prompts} "
        f"held-out prompts ({recall}); the table is {table}",
        "evaluate", "--model", model, "--data", data, "--output", model.with_name("report"),
    )  # fmt: skip


if __name__ == "__main__":
    run_script(main)
