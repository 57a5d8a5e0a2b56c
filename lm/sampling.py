"""From logits to the next code: guidance, candidates, temperature. Knows nothing of models or caches."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from training.errors import UserError

MOST_GUIDANCE = 1000  # beyond any use; keeps fp32 logits precise


@dataclass(frozen=True)
class SamplingConfig:
    """How a code is drawn. The defaults draw from the model's own distribution.

    Args:
        guidance_scale: weight of the prompt, in [0, 1000]: 1 is the plain conditional distribution, above 1 sharpens
            what the prompt changes (classifier-free guidance, Ho and Salimans 2022).
        guidance_schedule: "constant", or "cosine" from no guidance at the first code to all of it at the last
            (Wang et al. 2024, arXiv 2404.13040, where the weight grows along the way).
        temperature: logits are divided by it; 0 always takes the most likely code.
        top_k: keep this many of the likeliest candidates; 0 keeps all.
        top_p: keep the smallest set of candidates that holds this probability; 1 keeps all.
        min_p: keep candidates of at least this share of the likeliest one's probability; 0 keeps all.
    """

    guidance_scale: float = 1.0
    guidance_schedule: Literal["constant", "cosine"] = "constant"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self):
        if not 0 <= self.guidance_scale <= MOST_GUIDANCE:
            raise UserError(
                f"guidance_scale must lie in [0, {MOST_GUIDANCE}], found {self.guidance_scale}; 1 means no guidance."
            )
        if self.guidance_schedule not in ("constant", "cosine"):
            raise UserError(f"guidance_schedule must be constant or cosine, found {self.guidance_schedule!r}.")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must not be negative, found {self.temperature}; 0 takes the likeliest code.")
        if self.top_k < 0:
            raise UserError(f"top_k must not be negative, found {self.top_k}; 0 keeps all.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must lie in (0, 1], found {self.top_p}; 1 keeps all.")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p must lie in [0, 1], found {self.min_p}; 0 keeps all.")

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale != 1.0

    @property
    def is_cut(self) -> bool:
        """Whether some codes may be no candidates."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    def at(self, step: int, steps: int) -> "SamplingConfig":
        """The settings of one of `steps` codes, by the schedule."""
        if self.guidance_schedule == "constant":
            return self
        share = (1 - math.cos(math.pi * step / max(1, steps - 1))) / 2
        return replace(self, guidance_scale=1 + (self.guidance_scale - 1) * share)


def guided_logits(
    conditional: Float[Tensor, "b k"], unconditional: Float[Tensor, "b k"] | None, settings: SamplingConfig
) -> Float[Tensor, "b k"]:
    """Log-probabilities of the next code before temperature; -inf outside the candidates.

    The candidates are the conditional distribution's own and are cut before guidance. Guidance moves logits by
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
    """One index a row, by the inverse of the cumulative distribution at `uniform` in [0, 1).

    The random number is the caller's, so that a row's draw does not depend on the rows beside it.
    """
    if temperature == 0:
        return logits.argmax(-1)
    precise = torch.float32 if logits.device.type == "mps" else torch.float64  # which Apple's GPUs lack
    logits = logits if temperature == 1 else logits / temperature
    cumulative = logits.softmax(-1).cumsum(-1, dtype=precise)
    threshold = uniform.to(precise).unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
