"""All quantizers by name. To add one, write its settings and its class, and name them here and in `CONFIGS`."""

from vqlm.vq.quantizers.base import Quantizer
from vqlm.vq.quantizers.finite_scalar import FiniteScalarQuantizer
from vqlm.vq.quantizers.hierarchical import HierarchicalQuantizer
from vqlm.vq.quantizers.lookup_free import LookupFreeQuantizer
from vqlm.vq.quantizers.settings import HierarchicalConfig, QuantizerConfig
from vqlm.vq.quantizers.several import GroupedQuantizer, ResidualQuantizer
from vqlm.vq.quantizers.vector import VectorQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {
    "vq": VectorQuantizer,
    "fsq": FiniteScalarQuantizer,
    "lfq": LookupFreeQuantizer,
    "residual": ResidualQuantizer,
    "grouped": GroupedQuantizer,
    "hierarchical": HierarchicalQuantizer,
}


def build_quantizer(config: QuantizerConfig, positions: tuple[int, ...]) -> Quantizer:
    """The quantizer that `config` describes, for an encoder that gives `positions`, (h, w)."""
    if isinstance(config, HierarchicalConfig):
        return HierarchicalQuantizer(config, positions)
    return QUANTIZERS[config.type](config)  # type: ignore[call-arg]
