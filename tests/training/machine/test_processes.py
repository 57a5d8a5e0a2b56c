"""What a launcher asks for: used, or refused in one sentence; the device and the precision of a run."""

import pytest
import torch
from accelerate import PartialState

from vqlm.lm.settings import LMTrainingConfig
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.machine import device as devices, processes
from vqlm.training.machine.device import fastest_precision, require_precision, training_device
from vqlm.training.machine.processes import (
    decided_by_main,
    describe_training,
    precision_with_launcher,
    start_accelerator,
    with_launcher,
)
from vqlm.training.machine.sharding import Sharding, launcher_sharding
from vqlm.vq.settings import VQTrainingConfig


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in (
        "ACCELERATE_MIXED_PRECISION",
        "ACCELERATE_USE_CPU",
        "ACCELERATE_USE_FSDP",
        "WORLD_SIZE",
        "MASTER_PORT",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "asks for DeepSpeed; here"),
        ("ACCELERATE_USE_MEGATRON_LM", "asks for Megatron-LM; here"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "asks for tensor, context or sequence parallelism; here"),
    ],
)
def test_other_parallelism_is_refused(monkeypatch, variable, message):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(UserError, match=message):
        with_launcher(TrainingConfig())
    monkeypatch.setenv(variable, "false")
    assert with_launcher(TrainingConfig()) == TrainingConfig()


def test_fsdp2_is_for_the_language_model_only(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match="asks for FSDP; the models of this stage are small, and every process holds"):
        with_launcher(TrainingConfig())
    assert with_launcher(TrainingConfig(), can_shard=True) == TrainingConfig()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FSDP_VERSION", "1", "sets fsdp_version to 1, which this training does not do; set it to 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "sets fsdp_offload_params to true"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "fsdp_auto_wrap_policy .*; set it to TRANSFORMER_BASED_WRAP"),
        ("FSDP_TRANSFORMER_CLS_TO_WRAP", "LlamaDecoderLayer", "leave it out: the model has it"),
        ("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT", "set it to SHARDED_STATE_DICT"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "set it to false, and `gradient_checkpointing` to true"),
    ],
)
def test_what_fsdp_has_no_effect_here_is_refused(monkeypatch, variable, value, message):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message):
        with_launcher(TrainingConfig(), can_shard=True)


def test_the_first_version_of_fsdp_is_what_accelerate_takes_without_a_version(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match="sets fsdp_version to 1"):
        with_launcher(TrainingConfig(), can_shard=True)


@pytest.mark.parametrize(("value", "reshards"), [(None, True), ("true", True), ("false", False)])
def test_when_whole_blocks_are_freed_is_what_the_launcher_says(monkeypatch, value, reshards):
    assert launcher_sharding() is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    if value is not None:
        monkeypatch.setenv("FSDP_RESHARD_AFTER_FORWARD", value)
    assert launcher_sharding() == Sharding(reshards)


def test_fsdp_needs_processes_and_no_fp16(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match="shares a model among processes, and none were launched"):
        start_accelerator(TrainingConfig(mixed_precision="no"))
    monkeypatch.setattr(processes, "require_precision", lambda *_: None)
    with pytest.raises(UserError, match="FSDP2 computes in bf16 or fp32 here"):
        start_accelerator(TrainingConfig(mixed_precision="fp16"))


def test_the_compiler_of_the_launcher_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "inductor")
    with pytest.raises(UserError, match="dynamo_backend INDUCTOR; leave it out, and set `compile`"):
        with_launcher(LMTrainingConfig())
    with pytest.raises(UserError, match="dynamo_backend INDUCTOR; leave it out; this stage is not compiled"):
        with_launcher(VQTrainingConfig())


@pytest.mark.parametrize(
    ("own", "launched", "result"),
    [
        ("auto", None, "auto"),
        ("auto", "no", "no"),
        ("auto", "bf16", "bf16"),
        ("bf16", "no", "bf16"),  # accelerate launch sets "no" where nobody said anything
        ("bf16", "bf16", "bf16"),
        ("no", "no", "no"),
    ],
)
def test_the_precision_of_the_launcher_is_used(monkeypatch, own, launched, result):
    if launched is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    assert with_launcher(TrainingConfig(mixed_precision=own)).mixed_precision == result


