"""Which optimizer moves which weight of a VQ-VAE."""

import pytest
from torch.optim import AdamW

from vqlm.training.optimization.muon import Muon
from vqlm.vq.model import VQVAE
from vqlm.vq.optimizers import build_optimizers


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_every_weight_has_one_optimizer(tiny_vqvae_config, name):
    model = VQVAE(tiny_vqvae_config)
    optimizers = build_optimizers(name, model, 1e-3, 0.0, 0.99)
    moved = [id(weight) for one in optimizers for group in one.param_groups for weight in group["params"]]
    assert sorted(moved) == sorted(id(weight) for weight in model.parameters())
    assert [type(one) for one in optimizers] == ([Muon, AdamW] if name == "muon" else [AdamW])
    if name == "muon":
        assert all(weight.ndim == 4 for weight in optimizers[0].param_groups[0]["params"])
