"""Describe pictures with a finished model that was trained to (vqlm train-lm --sequences.captioning).

vqlm caption --model runs/model --image picture.png --output metadata.jsonl
"""

import json
import os
import sys
from pathlib import Path

from vqlm.lm.model_folder.names import settings_of
from vqlm.scripts.opening import require_pictures
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.errors import UserError
from vqlm.training.folders.output_folder import require_writable


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--model", type=str, required=True, help="Finished model: its folder, or OWNER/NAME on the hub."
    )
    parser.add_argument("--image", type=Path, nargs="+", required=True, help="Picture files.")
    parser.add_argument("--output", type=Path, help="metadata.jsonl to write, which --data of a folder reads.")
    settings = parser.parse_args(arguments)
    if settings.output is not None and settings.output.exists():
        raise UserError(f"{settings.output} exists; name another file.")
    if settings.output is not None:
        require_writable(settings.output.parent)
    require_pictures(*settings.image)
    if (model := settings_of(settings.model)) is not None and not model.get("can_caption", False):
        raise UserError(
            f"{settings.model} was not trained to describe pictures; train it with `vqlm train-lm` and "
            "--sequences.captioning above 0."
        )

    from vqlm.data_prep.pictures.picture_files import read_picture
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
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        settings.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
        if outside := sum(_name_of(path, settings.output).startswith("../") for path in settings.image):
            print(
                f"note: {outside} pictures lie outside {settings.output.parent}: read it with --allow-outside-files, "
                "or write the file beside them.",
                file=sys.stderr,
            )


def _name_of(path: Path, output: Path | None) -> str:
    """How the written file names a picture: from the folder in which it lies, as --data of a folder reads it."""
    if output is None:
        return str(path)
    relative = os.path.relpath(path, output.parent)
    if relative.startswith(".."):  # perhaps through a link to a folder; a link to the picture itself stays its name
        relative = os.path.relpath(path.parent.resolve() / path.name, output.parent.resolve())
    return Path(relative).as_posix()


if __name__ == "__main__":
    run_script(main)
