"""LoRA (Hu et al. 2021, arXiv 2106.09685) through PEFT: only low-rank adapters train, and they merge at the end."""

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from peft import PeftModel

# The update is (SCALE * B @ A) x. A second knob beside the learning rate, which PEFT's users leave here mostly.
SCALE = 2


def add_adapters(model: PreTrainedModel, rank: int) -> "PeftModel":
    """Put adapters of `rank` beside every linear layer of `model` but the head, and freeze all else.

    `model` itself is changed, and computes what it did until they are trained. The returned wrapper saves and merges.
    """
    from peft import LoraConfig, get_peft_model

    is_transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's linear layers
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=SCALE * rank, target_modules="all-linear",
        fan_in_fan_out=is_transposed,
    )  # fmt: skip
    with warnings.catch_warnings():  # PEFT 0.21 asks by a name that transformers 5.24 has replaced
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, config)  # type: ignore[return-value]


def save_and_merge(adapters: "PeftModel", folder: Path) -> PreTrainedModel:
    """Save the adapters alone in `folder`, as PEFT loads them; a stock model with them added to its weights.

    It is a copy, so that the training can still go on from a checkpoint of its adapters.
    """
    # False: PEFT would look on the hub whether the base's embeddings are as they were.
    adapters.save_pretrained(str(folder), save_embedding_layers=False)
    return copy.deepcopy(adapters).merge_and_unload()  # type: ignore[return-value]
