"""Links lead somewhere, pictures exist and are small, and the site has every page."""

import pkgutil
import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from documents import DOCUMENTS, prose  # noqa: E402

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
FOLDERS = "vq|data_prep|lm|training|planning|serve|scripts|tests|benchmarks|docs|configs|examples|deploy|vqlm"
MAX_BYTES = 100_000
ONLY_ON_THE_SITE = {"settings.md"}  # made of the dataclasses


def anchors(path: Path) -> set[str]:
    """As GitHub and mkdocs make them of headings."""
    headings = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(prose(path)))
    return {heading.strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_anchors_lead_somewhere(document):
    for link in LINK.findall(prose(document)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if path in ONLY_ON_THE_SITE:
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_named_in_code_exist(document):
    if document.name == "CHANGELOG.md":
        return  # names what there was
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]+\.(?:py|md|yaml|ipynb|cff))`", prose(document))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_and_names_of_ours_in_code_exist(document):
    if document.name == "CHANGELOG.md":
        return  # names what there was
    for name in re.findall(r"`(vqlm(?:\.\w+)+)`", prose(document)):
        pkgutil.resolve_name(name)  # raises where there is none


def test_pictures_of_troubleshooting_are_small():
    pictures = list((ROOT / "docs" / "images").glob("trouble-*.png"))
    assert len(pictures) == 4
    assert all(picture.stat().st_size < MAX_BYTES for picture in pictures)


def test_the_site_has_every_page():
    class Loader(yaml.SafeLoader):
        """Reads the tags of Python objects as nothing."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]
    pages = {page for entry in nav for part in entry.values() for page in _pages(part)}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= pages


def _pages(part) -> list[str]:
    return [part] if isinstance(part, str) else [page for entry in part for page in entry.values()]
