"""Change how a finished model draws by default.

vqlm set-sampling runs/model --guidance-scale 2 --temperature 0.25 --min-p 0.05
"""

from dataclasses import fields
from pathlib import Path

from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.lm.settings import SETTINGS_FILE, SamplingConfig
from vqlm.scripts.options import run_script, script_parser
from vqlm.training.errors import UserError
from vqlm.training.files import read_json_object, require_writable, write_json


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("model", type=Path, help="Folder that vqlm train-lm finished.")
    for field in fields(SamplingConfig):
        parser.add_argument(f"--{field.name}", type=type(field.default), help="As it was, if not given.")
    settings = parser.parse_args(arguments)

    path = settings.model / SETTINGS_FILE
    content = read_json_object(path)
    require_writable(settings.model, "model")
    given = {field.name: getattr(settings, field.name) for field in fields(SamplingConfig)}
    if all(value is None for value in given.values()):
        raise UserError(f"there is nothing to change; give one of {', '.join(f'`{name}`' for name in given)}.")
    sampling = ModelFolderSettings.from_json(content).sampling.override(**given)
    write_json(path, content | {"sampling": vars(sampling)})
    print(f"{settings.model} now draws with {', '.join(f'{name} {value}' for name, value in vars(sampling).items())}")


if __name__ == "__main__":
    run_script(main)
