"""The options of a script: dashes or underscores, settings from YAML, booleans, errors in one line."""

import errno
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from vqlm.lm.settings import LMTrainingConfig, SamplingConfig
from vqlm.scripts.options import script_parser
from vqlm.scripts.run_script import run_script
from vqlm.scripts.settings_options import add_typed_settings, values_of
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.vq import FSQConfig, NetworkConfig
from vqlm.vq.quantizers.settings import CONFIGS


@pytest.fixture(autouse=True)
def _progress_bars_stay_as_they_are(monkeypatch):
    monkeypatch.setattr("vqlm.scripts.run_script._quiet_libraries", lambda: None)


def parse(*arguments: str) -> TrainingConfig:
    parser = script_parser("A script.")
    parser.add_class_arguments(TrainingConfig)
    return values_of(TrainingConfig, parser.parse_args(list(arguments)))


def exit_status(main) -> int:
    with pytest.raises(SystemExit) as ended:
        run_script(main)
    return ended.value.code


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


def test_later_options_override_the_file(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("max_steps: 5\nlearning_rate: 3.0e-4\n")
    assert parse("--config", str(file)) == TrainingConfig(max_steps=5, learning_rate=3e-4)
    assert parse("--config", str(file), "--max-steps", "6") == TrainingConfig(max_steps=6, learning_rate=3e-4)


def test_help_holds_the_line_of_a_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "optimizer steps to train for" in printed
    assert "rows per process that are computed at once" in printed


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max_stepps: 5\n", "--max-stepps; did you mean --max-steps?"),
        ("max_steps: many\n", "--max-steps"),
        ("model:\n  width: 3\n", "model"),
    ],
)
def test_a_wrong_file_of_settings_fails_and_says_where(tmp_path, capsys, text, named):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    assert exit_status(lambda _: parse("--config", str(file))) != 0
    assert named in capsys.readouterr().err


def test_an_unknown_option_fails_and_is_named(capsys):
    assert exit_status(lambda _: parse("--max-stepps", "5")) != 0
    assert capsys.readouterr().err == (
        "error: there is no option --max-stepps; did you mean --max-steps? --help lists every setting.\n"
    )


def test_values_of_takes_only_its_own_fields():
    @dataclass
    class Size:
        width: int
        height: int = 2

    class Settings:
        width, height, depth = 3, 4, 5

    assert values_of(Size, Settings) == Size(3, 4)


def test_a_user_error_is_one_line_and_status_2(capsys):
    def main(_):
        raise UserError("the folder is full; choose another")

    assert exit_status(main) == 2
    printed = capsys.readouterr()
    assert printed.err == "error: the folder is full; choose another\n"
    assert printed.out == ""


def test_any_other_error_keeps_its_traceback():
    def main(_):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_script(main)


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


