"""The page in a headless Chromium: it loads without errors and fetches nothing from elsewhere."""

import re
import shutil
import subprocess

import httpx
import pytest
from serving import running
from vqlm.serve.jobs import ServedModel
from vqlm.serve.page import FOLDER
from vqlm.serve.settings import ServeConfig
from vqlm.training.errors import UserError

CHROMIUM = shutil.which("chromium")
OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--virtual-time-budget=8000",
]  # fmt: skip


@pytest.fixture
def page_server(pipe):
    with running([ServedModel("tiny", pipe)], ServeConfig(port=0, page=True)) as server:
        yield server


def test_its_files_name_no_other_place():
    for path in FOLDER.glob("page.*"):
        assert not re.search(r"https?:|//[a-z]", path.read_text(encoding="utf-8").replace("// ", ""))
    assert not re.search(r'(src|href)="(?!/page/|data:,)', (FOLDER / "index.html").read_text(encoding="utf-8"))


def test_it_is_there_only_where_it_is_wanted(server, page_server):
    assert httpx.get(server.url).status_code == 404
    answer = httpx.get(page_server.url)
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for name, kind in (("css", "text/css"), ("js", "text/javascript")):
        assert httpx.get(f"{page_server.url}/page/page.{name}").headers["content-type"].startswith(kind)
    with pytest.raises(UserError, match="has no field for a key"):
        ServeConfig(page=True, api_key="x")


def test_every_field_has_a_label():
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    inputs = re.findall(r"<(?:input|select)", text)
    assert len(re.findall(r"<label[^>]*>[^<]+<(?:input|select)", text)) == len(inputs) == 6


def test_rows_appear_one_after_another(page_server):
    body = {"prompt": "red", "n": 2, "stream": True, "partial_rows": True, "seed": 0}
    answer = page_server.post(json=body)
    kinds = re.findall(r'"type": "image_generation\.(\w+)".*?"index": (\d)', answer.text)
    for index in "01":
        assert [kind for kind, own in kinds if own == index] == ["partial_image"] * 3 + ["completed"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which .ci/run installs")
def test_chromium_shows_it(page_server, tmp_path):
    done = subprocess.run(
        [str(CHROMIUM), *OPTIONS, f"--user-data-dir={tmp_path}", "--dump-dom", page_server.url],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "<option>tiny</option>" in done.stdout  # its script has run, and has asked the server
