"""What a GPU does: both stages trained, drawn from and asked for all they can; the decoder has its own tests."""

import pytest
import torch
from PIL import Image

from vqlm.data_prep import SequenceConfig, TextConfig, load_collection, prepare
from vqlm.data_prep.sequences import caption_ids, prompt_ids
from vqlm.lm import SamplingConfig, TextToImagePipeline
from vqlm.lm.decoding.draw import draw_codes
from vqlm.lm.decoding.sampling import draw_uniform
from vqlm.lm.decoding.stepper import Row, Stepper
from vqlm.lm.evaluate.metrics import evaluate_nll
from vqlm.lm.evaluate.report import evaluate
from vqlm.lm.settings import LMTrainingConfig
from vqlm.lm.train.loop import train_lm
from vqlm.vq import VQVAE
from vqlm.vq.settings import VQTrainingConfig
from vqlm.vq.train import train_vq

pytestmark = pytest.mark.cuda
MIXED = SequenceConfig(captioning=0.5, interleaved=0.3)


@pytest.fixture
def trained(picture_folder, tiny_vqvae_config, tiny_config, tmp_path, unchecked_types) -> TextToImagePipeline:
    """Both stages, a few steps each, compiled in stage two, in the precision that "auto" chooses."""
    pictures = torch.rand(16, 3, 16, 16) * 2 - 1
    config = VQTrainingConfig(max_steps=6, batch_size=4)
    image_tokenizer = train_vq(pictures, pictures[:4], tmp_path / "vq", tiny_vqvae_config, config, {"data": "random"})
    prepared = prepare(
        load_collection(str(picture_folder), 16), image_tokenizer, tmp_path / "data", "folder", TextConfig(size=300),
        num_workers=0,
    )  # fmt: skip
    settings = LMTrainingConfig(max_steps=6, batch_size=4, compile="yes", log_every=2)
    train_lm(prepared, tmp_path / "model", tiny_config(), settings, MIXED, SamplingConfig(guidance_scale=1.5))
    pipeline = TextToImagePipeline.from_pretrained(tmp_path / "model")
    assert pipeline.model.device.type == pipeline.image_tokenizer.device.type == "cuda"
    figures, _ = evaluate(pipeline, prepared)
    assert 0 < figures["held_out_image_nll"]["held_out"] < 10
    return pipeline


def test_a_model_trained_there_does_all_it_can(trained):
    picture = Image.new("RGB", (16, 16), "red")
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[:8] = True
    generator = torch.Generator().manual_seed(0)
    sizes = [
        len(trained(["red square", "circle"], num_images_per_prompt=2, generator=generator).images),
        len(trained(["red square"], rerank=3).images),
        len(trained([None]).images),
        len(trained(["red square"], speculative=4).images),
        len(trained(["red square"], compile=True).images),
        len(trained.complete([picture]).images),
        len(trained.inpaint([picture], mask).images),
        len(trained.caption([picture])),
        len(trained.score([picture], ["red square"]).picture),
    ]
    assert sizes == [4, 1, 1, 1, 1, 1, 1, 1, 1]


def test_a_generator_of_the_cpu_draws_the_same_pictures_on_both(pipeline):
    settings = {"guidance_scale": 1.5, "temperature": 0.5}
    on_cpu, there = (
        pipeline.to(device)(["red square"] * 3, generator=torch.Generator().manual_seed(0), **settings).codes.cpu()
        for device in ("cpu", "cuda")
    )
    assert (on_cpu == there).double().mean() > 0.9  # where two codes are as likely, the order of a sum decides


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_greedy_codes_are_those_of_the_cpu(build_tiny, vocabulary, guidance_scale):
    model, settings = build_tiny(), SamplingConfig(temperature=0.0, guidance_scale=guidance_scale)
    prompts = prompt_ids(vocabulary, caption_ids(vocabulary, ["red square", "circle", None], 8))
    on_cpu, there = (
        draw_codes(model.to(device), vocabulary, prompts, 16, settings).cpu() for device in ("cpu", "cuda")
    )
    assert torch.equal(on_cpu, there)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_rows_that_come_and_go_draw_what_they_draw_on_the_cpu(build_tiny, vocabulary, architecture):
    settings = SamplingConfig(temperature=0.0, guidance_scale=1.5)
    prompts = prompt_ids(vocabulary, caption_ids(vocabulary, ["red square", None, "a green circle", "red"], 20))
    drawn = []
    for device in ("cpu", "cuda"):
        uniform = draw_uniform(1, 16, torch.Generator().manual_seed(0), torch.device(device))[0]
        rows = [Row(prompt, settings, uniform) for prompt in prompts]
        stepper = Stepper(build_tiny(architecture).to(device), vocabulary, 16, max_slots=8, max_prompt=40)
        stepper.join(rows[:2])
        for step in range(40):
            stepper.join(rows[2:] if step == 5 else [])
            stepper.step()
        assert all(row.is_finished for row in rows)
        drawn.append([row.codes for row in rows])
    assert drawn[0] == drawn[1]


def test_codes_and_likelihoods_are_those_of_the_cpu(tiny_vqvae: VQVAE, build_tiny, vocabulary, prepared):
    pixels, model = torch.rand(8, 3, 16, 16) * 2 - 1, build_tiny()
    codes = [tiny_vqvae.to(device).encode(pixels.to(device)).cpu() for device in ("cpu", "cuda")]
    assert (codes[0] == codes[1]).double().mean() > 0.95
    nll = [evaluate_nll(model.to(device), vocabulary, prepared.train, 8, 16) for device in ("cpu", "cuda")]
    assert nll[0] == pytest.approx(nll[1], rel=1e-4)
