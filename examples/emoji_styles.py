"""Four families of emoji that draw the same things in four styles, as one captioned collection.

    python examples/emoji_styles.py --output outputs/styles
    vqlm train-vq --data outputs/styles --output outputs/image_tokenizer

About 14,700 pictures with captions such as "fire engine, noto style": OpenMoji, Noto, Twemoji and Fluent (flat) from
npm's `@iconify-json` packages, drawn by resvg-py on white, with the names of the PyPI package `emoji`. npm fetches the
packages by its own configuration; a tarball that lies in --packages already is taken as it is. What is held out lies in
tars of its own, in three sets that behave nothing alike, see `split_names`.
"""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from vqlm.data_prep.pictures.svg import draw_svg
from vqlm.data_prep.sources.openmoji import MIN_TRAINED_TONES, SKIN_TONE, captions_by_code_points
from vqlm.data_prep.splits import hash_share
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json, write_json
from vqlm.training.watching.progress import Progress


class Package(NamedTuple):
    """A package of npm, the SHA-512 of its tarball as npm states it, and the licence that we know it under; the newest
    version, unchecked, where these are not given."""

    name: str
    version: str | None = None
    integrity: str | None = None
    license: str | None = None

    @property
    def spec(self) -> str:
        """As npm knows it."""
        return f"@iconify-json/{self.name}" + (f"@{self.version}" if self.version else "")

    @property
    def tarball(self) -> str:
        """The name of its file; of the newest version a pattern that it matches."""
        return f"iconify-json-{self.name}-{self.version or '[0-9]*'}.tgz"

    def found_in(self, folder: Path) -> Path | None:
        """Its file in `folder`, if it is there; of several versions the last by name."""
        return max(folder.glob(self.tarball), default=None)


PACKAGES = {
    "openmoji": Package(
        "openmoji", "1.2.29",
        "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        "CC-BY-SA-4.0",
    ),
    "noto": Package(
        "noto", "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0",
    ),
    "twemoji": Package(
        "twemoji", "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0",
    ),
    "fluent": Package(
        "fluent-emoji-flat", "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT",
    ),
}  # fmt: skip
ROWS_PER_TAR = 1000
SUMMARY = "collection.json"  # written last: where it stands, the collection is whole
# Shares of the things, and for pairs of things within a style or of pictures with a skin tone.
THINGS_SHARE, PAIRS_NEW_SHARE, PAIRS_TONE_SHARE = 0.03, 0.03, 0.05
SKIN_TONES = {f"1F3F{digit}" for digit in "BCDEF"}
GENDERS_DIRECTIONS_JOINERS = {"2640", "2642", "27A1", "200D"}
PERSON, CHILD = "1F9D1", "1F9D2"
OF_NO_GENDER = {"1F468": PERSON, "1F469": PERSON, "1F466": CHILD, "1F467": CHILD}


