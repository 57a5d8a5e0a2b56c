"""The options of a script: dashes or underscores, booleans, places, several collections, names in errors."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vqlm.scripts.option_errors import OF_OTHERS
from vqlm.scripts.option_names import option_name
from vqlm.scripts.options import script_parser
from vqlm.scripts.settings_options import values_of
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError


def parse(*arguments: str) -> TrainingConfig:
    parser = script_parser("A script.")
    parser.add_class_arguments(TrainingConfig)
    return values_of(TrainingConfig, parser.parse_args(list(arguments)))


@pytest.mark.parametrize(
    "arguments", [["--max-steps", "5"], ["--max_steps", "5"], ["--max-steps=5"], ["--max_steps=5"]], ids=" ".join
)
def test_dashes_equal_underscores(arguments):
    assert parse(*arguments) == TrainingConfig(max_steps=5)


def test_dashes_in_values_stay():
    parser = script_parser(None)
    parser.add_argument("--the_folder", type=Path)
    for arguments in (["--the-folder", "my-run"], ["--the-folder=my-run"]):
        assert parser.parse_args(arguments).the_folder == Path("my-run")


@pytest.mark.parametrize("name", [*OF_OTHERS])
def test_the_name_that_others_have_for_a_setting_leads_to_ours(name):
    parser = script_parser(None)
    parser.add_argument("--resume", type=bool, default=False)
    parser.add_argument("--output", type=Path)
    parser.add_class_arguments(TrainingConfig)
    with pytest.raises(UserError, match=f"no option {option_name(name)}; did you mean {OF_OTHERS[name]}\\?"):
        parser.parse_args([option_name(name), "3"])


def test_the_name_of_others_is_no_hint_where_there_is_no_such_option():
    parser = script_parser(None)
    parser.add_argument("--output", type=Path)
    with pytest.raises(UserError, match="there is no option --fp16; --help lists"):
        parser.parse_args(["--fp16"])


def test_help_holds_the_line_of_a_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "optimizer steps to train for" in printed
    assert "rows per process that are computed at once" in printed
    assert "minutes to train for. (type: float)" in printed  # has no default
    assert "null" not in printed


def test_an_unknown_option_fails_and_is_named():
    with pytest.raises(UserError) as error:
        parse("--max-stepps", "5")
    said = "there is no option --max-stepps; did you mean --max-steps? --help lists every setting."
    assert str(error.value) == said


@dataclass
class Switches:
    """Two booleans.

    Args:
        mirror: whether to mirror.
        tied: whether to tie.
    """

    mirror: bool = False
    tied: bool = True


@pytest.mark.parametrize(
    ("arguments", "switches"),
    [
        ([], (False, True)),
        (["--part.mirror"], (True, True)),
        (["--no-part.tied"], (False, False)),
        (["--part.mirror=true", "--part.tied=false"], (True, False)),
        (["--part.mirror", "true", "--part.tied", "false"], (True, False)),
        (["--config", "on.yaml", "--no-part.mirror"], (False, True)),
        (["--config", "on.yaml"], (True, True)),
    ],
    ids=str,
)
def test_a_boolean_needs_no_value(arguments, switches, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "on.yaml").write_text("part:\n  mirror: true\n")
    parser = script_parser(None)
    parser.add_class_arguments(Switches, "part")
    assert parser.parse_args(arguments).part == Switches(*switches)
    noted = ["--part.mirror true is now written --part.mirror.", "--part.tied false is now written --no-part.tied."]
    said = [f"note: {note}" for note in noted] if "true" in arguments else []
    assert capsys.readouterr().err.splitlines() == said
    parser.print_help()
    assert "--part.mirror, --no-part.mirror\n" in capsys.readouterr().out


@dataclass
class Inner:
    """Inner settings.

    Args:
        levels: how many.
    """

    levels: list[int] = field(default_factory=list)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("`max_steps` must be above 0", "--max-steps must be above 0"),
        ("max_steps stays, as words without backticks do", "max_steps stays, as words without backticks do"),
        ("lower `inner.levels`.", "lower --inner.levels."),
        ("`levels` is empty", "--inner.levels is empty"),
        ("levels of detail", "levels of detail"),
        ("`unknown` stays, as does the seed", "`unknown` stays, as does the seed"),
        ("set `seed`", "set --seed"),
        ("runs/max_steps/a max_steps.json 'max_steps'", "runs/max_steps/a max_steps.json 'max_steps'"),
    ],
)
def test_errors_speak_of_options(text, told):
    parser = script_parser(None)
    parser.add_class_arguments(TrainingConfig)
    parser.add_class_arguments(Inner, "inner")
    assert parser.in_options(text) == told


@pytest.mark.parametrize(
    ("arguments", "data"),
    [
        (["pictures", "--seed", "3"], "pictures"),
        (["--data", "pictures", "--seed", "3"], "pictures"),
        (["--seed", "3", "--data=pictures"], "pictures"),
    ],
    ids=str,
)
def test_a_positional_argument_may_be_an_option(arguments, data):
    parser = script_parser(None)
    parser.add_argument("data")
    parser.add_argument("--seed", type=int)
    settings = parser.parse_args(arguments)
    assert (settings.data, settings.seed) == (data, 3)


def test_the_first_options_stand_first(capsys):
    parser = script_parser("A script.", ("seed", "batch_size"))
    parser.add_class_arguments(TrainingConfig)
    parser.print_help()
    shown = capsys.readouterr().out
    assert shown.index("--seed") < shown.index("--batch-size") < shown.index("--help") < shown.index("--max-steps")


@pytest.mark.parametrize("seed", [-1, 2**31, 2**64])
def test_a_seed_out_of_range(call_script, tmp_path, seed):
    with pytest.raises(UserError, match=f"`seed` must be a whole number from 0 to .*, found {seed}"):
        call_script("train_vq", "--data", "x", "--output", tmp_path / "vq", "--seed", seed)


# Several collections


@pytest.mark.parametrize("words", [["--data", "a", "--data", "b"], ["--data=a", "--data=b"], ["--data", "a + b"]])
def test_several_collections_are_one_value(words):
    from vqlm.scripts import train_vq

    assert train_vq.settings_parser(words).parse_args([*words, "--output", "o"]).data == "a + b"


def test_a_word_alone_is_named_where_it_is_missing_and_in_help(capsys):
    parser = script_parser(None)
    parser.add_argument("data", help="Pictures.")
    parser.add_argument("--output", type=Path, required=True)
    for words in (["a", "--output", "o"], ["--data", "a", "--output", "o"], ["--output=o", "--data=a"]):
        assert parser.parse_args(words).data == "a"
    with pytest.raises(UserError, match="required, and not given: DATA; --help"):
        parser.parse_args(["--output", "o"])
    parser.print_help()
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].endswith(" DATA [OPTION ...]")
    assert "\n  DATA " in printed


@pytest.mark.parametrize(
    "words",
    [["--output", ""], ["--output="], ["--output", " "], ["--config", "empty.yaml"], ["--data", "", "--output", "o"]],
    ids=str,
)
def test_an_empty_place_is_refused(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").write_text("output: ''\n")
    parser = script_parser(None)
    parser.add_argument("--data", type=str)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--prompt", type=str)
    with pytest.raises(UserError, match="^--(output|data) is empty; name a file or a folder"):
        parser.parse_args(words)
    assert parser.parse_args(["--prompt", "", "--output", "o"]).prompt == ""


def test_a_value_of_no_type_that_an_option_takes():
    with pytest.raises(UserError, match="^--max-steps: expected int, found many; --help"):
        parse("--max-steps", "many")


@pytest.mark.parametrize("value", ["nan", "inf", ".nan"])
def test_a_number_that_is_not_finite(value, tmp_path):
    (tmp_path / "settings.yaml").write_text(f"max_minutes: {value if value[0] == '.' else '.' + value.lstrip('-')}\n")
    for words in (["--max-minutes", value], ["--config", str(tmp_path / "settings.yaml")]):
        with pytest.raises(UserError, match="^--max-minutes must be a finite number, found (nan|inf)"):
            parse(*words)


@pytest.mark.parametrize("name", ["inspect_data", "prepare_data"])
def test_a_negative_number_of_workers(call_script, tmp_path, name):
    words = ["--image-tokenizer", tmp_path] if name == "prepare_data" else []
    with pytest.raises(UserError, match="`num_workers` must be at least 0, found -1"):
        call_script(name, "--data", "x", "--output", tmp_path / "new", "--num-workers", -1, *words)
