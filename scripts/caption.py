"""Describe pictures with a finished model that was trained to (vqlm train-lm --sequences.captioning).

vqlm caption --model runs/model --image picture.png --output metadata.jsonl
"""

import json
import os
from pathlib import Path

from vqlm.scripts.options import run_script, script_parser
from vqlm.training.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Folder that vqlm train-lm finished.")
    parser.add_argument("--image", type=Path, nargs="+", required=True, help="Picture files.")
    parser.add_argument("--output", type=Path, help="metadata.jsonl to write, which --data of a folder reads.")
    settings = parser.parse_args(arguments)
    if settings.output is not None and settings.output.exists():
        raise UserError(f"{settings.output} exists; name another file.")

    from vqlm.data_prep.picture_files import read_picture
    from vqlm.lm import TextToImagePipeline

    pipeline = TextToImagePipeline.from_pretrained(settings.model)
    image_processor = pipeline.image_tokenizer.image_processor
    captions = pipeline.caption([read_picture(path, image_processor) for path in settings.image])
    lines = [
        json.dumps({"file_name": _name_of(path, settings.output), "caption": caption})
        for path, caption in zip(settings.image, captions, strict=True)
    ]
    print("\n".join(lines), flush=True)
    if settings.output is not None:
        settings.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _name_of(path: Path, output: Path | None) -> str:
    """How the written file names a picture: from the folder in which it lies, as --data of a folder reads it."""
    return str(path) if output is None else Path(os.path.relpath(path.resolve(), output.resolve().parent)).as_posix()


if __name__ == "__main__":
    run_script(main)
