"""The model: saved and loaded bit for bit, codes there and back, what it refuses, its fingerprint."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import write_json
from vqlm.vq import VQVAE, VQConfig, VQVAEConfig, load_image_tokenizer


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.rand(3, 3, 16, 16) * 2 - 1


def assert_same_outputs(model, other, pixel_values) -> None:
    out, wanted = other(pixel_values), model(pixel_values)
    assert list(out) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(out[name], value, atol=0, rtol=0, msg=name)


# Files


@pytest.mark.parametrize("codebook_training", ["ema", "gradient"])
def test_saved_and_loaded_bit_for_bit(tiny_vqvae_config, codebook_training, pixel_values, tmp_path):
    tiny_vqvae_config.quantizer.codebook_training = codebook_training
    model = VQVAE(tiny_vqvae_config).eval()
    model.quantizer.initialize(model.encode_continuous(pixel_values))
    model.quantizer.update(model.encode_continuous(pixel_values), model.encode(pixel_values))
    model.save_pretrained(tmp_path)
    loaded = VQVAE.from_pretrained(tmp_path)
    assert_same_outputs(model, loaded, pixel_values)
    assert loaded.fingerprint() == model.fingerprint()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_a_variant_of_the_weights(tiny_vqvae, tmp_path):
    tiny_vqvae.save_pretrained(tmp_path, variant="fp16")
    assert VQVAE.from_pretrained(tmp_path, variant="fp16").fingerprint() == tiny_vqvae.fingerprint()
    with pytest.raises(UserError, match=r"no weights of the `variant` 'bf16' \(model.bf16.safetensors\), only "
                                        r"model.fp16.safetensors; name another, or leave `variant` out"):  # fmt: skip
        VQVAE.from_pretrained(tmp_path, variant="bf16")
    (tmp_path / "model.fp16.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        VQVAE.from_pretrained(tmp_path, variant="fp16")


def test_auto_classes_know_it(tiny_vqvae, pixel_values, tmp_path):
    tiny_vqvae.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, VQVAE)
    assert_same_outputs(tiny_vqvae, loaded, pixel_values)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, VQVAEConfig)
    assert (config.network, config.quantizer) == (tiny_vqvae.config.network, tiny_vqvae.config.quantizer)


def test_weights_are_safetensors_alone(tiny_vqvae, tmp_path):
    tiny_vqvae.save_pretrained(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "model.safetensors", "preprocessor_config.json"]


def test_the_licence_line_of_the_pictures_is_saved_with_the_weights(tiny_vqvae, tmp_path):
    tiny_vqvae.config.attribution = "pictures by A, CC BY 4.0"
    tiny_vqvae.save_pretrained(tmp_path)
    assert (tmp_path / "NOTICE").read_text() == "pictures by A, CC BY 4.0\n"
    assert VQVAE.from_pretrained(tmp_path).config.attribution == "pictures by A, CC BY 4.0"


# Codes


def test_forward_changes_no_state_in_training(tiny_vqvae, pixel_values):
    fingerprint = tiny_vqvae.train().fingerprint()
    tiny_vqvae(pixel_values)
    tiny_vqvae.encode(pixel_values)
    assert tiny_vqvae.fingerprint() == fingerprint


def test_encode_and_decode_agree_with_forward(tiny_vqvae, pixel_values):
    out = tiny_vqvae(pixel_values)
    assert len(out.codes.unique()) > 1
    assert torch.equal(tiny_vqvae.encode(pixel_values), out.codes)
    torch.testing.assert_close(tiny_vqvae.decode_codes(out.codes), out.reconstruction.clamp(-1, 1), atol=1e-5, rtol=0)


def test_decoded_pixels_are_clamped(tiny_vqvae):
    tiny_vqvae.decoder[0].weight.data *= 1000
    decoded = tiny_vqvae.decode_codes(torch.arange(16).view(1, 4, 4))
    assert (decoded.min(), decoded.max()) == (-1, 1)


def test_z_e_is_the_encoder_s_output(tiny_vqvae, pixel_values):
    assert torch.equal(tiny_vqvae.encode_continuous(pixel_values), tiny_vqvae.encoder(pixel_values))


def test_other_sizes_than_trained_on(tiny_vqvae):
    codes = tiny_vqvae.encode(torch.zeros(2, 3, 12, 20))
    assert codes.shape == (2, 3, 5)
    assert tiny_vqvae.decode_codes(codes).shape == (2, 3, 12, 20)


def test_codes_are_flattened_row_by_row_and_back(tiny_vqvae):
    codes = torch.arange(32).view(2, 4, 4) % 16
    flat = tiny_vqvae.flatten_codes(codes)
    assert flat[0].tolist() == list(range(16))
    assert torch.equal(tiny_vqvae.unflatten_codes(flat), codes)


def test_a_constant_picture_comes_back_finite(tiny_vqvae):
    for value in (-1.0, 0.0, 1.0):
        codes = tiny_vqvae.encode(torch.full((1, 3, 16, 16), value))
        assert tiny_vqvae.decode_codes(codes).isfinite().all()


# Sizes that do not fit


@pytest.fixture
def build_misfit(tiny_vqvae_config):
    """build_misfit("pad", 10, 13): a model for pictures of 10x13, whose sides 4 does not divide."""

    def build(size_mismatch: str, *input_shape: int) -> VQVAE:
        network = replace(tiny_vqvae_config.network, input_shape=list(input_shape), size_mismatch=size_mismatch)
        model = VQVAE(VQVAEConfig(network=network, quantizer=tiny_vqvae_config.quantizer)).eval()
        model.quantizer.initialize(model.encode_continuous(torch.rand(8, 3, *input_shape) * 2 - 1))
        return model

    return build


def test_padded_pictures_come_back_at_their_own_size(build_misfit):
    model, pixel_values = build_misfit("pad", 10, 13), torch.rand(2, 3, 10, 13) * 2 - 1
    padded = torch.cat([pixel_values, pixel_values[:, :, -1:].expand(-1, -1, 2, -1)], 2)
    padded = torch.cat([padded, padded[..., -1:].expand(-1, -1, -1, 3)], 3)  # (2, 3, 12, 16)
    codes, out = model.encode(pixel_values), model(pixel_values)
    assert codes.shape == (2, 3, 4)
    assert torch.equal(codes, model.encode(padded))
    torch.testing.assert_close(out.reconstruction, model(padded).reconstruction[..., :10, :13])
    torch.testing.assert_close(model.decode_codes(codes), out.reconstruction.clamp(-1, 1), atol=1e-5, rtol=0)


def test_cropped_pictures_come_back_as_their_middle(build_misfit):
    model, pixel_values = build_misfit("crop", 10, 13), torch.rand(2, 3, 10, 13) * 2 - 1
    middle = pixel_values[:, :, 1:9, 0:12]
    codes, out = model.encode(pixel_values), model(pixel_values)
    assert codes.shape == (2, 2, 3)
    assert torch.equal(model.fit_size(pixel_values), middle)
    assert torch.equal(codes, model.encode(middle))
    assert out.reconstruction.shape == middle.shape
    torch.testing.assert_close(model.decode_codes(codes), out.reconstruction.clamp(-1, 1), atol=1e-5, rtol=0)


def test_other_sizes_than_trained_on_may_misfit_too(build_misfit):
    pixel_values = torch.rand(1, 3, 9, 22) * 2 - 1
    padding, cropping = build_misfit("pad", 10, 13), build_misfit("crop", 10, 13)
    assert padding.encode(pixel_values).shape == (1, 3, 6)
    assert padding(pixel_values).reconstruction.shape == (1, 3, 9, 22)
    assert padding.decode_codes(padding.encode(pixel_values)).shape == (1, 3, 12, 24)  # codes know no other size
    assert cropping.encode(pixel_values).shape == (1, 2, 5)
    assert cropping(pixel_values).reconstruction.shape == (1, 3, 8, 20)


def test_a_side_smaller_than_the_factor_is_padded_or_refused(build_misfit):
    small = torch.rand(2, 3, 1, 3) * 2 - 1
    padding = build_misfit("pad", 1, 3)
    assert padding.encode(small).shape == (2, 1, 1)
    assert padding(small).reconstruction.shape == (2, 3, 1, 3)
    assert padding.decode_codes(padding.encode(small)).shape == (2, 3, 1, 3)
    with pytest.raises(UserError, match=r"at least 4 pixels, found \(1, 3\); .* trained on \(10, 13\)"):
        build_misfit("crop", 10, 13).encode(small)


def test_a_misfit_survives_a_file(build_misfit, tmp_path):
    model, pixel_values = build_misfit("pad", 10, 13), torch.rand(2, 3, 10, 13) * 2 - 1
    model.save_pretrained(tmp_path)
    assert_same_outputs(model, VQVAE.from_pretrained(tmp_path), pixel_values)


# Errors


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 16), r"\(batch, 3 channels, 2 spatial dimensions\), found shape \(2, 3, 16\)"),
        ((2, 3, 16, 16, 16), r"2 spatial dimensions\), found shape \(2, 3, 16, 16, 16\)"),
        ((2, 1, 16, 16), r"3 channels.*found shape \(2, 1, 16, 16\)"),
        ((2, 3, 16, 18), r"multiple of 4, found \(16, 18\); the nearest valid size is \(16, 16\)"),
        ((2, 3, 9, 15), r"found \(9, 15\); the nearest valid size is \(8, 16\), .* trained on \(16, 16\)"),
        ((2, 3, 3, 16), r"found \(3, 16\); the nearest valid size is \(4, 16\)"),
        ((2, 3, 0, 16), r"multiple of 4, found \(0, 16\)"),
    ],
)
def test_wrong_pictures_are_refused(tiny_vqvae, shape, message):
    for take in (tiny_vqvae, tiny_vqvae.encode):
        with pytest.raises(UserError, match=message):
            take(torch.zeros(shape))


@pytest.mark.parametrize(("code", "message"), [(16, r"\[0, 16\), found 0 to 16"), (-1, r"\[0, 16\), found -1 to 0")])
def test_codes_outside_the_codebook_are_refused(tiny_vqvae, code, message):
    codes = torch.zeros(1, 4, 4, dtype=torch.int64)
    codes[0, 2, 3] = code
    with pytest.raises(UserError, match=message):
        tiny_vqvae.decode_codes(codes)


def test_flat_codes_are_refused(tiny_vqvae):
    with pytest.raises(UserError, match=r"codes must be \(batch, 4, 4\), found shape \(1, 16\)"):
        tiny_vqvae.decode_codes(torch.zeros(1, 16, dtype=torch.int64))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_picture_that_is_not_finite_is_named(tiny_vqvae, pixel_values, value):
    pixel_values[1, 2, 3, 4] = value
    with pytest.raises(UserError, match="picture 1 of 3 holds NaN or infinity. Repair or remove it"):
        tiny_vqvae.encode(pixel_values)


def test_more_codes_than_vectors_are_refused_for_kmeans(tiny_vqvae_config, pixel_values):
    tiny_vqvae_config.quantizer = VQConfig(codebook_size=49, codebook_dim=4, initialization="kmeans")
    model = VQVAE(tiny_vqvae_config)
    with pytest.raises(
        UserError, match="each of the 49 codes, .* give 48; lower `quantizer.codebook_size`, or .*sample"
    ):
        model.quantizer.initialize(model.encode_continuous(pixel_values))


# The record of the training

RECORD = {"steps": 8, "seconds": 1.5, "held_out_psnr_db": 20.0, "skipped_steps": 0}


def test_the_record_is_that_of_the_config(tiny_vqvae, tmp_path):
    tiny_vqvae.config.training_record = RECORD
    tiny_vqvae.save_pretrained(tmp_path)
    write_json(tmp_path / "run" / "summary.json", {"steps": 4})  # of another training in this folder
    assert load_image_tokenizer(tmp_path).config.training_record == RECORD


def test_a_folder_before_version_0_2_0_has_its_record_with_the_run(tiny_vqvae, tmp_path):
    tiny_vqvae.save_pretrained(tmp_path)
    assert load_image_tokenizer(tmp_path).config.training_record is None
    write_json(tmp_path / "run" / "summary.json", RECORD)
    assert load_image_tokenizer(tmp_path).config.training_record == RECORD


# Fingerprint


def test_fingerprint_is_16_hex_digits_of_weights_and_settings(tiny_vqvae):
    fingerprint = tiny_vqvae.fingerprint()
    assert len(fingerprint) == 16
    assert set(fingerprint) <= set("0123456789abcdef")
    copy = VQVAE(tiny_vqvae.config)
    copy.load_state_dict(tiny_vqvae.state_dict())
    assert copy.fingerprint() == fingerprint


@pytest.mark.parametrize("name", ["encoder.0.weight", "decoder.0.bias", "quantizer.codebook"])
def test_one_changed_number_changes_the_fingerprint(tiny_vqvae, name):
    before = tiny_vqvae.fingerprint()
    tiny_vqvae.state_dict()[name].view(-1)[0] += 1e-3
    assert tiny_vqvae.fingerprint() != before


def test_a_changed_setting_changes_the_fingerprint(tiny_vqvae):
    before = tiny_vqvae.fingerprint()
    tiny_vqvae.config.quantizer = VQConfig(codebook_size=16, codebook_dim=4, normalize_z_e=False)
    assert tiny_vqvae.fingerprint() != before


def test_what_is_no_tensor_and_codes_that_are_no_whole_numbers(tiny_vqvae, unchecked_types):
    with pytest.raises(UserError, match="pixel_values must be a tensor, found ndarray; use torch.from_numpy"):
        tiny_vqvae.encode(np.zeros((1, 3, 16, 16), np.float32))
    for kind in (torch.float32, torch.bool):
        with pytest.raises(UserError, match=f"codes must be whole numbers, found {kind}"):
            tiny_vqvae.decode_codes(torch.zeros(1, *tiny_vqvae.config.code_shape, dtype=kind))
