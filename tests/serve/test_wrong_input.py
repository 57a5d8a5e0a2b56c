"""Wrong input: OpenAI's error body, the right status, a stable code, no stack trace; the server stays up."""

import json
import re
import socket
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image
from serving import build_pipeline, png, running

from vqlm.serve.app import create_app
from vqlm.serve.fields import FIELDS, fields_table, read_fields
from vqlm.serve.jobs import ServedModel
from vqlm.serve.server import load_models
from vqlm.serve.settings import ServeConfig
from vqlm.training.errors import UserError

WHITE = png(Image.new("RGB", (16, 16), "white"))
HOLE = png(Image.new("RGBA", (16, 16), (0, 0, 0, 0)))
SMALL, FULL = png(Image.new("RGBA", (8, 8))), png(Image.new("RGBA", (16, 16), "red"))
LONG, WRONG = "string_above_max_length", "invalid_value"
BOMB = png(Image.new("1", (2000, 2000)))  # above max_pixels of the server here


def assert_error(answer: httpx.Response, status: int, code: str, param: str | None) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert "Traceback" not in answer.text
    assert not re.search(r"(?<![\w/])/\w+/", error["message"])  # names no file of the server


JSON_CASES = {
    "no prompt": ({}, "missing_required_parameter", "prompt"),
    "null prompt": ({"prompt": None}, "missing_required_parameter", "prompt"),
    "empty prompt": ({"prompt": "  \n"}, "empty_prompt", "prompt"),
    "long prompt": ({"prompt": "red square " * 50}, LONG, "prompt"),
    "long negative": ({"prompt": "red", "negative_prompt": "a " * 99}, LONG, "negative_prompt"),
    "a list": ({"prompt": ["red"]}, "invalid_type", "prompt"),
    "half a surrogate": ({"prompt": "\ud800"}, "invalid_value", "prompt"),
    "n of 0": ({"prompt": "red", "n": 0}, "below_minimum", "n"),
    "n of 11": ({"prompt": "red", "n": 11}, "above_maximum", "n"),
    "n of 1.5": ({"prompt": "red", "n": 1.5}, "invalid_type", "n"),
    "n true": ({"prompt": "red", "n": True}, "invalid_type", "n"),
    "huge n": ({"prompt": "red", "n": 10**400}, "above_maximum", "n"),
    "negative seed": ({"prompt": "red", "seed": -1}, "below_minimum", "seed"),
    "unknown field": ({"prompt": "red", "sead": 1}, "unknown_parameter", "sead"),
    "refused field": ({"prompt": "red", "frame_count": 3}, "unsupported_parameter", "frame_count"),
    "transparent": ({"prompt": "red", "background": "transparent"}, "invalid_value", "background"),
    "gif": ({"prompt": "red", "output_format": "gif"}, "invalid_value", "output_format"),
    "size as text": ({"prompt": "red", "size": "large"}, "invalid_value", "size"),
    "another shape": ({"prompt": "red", "size": "64x32"}, "unsupported_size", "size"),
    "huge size": ({"prompt": "red", "size": "9999x9999"}, "unsupported_size", "size"),
    "size of 0": ({"prompt": "red", "size": "0x0"}, "unsupported_size", "size"),
    "top_p of 0": ({"prompt": "red", "top_p": 0}, "invalid_value", "top_p"),
    "guidance": ({"prompt": "red", "guidance_scale": 1e9}, "above_maximum", "guidance_scale"),
    "no guidance": ({"prompt": "red", "guidance_scale": 1, "negative_prompt": "blue"}, WRONG, "negative_prompt"),
    "rerank": ({"prompt": "red", "rerank": 2}, "unsupported_value", "rerank"),
    "partial": ({"prompt": "red", "partial_images": 2}, "invalid_value", "partial_images"),
    "4 partial": ({"prompt": "red", "partial_images": 4, "stream": True}, "above_maximum", "partial_images"),
    "compressed png": ({"prompt": "red", "output_compression": 5}, "invalid_value", "output_compression"),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON_CASES)
