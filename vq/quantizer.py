"""Vector quantization: the codebook, its two trainings, its start and its revival. Knows no pictures."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from training.distributed import gather_rows, sum_over_processes
from training.errors import UserError
from vq.nearest import nearest_codes


@dataclass
class QuantizerConfig:
    """Settings of the codebook.

    Args:
        codebook_size: number of codes, K.
        codebook_dim: width of a code, D.
        codebook_training: "ema" follows the running mean of the vectors given to a code (van den Oord et al. 2017,
            appendix A.1); "gradient" trains the codebook by the second term of the paper's loss.
        ema_decay: decay of the running means; also that of the usage counts that revival reads.
        commitment_weight: beta, the weight of the third term of the paper's loss.
        initialization: where the codebook starts: "sample" of encoder outputs, "kmeans" of them, or "random".
        dead_code_threshold: a code whose running count per step falls below this is revived; 0 never revives.
        normalize_z_e: normalise each encoder output over its D channels, so that the codebook meets one scale.
    """

    codebook_size: int = 1024
    codebook_dim: int = 16
    codebook_training: Literal["ema", "gradient"] = "ema"
    ema_decay: float = 0.99
    commitment_weight: float = 0.25
    initialization: Literal["sample", "kmeans", "random"] = "sample"
    dead_code_threshold: float = 0.1
    normalize_z_e: bool = True

    def __post_init__(self):
        for name in ("codebook_size", "codebook_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"quantizer.{name} must be at least 1, found {getattr(self, name)}.")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"quantizer.ema_decay must lie in [0, 1), found {self.ema_decay}.")
        for name, allowed in (
            ("codebook_training", ("ema", "gradient")),
            ("initialization", ("sample", "kmeans", "random")),
        ):
            if getattr(self, name) not in allowed:
                raise UserError(f"quantizer.{name} must be one of {', '.join(allowed)}, found {getattr(self, name)!r}.")


class QuantizerOutput(NamedTuple):
    """What a quantizer makes of `z_e`. Losses are unweighted means over all elements.

    z_q: (B, D, *shape), the chosen codes; the gradient passes straight through to z_e.
    codes: (B, *shape) int64.
    codebook_loss: ||sg[z_e] - e||^2; commitment_loss: ||z_e - sg[e]||^2.
    """

    z_q: Float[Tensor, "b d *shape"]
    codes: Int[Tensor, "b *shape"]
    codebook_loss: Float[Tensor, ""]
    commitment_loss: Float[Tensor, ""]


def straight_through(z_e: Tensor, z_q: Tensor) -> Tensor:
    """Value of `z_q`, gradient of the identity to `z_e` (Bengio et al. 2013; van den Oord et al. 2017, section 3.2)."""
    return z_e + (z_q - z_e).detach()


class VectorQuantizer(nn.Module):
    """Nearest code by L2 (van den Oord et al. 2017, equations 1 to 3). Always computes in fp32.

    `forward` changes no state. A training step calls `update(z_e, codes)` after it: running means and revival.
    """

    codebook: Tensor
    ema_sum: Tensor
    ema_count: Tensor
    num_updates: Tensor

    def __init__(self, config: QuantizerConfig):
        super().__init__()
        self.config = config
        codebook = torch.empty(config.codebook_size, config.codebook_dim).uniform_(-1, 1) / config.codebook_size
        if config.codebook_training == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        self.register_buffer("ema_sum", codebook.clone())
        self.register_buffer("ema_count", torch.ones(config.codebook_size))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def forward(self, z_e: Float[Tensor, "b d *shape"]) -> QuantizerOutput:
        """(B, D, *shape) -> z_q (B, D, *shape), codes (B, *shape) and the two losses."""
        with torch.autocast(z_e.device.type, enabled=False):
            z_e = z_e.float()
            codes = self.encode(z_e)
            chosen = self.decode(codes)
            return QuantizerOutput(
                z_q=straight_through(z_e, chosen),
                codes=codes,
                codebook_loss=F.mse_loss(chosen, z_e.detach()),
                commitment_loss=F.mse_loss(z_e, chosen.detach()),
            )

    def encode(self, z_e: Float[Tensor, "b d *shape"]) -> Int[Tensor, "b *shape"]:
        """(B, D, *shape) -> codes (B, *shape) int64."""
        codes = nearest_codes(_as_vectors(z_e), self.codebook)
        return codes.view(z_e.shape[0], *z_e.shape[2:])

    def decode(self, codes: Int[Tensor, "b *shape"]) -> Float[Tensor, "b d *shape"]:
        """(B, *shape) -> the codes' vectors (B, D, *shape), fp32."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def initialize(self, z_e: Float[Tensor, "b d *shape"]) -> None:
        """Start the codebook from encoder outputs (B, D, *shape), as `config.initialization` says.

        Every process is to give the same vectors. With fewer vectors than codes, vectors repeat with a little noise.
        """
        if self.config.initialization == "random":
            return
        vectors = _as_vectors(z_e).float()
        generator = torch.Generator().manual_seed(0)
        start = _draw_rows(vectors, self.config.codebook_size, generator)
        if self.config.initialization == "kmeans":
            start = _kmeans(vectors, start, iterations=10)
        self.codebook.copy_(start)
        self.ema_sum.copy_(start)
        self.ema_count.fill_(1.0)

    @torch.no_grad()
    def update(self, z_e: Float[Tensor, "b d *shape"], codes: Int[Tensor, "b *shape"]) -> int:
        """After a training step: move the running means, revive dead codes. Returns how many were revived.

        Counts and sums are those of all processes together, so every process holds the same codebook.
        """
        vectors, flat_codes = _as_vectors(z_e.detach()).float(), codes.reshape(-1)
        count = torch.zeros_like(self.ema_count).index_add_(
            0, flat_codes, torch.ones_like(flat_codes, dtype=torch.float)
        )
        total = torch.zeros_like(self.ema_sum).index_add_(0, flat_codes, vectors)
        count, total = sum_over_processes(count), sum_over_processes(total)
        self.num_updates += 1
        self.ema_count.lerp_(count, 1 - self.config.ema_decay)
        self.ema_sum.lerp_(total, 1 - self.config.ema_decay)
        if self.config.codebook_training == "ema":
            self.codebook.copy_(self.ema_sum / self.ema_count.clamp(min=1e-6).unsqueeze(1))
        return self._revive(vectors)

    def _revive(self, vectors: Tensor) -> int:
        """Give every dead code one of this step's vectors: codebook, sum and count together, or the next update
        would pull the code back to where it died."""
        dead = (self.ema_count < self.config.dead_code_threshold).nonzero().squeeze(1)
        if dead.numel() == 0:
            return 0
        generator = torch.Generator().manual_seed(int(self.num_updates))  # the same draw on every process
        fresh = _draw_rows(gather_rows(vectors), dead.numel(), generator)
        fresh_count = max(1.0, self.config.dead_code_threshold)
        self.codebook.data[dead] = fresh
        self.ema_sum[dead] = fresh * fresh_count
        self.ema_count[dead] = fresh_count
        return dead.numel()


def _as_vectors(z_e: Tensor) -> Tensor:
    return rearrange(z_e, "b d ... -> (b ...) d")


def _draw_rows(vectors: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """`number` rows without repeats; where there are too few, repeats are set apart by noise."""
    order = torch.randperm(vectors.shape[0], generator=generator)[:number]
    if (missing := number - order.numel()) == 0:
        return vectors[order.to(vectors.device)]
    order = torch.cat([order, torch.randint(vectors.shape[0], (missing,), generator=generator)]).to(vectors.device)
    rows = vectors[order].clone()
    noise = torch.randn(missing, vectors.shape[1], generator=generator).to(rows.device)
    rows[-missing:] += 0.01 * vectors.std(correction=0) * noise
    return rows


def _kmeans(vectors: Tensor, centres: Tensor, iterations: int) -> Tensor:
    """Lloyd's algorithm; a centre that loses all its vectors stays where it is."""
    for _ in range(iterations):
        codes = nearest_codes(vectors, centres)
        count = torch.bincount(codes, minlength=centres.shape[0]).unsqueeze(1)
        total = torch.zeros_like(centres).index_add_(0, codes, vectors)
        centres = torch.where(count > 0, total / count.clamp(min=1), centres)
    return centres
