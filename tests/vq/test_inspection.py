"""The inspection: its figures by hand, each finding on a tokenizer that has just that, and the page that says them."""

import math
import re
from dataclasses import fields, replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from vqlm.vq import (
    VQVAE,
    FSQConfig,
    GroupedConfig,
    HierarchicalConfig,
    LFQConfig,
    NetworkConfig,
    ResidualConfig,
    VQConfig,
    VQVAEConfig,
    to_pixel_values,
)
from vqlm.vq.inspection import (
    Inspection,
    findings,
    inspect_tokenizer,
    pictures_with,
    position_entropy,
    ssim,
    unused_since,
    usage_findings,
)
from vqlm.vq.inspection_page import commonest_neighborhood, write_page
from vqlm.vq.metrics import psnr, reachable_usage

pytestmark = pytest.mark.slow

VQ = VQConfig(codebook_size=16, codebook_dim=4)


@pytest.fixture
def pictures() -> Tensor:
    """(80, 3, 16, 16) uint8: a batch and a part of one, of blocks and noise."""
    blocks = torch.rand(80, 3, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (200 * blocks + 55 * torch.rand(80, 3, 16, 16)).to(torch.uint8)


def build(quantizer, pictures: Tensor, **network) -> VQVAE:
    """An untrained tokenizer of `pictures`, whose codebook starts from its outputs."""
    sizes = {"strides": [2, 2], "stem_channels": 8, "hidden_channels": 16, "num_residual_layers": 1}
    shape = {"input_shape": list(pictures.shape[2:]), "in_channels": pictures.shape[1]}
    model = VQVAE(VQVAEConfig(network=NetworkConfig(**shape | sizes | network), quantizer=quantizer)).eval()
    model.quantizer.initialize(model.encode_continuous(to_pixel_values(pictures)))
    return model


def diagnose(model: VQVAE, pictures: Tensor, log: list[dict] | None = None) -> list[str]:
    return findings(inspect_tokenizer(model, pictures), model, log or [])


# Figures


def test_entropy_of_each_position_by_hand():
    # Always 3; one or the other; one of four; three to one.
    codes = torch.tensor([[[3, 0], [0, 5]], [[3, 1], [1, 5]], [[3, 0], [2, 5]], [[3, 1], [3, 2]]])
    three_to_one = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    wanted = torch.tensor([[0.0, math.log(2)], [math.log(4), three_to_one]])
    torch.testing.assert_close(position_entropy(codes, 6), wanted)


def test_the_figures_are_those_of_the_pictures(pictures):
    model = build(VQ, pictures)
    inspection, pixel_values = inspect_tokenizer(model, pictures), to_pixel_values(pictures)
    codes = model.encode(pixel_values)
    assert torch.equal(inspection.counts[0], torch.bincount(codes.flatten(), minlength=16).float())
    assert inspection.usage == len(codes.unique()) / 16
    share = inspection.counts[0] / inspection.counts.sum()
    assert inspection.perplexity == pytest.approx(
        share[share > 0].log().mul(-share[share > 0]).sum().exp().item(), rel=1e-4
    )
    torch.testing.assert_close(inspection.psnr, psnr(model.decode_codes(codes), pixel_values))
    torch.testing.assert_close(inspection.ssim, ssim(model.decode_codes(codes), pixel_values))
    assert [entropy.shape for entropy in inspection.position_entropy] == [(4, 4)]
    by_hand = torch.bincount(codes[:, 1, 2], minlength=16) / 80
    torch.testing.assert_close(inspection.position_entropy[0][1, 2], torch.special.entr(by_hand).sum())
    worst_first = inspection.psnr[inspection.worst_first]
    assert torch.equal(worst_first, inspection.psnr.sort().values)
    assert inspection.z_e.shape == inspection.z_q.shape == (64 * 16, 4)
    nearest = torch.cdist(inspection.z_e, model.quantizer.codebook).argmin(1)
    torch.testing.assert_close(inspection.z_q, model.quantizer.codebook[nearest])


@pytest.mark.parametrize(
    ("quantizer", "shapes"),
    [
        (ResidualConfig(codebook_size=16, codebook_dim=4, num_quantizers=3), [(4, 4)] * 3),
        (GroupedConfig(codebook_size=16, codebook_dim=4), [(4, 4)] * 2),
        (HierarchicalConfig(codebook_size=16, codebook_dim=4, level_channels=8), [(2, 2), (4, 4)]),
        (FSQConfig(levels=[4, 4]), [(4, 4)]),
        (LFQConfig(codebook_size=16), [(4, 4)]),
    ],
    ids=["residual", "grouped", "hierarchical", "fsq", "lfq"],
)
def test_each_codebook_is_counted_by_itself(pictures, quantizer, shapes):
    model = build(quantizer, pictures)
    inspection = inspect_tokenizer(model, pictures)
    parts = model.quantizer.by_codebook(model.encode(to_pixel_values(pictures)))
    assert inspection.counts.tolist() == [torch.bincount(part.flatten(), minlength=16).tolist() for part in parts]
    assert [tuple(entropy.shape) for entropy in inspection.position_entropy] == shapes
    assert (inspection.z_e is None) == (quantizer.type == "hierarchical")


def test_figures_of_what_is_cropped_are_of_the_middle(pictures):
    model = build(VQ, pictures, input_shape=[14, 16], size_mismatch="crop")
    inspection, middle = inspect_tokenizer(model, pictures[:, :, 1:15]), to_pixel_values(pictures[:, :, 2:14])
    torch.testing.assert_close(inspection.psnr, psnr(model.decode_codes(model.encode(middle)), middle))


@pytest.mark.parametrize("shape", [(16, 16), (11, 20), (8, 16, 16)])
def test_ssim_of_equal_pictures_is_1_and_of_others_less(shape):
    pixel_values = torch.rand(3, 2, *shape) * 2 - 1
    torch.testing.assert_close(ssim(pixel_values, pixel_values), torch.ones(3))
    other = pixel_values.clone()
    other[1] = other[1].flip(-1)
    values = ssim(other, pixel_values)
    assert values[1] < 0.5
    torch.testing.assert_close(values[[0, 2]], torch.ones(2))


def test_one_picture_too_is_measured(pictures):
    assert inspect_tokenizer(build(VQ, pictures), pictures[:1]).ssim.shape == (1,)


@pytest.mark.parametrize("shape", [(24,), (4, 16), (4, 8, 16)])
def test_what_is_too_small_for_ssim_has_none(shape):
    series = torch.rand(8, 1, *shape) * 2 - 1
    inspection = inspect_tokenizer(build(VQ, series), series)
    assert inspection.ssim is None
    assert inspection.psnr.shape == (8,)


# Findings


def test_a_healthy_tokenizer_has_none(pictures):
    assert diagnose(build(VQ, pictures), pictures) == []


def test_a_collapse_is_named_with_its_share_and_a_remedy(pictures):
    model = build(VQ, pictures)
    model.quantizer.codebook[4:] = 1000.0
    (finding,) = diagnose(model, pictures)
    assert finding.startswith("75% of 16 codes are unused. ")
    assert "Take a smaller `quantizer.codebook_size`" in finding


def test_the_collapse_of_one_level_is_named(pictures):
    model = build(HierarchicalConfig(codebook_size=16, codebook_dim=4, level_channels=8), pictures)
    model.quantizer.quantizers[0].codebook[8:] = 1000.0
    share = round(100 * (1 - inspect_tokenizer(model, pictures).usage))
    assert 25 <= share < 50
    assert any(sentence.startswith(f"{share}% of 16 codes are unused") for sentence in diagnose(model, pictures))


@pytest.mark.parametrize("normalize_z_e", [True, False])
def test_a_codebook_far_from_z_e_is_named(pictures, normalize_z_e):
    model = build(replace(VQ, normalize_z_e=normalize_z_e), pictures)
    model.quantizer.codebook.fill_(30.0)
    (finding,) = [sentence for sentence in diagnose(model, pictures) if "lost the encoder" in sentence]
    assert "farther from z_e than zero is (mean error " in finding
    if normalize_z_e:  # 4 channels of mean 0 and variance 1: the codes are (60 ** 2 + 2 ** 2) ** 0.5 away
        assert "(mean error 60, mean length of z_e 2)" in finding
    assert ("set `quantizer.normalize_z_e`" in finding) == (not normalize_z_e)
    assert "set `quantizer.initialization` to kmeans, or raise `quantizer.commitment_weight`" in finding


def test_positions_that_never_change_are_named(pictures):
    wide = torch.full((80, 3, 16, 32), 255, dtype=torch.uint8)
    wide[..., :8] = pictures[..., :8]
    # Without norms over the picture, the last 3 of 8 columns see white alone, and the first 2 colours mostly.
    model = build(VQ, wide, type="paper")
    (finding,) = [sentence for sentence in diagnose(model, wide) if "hardly ever changes" in sentence]
    assert 37 < int(re.match(r"At (\d+)% of the positions", finding)[1]) <= 75


@pytest.fixture
def sound() -> Inspection:
    """Measurements in which nothing is wrong, of a codebook of 4 in two dimensions."""
    z_e = torch.randn(20, 2)
    return Inspection(
        counts=torch.full((1, 4), 20.0), perplexity=4.0, usage=1.0, reachable_usage=1.0,
        position_entropy=[torch.ones(2, 2)], psnr=torch.full((10,), 20.0), ssim=torch.full((10,), 0.9),
        z_e=z_e, z_q=0.9 * z_e,
    )  # fmt: skip


@pytest.fixture
def small_model(pictures) -> VQVAE:
    return build(VQConfig(codebook_size=4, codebook_dim=2), pictures)


def test_sound_measurements_give_no_finding(sound, small_model):
    assert findings(sound, small_model, []) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"usage": 0.7, "reachable_usage": 0.75}, "25% of 4 codes are unused"),
        ({"usage": 0.7, "reachable_usage": 0.96}, None),
        ({"perplexity": 0.7}, "A few codes do most of the work: perplexity 1 of 4 codes used"),
        ({"perplexity": 0.9}, None),
        ({"position_entropy": [torch.tensor([[0.0, 0.05], [1.0, 1.0]])]}, "At 50% of the positions"),
        ({"position_entropy": [torch.tensor([[0.0, 1.0], [1.0, 1.0]])]}, None),
        ({"position_entropy": [torch.ones(2), torch.zeros(6)]}, "At 75% of the positions"),
        ({"z_e": None, "z_q": None}, None),
        ({"z_e": torch.ones(5, 2), "z_q": -torch.ones(5, 2)}, "farther from z_e than zero"),
        ({"z_e": torch.ones(5, 2), "z_q": torch.zeros(5, 2) + 0.01}, None),
        ({"ssim": None}, None),
    ],
)
def test_each_finding_has_its_limit(sound, small_model, changes, said):
    sentences = findings(replace(sound, **changes), small_model, [])
    assert len(sentences) == (said is not None)
    assert said is None or said in sentences[0]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((), None),
        ((20.0,), None),
        ((18.0, 20.0), "still rising when training ended (18.00 to 20.00 dB"),
        ((18.0, 20.0, 20.05), None),
        ((18.0, 20.0, 19.0), "fell from 20.00 to 19.00 dB: stop earlier"),
        ((18.0, 20.0, 19.95), None),
    ],
)
def test_held_out_psnr_tells_when_training_ended_too_early_or_too_late(sound, small_model, values, said):
    log = [line for value in values for line in ({"step": 1, "psnr": 30.0}, {"step": 1, "held_out_psnr_db": value})]
    sentences = findings(sound, small_model, log)
    assert len(sentences) == (said is not None)
    assert said is None or said in sentences[0]


