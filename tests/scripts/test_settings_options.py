"""Options of settings dataclasses: those of a quantizer depend on its type."""

from dataclasses import dataclass

import pytest

from vqlm.scripts.options import script_parser
from vqlm.scripts.settings_options import add_typed_settings, values_of
from vqlm.training.errors import UserError
from vqlm.vq import FSQConfig
from vqlm.vq.quantizers.settings import CONFIGS


def test_values_of_takes_only_its_own_fields():
    @dataclass
    class Size:
        width: int
        height: int = 2

    class Settings:
        width, height, depth = 3, 4, 5

    assert values_of(Size, Settings) == Size(3, 4)


def quantizer_of(*arguments: str):
    parser = script_parser("A script.")
    add_typed_settings(parser, "quantizer", CONFIGS, "vq", list(arguments))
    return parser.parse_args(list(arguments)).quantizer


@pytest.mark.parametrize(
    "arguments",
    [
        ["--quantizer", '{"type": "fsq", "levels": [8, 6]}'],
        ['--quantizer={"type": "fsq", "levels": [8, 6]}'],
        ["--quantizer", "q.yaml"],
        ["--quantizer.type", "fsq", "--quantizer.levels", "[8,6]"],
        ["--quantizer.levels=[8,6]", "--quantizer.type=fsq"],
        ["--config", "inside.yaml"],
        ["--config", "beside.yaml"],
        ["--config", "other.yaml", "--quantizer", "q.yaml"],
        ["--config", "inside.yaml", "--quantizer.levels", "[8,6]"],
    ],
    ids=" ".join,
)
def test_every_way_to_say_which_quantizer(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.yaml").write_text("type: fsq\nlevels: [8, 6]\n")
    (tmp_path / "inside.yaml").write_text("quantizer:\n  type: fsq\n  levels: [8, 6]\n")
    (tmp_path / "beside.yaml").write_text("quantizer: q.yaml\n")
    (tmp_path / "other.yaml").write_text("quantizer:\n  type: lfq\n")
    assert quantizer_of(*arguments) == FSQConfig(levels=[8, 6])


NO_LEVEL = (
    "there is no option --quantizer.level; those of quantizer of type fsq are --quantizer.type, --quantizer.levels; "
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--quantizer.type", "sq"],
            "--quantizer.type must be one of vq, fsq, lfq, residual, grouped, hierarchical, fou",
        ),
        (["--quantizer", '{"type": "fsq", "level": 3}'], NO_LEVEL),
        (["--quantizer.type=fsq", "--quantizer.level=3"], NO_LEVEL),
        (["--quantizer", "nowhere.yaml"], "nowhere.yaml"),
        (["--quantizer"], "expected one argument"),
        (["--config"], "expected one argument"),
    ],
    ids=str,
)
def test_a_wrong_quantizer(arguments, said):
    with pytest.raises(UserError) as error:
        quantizer_of(*arguments)
    assert said in str(error.value)


def test_settings_longer_than_a_file_name():
    text = '{"type": "fsq", "levels": [' + ", ".join(["8"] * 200) + "]}"
    assert quantizer_of("--quantizer", text) == FSQConfig(levels=[8] * 200)
