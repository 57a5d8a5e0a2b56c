"""The collection of four styles of emoji: what is drawn and named, what is held out, the models and figures of it."""

import base64
import hashlib
import importlib.util
import io
import json
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from vqlm.data_prep import load_collection
from vqlm.data_prep.sources.openmoji import captions_by_code_points
from vqlm.lm import TextToImagePipeline
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SQUARE = '<path fill="#f00" d="M0 0h16v16H0z"/>'
NAMED = {"1F692": "fire engine", "1F984": "unicorn", "2764": "red heart", "1F44D": "thumbs up"}


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def styles() -> ModuleType:
    return load(ROOT / "examples" / "emoji_styles.py")


@pytest.fixture
def picture(styles):
    """picture("noto", "1F692"): drawn as no other, unless `svg` is given."""

    names = captions_by_code_points(["en"])

    def of(style: str, code_points: str, svg: str | None = None):
        return styles.Picture(style, code_points, names[code_points][0], svg or f"<svg>{style} {code_points}</svg>")

    return of


@pytest.fixture
def chosen_by(styles, monkeypatch):
    """chosen_by("things 1F692"): the hash holds out what is named so, and nothing else."""
    return lambda *names: monkeypatch.setattr(styles, "hash_share", lambda text: 0.0 if text in names else 1.0)


# Names and drawings


def test_icons_are_named_by_their_code_points(styles, capsys):
    icons = {"icons": {name: {"body": SQUARE} for name in ("engine", "heart", "letter", "old-name")}, "height": 16}
    chars = {"1f692": "engine", "2764-fe0f": "heart", "1f1e6": "letter", "1f984": "unicorn"}
    pictures = styles.pictures_of("noto", icons, chars)
    assert [(one.code_points, one.name) for one in pictures] == [("1F692", "fire engine"), ("2764", "red heart")]
    assert [one.caption for one in pictures] == ["fire engine, noto style", "red heart, noto style"]
    assert capsys.readouterr().out.splitlines() == [
        "noto: 2 pictures with a name",
        "  1 left out, their code points have no English name in emoji: letter, ...",
        "  1 left out, there is no code point for them: old-name, ...",
        "  1 left out, they are named and not drawn: unicorn, ...",
    ]


def test_a_drawing_lies_in_the_middle_of_a_square(styles):
    icons = {"icons": {"low": {"body": "<g/>", "height": 20}}, "width": 36, "height": 36, "top": 1}
    assert 'viewBox="0 -7 36 36"' in styles.svg_of("low", icons)
    assert 'viewBox="0 0 16 16"' in styles.svg_of("plain", {"icons": {"plain": {"body": "<g/>"}}})


# What is held out


def test_what_differs_by_tone_gender_or_direction_is_one_thing(styles, picture):
    tones_and_genders = ["1F692", "1F9D1-200D-1F692", "1F468-1F3FB-200D-1F692", "1F469-200D-1F692"]
    walking = ["1F6B6", "1F6B6-1F3FD-200D-2640", "1F6B6-200D-27A1"]
    signs = ["2640", "2642", "27A1"]
    things = styles.things_of([picture("noto", name) for name in tones_and_genders + walking + signs])
    assert {things[name] for name in tones_and_genders[1:]} == {"1F468-1F3FB-200D-1F692"}
    assert {things[name] for name in walking} == {"1F6B6"}
    assert [things[name] for name in ["1F692", *signs]] == ["1F692", *signs]


def test_what_a_style_draws_alike_is_one_thing(styles, picture):
    spain, ceuta, france = "1F1EA-1F1F8", "1F1EA-1F1E6", "1F1EB-1F1F7"
    flags = [picture("noto", spain), picture("twemoji", spain, "same"), picture("twemoji", ceuta, "same")]
    things = styles.things_of([*flags, picture("twemoji", france)])
    assert things[spain] == things[ceuta] == ceuta
    assert things[france] == france


