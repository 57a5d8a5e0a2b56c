"""The layers of llama and its like, run one id at a time over a cache of fixed size.

The weights are the model's, in whatever precision it was loaded. On a CPU, bf16 and int8 weights are packed again for
each batch (packed_weights.py), so that they are never stale. What differs from the stock forward surrounds the matrix
products: the KV cache does not grow, the residual stream is fp32, the head is computed for the legal ids only, and a
step has a third of the operations.
"""

import itertools
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from vqlm.lm.decoding.packed_weights import ModelMaps, can_pack, packed_maps, plain_maps, require_int8, using

# Names instead of classes, so that drawing with one of them does not load the code of the others.
KNOWN = {
    "transformers.models.llama.modeling_llama.LlamaForCausalLM",
    "transformers.models.mistral.modeling_mistral.MistralForCausalLM",
    "transformers.models.qwen2.modeling_qwen2.Qwen2ForCausalLM",
    "transformers.models.qwen3.modeling_qwen3.Qwen3ForCausalLM",
}
# Ropes whose angles depend on the position alone, not on the length of the row.
KNOWN_ROPES = ("default", "linear", "llama3", "yarn")


def is_llama_like(model: PreTrainedModel) -> bool:
    """Whether `LlamaDecoder` computes what the model's forward would: a known class, without a sliding window,
    hooks, adapters or replaced layers."""
    kind = type(model)
    if f"{kind.__module__}.{kind.__qualname__}" not in KNOWN:
        return False
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    windows = set(getattr(config, "layer_types", None) or ["full_attention"])
    if rope not in KNOWN_ROPES or windows != {"full_attention"}:
        return False
    if config.model_type == "mistral" and config.sliding_window is not None:
        return False
    # Training leaves one hook, dropout on the embeddings, which does nothing in evaluation.
    hooked = (module for module in model.modules() if not isinstance(module, nn.Embedding))
    if any(module._forward_hooks or module._forward_pre_hooks for module in hooked):
        return False
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return len(linears) == 7 * config.num_hidden_layers + 1 and all(type(module) is nn.Linear for module in linears)


