"""The report of a finished model: every figure, the page, the sheet of samples."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from vqlm.lm import TextToImagePipeline
from vqlm.lm.evaluate.metrics import evaluate_nll
from vqlm.lm.evaluate.report import evaluate, report_markdown, require_no_other, write_report
from vqlm.lm.model import build_language_model
from vqlm.training.errors import UserError
from vqlm.training.folders.whole_files import read_json
from vqlm.training.machine import matrix_peak
from vqlm.vq.metrics import CodeUsage, psnr
from vqlm.vq.pixels import to_pixel_values

SCALES = ["1", "1.25", "1.5", "2", "3"]


@pytest.fixture(autouse=True)
def _no_benchmark(monkeypatch):
    monkeypatch.setattr(matrix_peak, "matrix_peak", lambda *_: 123.0)


def test_figures(finished, prepared, collection):
    figures, shown = evaluate(finished, prepared, seed=0)
    assert figures.keys() >= {
        "held_out_psnr_db", "perplexity", "codebook_usage", "held_out_image_nll", "retrieval", "seconds", "machine",
    }  # fmt: skip
    held_out = prepared.held_out["held_out"]
    originals = to_pixel_values(torch.stack([_to_tensor(row["image"]) for row in held_out]))
    codes = torch.tensor(held_out["codes"][:])
    image_tokenizer = finished.image_tokenizer
    reconstructions = image_tokenizer.decode_codes(codes.view(-1, 4, 4))
    assert figures["held_out_psnr_db"] == pytest.approx(psnr(reconstructions, originals).mean().item(), rel=1e-5)
    assert figures["perplexity"] == pytest.approx(CodeUsage(16).add(codes).perplexity)
    both = torch.cat([codes, torch.tensor(prepared.train["codes"][:])])
    assert figures["perplexity_collection"] == pytest.approx(CodeUsage(16).add(both).perplexity)
    assert figures["codebook_usage"] == len(both.unique()) / 16
    nll = evaluate_nll(finished.model, finished.vocabulary, held_out, finished.max_caption_tokens, 16)
    assert figures["held_out_image_nll"] == {"held_out": pytest.approx(nll)}
    assert figures["pictures"] == {"train": len(list(collection.rows("train"))), "held_out": len(held_out)}
    assert figures["seconds"].keys() == {"train_vq", "prepare_data", "train_lm", "evaluate"}
    assert figures["machine"]["fp32_gflops"] == 123
    assert list(figures["retrieval"]["held_out"]) == SCALES
    for recall in figures["retrieval"]["held_out"].values():
        assert 0 <= recall["r1"] <= recall["r10"] <= 1
    assert shown["held_out"].captions == [captions[0] for captions in held_out["captions"]]


def test_prompts_that_are_no_new_ones_are_said(finished, prepared, collection):
    """The folder has two pictures of each caption, so that held-out captions are trained on."""
    trained = {caption for row in collection.rows("train") for caption in row.captions}
    seen = sum(row.captions[0] in trained for row in collection.rows("held_out"))
    figures, _ = evaluate(finished, prepared)
    count = figures["pictures"]["held_out"]
    assert figures["prompts_also_trained_on"] == {"held_out": seen}
    assert seen > 0
    assert f"{'All' if seen == count else f'{seen} of'} {count} prompts of held_out are captions that other" in (
        report_markdown(figures, None)
    )
    assert "prompts of held_out are" not in report_markdown(
        figures | {"prompts_also_trained_on": {"held_out": 0}}, None
    )


def test_retrieval_of_the_reconstruction_itself(finished, prepared, monkeypatch):
    """A model that draws each held-out picture's own codes retrieves each of them at every scale."""
    codes = torch.tensor(prepared.held_out["held_out"]["codes"][:]).view(-1, 4, 4)
    trained = torch.tensor(prepared.train["codes"][:]).view(-1, 4, 4)

    def draw(_self, captions, **_):
        return type("Drawn", (), {"codes": codes if len(captions) == len(codes) else trained, "images": []})

    monkeypatch.setattr(TextToImagePipeline, "__call__", draw)
    figures, shown = evaluate(finished, prepared)
    assert figures["retrieval"] == {"held_out": {scale: {"r1": 1.0, "r10": 1.0} for scale in SCALES}}
    assert figures["trained_prompts"] == {"r1": 1.0, "r10": 1.0}
    assert figures["prompts"] == {"held_out": len(codes), "train": len(trained)}
    assert shown["train"].captions == [captions[0] for captions in prepared.train["captions"]]
    assert shown["train"].originals is None


def test_the_seed_decides_the_drawings(finished, prepared):
    sheets = [evaluate(finished, prepared, seed)[1]["held_out"].drawn for seed in (0, 0, 1)]
    assert torch.equal(sheets[0], sheets[1])
    assert not torch.equal(sheets[0], sheets[2])


@pytest.mark.parametrize("name", ["report.json", "run", "manifest.json"])
def test_the_folder_of_another_stage_is_not_written_over(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"already holds {name}; choose another `output`"):
        require_no_other(tmp_path)


def test_files(finished, prepared, tmp_path):
    figures, shown = evaluate(finished, prepared)
    output = tmp_path / "eval"
    prepared.manifest["attribution"] = "Drawn by hand."
    write_report(figures, shown, prepared, tmp_path, output, "<p>the page</p>")
    assert (output / "report.html").read_text(encoding="utf-8") == "<p>the page</p>"
    assert read_json(output / "report.json") == figures
    for name in ("samples.png", "reconstructions.png"):
        with Image.open(output / name) as picture:
            picture.load()
            assert min(picture.size) > 128
            assert len(picture.getcolors(1 << 20)) > 10
    page = (output / "report.md").read_text(encoding="utf-8")
    shown_figures = [
        f"{figures['held_out_psnr_db']:.2f} dB",
        f"| {figures['perplexity']:.0f} |",
        f"{100 * figures['codebook_usage']:.1f}%",
        f"{figures['held_out_image_nll']['held_out']:.3f}",
        *(f"{100 * recall['r10']:.1f}%" for recall in figures["retrieval"]["held_out"].values()),
        "1.25 (default)",
        "| train_lm | 3 |",
        "123 GFLOPS",
        figures["machine"]["processor"],
        "samples.png",
        "Drawn by hand.",
        f"{figures['pictures']['train']} pictures trained on, {figures['pictures']['held_out']} held out",
    ]
    assert [text for text in shown_figures if text not in page] == []
    assert not math.isnan(figures["held_out_psnr_db"])


def test_a_model_of_another_image_tokenizer(finished, prepared, other_vqvae):
    other = TextToImagePipeline(finished.model, finished.vocabulary, other_vqvae)
    with pytest.raises(UserError, match="model's image tokenizer is") as caught:
        evaluate(other, prepared)
    for fingerprint in (other_vqvae.fingerprint(), finished.image_tokenizer.fingerprint()):
        assert fingerprint in str(caught.value)


def test_a_model_of_another_vocabulary(prepared, tiny_config, tiny_vqvae, vocabulary):
    assert vocabulary.fingerprint() != prepared.vocabulary.fingerprint()
    other = TextToImagePipeline(build_language_model(tiny_config(), vocabulary, 64), vocabulary, tiny_vqvae)
    with pytest.raises(UserError, match="model's vocabulary is") as caught:
        evaluate(other, prepared)
    for fingerprint in (vocabulary.fingerprint(), prepared.vocabulary.fingerprint()):
        assert fingerprint in str(caught.value)


def _to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
