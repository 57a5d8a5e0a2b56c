"""How well pictures come back and how the codebook is used."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def psnr(reconstruction: Float[Tensor, "b *shape"], pixel_values: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each picture in dB, both in [-1, 1] (peak to peak 2). (B, ...) -> (B,)."""
    error = (reconstruction.float().clamp(-1, 1) - pixel_values.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


class CodeUsage:
    """Counts codes over a window: perplexity (exp of the entropy in nats) and the share of the codebook used.

    With several codes a position, each has a codebook of its own, and both figures are means over codebooks.
    """

    def __init__(self, codebook_size: int, codes_per_position: int = 1):
        self.codebook_size, self.codes_per_position = codebook_size, codes_per_position
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros(self.codes_per_position, self.codebook_size)

    def add(self, codes: Int[Tensor, "*shape"]) -> "CodeUsage":
        """Any shape of codes in [0, K), its last dimension the codes of a position if there are several."""
        self.counts = self.counts.to(codes.device)
        for counts, part in zip(self.counts, codes.reshape(-1, self.codes_per_position).unbind(1), strict=True):
            counts += torch.bincount(part, minlength=self.codebook_size)
        return self

    @property
    def perplexity(self) -> float:
        """1 for a single code, K for all alike, 0 before any code."""
        if not self.counts.sum():
            return 0.0
        counts = self.counts.cpu().double()  # not every accelerator has float64
        share = counts / counts.sum(1, keepdim=True)
        return torch.special.entr(share).sum(1).exp().mean().item()

    @property
    def usage(self) -> float:
        """Share of the codebook that occurs, in [0, 1]."""
        return (self.counts > 0).float().mean().item()
