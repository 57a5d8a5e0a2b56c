"""Lookup-free quantization: every channel is a bit, its sign. No codebook."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vqlm.training.machine.distributed import differentiable_mean
from vqlm.vq.quantizers.base import Quantizer, QuantizerOutput, as_vectors
from vqlm.vq.quantizers.estimators import straight_through
from vqlm.vq.quantizers.settings import LFQConfig


class LookupFreeQuantizer(Quantizer):
    """The sign of each channel of z_e; the first channel is the highest bit of the code."""

    place_values: Tensor

    def __init__(self, config: LFQConfig):
        super().__init__()
        self.config, self.codebook_size = config, config.codebook_size
        powers = 2 ** torch.arange(config.codebook_dim - 1, -1, -1)
        self.register_buffer("place_values", powers)

    def quantize(self, z_e: Float[Tensor, "b d *shape"]) -> QuantizerOutput:
        codes = self.encode(z_e)
        signs = self.decode(codes)
        losses = {"entropy": self._entropy_loss(as_vectors(z_e)), "commitment": F.mse_loss(z_e, signs)}
        return QuantizerOutput(straight_through(z_e, signs), codes, losses, z_e)

    def encode(self, z_e: Float[Tensor, "b d *shape"]) -> Int[Tensor, "b *shape"]:
        return ((z_e > 0).movedim(1, -1) * self.place_values).sum(-1)

    def decode(self, codes: Int[Tensor, "b *shape"]) -> Float[Tensor, "b d *shape"]:
        bits = codes.unsqueeze(-1) // self.place_values % 2
        return (2.0 * bits - 1).movedim(-1, 1)

    def loss_weights(self) -> dict[str, float]:
        return {"entropy": self.config.entropy_weight, "commitment": self.config.commitment_weight}

    def code_vectors(self) -> Float[Tensor, "k d"]:
        return self.decode(torch.arange(self.codebook_size, device=self.place_values.device))

    def _entropy_loss(self, vectors: Float[Tensor, "n d"]) -> Tensor:
        """Mean entropy of the soft choices less `diversity` times the entropy of their mean, in nats (equation 4).

        The soft choice is softmax(-|z - c|^2 / temperature) over all codes c. It is a product over the channels, so
        that its entropy is the sum of theirs, and the mean over vectors is one product of two halves of the channels:
        exact, in N * sqrt(K) + K numbers. In training the mean is that of all processes.
        """
        logits = 4 * vectors / self.config.temperature  # of bit 1 against bit 0
        certainty = _binary_entropy(logits).sum(1).mean()
        log_share = torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], -1)  # (N, D, 2)
        half = log_share.shape[1] // 2
        high, low = _joint(log_share[:, :half]), _joint(log_share[:, half:])
        mean = high.T @ low / len(vectors)
        mean = differentiable_mean(mean) if self.training else mean
        mean = mean.clamp(min=torch.finfo(torch.float32).tiny)  # entr has no slope at 0
        return certainty - self.config.diversity * torch.special.entr(mean).sum()


def _binary_entropy(logits: Tensor) -> Tensor:
    return F.softplus(logits) - logits * logits.sigmoid()


def _joint(log_share: Float[Tensor, "n d 2"]) -> Float[Tensor, "n m"]:
    """Probability of every combination of d bits: (N, d, 2) -> (N, 2**d), the first bit highest."""
    joint = log_share.new_zeros(len(log_share), 1)
    for bit in log_share.unbind(1):
        joint = (joint.unsqueeze(2) + bit.unsqueeze(1)).flatten(1)
    return joint.exp()
