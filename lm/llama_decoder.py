"""The layers of llama and its like, run one id at a time over a cache of fixed size.

The weights are the model's own, in whatever precision it was loaded; bf16 ones on a CPU are laid out anew for each
batch (lm/packed.py), so that they are never those of yesterday. What differs from the stock forward is what surrounds
the matrix products: the cache is allocated once, the residual stream is fp32, the head is computed for the legal ids
only, and a step has a third of the operations.
"""

from collections.abc import Callable
from functools import lru_cache

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

from lm.packed import PackedLayer, can_pack, pack_layers

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
    """See lm/decoders.py; for the models of `is_llama_like`.

    The cache is of the model's precision, but fp32 on a CPU without `compile`: the fused attention there is slow in
    bf16 for one query.
    """

    def __init__(self, model: PreTrainedModel, legal: slice, compile: bool = False):
        self.model, self.legal = model, legal
        self.cache_dtype = torch.float32 if model.device.type == "cpu" and not compile else model.dtype
        self.run = compiled_layers() if compile else run_layers
        self.attend_one = attend_by_sums if compile else attend
        self.is_packed = not compile and can_pack(model.lm_head.weight)

    @torch.no_grad()
    def read(self, input_ids: Int[Tensor, "r t"], mask: Bool[Tensor, "r t"], steps: int) -> Float[Tensor, "r k"]:
        config, device, (rows, length) = self.model.config, self.model.device, input_ids.shape
        head_dim = self.model.model.layers[0].self_attn.head_dim
        shape = (rows, config.num_key_value_heads, length + steps, head_dim)
        tensors = iter(
            torch.zeros(shape, dtype=self.cache_dtype, device=device) for _ in range(2 * config.num_hidden_layers)
        )
        self.cache = list(zip(tensors, tensors, strict=True))  # keys and values of each layer
        self.packed = pack_layers(self.model.model.layers, rows) if self.is_packed else None
        places = torch.arange(length + steps, device=device)
        cos, sin = self.model.model.rotary_emb(self.cache[0][0], places.unsqueeze(0))
        sign = torch.ones(head_dim, device=device)
        sign[: head_dim // 2] = -1
        self.cos, self.sin = cos[0].float(), sin[0].float() * sign  # (T, d), for `rotate`
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        self.next_position, self.place = positions[:, -1] + 1, length
        self.padding = None
        if not mask.all():
            self.padding = torch.zeros(rows, 1, 1, length + steps, dtype=self.cache_dtype, device=device)
            self.padding[..., :length].masked_fill_(~mask[:, None, None], -torch.inf)
        # A padded place sees itself, or its softmax would be over nothing.
        visible = torch.ones(length, length, dtype=torch.bool, device=device).tril() & mask.unsqueeze(1)
        visible |= torch.eye(length, dtype=torch.bool, device=device)
        hidden = self._embed(input_ids)
        hidden = run_layers(
            self.model, hidden, self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1),
            visible.unsqueeze(1), self.cache, 0, attend, self.packed,
        )  # fmt: skip
        return self._logits(hidden[:, -1])

    @torch.no_grad()
    def step(self, ids: Int[Tensor, " r"]) -> Float[Tensor, "r k"]:
        place, self.place = self.place, self.place + 1
        position, self.next_position = self.next_position, self.next_position + 1
        hidden = self.run(
            self.model, self._embed(ids.unsqueeze(1)), self.cos[position][:, None, None],
            self.sin[position][:, None, None], None if self.padding is None else self.padding[..., : place + 1],
            self.cache, place, self.attend_one, self.packed,
        )  # fmt: skip
        return self._logits(hidden[:, -1])

    @torch.no_grad()
    def guess(self, ids: Int[Tensor, "r n"]) -> Float[Tensor, "r n k"]:
        """Logits behind each of several ids a row. They stay in the cache but do not count; see `keep`."""
        count, place = ids.shape[1], self.place
        ahead = torch.arange(count, device=ids.device)
        positions = self.next_position.unsqueeze(1) + ahead
        mask = torch.zeros(1, 1, count, place + count, dtype=self.cache_dtype, device=ids.device)
        mask[..., place:].masked_fill_(ahead > ahead.unsqueeze(1), -torch.inf)
        if self.padding is not None:
            mask = mask + self.padding[..., : place + count]
        hidden = run_layers(
            self.model, self._embed(ids), self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1), mask,
            self.cache, place, attend, self.packed,
        )  # fmt: skip
        return self._logits(hidden)

    def keep(self, count: int) -> None:
        """The first `count` of the guessed ids are right; the next ids take the place of the others."""
        self.place, self.next_position = self.place + count, self.next_position + count

    def _embed(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.model.model.embed_tokens.weight).float()  # (R, T, D)

    def _logits(self, hidden: Tensor) -> Tensor:
        head = self.model.lm_head
        bias = None if head.bias is None else head.bias[self.legal]
        return F.linear(hidden, head.weight[self.legal], bias).float()


