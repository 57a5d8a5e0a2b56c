"""The unmodified `openai` client: draw, edit, stream, list models, errors. Pictures equal those of the pipeline."""

import base64
import io

import httpx
import openai
import pytest
import torch
from PIL import Image
from serving import generators, opened, png, same

from vqlm.lm.decoding.inpainting import code_grid
from vqlm.lm.drawn_files import draw
from vqlm.lm.picture_requests import read_like
from vqlm.vq import to_pil


def test_a_picture_is_the_pipelines(client, pipe):
    answer = client.images.generate(prompt="red square", extra_body={"seed": 5})
    assert same(opened(answer.data[0].b64_json), pipe("red square", generator=generators(5)).images[0])
    assert (answer.size, answer.output_format, answer.quality, answer.background) == ("16x16", "png", "high", "opaque")
    assert answer.created > 1_700_000_000
    tokens = len(pipe.vocabulary.encode_text(["red square"])[0])
    assert answer.usage.to_dict() == {
        "input_tokens": tokens, "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
        "output_tokens": 16, "output_tokens_details": {"text_tokens": 0, "image_tokens": 16},
        "total_tokens": tokens + 16,
    }  # fmt: skip


def test_every_setting_is_honoured(client, pipe):
    sampling = {
        "guidance_scale": 3.0, "guidance_schedule": "cosine", "temperature": 0.7, "top_k": 9, "top_p": 0.9,
        "min_p": 0.02, "negative_prompt": "green circle",
    }  # fmt: skip
    answer = client.images.generate(prompt="red square", n=3, extra_body={"seed": 1, **sampling})
    expected = pipe("red square", num_images_per_prompt=3, generator=generators(1, 2, 3), **sampling).images
    assert len(answer.data) == 3
    for datum, picture in zip(answer.data, expected, strict=True):
        assert same(opened(datum.b64_json), picture)


def test_rerank_is_the_pipelines(client, server):
    pipe = server.service.models["captions"].pipeline
    answer = client.images.generate(model="captions", prompt="red square", extra_body={"seed": 3, "rerank": 4})
    expected = pipe("red square", rerank=4, generator=generators(3)[0]).images[0]
    assert same(opened(answer.data[0].b64_json), expected)


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_formats_and_sizes(client, file_format):
    raw = client.images.with_raw_response.generate(
        prompt="red", size="1024x1024", output_format=file_format, extra_body={"seed": 0}
    )
    answer = raw.parse()
    picture = opened(answer.data[0].b64_json)
    assert (picture.format, picture.size) == (file_format.upper(), (1024, 1024))
    assert answer.size == "1024x1024"
    assert raw.headers["x-size-revised"] == "16x16 scaled to 1024x1024"
    small = opened(client.images.generate(prompt="red", extra_body={"seed": 0}).data[0].b64_json)
    if file_format == "png":
        assert same(picture, small.resize((1024, 1024), Image.Resampling.LANCZOS))


def test_compression(client):
    sizes = [
        len(
            client.images.generate(
                prompt="red", size="256x256", output_format="jpeg", output_compression=quality, extra_body={"seed": 0}
            ).data[0].b64_json
        )
        for quality in (5, 95)
    ]  # fmt: skip
    assert sizes[0] < sizes[1]


def test_without_a_seed_pictures_differ_and_the_seed_is_told(client, pipe):
    raws = [client.images.with_raw_response.generate(prompt="red") for _ in range(3)]
    assert len({raw.headers["x-seed"] for raw in raws}) == 3
    expected = pipe("red", generator=generators(int(raws[0].headers["x-seed"]))).images[0]
    assert same(opened(raws[0].parse().data[0].b64_json), expected)


def test_a_url_leads_to_the_picture(client, pipe):
    url = client.images.generate(prompt="red", response_format="url", extra_body={"seed": 2}).data[0].url
    answer = httpx.get(url)
    assert answer.headers["content-type"] == "image/png"
    assert same(Image.open(io.BytesIO(answer.content)), pipe("red", generator=generators(2)).images[0])
    assert httpx.get(url + "x").status_code == 404


