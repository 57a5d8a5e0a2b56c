"""The layers of llama and its like, run one id at a time over a cache of fixed size.

The weights are the model's own, in whatever precision it was loaded; bf16 ones on a CPU, and int8 ones, are laid out
anew for each batch (packed_weights.py), so that they are never those of yesterday. What differs from the stock forward
is what surrounds the matrix products: the cache does not grow, the residual stream is fp32, the head is computed for
the legal ids only, and a step has a third of the operations.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)
from vqlm.lm.decoding.packed_weights import ModelMaps, can_pack, packed_maps, plain_maps, require_int8, using

KNOWN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
# Ropes whose angles follow from the position alone, not from how long a row has become.
KNOWN_ROPES = ("default", "linear", "llama3", "yarn")


def is_llama_like(model: PreTrainedModel) -> bool:
    """Whether `LlamaDecoder` computes what the model's own forward would: a known class, without a sliding window,
    hooks, adapters or replaced layers."""
    if type(model) not in KNOWN:
        return False
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    windows = set(getattr(config, "layer_types", None) or ["full_attention"])
    if rope not in KNOWN_ROPES or windows != {"full_attention"}:
        return False
    if type(model) is MistralForCausalLM and config.sliding_window is not None:
        return False
    # Dropout on the embeddings is the only hook that training leaves, and does nothing in evaluation.
    hooked = (module for module in model.modules() if not isinstance(module, nn.Embedding))
    if any(module._forward_hooks or module._forward_pre_hooks for module in hooked):
        return False
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return len(linears) == 7 * config.num_hidden_layers + 1 and all(type(module) is nn.Linear for module in linears)


class LlamaDecoder:
    """See lm/decoding/decoders.py; for the models of `is_llama_like`.

    `quantize` multiplies with int8 weights (packed_weights.py), on a CPU that can. The cache is of the model's
    precision, but fp32 on a CPU without `compile`: the fused attention there is slow in bf16 for one query. With CUDA,
    what is not compiled is a `GraphedStep`.
    """

    def __init__(self, model: PreTrainedModel, legal: slice, compile: bool = False, quantize: str | None = None):
        self.model, self.legal, self.is_compiled, self.quantize = model, legal, compile, quantize
        self.is_graphed = model.device.type == "cuda" and not compile
        self.cache_dtype = torch.float32 if model.device.type == "cpu" and not compile else model.dtype
        self.next_logits, self.attend_one = run_step, attend
        if compile:
            self.next_logits, self.attend_one = compiled_step(_compile_key(model, legal, quantize)), attend_by_sums
        if quantize is not None:
            require_int8(model.device)
        self.is_packed = quantize is not None or can_pack(model.lm_head.weight)

    @torch.no_grad()
    def read(self, input_ids: Int[Tensor, "r t"], mask: Bool[Tensor, "r t"], steps: int) -> Float[Tensor, "r k"]:
        config, device, (rows, length) = self.model.config, self.model.device, input_ids.shape
        head_dim = self.model.model.layers[0].self_attn.head_dim
        if self.is_packed:
            self.maps, self.weights = packed_maps(self.model, self.legal, rows, self.quantize)
        else:
            self.maps, self.weights = plain_maps(self.model, self.legal), []
        places = torch.arange(length + steps, device=device)
        cos, sin = self.model.model.rotary_emb(places.float(), places.unsqueeze(0))  # in the precision of the first
        sign = torch.ones(head_dim, device=device)
        sign[: head_dim // 2] = -1
        self.cos, self.sin = cos[0], sin[0] * sign  # (T, d), for `rotate`
        self.next_position, self.place = mask.sum(1, keepdim=True), length
        self.padding = None
        if self.is_compiled or not mask.all():  # without a mask it would be compiled once more
            self.padding = torch.zeros(rows, 1, 1, length + steps, dtype=self.cache_dtype, device=device)
            self.padding[..., :length].masked_fill_(~mask[:, None, None], -torch.inf)
        # Prompts that are alike, such as those that guidance leads away from, are read once. They are found on the CPU,
        # since not every device can.
        alike = torch.unique(torch.cat([input_ids, mask.long()], 1).cpu(), dim=0, return_inverse=True)
        read, source = (tensor.to(device) for tensor in alike)
        ids, seen = read[:, :length], read[:, length:].bool()
        positions = (seen.cumsum(1) - 1).clamp(min=0)
        # A padded place sees itself, or its softmax would be over nothing.
        visible = torch.ones(length, length, dtype=torch.bool, device=device).tril() & seen.unsqueeze(1)
        visible |= torch.eye(length, dtype=torch.bool, device=device)
        self.cache, self.graph = [], None  # an earlier one is freed first
        self.cache = [self._new_cache(rows, length + steps) for _ in range(config.num_hidden_layers)]
        first_rows = [(keys[: len(ids)], values[: len(ids)]) for keys, values in self.cache]
        with using(self.weights):
            logits = run_step(
                self.model, self.maps, ids, positions, self.cos, self.sin, visible.unsqueeze(1), first_rows, 0,
                attend, 1,
            )  # fmt: skip
        for kept in itertools.chain(*self.cache):
            kept[:, :, :length] = kept[source, :, :length]  # the right side is a copy
        return logits[source, 0]

    def _new_cache(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, (R, G, length, d)."""
        shape = (rows, self.model.config.num_key_value_heads, length, self.model.model.layers[0].self_attn.head_dim)
        keys, values = (torch.zeros(shape, dtype=self.cache_dtype, device=self.model.device) for _ in range(2))
        return keys, values

    @torch.no_grad()
    def step(self, ids: Int[Tensor, " r"]) -> Float[Tensor, "r k"]:
        if self.is_graphed:
            self.graph = self.graph or GraphedStep(self, ids)
            logits = self.graph(ids, self.next_position, self.place)
        else:
            with using(self.weights):
                logits = self.next_logits(
                    self.model, self.maps, ids.unsqueeze(1), self.next_position, self.cos, self.sin, self.padding,
                    self.cache, self.place, self.attend_one, 1,
                )  # fmt: skip
        self.keep(1)
        return logits[:, 0]

    @torch.no_grad()
    def guess(self, ids: Int[Tensor, "r n"]) -> Float[Tensor, "r n k"]:
        """Logits behind each of several ids a row. They stay in the cache but do not count; see `keep`."""
        count = ids.shape[1]
        ahead = torch.arange(count, device=ids.device)
        later = (ahead > ahead.unsqueeze(1)).view(1, 1, count, count)
        mask = torch.zeros(1, 1, count, self.place + count, dtype=self.cache_dtype, device=ids.device)
        mask[..., self.place :].masked_fill_(later, -torch.inf)
        if self.padding is not None:
            mask = mask + self.padding[..., : self.place + count]
        with using(self.weights):
            return run_step(
                self.model, self.maps, ids, self.next_position + ahead, self.cos, self.sin, mask, self.cache,
                self.place, attend, count,
            )  # fmt: skip

    def keep(self, count: int) -> None:
        """The first `count` of the guessed ids are right; the next ids take the place of the others."""
        self.place, self.next_position = self.place + count, self.next_position + count