def test_a_thing_is_held_out_in_all_styles(styles, picture, chosen_by):
    pictures = [picture(style, name) for style in ("noto", "fluent") for name in ("1F692", "1F984")]
    chosen_by("things 1F692")
    assert styles.split_names(pictures) == ["things", "train", "things", "train"]


def test_a_new_pair_holds_out_all_of_the_thing_in_its_style(styles, picture, chosen_by):
    names = ("1F44D", "1F44D-1F3FB", "1F984")
    pictures = [picture(style, name) for style in ("noto", "fluent") for name in names]
    chosen_by("pairs_new noto 1F44D")
    assert styles.split_names(pictures) == ["pairs_new", "pairs_new", "train", "train", "train", "train"]


def test_a_pair_that_no_other_style_has_is_trained_on(styles, picture, chosen_by):
    pictures = [picture("noto", "1F44D"), picture("noto", "1F44D-1F3FB"), picture("fluent", "1F44D")]
    chosen_by("pairs_new noto 1F44D", "pairs_tone noto 1F44D-1F3FB")
    assert styles.split_names(pictures) == ["train", "train", "train"]


@pytest.mark.parametrize(("trained_tones", "expected"), [("CD", "pairs_tone"), ("C", "train")])
def test_a_pair_of_tones_needs_two_other_tones_in_training(styles, picture, chosen_by, trained_tones, expected):
    others = [picture("noto", f"1F44D-1F3F{digit}") for digit in trained_tones]
    held_out, untoned = picture("noto", "1F44D-1F3FB"), picture("noto", "1F44D")
    chosen_by("pairs_tone noto 1F44D-1F3FB")
    splits = styles.split_names([held_out, untoned, *others, picture("fluent", "1F44D-1F3FB")])
    assert splits == [expected, *["train"] * (len(splits) - 1)]


def test_no_held_out_picture_is_trained_on_in_any_form(styles, picture):
    """All names in three styles, of which one has half and draws firefighters of both genders alike."""
    names = sorted(captions_by_code_points(["en"]))
    pictures = [picture(style, name) for style in ("noto", "fluent") for name in names]
    pictures += [picture("openmoji", name, f"drawing {name.replace('1F469', '1F468')}") for name in names[::2]]
    splits, things = styles.split_names(pictures), styles.things_of(pictures)
    by_split = defaultdict(list)
    for one, split in zip(pictures, splits, strict=True):
        by_split[split].append(one)
    trained = by_split["train"]
    trained_pairs = {(one.style, one.code_points) for one in trained}
    trained_things = {(one.style, things[one.code_points]) for one in trained}
    trained_drawings = {(one.style, one.svg) for one in trained}
    elsewhere = {one.code_points for one in trained}
    for split in ("pairs_tone", "pairs_new", "things"):
        assert 0.01 < len(by_split[split]) / len(pictures) < 0.06, split
        assert not {(one.style, one.code_points) for one in by_split[split]} & trained_pairs
        assert not {(one.style, one.svg) for one in by_split[split]} & trained_drawings
    assert not {things[one.code_points] for one in by_split["things"]} & {thing for _, thing in trained_things}
    assert not {(one.style, things[one.code_points]) for one in by_split["pairs_new"]} & trained_things
    assert all(one.code_points in elsewhere for one in by_split["pairs_new"] + by_split["pairs_tone"])
    tones = Counter((one.style, styles.without_tones(one.name)) for one in trained if "skin tone" in one.name)
    assert all(tones[one.style, styles.without_tones(one.name)] >= 2 for one in by_split["pairs_tone"])


# The packages