def test_the_identifier_comes_back(client):
    assert client.images.generate(prompt="red", user="anna").safety_identifier == "anna"
    answer = client.images.generate(prompt="red", user="anna", extra_body={"safety_identifier": "hash"})
    assert answer.safety_identifier == "hash"


@pytest.mark.parametrize("partial_images", [0, 1, 3])
def test_a_stream_has_every_field_that_the_types_require(client, pipe, partial_images):
    stream = client.images.generate(
        prompt="red square", stream=True, partial_images=partial_images, extra_body={"seed": 7}
    )
    events = list(stream)
    *partial, completed = events
    assert [event.type for event in partial] == ["image_generation.partial_image"] * partial_images
    assert [event.partial_image_index for event in partial] == list(range(partial_images))
    for event in events:
        assert type(event).model_validate(event.to_dict(), strict=True)
        assert (event.size, event.output_format, event.quality, event.background) == ("16x16", "png", "high", "opaque")
    assert completed.type == "image_generation.completed"
    assert completed.usage.output_tokens == 16
    assert same(opened(completed.b64_json), pipe("red square", generator=generators(7)).images[0])
    seen = []
    pipe("red square", generator=generators(7), callback=lambda _, codes: seen.append(pipe.decode_partial(codes)[0]))
    for event in partial:  # after 2, 7 and 11 of 16 codes
        assert any(same(opened(event.b64_json), picture) for picture in seen)


def test_a_stream_of_several_pictures(client, pipe):
    events = list(client.images.generate(prompt="red", n=3, stream=True, extra_body={"seed": 7}))
    drawn = [opened(event.b64_json) for event in events]
    expected = pipe("red", num_images_per_prompt=3, generator=generators(7, 8, 9)).images
    assert all(any(same(one, picture) for one in drawn) for picture in expected)
    assert len(events) == 3


# Edits


@pytest.fixture
def picture(pipe) -> Image.Image:
    return pipe("blue square", generator=generators(0)).images[0]


@pytest.fixture
def mask() -> Image.Image:
    """Transparent in the lower half."""
    mask = Image.new("RGBA", (16, 16), "white")
    mask.paste((0, 0, 0, 0), (0, 8, 16, 16))
    return mask


def test_a_masked_edit_is_the_pipelines_inpainting(client, pipe, picture, mask):
    answer = client.images.edit(
        image=("p.png", png(picture)), mask=("m.png", png(mask)), prompt="red square", extra_body={"seed": 4}
    )
    holes = torch.zeros(16, 16, dtype=torch.bool)
    holes[8:] = True
    expected = pipe.inpaint(picture, holes, "red square", generator=generators(4)[0]).images[0]
    assert same(opened(answer.data[0].b64_json), expected)
    assert answer.usage.input_tokens_details.image_tokens == 16


def test_the_alpha_of_the_picture_is_a_mask_too(client, picture, mask):
    seen_through = picture.convert("RGBA")
    seen_through.putalpha(mask.getchannel("A"))
    answer = client.images.edit(image=("p.png", png(seen_through)), prompt="red", n=2, extra_body={"seed": 4})
    assert len(answer.data) == 2


def test_an_edit_without_a_mask_is_a_variation(client, pipe, picture):
    answer = client.images.edit(
        image=[("p.png", png(picture))], prompt="red square", extra_body={"seed": 4, "share": 0.25, "candidates": 2}
    )
    expected = pipe.vary(picture, "red square", share=0.25, candidates=2, generator=generators(4)).images[0]
    assert same(opened(answer.data[0].b64_json), expected)


