"""Draw a prompt with a finished model, continue a picture, or draw a part of it again.

vqlm generate --model runs/model --prompt "red heart" --output picture.png
vqlm generate --model runs/model --prompt "red heart" --image half.png --output whole.png
vqlm generate --model runs/model --image picture.png --mask hole.png --output repainted.png
"""

from pathlib import Path

from jsonargparse import Namespace
from vqlm.scripts.options import run_script, script_parser
from vqlm.training.errors import UserError

FIRST = (
    "model", "prompt", "output", "num_images", "seed", "guidance_scale", "temperature", "negative_prompt", "rerank",
    "image",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__, FIRST)
    parser.add_argument("--model", type=Path, required=True, help="Folder that vqlm train-lm finished.")
    parser.add_argument("--prompt", type=str, help="What to draw; without it the model draws what it likes.")
    parser.add_argument("--output", type=Path, required=True, help="Picture file to write.")
    parser.add_argument("--num_images", type=int, default=1, help="Pictures to draw, side by side in one file.")
    parser.add_argument("--seed", type=int, help="The same seed draws the same picture.")
    parser.add_argument("--guidance_scale", type=float, help="Weight of the prompt; the model's default if not given.")
    parser.add_argument(
        "--temperature", type=float, help="0 takes the likeliest code; the model's default if not given."
    )
    parser.add_argument("--negative_prompt", type=str, help="What guidance leads away from.")
    parser.add_argument("--rerank", type=int, help="Draw so many for each picture, keep one by the prompt.")
    parser.add_argument("--image", type=Path, help="Picture to continue, or to repaint under --mask.")
    parser.add_argument("--keep_rows", type=int, help="Rows of codes of --image that stay; half if not given.")
    parser.add_argument("--mask", type=Path, help="Picture as large as the model's, white where to draw again.")
    settings = parser.parse_args(arguments)
    if settings.output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"`output` must end in .png, .jpg or .webp, found {settings.output.name!r}.")
    _refuse_what_has_no_effect(settings)

    import torch
    from vqlm.data_prep.picture_files import open_picture
    from vqlm.lm import TextToImagePipeline
    from vqlm.vq.pixels import picture_grid, to_pil

    pipeline = TextToImagePipeline.from_pretrained(settings.model)
    if pipeline.image_tokenizer.config.network.spatial_dims != 2:
        raise UserError(
            f"{settings.model} draws arrays of shape {pipeline.image_tokenizer.config.network.input_shape}, not "
            "pictures; take them from Python: pipe(prompt).codes and pipe.image_tokenizer.decode_codes(codes)."
        )
    generator = None if settings.seed is None else torch.Generator().manual_seed(settings.seed)
    sampling = {"guidance_scale": settings.guidance_scale, "temperature": settings.temperature}
    if settings.image is None:
        output = pipeline(
            settings.prompt, negative_prompt=settings.negative_prompt, num_images_per_prompt=settings.num_images,
            rerank=1 if settings.rerank is None else settings.rerank, generator=generator, **sampling,
        )  # fmt: skip
    else:
        background = pipeline.image_tokenizer.config.background
        images = [open_picture(settings.image, background)] * settings.num_images
        if settings.mask is None:
            output = pipeline.complete(
                images, settings.prompt, keep_rows=settings.keep_rows, generator=generator, **sampling
            )
        else:
            mask = open_picture(settings.mask)
            output = pipeline.inpaint(images, mask, settings.prompt, generator=generator, **sampling)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    pictures = pipeline.image_tokenizer.decode_codes(output.codes)
    (to_pil(pictures)[0] if len(pictures) == 1 else picture_grid([pictures])).save(settings.output)
    print(f"{settings.output}: {len(output.images)} drawn", flush=True)


def _refuse_what_has_no_effect(settings: Namespace) -> None:
    needs = {"mask": "image", "keep_rows": "image"}
    for name, other in needs.items():
        if getattr(settings, name) is not None and getattr(settings, other) is None:
            raise UserError(f"`{name}` needs `{other}`.")
    if settings.keep_rows is not None and settings.mask is not None:
        raise UserError("`keep_rows` continues a picture and `mask` repaints a part of it; give one of the two.")
    for name in ("negative_prompt", "rerank"):
        if settings.image is not None and getattr(settings, name) is not None:
            raise UserError(f"`{name}` has no effect with `image`; leave it out.")


if __name__ == "__main__":
    run_script(main)