class Picture(NamedTuple):
    """style: "noto". code_points: "1F692". name: "fire engine". svg: a whole document."""

    style: str
    code_points: str
    name: str
    svg: str

    @property
    def key(self) -> str:
        return f"{self.style}/{self.code_points}"

    @property
    def caption(self) -> str:
        return f"{self.name}, {self.style} style"


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="Folder for the collection.")
    parser.add_argument("--image_size", type=int, default=64, help="Side of the pictures, in pixels.")
    parser.add_argument("--packages", type=Path, default=Path("outputs/npm"), help="Folder for npm's tarballs.")
    settings = parser.parse_args(arguments)
    output, image_size = settings.output, settings.image_size
    made_from = {
        "image_size": image_size,
        "packages": {package.name: package.version for package in PACKAGES.values()}
        | {name: version(name) for name in ("emoji", "resvg-py")},
    }
    if output.exists():
        require_same(output, made_from)
        print(f"{output} is there already.", flush=True)
        return
    pictures, notices = [], []
    for style, package in PACKAGES.items():
        files = read_package(package, settings.packages)
        pictures += pictures_of(style, files["icons.json"], files["chars.json"])
        notices.append(notice_of(package, files["info.json"]))
    splits = split_names(pictures)
    unfinished = output.with_name(output.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    counts = write_tars(pictures, splits, image_size, unfinished)
    (unfinished / "NOTICE").write_text("\n".join(notices) + "\n", encoding="utf-8")
    write_json(unfinished / SUMMARY, made_from | {"pictures": counts})
    unfinished.rename(output)
    print(f"{output}: {', '.join(f'{count} {split}' for split, count in counts['all'].items())}", flush=True)


def require_same(output: Path, made_from: dict) -> None:
    """Raises UserError if `output` is not the collection of the same settings."""
    summary = read_json(output / SUMMARY) if (output / SUMMARY).exists() else None
    if summary is None:
        raise UserError(f"{output} exists and is no collection of this program; choose another --output.")
    for name, value in made_from.items():
        if summary[name] != value:
            raise UserError(
                f"{output} was made with {name} {summary[name]}, not with {value}; choose another --output."
            )


# Reading the packages


def read_package(package: Package, folder: Path) -> dict[str, dict]:
    """The JSON files of a package by their names, from its tarball in `folder`, fetched there by npm if it is missing.

    Raises UserError if npm is missing or fails, and for a tarball that is not the pinned one.
    """
    path = package.found_in(folder) or fetch_package(package, folder)
    content = path.read_bytes()
    if package.integrity and base64.b64encode(hashlib.sha512(content).digest()).decode() != package.integrity:
        raise UserError(f"{path} is not the tarball of {package.spec} (its SHA-512 differs); remove it and run again.")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {f"package/{name}": name for name in ("icons.json", "chars.json", "info.json")}
        return {files[name]: json.load(archive.extractfile(name)) for name in archive.getnames() if name in files}  # type: ignore[arg-type]


def fetch_package(package: Package, folder: Path) -> Path:
    """The tarball that npm packs into `folder`. Raises UserError if npm is missing or fails."""
    folder.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"npm is needed to fetch {package.spec}; install it, or put {package.tarball} into {folder} yourself, from "
            f"https://www.npmjs.com/package/@iconify-json/{package.name}."
        )
    print(f"npm pack {package.spec}", flush=True)
    run = subprocess.run([npm, "pack", "--silent", package.spec], cwd=folder, capture_output=True, text=True)
    path = package.found_in(folder)
    if run.returncode or path is None:
        raise UserError(f"npm could not fetch {package.spec}: {' '.join(run.stderr.split())[-300:]}")
    return path


def notice_of(package: Package, info: dict) -> str:
    """The line that every model trained on the family carries. Raises UserError if the package changed its licence."""
    if info["license"]["spdx"] != package.license:
        raise UserError(f"{package.spec} is under {info['license']['spdx']}, expected {package.license}.")
    return (
        f"Trained on pictures of {info['name']} (copyright {info['author']['name']}, {info['author']['url']}), "
        f"licensed {info['license']['title']} ({info['license']['url']})."
    )


def pictures_of(style: str, icons: dict, chars: dict[str, str]) -> list[Picture]:
    """The named pictures of a family, in the order of their code points. Prints what has no name, and why.

    `icons` is a set in Iconify's JSON; `chars` names its icons by code points, as "1f692": "fire-engine".
    """
    names = captions_by_code_points(["en"])
    pictures: dict[str, Picture] = {}
    unnamed, missing = [], []
    for characters, icon in chars.items():
        code_points = characters.upper().replace("-FE0F", "")
        if code_points not in names:
            unnamed.append(icon)
        elif icon not in icons["icons"]:
            missing.append(icon)
        else:
            pictures[code_points] = Picture(style, code_points, names[code_points][0], svg_of(icon, icons))
    reasons = {
        "their code points have no English name in emoji": unnamed,
        "there is no code point for them": sorted(icons["icons"].keys() - set(chars.values())),
        "they are named and not drawn": missing,
    }
    print(f"{style}: {len(pictures)} pictures with a name", flush=True)
    for reason, left_out in reasons.items():
        if left_out:
            print(f"  {len(left_out)} left out, {reason}: {', '.join(left_out[:5])}, ...", flush=True)
    return [pictures[code_points] for code_points in sorted(pictures)]


def svg_of(icon: str, icons: dict) -> str:
    """The document of an icon, on a square in whose middle it lies."""
    body = icons["icons"][icon]
    left, top, width, height = (
        body.get(name, icons.get(name, default))
        for name, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))  # Iconify's own defaults
    )
    side = max(width, height)
    box = f"{left - (side - width) / 2:g} {top - (side - height) / 2:g} {side:g} {side:g}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}">{body["body"]}</svg>'
    )


# What is held out


