"""FSDP2: a model whose weights, gradients and optimizer states are shared out among the processes.

The launcher asks for it (accelerate's `fsdp_version: 2`); torch's `fully_shard` does it. A weight is a `DTensor` of
which each process holds a part; a block's weights are whole while the block computes.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.optim import Optimizer

from vqlm.training.errors import UserError

USE_FSDP = "ACCELERATE_USE_FSDP"
# What else accelerate's launcher may ask for: the values that hold here, the name in its file, what to do instead.
REFUSED = {
    "FSDP_VERSION": ("2", "fsdp_version", "set it to 2"),
    "FSDP_OFFLOAD_PARAMS": ("false", "fsdp_offload_params", "set it to false"),
    "FSDP_AUTO_WRAP_POLICY": ("transformer_based_wrap", "fsdp_auto_wrap_policy", "set it to TRANSFORMER_BASED_WRAP"),
    "FSDP_TRANSFORMER_CLS_TO_WRAP": ("", "fsdp_transformer_layer_cls_to_wrap", "leave it out: the model has it"),
    "FSDP_STATE_DICT_TYPE": ("sharded_state_dict", "fsdp_state_dict_type", "set it to SHARDED_STATE_DICT"),
    "FSDP_ACTIVATION_CHECKPOINTING": (
        "false", "fsdp_activation_checkpointing", "set it to false, and `gradient_checkpointing` to true",
    ),
    "FSDP_IGNORED_MODULES": ("", "fsdp_ignored_modules", "leave it out"),
}  # fmt: skip


@dataclass(frozen=True)
class Sharding:
    """reshard_after_forward: free a block's whole weights between its forward and its backward pass."""

    reshard_after_forward: bool = True


def launcher_sharding() -> Sharding | None:
    """What the launcher asks for; None where it does not ask for FSDP.

    Raises UserError for FSDP1, and for a setting of FSDP that has no effect here.
    """
    if not parse_flag_from_env(USE_FSDP):
        return None
    for variable, (allowed, name, remedy) in REFUSED.items():
        default = "1" if variable == "FSDP_VERSION" else allowed
        if (found := os.environ.get(variable, default)).lower() != allowed:
            raise UserError(f"The launcher sets {name} to {found}, which this training does not do; {remedy}.")
    if (reshards := os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower()) not in ("true", "false"):
        raise UserError(f"The launcher sets fsdp_reshard_after_forward to {reshards}; set it to true or false.")
    return Sharding(reshards == "true")


def shard(
    model: nn.Module, blocks: Iterable[nn.Module], sharding: Sharding, device: torch.device, precision: str
) -> None:
    """Share out `model` in place: each of its `blocks` is gathered by itself, all other weights at the start.

    All processes start from the weights of the first. Build optimizers afterwards: the parameters are new objects.

    Args:
        model: on the CPU, the same on all processes but for the values of its weights.
        blocks: disjoint parts of it, in the order in which they compute.
        sharding: of `launcher_sharding`.
        device: of this process.
        precision: "bf16" computes under autocast and gathers the blocks in bf16; sums of gradients are in fp32.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        values = tensor.detach().to(device)
        dist.broadcast(values, 0)
        tensor.detach().copy_(values)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    is_half = precision == "bf16"
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(
            block, mesh=mesh, reshard_after_forward=sharding.reshard_after_forward,
            mp_policy=half if is_half else MixedPrecisionPolicy(),
        )  # fmt: skip
    fully_shard(model, mesh=mesh)
    model.forward = torch.autocast(device.type, torch.bfloat16, enabled=is_half)(model.forward)


def whole_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The whole weights of a sharded model on the CPU of the main process; nothing on the others. All must call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)  # type: ignore[return-value]


class ShardedState:
    """The weights of a sharded model and the states of its optimizers, in a form that any number of processes loads."""

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]):
        self.model, self.optimizers = model, list(optimizers)

    def save(self, folder: Path) -> None:
        """Each process writes its part. All must call it. Raises RuntimeError where one of them cannot write."""
        try:
            dcp.save(self._state(), checkpoint_id=folder)
        except dcp.CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from None

    def load(self, folder: Path) -> None:
        state = self._state()
        dcp.load(state, checkpoint_id=folder)
        set_state_dict(
            self.model, self.optimizers, model_state_dict=state["model"], optim_state_dict=state["optimizers"]
        )

    def _state(self) -> dict:
        weights, states = get_state_dict(self.model, self.optimizers)
        return {"model": weights, "optimizers": states}
