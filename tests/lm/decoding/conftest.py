"""Tiny models of every kind that the decoders know, prompts of several lengths, the logits of several steps."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 60
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 2.0, "original_max_position_embeddings": 32}
KINDS = {
    "llama": {"model_type": "llama"},
    "one head for all keys": {"model_type": "llama", "num_key_value_heads": 1},
    "biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "untied": {"model_type": "llama", "tie_word_embeddings": False},
    "yarn": {"model_type": "llama", "rope_parameters": YARN},
    "another activation": {"model_type": "llama", "hidden_act": "gelu"},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
}


@pytest.fixture
def build() -> Callable[..., PreTrainedModel]:
    """A model of a kind in `KINDS`, or of another `model_type`; the same one for the same arguments."""

    def build(kind: str, **changed) -> PreTrainedModel:
        settings = SIZES | KINDS.get(kind, {"model_type": kind}) | changed
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings)).eval()
        for name, parameter in model.named_parameters():  # norms and biases start at 1 and 0, which would hide mistakes
            if parameter.ndim == 1:
                nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.3)
        return model

    return build


@pytest.fixture(params=KINDS)
def llama_like(request, build) -> PreTrainedModel:
    """A model of each kind that `LlamaDecoder` knows."""
    return build(request.param)


@pytest.fixture
def padded_prompts() -> tuple[Tensor, Tensor]:
    """Three rows of 5, 3 and 1 ids, padded on the left, and their mask."""
    ids = torch.randint(3, VOCABULARY, (3, 5))
    mask = torch.arange(5) >= torch.tensor([[0], [2], [4]])
    return ids * mask, mask


@pytest.fixture
def logits_of() -> Callable[..., Tensor]:
    """The logits of a decoder after its prompts and after each of n `following` ids per row, (n + 1, R, K)."""

    def logits_of(decoder, ids: Tensor, mask: Tensor, following: Tensor) -> Tensor:
        first = decoder.read(ids, mask, following.shape[1])
        return torch.stack([first, *(decoder.step(column) for column in following.T)])

    return logits_of