def test_wrong_fields(server, case):
    body, code, param = JSON_CASES[case]
    answer = server.post(content=json.dumps(body), headers={"content-type": "application/json"})
    assert_error(answer, 400, code, param)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"red"', b'{"prompt": NaN}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json(server, body):
    answer = server.post(content=body, headers={"content-type": "application/json"})
    assert_error(answer, 400, "invalid_json", None)


def test_other_content_types(server):
    assert_error(server.post(data={"prompt": "red"}), 415, "unsupported_media_type", None)
    assert_error(server.post("edits", json={"prompt": "red"}), 415, "unsupported_media_type", None)
    assert_error(server.post(content=b"red"), 415, "unsupported_media_type", None)


def test_unknown_model_path_and_method(server):
    assert_error(server.post(json={"prompt": "red", "model": "x"}), 404, "model_not_found", "model")
    assert_error(httpx.get(f"{server.url}/v1/models/x"), 404, "model_not_found", "model")
    assert_error(httpx.get(f"{server.url}/v1/images/generations"), 405, "method_not_allowed", None)
    assert_error(httpx.get(f"{server.url}/nothing"), 404, "not_found", None)


def part(data: bytes) -> tuple[str, bytes, str]:
    return ("p.png", data, "image/png")


EDIT_CASES = {
    "no image": ({}, {"x": part(WHITE)}, "unknown_parameter", "x"),
    "text as image": ({"image": "aGVsbG8="}, {"mask": part(HOLE)}, "invalid_type", "image"),
    "broken image": ({}, {"image": part(WHITE[:40])}, "invalid_image", "image"),
    "base64 as image": ({}, {"image": part(b"aGVsbG8=")}, "invalid_image", "image"),
    "empty image": ({}, {"image": part(b"")}, "invalid_image", "image"),
    "too many pixels": ({}, {"image": part(BOMB)}, "invalid_image", "image"),
    "svg": ({}, {"image": part(b"<svg xmlns='http://www.w3.org/2000/svg'/>")}, "invalid_image", "image"),
    "another size": ({}, {"image": part(WHITE), "mask": part(SMALL)}, "mask_size_mismatch", "mask"),
    "mask without alpha": ({}, {"image": part(WHITE), "mask": part(WHITE)}, "invalid_mask", "mask"),
    "nothing to draw": ({}, {"image": part(WHITE), "mask": part(FULL)}, "invalid_mask", "mask"),
    "n as text": ({"n": "many"}, {"image": part(WHITE)}, "invalid_type", "n"),
    "n of 11": ({"n": "11"}, {"image": part(WHITE)}, "above_maximum", "n"),
    "rerank is not of edits": ({"rerank": "2"}, {"image": part(WHITE)}, "unknown_parameter", "rerank"),
}  # fmt: skip


@pytest.mark.parametrize("case", EDIT_CASES)
def test_wrong_edits(server, case):
    fields, files, code, param = EDIT_CASES[case]
    if case == "no image":
        answer = server.post("edits", data={"prompt": "red"}, files={"mask": part(HOLE)})
        assert_error(answer, 400, "missing_required_parameter", "image")
        files = {"image": part(WHITE), **files}
    assert_error(server.post("edits", data={"prompt": "red", **fields}, files=files), 400, code, param)


def test_several_images(server):
    files = [("image[]", part(WHITE)), ("image[]", part(WHITE))]
    assert_error(server.post("edits", data={"prompt": "red"}, files=files), 400, "too_many_images", "image")


