"""The page: what it asks of the server, and a person's way through it in a headless Chromium."""

import re
import shutil

import httpx
import pytest
import torch
from PIL import Image
from serving import SIDE, build_pipeline, opened, png, running, same

from vqlm.lm import SamplingConfig
from vqlm.lm.decoding.stepper import Row
from vqlm.serve import jobs
from vqlm.serve.jobs import PictureJob, ServedModel
from vqlm.serve.page import FOLDER
from vqlm.serve.server import uvicorn_config
from vqlm.serve.settings import ServeConfig
from vqlm.training.errors import UserError

CHROMIUM = shutil.which("chromium")
OPTIONS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture
def page_server(pipe):
    with running([ServedModel("tiny", pipe)], ServeConfig(port=0, page=True)) as server:
        yield server


def test_its_files_name_no_other_place():
    paths = [path for path in FOLDER.iterdir() if path.suffix in (".js", ".css", ".html")]
    assert len(paths) >= 8
    for path in paths:
        assert not re.search(r"https?:|//[a-z]|innerHTML", path.read_text(encoding="utf-8").replace("// ", "")), path
    assert not re.search(r'(src|href)="(?!/page/files/|data:,)', (FOLDER / "index.html").read_text(encoding="utf-8"))


def test_it_is_there_only_where_it_is_wanted(server, page_server):
    assert httpx.get(server.url).status_code == 404
    answer = httpx.get(page_server.url)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("codes.js", "text/javascript")):
        assert httpx.get(f"{page_server.url}/page/files/{name}").headers["content-type"].startswith(kind)
    for name in ("tools.py", "..%2Fapp.py", "index.html", "none.js"):
        assert httpx.get(f"{page_server.url}/page/files/{name}").status_code == 404


def test_it_is_not_served_with_a_key(pipe, monkeypatch):
    with pytest.raises(UserError, match="has no field for a key"):
        ServeConfig(page=True, api_key="x")
    monkeypatch.setenv("VQLM_API_KEY", "x")
    with pytest.raises(UserError, match="leave out `page`, or `api_key` and the variable"):
        uvicorn_config([ServedModel("tiny", pipe)], ServeConfig(page=True))


def test_every_field_has_a_label():
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    inputs = re.findall(r"<(?:input|select)", text)
    assert len(re.findall(r"<label[^>]*>[^<]+<(?:input|select)", text)) == len(inputs) == 9


def test_rows_appear_one_after_another(page_server, monkeypatch):
    monkeypatch.setattr(jobs, "ROW_PAUSE", 0.0)  # else a model as fast as this shows one
    body = {"prompt": "red", "n": 2, "stream": True, "partial_rows": True, "seed": 0}
    answer = page_server.post(json=body)
    kinds = re.findall(r'"type": "image_generation\.(\w+)".*?"index": (\d)', answer.text)
    for index in "01":
        assert [kind for kind, own in kinds if own == index] == ["partial_image"] * 3 + ["completed"]


def test_rows_that_come_sooner_than_anyone_can_see_are_left_out():
    row = Row([0], SamplingConfig(), torch.zeros(16))
    picture = PictureJob([row], [4, 8, 12], "", partial_pause=60.0)
    assert not picture.is_partial_due
    row.codes = [0] * 9
    assert picture.is_partial_due
    picture.partial_is_shown()
    assert picture.partial_at == [12]
    row.codes = [0] * 12
    assert not picture.is_partial_due  # not yet
    picture.next_partial = 0.0
    assert picture.is_partial_due


def upload(page_server, path: str, image: bytes, model: str = "tiny") -> httpx.Response:
    files = {"image": ("picture.png", image, "image/png")}
    return httpx.post(f"{page_server.url}/page/{path}", files=files, data={"model": model}, timeout=300)


def picture() -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), "white")
    image.paste((200, 30, 30), (4, 4, 12, 12))
    return image


def test_what_a_model_can_do(page_server):
    about = httpx.get(f"{page_server.url}/page/models/tiny").json()
    assert about["grid"] == [4, 4]
    assert about["size"] == [SIDE, SIDE]
    assert about["codebook_size"] == 16
    assert about["can_caption"] is False
    assert about["sampling"]["guidance_scale"] == 1.5
    assert httpx.get(f"{page_server.url}/page/models/none").status_code == 404


