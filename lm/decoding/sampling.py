"""From logits to the next code: guidance, candidates, temperature, random numbers. Knows neither models nor caches."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError

Generators = torch.Generator | Sequence[torch.Generator] | None
Seeds = Generators | int | Sequence[int]  # as people give them
NOT_FINITE = (
    "The model's logits are not finite at {}: its weights are damaged or its training diverged. Train it again with a "
    "lower learning rate, or in fp32."
)


def guided_logits(
    conditional: Float[Tensor, "b k"], unconditional: Float[Tensor, "b k"] | None, settings: SamplingConfig
) -> Float[Tensor, "b k"]:
    """Log-probabilities of the next code before temperature; -inf outside the candidates.

    The candidates are those of the conditional distribution and are cut before guidance. Guidance moves logits by
    (scale - 1) times what the prompt changed, and would lift codes of the far tail that both branches know badly.
    """
    guided = conditional = conditional.float()
    if settings.is_guided and unconditional is not None:
        guided = torch.lerp(unconditional.float(), conditional, settings.guidance_scale)
    if settings.is_cut:
        guided = guided.masked_fill(~candidates(conditional.log_softmax(-1), settings), -torch.inf)
    return guided.log_softmax(-1)


def candidates(log_probs: Float[Tensor, "b k"], settings: SamplingConfig) -> Tensor:
    """(B, K) bool: what top-k, top-p and min-p each keep. The likeliest is always kept."""
    kept = torch.ones_like(log_probs, dtype=torch.bool)
    if settings.min_p > 0:
        kept &= log_probs >= log_probs.amax(-1, keepdim=True) + torch.tensor(settings.min_p).log().item()
    if 0 < settings.top_k < log_probs.shape[-1]:
        kept &= log_probs >= log_probs.topk(settings.top_k, -1).values[:, -1:]
    if settings.top_p < 1:
        ordered, order = log_probs.sort(-1, descending=True)
        probability = ordered.exp()
        is_inside = probability.cumsum(-1) - probability < settings.top_p  # the mass before it
        kept &= torch.zeros_like(kept).scatter(-1, order, is_inside)
    return kept


def sample(logits: Float[Tensor, "b k"], uniform: Float[Tensor, " b"], temperature: float) -> Int[Tensor, " b"]:
    """One index per row, by the inverse of the cumulative distribution at `uniform` in [0, 1).

    The random number comes from the caller, so that the draw of a row does not depend on the rows beside it.
    """
    if temperature == 0:
        return logits.argmax(-1)
    precise = torch.float32 if logits.device.type == "mps" else torch.float64  # which Apple's GPUs lack
    logits = logits if temperature == 1 else logits / temperature
    cumulative = logits.softmax(-1).cumsum(-1, dtype=precise)
    threshold = uniform.to(precise).unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)


def draw_uniform(rows: int, columns: int, generator: Generators, device: torch.device) -> Tensor:
    """(rows, columns) in [0, 1), each row from a generator of its own if there is one per row."""
    if generator is None or isinstance(generator, torch.Generator):
        source = generator.device if generator is not None else device
        return torch.rand(rows, columns, generator=generator, device=source).to(device)
    generators = generators_of(generator, rows)
    return torch.stack([torch.rand(columns, generator=each, device=each.device).to(device) for each in generators])


def from_seeds(seeds: Any) -> Generators:
    """Generators as they are; a generator for a seed, or for each of several. Raises UserError for anything else."""
    if seeds is None or isinstance(seeds, torch.Generator):
        return seeds
    if isinstance(seeds, list | tuple):
        return [_from_seed(seed) for seed in seeds]
    return _from_seed(seeds)


def _from_seed(seed: Any) -> torch.Generator:
    if isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        raise UserError(
            "`generator` must be a torch.Generator, a seed from 0 to 2^63 - 1, or a list with one for each picture; "
            f"found {seed!r:.40} of type {type(seed).__name__}."
        )
    return torch.Generator().manual_seed(int(seed))


def one_each(generator: Generators, rows: int) -> Sequence[torch.Generator] | None:
    """A generator of its own for each row, so that what a row takes does not depend on the rows beside it."""
    if not isinstance(generator, torch.Generator):
        return None if generator is None else generators_of(generator, rows)
    seeds = torch.randint(2**63 - 1, (rows,), generator=generator, device=generator.device).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def generators_of(generator: Generators, rows: int) -> list:
    """One generator per row; a single one serves all rows. Raises UserError for a list of another length."""
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * rows
    if len(generator) != rows:
        raise UserError(f"`generator` must be one, or one for each of the {rows} pictures; found {len(generator)}.")
    return list(generator)


def require_finite(logits: Tensor, where: str) -> None:
    """Raises UserError if a logit is not finite."""
    if not logits.isfinite().all():
        raise UserError(NOT_FINITE.format(where))