def make_package(styles: ModuleType, folder: Path, style: str, colour: str, license: str) -> None:
    """A tarball of four pictures, pinned instead of the family's."""
    icons = {  # each drawn as no other
        "icons": {
            name: {"body": f'{SQUARE.replace("#f00", colour)}<path d="M0 0h{number}"/>'}
            for number, name in enumerate(NAMED.values())
        }
    }
    info = {
        "name": style.title(), "author": {"name": "Anna", "url": "https://a.example"},
        "license": {"spdx": license, "title": license.replace("-", " "), "url": "https://l.example"},
    }  # fmt: skip
    content = io.BytesIO()
    files = {"icons.json": icons, "chars.json": {key.lower(): name for key, name in NAMED.items()}, "info.json": info}
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, value in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(json.dumps(value))
            archive.addfile(member, io.BytesIO(json.dumps(value).encode()))
    integrity = base64.b64encode(hashlib.sha512(content.getvalue()).digest()).decode()
    styles.PACKAGES[style] = styles.Package(f"test-{style}", "1.0.0", integrity, license)
    folder.mkdir(exist_ok=True)
    (folder / styles.PACKAGES[style].tarball).write_bytes(content.getvalue())


@pytest.fixture
def packages(styles, tmp_path) -> Path:
    styles.PACKAGES.clear()
    make_package(styles, tmp_path / "npm", "noto", "#f00", "Apache-2.0")
    make_package(styles, tmp_path / "npm", "openmoji", "#00f", "CC-BY-SA-4.0")
    return tmp_path / "npm"


@pytest.fixture
def collection(styles, packages, chosen_by, tmp_path) -> Path:
    """Two styles of four things: a unicorn held out in one of them, a heart in both."""
    chosen_by("pairs_new noto 1F984", "things 2764")
    styles.main(["--output", str(tmp_path / "styles"), "--packages", str(packages), "--image-size", "16"])
    return tmp_path / "styles"


def test_the_collection_comes_with_its_held_out_sets(collection):
    loaded = load_collection(str(collection))
    assert loaded.held_out_names == ("pairs_new", "things")
    captions = {split: [row.captions[0] for row in loaded.rows(split)] for split in loaded.split_names}
    assert captions == {
        "pairs_new": ["unicorn, noto style"],
        "things": ["red heart, noto style", "red heart, openmoji style"],
        "train": [
            "thumbs up, noto style", "thumbs up, openmoji style", "fire engine, noto style",
            "fire engine, openmoji style", "unicorn, openmoji style",
        ],
    }  # fmt: skip
    pictures = [np.array(Image.open(io.BytesIO(row.image))) for row in loaded.rows("things")]
    assert [picture.shape for picture in pictures] == [(16, 16, 3), (16, 16, 3)]
    assert [tuple(picture[8, 8]) for picture in pictures] == [(255, 0, 0), (0, 0, 255)]
    summary = read_json(collection / "collection.json")
    assert summary["pictures"] == {
        "all": {"train": 5, "pairs_new": 1, "things": 2},
        "noto": {"train": 2, "pairs_new": 1, "things": 1},
        "openmoji": {"train": 3, "things": 1},
    }


def test_a_second_run_makes_nothing_and_another_size_is_refused(styles, collection, capsys):
    styles.main(["--output", str(collection), "--image-size", "16"])
    assert capsys.readouterr().out.endswith("is there already.\n")
    with pytest.raises(UserError, match="was made with image_size 16, not with 32"):
        styles.main(["--output", str(collection), "--image-size", "32"])
    with pytest.raises(UserError, match="is no collection of this program"):
        styles.main(["--output", str(collection.parent / "npm")])


def test_another_tarball_is_refused(styles, packages):
    package = styles.PACKAGES["noto"]
    (packages / package.tarball).write_bytes(b"something else")
    with pytest.raises(UserError, match="is not the tarball of @iconify-json/test-noto@1.0.0"):
        styles.read_package(package, packages)


def test_without_npm_a_tarball_may_be_put_there(styles, packages, tmp_path, monkeypatch):
    monkeypatch.setattr(styles.shutil, "which", lambda name: None)
    package = styles.PACKAGES["noto"]
    assert len(styles.read_package(package, packages)["chars.json"]) == 4
    with pytest.raises(UserError, match=r"put iconify-json-test-noto-1.0.0.tgz into .*/empty yourself"):
        styles.read_package(package, tmp_path / "empty")