def split_names(pictures: list[Picture]) -> list[str]:
    """The split of every picture, by hashes of names of things.

    things: a thing that is in no style of the training set. pairs_new: the style has nothing of the thing in training,
    other styles have each of its pictures. pairs_tone: the style has the thing in other skin tones, at least
    `MIN_TRAINED_TONES`, and other styles have it in this tone. A thing is all that differs by skin tone, gender or
    direction alone, or that some style draws alike (`things_of`). Pictures that the hash chooses and that are none of
    these are trained on.
    """
    things = things_of(pictures)
    first_of_drawing: dict[tuple[str, str], str] = {}
    for picture in pictures:
        first_of_drawing.setdefault((picture.style, picture.svg), picture.code_points)

    def chosen(picture: Picture) -> tuple[str, str, str]:
        """The set that the hash chooses, and the unit that is held out in it as a whole."""
        style, thing = picture.style, things[picture.code_points]
        drawing = first_of_drawing[style, picture.svg]
        if hash_share(f"things {thing}") < THINGS_SHARE:
            return "things", "", thing
        if hash_share(f"pairs_new {style} {thing}") < PAIRS_NEW_SHARE:
            return "pairs_new", style, thing
        if SKIN_TONE.search(picture.name) and hash_share(f"pairs_tone {style} {drawing}") < PAIRS_TONE_SHARE:
            return "pairs_tone", style, drawing
        return "train", "", ""

    units = [chosen(picture) for picture in pictures]
    trained = [picture for picture, unit in zip(pictures, units, strict=True) if unit[0] == "train"]
    trained_anywhere = {picture.code_points for picture in trained}
    trained_tones: dict[tuple[str, str], int] = defaultdict(int)
    for picture in trained:
        if SKIN_TONE.search(picture.name):
            trained_tones[picture.style, without_tones(picture.name)] += 1
    unfit = set()  # what returns to training changes nothing for the rest: it only adds to what is trained on
    for picture, unit in zip(pictures, units, strict=True):
        is_known = picture.code_points in trained_anywhere
        has_tones = trained_tones[picture.style, without_tones(picture.name)] >= MIN_TRAINED_TONES
        if unit[0] == "pairs_new" and not is_known or unit[0] == "pairs_tone" and not (is_known and has_tones):
            unfit.add(unit)
    return ["train" if unit in unfit else unit[0] for unit in units]


def without_tones(name: str) -> str:
    return " ".join(SKIN_TONE.sub("", name).split())


def things_of(pictures: list[Picture]) -> dict[str, str]:
    """The first code points of each picture's thing, by its code points."""
    parents: dict[str, str] = {}

    def root(node: str) -> str:
        while parents.setdefault(node, node) != node:
            parents[node] = node = parents[parents[node]]  # halves the way for the next one
        return node

    for picture in pictures:
        parts = [OF_NO_GENDER.get(part, part) for part in picture.code_points.split("-")]
        neutral = "-".join(part for part in parts if part not in SKIN_TONES | GENDERS_DIRECTIONS_JOINERS)
        for shared in (
            f"name {without_tones(picture.name)}",
            f"variant {neutral or picture.code_points}",
            f"drawing {picture.style} {picture.svg}",
        ):
            parents[root(shared)] = root(picture.code_points)
    firsts: dict[str, str] = {}
    for code_points in sorted({picture.code_points for picture in pictures}):
        firsts.setdefault(root(code_points), code_points)
    return {picture.code_points: firsts[root(picture.code_points)] for picture in pictures}


# Writing


def write_tars(pictures: list[Picture], splits: list[str], image_size: int, folder: Path) -> dict[str, dict[str, int]]:
    """`train-0000.tar`, `held_out-SET-0000.tar` and so on in `folder`. Returns the number of pictures by style, then by
    split."""
    counts: dict[str, dict[str, int]] = {}
    progress, start_time, written = Progress("draw"), time.monotonic(), 0
    for split in ("train", "pairs_tone", "pairs_new", "things"):
        rows = sorted(
            (picture for picture, its in zip(pictures, splits, strict=True) if its == split),
            key=lambda picture: (picture.code_points, picture.style),
        )
        for picture in rows:
            for style in ("all", picture.style):
                counts.setdefault(style, {}).setdefault(split, 0)
                counts[style][split] += 1
        for number, start in enumerate(range(0, len(rows), ROWS_PER_TAR)):
            name = f"{split if split == 'train' else f'held_out-{split}'}-{number:04}.tar"
            with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as archive:
                for file_name, content in files_of(rows[start : start + ROWS_PER_TAR], image_size):
                    member = tarfile.TarInfo(file_name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
            written += len(rows[start : start + ROWS_PER_TAR])
            left = (time.monotonic() - start_time) * (len(pictures) / written - 1)
            progress.show(written / len(pictures), left, f"{written} of {len(pictures)} pictures")
    progress.close()
    return counts


def files_of(pictures: list[Picture], image_size: int) -> Iterator[tuple[str, bytes]]:
    for picture in pictures:
        drawn = io.BytesIO()
        draw_svg(picture.svg, image_size, "white").save(drawn, "PNG")
        yield f"{picture.key}.png", drawn.getvalue()
        yield f"{picture.key}.txt", picture.caption.encode()


if __name__ == "__main__":
    run_script(main)
