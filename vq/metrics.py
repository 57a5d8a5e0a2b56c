"""How well pictures are reconstructed, and how the codebook is used."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

TELLING = 20  # counts for each code, from which on it is no accident if one never occurs
# A sample does not tell which codes others would use below so many pictures, and while of the codes in it more than
# this share are in one picture only: further pictures would bring many others.
FEWEST_PICTURES = 10
MOST_IN_ONE_PICTURE = 1 / 3


def psnr(reconstruction: Float[Tensor, "b *shape"], pixel_values: Float[Tensor, "b *shape"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each picture in dB, both in [-1, 1] (peak to peak 2). (B, ...) -> (B,)."""
    error = (reconstruction.float().clamp(-1, 1) - pixel_values.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def reachable_usage(pictures_with: Int[Tensor, "c k"], num_pictures: int) -> float:
    """Share of the codebook that any number of pictures would use, by a sample of `num_pictures`; 1 where it cannot
    tell.

    `pictures_with` says in how many of them each code occurs: codes of one picture are alike, and pictures are not. The
    estimate is the second-order jackknife of Burnham and Overton (1979), the mean over codebooks.
    """
    n = num_pictures
    seen, once, twice = (part.sum(1).double() for part in (pictures_with > 0, pictures_with == 1, pictures_with == 2))
    if n < FEWEST_PICTURES or once.sum() > MOST_IN_ONE_PICTURE * seen.sum():
        return 1.0
    codes = seen + once * (2 * n - 3) / n - twice * (n - 2) ** 2 / (n * (n - 1))
    return (codes.maximum(seen) / pictures_with.shape[1]).clamp(max=1).mean().item()


class CodeUsage:
    """Counts codes over a window: perplexity (exp of the entropy in nats) and the share of the codebook used.

    With several codebooks both figures are means over them.
    """

    def __init__(self, codebook_size: int, num_codebooks: int = 1):
        self.codebook_size, self.num_codebooks = codebook_size, num_codebooks
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros(self.num_codebooks, self.codebook_size)

    def add(self, *codes: Int[Tensor, "..."]) -> "CodeUsage":
        """Count the codes of each codebook; of any shape, in [0, K)."""
        self.counts = self.counts.to(codes[0].device)
        for counts, part in zip(self.counts, codes, strict=True):
            counts += torch.bincount(part.flatten(), minlength=self.codebook_size)
        return self

    @property
    def is_telling(self) -> bool:
        """Whether so many codes were counted that it is no accident if one never occurs."""
        return bool(self.counts.sum(1).min() >= TELLING * self.codebook_size)

    @property
    def perplexity(self) -> float:
        """1 if a single code occurs, K if all are equally frequent, 0 before any code is counted."""
        if not self.counts.sum():
            return 0.0
        counts = self.counts.cpu().double()  # not every accelerator has float64
        share = counts / counts.sum(1, keepdim=True)
        return torch.special.entr(share).sum(1).exp().mean().item()

    @property
    def usage(self) -> float:
        """Share of the codebook that occurs, in [0, 1]."""
        return (self.counts > 0).float().mean().item()
