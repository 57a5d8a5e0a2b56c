"""What is to be drawn, from a file of prompts or from the text in a PNG; names of files and seeds."""

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vqlm.lm.picture_requests import (
    PictureRequest,
    file_names,
    read_like,
    read_prompts,
    text_of,
    with_seeds,
)
from vqlm.training.errors import UserError


def test_every_picture_has_a_seed_of_its_own():
    requests = with_seeds(
        [PictureRequest("a", num_images=2, rerank=3), PictureRequest("b", seed=5), PictureRequest("c")], 10
    )
    assert [request.seed for request in requests] == [10, 5, 17]
    assert requests[0].seeds == [10, 11, 12, 13, 14, 15]
    alone = requests[0].one_by_one()
    assert [(picture.num_images, picture.seed) for picture in alone] == [(1, 10), (1, 13)]
    assert alone[1].seeds == [13, 14, 15]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": "  "}, "`prompt` is empty; write what to draw"),
        ({"num_images": 0}, "`num_images` must be at least 1, found 0"),
        ({"rerank": 0}, "`rerank` must be at least 1, found 0"),
        ({"seed": -1}, "`seed` must be a whole number from 0 to 9223372036854775807, found -1"),
        ({"seed": 2**63 - 1, "num_images": 2}, "from 0 to 9223372036854775806, found 9223372036854775807"),
        ({"temperature": -1.0}, "`temperature` must not be negative"),
        ({"temperature": float("nan")}, "`temperature` must not be negative or infinite, found nan"),
        ({"guidance_scale": float("inf")}, "`guidance_scale` must lie in"),
        ({"top_k": -1}, "`top_k` must not be negative"),
        ({"guidance_schedule": "line"}, "`guidance_schedule` must be constant or cosine"),
        ({"mask": "mask.png"}, "`mask` needs `image`"),
        ({"keep_rows": 2}, "`keep_rows` needs `image`"),
        ({"image": "a.png", "mask": "b.png", "keep_rows": 2}, "give one of the two"),
        ({"image": "a.png", "rerank": 2}, "`rerank` has no effect with `image`"),
    ],
)
def test_requests_that_cannot_be_drawn(unchecked_types, wrong, message):
    with pytest.raises(UserError, match=message):
        PictureRequest(**wrong)


def test_prompts_of_a_text_file(tmp_path):
    """A line separator or a form feed ends no line; a byte order mark is no letter."""
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffred heart\r\n\n  blue\u2028square\x0c \nGrünes Auto".encode())
    requests = read_prompts(path, PictureRequest(num_images=2, seed=3))
    assert requests == [
        PictureRequest(prompt, num_images=2, seed=3) for prompt in ("red heart", "blue\u2028square", "Grünes Auto")
    ]