def test_old_names_in_files_and_options(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text("warmup_share: 0.5\nlearning_rate: 1e-3\nnetwork:\n  misfit: pad\n")
    parser = script_parser(None)
    parser.add_class_arguments(TrainingConfig)
    parser.add_class_arguments(NetworkConfig, "network")
    settings = parser.parse_args(["--config", str(tmp_path / "old.yaml")])
    assert (settings.warmup_ratio, settings.learning_rate, settings.network.size_mismatch) == (0.5, 1e-3, "pad")
    assert capsys.readouterr().err == ""
    assert parser.parse_args(["--warmup-share", "0.2"]).warmup_ratio == 0.2
    assert capsys.readouterr().err == "note: --warmup-share is now called --warmup-ratio.\n"


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


def test_a_bare_no_of_yaml_is_the_word(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("mixed_precision: no\ncompile: yes\nlora: no\nsampling:\n  top_k: 3\n")
    parser = script_parser(None)
    parser.add_class_arguments(LMTrainingConfig)
    parser.add_class_arguments(SamplingConfig, "sampling")
    settings = parser.parse_args(["--config", str(file)])
    assert (settings.mixed_precision, settings.compile, settings.lora, settings.sampling.top_k) == (
        "no",
        "yes",
        False,
        3,
    )
    file.write_text("compile: false\nwarmup_share: 0.1\n")  # as an earlier version wrote it again
    assert parser.parse_args(["--config", str(file)]).compile == "no"


def test_a_full_disk_names_resume_only_where_it_exists(capsys):
    def main(_):
        script_parser(None).parse_args([])
        raise OSError(errno.ENOSPC, "No space left on device")

    assert exit_status(main) == 2
    assert capsys.readouterr().err.endswith("No space left on device); make room.\n")


def test_the_first_options_stand_first(capsys):
    parser = script_parser("A script.", ("seed", "batch_size"))
    parser.add_class_arguments(TrainingConfig)
    parser.print_help()
    shown = capsys.readouterr().out
    assert shown.index("--seed") < shown.index("--batch-size") < shown.index("--help") < shown.index("--max-steps")


def test_settings_longer_than_a_file_name():
    text = '{"type": "fsq", "levels": [' + ", ".join(["8"] * 200) + "]}"
    assert quantizer_of("--quantizer", text) == FSQConfig(levels=[8] * 200)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"batch_size: [1", r"`config` .*wrong.yaml is not YAML \(.*, line \d\)"),
        (b"a: 1\n\tb: 2", r"wrong.yaml is not YAML \(.*, line 2\)"),
        (b"batch_size: 8\n# \xff", r"wrong.yaml is not UTF-8 \(byte 16\); save it as UTF-8"),
        (b"\xff\xfeb\x00", "wrong.yaml is not UTF-8"),
        (b"- 8", "wrong.yaml must hold settings such as"),
        (b"nothing", "wrong.yaml must hold settings such as"),
        (b"batch_size: \x00", "wrong.yaml is not YAML"),
        (b"no_such_setting: 8", "there is no option --no-such-setting|no_such_setting"),
    ],
)
def test_config_files_that_cannot_be_used(call_script, tmp_path, content, message):
    (tmp_path / "wrong.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        call_script("train_vq", "--config", tmp_path / "wrong.yaml", "--data", "x", "--output", tmp_path / "vq")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**31, 2**64])
def test_a_seed_out_of_range(call_script, tmp_path, seed):
    with pytest.raises(UserError, match=f"`seed` must be a whole number from 0 to .*, found {seed}"):
        call_script("train_vq", "--data", "x", "--output", tmp_path / "vq", "--seed", seed)


# Several collections


@pytest.mark.parametrize("words", [["--data", "a", "--data", "b"], ["--data=a", "--data=b"], ["--data", "a + b"]])
def test_several_collections_are_one_value(words):
    from vqlm.scripts import train_vq

    assert train_vq.settings_parser(words).parse_args([*words, "--output", "o"]).data == "a + b"


def test_a_list_of_collections_in_yaml(tmp_path):
    from vqlm.scripts import prepare_data

    (tmp_path / "x.yaml").write_text("data: [a, b]\n")
    words = ["--config", str(tmp_path / "x.yaml"), "--image-tokenizer", "vq", "--output", "o"]
    assert prepare_data.settings_parser().parse_args(words).data == "a + b"
    assert prepare_data.settings_parser().parse_args([*words, "--data", "c"]).data == "c"


@pytest.mark.parametrize("text", ["loss: 5\n", "network: [1, 2]\n", "flip: {a: 1}\n", "- 1\n- 2\n", "[" * 3000])
def test_settings_of_another_form_are_one_sentence(tmp_path, text):
    from vqlm.scripts import train_vq

    (tmp_path / "x.yaml").write_text(text)
    words = ["--config", str(tmp_path / "x.yaml"), "--data", "x", "--output", "o"]
    with pytest.raises(UserError):
        train_vq.settings_parser(words).parse_args(words)


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


def test_a_file_of_settings_with_dashes_or_without_settings(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("max-steps: 5\n")
    assert parse("--config", str(file)) == TrainingConfig(max_steps=5)
    for nothing in ("", "# nothing yet\n"):
        file.write_text(nothing)
        assert parse("--config", str(file)) == TrainingConfig()


def test_an_unknown_setting_in_a_file_is_said_with_the_nearest_and_the_file(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("batch_sise: 5\n")
    with pytest.raises(UserError, match=rf"no option --batch-sise; did you mean --batch-size\? .*{file}"):
        parse("--config", str(file))


def test_a_value_of_no_type_that_an_option_takes():
    with pytest.raises(UserError, match="^--max-steps: expected int, found many; --help"):
        parse("--max-steps", "many")


def test_a_file_that_cannot_be_opened_is_one_line(capsys):
    def main(_):
        raise PermissionError(errno.EACCES, "Permission denied", "/root/state.json")

    assert exit_status(main) == 2
    assert capsys.readouterr().err == (
        "error: /root/state.json cannot be read or written (Permission denied); check its path and who may use it.\n"
    )


def test_errors_of_a_command_inside_name_the_options_of_the_outer_one(capsys):
    def outer(_):
        parser = script_parser(None)
        parser.add_argument("--max_skipped", type=float)
        parser.parse_args([])
        with parser.around("lm."):
            inner = script_parser(None)
            inner.add_class_arguments(TrainingConfig)
            inner.add_argument("--max_skipped", type=float)
            inner.add_argument("--output", type=Path)
            inner.parse_args([])
            raise UserError("lower `batch_size`, raise `max_skipped`, or take another `output`")

    assert exit_status(outer) == 2
    assert capsys.readouterr().err == "error: lower --lm.batch-size, raise --max-skipped, or take another `output`\n"