def test_a_picture_becomes_the_codes_of_the_pipeline(page_server, pipe):
    answer = upload(page_server, "codes", png(picture())).json()
    codes = pipe.image_tokenizer.unflatten_codes(pipe.encode(picture()))
    assert answer["codes"] == codes[0].tolist()
    assert same(opened(answer["picture"]), picture())
    assert same(opened(answer["reconstruction"]), pipe.decode(codes)[0])


def test_a_changed_code_gives_the_picture_of_the_pipeline(page_server, pipe):
    """The code itself comes first, the others by distance, each with the picture that it would give."""
    codes = pipe.image_tokenizer.unflatten_codes(pipe.encode(picture()))
    body = {"model": "tiny", "codes": codes[0].tolist(), "position": [1, 2]}
    answer = httpx.post(f"{page_server.url}/page/neighbors", json=body, timeout=300).json()["neighbors"]
    assert answer[0]["code"] == codes[0, 1, 2]
    distances = [neighbor["distance"] for neighbor in answer]
    assert distances[0] == 0
    assert distances == sorted(distances)
    vectors = pipe.image_tokenizer.quantizer.code_vectors()
    expected = (vectors[answer[3]["code"]] - vectors[codes[0, 1, 2]]).norm().item()
    assert distances[3] == pytest.approx(expected, rel=1e-5)
    changed = codes.clone()
    changed[0, 1, 2] = answer[3]["code"]
    assert same(opened(answer[3]["picture"]), pipe.decode(changed)[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"codes": [[0]]}, {"codes": [[99] * 4] * 4}, {"codes": [[0.5] * 4] * 4}, {"codes": "x"}, {"codes": None},
        {"position": [4, 0]}, {"position": [0]}, {"position": [True, 0]}, {"position": None}, {"model": ["tiny"]},
        {"codes": [[-1] * 4] * 4},
    ],
)  # fmt: skip
def test_wrong_codes_are_one_sentence(page_server, wrong):
    body = {"model": "tiny", "codes": [[0] * 4] * 4, "position": [0, 0], **wrong}
    answer = httpx.post(f"{page_server.url}/page/neighbors", json=body, timeout=300)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(".")


def test_describing(page_server):
    answer = upload(page_server, "describe", png(picture()))
    assert answer.status_code == 400
    assert "trained to describe" in answer.json()["error"]["message"]
    pipe = build_pipeline(1, can_caption=True)
    with running([ServedModel("captions", pipe)], ServeConfig(port=0, page=True)) as server:
        answer = upload(server, "describe", png(picture()), "captions")
        assert answer.json() == {"caption": pipe.caption(picture())[0]}
    assert upload(page_server, "describe", b"no picture").status_code == 400


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium; on Debian: apt-get install chromium")
def test_a_persons_way_through_it(page_server, tmp_path):
    """Type a prompt, watch it grow, use a picture, change a code, draw the lower half again. Nothing goes wrong."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright; install the extra dev")
    problems, requests = [], []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.set_default_timeout(120_000)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_server.url)
        page.wait_for_selector("#temperature[placeholder]")
        page.fill("#prompt", "<b>red</b> square")
        page.fill("#seed", "7")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=4 drawn with seed 7.")
        assert page.inner_text("article h2") == "<b>red</b> square"
        page.click("article li:first-child button")
        page.wait_for_selector("text=The picture is read.")
        page.focus("#tab-draw")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == "tab-codes"  # "Describe" is hidden: it cannot caption
        before = page.get_attribute("#rebuilt", "src")
        page.click("#grid button:nth-child(6)")
        page.click("#neighbors li:nth-child(9) button")
        page.wait_for_selector("text=From the changed codes")
        assert page.get_attribute("#rebuilt", "src") != before
        page.screenshot(path=tmp_path / "codes.png")
        page.click("#undo")
        assert page.get_attribute("#rebuilt", "src") == before
        page.click("#tab-edit")
        page.click("#lower-half")
        assert page.locator('#mask button[aria-pressed="true"]').count() == 8
        page.fill("#edit-prompt", "blue square")
        page.click("#edit-form button[type=submit]")
        page.wait_for_selector("text=/4 drawn with seed \\d+/")
        assert page.locator("article").count() == 2
        browser.close()
    assert problems == []
    assert all(url.startswith((page_server.url, "data:")) for url in requests)