def test_prompts_with_settings(tmp_path):
    path = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "red"}, {"prompt": "blue", "seed": 7, "temperature": 0.5, "num_images": 3}, {"prompt": None}]
    path.write_text("\n".join(map(json.dumps, lines)))
    common = PictureRequest(temperature=0.25, top_k=8)
    assert read_prompts(path, common) == [
        PictureRequest("red", temperature=0.25, top_k=8),
        PictureRequest("blue", seed=7, temperature=0.5, num_images=3, top_k=8),
        common,
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"\n \n", "p.txt holds no prompts"),
        ("p.txt", b"red\n\xff", r"p.txt is not UTF-8 \(byte 4\)"),
        ("p.jsonl", b'{"prompt": "red"}\n{"prompt": "b', r"p.jsonl, line 2: a line must be a JSON object such as"),
        ("p.jsonl", b'"red"', "line 1: a line must be a JSON object"),
        ("p.jsonl", b"[" * 100_000, "line 1: a line must be a JSON object"),
        ("p.jsonl", b'{"text": "red"}', "line 1: a line must be a JSON object"),
        ("p.jsonl", b'\n{"prompt": "red", "temprature": 1}', "line 2: .* 'temprature'; did you mean temperature?"),
        ("p.jsonl", b'{"prompt": "red", "temperature": NaN}', "line 1: `temperature` must not be negative or inf"),
        ("p.jsonl", b'{"prompt": "red", "temperature": "hot"}', "line 1: `temperature` must be a number, found 'hot'"),
        ("p.jsonl", b'{"prompt": 3}', "line 1: `prompt` must be text, found 3 of type int"),
        ("p.jsonl", b'{"prompt": "red", "seed": true}', "line 1: `seed` must be a whole number"),
        ("p.jsonl", b'{"prompt": "red", "num_images": 1.5}', "line 1: `num_images` must be a whole number"),
    ],
)  # fmt: skip
def test_files_of_prompts_that_cannot_be_used(tmp_path, unchecked_types, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(tmp_path / name, PictureRequest())


def test_no_file_of_prompts(tmp_path):
    with pytest.raises(UserError, match=r"none.txt cannot be read \(No such file"):
        read_prompts(tmp_path / "none.txt", PictureRequest())


# The text in a PNG


def picture_with(path, text: str | None):
    info = PngInfo()
    if text is not None:
        info.add_text("vqlm", text)
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


def test_the_text_of_a_picture_says_its_requests(tmp_path):
    drawn_with = {"model": "runs/modèle", "dtype": "float32"}
    one = [PictureRequest("røde “hjerte” 心", "blue", seed=2**63 - 1, temperature=0.1, top_k=3)]
    two = [*with_seeds([PictureRequest("red", num_images=2)], 3), PictureRequest(None, seed=1)]
    for requests in (one, two):
        assert read_like(picture_with(tmp_path / "a.png", text_of(requests, drawn_with))) == (drawn_with, requests)
    described = json.loads(text_of(one, drawn_with))
    assert (described["prompt"], described["model"], described["seed"]) == (
        "røde “hjerte” 心",
        "runs/modèle",
        2**63 - 1,
    )


def test_the_text_as_it_was_written_before_dtype_was_in_it(tmp_path):
    text = json.dumps({"model": "m", "prompt": "red", "seed": 1, "top_k": 0, "negative_prompt": None, "rerank": None})
    assert read_like(picture_with(tmp_path / "a.png", text)) == (
        {"model": "m"},
        [PictureRequest("red", seed=1, top_k=0)],
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not say how it was drawn"),
        ("{", "text 'vqlm' in it cannot be used"),
        ("3", "text 'vqlm' in it cannot be used"),
        ("[" * 100_000, "text 'vqlm' in it cannot be used"),
        ('{"prompt": "red"}', "cannot be used .*`seed` is missing"),
        ('{"prompt": "red", "seed": "1"}', "`seed` must be a whole number"),
        ('{"prompt": "red", "seed": 1, "model": 3}', "`model` and `dtype` must be text"),
        ('{"seed": 1, "shell": "rm"}', "no setting 'shell'"),
        ('{"requests": [1]}', "cannot be used"),
        ('{"requests": 1}', "cannot be used"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path, unchecked_types, text, message):
    with pytest.raises(UserError, match=message):
        read_like(picture_with(tmp_path / "a.png", text))


def test_what_is_no_png(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "cut.png").write_bytes(picture_with(tmp_path / "a.png", "{}").read_bytes()[:60])
    for name in ("a.jpg", "cut.png"):
        with pytest.raises(UserError, match=f"{name} cannot be read as a PNG"):
            read_like(tmp_path / name)
    with pytest.raises(UserError, match="gone.png does not exist"):
        read_like(tmp_path / "gone.png")


# Names


def test_names_of_files():
    requests = [
        PictureRequest("Red Heart!", num_images=2),
        PictureRequest(),
        PictureRequest("../../etc/passwd"),
        PictureRequest("大きな 心" * 20),
    ]
    names = file_names(requests)
    assert names[:4] == ["001-red-heart.png", "002-red-heart.png", "003-no-prompt.png", "004-etc-passwd.png"]
    assert names[4].startswith("005-大きな-心大きな")
    assert len(names[4].encode()) < 200
    assert file_names([PictureRequest("a", num_images=1000)])[-1] == "1000-a.png"
