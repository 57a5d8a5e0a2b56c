"""`vqlm plan`: which stage a config is for, and what it prints."""

from pathlib import Path

import pytest

import vqlm.training.machine.cost
from vqlm.scripts import train_lm, train_vq
from vqlm.scripts.plan import _stage, main
from vqlm.training.errors import UserError
from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def _known_peak(monkeypatch):
    monkeypatch.setattr(vqlm.training.machine.cost, "matrix_peak", lambda *given: 100.0)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_configs_tell_their_stage(path):
    if path.parent.name != "accelerate":
        assert _stage(["--config", str(path)]) == ("vq" if "vq" in path.stem else "lm")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_configs_are_read(path):
    if path.parent.name != "accelerate":
        words = ["--config", str(path), "--data", "none", "--output", "none"]
        parser = train_vq.settings_parser(words) if "vq" in path.stem else train_lm.settings_parser()
        settings = parser.parse_args(words)
        assert (settings.max_grad_norm == float("inf")) is (path.parent.name == "paper")  # which clips nothing


@pytest.mark.parametrize(
    ("words", "stage"),
    [
        (["--stage", "lm"], "lm"),
        (["--network.input-shape", "[32,32]"], "vq"),
        (["--model.hidden-size=64"], "lm"),
        (["--flip", "0.5"], "vq"),
        (["--text-weight", "0.2"], "lm"),
    ],
)
def test_settings_tell_the_stage(words, stage):
    assert _stage(words) == stage


def test_settings_of_both_stages_do_not_tell(tmp_path):
    (tmp_path / "config.yaml").write_text("max_steps: 3\n")
    with pytest.raises(UserError, match="fit both stages; give --stage vq or --stage lm"):
        _stage(["--config", str(tmp_path / "config.yaml")])
    with pytest.raises(UserError, match="--stage must be vq or lm, found 'two'"):
        _stage(["--stage", "two"])


def test_the_plan_of_stage_one(capsys, tmp_path, unchecked_types):
    config = tmp_path / "one.yaml"
    config.write_text("network: {input_shape: [16, 16], stem_channels: 8, hidden_channels: 16}\nmax_steps: 10\n")
    main(["--config", str(config), "--batch-size", "8", "--quantizer.codebook-size", "16", "--pictures", "1000"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stage one, 8 rows per step"
    network = NetworkConfig(input_shape=[16, 16], stem_channels=8, hidden_channels=16)
    model = VQVAE(VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=16)))
    count = sum(weight.numel() for weight in model.parameters()) + 16 * model.config.quantizer.codebook_dim
    assert lines[1].startswith(f"parameters  {count:,}: encoder ")
    assert lines[2] == "codes       4 per picture (2x2, out of 16)"
    assert lines[4].startswith("memory      ")
    assert "pictures 0.7 MB" in lines[4]
    assert lines[6].startswith("            10 steps: 0:0")


def test_the_plan_of_stage_two(capsys, unchecked_types):
    sizes = ["--model.hidden-size", "32", "--model.intermediate-size", "64", "--model.num-hidden-layers", "1"]
    main([*sizes, "--batch-size", "4", "--codes-per-picture", "16", "--codebook-size", "32", "--max-steps", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stage two, 4 rows per step"
    # ids: 1,500 of text with their special ones, 2 brackets, 32 codes; a block: 4 x 32 x 32, 3 x 32 x 64, norms
    blocks = 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32 + 32
    assert lines[1].endswith(f"blocks {blocks:,}")
    assert lines[2] == "codes       16 per picture (out of 32)"
    assert lines[-1].startswith("Compiled steps")
