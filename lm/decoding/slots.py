"""A batch whose rows come and go: what a causal LM has read of each, in a cache of fixed size.

All rows share one clock. The newest id of every row stands at the same place of the cache, `place`; a row that joins
later begins later, and a mask hides what stands before its begin. So a step is that of a batch in lockstep, whatever
rows it holds. Both kinds have

    join(rows) -> logits (r, K) after each of the new rows, which become the last of the batch
    step(ids (R,)) -> logits (R, K) after one more id per row
    keep(order): keep the rows `order`, in that order; drop the others

K counts the `legal` ids, one range. Logits are fp32.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from vqlm.data_prep.sequences import left_pad
from vqlm.lm.decoding.llama_decoder import attend, distinct_rows, is_llama_like, run_step, signed
from vqlm.lm.decoding.packed_weights import can_pack, packed_maps, plain_maps, using
from vqlm.lm.decoding.stock_forward import read_into
from vqlm.training.errors import UserError


def build_slots(
    model: PreTrainedModel, legal: slice, pad: int, max_rows: int, longest: int
) -> "LlamaSlots | StockSlots":
    """The fastest slots that give this model's own logits, for `max_rows` rows of up to `longest` ids.

    Raises UserError for a model whose cache does not keep every id apart, such as one with a sliding window or a
    recurrent state.
    """
    if is_llama_like(model):
        return LlamaSlots(model, legal, pad, max_rows, longest)
    return StockSlots(model, legal, pad)


class LlamaSlots:
    """For the models of `is_llama_like`, by the layers of `LlamaDecoder`.

    The cache is allocated once, with some places to spare. When the clock comes to its end, the rows are moved back
    to the begin. bf16 weights are packed once, so the model must not be trained meanwhile.
    """

    def __init__(self, model: PreTrainedModel, legal: slice, pad: int, max_rows: int, longest: int):
        self.model, self.pad, self.longest = model, pad, longest
        config, device = model.config, model.device
        head_dim = model.model.layers[0].self_attn.head_dim
        if can_pack(model.lm_head.weight):
            self.maps, self.weights = packed_maps(model, legal, max_rows)
        else:
            self.maps, self.weights = plain_maps(model, legal), []
        cos, sin = model.model.rotary_emb(torch.zeros(1, device=device), torch.arange(longest, device=device)[None])
        self.cos, self.sin = cos[0], signed(sin[0])  # (longest, d), for `rotate`
        # As in LlamaDecoder: the fused attention of a CPU is slow in bf16 for one query.
        dtype = torch.float32 if device.type == "cpu" else model.dtype
        length = longest + longest // 4 + 1
        shape = (max_rows, config.num_key_value_heads, length, head_dim)
        self.cache = [
            (torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
            for _ in range(config.num_hidden_layers)
        ]
        self.length, self.place = length, longest
        self.begins = torch.empty(0, dtype=torch.int64, device=device)  # (R,) place of each row's first id
        self._update_mask()

    @torch.no_grad()
    def join(self, rows: list[list[int]]) -> Float[Tensor, "r k"]:
        if not len(self.begins):
            self.place = max(map(len, rows))
        elif max(map(len, rows)) > self.place:
            self._move(max(map(len, rows)))
        ids, seen, _ = (tensor.to(self.model.device) for tensor in left_pad(rows, self.pad))
        first, before = len(self.begins), self.place - ids.shape[1]
        read, positions, visible, source = distinct_rows(ids, seen)
        until = first + len(rows)
        views = [
            (keys[first : first + len(read), :, before:], values[first : first + len(read), :, before:])
            for keys, values in self.cache
        ]
        with using(self.weights):
            logits = run_step(
                self.model, self.maps, read, positions, self.cos, self.sin, visible, views, 0, attend, 1,
            )  # fmt: skip
        for kept in (kept for layer in self.cache for kept in layer):
            new = kept[first:until, :, before : self.place]
            new.copy_(new[source])  # the right side is a copy
        self.begins = torch.cat([self.begins, self.place - seen.sum(1)])
        self._update_mask()
        return logits[source, 0]

    @torch.no_grad()
    def step(self, ids: Int[Tensor, " r"]) -> Float[Tensor, "r k"]:
        if self.place == self.length:
            self._move(self.place - self.first)
        views = [
            (keys[: len(ids), :, self.first :], values[: len(ids), :, self.first :]) for keys, values in self.cache
        ]
        positions = (self.place - self.begins).unsqueeze(1)
        with using(self.weights):
            logits = run_step(
                self.model, self.maps, ids.unsqueeze(1), positions, self.cos, self.sin, self.mask, views,
                self.place - self.first, attend, 1,
            )  # fmt: skip
        self.place += 1
        return logits[:, 0]

    @torch.no_grad()
    def keep(self, order: list[int]) -> None:
        moved = [(to, source) for to, source in enumerate(order) if to != source]
        if moved:
            to, source = torch.tensor(moved, device=self.model.device).unbind(1)
            for kept in (kept for layer in self.cache for kept in layer):
                kept[to, :, self.first : self.place] = kept[source, :, self.first : self.place]
        self.begins = self.begins[order]
        self._update_mask()

    def _move(self, place: int) -> None:
        """Move all rows so that the clock stands at `place`."""
        by, length = place - self.place, self.place - self.first
        for kept in (kept for layer in self.cache for kept in layer):
            kept[: len(self.begins), :, place - length : place] = kept[
                : len(self.begins), :, self.first : self.place
            ].clone()
        self.begins, self.place = self.begins + by, place
        self._update_mask()

    def _update_mask(self) -> None:
        """What a step needs of where the rows begin: the first place in use, and what hides the places before each
        row."""
        begins = self.begins.tolist()
        self.first, self.mask = min(begins, default=0), None
        if len(set(begins)) > 1:
            places = torch.arange(self.first, self.length, device=self.begins.device)
            is_before = places < self.begins.unsqueeze(1)
            self.mask = torch.zeros(is_before.shape, device=self.begins.device).masked_fill(is_before, -torch.inf)
            self.mask = self.mask[:, None, None]


class StockSlots:
    """For any model of transformers whose cache has one entry per id, by its own forward. The cache grows with the
    longest row and shrinks when that leaves."""

    def __init__(self, model: PreTrainedModel, legal: slice, pad: int):
        self.model, self.legal, self.pad = model, legal, pad
        self.cache, self.seen = None, torch.empty(0, 0, dtype=torch.bool, device=model.device)
        layers = DynamicCache(config=model.config).layers
        if any(type(layer) is not DynamicLayer for layer in layers):
            raise UserError(
                f"{type(model).__name__} cannot draw rows that come and go: it keeps no cache of every id. Draw whole "
                "batches with TextToImagePipeline, or train a llama."
            )

    @torch.no_grad()
    def join(self, rows: list[list[int]]) -> Float[Tensor, "r k"]:
        ids, seen, _ = (tensor.to(self.model.device) for tensor in left_pad(rows, self.pad))
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(cache, ids, seen, (seen.cumsum(1) - 1).clamp(min=0))
        if self.cache is None or not len(self.seen):
            self.cache, self.seen = cache, seen
            return logits
        length = max(self.seen.shape[1], seen.shape[1])
        for old, new in zip(self.cache.layers, cache.layers, strict=True):
            old.keys = torch.cat([_padded(old.keys, length), _padded(new.keys, length)])  # type: ignore[arg-type]
            old.values = torch.cat([_padded(old.values, length), _padded(new.values, length)])  # type: ignore[arg-type]
        self.seen = torch.cat([_padded(rows[..., None], length)[..., 0] for rows in (self.seen, seen)])
        return logits

    @torch.no_grad()
    def step(self, ids: Int[Tensor, " r"]) -> Float[Tensor, "r k"]:
        self.seen = torch.cat([self.seen, self.seen.new_ones(len(ids), 1)], 1)
        return self._forward(self.cache, ids.unsqueeze(1), self.seen, self.seen.sum(1, keepdim=True) - 1)

    @torch.no_grad()
    def keep(self, order: list[int]) -> None:
        seen = self.seen[order]
        first = int((~seen).all(0).long().cumprod(0).sum()) if len(order) else 0
        self.seen = seen[:, first:]
        for layer in self.cache.layers:  # type: ignore[union-attr]
            layer.keys, layer.values = layer.keys[order, :, first:], layer.values[order, :, first:]  # type: ignore[index]

    def _forward(
        self, cache: DynamicCache | None, ids: Int[Tensor, "r t"], seen: Bool[Tensor, "r n"], positions: Tensor
    ) -> Float[Tensor, "r k"]:
        assert cache is not None
        logits = read_into(
            cache, self.model, input_ids=ids, attention_mask=seen, position_ids=positions, logits_to_keep=1
        )
        return logits[:, -1, self.legal].float()


def _padded(tensor: Tensor, length: int) -> Tensor:
    """(..., n, d) -> (..., length, d), zeros before it."""
    missing = length - tensor.shape[-2]
    return torch.cat([tensor.new_zeros(*tensor.shape[:-2], missing, tensor.shape[-1]), tensor], -2)
