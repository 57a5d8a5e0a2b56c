"""transformers.pipeline("text-to-image"): the pictures of our pipeline, in its own form."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoProcessor

from vqlm.lm import TextToImagePipeline, TextToImageProcessor, TextToImageTask
from vqlm.training.errors import UserError

PROMPTS = ["red square", "a green circle"]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def folder(pipeline, tmp_path) -> str:
    pipeline.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def task(folder) -> TextToImageTask:
    return transformers.pipeline("text-to-image", model=folder, device="cpu")


def pixels(images) -> list[bytes]:
    return [image.tobytes() for image in images]


def test_the_pictures_of_our_pipeline(task, pipeline):
    assert isinstance(task, TextToImageTask)
    assert task.drawing.sampling == pipeline.sampling
    settings = {"num_images_per_prompt": 2, "guidance_scale": 2.0}
    ours = pixels(pipeline(PROMPTS, generator=seeded(), **settings).images)
    theirs = task(PROMPTS, generator=seeded(), **settings)
    assert [pixels(drawn.images) for drawn in theirs] == [ours[:2], ours[2:]]
    one = task("red square", generator=seeded())
    assert pixels(one["images"]) == pixels(pipeline("red square", generator=seeded()).images)
    assert task([]) == []


def test_prompts_that_come_one_by_one(task, pipeline):
    drawn = list(task((prompt for prompt in PROMPTS), temperature=0.0))
    assert [pixels(one.images) for one in drawn] == [pixels(pipeline(text, temperature=0.0).images) for text in PROMPTS]


def test_settings_for_all_calls(folder, pipeline):
    task = transformers.pipeline("text-to-image", model=folder, device="cpu", temperature=0.0, num_images_per_prompt=2)
    expected = pixels(pipeline("red square", temperature=0.0, num_images_per_prompt=2).images)
    assert pixels(task("red square").images) == pixels(task(["red square"])[0].images) == expected
    assert len(task(["red square"], num_images_per_prompt=1)[0].images) == 1


def test_from_objects(folder, vocabulary, attributed_vqvae):
    model = AutoModelForCausalLM.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    task = transformers.pipeline("text-to-image", model=model, processor=processor, device="cpu")
    assert task.drawing.model is model
    with pytest.raises(UserError, match="must come from a finished model folder"):
        transformers.pipeline(
            "text-to-image", model=model, processor=TextToImageProcessor(vocabulary, attributed_vqvae), device="cpu"
        )


def test_it_saves_a_finished_model(task, tmp_path):
    task.save_pretrained(tmp_path / "again")
    assert TextToImagePipeline.from_pretrained(tmp_path / "again", "cpu").sampling == task.drawing.sampling