@pytest.mark.parametrize(
    ("quantizer", "remedy"),
    [
        (FSQConfig(), "Take fewer `quantizer.levels`."),
        (LFQConfig(), "Raise `quantizer.entropy_weight` or `quantizer.diversity`."),
        (VQConfig(dead_code_threshold=0.0), "Set `quantizer.dead_code_threshold` to 0.1"),
        (VQConfig(initialization="random"), "Set `quantizer.initialization` to sample or kmeans"),
        (VQConfig(codebook_training="simvq", dead_code_threshold=0.0), "Take a smaller `quantizer.codebook_size`"),
        (VQConfig(codebook_dim=32), "Set `quantizer.codebook_dim` to 8 or 16"),
        (VQConfig(), "Take a smaller `quantizer.codebook_size`"),
        (ResidualConfig(dead_code_threshold=0.0), "Set `quantizer.dead_code_threshold` to 0.1"),
        (GroupedConfig(initialization="random"), "Set `quantizer.initialization` to sample or kmeans"),
        (HierarchicalConfig(codebook_dim=64), "Set `quantizer.codebook_dim` to 8 or 16"),
    ],
)
def test_the_remedy_for_dead_codes_is_a_setting_of_the_quantizer(quantizer, remedy):
    (finding,) = usage_findings(0.5, 100.0, 1000, quantizer)
    assert finding.startswith("50% of 1000 codes are unused. ")
    assert remedy in finding
    named = set(re.findall(r"quantizer\.(\w+)", finding))
    assert named <= {setting.name for setting in fields(quantizer)}