class GraphedStep:
    """One id a row with a `LlamaDecoder`'s cache, as a CUDA graph: a GPU waits longer for each of a step's hundreds of
    kernels to be started than it takes to run them. Captured anew for each batch, which takes as long as a few steps.
    The decoder must outlive it.
    """

    def __init__(self, decoder: LlamaDecoder, ids: Int[Tensor, " r"]):
        self.ids, self.positions = ids.unsqueeze(1).clone(), decoder.next_position.clone()  # (R, 1)
        self.place = torch.tensor([decoder.place], device=ids.device)
        here, aside = torch.cuda.current_stream(ids.device), torch.cuda.Stream(ids.device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            step_anywhere(decoder, self.ids, self.positions, self.place)  # what a first run sets up is not captured
        here.wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = step_anywhere(decoder, self.ids, self.positions, self.place)

    def __call__(self, ids: Int[Tensor, " r"], positions: Int[Tensor, "r 1"], place: int) -> Float[Tensor, "r 1 k"]:
        self.ids.copy_(ids.unsqueeze(1))
        self.positions.copy_(positions)
        self.place.fill_(place)
        self.graph.replay()
        return self.logits.clone()  # the next replay writes there


def step_anywhere(
    decoder: LlamaDecoder, ids: Int[Tensor, "r 1"], positions: Int[Tensor, "r 1"], place: Int[Tensor, " 1"]
) -> Float[Tensor, "r 1 k"]:
    """`run_step` for one id a row, the same operations at every place: over the whole cache, of which a mask hides what
    comes later."""
    length = decoder.cache[0][0].shape[2]
    is_later = torch.arange(length, device=place.device) > place
    mask = torch.zeros(1, 1, 1, length, dtype=decoder.cache_dtype, device=place.device).masked_fill(
        is_later, -torch.inf
    )
    mask = mask if decoder.padding is None else mask + decoder.padding
    return run_step(
        decoder.model, decoder.maps, ids, positions, decoder.cos, decoder.sin, mask, decoder.cache, place, attend, 1,
    )  # fmt: skip


def run_step(
    model: PreTrainedModel,
    maps: ModelMaps,
    ids: Int[Tensor, "r t"],
    positions: Int[Tensor, "r t"],
    cos: Float[Tensor, "n h"],
    sin: Float[Tensor, "n h"],
    mask: Tensor | None,
    cache: list[tuple[Tensor, Tensor]],
    place: int | Int[Tensor, " t"],
    attention: Callable[..., Tensor],
    answers: int,
) -> Float[Tensor, "r a k"]:
    """Logits behind the last `answers` of T ids at `place` of the cache.

    Fills the cache: keys and values (R, G, N, d) of each layer. `mask` may be longer than what is in it by then. As a
    tensor, `place` has one for each of the ids, and the whole cache is attended to: `mask` hides what is not there yet.
    """
    dtype, eps, layers = model.dtype, model.config.rms_norm_eps, model.model.layers
    until = place + ids.shape[1] if isinstance(place, int) else None
    written = place if until is None else slice(place, until)
    mask = None if mask is None else mask[..., :until]
    cos, sin = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)  # (R, 1, T, d)
    hidden = F.embedding(ids, model.model.embed_tokens.weight).float()  # (R, T, D), the residual stream
    norms = [*(layer.input_layernorm.weight for layer in layers[1:]), model.model.norm.weight]
    normed = rms_norm(hidden, layers[0].input_layernorm.weight, eps).to(dtype)
    for layer, own_maps, (keys, values), next_norm in zip(layers, maps.layers, cache, norms, strict=True):
        own = layer.self_attn
        query, key, value = (part.unflatten(-1, (-1, own.head_dim)) for part in own_maps.qkv(normed))  # (R, T, H, d)
        if hasattr(own, "q_norm"):
            query, key = own.q_norm(query), own.k_norm(key)
        query, key = (rotate(part.transpose(1, 2).float(), cos, sin) for part in (query, key))
        keys[:, :, written] = key.to(keys.dtype)
        values[:, :, written] = value.transpose(1, 2).to(values.dtype)
        mixed = attention(query, keys[:, :, :until], values[:, :, :until], mask, own.scaling)
        (out,) = own_maps.out(mixed.transpose(1, 2).flatten(2).to(dtype))
        hidden, normed = add_and_norm(hidden, out, layer.post_attention_layernorm.weight, eps, dtype)
        gate, up = own_maps.gate_up(normed)
        (down,) = own_maps.down((layer.mlp.act_fn(gate) * up).to(dtype))
        hidden, normed = add_and_norm(hidden, down, next_norm, eps, dtype)
    return maps.head(normed[:, -answers:])[0].float()


