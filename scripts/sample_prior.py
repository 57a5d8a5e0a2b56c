"""Why the second stage is needed: pictures of codes drawn uniformly, by their frequencies, and by the model.

vqlm sample-prior --model runs/model --data runs/data --output prior.png

The image tokenizer decodes all three. Uniform codes and codes of the right frequencies know nothing of one another; the
model has learned the distribution of whole pictures (van den Oord et al. 2017, arXiv 1711.00937, section 3.3).
"""

from pathlib import Path

from vqlm.lm.model_folder.names import settings_of
from vqlm.lm.picture_requests import require_seed
from vqlm.scripts.opening import require_picture_file
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.errors import UserError, require_range
from vqlm.training.folders.folder_kinds import require_kind

CODES_AT_ONCE = 65_536  # pictures whose codes are counted at a time


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Folder that vqlm train-lm finished.")
    parser.add_argument("--data", type=Path, required=True, help="Folder that vqlm prepare wrote.")
    parser.add_argument(
        "--output", type=Path, required=True, help="Picture file to write, one row of pictures per kind."
    )
    parser.add_argument("--num_images", type=int, default=8, help="Pictures of each kind.")
    parser.add_argument("--seed", type=int, default=0, help="Decides the pictures.")
    settings = parser.parse_args(arguments)
    require_seed(settings.seed)
    settings_of(settings.model)
    require_kind(settings.data, "prepared set")
    require_picture_file(settings.output)
    require_range(settings, "[1, inf)", "num_images")

    import torch

    from vqlm.data_prep import PreparedSet
    from vqlm.lm import TextToImagePipeline
    from vqlm.lm.evaluate.gallery import decode_flat
    from vqlm.vq.pixels import picture_grid

    pipeline, prepared = TextToImagePipeline.from_pretrained(settings.model), PreparedSet.load(settings.data)
    if pipeline.image_tokenizer.config.network.spatial_dims != 2:
        raise UserError(f"the comparison draws pictures; {settings.model} draws arrays.")
    size, length = pipeline.vocabulary.image.size, pipeline.image_tokenizer.config.tokens_per_image
    counts = torch.zeros(size)
    for codes in prepared.code_parts(prepared.train, CODES_AT_ONCE):
        if codes.max() >= size:
            raise UserError(f"{settings.data} was not made with the image tokenizer of {settings.model}.")
        counts += torch.bincount(codes.flatten(), minlength=size)
    generator, shape = torch.Generator().manual_seed(settings.seed), (settings.num_images, length)
    # The whole distribution, whatever cuts the folder draws with by default.
    nothing = [None] * settings.num_images
    output = pipeline(nothing, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, generator=generator)
    drawn = {
        "uniform": torch.randint(size, shape, generator=generator),
        "by frequency": torch.multinomial(counts, settings.num_images * length, True, generator=generator).view(shape),
        "model": output.codes.flatten(1).cpu(),
    }
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    picture_grid([decode_flat(pipeline, codes) for codes in drawn.values()]).save(settings.output)
    print(f"{settings.output}: {' | '.join(drawn)}, {settings.num_images} each", flush=True)


if __name__ == "__main__":
    run_script(main)