def test_all_codes_in_even_use_are_no_finding():
    assert usage_findings(1.0, 900.0, 1000, VQConfig()) == []
    assert usage_findings(0.96, 200.0, 1000, VQConfig()) == []


def test_in_how_many_pictures_a_code_is():
    codes = torch.tensor([[[1, 1], [2, 1]], [[1, 3], [3, 3]], [[0, 3], [1, 1]]])
    assert pictures_with([codes, codes[:1]], 5).tolist() == [[1, 3, 1, 2, 0], [0, 1, 1, 0, 0]]


@pytest.mark.parametrize("num_pictures", [5, 28, 100, 400])
def test_a_healthy_codebook_is_healthy_on_any_sample(num_pictures):
    """1,024 codes as uneven as words (Zipf with an offset); 64 of them in each picture, neighbours alike in pairs."""
    codes = drawn(num_pictures, 1024)
    assert len(codes.unique()) < 0.95 * 1024 or num_pictures == 400
    assert usage_findings(0.5, 465.0, 1024, VQConfig(), reachable=reachable_of(codes, 1024)) == []


@pytest.mark.parametrize(("alive", "num_pictures"), [(512, 56), (512, 100), (512, 400), (100, 10), (100, 28)])
def test_a_codebook_that_is_dead_in_part_is_found_on_a_sample(alive, num_pictures):
    reachable = reachable_of(drawn(num_pictures, alive), 1024)
    assert reachable == pytest.approx(alive / 1024, abs=0.06)
    assert "of 1024 codes are unused" in usage_findings(0.45, 300.0, 1024, VQConfig(), reachable=reachable)[0]


