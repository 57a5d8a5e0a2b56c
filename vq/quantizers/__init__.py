"""Quantizers: vectors <-> codes; they know no pictures. To add one, write its config and class and name them here."""

from dataclasses import fields

from training.errors import UserError
from vq.quantizers.base import Quantizer, QuantizerOutput
from vq.quantizers.estimators import rotation, straight_through
from vq.quantizers.finite_scalar import FiniteScalarQuantizer, FSQConfig
from vq.quantizers.hierarchical import HierarchicalConfig, HierarchicalQuantizer
from vq.quantizers.lookup_free import LFQConfig, LookupFreeQuantizer
from vq.quantizers.several import GroupedConfig, GroupedQuantizer, ResidualConfig, ResidualQuantizer
from vq.quantizers.vector import VectorQuantizer, VQConfig

QuantizerConfig = VQConfig | FSQConfig | LFQConfig | ResidualConfig | GroupedConfig | HierarchicalConfig

QUANTIZERS: dict[str, tuple[type[QuantizerConfig], type[Quantizer]]] = {
    "vq": (VQConfig, VectorQuantizer),
    "fsq": (FSQConfig, FiniteScalarQuantizer),
    "lfq": (LFQConfig, LookupFreeQuantizer),
    "residual": (ResidualConfig, ResidualQuantizer),
    "grouped": (GroupedConfig, GroupedQuantizer),
    "hierarchical": (HierarchicalConfig, HierarchicalQuantizer),
}


def quantizer_config_type(type_name: str) -> type[QuantizerConfig]:
    """The settings that belong to `quantizer.type`. Raises UserError for a type that does not exist."""
    if type_name not in QUANTIZERS:
        raise UserError(f"quantizer.type must be one of {', '.join(QUANTIZERS)}, found {type_name!r}.")
    return QUANTIZERS[type_name][0]


def quantizer_config(settings: dict) -> QuantizerConfig:
    """Settings by name, `type` among them ("vq" when not given). Raises UserError for one of another type."""
    type_name = settings.get("type", "vq")
    kind = quantizer_config_type(type_name)
    known = [field.name for field in fields(kind)]
    if unknown := sorted(set(settings) - set(known)):
        raise UserError(f"quantizer of type {type_name} has no setting {unknown[0]!r}; it knows {', '.join(known)}.")
    return kind(**settings)


def build_quantizer(config: QuantizerConfig, positions: tuple[int, ...]) -> Quantizer:
    """The quantizer that `config` describes, for an encoder that gives `positions`, (h, w)."""
    if isinstance(config, HierarchicalConfig):
        return HierarchicalQuantizer(config, positions)
    return QUANTIZERS[config.type][1](config)  # type: ignore[call-arg]


__all__ = [
    "QUANTIZERS",
    "FSQConfig",
    "FiniteScalarQuantizer",
    "GroupedConfig",
    "GroupedQuantizer",
    "HierarchicalConfig",
    "HierarchicalQuantizer",
    "LFQConfig",
    "LookupFreeQuantizer",
    "Quantizer",
    "QuantizerConfig",
    "QuantizerOutput",
    "ResidualConfig",
    "ResidualQuantizer",
    "VQConfig",
    "VectorQuantizer",
    "build_quantizer",
    "quantizer_config",
    "quantizer_config_type",
    "rotation",
    "straight_through",
]
