"""Draw a prompt with a finished model, continue a picture, or draw a part of it again.

vqlm generate --model runs/model --prompt "red heart" --output picture.png
vqlm generate --model runs/model --prompt "red heart" --image half.png --output whole.png
vqlm generate --model runs/model --image picture.png --mask hole.png --output repainted.png
"""

import json
import secrets
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from vqlm.lm.settings import SamplingConfig, require_count
from vqlm.scripts.options import add_overrides, overrides_of, run_script, script_parser
from vqlm.training.errors import UserError

FIRST = (
    "model", "prompt", "output", "num_images", "seed", "guidance_scale", "temperature", "negative_prompt", "rerank",
    "image",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__, FIRST)
    parser.add_argument(
        "--model", type=str, required=True, help="Finished model: its folder, or OWNER/NAME on the hub."
    )
    parser.add_argument("--prompt", type=str, help="What to draw; without it the model draws what it likes.")
    parser.add_argument("--output", type=Path, required=True, help="Picture file to write.")
    parser.add_argument("--num_images", type=int, default=1, help="Pictures to draw, side by side in one file.")
    parser.add_argument(
        "--seed", type=int, help="The same seed draws the same picture; drawn and printed if not given."
    )
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace --output if it exists.")
    add_overrides(parser, SamplingConfig, "the model's default")
    parser.add_argument("--device", type=str, help="Such as cpu or cuda; the best of this machine if not given.")
    parser.add_argument(
        "--dtype", type=Literal["float32", "bfloat16", "float16"], default="float32",
        help="Precision of the language model's weights.",
    )  # fmt: skip
    parser.add_argument("--batch_size", type=int, default=64, help="Pictures drawn at a time.")
    parser.add_argument("--negative_prompt", type=str, help="What guidance leads away from.")
    parser.add_argument("--rerank", type=int, help="Draw so many for each picture, keep one by the prompt.")
    parser.add_argument("--image", type=Path, help="Picture to continue, or to repaint under --mask.")
    parser.add_argument("--keep_rows", type=int, help="Rows of codes of --image that stay; half if not given.")
    parser.add_argument("--mask", type=Path, help="Picture as large as the model's, white where to draw again.")
    settings = parser.parse_args(arguments)
    if settings.output.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"`output` must end in .png, .jpg or .webp, found {settings.output.name!r}.")
    _refuse_what_has_no_effect(settings)
    for name in ("num_images", "batch_size", "rerank"):
        if getattr(settings, name) is not None:
            require_count(name, getattr(settings, name))
    sampling = overrides_of(SamplingConfig, settings)
    SamplingConfig().override(**sampling)  # which raises for values out of range, before the model is loaded
    if settings.output.exists() and not settings.overwrite:
        raise UserError(f"{settings.output} exists; name another file, or give `overwrite`.")

    from vqlm.data_prep.picture_files import open_picture, read_picture
    from vqlm.lm import TextToImagePipeline
    from vqlm.vq.pixels import picture_grid, to_pil

    pipeline = TextToImagePipeline.from_pretrained(
        settings.model, settings.device, settings.dtype, batch_size=settings.batch_size
    )
    if pipeline.image_tokenizer.config.network.spatial_dims != 2:
        raise UserError(
            f"{settings.model} draws arrays of shape {pipeline.image_tokenizer.config.network.input_shape}, not "
            "pictures; take them from Python: pipe(prompt).codes and pipe.image_tokenizer.decode_codes(codes)."
        )
    generator = secrets.randbelow(2**31) if settings.seed is None else settings.seed
    if settings.image is None:
        output = pipeline(
            settings.prompt, negative_prompt=settings.negative_prompt, num_images_per_prompt=settings.num_images,
            rerank=1 if settings.rerank is None else settings.rerank, generator=generator, **sampling,
        )  # fmt: skip
    else:
        picture = read_picture(settings.image, pipeline.image_tokenizer.image_processor)
        images = [picture] * settings.num_images
        if settings.mask is None:
            output = pipeline.complete(
                images, settings.prompt, keep_rows=settings.keep_rows, generator=generator, **sampling
            )
        else:
            mask = open_picture(settings.mask)
            output = pipeline.inpaint(images, mask, settings.prompt, generator=generator, **sampling)
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    pictures = pipeline.image_tokenizer.decode_codes(output.codes)
    picture = to_pil(pictures)[0] if len(pictures) == 1 else picture_grid([pictures])
    picture.save(settings.output, **_described(settings, generator, pipeline.sampling.override(**sampling)))
    print(f"{settings.output}: {len(output.images)} drawn, seed {generator}", flush=True)


def _described(settings: Namespace, seed: int, sampling: SamplingConfig) -> dict[str, Any]:
    """What a PNG says of how it was drawn, as one text under the name "vqlm"."""
    if settings.output.suffix.lower() != ".png":
        return {}
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    described = {"model": settings.model, "prompt": settings.prompt, "seed": seed} | vars(sampling)
    described |= {
        "negative_prompt": settings.negative_prompt,
        "num_images": settings.num_images,
        "rerank": settings.rerank,
    }
    info.add_text("vqlm", json.dumps(described))
    return {"pnginfo": info}


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