def drawn(num_pictures: int, alive: int) -> Tensor:
    """(N, 64) codes below `alive`."""
    shares = 1 / (torch.arange(alive) + 0.4 * alive)
    draw = torch.Generator().manual_seed(0)
    return torch.multinomial(shares.expand(num_pictures, -1), 32, generator=draw).repeat_interleave(2, 1)


def reachable_of(codes: Tensor, codebook_size: int) -> float:
    return reachable_usage(pictures_with([codes], codebook_size), len(codes))


# The page


def commonest(codes: list, code: int) -> list:
    return commonest_neighborhood(torch.tensor(codes), code).tolist()


def test_the_commonest_neighbourhood_by_hand():
    one = [[1, 2, 3], [4, 9, 6], [7, 8, 5]]
    other = [[0, 0, 0], [0, 9, 0], [0, 0, 0]]
    assert commonest([one, other, one], 9) == one
    assert commonest([other, one, other], 9) == other


def test_edges_are_repeated_in_a_neighbourhood():
    assert commonest([[[1, 2], [3, 4]]], 1) == [[1, 1, 2], [1, 1, 2], [3, 3, 4]]
    assert commonest([[[1, 2], [3, 4]]], 4) == [[1, 2, 2], [3, 4, 4], [3, 4, 4]]
    assert commonest([[[5]]], 5) == [[5] * 3] * 3


@pytest.fixture
def page_of(tmp_path):
    """page_of(model, pictures): the text of the page, whose pictures are all there and can be opened."""

    def write(model: VQVAE, pictures: Tensor, sentences: list[str] | None = None) -> str:
        write_page(inspect_tokenizer(model, pictures), sentences or [], model, pictures, tmp_path)
        page = (tmp_path / "inspection.md").read_text(encoding="utf-8")
        shown = re.findall(r"\]\((\w+\.png)\)", page)
        assert {*shown, "inspection.md"} == {path.name for path in tmp_path.iterdir()}
        for name in shown:
            with Image.open(tmp_path / name) as picture:
                picture.load()
                assert min(picture.size) > 16
        return page

    return write


