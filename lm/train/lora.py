"""LoRA (Hu et al. 2021, arXiv 2106.09685) through PEFT: only low-rank adapters train, and they merge at the end."""

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vqlm.training.folders.whole_files import follow_umask

if TYPE_CHECKING:
    from peft import PeftModel

# An adapter adds (SCALE * B @ A) x. The factor scales the step as the learning rate does; 2 is usual with PEFT.
SCALE = 2


def add_adapters(model: PreTrainedModel, rank: int) -> "PeftModel":
    """Put adapters of `rank` beside every linear layer of `model` except the head, and freeze all other weights.

    `model` itself is changed; its outputs stay the same until the adapters are trained. Returns the wrapper of PEFT.
    """
    from peft import LoraConfig, get_peft_model

    is_transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's linear layers
    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=SCALE * rank, target_modules="all-linear",
        fan_in_fan_out=is_transposed,
    )  # fmt: skip
    with warnings.catch_warnings():  # PEFT 0.21 reads an attribute that transformers 5.24 has renamed
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, config)  # type: ignore[return-value]


def save_and_merge(adapters: "PeftModel", folder: Path) -> PreTrainedModel:
    """Save the adapters alone in `folder`, in the format of PEFT, and return a stock model that includes them.

    The model is a copy, so that the training can still continue from a checkpoint of its adapters.
    """
    # False, or PEFT would ask the hub whether the embeddings of the base model have changed.
    adapters.save_pretrained(str(folder), save_embedding_layers=False)
    follow_umask(*folder.glob("*.safetensors"))
    return copy.deepcopy(adapters).merge_and_unload()  # type: ignore[return-value]