def test_a_form_that_is_cut_off(server):
    headers = {"content-type": "multipart/form-data; boundary=b"}
    for content in (b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nred', b"", b"nothing"):
        answer = server.post("edits", content=content, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] in ("invalid_form", "missing_required_parameter")
    answer = server.post("edits", content=b"--b--", headers={"content-type": "multipart/form-data"})
    assert_error(answer, 400, "invalid_form", None)


def test_a_body_of_a_gigabyte_is_refused_before_it_is_read(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1073741824\r\n\r\n{"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_of_untold_length_is_refused(server):
    answer = server.post(content=(b" " * 2**16 for _ in range(17)), headers={"content-type": "application/json"})
    assert_error(answer, 413, "body_too_large", None)


def test_after_all_that_it_still_draws(server):
    assert server.post(json={"prompt": "red"}).status_code == 200
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}


# Keys, sizes, names, folders


def test_keys(pipe):
    with running([ServedModel("tiny", pipe)], ServeConfig(port=0, api_key="s3cret-ü")) as server:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
            assert_error(server.post(json={"prompt": "red"}, headers=headers), 401, "invalid_api_key", None)
        right = {"authorization": "Bearer s3cret-ü".encode()}
        assert server.post(json={"prompt": "red"}, headers=right).status_code == 200
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_strict_sizes_and_no_cors(pipe):
    with running([ServedModel("tiny", pipe)], ServeConfig(port=0, strict_sizes=True)) as server:
        assert_error(server.post(json={"prompt": "red", "size": "32x32"}), 400, "unsupported_size", "size")
        answer = server.post(json={"prompt": "red", "size": "16x16"}, headers={"origin": "http://elsewhere"})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


def test_cors_where_it_is_wanted(pipe):
    with running([ServedModel("tiny", pipe)], ServeConfig(port=0, cors_origins=["http://here"])) as server:
        answers = [httpx.get(f"{server.url}/v1/models", headers={"origin": f"http://{name}"}) for name in ("here", "x")]
        assert [answer.headers.get("access-control-allow-origin") for answer in answers] == ["http://here", None]


def test_names(pipe):
    model = ServedModel("tiny", pipe)
    with pytest.raises(UserError, match="same name"):
        create_app([model, ServedModel("tiny", pipe)])
    with pytest.raises(UserError, match="needs a new name and a model of tiny"):
        create_app([model], ServeConfig(aliases=["a=b"]))
    with pytest.raises(UserError, match="written ALIAS=NAME, found 'a'"):
        ServeConfig(aliases=["a"])


def test_damaged_folders(tmp_path):
    with pytest.raises(UserError):
        load_models([tmp_path / "nowhere"])
    build_pipeline().save_pretrained(tmp_path / "model")
    assert load_models([tmp_path / "model"], ["name"])[0].name == "name"
    with pytest.raises(UserError, match="one name per model: 1, found 2"):
        load_models([tmp_path / "model"], ["a", "b"])
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        load_models([tmp_path / "model"])


def test_weights_that_are_not_finite_fail_the_request_only():
    pipe = build_pipeline()
    saved = pipe.model.lm_head.weight.data.clone()
    with running([ServedModel("tiny", pipe)], ServeConfig(port=0)) as server:
        pipe.model.lm_head.weight.data.fill_(torch.nan)
        answer = server.post(json={"prompt": "red"})
        assert_error(answer, 500, "drawing_failed", None)
        pipe.model.lm_head.weight.data.copy_(saved)
        assert server.post(json={"prompt": "red"}).status_code == 200


# The table of fields


def test_every_field_that_has_no_effect_is_accepted(server):
    body = {"prompt": "red"}
    for field in FIELDS:
        if field.policy == "no effect" and field.only != "edits":
            body[field.name] = field.schema["enum"][0] if "enum" in field.schema else field.schema["minimum"]
    assert len(body) > 4
    assert server.post(json=body).status_code == 200


def test_the_defaults_of_a_form_are_those_of_json():
    shared = {"prompt": "red", "n": 2, "stream": True, "temperature": 0.5}
    of_form = read_fields({name: str(value) for name, value in shared.items()}, "edits", is_form=True)
    assert of_form == read_fields(shared, "edits")


def test_the_docs_show_the_table():
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    assert fields_table() in page
