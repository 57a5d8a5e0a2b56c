"""Reconstruction losses: by hand, with the user's networks, against a discriminator."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import ResNetBackbone, ResNetConfig

from vqlm.training.errors import UserError
from vqlm.vq import VQVAE, NetworkConfig, VQVAEConfig
from vqlm.vq.losses import (
    Adversary,
    FeatureDistance,
    PatchDiscriminator,
    adaptive_weight,
    last_weight,
    load_perceptual_network,
    reconstruction_loss,
)
from vqlm.vq.settings import LossConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"perceptual_weight": -1.0}, "`loss.perceptual_weight` must be at least 0, found -1.0"),
        ({"adversarial_start": -5}, "`loss.adversarial_start` must be at least 0, found -5"),
        ({"discriminator_layers": 0}, "`loss.discriminator_layers` must be at least 1, found 0"),
        ({"perceptual_weight": 1.0}, "needs `loss.perceptual_network`: lpips, or the name or folder"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        LossConfig(**settings)


def test_an_unknown_loss_is_refused(unchecked_types):
    with pytest.raises(UserError, match="`loss.reconstruction` must be l2 or l1, found 'l3'"):
        LossConfig(reconstruction="l3")  # type: ignore[arg-type]


def test_l2_and_l1_by_hand():
    reconstruction, pixel_values = torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, -1.0]])
    assert reconstruction_loss("l2", reconstruction, pixel_values, 0.25).item() == pytest.approx((0.25 + 1) / 2 / 0.25)
    assert reconstruction_loss("l1", reconstruction, pixel_values, 0.25).item() == pytest.approx((0.5 + 1) / 2 / 0.5)


# Perceptual


class TwoMaps(nn.Module):
    """Two feature maps: the picture itself, and its first channel alone."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, pictures):
        return SimpleNamespace(feature_maps=(pictures * self.scale, pictures[:, :1]))


def test_feature_distance_by_hand():
    distance = FeatureDistance(TwoMaps())
    distance.mean.zero_()
    distance.std.fill_(1.0)
    # As the backbone sees them, in [0, 1]: (1, 0, 0) and (0, 1, 0) at every position; scaled to length 1 both stay.
    reconstruction, pixel_values = (
        torch.tensor(c).view(1, 3, 1, 1).expand(1, 3, 2, 2) for c in ([1.0, -1, -1], [-1.0, 1, -1])
    )
    # First map |(1, -1, 0)|^2 = 2; second |1 - 0|^2 = 1.
    assert distance(reconstruction, pixel_values).tolist() == pytest.approx([3.0])
    assert distance(reconstruction, reconstruction).tolist() == [0.0]


def test_features_see_pictures_as_imagenet_had_them():
    seen = []

    class Noting(TwoMaps):
        def forward(self, pictures):
            seen.append(pictures)
            return super().forward(pictures)

    FeatureDistance(Noting())(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2))
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx(
        [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]
    )


@pytest.fixture
def resnet_folder(tmp_path):
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    ResNetBackbone(config).save_pretrained(tmp_path / "resnet")
    return str(tmp_path / "resnet")


def test_any_backbone_is_loaded_with_all_its_stages(resnet_folder):
    network = load_perceptual_network(resnet_folder, NetworkConfig())
    reconstruction = torch.rand(2, 3, 32, 32, requires_grad=True)
    distance = network(reconstruction, torch.rand(2, 3, 32, 32))
    assert distance.shape == (2,)
    distance.sum().backward()
    assert reconstruction.grad is not None
    assert reconstruction.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in network.parameters())
    assert len(network._features(reconstruction)) == 2


@pytest.mark.parametrize("name", ["no/such/folder", "lpips"])
def test_a_network_that_is_not_there_is_refused(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=f"`loss.perceptual_network` '{name}' cannot be loaded .*; give lpips"):
        load_perceptual_network(name, NetworkConfig())


