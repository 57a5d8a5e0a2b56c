"""Vector quantization: the codebook, how it is trained, initialised and revived."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqlm.training.errors import UserError
from vqlm.training.machine.distributed import gather_rows, sum_over_processes
from vqlm.vq.nearest import nearest_codes
from vqlm.vq.quantizers.base import Quantizer, QuantizerOutput, as_vectors
from vqlm.vq.quantizers.estimators import ESTIMATORS
from vqlm.vq.quantizers.settings import VQConfig


class VectorQuantizer(Quantizer):
    """The nearest code (van den Oord et al. 2017, equations 1 to 3)."""

    codebook: Tensor
    ema_sum: Tensor
    ema_count: Tensor
    num_updates: Tensor

    def __init__(self, config: VQConfig):
        super().__init__()
        self.config, self.codebook_size = config, config.codebook_size
        codebook = torch.empty(config.codebook_size, config.codebook_dim).uniform_(-1, 1) / config.codebook_size
        self.linear = None
        if config.codebook_training == "gradient":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
        if config.codebook_training == "simvq":
            codebook.normal_(std=config.codebook_dim**-0.5)
            self.linear = nn.Linear(config.codebook_dim, config.codebook_dim, bias=False)
        self.register_buffer("ema_sum", codebook.clone())
        self.register_buffer("ema_count", torch.ones(config.codebook_size))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def quantize(self, z_e: Float[Tensor, "b d *shape"]) -> QuantizerOutput:
        """Losses: codebook, ||sg[z_e] - e||^2, and commitment, ||z_e - sg[e]||^2, means over all elements."""
        vectors, z_e, code_vectors = z_e, self.normalize(z_e), self.code_vectors()
        codes = _search(z_e, code_vectors)
        chosen = F.embedding(codes, code_vectors).movedim(-1, 1)
        losses = {"codebook": F.mse_loss(chosen, z_e.detach()), "commitment": F.mse_loss(z_e, chosen.detach())}
        return QuantizerOutput(ESTIMATORS[self.config.gradient_estimator](z_e, chosen), codes, losses, vectors)

    def encode(self, z_e: Float[Tensor, "b d *shape"]) -> Int[Tensor, "b *shape"]:
        return _search(self.normalize(z_e), self.code_vectors())

    def decode(self, codes: Int[Tensor, "b *shape"]) -> Float[Tensor, "b d *shape"]:
        return F.embedding(codes, self.code_vectors()).movedim(-1, 1)

    def loss_weights(self) -> dict[str, float]:
        trained_by_loss = self.config.codebook_training != "ema"
        return {"codebook": float(trained_by_loss), "commitment": self.config.commitment_weight}

    def code_vectors(self) -> Float[Tensor, "k d"]:
        """The codebook as z_e is compared with it: mapped and scaled."""
        vectors = self.codebook.float()  # z_e is in fp32, in a bf16 model too
        if self.linear is not None:
            with torch.autocast(vectors.device.type, enabled=False):
                vectors = F.linear(vectors, self.linear.weight.float())
        return F.normalize(vectors, dim=1) if self.config.distance == "cosine" else vectors

    @torch.no_grad()
    def initialize(self, z_e: Float[Tensor, "b d *shape"]) -> None:
        """Start the codebook from encoder outputs (B, D, *shape), as `config.initialization` says.

        Every process must give the same vectors. With fewer vectors than codes, vectors repeat with a little noise.
        """
        if self.config.initialization == "random":
            return
        vectors = as_vectors(self.normalize(z_e))
        if self.config.initialization == "kmeans" and len(vectors) < self.codebook_size:
            raise UserError(
                f"`quantizer.initialization` kmeans needs a vector for each of the {self.codebook_size} codes, and the "
                f"pictures give {len(vectors)}; lower `quantizer.codebook_size`, or start from sample."
            )
        generator = torch.Generator().manual_seed(0)
        start = _draw_rows(vectors, self.config.codebook_size, generator)
        if self.config.initialization == "kmeans":
            start = kmeans(vectors, start, iterations=10)
        self.codebook.copy_(start)
        if self.linear is not None:
            nn.init.eye_(self.linear.weight)
        self.ema_sum.copy_(start)
        self.ema_count.fill_(1.0)

    @torch.no_grad()
    def update(self, vectors: Float[Tensor, "b d *shape"], codes: Int[Tensor, "b *shape"]) -> int:
        """After a training step: move the running means, revive dead codes. Returns how many were revived.

        Counts and sums are those of all processes together, so every process holds the same codebook.
        """
        flat_vectors, flat_codes = as_vectors(self.normalize(vectors)), codes.reshape(-1)
        count = torch.zeros_like(self.ema_count).index_add_(
            0, flat_codes, torch.ones_like(flat_codes, dtype=torch.float)
        )
        total = torch.zeros_like(self.ema_sum).index_add_(0, flat_codes, flat_vectors)
        count, total = sum_over_processes(count), sum_over_processes(total)
        self.num_updates += 1
        self.ema_count.lerp_(count, 1 - self.config.ema_decay)
        self.ema_sum.lerp_(total, 1 - self.config.ema_decay)
        if self.config.codebook_training == "ema":
            self.codebook.copy_(self.ema_sum / self.ema_count.clamp(min=1e-6).unsqueeze(1))
        if self.config.codebook_training == "simvq":
            return 0
        # Codes that all vectors share alike are used less than once per step where there are more codes than vectors.
        threshold = self.config.dead_code_threshold * count.mean().clamp(max=1.0)
        return self._revive(flat_vectors, self.ema_count < threshold)

    def normalize(self, z_e: Float[Tensor, "b d *shape"]) -> Float[Tensor, "b d *shape"]:
        z_e = layer_norm(z_e.float()) if self.config.normalize_z_e else z_e.float()
        return F.normalize(z_e, dim=1) if self.config.distance == "cosine" else z_e

    def _revive(self, vectors: Tensor, is_dead: Tensor) -> int:
        """Give every dead code one of this step's vectors: codebook, sum and count together, or the next update
        would pull the code back to where it died."""
        dead = is_dead.nonzero().squeeze(1)
        if dead.numel() == 0:
            return 0
        generator = torch.Generator().manual_seed(int(self.num_updates))  # the same draw on every process
        fresh = _draw_rows(gather_rows(vectors), dead.numel(), generator)
        fresh_count = max(1.0, self.config.dead_code_threshold)
        self.codebook.data[dead] = fresh
        self.ema_sum[dead] = fresh * fresh_count
        self.ema_count[dead] = fresh_count
        return dead.numel()


def layer_norm(z_e: Float[Tensor, "b d *shape"]) -> Float[Tensor, "b d *shape"]:
    """Mean 0 and variance 1 over the channels of each position."""
    return F.layer_norm(z_e.movedim(1, -1), (z_e.shape[1],)).movedim(-1, 1)


def _search(z_e: Float[Tensor, "b d *shape"], code_vectors: Float[Tensor, "k d"]) -> Int[Tensor, "b *shape"]:
    return nearest_codes(as_vectors(z_e), code_vectors).view(z_e.shape[0], *z_e.shape[2:])


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


def kmeans(vectors: Tensor, centres: Tensor, iterations: int) -> Tensor:
    """Lloyd's algorithm; a centre that loses all its vectors stays where it is."""
    for _ in range(iterations):
        codes = nearest_codes(vectors, centres)
        count = torch.bincount(codes, minlength=centres.shape[0]).unsqueeze(1)
        total = torch.zeros_like(centres).index_add_(0, codes, vectors)
        centres = torch.where(count > 0, total / count.clamp(min=1), centres)
    return centres
