"""The language model under FSDP2: which blocks are sharded, what is refused, and the whole model at the end."""

from collections.abc import Iterator

from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.lm.settings import LMTrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.machine.sharding import launcher_sharding, whole_weights
from vqlm.training.run import Run

MODEL_PREFIX = "model."  # of the language model in its objective


def refuse_unsharded(config: LMTrainingConfig) -> None:
    """Raises UserError for low-rank adapters or averaged weights under FSDP2."""
    if launcher_sharding() is None:
        return
    if config.lora:
        raise UserError(
            "`lora` trains few weights, and FSDP2 is not tried with it; start it without FSDP, or set `lora` to false."
        )
    if config.weight_ema_decay:
        raise UserError("`weight_ema_decay` has no effect under FSDP2; start it without FSDP, or set it to 0.")


def say_no_samples(run: Run) -> None:
    """Drawing needs the whole weights in one process, where they may not fit."""
    if run.config.sample_every:
        run.progress.say(
            "no samples are drawn while FSDP2 trains: each process holds a part of the weights. Draw with the finished "
            "model"
        )


def blocks_of(model: PreTrainedModel) -> Iterator[nn.Module]:
    """The blocks of a decoder, in the order in which they compute."""
    for part in (model.get_decoder() or model).children():
        if isinstance(part, nn.ModuleList):
            yield from part


def stock_copy(objective: WeightedCrossEntropy, is_main_process: bool) -> PreTrainedModel | None:
    """The sharded model of `objective` with its whole weights, on the CPU of the main process. All must call it."""
    weights: dict[str, Tensor] = whole_weights(objective)
    if not is_main_process:
        return None
    model = objective.model
    copy = AutoModelForCausalLM.from_config(model.config)
    copy.load_state_dict({name.removeprefix(MODEL_PREFIX): weight for name, weight in weights.items()})
    copy.generation_config = model.generation_config
    return copy.eval()
