"""Stage one learns what is no picture: days of real power demand, and clips of squares that cross the frame."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vqlm.data_prep import load_collection, load_pictures
from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig, to_pixel_values
from vqlm.vq.metrics import psnr
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import evaluate_reconstruction, train_vq

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def psnr_of_the_mean(train: Tensor, held_out: Tensor) -> float:
    """What one reconstruction for all would give."""
    mean = to_pixel_values(train).mean(0, keepdim=True)
    return psnr(mean.expand(len(held_out), *mean.shape[1:]), to_pixel_values(held_out)).mean().item()


@pytest.mark.slow
def test_days_of_power_demand_come_back(tmp_path, capsys):
    load_example("series").main(str(tmp_path / "power.npz"))
    assert "values (1096, 1, 24)" in capsys.readouterr().out
    collection = load_collection(str(tmp_path / "power.npz"))
    captions = [row.captions[0] for row in collection.rows()]
    assert {captions.count(f"power demand of a {season} day") for season in ("winter", "summer")} == {547, 549}
    pictures = load_pictures(collection, [24])
    train, held_out = pictures.train, pictures.held_out
    assert (train.min(), train.max()) == (-1, 1)

    network = NetworkConfig(input_shape=[24], in_channels=1, strides=[2, 2], stem_channels=16, hidden_channels=32)
    config = VQTrainingConfig(max_steps=300, mixed_precision="no", learning_rate=1e-2)
    model_config = VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=32, codebook_dim=8))
    model = train_vq(train, held_out, tmp_path / "vq", model_config, config)
    assert model.config.code_shape == (6,)
    figures = evaluate_reconstruction(model, held_out)
    assert figures["held_out_psnr_db"] > psnr_of_the_mean(train, held_out) + 3
    assert figures["held_out_usage"] > 0.5


@pytest.mark.slow
def test_an_appliance_is_cut_scaled_and_lengthened():
    example = load_example("appliances")
    curve = example.curve(np.array([0.0, 2.0, -1.0, 1.0]))
    assert curve.shape == (192,)
    assert curve[:5].tolist() == [-1, 1, -1, 0, 0]
    assert curve[-1] == 0
    assert example.curve(np.arange(500.0))[-1] == 1
    assert example.curve(np.zeros(500)).tolist() == [-1] * 192


@pytest.fixture
def clips() -> Tensor:
    """(96, 3, 8, 32, 32) uint8: squares of 6 colours and 4 sizes, each in 4 directions."""
    example, drawn = load_example("clips"), []
    for colour in ("red", "green", "blue", "black", "orange", "purple"):
        for side in (8, 12, 16, 20):
            picture = Image.new("RGB", (example.PICTURE, example.PICTURE), "white")
            margin = (example.PICTURE - side) // 2
            picture.paste(colour, (margin, margin, margin + side, margin + side))
            drawn += [example.clip(picture, way) for way in example.WAYS.values()]
    return torch.from_numpy(np.stack(drawn))


def test_a_clip_crosses_the_frame(clips):
    right, left, down, up = clips[12:16].float()  # red, 20x20
    assert clips.shape == (96, 3, 8, 32, 32)
    assert right[1, 0, 6:26, 0:20].max() == right[1, -1, 6:26, 12:32].max() == 0
    assert torch.equal(right, left.flip(1))
    assert torch.equal(down, up.flip(1))
    assert torch.equal(right, down.transpose(2, 3))


@pytest.mark.slow
def test_clips_come_back(clips, tmp_path):
    held_out = clips[5::11]
    train = clips[[number for number in range(96) if number % 11 != 5]]
    network = NetworkConfig(
        input_shape=[8, 32, 32], strides=[4, 2], stem_channels=16, hidden_channels=32, num_residual_layers=1
    )
    config = VQTrainingConfig(max_steps=100, batch_size=8, mixed_precision="no", learning_rate=1e-2)
    model_config = VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=64, codebook_dim=8))
    train_vq(train, held_out, tmp_path / "vq", model_config, config)
    model = VQVAE.from_pretrained(tmp_path / "vq")
    codes = model.encode(to_pixel_values(held_out))
    assert codes.shape == (len(held_out), 1, 4, 4)
    assert model.decode_codes(codes).shape == held_out.shape
    held_out_psnr = psnr(model.decode_codes(codes), to_pixel_values(held_out)).mean().item()
    assert held_out_psnr > psnr_of_the_mean(train, held_out) + 1