def test_a_page_of_pictures(page_of, pictures, tmp_path):
    page = page_of(build(VQ, pictures), pictures)
    assert {path.name for path in tmp_path.iterdir()} == {"inspection.md", "figures.png", "worst.png", "codebook.png"}
    assert "Nothing found that is wrong." in page
    assert "| pictures | 80 |" in page
    assert re.search(r"\| perplexity \| \d+ of 16 \|", page)
    assert "| codes never used | 0 (0.0%) |" in page
    assert "| mean length of z_e, z_q, z_e - z_q | 2, " in page
    with Image.open(tmp_path / "worst.png") as worst:
        assert worst.size == (12 * 20, 2 * 20)  # 16 and a gap of 2 around
    with Image.open(tmp_path / "codebook.png") as codebook:
        assert codebook.size == (16 * 16, 2 * 16)  # 3 codes of 4 pixels and the gap


def test_findings_are_on_the_page(page_of, pictures):
    page = page_of(build(VQ, pictures), pictures, ["This is wrong.", "That too."])
    assert "- This is wrong.\n- That too.\n" in page
    assert "Nothing found" not in page


@pytest.mark.parametrize(
    ("quantizer", "codebooks", "shown"),
    [
        (FSQConfig(levels=[4, 4]), 1, {"figures.png", "worst.png", "codebook.png"}),
        (FSQConfig(levels=[16]), 1, {"figures.png", "worst.png", "codebook.png"}),
        (LFQConfig(codebook_size=16), 1, {"figures.png", "worst.png", "codebook.png"}),
        (ResidualConfig(codebook_size=16, codebook_dim=4), 2, {"figures.png", "worst.png"}),
        (GroupedConfig(codebook_size=16, codebook_dim=4), 2, {"figures.png", "worst.png"}),
        (HierarchicalConfig(codebook_size=16, codebook_dim=4, level_channels=8), 2, {"figures.png", "worst.png"}),
    ],
    ids=["fsq", "fsq of one channel", "lfq", "residual", "grouped", "hierarchical"],
)
def test_a_page_of_every_quantizer(page_of, pictures, tmp_path, quantizer, codebooks, shown):
    page = page_of(build(quantizer, pictures), pictures)
    assert {path.name for path in tmp_path.iterdir()} == shown | {"inspection.md"}
    assert len(re.search(r"codes never used \| ([\d, ]+) \(", page)[1].split(",")) == codebooks


@pytest.mark.parametrize("shape", [(1, 16), (2, 4, 16, 16)], ids=["series", "volumes"])
@pytest.mark.parametrize("quantizer", [VQ, HierarchicalConfig(codebook_size=16, codebook_dim=4, num_levels=2)])
def test_a_page_of_no_pictures_has_figures_only(page_of, tmp_path, shape, quantizer):
    if quantizer.type == "hierarchical":
        shape = (shape[0], *[max(8, side) for side in shape[1:]])
    arrays = torch.rand(70, *shape) * 2 - 1
    page_of(build(quantizer, arrays), arrays)
    assert {path.name for path in tmp_path.iterdir()} == {"inspection.md", "figures.png"}


@pytest.mark.parametrize(("size_mismatch", "side", "shown"), [("pad", 14, 14), ("crop", 14, 12), ("pad", 9, 9)])
def test_a_page_of_pictures_that_do_not_fit(page_of, pictures, tmp_path, size_mismatch, side, shown):
    pictures = pictures[:, :, :side, :side]
    page_of(build(VQ, pictures, size_mismatch=size_mismatch), pictures)
    assert {path.name for path in tmp_path.iterdir()} >= {"inspection.md", "figures.png", "worst.png"}
    with Image.open(tmp_path / "worst.png") as worst:
        assert worst.size == (12 * (shown + 4), 2 * (shown + 4))


def test_more_codes_than_a_row_are_shown_in_full_rows(page_of, pictures, tmp_path):
    page_of(build(VQConfig(codebook_size=100, codebook_dim=4), pictures), pictures)
    with Image.open(tmp_path / "codebook.png") as codebook:
        assert codebook.size == (32 * 16, 2 * 3 * 16)


def test_fewer_pictures_than_are_shown(page_of, pictures, tmp_path):
    page_of(build(VQ, pictures), pictures[:3])
    with Image.open(tmp_path / "worst.png") as worst:
        assert worst.size == (3 * 20, 2 * 20)


@pytest.mark.parametrize(
    ("usage", "since"), [([1.0, 1.0], None), ([0.5, 1.0], None), ([1.0, 0.5, 0.9], 20), ([0.5, 0.5], 10), ([], None)]
)
def test_the_step_since_which_codes_are_unused(usage, since):
    lines = [{"step": 10 * (number + 1), "usage": share} for number, share in enumerate(usage)]
    assert unused_since(lines) == since
