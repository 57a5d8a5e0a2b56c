"""What is wrong with a trained tokenizer? A page with pictures, and findings with a remedy.

python scripts/inspect_vq.py --model runs/vq --data openmoji --output runs/inspection
"""

import json
from importlib.util import find_spec
from pathlib import Path

from data_prep import load_collection, load_pictures
from data_prep.prepare import load_image_tokenizer
from training.cli import run_script, script_parser
from training.errors import UserError
from training.files import require_empty
from vq.inspection import findings, inspect_tokenizer
from vq.inspection_page import write_page


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Folder that train_vq.py finished.")
    parser.add_argument("--data", required=True, help="openmoji, a folder of captioned pictures, or an .npz of arrays.")
    parser.add_argument("--output", type=Path, required=True, help="Folder for inspection.md and its pictures.")
    parser.add_argument("--split", default="held_out", help="held_out, or train.")
    settings = parser.parse_args(arguments)
    require_empty(settings.output)
    if settings.split not in ("held_out", "train"):
        raise UserError(f"--split must be held_out or train, found {settings.split!r}.")
    if missing := [name for name in ("matplotlib", "torchmetrics") if find_spec(name) is None]:
        raise UserError(f"inspect_vq.py needs {missing[0]}, which is missing; pip install 'vqlm[demo]'.")

    model = load_image_tokenizer(settings.model)
    shape = model.config.network.input_shape
    pictures = load_pictures(getattr(load_collection(settings.data, shape[0]), settings.split), shape)
    inspection = inspect_tokenizer(model, pictures)
    log = settings.model / "run" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    found = findings(inspection, model, lines)
    settings.output.mkdir(parents=True, exist_ok=True)
    write_page(inspection, found, model, pictures, settings.output)
    print((settings.output / "inspection.md").read_text(encoding="utf-8"), flush=True)


if __name__ == "__main__":
    run_script(main)
