"""What a VQ-VAE's settings refuse, what follows from them, and that they survive a file."""

import pytest

from vqlm.training.errors import UserError
from vqlm.vq import NetworkConfig, VQConfig, VQVAEConfig
from vqlm.vq.settings import fits


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
        ({"type": "unet"}, "`network.type` must be patch or paper, found 'unet'"),
        ({"input_shape": []}, r"must have 1, 2 or 3 numbers, found \[\]"),
        ({"input_shape": [8, 8, 8, 8]}, r"must have 1, 2 or 3 numbers, found \[8, 8, 8, 8\]"),
        ({"strides": []}, r"at least one positive number, found \[\]"),
        ({"strides": [2, 0]}, r"at least one positive number, found \[2, 0\]"),
        ({"type": "paper", "strides": [4, 2]}, r"set `network.strides` to 2s, found \[4, 2\]"),
        ({"in_channels": 0}, "`network.in_channels` must be at least 1, found 0"),
        ({"hidden_channels": 0}, "`network.hidden_channels` must be at least 1, found 0"),
        ({"residual_channels": 0}, "`network.residual_channels` must be at least 1, found 0"),
        ({"num_residual_layers": -1}, "`network.num_residual_layers` must be at least 0, found -1"),
        ({"size_mismatch": "stretch"}, "`network.size_mismatch` must be refuse, pad or crop, found 'stretch'"),
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
    assert "downsample factor 8 (the product of `network.strides`)" in str(caught.value)
    assert f"the nearest valid shape is {nearest}" in str(caught.value)
    assert NetworkConfig(input_shape=nearest, strides=[4, 2]).input_shape == nearest


# Sizes that do not fit


@pytest.mark.parametrize(
    ("size_mismatch", "shape", "code_shape"),
    [
        ("pad", [10, 13], (3, 4)),
        ("crop", [10, 13], (2, 3)),
        ("pad", [8, 12], (2, 3)),
        ("crop", [8, 12], (2, 3)),
        ("refuse", [8, 12], (2, 3)),
        ("pad", [3], (1,)),
        ("pad", [1, 4, 9], (1, 1, 3)),
        ("crop", [7, 4, 9], (1, 1, 2)),
    ],
)
def test_codes_of_a_size_that_does_not_fit(size_mismatch, shape, code_shape):
    network = NetworkConfig(input_shape=shape, strides=[2, 2], size_mismatch=size_mismatch)
    assert network.code_shape == code_shape
    assert VQVAEConfig(network=network).code_shape == code_shape


def test_a_size_that_does_not_fit_is_answered_with_what_would_take_it():
    with pytest.raises(
        UserError, match=r"\[10, 13\] must be divisible .* 10 is not; .*\[8, 12\], or set `network.size_mismatch`"
    ):
        NetworkConfig(input_shape=[10, 13], strides=[2, 2])


@pytest.mark.parametrize("size_mismatch", ["refuse", "crop"])
def test_a_side_smaller_than_the_factor_is_padded_or_refused(size_mismatch):
    assert NetworkConfig(input_shape=[16, 3], strides=[2, 2], size_mismatch="pad").code_shape == (4, 1)
    with pytest.raises(UserError, match=r"3 is not; the nearest valid shape is \[16, 4\]"):
        NetworkConfig(input_shape=[16, 3], strides=[2, 2], size_mismatch=size_mismatch)


def test_no_side_may_be_empty():
    with pytest.raises(UserError, match="0 is not"):
        NetworkConfig(input_shape=[16, 0], strides=[2, 2], size_mismatch="pad")


@pytest.mark.parametrize(
    ("size", "factor", "size_mismatch", "wanted"),
    [
        (8, 4, "refuse", True), (9, 4, "refuse", False), (3, 4, "refuse", False), (0, 4, "refuse", False),
        (8, 4, "crop", True), (9, 4, "crop", True), (3, 4, "crop", False), (0, 4, "crop", False),
        (8, 4, "pad", True), (9, 4, "pad", True), (3, 4, "pad", True), (0, 4, "pad", False),
    ],
)  # fmt: skip
def test_which_sides_fit(size, factor, size_mismatch, wanted):
    assert fits(size, factor, size_mismatch) is wanted


def test_old_names_in_a_saved_config_are_read():
    config = VQVAEConfig(network={"input_shape": [10, 12], "strides": [2, 2], "misfit": "pad"})
    assert config.network.size_mismatch == "pad"
    assert config.to_dict()["network"]["size_mismatch"] == "pad"