def add_and_norm(hidden: Tensor, update: Tensor, weight: Tensor, eps: float, dtype: torch.dtype):
    """The residual stream, fp32, and what the next matrix reads of it."""
    hidden = hidden + update
    return hidden, rms_norm(hidden, weight, eps).to(dtype)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """fp32 in and out."""
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + eps) * weight


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(R, H, T, d). Rotary positions (Su et al. 2021, arXiv 2104.09864) on halves; the first half of `sin` is negated
    already."""
    first, second = heads.chunk(2, -1)
    return torch.addcmul(heads * cos, torch.cat([second, first], -1), sin)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """(R, H, T, d) over (R, G, N, d), heads in G groups; `mask` is added, or bool."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(keys.dtype)
    return F.scaled_dot_product_attention(query.to(keys.dtype), keys, values, mask, scale=scale, enable_gqa=True)


def attend_by_sums(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The same for one query a row, in fp32, as products and sums: compiled, one pass over the cache."""
    rows, heads, _, dim = query.shape
    grouped = query.view(rows, keys.shape[1], -1, 1, dim)  # (R, G, H / G, 1, d)
    scores = scale * (grouped * keys.unsqueeze(2).float()).sum(-1)  # (R, G, H / G, N)
    if mask is not None:
        scores = scores + mask
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    mixed = (weights.unsqueeze(-1) * values.unsqueeze(2).float()).sum(-2) / weights.sum(-1, keepdim=True)
    return mixed.view(rows, heads, 1, dim)


@lru_cache
def compiled_step(_key: tuple) -> Callable[..., Tensor]:
    """`run_step`, compiled for the models of one key (`_compile_key`), for any number of rows above one and any length.

    torch.compile asks before every step whether each of a model's modules is still what it was, which takes long beside
    a step of a small model. It is not asked here, as all of a key are alike but for their weights. What it has compiled
    it keeps by the code of a function: so each key has a copy.
    """
    own = FunctionType(run_step.__code__.replace(), run_step.__globals__)
    # With the default threshold the turning of a query is computed again for every key that it meets.
    options = {
        "realize_opcount_threshold": 4,
        "size_asserts": False,  # of hundreds of tensors, at every step
        "alignment_asserts": False,
        "guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe,
    }
    return torch.compile(own, dynamic=True, options=options)


def _compile_key(model: PreTrainedModel, legal: slice, quantize: str | None) -> tuple:
    """All that `run_step` takes for constant: modules and numbers as they print, sizes, layouts, precisions, device."""
    weights = tuple((weight.dtype, weight.shape, weight.stride()) for weight in model.parameters())
    return str(model), model.config.to_json_string(), weights, model.device, legal.start, legal.stop, quantize
