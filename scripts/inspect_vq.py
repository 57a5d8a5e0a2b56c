"""What is wrong with a trained tokenizer? A page with pictures, and findings with a remedy.

vqlm inspect-vq --model runs/vq --data openmoji --output runs/inspection
"""

import json
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from vqlm.data_prep.collections.source_names import require_data
from vqlm.data_prep.settings import DATA_HELP, CollectionConfig
from vqlm.lm.settings import require_count
from vqlm.scripts.opening import load_for_tokenizer
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.errors import UserError
from vqlm.training.extras import install_hint
from vqlm.training.folders.folder_kinds import require_kind
from vqlm.training.folders.output_folder import require_output
from vqlm.vq.quantizers.settings import CONFIGS
from vqlm.vq.settings import VQTrainingConfig

# Options of `vqlm train-vq`, which the page speaks of.
OF_TRAINING = [
    *(f"quantizer.{field.name}" for kind in CONFIGS.values() for field in fields(kind)),
    *(field.name for field in fields(VQTrainingConfig)),
]


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Folder that vqlm train-vq finished.")
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument("--output", type=Path, required=True, help="Folder for inspection.md and its pictures.")
    parser.add_argument("--split", default="held_out", help="held_out, or train.")
    parser.add_argument("--max_pictures", type=int, default=200_000, help="The most pictures of the training split.")
    parser.add_class_arguments(CollectionConfig)
    settings = parser.parse_args(arguments)
    require_kind(settings.model, "image tokenizer")
    require_data(settings.data)
    require_output(settings.output, can_resume=False)
    require_count("max_pictures", settings.max_pictures)
    if settings.split not in ("held_out", "train"):
        raise UserError(f"`split` must be held_out or train, found {settings.split!r}.")
    if missing := [name for name in ("matplotlib", "torchmetrics") if find_spec(name) is None]:
        raise UserError(f"{missing[0]}, which the page needs, is missing; install it: {install_hint('demo')}.")

    from vqlm.vq import load_image_tokenizer
    from vqlm.vq.inspection import findings, inspect_tokenizer
    from vqlm.vq.inspection_page import write_page

    model = load_image_tokenizer(settings.model)
    pictures = getattr(load_for_tokenizer(settings, model), settings.split)
    inspection = inspect_tokenizer(model, pictures)
    log = settings.model / "run" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    remarks = [parser.in_options(sentence, OF_TRAINING) for sentence in findings(inspection, model, lines)]
    settings.output.mkdir(parents=True, exist_ok=True)
    write_page(inspection, remarks, model, pictures, settings.output)
    print((settings.output / "inspection.md").read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    run_script(main)
