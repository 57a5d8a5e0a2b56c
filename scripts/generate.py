"""Draw prompts with a finished model, continue a picture, draw a part of it again, or repeat what a PNG says.

vqlm generate --model runs/model --prompt "red heart" --output picture.png
vqlm generate --model runs/model --prompts prompts.txt --num-images 4 --output pictures
vqlm generate --like picture.png --seed 5 --output another.png
vqlm generate --model runs/model --prompt "red heart" --image half.png --output whole.png
vqlm generate --model runs/model --image picture.png --mask hole.png --output repainted.png
"""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace

from vqlm.lm.model_folder.names import settings_of
from vqlm.lm.picture_requests import PictureRequest, file_names, read_like, read_prompts, with_seeds
from vqlm.lm.settings import require_count
from vqlm.scripts.opening import require_pictures
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.errors import UserError
from vqlm.training.folders.output_folder import require_writable

FIRST = (
    "model", "prompt", "prompts", "output", "num_images", "seed", "like", "guidance_scale", "temperature",
    "negative_prompt", "rerank", "image",
)  # fmt: skip
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__, FIRST)
    parser.add_argument("--model", type=str, help="Finished model: its folder, or OWNER/NAME on the hub.")
    parser.add_argument("--prompt", type=str, help="What to draw; without it the model draws what it likes.")
    parser.add_argument(
        "--prompts", type=Path, help="Text file of a prompt per line; .jsonl of objects with prompt and settings."
    )
    parser.add_argument(
        "--output", type=Path, required=True, help="Picture file for all; or a folder, for a file per picture."
    )
    parser.add_argument("--num_images", type=int, help="Pictures to draw of each prompt; 1 if not given.")
    parser.add_argument(
        "--seed", type=int, help="The same seed draws the same picture; drawn and printed if not given."
    )
    parser.add_argument("--like", type=Path, help="PNG of this command to draw again; other options change it.")
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace --output if it exists.")
    parser.add_argument("--guidance_scale", type=float, help="Weight of the prompt; the model's default if not given.")
    parser.add_argument(
        "--temperature", type=float, help="0 takes the likeliest code; the model's if not given, of several pictures 1."
    )
    parser.add_argument(
        "--guidance_schedule", type=Literal["constant", "cosine"], help="The model's default if not given."
    )
    parser.add_argument("--top_k", type=int, help="Codes to choose among; the model's default if not given.")
    parser.add_argument("--top_p", type=float, help="Probability to choose within; the model's default if not given.")
    parser.add_argument("--min_p", type=float, help="Least share of the likeliest; the model's default if not given.")
    parser.add_argument("--device", type=str, help="Such as cpu or cuda; the best of this machine if not given.")
    parser.add_argument(
        "--dtype", type=Literal["float32", "bfloat16", "float16"],
        help="Precision of the language model's weights; float32 if not given.",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=64, help="Pictures drawn at a time.")
    parser.add_argument("--negative_prompt", type=str, help="What guidance leads away from.")
    parser.add_argument("--rerank", type=int, help="Draw so many for each picture, keep one by the prompt.")
    parser.add_argument("--image", type=str, help="Picture to continue, or to repaint under --mask.")
    parser.add_argument("--keep_rows", type=int, help="Rows of codes of --image that stay; half if not given.")
    parser.add_argument("--mask", type=str, help="Picture as large as the model's, white where to draw again.")
    settings = parser.parse_args(arguments)
    drawn_with, requests = _what_to_draw(settings)
    names = _names_of_files(settings, requests)
    require_count("batch_size", settings.batch_size)
    settings_of(drawn_with["model"])
    for request in requests:
        require_pictures(request.image, request.mask)

    from vqlm.lm import TextToImagePipeline
    from vqlm.lm.drawn_files import draw, save_each, save_sheet, with_defaults

    pipeline = TextToImagePipeline.from_pretrained(
        drawn_with["model"], settings.device, drawn_with["dtype"], batch_size=settings.batch_size
    )
    if pipeline.image_tokenizer.config.network.spatial_dims != 2:
        raise UserError(
            f"{drawn_with['model']} draws arrays of shape {pipeline.image_tokenizer.config.network.input_shape}, not "
            "pictures; take them from Python: pipe(prompt).codes and pipe.image_tokenizer.decode_codes(codes)."
        )
    requests = with_defaults(pipeline, requests)
    drawn = draw(pipeline, requests)
    if names:
        for path, request in save_each(settings.output, drawn, names, drawn_with):
            print(f"{path}: seed {request.seed}", flush=True)
        return
    save_sheet(settings.output, drawn, requests, drawn_with)
    count = sum(request.num_images for request in requests)
    print(f"{settings.output}: {count} drawn, seed {', '.join(str(request.seed) for request in requests)}", flush=True)


def _what_to_draw(settings: Namespace) -> tuple[dict[str, Any], list[PictureRequest]]:
    """`model` and `dtype`, and the requests with their seeds. Options go before what --like says."""
    given = {name: getattr(settings, name) for name in PictureRequest.__dataclass_fields__}
    drawn_with, requests = ({}, [PictureRequest()]) if settings.like is None else read_like(settings.like)
    if settings.prompts is not None:
        if settings.prompt is not None:
            raise UserError("`prompt` is one prompt and `prompts` a file of them; give one of the two.")
        if len(requests) > 1:
            raise UserError(f"{settings.like} shows {len(requests)} prompts; leave `prompts` out.")
    if settings.prompts is not None or settings.seed is not None:  # the seeds of the request no longer apply
        requests = [replace(request, seed=None) for request in requests]
    requests = [request.changed(given | {"seed": None}) for request in requests]
    if settings.prompts is not None:
        requests = read_prompts(settings.prompts, requests[0])
    drawn_with = {"dtype": "float32"} | drawn_with
    drawn_with |= {name: value for name in ("model", "dtype") if (value := getattr(settings, name)) is not None}
    if "model" not in drawn_with:
        raise UserError("required, and not given: `model`, the folder of a finished model, or OWNER/NAME on the hub.")
    return drawn_with, with_seeds(requests, secrets.randbelow(2**31) if settings.seed is None else settings.seed)


def _names_of_files(settings: Namespace, requests: Sequence[PictureRequest]) -> list[str]:
    """The names of the files if `output` is a folder, else none. Raises UserError if they cannot be written."""
    output, is_folder = settings.output, not settings.output.suffix or settings.output.is_dir()
    if not is_folder and output.suffix.lower() not in PICTURES:
        raise UserError(
            f"`output` must end in .png, .jpg or .webp, or be a folder for a file per picture; found {output.name!r}."
        )
    require_writable(output if is_folder else output.parent)
    names = file_names(requests) if is_folder else []
    paths = [output / name for name in names] or [output]
    if not settings.overwrite and (existing := [path for path in paths if path.exists()]):
        raise UserError(f"{existing[0]} exists; name another `output`, or give `overwrite`.")
    return names


if __name__ == "__main__":
    run_script(main)
