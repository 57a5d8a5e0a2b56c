"""Settings from a --config file."""

import pytest

from vqlm.lm.settings import LMTrainingConfig, SamplingConfig
from vqlm.scripts.options import script_parser
from vqlm.scripts.settings_options import values_of
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.vq import NetworkConfig


def parse(*arguments: str) -> TrainingConfig:
    parser = script_parser("A script.")
    parser.add_class_arguments(TrainingConfig)
    return values_of(TrainingConfig, parser.parse_args(list(arguments)))


def test_later_options_override_the_file(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("max_steps: 5\nlearning_rate: 3.0e-4\n")
    assert parse("--config", str(file)) == TrainingConfig(max_steps=5, learning_rate=3e-4)
    assert parse("--config", str(file), "--max-steps", "6") == TrainingConfig(max_steps=6, learning_rate=3e-4)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max_stepps: 5\n", "--max-stepps; did you mean --max-steps?"),
        ("max_steps: many\n", "--max-steps"),
        ("model:\n  width: 3\n", "model"),
    ],
)
def test_a_wrong_file_of_settings_fails_and_says_where(tmp_path, text, named):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        parse("--config", str(file))
    assert named in str(error.value)


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"batch_size: [1", r"--config .*wrong.yaml is not YAML \(.*, line \d\)"),
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
