"""Several codes per position: residual quantization, where each refines the last, and product codes, side by side."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vqlm.vq.quantizers.base import Quantizer, QuantizerOutput
from vqlm.vq.quantizers.estimators import ESTIMATORS
from vqlm.vq.quantizers.settings import GroupedConfig, ResidualConfig, plain_config
from vqlm.vq.quantizers.vector import VectorQuantizer, layer_norm


class SeveralCodes(Quantizer):
    """A list of vector quantizers with a codebook each; code r of a position belongs to quantizer r.

    Codes are (B, *shape, R). Flattened, the codes of a position follow one another, so that any sequence of codes is
    a picture. The place of an id in the sequence says which quantizer it belongs to.
    """

    def __init__(self, config: ResidualConfig | GroupedConfig, codebook_dim: int):
        super().__init__()
        self.config, self.codebook_size = config, config.codebook_size
        layer = plain_config(config, codebook_dim=codebook_dim, normalize_z_e=False)
        self.layers = nn.ModuleList(VectorQuantizer(layer) for _ in range(config.codes_per_position))

    def by_codebook(self, codes: Int[Tensor, "b *shape r"]) -> list[Int[Tensor, "b *shape"]]:
        return list(codes.unbind(-1))

    def loss_weights(self) -> dict[str, float]:
        return self._layers[0].loss_weights()

    @property
    def _layers(self) -> list[VectorQuantizer]:
        return list(self.layers)  # type: ignore[arg-type]

    def normalize(self, z_e: Float[Tensor, "b d *shape"]) -> Float[Tensor, "b d *shape"]:
        return layer_norm(z_e.float()) if self.config.normalize_z_e else z_e.float()


class ResidualQuantizer(SeveralCodes):
    """Each code is the nearest to what the codes before it left of z_e; z_q is their sum.

    The commitment and codebook losses are summed over depths (equation 5 of the paper, where each compares z_e with
    the sum up to that depth).
    """

    def __init__(self, config: ResidualConfig):
        super().__init__(config, config.codebook_dim)

    def quantize(self, z_e: Float[Tensor, "b d *shape"]) -> QuantizerOutput:
        vectors, parts = z_e, []
        rest = z_e = self.normalize(z_e)
        for layer in self._layers:
            parts.append(layer.quantize(rest))
            rest = rest - layer.decode(parts[-1].codes).detach()
        losses = {name: torch.stack([part.losses[name] for part in parts]).sum() for name in parts[0].losses}
        codes = torch.stack([part.codes for part in parts], -1)
        z_q = ESTIMATORS[self.config.gradient_estimator](z_e, self.decode(codes))
        return QuantizerOutput(z_q, codes, losses, vectors)

    @torch.no_grad()
    def encode(self, z_e: Float[Tensor, "b d *shape"]) -> Int[Tensor, "b *shape r"]:
        rest, codes = self.normalize(z_e), []
        for layer in self._layers:
            codes.append(layer.encode(rest))
            rest = rest - layer.decode(codes[-1])
        return torch.stack(codes, -1)

    def decode(self, codes: Int[Tensor, "b *shape r"]) -> Float[Tensor, "b d *shape"]:
        parts = [layer.decode(part) for layer, part in zip(self._layers, codes.unbind(-1), strict=True)]
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def initialize(self, z_e: Float[Tensor, "b d *shape"]) -> None:
        rest = self.normalize(z_e)
        for layer in self._layers:
            layer.initialize(rest)
            rest = rest - layer.decode(layer.encode(rest))

    @torch.no_grad()
    def update(self, vectors: Float[Tensor, "b d *shape"], codes: Int[Tensor, "b *shape r"]) -> int:
        steps, rest = [], self.normalize(vectors)
        for layer, part in zip(self._layers, codes.unbind(-1), strict=True):
            steps.append((layer, rest, part))
            rest = rest - layer.decode(part)
        return sum(layer.update(rest, part) for layer, rest, part in steps)  # after all has been read


class GroupedQuantizer(SeveralCodes):
    """The channels in equal groups, each quantized alone; z_q joins them. Losses are means over groups."""

    def __init__(self, config: GroupedConfig):
        super().__init__(config, config.codebook_dim // config.num_groups)

    def quantize(self, z_e: Float[Tensor, "b d *shape"]) -> QuantizerOutput:
        parts = [layer.quantize(part) for layer, part in self._split(z_e)]
        losses = {name: torch.stack([part.losses[name] for part in parts]).mean() for name in parts[0].losses}
        codes = torch.stack([part.codes for part in parts], -1)
        return QuantizerOutput(torch.cat([part.z_q for part in parts], 1), codes, losses, z_e)

    def encode(self, z_e: Float[Tensor, "b d *shape"]) -> Int[Tensor, "b *shape r"]:
        return torch.stack([layer.encode(part) for layer, part in self._split(z_e)], -1)

    def decode(self, codes: Int[Tensor, "b *shape r"]) -> Float[Tensor, "b d *shape"]:
        parts = [layer.decode(part) for layer, part in zip(self._layers, codes.unbind(-1), strict=True)]
        return torch.cat(parts, 1)

    @torch.no_grad()
    def initialize(self, z_e: Float[Tensor, "b d *shape"]) -> None:
        for layer, part in self._split(z_e):
            layer.initialize(part)

    @torch.no_grad()
    def update(self, vectors: Float[Tensor, "b d *shape"], codes: Int[Tensor, "b *shape r"]) -> int:
        steps = zip(self._split(vectors), codes.unbind(-1), strict=True)
        return sum(layer.update(part, part_codes) for (layer, part), part_codes in steps)

    def _split(self, z_e: Tensor) -> list[tuple[VectorQuantizer, Tensor]]:
        return list(zip(self._layers, self.normalize(z_e).chunk(len(self.layers), 1), strict=True))
