"""Draw the pictures of docs/troubleshooting.md: each fault beside its remedy, on a collection that takes minutes.

python docs/troubleshooting_pictures.py

Trains three image tokenizers and two language models on generated shapes, on two CPU cores, and writes
docs/images/trouble-*.png. The captions under the pictures in docs/troubleshooting.md quote what this script prints.
"""

import csv
import itertools
import random
import tempfile
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from vqlm.data_prep import PreparedSet, SequenceConfig, TextConfig, load_collection, load_pictures, prepare
from vqlm.lm import LanguageModelConfig, LMTrainingConfig, SamplingConfig, TextToImagePipeline
from vqlm.lm.train import train_lm
from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQTrainingConfig, VQVAEConfig, picture_grid, to_pixel_values
from vqlm.vq.metrics import CodeUsage
from vqlm.vq.train import train_vq

IMAGES = Path(__file__).parent / "images"
SIDE = 32
COLOURS = {"red": "#d62828", "yellow": "#ffd60a", "green": "#2a9d3f", "blue": "#1d4ed8", "black": "#111111"}
SHAPES = ("circle", "square", "triangle", "ring")
COPIES = 30
NUM_SHOWN = 12
VQ_STEPS = 400
LM_STEPS = 1200
PROMPTS = [f"{colour} {shape}" for shape, colour in itertools.product(SHAPES[:3], list(COLOURS)[:4])]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        _draw_collection(Path(folder) / "pictures")
        collection = load_collection(str(Path(folder) / "pictures"))
        pictures = load_pictures(collection, [SIDE, SIDE])
        originals = to_pixel_values(pictures.held_out[:NUM_SHOWN])

        def tokenizer(name: str, quantizer: VQConfig, steps: int = VQ_STEPS) -> VQVAE:
            model = train_vq(
                pictures.train, pictures.held_out, Path(folder) / name,
                VQVAEConfig(network=_network(), quantizer=quantizer), VQTrainingConfig(max_steps=steps, log_every=100),
            ).eval()  # fmt: skip
            _describe(name, model, pictures.train, to_pixel_values(pictures.held_out))
            return model

        good = tokenizer("default", VQConfig(codebook_size=128, codebook_dim=8))
        unused = tokenizer(
            "unused codes",
            VQConfig(
                codebook_size=128, codebook_dim=8, codebook_training="gradient", initialization="random",
                dead_code_threshold=0.0, normalize_z_e=False,
            ),
        )  # fmt: skip
        short = tokenizer("a few steps", VQConfig(codebook_size=128, codebook_dim=8), steps=25)
        _save("unused-codes", originals, _reconstructed(unused, originals), _reconstructed(good, originals))
        _save("blur", originals, _reconstructed(short, originals), _reconstructed(good, originals))

        prepared = prepare(collection, good, Path(folder) / "data", "shapes", TextConfig(size=300))
        early = _language_model(prepared, Path(folder) / "early", steps=40)
        late = _language_model(prepared, Path(folder) / "late", steps=LM_STEPS)
        # From above: far too hot, a training that has hardly begun, the remedy of both.
        _save("noise", _drawn(late, temperature=6.0), _drawn(early), _drawn(late))
        _save("prompt-ignored", _drawn(late, guidance_scale=0.0), _drawn(late), _drawn(late, guidance_scale=3.0))


def _draw_collection(folder: Path) -> None:
    """Shapes of one colour on white, at random places and sizes, captioned "red circle"."""
    folder.mkdir()
    luck = random.Random(0)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for colour, shape, copy in itertools.product(COLOURS, SHAPES, range(COPIES)):
            name = f"{colour}-{shape}-{copy}.png"
            _shape(colour, shape, luck).save(folder / name)
            table.writerow([name, f"{colour} {shape}"])


def _shape(colour: str, shape: str, luck: random.Random) -> Image.Image:
    whole = 4 * SIDE  # drawn large and scaled down, which smooths the edges
    picture = Image.new("RGB", (whole, whole), "white")
    pen, fill = ImageDraw.Draw(picture), COLOURS[colour]
    radius = luck.uniform(0.2, 0.35) * whole
    x, y = (luck.uniform(0.4, 0.6) * whole for _ in range(2))
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        pen.ellipse(box, fill)
    elif shape == "square":
        pen.rectangle(box, fill)
    elif shape == "triangle":
        pen.regular_polygon((x, y, radius), 3, fill=fill)
    else:
        pen.ellipse(box, outline=fill, width=round(0.4 * radius))
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _network() -> NetworkConfig:
    return NetworkConfig(
        input_shape=[SIDE, SIDE], strides=[2, 2], stem_channels=32, hidden_channels=64, num_residual_layers=1
    )


def _describe(name: str, model: VQVAE, train: torch.Tensor, held_out: torch.Tensor) -> None:
    usage = CodeUsage(128)
    for part in train.split(128):
        usage.add(model.encode(to_pixel_values(part)))
    error = (_reconstructed(model, held_out) - held_out).square().flatten(1).mean(1)
    psnr = (10 * (4 / error).log10()).mean()
    print(
        f"{name}: {100 * usage.usage:.0f}% of the codes used, perplexity {usage.perplexity:.0f}, {psnr:.1f} dB held out"
    )


def _reconstructed(model: VQVAE, pixel_values: torch.Tensor) -> torch.Tensor:
    return model.decode_codes(model.encode(pixel_values))


def _language_model(prepared: PreparedSet, folder: Path, steps: int) -> TextToImagePipeline:
    return train_lm(
        prepared, folder,
        LanguageModelConfig(hidden_size=128, intermediate_size=320, num_hidden_layers=3, num_attention_heads=4),
        LMTrainingConfig(max_steps=steps, eval_every=max(1, steps // 2), log_every=100, compile="no", batch_size=32),
        SequenceConfig(code_noise=0.1), SamplingConfig(temperature=0.7),
    )  # fmt: skip


def _drawn(pipe: TextToImagePipeline, **sampling: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe.image_tokenizer.decode_codes(pipe(PROMPTS, generator=generator, **sampling).codes)  # type: ignore[arg-type]


def _save(name: str, *rows: torch.Tensor) -> None:
    grid = picture_grid(list(rows))
    file = IMAGES / f"trouble-{name}.png"
    large = grid.quantize(128).resize((2 * grid.width, 2 * grid.height), Image.Resampling.NEAREST)
    large.save(file, optimize=True)
    print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