def signed(sin: Float[Tensor, "t d"]) -> Float[Tensor, "t d"]:
    """The sines of the rotary embedding as `rotate` takes them: the first half of the channels negative."""
    sign = torch.ones(sin.shape[1], device=sin.device)
    sign[: sin.shape[1] // 2] = -1
    return sin * sign


class DistinctRows(NamedTuple):
    """Rows to read, padded on the left, each once: ids and positions (u, T), what each id sees (u, 1, T, T), and which
    of them each of the given rows is (r,)."""

    ids: Int[Tensor, "u t"]
    positions: Int[Tensor, "u t"]
    visible: Bool[Tensor, "u 1 t t"]
    source: Int[Tensor, " r"]


def distinct_rows(ids: Int[Tensor, "r t"], mask: Bool[Tensor, "r t"]) -> DistinctRows:
    """Equal rows, such as the unconditional ones, are read once. They are compared on the CPU, since not every device
    can."""
    length = ids.shape[1]
    unique = torch.unique(torch.cat([ids, mask.long()], 1).cpu(), dim=0, return_inverse=True)
    distinct, source = (tensor.to(ids.device) for tensor in unique)
    seen = distinct[:, length:].bool()
    # A padded place sees itself; else its softmax would be over nothing.
    visible = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril() & seen.unsqueeze(1)
    visible |= torch.eye(length, dtype=torch.bool, device=ids.device)
    return DistinctRows(distinct[:, :length], (seen.cumsum(1) - 1).clamp(min=0), visible.unsqueeze(1), source)


class LlamaDecoder:
    """See lm/decoding/decoders.py; for the models of `is_llama_like`.

    `quantize` "int8" multiplies with int8 weights (packed_weights.py), on a CPU that can. The KV cache has the model's
    precision, but fp32 on a CPU without `compile`: the fused attention there is slow in bf16 for one query. With CUDA,
    a step that is not compiled is a `GraphedStep`.
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
        self.has_packed_weights = quantize is not None or can_pack(model.lm_head.weight)

    @torch.no_grad()
    def read(self, input_ids: Int[Tensor, "r t"], mask: Bool[Tensor, "r t"], steps: int) -> Float[Tensor, "r k"]:
        config, device, (rows, length) = self.model.config, self.model.device, input_ids.shape
        if self.has_packed_weights:
            self.maps, self.weights = packed_maps(self.model, self.legal, rows, self.quantize)
        else:
            self.maps, self.weights = plain_maps(self.model, self.legal), []
        places = torch.arange(length + steps, device=device)
        cos, sin = self.model.model.rotary_emb(
            places.float(), places.unsqueeze(0)
        )  # in the precision of the first argument
        self.cos, self.sin = cos[0], signed(sin[0])  # (T, d), for `rotate`
        self.next_position, self.place = mask.sum(1, keepdim=True), length
        self.padding = None
        if self.is_compiled or not mask.all():  # a step without a mask would be compiled separately
            self.padding = torch.zeros(rows, 1, 1, length + steps, dtype=self.cache_dtype, device=device)
            self.padding[..., :length].masked_fill_(~mask[:, None, None], -torch.inf)
        ids, positions, visible, source = distinct_rows(input_ids, mask)
        self.cache, self.graph = [], None  # an earlier one is freed first
        self.cache = [self._new_cache(rows, length + steps) for _ in range(config.num_hidden_layers)]
        first_rows = [(keys[: len(ids)], values[: len(ids)]) for keys, values in self.cache]
        with using(self.weights):
            logits = run_step(
                self.model, self.maps, ids, positions, self.cos, self.sin, visible, first_rows, 0, attend, 1,
            )  # fmt: skip
        for tensor in itertools.chain(*self.cache):
            tensor[:, :, :length] = tensor[source, :, :length]  # the right side is a copy
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
        """Logits after each of several guessed ids per row. The cache holds but does not count them; see `keep`."""
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
        """Count the first `count` of the guessed ids; the next ids overwrite the others."""
        self.place, self.next_position = self.place + count, self.next_position + count


class GraphedStep:
    """A step of one id per row on the KV cache of a `LlamaDecoder`, as a CUDA graph: a GPU waits longer for each of the
    hundreds of kernels of a step to be launched than it takes to run them. Captured for each batch, which takes as long
    as a few steps. The decoder must outlive it.
    """

    def __init__(self, decoder: LlamaDecoder, ids: Int[Tensor, " r"]):
        self.ids, self.positions = ids.unsqueeze(1).clone(), decoder.next_position.clone()  # (R, 1)
        self.place = torch.tensor([decoder.place], device=ids.device)
        current, warmup = torch.cuda.current_stream(ids.device), torch.cuda.Stream(ids.device)
        warmup.wait_stream(current)
        with torch.cuda.stream(warmup):
            step_anywhere(decoder, self.ids, self.positions, self.place)  # the set-up of a first run is not captured
        current.wait_stream(warmup)
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
    """`run_step` for one id per row, with the same operations at every place: it attends to the whole cache, of which a
    mask hides what comes later."""
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
    """Logits after the last `answers` of T ids, which are written at `place` of the KV cache.

    `cache` holds keys and values (R, G, N, d) of each layer. `mask` may be longer than its filled part. If `place` is a
    tensor, it has a position for each of the ids, and the whole cache is attended to: `mask` hides what is not filled.
    """
    dtype, eps, layers = model.dtype, model.config.rms_norm_eps, model.model.layers
    until = place + ids.shape[1] if isinstance(place, int) else None
    written = place if until is None else slice(place, until)
    mask = None if mask is None else mask[..., :until]
    cos, sin = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)  # (R, 1, T, d)
    hidden = F.embedding(ids, model.model.embed_tokens.weight).float()  # (R, T, D), the residual stream
    norms = [*(layer.input_layernorm.weight for layer in layers[1:]), model.model.norm.weight]
    normed = rms_norm(hidden, layers[0].input_layernorm.weight, eps).to(dtype)
    for layer, products, (keys, values), next_norm in zip(layers, maps.layers, cache, norms, strict=True):
        heads = layer.self_attn
        query, key, value = (part.unflatten(-1, (-1, heads.head_dim)) for part in products.qkv(normed))  # (R, T, H, d)
        if hasattr(heads, "q_norm"):
            query, key = heads.q_norm(query), heads.k_norm(key)
        query, key = (rotate(part.transpose(1, 2).float(), cos, sin) for part in (query, key))
        keys[:, :, written] = key.to(keys.dtype)
        values[:, :, written] = value.transpose(1, 2).to(values.dtype)
        mixed = attention(query, keys[:, :, :until], values[:, :, :until], mask, heads.scaling)
        (out,) = products.out(mixed.transpose(1, 2).flatten(2).to(dtype))
        hidden, normed = add_and_norm(hidden, out, layer.post_attention_layernorm.weight, eps, dtype)
        gate, up = products.gate_up(normed)
        (down,) = products.down((layer.mlp.act_fn(gate) * up).to(dtype))
        hidden, normed = add_and_norm(hidden, down, next_norm, eps, dtype)
    return maps.head(normed[:, -answers:])[0].float()


def add_and_norm(hidden: Tensor, update: Tensor, weight: Tensor, eps: float, dtype: torch.dtype):
    """The residual stream in fp32, and its normalised copy, which the next matrix reads."""
    hidden = hidden + update
    return hidden, rms_norm(hidden, weight, eps).to(dtype)


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """fp32 in and out."""
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + eps) * weight


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864) of `heads` (R, H, T, d), on halves; the first half of `sin`
    is already negated."""
    first, second = heads.chunk(2, -1)
    return torch.addcmul(heads * cos, torch.cat([second, first], -1), sin)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Queries (R, H, T, d) attend to keys and values (R, G, N, d), heads in G groups; `mask` is added, or bool."""
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(keys.dtype)
    return F.scaled_dot_product_attention(query.to(keys.dtype), keys, values, mask, scale=scale, enable_gqa=True)


def attend_by_sums(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """`attend` for one query per row, in fp32, as products and sums: compiled, it is one pass over the cache."""
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

    torch.compile checks before every step that each module of the model is unchanged, which takes long compared with a
    step of a small model. The check is skipped here, since models of one key differ in their weights only. Compiled
    code is cached by the code object of a function: so each key has a copy of it.
    """
    step = FunctionType(run_step.__code__.replace(), run_step.__globals__)
    # With the default threshold the rotation of a query is computed again for every key.
    options = {
        "realize_opcount_threshold": 4,
        "size_asserts": False,  # for hundreds of tensors, at every step
        "alignment_asserts": False,
        "guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe,
    }
    return torch.compile(step, dynamic=True, options=options)


def _compile_key(model: PreTrainedModel, legal: slice, quantize: str | None) -> tuple:
    """All that a compiled `run_step` treats as constant: modules and numbers as they print, sizes, layouts, precisions,
    device."""
    weights = tuple((weight.dtype, weight.shape, weight.stride()) for weight in model.parameters())
    return str(model), model.config.to_json_string(), weights, model.device, legal.start, legal.stop, quantize
