"""Draw a prompt with a finished model.

python scripts/generate.py --model runs/model --prompt "red heart" --output picture.png
"""

from pathlib import Path

import torch

from lm import TextToImagePipeline
from training.cli import run_script, script_parser
from training.errors import UserError
from vq.pictures import picture_grid, to_pil


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Folder that train_lm.py finished.")
    parser.add_argument("--prompt", type=str, help="What to draw; without it the model draws what it likes.")
    parser.add_argument("--output", type=Path, required=True, help="Picture file to write.")
    parser.add_argument("--num_images", type=int, default=1, help="Pictures to draw, side by side in one file.")
    parser.add_argument("--seed", type=int, help="The same seed draws the same picture.")
    parser.add_argument("--guidance_scale", type=float, help="Weight of the prompt; the model's default if not given.")
    parser.add_argument(
        "--temperature", type=float, help="0 takes the likeliest code; the model's default if not given."
    )
    settings = parser.parse_args(arguments)
    if settings.output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"--output must end in .png, .jpg or .webp, found {settings.output.name!r}.")

    pipeline = TextToImagePipeline.from_pretrained(settings.model)
    if pipeline.image_tokenizer.config.network.spatial_dims != 2:
        raise UserError(
            f"{settings.model} draws arrays of shape {pipeline.image_tokenizer.config.network.input_shape}, not "
            "pictures; take them from Python: pipe(prompt).codes and pipe.image_tokenizer.decode_codes(codes)."
        )
    generator = None if settings.seed is None else torch.Generator().manual_seed(settings.seed)
    made = pipeline(
        settings.prompt,
        num_images_per_prompt=settings.num_images,
        generator=generator,
        guidance_scale=settings.guidance_scale,
        temperature=settings.temperature,
    )
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    pictures = pipeline.image_tokenizer.decode_codes(made.codes)
    (to_pil(pictures)[0] if len(pictures) == 1 else picture_grid([pictures])).save(settings.output)
    print(f"{settings.output}: {len(made.images)} drawn", flush=True)


if __name__ == "__main__":
    run_script(main)