@pytest.mark.parametrize("network", [NetworkConfig(input_shape=[64]), NetworkConfig(in_channels=1)])
def test_what_is_no_rgb_picture_has_no_perceptual_loss(network):
    with pytest.raises(UserError, match="sees RGB pictures only"):
        load_perceptual_network("lpips", network)


def test_lpips_is_taken_from_its_package(monkeypatch):
    asked = []

    class LPIPS(nn.Module):
        def __init__(self, **settings):
            super().__init__()
            asked.append(settings)

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=LPIPS))
    assert isinstance(load_perceptual_network("lpips", NetworkConfig()), LPIPS)
    assert asked == [{"net": "vgg", "verbose": False}]


# Adversarial


@pytest.mark.parametrize("shape", [(32,), (32, 16), (8, 16, 16)])
def test_the_discriminator_says_something_of_every_patch(shape):
    discriminator = PatchDiscriminator(
        LossConfig(discriminator_channels=4), NetworkConfig(input_shape=[64] * len(shape))
    )
    assert discriminator(torch.rand(2, 3, *shape)).shape == (2, 1, *(n // 4 for n in shape))


def test_adaptive_weight_by_hand():
    weight = torch.tensor([2.0, 0.0], requires_grad=True)
    others, adversarial = 6 * weight.sum(), 3 * weight[0]  # gradients (6, 6) and (3, 0)
    assert adaptive_weight(others, adversarial, weight, 1e4).item() == pytest.approx(72**0.5 / 3, rel=1e-3)
    assert adaptive_weight(others, adversarial, weight, 2.0).item() == 2.0


@pytest.mark.parametrize("kind", ["patch", "paper"])
def test_last_weight_is_that_of_the_pixels(kind):
    network = NetworkConfig(type=kind, input_shape=[16, 16], strides=[2, 2])
    decoder = VQVAE(VQVAEConfig(network=network)).decoder
    weight = last_weight(decoder)
    reconstruction = decoder(torch.rand(1, 16, 4, 4)).sum()
    bias = [module for module in decoder.modules() if getattr(module, "weight", None) is weight][0].bias
    (gradient,) = torch.autograd.grad(reconstruction, bias)
    assert torch.equal(gradient, torch.full_like(gradient, 16 * 16 * 3 / bias.numel()))  # a pixel each, once


@pytest.fixture
def adversary():
    return Adversary(LossConfig(adversarial_weight=0.5), NetworkConfig(input_shape=[16, 16], strides=[2, 2]), 1e-3)


def test_the_generator_s_loss_teaches_the_discriminator_nothing(adversary):
    decoder = nn.Conv2d(3, 3, 1)
    reconstruction = decoder(torch.rand(2, 3, 16, 16))
    adversary.generator_loss(reconstruction.square().mean(), reconstruction, decoder).backward()
    assert all(weight.grad is None and weight.requires_grad for weight in adversary.discriminator.parameters())
    assert decoder.weight.grad is not None


def test_the_generator_s_gradient_is_as_long_as_the_others_times_its_weight(adversary):
    decoder = nn.Conv2d(3, 3, 1)
    reconstruction = decoder(torch.rand(2, 3, 16, 16))
    others = reconstruction.square().mean()
    (others_gradient,) = torch.autograd.grad(others, decoder.weight, retain_graph=True)
    adversary.generator_loss(others, reconstruction, decoder).backward()
    assert decoder.weight.grad.norm().item() == pytest.approx(0.5 * others_gradient.norm().item(), rel=0.05)


def test_hinge_loss_by_hand(adversary):
    adversary.discriminator = nn.Identity()  # a picture is its own verdict
    reconstruction = torch.tensor([0.5, -3.0], requires_grad=True)
    loss = adversary.discriminator_loss(reconstruction, torch.tensor([2.0, 0.0]))
    assert loss.item() == pytest.approx(((0 + 1) / 2 + (1.5 + 0) / 2) / 2)
    assert not loss.requires_grad
