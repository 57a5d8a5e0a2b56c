"""The next id's logits, step by step, with a KV cache of all ids read so far.

`StockDecoder` runs any model of transformers through its own forward. `LlamaDecoder` (llama_decoder.py) runs the
layers of the models that it knows itself. Both have

    read(input_ids (R, T), mask (R, T), steps) -> logits (R, K) after prompts that are padded on the left
    step(ids (R,)) -> logits (R, K) after one more id per row, at most `steps` times

K counts the `legal` ids, one range. Logits are fp32.
"""

import warnings
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from vqlm.lm.decoding.llama_decoder import LlamaDecoder, is_llama_like
from vqlm.lm.decoding.stock_forward import read_into
from vqlm.lm.settings import DecodingOptions
from vqlm.training.errors import UserError
from vqlm.training.machine.compiling import compile_failure

_WARNED: set[str] = set()


class StockDecoder:
    """Any causal LM of transformers, by its own forward and its growing cache."""

    def __init__(self, model: PreTrainedModel, legal: slice):
        self.model, self.legal = model, legal

    @torch.no_grad()
    def read(self, input_ids: Int[Tensor, "r t"], mask: Bool[Tensor, "r t"], steps: int) -> Float[Tensor, "r k"]:
        self.cache, self.mask = DynamicCache(config=self.model.config), mask
        self.positions = (mask.cumsum(1) - 1).clamp(min=0)
        return self._forward(input_ids)

    @torch.no_grad()
    def step(self, ids: Int[Tensor, " r"]) -> Float[Tensor, "r k"]:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(ids), 1)], 1)
        self.positions = self.positions[:, -1:] + 1
        return self._forward(ids.unsqueeze(1))

    def _forward(self, input_ids: Tensor) -> Tensor:
        logits = read_into(
            self.cache, self.model, input_ids=input_ids, attention_mask=self.mask, position_ids=self.positions,
            logits_to_keep=1,
        )  # fmt: skip
        return logits[:, -1, self.legal].float()


def build_decoder(
    model: PreTrainedModel, legal: slice, options: DecodingOptions | None = None
) -> StockDecoder | LlamaDecoder:
    """The fastest decoder that gives this model's own logits for the range of `legal` ids.

    With `options.compile` torch.compile builds the step, which takes ten seconds and more and pays for hundreds of
    pictures; not with CUDA, where the step of `LlamaDecoder` is a CUDA graph in any case, captured in no time.
    Warns once of what does not work here and is left out: compiling without a compiler, `LlamaDecoder` for an
    architecture that it does not know. Raises UserError where `options.quantize` does not work.
    """
    options = options or DecodingOptions()
    if is_llama_like(model):
        is_compiled = options.compile and model.device.type != "cuda"
        if is_compiled and (failure := _compile_failure(model.device)):
            _warn_once("compile", f"torch.compile does not work here ({failure}); the step runs without it.")
            is_compiled = False
        return LlamaDecoder(model, legal, is_compiled, options.quantize)
    kind = type(model).__name__
    if options.quantize is not None:
        raise UserError(f"`quantize` needs a plain llama or its like, found {kind}; leave it out.")
    _warn_once(kind, f"{kind} draws through its stock forward; llama and its like are faster.")
    return StockDecoder(model, legal)


_compile_failure = lru_cache(compile_failure)


def _warn_once(what: str, text: str) -> None:
    if what not in _WARNED:
        _WARNED.add(what)
        warnings.warn(text, stacklevel=4)
