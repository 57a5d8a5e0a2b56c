"""Encoders and decoders: sizes in every number of dimensions, the patch shuffle, the paper's own layers."""

from pathlib import Path

import pytest
import torch
import yaml
from einops import rearrange
from torch import nn

from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig
from vqlm.vq.layers import UNFOLD, PaperResidualBlock, PatchShuffle
from vqlm.vq.networks import paper_decoder, paper_encoder
from vqlm.vq.settings import VQTrainingConfig

PRESET = Path(__file__).parents[2] / "configs" / "paper" / "vq.yaml"


@pytest.fixture(scope="module")
def preset() -> dict:
    return yaml.safe_load(PRESET.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("kind", "strides", "input_shape", "code_shape"),
    [
        ("patch", [3, 2], [30], (5,)),
        ("patch", [3, 2], [18, 30], (3, 5)),
        ("patch", [3], [9, 3, 15], (3, 1, 5)),
        ("patch", [1, 2], [6, 10], (3, 5)),
        ("paper", [2, 2], [20], (5,)),
        ("paper", [2, 2], [12, 20], (3, 5)),
        ("paper", [2, 2, 2], [24, 40], (3, 5)),
        ("paper", [2], [6, 2, 10], (3, 1, 5)),
    ],
)
def test_sizes_in_any_number_of_dimensions(kind, strides, input_shape, code_shape):
    network = NetworkConfig(
        type=kind, input_shape=input_shape, strides=strides, in_channels=2, stem_channels=4, hidden_channels=6
    )
    model = VQVAE(VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=8, codebook_dim=5)))
    pixel_values = torch.randn(7, 2, *input_shape)
    out = model(pixel_values)
    assert model.config.code_shape == code_shape
    assert out.z_e.shape == (7, 5, *code_shape)
    assert out.codes.shape == (7, *code_shape)
    assert out.reconstruction.shape == pixel_values.shape
    assert model.encode(pixel_values).shape == (7, *code_shape)
    assert model.decode_codes(out.codes).shape == pixel_values.shape


# Patch shuffle


def test_patch_shuffle_of_a_series_by_hand():
    hidden = torch.tensor([[[0.0, 1.0], [10.0, 11.0]]])  # two positions, each a patch of two
    assert PatchShuffle(2, 1)(hidden).tolist() == [[[0.0, 10.0, 1.0, 11.0]]]


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_patch_shuffle_of_a_picture_is_the_pattern(factor):
    hidden = torch.randn(2, 5 * factor**2, 3, 4)
    by_pattern = rearrange(hidden, UNFOLD[2], p=factor, q=factor)
    assert by_pattern.shape == (2, 5, 3 * factor, 4 * factor)
    assert torch.equal(PatchShuffle(factor, 2)(hidden), by_pattern)


def test_patch_shuffle_of_a_volume_puts_each_channel_in_its_corner():
    hidden = torch.arange(8.0).view(1, 8, 1, 1, 1)
    assert torch.equal(PatchShuffle(2, 3)(hidden), torch.arange(8.0).view(1, 1, 2, 2, 2))


# The paper's network


def layer_sizes(network: nn.Module) -> list[tuple]:
    """(in, out, kernel, stride) of every convolution, transposed ones marked "up"."""
    sizes = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            up = ("up",) if isinstance(layer, nn.ConvTranspose2d) else ()
            sizes.append((*up, layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0]))
    return sizes


def test_paper_encoder_has_the_published_layers(preset):
    assert layer_sizes(paper_encoder(NetworkConfig(**preset["network"]), 64)) == [
        (3, 64, 4, 2),
        (64, 128, 4, 2),
        (128, 128, 3, 1),
        (128, 32, 3, 1),
        (32, 128, 1, 1),
        (128, 32, 3, 1),
        (32, 128, 1, 1),
        (128, 64, 1, 1),
    ]


def test_paper_decoder_has_the_published_layers(preset):
    assert layer_sizes(paper_decoder(NetworkConfig(**preset["network"]), 64)) == [
        (64, 128, 3, 1),
        (128, 32, 3, 1),
        (32, 128, 1, 1),
        (128, 32, 3, 1),
        (32, 128, 1, 1),
        ("up", 128, 64, 4, 2),
        ("up", 64, 3, 4, 2),
    ]


def test_paper_block_by_hand():
    block = PaperResidualBlock(1, 1, 1)
    for conv in (block.conv_in, block.conv_out):
        nn.init.ones_(conv.weight)
        nn.init.zeros_(conv.bias)
    hidden = torch.tensor([[[1.0, -2.0, 3.0]]])
    assert block(hidden).tolist() == [[[2.0, 2.0, 6.0]]]  # x + sums of three neighbours of max(x, 0)


def test_paper_preset_holds_the_published_settings(preset):
    training = VQTrainingConfig(
        **{name: value for name, value in preset.items() if name not in ("network", "quantizer")}
    )
    quantizer = VQConfig(**preset["quantizer"])
    assert (quantizer.codebook_size, quantizer.codebook_dim, quantizer.codebook_training) == (512, 64, "ema")
    assert (quantizer.commitment_weight, quantizer.ema_decay) == (0.25, 0.99)
    assert (quantizer.initialization, quantizer.dead_code_threshold, quantizer.normalize_z_e) == ("random", 0.0, False)
    assert (training.learning_rate, training.batch_size) == (3e-4, 32)


def test_paper_preset_makes_8x8_codes_of_a_cifar_picture(preset):
    model = VQVAE(VQVAEConfig(network=preset["network"], quantizer=preset["quantizer"])).eval()
    out = model(torch.rand(1, 3, 32, 32) * 2 - 1)
    assert out.codes.shape == (1, 8, 8)
    assert out.reconstruction.shape == (1, 3, 32, 32)
