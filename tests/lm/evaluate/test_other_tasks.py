"""What a pipeline does beside drawing prompts: continue, fill in, vary, describe, score, choose."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from vqlm.lm import SamplingConfig, TextToImagePipeline
from vqlm.lm.decoding.draw import UNKNOWN, draw_codes
from vqlm.lm.decoding.inpainting import fill_codes
from vqlm.lm.decoding.likelihood import caption_log_likelihoods
from vqlm.lm.decoding.minimum_bayes_risk import minimum_bayes_risk_index
from vqlm.lm.decoding.sampling import guided_logits
from vqlm.lm.evaluate.gallery import decode_flat
from vqlm.lm.evaluate.other_tasks import _mean, completed_better, evaluate_other_tasks, other_tasks_markdown
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.lm.settings import DecodingOptions
from vqlm.training.errors import UserError

SIDE, GRID = 16, 4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def captioner(build_tiny, vocabulary, attributed_vqvae) -> TextToImagePipeline:
    return TextToImagePipeline(
        build_tiny(), vocabulary, attributed_vqvae, ModelFolderSettings(SamplingConfig(1.5), 8, can_caption=True)
    )


@pytest.fixture
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in noise]


# Known codes


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_known_codes_stay_and_lead(build_tiny, vocabulary, scale):
    model, prompts = build_tiny(), [[vocabulary.bos, vocabulary.boi]] * 2
    settings = SamplingConfig(scale, temperature=0.0)
    free = draw_codes(model, vocabulary, prompts, 6, settings)
    for kept in (1, 3, 5):
        known = torch.full((2, 6), UNKNOWN)
        known[:, :kept] = free[:, :kept]
        assert torch.equal(draw_codes(model, vocabulary, prompts, 6, settings, known=known), free)
    known = torch.full((2, 6), UNKNOWN)
    known[0, 0], known[1, 4] = (free[0, 0] + 1) % 16, (free[1, 4] + 1) % 16
    drawn = draw_codes(model, vocabulary, prompts, 6, settings, known=known)
    assert drawn[0, 0] == known[0, 0]
    assert drawn[1, 4] == known[1, 4]
    assert torch.equal(drawn[1, :4], free[1, :4])
    assert not torch.equal(drawn[0], free[0])


def test_all_codes_known(build_tiny, vocabulary):
    known = torch.randint(16, (2, 6))
    prompts = [[vocabulary.bos, vocabulary.boi]] * 2
    assert torch.equal(draw_codes(build_tiny(), vocabulary, prompts, 6, SamplingConfig(), known=known), known)


def test_a_negative_prompt_takes_the_place_of_none(captioner, monkeypatch):
    seen = []

    def recorded(conditional, unconditional, settings):
        seen.append(unconditional)
        return guided_logits(conditional, unconditional, settings)

    monkeypatch.setattr("vqlm.lm.decoding.draw.guided_logits", recorded)
    vocabulary = captioner.vocabulary
    negative = [[vocabulary.bos, *vocabulary.encode_text(["blue"])[0], vocabulary.boi]]
    prompt = [[vocabulary.bos, *vocabulary.encode_text(["red square"])[0], vocabulary.boi]]
    draw_codes(captioner.model, vocabulary, prompt, 3, SamplingConfig(2.0), seeded(), negative_prompts=negative)
    image = slice(vocabulary.image.offset, vocabulary.image.stop)
    expected = captioner.model(input_ids=torch.tensor(negative)).logits[:, -1, image].detach()
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=0)


def test_a_cosine_schedule_by_hand():
    settings = SamplingConfig(3.0, "cosine")
    scales = [settings.at(step, 5).guidance_scale for step in range(5)]
    assert scales == pytest.approx([1.0, 1 + 2 * 0.146447, 2.0, 1 + 2 * 0.853553, 3.0], abs=1e-5)
    assert SamplingConfig(3.0).at(0, 5).guidance_scale == 3.0


# The pipeline


def test_complete_keeps_the_first_rows(pipeline, pictures):
    codes = pipeline.image_tokenizer.unflatten_codes(pipeline.encode(pictures))
    for rows in range(GRID):
        output = pipeline.complete(pictures, ["red", "blue", "green"], keep_rows=rows, generator=seeded())
        assert torch.equal(output.codes[:, :rows], codes[:, :rows])
        assert not torch.equal(output.codes[:, rows:], codes[:, rows:])
    half = pipeline.complete(pictures, generator=seeded(1))
    assert torch.equal(half.codes, pipeline.complete(pictures, keep_rows=2, generator=seeded(1)).codes)
    assert len(half.images) == 3


@pytest.mark.parametrize("rows", [-1, GRID])
def test_rows_out_of_range(pipeline, pictures, rows):
    with pytest.raises(UserError, match=r"`keep_rows` must be a whole number in \[0, 4\)"):
        pipeline.complete(pictures, keep_rows=rows)


def test_inpaint_draws_only_under_the_mask(pipeline, pictures):
    codes = pipeline.image_tokenizer.unflatten_codes(pipeline.encode(pictures))
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[5, 9] = True  # one pixel, in the code (1, 2)
    repainted = pipeline.inpaint(pictures, mask, "red", temperature=5.0, generator=seeded()).codes
    changed = (repainted != codes).nonzero()[:, 1:].unique(dim=0).tolist()
    assert changed == [[1, 2]]
    as_picture = Image.fromarray((mask.numpy() * 255).astype(np.uint8))
    again = pipeline.inpaint(pictures, as_picture, "red", temperature=5.0, generator=seeded()).codes
    assert torch.equal(again, repainted)


def test_of_several_fillings_the_one_that_fits_what_follows(build_tiny, vocabulary):
    """Of each row by itself: two pictures with a hole of one code each, at different places."""
    model, prompts = build_tiny(), [[vocabulary.bos, vocabulary.boi], [vocabulary.bos, 70, 80, vocabulary.boi]]
    codes, holes = torch.randint(16, (2, 5)), (1, 2)
    masks = torch.arange(5) == torch.tensor(holes).unsqueeze(1)
    settings = SamplingConfig(temperature=10.0)
    drawn = fill_codes(model, vocabulary, prompts, codes, masks, settings, 400, seeded())
    image = slice(vocabulary.image.offset, vocabulary.image.stop)
    for original, prompt, hole, repainted in zip(codes, prompts, holes, drawn, strict=True):

        def likelihood_of_what_follows(code: int, original=original, prompt=prompt, hole=hole) -> float:
            filled = original.clone()
            filled[hole] = code
            row = torch.tensor([prompt + vocabulary.codes_to_ids(filled).tolist()])
            log_probs = model(input_ids=row).logits[0, len(prompt) - 1 : -1, image].log_softmax(-1)
            return sum(log_probs[place, filled[place]].item() for place in range(hole + 1, 5))

        expected = original.clone()
        expected[hole] = max(range(16), key=likelihood_of_what_follows)
        assert torch.equal(repainted, expected)


def test_rows_that_are_filled_together_and_in_parts(build_tiny, vocabulary):
    """At temperature 0 nothing is random, so that it cannot matter how many rows are drawn at once."""
    model, prompts = build_tiny(), [[vocabulary.bos, vocabulary.boi]] * 5
    codes, masks = torch.randint(16, (5, 6)), torch.rand(5, 6) < 0.5
    together = fill_codes(model, vocabulary, prompts, codes, masks, SamplingConfig(temperature=0.0), 3)
    in_parts = fill_codes(
        model,
        vocabulary,
        prompts,
        codes,
        masks,
        SamplingConfig(temperature=0.0),
        3,
        None,
        DecodingOptions(batch_size=6),
    )
    assert torch.equal(together, in_parts)
    assert torch.equal(together[~masks], codes[~masks])


def test_masks_that_do_not_fit(pipeline, pictures):
    with pytest.raises(UserError, match=r"`mask` must be 16 high and 16 wide, as the pictures; found \(8, 16\)"):
        pipeline.inpaint(pictures, torch.ones(8, 16))
    with pytest.raises(UserError, match="`mask` is empty"):
        pipeline.inpaint(pictures, torch.zeros(16, 16))


def test_variations_change_at_most_the_share(pipeline, pictures):
    codes = pipeline.encode(pictures)
    varied = pipeline.vary(pictures, share=0.25, temperature=5.0, generator=seeded()).codes.flatten(1)
    assert (varied != codes).sum(1).max() <= 4
    assert (varied != codes).any()
    with pytest.raises(UserError, match=r"`share` must lie in \(0, 1\]"):
        pipeline.vary(pictures, share=0.0)


def test_captions_and_scores(captioner, pictures):
    captions = captioner.caption(pictures)
    assert len(captions) == 3
    assert captioner.caption(pictures[1]) == captions[1:2]
    assert captioner.caption(pictures, batch_size=1) == captions
    scores = captioner.score(pictures, "red square")
    assert scores.picture.shape == scores.prompt.shape == (3,)
    assert (scores.picture < 0).all()
    other = captioner.score(pictures, ["blue square"] * 3)
    assert not torch.allclose(scores.prompt, other.prompt)
    assert captioner.score(pictures, [None] * 3).prompt is None


def test_a_model_that_never_saw_a_caption_after_a_picture(pipeline, pictures):
    for ask in (lambda: pipeline.caption(pictures), lambda: pipeline("red", rerank=2)):
        with pytest.raises(UserError, match="`sequences.captioning` above 0"):
            ask()
    assert pipeline.score(pictures, "red").prompt is None


def test_rerank_keeps_one_of_each_group(captioner):
    prompts = ["red square", "blue"]
    drawn = captioner(prompts, num_images_per_prompt=6, temperature=5.0, generator=seeded()).codes.flatten(1)
    kept = captioner(prompts, num_images_per_prompt=2, rerank=3, temperature=5.0, generator=seeded()).codes.flatten(1)
    texts = [prompt for prompt in prompts for _ in range(6)]
    ids = captioner.vocabulary.encode_text(texts)
    scores = caption_log_likelihoods(captioner.model, captioner.vocabulary, drawn, ids).view(4, 3)
    pictures = decode_flat(captioner, drawn).reshape(4, 3, -1)
    for group, group_scores, of_each, chosen in zip(drawn.view(4, 3, -1), scores, pictures, kept, strict=True):
        weight = group_scores.exp() / group_scores.exp().sum()
        risk = [sum(float(weight[j] * (of_each[i] - of_each[j]).square().sum()) for j in range(3)) for i in range(3)]
        assert torch.equal(chosen, group[risk.index(min(risk))])
    asked = ["red square"] * 2 + ["blue"] * 2
    assert torch.equal(captioner.best_of(drawn.view(4, 3, -1), asked), kept)
    on_a_grid = captioner.best_of(drawn.view(4, 3, GRID, GRID), asked)
    assert torch.equal(on_a_grid.flatten(1), kept)
    assert len(captioner.decode(on_a_grid)) == 4
    with pytest.raises(UserError, match="`rerank` chooses by the prompt"):
        captioner(None, rerank=2)
    assert len(captioner([], rerank=2).codes) == 0
    assert len(captioner.best_of(drawn.view(4, 3, -1), "red")) == 4
    wrong = {"chooses by the prompt": [None] * 4, "is empty": [" "] * 4, "one for each": ["red"] * 3}
    for message, prompts in wrong.items():
        with pytest.raises(UserError, match=message):
            captioner.best_of(drawn.view(4, 3, -1), prompts)


def test_the_picture_of_least_expected_distance():
    pictures = torch.tensor([0.0, 10.0, 11.0, 14.0, 15.0]).view(5, 1, 1, 1)
    assert minimum_bayes_risk_index(pictures, torch.zeros(5)) == 2  # 50, 20, 19, 22, 25 are their distances from all
    certain, unlikely = torch.tensor([50.0, 0.0, 0.0, 0.0, 0.0]), torch.tensor([-100.0, -3.0, -100.0, -3.0, -3.0])
    assert minimum_bayes_risk_index(pictures, certain) == 0  # no doubt which is the likeliest
    assert minimum_bayes_risk_index(pictures, unlikely) == 3  # the unlikely have no say
    assert minimum_bayes_risk_index(pictures[:2], torch.tensor([-1.0, -2.0])) == 0  # of two the likelier one


def test_a_picture_grows(pipeline):
    seen = []
    output = pipeline(["red", "blue"], generator=seeded(), callback=lambda step, codes: seen.append((step, codes)))
    assert [step for step, _ in seen] == list(range(GRID * GRID))
    for step, codes in seen:
        assert torch.equal(codes, output.codes.flatten(1)[:, : step + 1])
    assert len(pipeline.decode_partial(seen[3][1])) == 2
    assert pipeline.decode_partial(seen[-1][1])[0].tobytes() == output.images[0].tobytes()


def test_pictures_of_another_size_are_fitted_and_it_is_said(pipeline, pictures):
    large = pictures[0].resize((40, 20)).convert("P")
    with pytest.warns(UserWarning, match="scaled and padded or cropped to 16x16"):
        codes = pipeline.encode(large)
    assert codes.shape == (1, GRID * GRID)
    with pytest.raises(UserError, match=r"Pictures must be \(B, C, 16, 16\)"):
        pipeline.encode(torch.zeros(1, 3, 8, 8))


def test_negative_prompts_of_the_pipeline(pipeline):
    first = pipeline("red", negative_prompt="blue square", guidance_scale=3.0, generator=seeded()).codes
    second = pipeline("red", guidance_scale=3.0, generator=seeded()).codes
    assert not torch.equal(first, second)
    with pytest.raises(UserError, match="needs guidance"):
        pipeline("red", negative_prompt="blue", guidance_scale=1.0)
    with pytest.raises(UserError, match="`negative_prompt` must be one, or one for each of the 1"):
        pipeline("red", negative_prompt=["blue", "green"], guidance_scale=2.0)


def test_unknown_sampling_settings(pipeline, pictures):
    with pytest.raises(UserError, match="no sampling setting 'temprature'"):
        pipeline.complete(pictures, temprature=1.0)


def test_the_folder_remembers_that_it_captions(captioner, tmp_path):
    captioner.save_pretrained(tmp_path)
    assert TextToImagePipeline.from_pretrained(tmp_path, "cpu").can_caption


# Figures


def test_a_picture_continued_from_itself_is_closer(captioner, monkeypatch):
    truth = torch.randint(16, (6, GRID * GRID))
    originals = captioner.image_tokenizer.decode_codes(captioner.image_tokenizer.unflatten_codes(truth)).detach()
    right = captioner._output(truth)
    wrong = captioner._output(truth.roll(1, 0))
    monkeypatch.setattr(TextToImagePipeline, "complete", lambda *_, **__: right)
    monkeypatch.setattr(TextToImagePipeline, "__call__", lambda *_, **__: wrong)
    assert completed_better(captioner, originals).tolist() == [1.0] * 6
    monkeypatch.setattr(TextToImagePipeline, "complete", lambda *_, **__: wrong)
    monkeypatch.setattr(TextToImagePipeline, "__call__", lambda *_, **__: right)
    assert completed_better(captioner, originals).tolist() == [0.0] * 6


@pytest.mark.parametrize("can_caption", [True, False])
def test_figures_of_a_prepared_set(captioner, prepared, can_caption):
    captioner.settings = replace(captioner.settings, can_caption=can_caption)
    captioner.image_tokenizer = prepared.load_image_tokenizer()
    figures = evaluate_other_tasks(captioner, prepared)
    assert list(figures) == list(prepared.held_out)
    for split_figures in figures.values():
        assert ("caption_r1" in split_figures) == ("reranked" in split_figures) == can_caption
        assert 0 <= split_figures["completed_better"] <= 1
    page = "\n".join(other_tasks_markdown(figures))
    assert ("right caption" in page) == ("guidance 1, temperature 1, one draw" in page) == can_caption


def test_the_right_caption_is_found_where_the_model_says_so(captioner, prepared, monkeypatch):
    captioner.image_tokenizer = prepared.load_image_tokenizer()
    monkeypatch.setattr(
        "vqlm.lm.evaluate.other_tasks.log_likelihoods_of_captions",
        lambda _model, _vocabulary, _codes, ids: -torch.arange(len(ids)).float(),
    )
    assert all(
        split_figures["caption_r1"] == 1.0 for split_figures in evaluate_other_tasks(captioner, prepared).values()
    )


def test_the_mean_over_sets_counts_pictures():
    sets = [{"caption_r1": 0.9, "one": {"r1": 0.5}}, {"caption_r1": 0.1, "one": {"r1": 0.0}}]
    mean = _mean(sets, [30, 10])
    assert mean["caption_r1"] == pytest.approx(0.7)
    assert mean["one"] == pytest.approx({"r1": 0.375})
