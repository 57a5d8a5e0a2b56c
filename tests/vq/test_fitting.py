"""Pictures of any shape become the model's: what `auto` decides of hand-made ones, and the pixels that come of it."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from vqlm.data_prep import CollectionConfig, load_collection, load_pictures
from vqlm.data_prep.pictures.picture_files import decode_picture, read_picture
from vqlm.training.errors import UserError
from vqlm.vq import VQVAE, VQVAEConfig, VQVAEImageProcessor, scale_and_crop, to_fitted_rgb, to_pixel_values, to_rgb
from vqlm.vq.fitting import FINEST, border_colour, has_shape, pad_to_shape

SIZE = (16, 16)
WHITE, BLACK, GREY, BLUE = (255, 255, 255), (0, 0, 0), (120, 120, 120), (32, 192, 255)


def letter_e() -> Image.Image:
    """Cut out and cropped to its own edges, as lettering is: 20 wide, 40 high, the gaps transparent."""
    picture = Image.new("RGBA", (20, 40), (0, 0, 0, 255))
    for top in (8, 24):
        picture.paste((0, 0, 0, 0), (6, top, 20, top + 8))
    return picture


def letter_i() -> Image.Image:
    """All of one colour, with nothing transparent left."""
    return Image.new("RGBA", (8, 40), (0, 0, 0, 255))


def donkey() -> Image.Image:
    """A wide drawing on grey paper whose head and tail lie near its edges."""
    picture = Image.new("RGB", (80, 40), GREY)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((4, 10, 11, 17), "brown")  # head
    draw.rectangle((10, 14, 66, 28), "brown")
    draw.rectangle((70, 16, 75, 20), "black")  # tail
    return picture


def photograph(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def corners(picture: Image.Image) -> set[tuple[int, ...]]:
    right, bottom = picture.width - 1, picture.height - 1
    return {picture.getpixel(place) for place in ((0, 0), (right, 0), (0, bottom), (right, bottom))}


@pytest.mark.parametrize(
    ("picture", "size", "colours"),
    [
        (letter_e(), (40, 40), {WHITE}),  # by its border it would be a black block
        (letter_i(), (40, 40), {WHITE}),
        (donkey(), (64, 64), {GREY}),
        (Image.new("RGB", (30, 20), "white"), (30, 30), {WHITE}),
    ],
)
def test_auto_pads_what_is_cut_out_or_has_a_border_of_one_colour(picture, size, colours):
    fitted = to_fitted_rgb(picture, SIZE, "white", "auto")
    assert fitted.size == size
    assert corners(fitted) == colours


def test_auto_crops_a_photograph():
    picture = photograph()
    assert np.array_equal(to_fitted_rgb(picture, SIZE, "white", "auto"), picture)
    assert corners(to_fitted_rgb(picture, SIZE, "#20c0ff", "pad")) == {BLUE}


def test_a_donkey_keeps_its_head_and_its_tail():
    padded = scale_and_crop(to_fitted_rgb(donkey(), SIZE, "white", "auto"), SIZE)
    cropped = scale_and_crop(to_fitted_rgb(donkey(), SIZE, "white", "crop"), SIZE)
    brown, black = (165, 42, 42), (0, 0, 0)
    assert [near(padded, colour) for colour in (brown, black)] == [True, True]
    assert [near(cropped, colour) for colour in (brown, black)] == [True, False]


def near(values: np.ndarray, colour: tuple[int, ...]) -> bool:
    return bool((np.abs(values.astype(int) - colour).max(-1) < 60).any())


def test_padding_is_in_the_middle_and_of_one_colour():
    picture = Image.new("RGB", (6, 2), "red")
    padded = np.asarray(pad_to_shape(picture, (8, 8), "blue"))
    assert padded.shape == (6, 6, 3)
    assert (padded[2:4] == (255, 0, 0)).all()
    assert (padded[[0, 1, 4, 5]] == (0, 0, 255)).all()
    assert pad_to_shape(Image.new("L", (2, 3), 255), (4, 8), 0).size == (6, 3)


@pytest.mark.parametrize("shape", [(1, 4000), (4000, 1), (3000, 1000)])
def test_long_and_thin_pictures_do_not_fill_the_memory(shape):
    padded = pad_to_shape(Image.new("RGB", shape, "red"), SIZE, "blue")
    assert padded.size == (FINEST * 16, FINEST * 16)
    assert near(np.asarray(padded), (255, 0, 0))


@pytest.mark.parametrize("size", [(12, 8), (8, 12), (16, 16), (64, 48)])
@pytest.mark.parametrize("shape", [(15, 40), (27, 40), (7, 13), (100, 3)])
def test_what_is_padded_has_the_shape(shape, size):
    assert has_shape(pad_to_shape(Image.new("RGB", shape), size, 0), size)


@pytest.mark.parametrize("fit", ["auto", "pad"])
@pytest.mark.parametrize("picture", [photograph(40, 40), donkey().resize((50, 50)), letter_e().resize((30, 30))])
def test_a_square_picture_needs_neither(picture, fit):
    wanted = scale_and_crop(to_rgb(picture), SIZE)
    assert np.array_equal(scale_and_crop(to_fitted_rgb(picture, SIZE, "white", fit), SIZE), wanted)
    assert to_fitted_rgb(picture, SIZE, "white", fit).size == picture.size


@pytest.mark.parametrize(
    ("picture", "colour"),
    [
        (Image.new("RGB", (20, 20), "blue"), (0, 0, 255)),
        (donkey(), GREY),
        (photograph(20, 20), None),
        (Image.merge("RGB", [Image.linear_gradient("L")] * 3), None),
    ],
)
def test_the_colour_of_a_border(picture, colour):
    assert border_colour(picture) == colour


def test_svg_drawings_are_padded_with_the_background():
    pytest.importorskip("resvg_py")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><rect width="40" height="20"/></svg>'
    assert corners(decode_picture(svg, SIZE, "white", fit="auto")) == {WHITE}
    assert corners(decode_picture(svg, SIZE, "white", fit="crop")) == {BLACK}


# One way from a picture to pixels


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    files = {"e.png": letter_e(), "i.png": letter_i(), "donkey.png": donkey(), "photo.png": photograph(),
             "wide.jpg": photograph(90, 30), "square.png": photograph(20, 20)}  # fmt: skip
    for name, picture in files.items():
        picture.save(place / name)
        (place / name).with_suffix(".txt").write_text(name)
    return place


@pytest.mark.parametrize("fit", ["auto", "pad", "crop"])
def test_training_preparing_and_the_image_processor_give_the_same_pixels(folder, fit):
    loaded = load_pictures(load_collection(str(folder), 16, CollectionConfig(fit=fit)), SIZE)
    processor = VQVAEImageProcessor(size={"height": 16, "width": 16}, fit=fit)
    paths = sorted(folder.glob("*.[pj][np]g"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_name = processor([str(path) for path in paths], return_tensors="pt")["pixel_values"]
        by_script = processor([read_picture(path, processor) for path in paths], return_tensors="pt")["pixel_values"]
    assert torch.equal(by_name, by_script)
    trained = to_pixel_values(torch.cat([loaded.train, loaded.held_out]))
    assert sorted(map(_bytes, trained)) == sorted(map(_bytes, by_name))


def _bytes(pixel_values: torch.Tensor) -> bytes:
    return pixel_values.numpy().tobytes()


def test_the_model_remembers_how_it_learned_pictures(tiny_vqvae_config: VQVAEConfig, tmp_path):
    for fit in ("auto", "pad", "crop"):
        tiny_vqvae_config.fit = fit
        VQVAE(tiny_vqvae_config).save_pretrained(tmp_path / fit)
        model = VQVAE.from_pretrained(tmp_path / fit)
        assert (model.config.fit, model.image_processor.fit) == (fit, fit)
        assert VQVAEImageProcessor.from_pretrained(tmp_path / fit).fit == fit


def test_folders_from_before_there_was_a_choice_crop(tiny_vqvae_config: VQVAEConfig):
    settings = tiny_vqvae_config.to_dict()
    del settings["fit"]
    assert VQVAEConfig.from_dict(settings).fit == "crop"
    assert VQVAEImageProcessor.from_dict({"size": {"height": 16, "width": 16}, "background": "white"}).fit == "crop"


@pytest.mark.parametrize("kind", [VQVAEConfig, lambda fit: VQVAEImageProcessor({"height": 8, "width": 8}, fit=fit)])
def test_another_fit_is_refused(kind, unchecked_types):
    with pytest.raises(UserError, match="fit must be auto, pad or crop, found 'stretch'"):
        kind(fit="stretch")


def test_a_collection_is_fitted_as_its_image_tokenizer_learned(folder, tiny_vqvae_config: VQVAEConfig):
    tiny_vqvae_config.fit = "pad"
    collection = load_collection(str(folder), 16)
    assert collection.as_learned_by(tiny_vqvae_config).config.fit == "pad"
    other = load_collection(str(folder), 16, CollectionConfig(fit="crop"))
    with pytest.raises(
        UserError, match="fits pictures by crop, the image tokenizer learned them by pad; leave `fit` out"
    ):
        other.as_learned_by(tiny_vqvae_config)


def test_the_fit_is_part_of_what_a_collection_is(folder):
    prints = [
        load_collection(str(folder), 16, CollectionConfig(fit=fit)).fingerprint() for fit in (None, "auto", "crop")
    ]
    assert prints[0] == prints[1] != prints[2]
