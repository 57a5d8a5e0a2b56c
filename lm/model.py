"""The language model: a stock transformers architecture over the one vocabulary."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.probes import is_causal
from vqlm.lm.settings import LanguageModelConfig
from vqlm.training.errors import UserError

LONG = 1024  # ids of a pack from which explicit attention is no faster


def build_language_model(config: LanguageModelConfig, vocabulary: Vocabulary, max_length: int) -> PreTrainedModel:
    """A freshly initialised causal LM for rows of up to `max_length` ids, in fp32.

    Raises UserError for an architecture that transformers does not know as a causal LM.
    """
    sizes = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": max_length,
    }
    if config.architecture == "gpt2":  # GPT-2 names its feed-forward width differently and has its own dropout
        sizes["n_inner"] = sizes.pop("intermediate_size")
        sizes |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    else:
        sizes["num_key_value_heads"] = config.num_attention_heads
    try:
        known = AutoConfig.for_model(config.architecture)
        if hasattr(known, "head_dim"):
            sizes["head_dim"] = config.hidden_size // config.num_attention_heads
        stock = AutoConfig.for_model(
            config.architecture, vocab_size=vocabulary.size, tie_word_embeddings=config.tie_word_embeddings,
            pad_token_id=vocabulary.pad, bos_token_id=vocabulary.bos, eos_token_id=vocabulary.eos,
            **{name: value for name, value in sizes.items() if name not in config.extra}, **config.extra,
        )  # fmt: skip
        model = AutoModelForCausalLM.from_config(stock)
    except ValueError as error:
        raise UserError(
            f"`model.architecture` {config.architecture!r} is no causal language model of transformers "
            f"({str(error).splitlines()[0][:150]}); use for example llama, qwen3 or gpt2."
        ) from None
    if unknown := [name for name in config.extra if not hasattr(known, name)]:
        raise UserError(
            f"`model.extra` has {unknown[0]!r}, which {config.architecture} does not know; check its spelling."
        )
    if not is_causal(model):
        raise UserError(f"`model.architecture` {config.architecture!r} sees later ids; use for example llama or gpt2.")
    return model


def choose_attention(model: PreTrainedModel, device: torch.device, length: int) -> None:
    """Explicit attention for packs of `length` ids where it is faster than the fused kernel that transformers takes.

    On a CPU the fused kernel is slower for short packs, most of all where the rest is compiled. From `LONG` ids it is
    as fast, and its memory does not grow with the square of the length (benchmarks/growth.py).
    """
    if device.type == "cpu" and length < LONG:
        model.set_attn_implementation("eager")


def add_embedding_dropout(model: PreTrainedModel, rate: float) -> None:
    """Add dropout to the input embeddings, in training only.

    Current stock decoders have none. A hook changes neither the weights nor the saved configuration.
    """

    def drop(module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
        return F.dropout(embedded, rate, training=module.training)

    if rate:
        model.get_input_embeddings().register_forward_hook(drop)


def checkpoint_gradients(model: PreTrainedModel) -> None:
    """Keep the input of each block only and compute the rest again in the backward pass: less memory, slower.

    Raises UserError for an architecture without it.
    """
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"{model.config.model_type} has no gradient checkpointing; set `gradient_checkpointing` to false."
        )
    # transformers renamed it; the old name warns.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