def run_layers(
    model: PreTrainedModel,
    hidden: Float[Tensor, "r t d"],
    cos: Float[Tensor, "r 1 t h"],
    sin: Float[Tensor, "r 1 t h"],
    mask: Tensor | None,
    cache: list[tuple[Tensor, Tensor]],
    place: int,
    attention: Callable[..., Tensor],
    packed: list[PackedLayer] | None = None,
) -> Float[Tensor, "r t d"]:
    """What T ids at `place` of the cache have become, normed for the head.

    Fills the cache: keys and values (R, G, N, d) of each layer.
    """
    dtype, eps, layers = model.dtype, model.config.rms_norm_eps, model.model.layers
    until = place + hidden.shape[1]
    norms = [*(layer.input_layernorm.weight for layer in layers[1:]), model.model.norm.weight]
    normed = rms_norm(hidden, layers[0].input_layernorm.weight, eps).to(dtype)
    for number, (layer, (keys, values), next_norm) in enumerate(zip(layers, cache, norms, strict=True)):
        own, mlp, fast = layer.self_attn, layer.mlp, None if packed is None else packed[number]
        if fast is None:
            query, key, value = own.q_proj(normed), own.k_proj(normed), own.v_proj(normed)
        else:
            query, key, value = fast.qkv(normed)
        query, key, value = (part.unflatten(-1, (-1, own.head_dim)) for part in (query, key, value))  # (R, T, H, d)
        if hasattr(own, "q_norm"):
            query, key = own.q_norm(query), own.k_norm(key)
        query, key = (rotate(part.transpose(1, 2).float(), cos, sin) for part in (query, key))
        keys[:, :, place:until] = key
        values[:, :, place:until] = value.transpose(1, 2)
        mixed = attention(query, keys[:, :, :until], values[:, :, :until], mask, own.scaling)
        mixed = mixed.transpose(1, 2).flatten(2).to(dtype)  # (R, T, H * d)
        out = own.o_proj(mixed) if fast is None else fast.out(mixed)[0]
        hidden, normed = add_and_norm(hidden, out, layer.post_attention_layernorm.weight, eps, dtype)
        gate, up = (mlp.gate_proj(normed), mlp.up_proj(normed)) if fast is None else fast.gate_up(normed)
        gated = mlp.act_fn(gate) * up
        down = mlp.down_proj(gated) if fast is None else fast.down(gated)[0]
        hidden, normed = add_and_norm(hidden, down, next_norm, eps, dtype)
    return normed


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
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)


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
    weights = scores.softmax(-1).unsqueeze(-1)
    return (weights * values.unsqueeze(2).float()).sum(-2).view(rows, heads, 1, dim)


@lru_cache
def compiled_layers() -> Callable[..., Tensor]:
    """`run_layers`, compiled once a process for rows and lengths of any number."""
    return torch.compile(run_layers, dynamic=True)
