"""The one way from a picture to pixel values: the bits of training, what is said, what is refused, its folder."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from vqlm.data_prep import CollectionConfig, ViewConfig
from vqlm.data_prep.collections.picture_loading import decode_rows
from vqlm.data_prep.sources.rows import Row
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json
from vqlm.vq import VQVAE, NetworkConfig, VQVAEConfig, VQVAEImageProcessor, to_pixel_values

HEIGHT, WIDTH, BACKGROUND = 12, 8, "#20c0ff"
# One picture of each mode and format that is not in RGB of the right size, and a JPEG large enough for a draft.
FILES = {
    "right.png": ("RGB", (WIDTH, HEIGHT)),
    "wide.png": ("RGB", (40, 21)),
    "clear.png": ("RGBA", (15, 33)),
    "grey.png": ("L", (WIDTH, HEIGHT)),
    "grey and clear.png": ("LA", (20, 20)),
    "palette.gif": ("P", (30, 17)),
    "deep.png": ("I;16", (9, 31)),
    "print.jpg": ("CMYK", (25, 25)),
    "turned.jpg": ("RGB", (30, 20)),
    "small.webp": ("RGBA", (5, 5)),
}


@pytest.fixture
def processor() -> VQVAEImageProcessor:
    return VQVAEImageProcessor(size={"height": HEIGHT, "width": WIDTH}, background=BACKGROUND)


@pytest.fixture
def files(tmp_path):
    draw = np.random.default_rng(0)
    for name, (mode, size) in FILES.items():
        noise = draw.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
        picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 257) if mode == "I;16" else None
        picture = picture or Image.fromarray(noise, "RGBA").convert(mode)
        exif = Image.Exif()
        if name.startswith("turned"):
            exif[0x0112] = 6
        picture.save(tmp_path / name, exif=exif, **({"lossless": True} if name.endswith("webp") else {}))
    return [tmp_path / name for name in FILES]


def as_trained(files, background: str = BACKGROUND) -> torch.Tensor:
    """(B, 3, H, W): what stage one trains on and what is encoded for stage two."""
    rows = [Row(str(path), path, ("",)) for path in files]
    batch = decode_rows(rows, [HEIGHT, WIDTH], CollectionConfig(background=background), ViewConfig())
    assert not batch.skipped
    return to_pixel_values(batch.values[:, 0])


def prepared_by(processor, images) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return processor(images, return_tensors="pt")["pixel_values"]


def test_the_bits_of_training(processor, files):
    wanted = as_trained(files)
    assert torch.equal(prepared_by(processor, [str(path) for path in files]), wanted)
    assert torch.equal(prepared_by(processor, [Image.open(path) for path in files]), wanted)
    assert not torch.equal(wanted, as_trained(files, "white"))


def test_the_bits_of_a_large_jpeg_by_its_name(processor, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.jpg")
    whole = Image.open(tmp_path / "large.jpg")
    opened = prepared_by(processor, whole)
    assert whole.size == (400, 300)  # the caller's picture is not decoded as a draft
    wanted = as_trained([tmp_path / "large.jpg"])
    assert torch.equal(prepared_by(processor, tmp_path / "large.jpg"), wanted)
    assert not torch.equal(opened, wanted)


def test_arrays_of_every_layout(processor):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    wanted = to_pixel_values(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    first, nested = np.moveaxis(pixels, -1, 0), [[Image.fromarray(pixels)]]
    for images in (pixels, [pixels], first, torch.from_numpy(pixels), pixels[None], nested):
        assert torch.equal(prepared_by(processor, images), wanted)
    grey = prepared_by(processor, pixels[..., 0])
    assert torch.equal(grey, wanted[:, :1].expand(-1, 3, -1, -1))


def test_without_tensors_a_list_of_arrays(processor):
    values = processor([Image.new("RGB", (WIDTH, HEIGHT), "black")] * 2)["pixel_values"]
    assert [(array.shape, array.dtype.name, array.max()) for array in values] == [
        ((3, HEIGHT, WIDTH), "float32", -1)
    ] * 2


@pytest.mark.parametrize("picture", [Image.new("RGB", (20, 20)), Image.new("RGBA", (WIDTH, HEIGHT))])
def test_another_size_or_mode_is_said_once(processor, picture):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        processor(Image.new("RGB", (WIDTH, HEIGHT)))
        assert not said
        for _ in range(3):
            processor(picture)
    assert [str(warning.message) for warning in said] == [
        f"Pictures are scaled and padded or cropped to {WIDTH}x{HEIGHT}, in RGB, on {BACKGROUND}."
    ]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), r"uint8 array \(height, width, 3\), found ndarray of float32 \(8, 8, 3\)"),
        (np.zeros((2, 2, 2, 2, 3), np.uint8), r"found ndarray of uint8 \(2, 2, 2, 2, 3\)"),
        (None, "found NoneType"),
        ([], "no pictures to prepare"),
        ("gone.png", "gone.png cannot be read as a picture .*No such file"),
        (__file__, "cannot be read as a picture .*cannot identify"),
    ],
)
def test_what_is_no_picture(processor, images, message):
    with pytest.raises(UserError, match=message):
        processor(images)


@pytest.mark.parametrize("size", [None, {"shortest_edge": 8}, {"height": 0, "width": 8}])
def test_sizes_that_are_none(size):
    with pytest.raises(UserError, match="size must be a dict of height and width in pixels"):
        VQVAEImageProcessor(size=size)


# Files


def test_it_is_saved_beside_its_model(tiny_vqvae, tmp_path):
    tiny_vqvae.config.background = BACKGROUND
    tiny_vqvae.save_pretrained(tmp_path)
    assert read_json(tmp_path / "preprocessor_config.json") == {
        "image_processor_type": "VQVAEImageProcessor",
        "size": {"height": 16, "width": 16},
        "background": BACKGROUND,
        "fit": "auto",
    }
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(processor, VQVAEImageProcessor)
    assert (processor.size, processor.background) == (tiny_vqvae.image_processor.size, BACKGROUND)
    model = AutoModel.from_pretrained(tmp_path)
    assert isinstance(model, VQVAE)
    assert model.image_processor.to_dict() == processor.to_dict()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    codes = model.encode(processor(picture, return_tensors="pt")["pixel_values"])
    assert torch.equal(codes, tiny_vqvae.encode(prepared_by(tiny_vqvae.image_processor, picture)))


def test_a_loaded_processor_takes_other_settings(tiny_vqvae, tmp_path):
    tiny_vqvae.save_pretrained(tmp_path)
    assert AutoImageProcessor.from_pretrained(tmp_path, background="red").background == "red"


@pytest.mark.parametrize(("shape", "channels"), [([16], 3), ([16, 16], 1), ([4, 4, 4], 3)])
def test_models_of_something_else_than_pictures_have_none(shape, channels, tmp_path):
    network = NetworkConfig(
        input_shape=shape, in_channels=channels, strides=[2], stem_channels=4, hidden_channels=4, num_residual_layers=1
    )
    model = VQVAE(VQVAEConfig(network=network))
    model.save_pretrained(tmp_path)
    assert not (tmp_path / "preprocessor_config.json").exists()
    with pytest.raises(UserError, match=f"takes arrays of {channels} channels"):
        _ = model.image_processor