@pytest.mark.parametrize(
    ("own", "launched", "message"),
    [
        ("no", "bf16", "sets mixed_precision to bf16, the stage's own setting is no; leave one of them out"),
        ("auto", "fp8", "asks for mixed_precision fp8; use bf16, fp16 or no"),
    ],
)
def test_a_contradicting_precision_of_the_launcher_is_refused(monkeypatch, own, launched, message):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", launched)
    with pytest.raises(UserError, match=message):
        with_launcher(TrainingConfig(mixed_precision=own))


def test_preparing_takes_no_fp16_of_the_launcher(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(UserError, match="The launcher asks for mixed_precision fp16; use bf16 or no."):
        precision_with_launcher("auto", ("bf16", "no"))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert precision_with_launcher("auto", ("bf16", "no")) == "no"


def test_the_accumulation_of_the_launcher_is_used_or_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert with_launcher(TrainingConfig()).gradient_accumulation_steps == 4
    assert with_launcher(TrainingConfig(gradient_accumulation_steps=4)).gradient_accumulation_steps == 4
    with pytest.raises(UserError, match="gradient_accumulation_steps to 4, the training's own setting is 2"):
        with_launcher(TrainingConfig(gradient_accumulation_steps=2))
    assert start_accelerator(TrainingConfig()).gradient_accumulation_steps == 1  # else it would divide the loss
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "some")
    with pytest.raises(UserError, match="to a number of at least 1, found 'some'"):
        with_launcher(TrainingConfig())


def test_looking_for_the_device_starts_nothing(monkeypatch):
    monkeypatch.setattr(devices, "best_device", lambda: torch.device("cuda"))
    assert training_device().type == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert training_device().type == "cpu"
    assert PartialState._shared_state == {}


@pytest.mark.parametrize(
    ("bf16", "fp16", "precision"), [(True, True, "bf16"), (False, True, "fp16"), (False, False, "no")]
)
def test_the_fastest_precision(monkeypatch, bf16, fp16, precision):
    monkeypatch.setattr(devices, "is_bf16_fast", lambda device: bf16)
    monkeypatch.setattr(devices, "is_fp16_fast", lambda device: fp16)
    assert fastest_precision(torch.device("cuda")) == precision


def test_a_precision_that_the_device_lacks_is_refused(monkeypatch):
    with pytest.raises(UserError, match="`mixed_precision` fp16 needs a GPU"):
        require_precision("fp16", torch.device("cpu"))
    monkeypatch.setattr(devices, "is_bf16_fast", lambda device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(UserError, match="`mixed_precision` bf16 is not in the hardware of Tesla T4; set it to fp16"):
        require_precision("bf16", torch.device("cuda"))
    require_precision("bf16", torch.device("cpu"))


@pytest.mark.parametrize("count", ["2", "two"])
def test_half_an_environment_of_several_processes_is_refused(monkeypatch, count):
    """accelerate would end with a traceback on a CPU, and train in one process on a GPU."""
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", count)
    monkeypatch.setenv("MASTER_ADDR", "node7")
    with pytest.raises(UserError, match=f"has WORLD_SIZE {count} and no RANK, LOCAL_RANK, MASTER_PORT; start several"):
        start_accelerator(TrainingConfig())


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "training_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were started on this machine, which has 1 GPUs"):
        start_accelerator(TrainingConfig())


def test_the_first_line_of_a_run(monkeypatch):
    config = TrainingConfig(batch_size=8, gradient_accumulation_steps=4, mixed_precision="no")
    accelerator = start_accelerator(config)
    assert describe_training(accelerator, config) == "1 process on cpu in fp32, 8 x 4 = 32 rows per step"
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert "started one: use torchrun" in describe_training(accelerator, config)


def test_the_main_process_decides_alone_where_it_is_alone():
    state = PartialState(cpu=True)
    assert decided_by_main(state, lambda: [1, "two"]) == [1, "two"]

    def refuse():
        raise UserError("no")

    with pytest.raises(UserError, match="^no$"):
        decided_by_main(state, refuse)
