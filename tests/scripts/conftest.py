"""The scripts as modules, and as the programs that a person starts."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

TINY_VQ_YAML = """
network:
  input_shape: [16, 16]
  strides: [2, 2]
  stem_channels: 8
  hidden_channels: 16
  num_residual_layers: 1
quantizer:
  codebook_size: 16
  codebook_dim: 4
batch_size: 8
max_steps: 3
mixed_precision: "no"
"""

TINY_LM_YAML = """
model:
  hidden_size: 32
  intermediate_size: 64
  num_hidden_layers: 2
  num_attention_heads: 2
sampling:
  guidance_scale: 1.5
batch_size: 8
max_steps: 3
compile: "no"
mixed_precision: "no"
"""


@pytest.fixture
def script_folder() -> Path:
    return SCRIPTS


@pytest.fixture
def call_script() -> Callable[..., None]:
    """call_script("train_vq", "--data", folder): the script's `main` in this process."""

    return partial(_call, SCRIPTS)


@pytest.fixture
def call_example() -> Callable[..., None]:
    """As `call_script`, of an example that takes options."""
    return partial(_call, SCRIPTS.parent / "examples")


def _call(folder: Path, name: str, *arguments: object) -> None:
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([str(argument) for argument in arguments])


@pytest.fixture
def start_script(tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """As `call_script`, in a separate process, which may fail."""

    def start(name: str, *arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    return start


@pytest.fixture
def vq_yaml(tmp_path) -> Path:
    (tmp_path / "vq.yaml").write_text(TINY_VQ_YAML)
    return tmp_path / "vq.yaml"


@pytest.fixture
def lm_yaml(tmp_path) -> Path:
    (tmp_path / "lm.yaml").write_text(TINY_LM_YAML)
    return tmp_path / "lm.yaml"