def test_a_package_may_be_of_any_version(styles, packages):
    """As `benchmarks/from_base.py` reads one: npm is not asked where a version lies there."""
    pinned = styles.PACKAGES["noto"]
    files = styles.read_package(styles.Package(pinned.name), packages)
    assert files["icons.json"] == styles.read_package(pinned, packages)["icons.json"]


def test_a_changed_licence_is_refused(styles, packages):
    info = styles.read_package(styles.PACKAGES["noto"], packages)["info.json"]
    with pytest.raises(UserError, match="is under Apache-2.0, expected MIT"):
        styles.notice_of(styles.PACKAGES["noto"]._replace(license="MIT"), info)


# Models of it


@pytest.fixture
def model_folder(collection, call_script, vq_yaml, lm_yaml, tmp_path) -> Path:
    call_script("train_vq", "--config", vq_yaml, "--data", collection, "--output", tmp_path / "vq")
    call_script(
        "prepare_data", "--data", collection, "--image-tokenizer", tmp_path / "vq", "--output", tmp_path / "data",
        "--text.size", "280",
    )  # fmt: skip
    call_script("train_lm", "--config", lm_yaml, "--data", tmp_path / "data", "--output", tmp_path / "model")
    return tmp_path / "model"


def test_the_licences_reach_every_model(model_folder, tmp_path):
    expected = (
        "Trained on pictures of Noto (copyright Anna, https://a.example), licensed Apache 2.0 (https://l.example).\n"
        "Trained on pictures of Openmoji (copyright Anna, https://a.example), licensed CC BY SA 4.0 "
        "(https://l.example).\n"
    )
    for folder in (tmp_path / "styles", tmp_path / "vq", model_folder, model_folder / "image_tokenizer"):
        assert (folder / "NOTICE").read_text(encoding="utf-8") == expected


def test_the_figures_of_a_model(model_folder, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = load(ROOT / "benchmarks" / "emoji_styles.py")
    options = ["--model", str(model_folder), "--data", str(tmp_path / "data"), "--output", str(tmp_path), "--tiny"]
    quality, drawn, time = (table["rows"] for table in benchmark.main(options)["tables"])
    assert [row[:2] for row in quality] == [["noto", 2], ["openmoji", 1], ["all", 3]]
    assert [row[:2] for row in drawn] == [["pairs_new", 1], ["things", 2], ["all prompts", 3]]
    assert all(row[3] == 100 for row in drawn[:2])  # of eight pictures each is among the first ten
    assert time[0][1][0] > 0


def test_ranks_and_nearest_by_hand(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = load(ROOT / "benchmarks" / "emoji_styles.py")
    gallery = [torch.tensor([0.0, 0.4]).view(2, 1, 1, 1), torch.tensor([0.5, 1.0]).view(2, 1, 1, 1)]
    drawn, targets = torch.tensor([0.1, 0.48]).view(2, 1, 1, 1), torch.tensor([1.0, 0.4]).view(2, 1, 1, 1)
    ranks, nearest = benchmark.ranks_and_nearest(drawn, targets, gallery)
    assert ranks.tolist() == [4, 2]
    assert nearest.tolist() == [0, 2]


def test_captions_without_a_style_are_refused(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = load(ROOT / "benchmarks" / "emoji_styles.py")
    assert benchmark.styles_of(["a, b, noto style"]) == ["noto"]
    with pytest.raises(UserError, match="'red heart' names no style"):
        benchmark.styles_of(["red heart"])


def test_the_shipped_model_is_half_as_large(model_folder, tmp_path):
    """What `make base` does at its end."""
    TextToImagePipeline.from_pretrained(model_folder, "cpu").save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    assert TextToImagePipeline.from_pretrained(tmp_path / "half", "cpu").model.dtype == torch.float32
    assert (tmp_path / "half" / "NOTICE").read_text() == (model_folder / "NOTICE").read_text()
