"""The base model of the checkout: it loads by name, and draws the same codes on every machine in fp32."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from vqlm.lm import TextToImagePipeline

FOLDER = Path(__file__).parents[2] / "models" / "emoji"
MOST_BYTES = 32 * 2**20
# Drawn with the likeliest codes; 1 and 2 threads and a processor without AVX-512 gave the same.
FIREFIGHTER = [
    600, 1906, 1684, 1277, 662, 1704, 279, 430, 1385, 1948, 1520, 1812, 699, 974, 1209, 1708,
    1846, 984, 1172, 1434, 970, 1645, 223, 1262, 1566, 1824, 471, 470, 471, 1461, 242, 1937,
    830, 1520, 562, 318, 1928, 320, 1520, 850, 28, 963, 1980, 748, 1170, 337, 1549, 375,
    2035, 1394, 56, 45, 666, 56, 759, 866, 1454, 1015, 1128, 1128, 1128, 1128, 461, 1561,
]  # fmt: skip


@pytest.fixture(scope="module")
def emoji() -> TextToImagePipeline:
    return TextToImagePipeline.from_pretrained("emoji", "cpu")


def test_it_draws_the_same_everywhere(emoji):
    output = emoji(["woman firefighter, noto style", "Woman Firefighter, Noto style."], temperature=0.0)
    assert output.codes.flatten(1).tolist() == [FIREFIGHTER, FIREFIGHTER]
    assert output.images[0].size == (64, 64)


def test_it_is_small_and_whole():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert {"README.md", "NOTICE"} <= {path.name for path in FOLDER.iterdir()}
    assert not any(b"/home/" in path.read_bytes() or b"/work/" in path.read_bytes() for path in FOLDER.glob("*.json"))


def test_transformers_loads_it_without_code_of_ours():
    model, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer("<bos>red heart<image>").input_ids[-1] == tokenizer.convert_tokens_to_ids("<image>")
