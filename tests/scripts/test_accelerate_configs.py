"""configs/accelerate: what accelerate makes of each file, and that the trainings take it."""

import os
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.machine.processes import with_launcher
from vqlm.training.machine.sharding import Sharding, launcher_sharding

FOLDER = Path(__file__).parents[2] / "configs" / "accelerate"
COMMAND = ["-m", "vqlm", "train-lm", "--output", "model"]


def launched(name: str, *options: str) -> tuple[Namespace, dict[str, str]]:
    """The arguments that accelerate passes to torchrun, and the environment of the processes."""
    parser = launch_command_parser()
    arguments, _, _ = _validate_launch_command(
        parser.parse_args(["--config_file", str(FOLDER / name), *options, *COMMAND])
    )
    if arguments.use_fsdp or arguments.multi_gpu:
        return arguments, prepare_multi_gpu_env(arguments)
    command, environment = prepare_simple_launcher_cmd_env(arguments)
    assert command[1:] == COMMAND
    return arguments, environment


def processes_of(arguments: Namespace) -> tuple[int, int]:
    """Machines, and processes on each."""
    return int(getattr(arguments, "nnodes", 1)), int(arguments.nproc_per_node)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """enter(environment): as the processes that accelerate starts."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_")):
            monkeypatch.delenv(name)
    return lambda variables: [
        monkeypatch.setenv(name, value)
        for name, value in variables.items()
        if name.startswith(("ACCELERATE_", "FSDP_"))
    ]


def test_every_file_is_tried():
    tried = {"one_cpu.yaml", "one_gpu.yaml", "eight_gpus.yaml", "fsdp2.yaml", "two_nodes.yaml", "slurm.sh"}
    assert {path.name for path in FOLDER.iterdir()} == tried


@pytest.mark.parametrize(
    ("name", "uses_cpu", "precision"), [("one_cpu.yaml", True, "no"), ("one_gpu.yaml", False, "bf16")]
)
def test_one_process(environment, name, uses_cpu, precision):
    arguments, variables = launched(name)
    assert arguments.num_processes == 1
    assert variables["ACCELERATE_USE_CPU"] == str(uses_cpu)
    environment(variables)
    assert with_launcher(TrainingConfig()) == TrainingConfig(mixed_precision=precision)
    assert launcher_sharding() is None


@pytest.mark.parametrize(
    ("name", "options", "processes"),
    [
        ("eight_gpus.yaml", ["--main_process_port", "0"], (1, 8)),
        ("two_nodes.yaml", ["--main_process_ip", "10.0.0.1", "--machine_rank", "1"], (2, 8)),
    ],
)
def test_several_gpus(environment, name, options, processes):
    arguments, variables = launched(name, *options)
    assert processes_of(arguments) == processes
    environment(variables)
    assert with_launcher(TrainingConfig()) == TrainingConfig(mixed_precision="bf16")
    assert launcher_sharding() is None


def test_two_machines_meet_at_the_first():
    arguments, _ = launched("two_nodes.yaml", "--main_process_ip", "10.0.0.1", "--machine_rank", "1")
    assert (arguments.rdzv_endpoint, arguments.rdzv_backend, arguments.node_rank) == ("10.0.0.1:29500", "static", 1)


def test_fsdp2(environment):
    arguments, variables = launched("fsdp2.yaml", "--main_process_port", "0")
    assert processes_of(arguments) == (1, 8)
    environment(variables)
    assert with_launcher(TrainingConfig(), can_shard=True) == TrainingConfig(mixed_precision="bf16")
    assert launcher_sharding() == Sharding(reshard_after_forward=True)
    with pytest.raises(UserError, match="asks for FSDP; the models of this stage are small"):
        with_launcher(TrainingConfig())


def test_the_slurm_script_starts_torchrun_on_every_machine(tmp_path):
    for name, script in (("scontrol", "echo node7; echo node8"), ("srun", 'printf "%s\\n" "$@"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    job = {
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_ID": "31",
    }
    done = subprocess.run(
        ["bash", FOLDER / "slurm.sh", *COMMAND[2:]],
        env=os.environ | job | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [
        "torchrun", "--nnodes", "2", "--nproc_per_node", "4", "--rdzv_id", "31", "--rdzv_backend", "c10d",
        "--rdzv_endpoint", "node7:29500", *COMMAND, "--resume",
    ]  # fmt: skip


def test_one_cpu_trains(call_script, picture_folder, vq_yaml, tmp_path, environment):
    """As `accelerate launch` starts it, in this process."""
    _, variables = launched("one_cpu.yaml")
    environment(variables)
    call_script("train_vq", "--config", vq_yaml, "--data", picture_folder, "--output", tmp_path / "vq")
    assert (tmp_path / "vq" / "model.safetensors").exists()
