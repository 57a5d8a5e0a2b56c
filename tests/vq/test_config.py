"""What a VQ-VAE's settings refuse, what follows from them, and that they survive a file."""

import pytest

from training.errors import UserError
from vq import NetworkConfig, VQConfig, VQVAEConfig


def test_shapes_follow_from_the_settings():
    config = VQVAEConfig(
        network=NetworkConfig(input_shape=[24, 36], strides=[3, 2]), quantizer=VQConfig(codebook_size=7)
    )
    assert config.downsample_factor == 6
    assert config.code_shape == (4, 6)
    assert config.tokens_per_image == 24
    assert config.codebook_size == 7
    assert config.network.spatial_dims == 2


def test_settings_survive_a_file(tmp_path):
    config = VQVAEConfig(
        network={"input_shape": [12], "strides": [2, 3]}, quantizer={"ema_decay": 0.5}, attribution="by A, CC BY 4.0"
    )
    config.save_pretrained(tmp_path)
    loaded = VQVAEConfig.from_pretrained(tmp_path)
    assert loaded.network == NetworkConfig(input_shape=[12], strides=[2, 3])
    assert loaded.quantizer == VQConfig(ema_decay=0.5)
    assert loaded.attribution == "by A, CC BY 4.0"


@pytest.mark.parametrize(("name", "kind"), [("network", NetworkConfig), ("quantizer", VQConfig)])
def test_an_unknown_setting_is_named(name, kind):
    with pytest.raises(UserError, match=f"{name}.* has no setting 'widht'; it knows {next(iter(kind().__dict__))}, "):
        VQVAEConfig(**{name: {"widht": 3}})


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"type": "unet"}, "network.type must be patch or paper, found 'unet'"),
        ({"input_shape": []}, r"must have 1, 2 or 3 numbers, found \[\]"),
        ({"input_shape": [8, 8, 8, 8]}, r"must have 1, 2 or 3 numbers, found \[8, 8, 8, 8\]"),
        ({"strides": []}, r"at least one positive number, found \[\]"),
        ({"strides": [2, 0]}, r"at least one positive number, found \[2, 0\]"),
        ({"type": "paper", "strides": [4, 2]}, r"set network.strides to 2s, found \[4, 2\]"),
        ({"in_channels": 0}, "network.in_channels must be at least 1, found 0"),
        ({"hidden_channels": 0}, "network.hidden_channels must be at least 1, found 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        NetworkConfig(**settings)


@pytest.mark.parametrize(
    ("shape", "nearest"), [([30, 33], [32, 32]), ([64, 61], [64, 64]), ([3, 64], [8, 64]), ([13], [16])]
)
def test_a_shape_that_does_not_divide_is_answered_with_one_that_does(shape, nearest):
    with pytest.raises(UserError) as caught:
        NetworkConfig(input_shape=shape, strides=[4, 2])
    assert "downsample factor 8 (the product of network.strides)" in str(caught.value)
    assert str(caught.value).endswith(f"the nearest valid shape is {nearest}.")
    assert NetworkConfig(input_shape=nearest, strides=[4, 2]).input_shape == nearest
