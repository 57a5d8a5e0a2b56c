"""The processes of a run: what the program that started them asks for, their device, their precision."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DataLoaderConfiguration,
    GradientAccumulationPlugin,
    broadcast_object_list,
    parse_flag_from_env,
    patch_environment,
)

from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.machine.device import fastest_precision, require_precision, set_tf32, training_device
from vqlm.training.machine.sharding import USE_FSDP, launcher_sharding

Config = TypeVar("Config", bound=TrainingConfig)
T = TypeVar("T")

# What accelerate's launcher sets for each, and what a person calls it.
OTHER_PARALLELISM = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor, context or sequence parallelism",
}
PRECISION_NAMES = {"bf16": "bf16", "fp16": "fp16", "no": "fp32"}


def with_launcher(config: Config, can_shard: bool = False) -> Config:
    """`config` with what accelerate's launcher asks for, which it says in environment variables.

    Raises UserError for what this training does not do, FSDP2 among it unless it `can_shard`, and for what contradicts
    a setting of `config`.
    """
    refuse_parallelism(can_shard)
    if (backend := os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO").upper()) != "NO":
        instead = ", and set `compile` instead" if hasattr(config, "compile") else "; this stage is not compiled"
        raise UserError(f"The launcher asks for dynamo_backend {backend}; leave it out{instead}.")
    steps = _launcher_accumulation()
    if steps > 1 and config.gradient_accumulation_steps not in (1, steps):
        raise UserError(
            f"The launcher sets gradient_accumulation_steps to {steps}, the training's own setting is "
            f"{config.gradient_accumulation_steps}; leave one of them out."
        )
    config = replace(config, mixed_precision=precision_with_launcher(config.mixed_precision, ("bf16", "fp16", "no")))
    return replace(config, gradient_accumulation_steps=steps) if steps > 1 else config


def refuse_parallelism(can_shard: bool = False) -> None:
    """Raises UserError where the launcher asks for anything but DDP, or for FSDP2 unless the stage `can_shard`."""
    if launcher_sharding() is not None and not can_shard:
        raise UserError(
            "The launcher asks for FSDP; the models of this stage are small, and every process holds the whole model "
            "(DDP). Start it with torchrun or `accelerate launch --multi_gpu`."
        )
    for variable, name in OTHER_PARALLELISM.items():
        if parse_flag_from_env(variable):
            raise UserError(
                f"The launcher asks for {name}; here every process holds the whole model (DDP), or its part of it "
                "(FSDP2, stage two only). Start it with torchrun or `accelerate launch --multi_gpu`, or with "
                "accelerate's `fsdp_version: 2`."
            )


def precision_with_launcher(own: str, allowed: tuple[str, ...]) -> str:
    """A stage's `own` setting of mixed_precision, or the launcher's where that is "auto".

    Raises UserError for a precision of the launcher that is not `allowed`, or contradicts the stage's own.
    """
    of_launcher = launcher_precision()
    if of_launcher not in (None, *allowed):
        names = ", ".join(allowed[:-1]) + f" or {allowed[-1]}"
        raise UserError(f"The launcher asks for mixed_precision {of_launcher}; use {names}.")
    if of_launcher not in (None, "no", own) and own != "auto":
        raise UserError(
            f"The launcher sets mixed_precision to {of_launcher}, the stage's own setting is {own}; leave one of them "
            "out."
        )
    return of_launcher if of_launcher is not None and own == "auto" else own


def launcher_precision() -> str | None:
    """What `accelerate launch` has set, which is "no" where nobody said anything; None under other launchers."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() or None


def _launcher_accumulation() -> int:
    value = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if not value.isdigit() or int(value) < 1:
        raise UserError(
            f"The launcher must set gradient_accumulation_steps to a number of at least 1, found {value!r}."
        )
    return int(value)