def test_an_edit_streams(client, pipe, picture, mask):
    stream = client.images.edit(
        image=("p.png", png(picture)), mask=("m.png", png(mask)), prompt="red square", stream=True, partial_images=2,
        extra_body={"seed": 4},
    )  # fmt: skip
    events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    for event in events:
        assert type(event).model_validate(event.to_dict(), strict=True)
    assert code_grid(pipe.image_tokenizer.config) == (4, 4)


def test_a_large_upload_is_scaled_and_cropped(client, picture, mask):
    large = picture.resize((320, 160))
    answer = client.images.edit(
        image=("p.jpg", png(large)), mask=("m.png", png(mask.resize((320, 160)))), prompt="red", size="64x64"
    )
    assert opened(answer.data[0].b64_json).size == (64, 64)


# Models and errors


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny", "captions", "gpt-image-1"]
    assert client.models.retrieve("gpt-image-1").owned_by == "vqlm"
    assert client.images.generate(prompt="red", model="gpt-image-1").data


def test_errors_are_those_of_the_client(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.images.generate(prompt="red", model="dall-e-9")
    assert (error.value.code, error.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as error:
        client.images.generate(prompt="red", background="transparent")
    assert (error.value.code, error.value.param, error.value.type) == (
        "invalid_value", "background", "invalid_request_error",
    )  # fmt: skip


# What common front ends send


def test_open_webui(server):
    """Its OpenAI engine, as recorded: always a size, and the format that it can read."""
    headers = {"Authorization": "Bearer sk-x", "X-OpenWebUI-User-Name": "Anna"}
    body = {
        "model": "gpt-image-1", "prompt": "red square", "n": 1, "size": "1024x1024", "response_format": "b64_json",
    }  # fmt: skip
    answer = server.post(json=body, headers=headers)
    assert answer.status_code == 200
    assert opened(answer.json()["data"][0]["b64_json"]).size == (1024, 1024)


def test_librechat(server, picture):
    """Its image tools, as recorded: every default is sent; edits are multipart with `image[]` and without a mask."""
    body = {
        "model": "gpt-image-1", "prompt": "red square", "n": 1, "background": "auto", "output_format": "png",
        "quality": "auto", "size": "auto",
    }  # fmt: skip
    assert opened(server.post(json=body).json()["data"][0]["b64_json"]).size == (16, 16)
    form = {"model": "gpt-image-1", "prompt": "red square", "quality": "auto", "size": "auto"}
    answer = server.post("edits", data=form, files=[("image[]", ("p.png", png(picture), "image/png"))])
    assert answer.status_code == 200
    assert opened(answer.json()["data"][0]["b64_json"]).size == (16, 16)


# What a PNG says


def test_a_png_says_what_draws_it_again(client, pipe, tmp_path):
    """The second of three pictures, from its text alone."""
    extra = {"seed": 5, "negative_prompt": "circle", "guidance_scale": 2.0}
    answer = client.images.generate(prompt="red square", model="tiny", n=3, extra_body=extra)
    path = tmp_path / "second.png"
    path.write_bytes(base64.b64decode(answer.data[1].b64_json))
    drawn_with, (request,) = read_like(path)
    assert drawn_with == {"model": "tiny", "dtype": "float32"}
    assert (request.prompt, request.negative_prompt, request.seed) == ("red square", "circle", 6)
    assert request.temperature == 1.0
    ((_, drawn),) = draw(pipe, [request])
    assert same(Image.open(path), to_pil(drawn[None])[0])


def test_a_reranked_png_says_what_draws_it_again(client, server, tmp_path):
    pipe = server.service.models["captions"].pipeline
    answer = client.images.generate(prompt="red", model="captions", n=2, extra_body={"seed": 1, "rerank": 3})
    path = tmp_path / "second.png"
    path.write_bytes(base64.b64decode(answer.data[1].b64_json))
    _, (request,) = read_like(path)
    assert (request.seed, request.rerank) == (4, 3)
    ((_, drawn),) = draw(pipe, [request])
    assert same(Image.open(path), to_pil(drawn[None])[0])