def start_accelerator(config: TrainingConfig) -> Accelerator:
    """The accelerator of a run; every process of a launch takes part, on a CPU too.

    Raises UserError for a precision or a number of processes that this machine lacks.
    """
    device = training_device()
    require_launch(device)
    precision = config.mixed_precision if config.mixed_precision != "auto" else fastest_precision(device)
    require_precision(precision, device)
    set_tf32(config.tf32, device)
    is_sharded = launcher_sharding() is not None
    if is_sharded:
        if precision == "fp16":
            raise UserError(
                "FSDP2 computes in bf16 or fp32 here; set `mixed_precision` to bf16 or no, or leave FSDP out."
            )
        # The weights of a base model would be empty on all processes but the first.
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    # The run shards its model itself; accelerate would take a single optimizer, and no CPU.
    with patch_environment(**({USE_FSDP: "false"} if is_sharded else {})):
        accelerator = Accelerator(
            mixed_precision=precision,
            # Without it accelerate starts one process on a machine without a GPU, however many were launched.
            cpu=device.type == "cpu",
            # The run accumulates itself; accelerate would divide by the launcher's number and never accumulate.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=config.seed),
        )
    if is_sharded and not torch.distributed.is_initialized():
        raise UserError(
            "FSDP2 shares a model among processes, and none were launched; start it with torchrun or accelerate launch."
        )
    if (launched := int(os.environ.get("WORLD_SIZE", "1"))) > accelerator.num_processes:
        raise UserError(
            f"{launched} processes were launched, but accelerate trains on {device.type} in one process only; start "
            "one, or set ACCELERATE_USE_CPU=true."
        )
    accelerator.scaler = None  # accelerate's unscales twice where a model has two optimizers; the run has its own
    return accelerator


def require_launch(device: torch.device) -> None:
    """Raises UserError for an environment of several processes that no launcher has made, as a shell or a cluster may
    hold it, and for more processes on this machine than it has GPUs."""
    count = os.environ.get("WORLD_SIZE", "1")
    absent = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if count != "1" and absent:
        raise UserError(
            f"The environment has WORLD_SIZE {count} and no {', '.join(absent)}; start several processes with torchrun "
            "or accelerate launch, or unset WORLD_SIZE for one."
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda" and here > torch.cuda.device_count():
        raise UserError(
            f"{here} processes were started on this machine, which has {torch.cuda.device_count()} GPUs; start one "
            "per GPU, or set ACCELERATE_USE_CPU=true."
        )


def decided_by_main(accelerator: Accelerator | PartialState, function: Callable[[], T]) -> T:
    """The result of `function` on the main process, on every process; its UserError is raised on every process."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome = [function(), None]
        except UserError as error:
            outcome = [None, str(error)]
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


def describe_processes(count: int, device: torch.device, precision: str) -> str:
    """How many processes there are, on which kind of device, in which precision."""
    return f"{count} process{'es' if count > 1 else ''} on {device.type} in {PRECISION_NAMES[precision]}"


def describe_training(accelerator: Accelerator, config: TrainingConfig) -> str:
    """The first line of a run: processes, device, precision, rows per step."""
    count, accumulated = accelerator.num_processes, config.gradient_accumulation_steps
    factors = [config.batch_size, *(factor for factor in (count, accumulated) if factor > 1)]
    rows = " x ".join(map(str, factors)) + (f" = {rows_per_step(accelerator, config)}" if len(factors) > 1 else "")
    described = describe_processes(count, accelerator.device, accelerator.mixed_precision)
    return f"{described}, {rows} rows per step{lost_processes(count)}"


def rows_per_step(accelerator: Accelerator, config: TrainingConfig) -> int:
    """Rows of all processes that one optimizer step learns from."""
    return config.batch_size * accelerator.num_processes * config.gradient_accumulation_steps


def lost_processes(count: int) -> str:
    """`accelerate launch --cpu --num_processes N` names a meeting point for several processes, and starts one."""
    if count > 1 or "MASTER_PORT" not in os.environ or "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return ""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return ""
    return "; accelerate launch was asked for several processes and started one: use torchrun --nproc_per_node N"
