"""What a prompt gives: pictures, their number and order, and what a call may override."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import vqlm.lm.pipeline
from vqlm.lm import SamplingConfig, TextToImagePipeline
from vqlm.lm.image_codes import decode_pixel_values
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.lm.settings import DecodingOptions
from vqlm.training.errors import UserError
from vqlm.vq import VQVAE, VQConfig, VQVAEConfig

PROMPTS = ["red square", "a green circle"]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels_of(images) -> np.ndarray:
    return np.stack([np.array(image) for image in images])


def test_pictures_are_the_decoded_codes(pipeline):
    output = pipeline("red square", num_images_per_prompt=2, generator=seeded(0))
    assert output.codes.shape == (2, 4, 4)
    assert [image.size for image in output.images] == [(16, 16)] * 2
    np.testing.assert_array_equal(pixels_of(pipeline.decode(output.codes)), pixels_of(output.images))


def test_pictures_come_prompt_by_prompt(pipeline):
    together = pipeline([*PROMPTS, None], num_images_per_prompt=2, temperature=0.0)
    alone = [pipeline(prompt, temperature=0.0).codes[0] for prompt in [*PROMPTS, None]]
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(together.codes, torch.stack([codes for codes in alone for _ in range(2)]))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_batch_size_changes_no_picture(pipeline, batch_size):
    settings = {"num_images_per_prompt": 2, "batch_size": batch_size}
    ours = [
        pipeline(PROMPTS, generator=seeded(1), **settings),
        pipeline(PROMPTS, generator=seeded(1), num_images_per_prompt=2),
    ]
    assert torch.equal(ours[0].codes, ours[1].codes)
    one_each = [
        pipeline(PROMPTS, generator=[seeded(n) for n in range(4)], **s)
        for s in (settings, settings | {"batch_size": 64})
    ]
    assert torch.equal(one_each[0].codes, one_each[1].codes)


def test_codes_give_the_same_picture_alone_and_in_any_batch():
    image_tokenizer = VQVAE(VQVAEConfig(quantizer=VQConfig(codebook_size=64))).eval()  # of a size that people train
    codes = torch.randint(0, 64, (65, *image_tokenizer.config.code_shape))
    together = decode_pixel_values(image_tokenizer, codes)
    for number in (0, 1, 64):
        assert torch.equal(decode_pixel_values(image_tokenizer, codes[number : number + 1])[0], together[number])


def test_none_draws_without_a_prompt(pipeline):
    assert torch.equal(pipeline(temperature=0.0).codes, pipeline([None], temperature=0.0).codes)
    guided = pipeline(None, temperature=0.0, guidance_scale=3.0)
    assert torch.equal(guided.codes, pipeline(None, temperature=0.0, guidance_scale=1.0).codes)


def test_no_prompts_give_no_pictures(pipeline):
    assert pipeline([]).images == []


def test_a_call_overrides_the_defaults(build_tiny, vocabulary, tiny_vqvae):
    settings = ModelFolderSettings(SamplingConfig(temperature=0.0))
    greedy = TextToImagePipeline(build_tiny(), vocabulary, tiny_vqvae, settings)
    default = greedy("red square", generator=seeded(0)).codes
    assert torch.equal(greedy("red square", generator=seeded(1)).codes, default)
    assert not torch.equal(greedy("red square", generator=seeded(1), temperature=5.0).codes, default)
    assert torch.equal(greedy("red square", generator=seeded(1), temperature=5.0, top_k=1).codes, default)
    assert torch.equal(greedy("red square", generator=seeded(1), temperature=5.0, min_p=1.0).codes, default)
    assert torch.equal(greedy("red square", generator=seeded(1), temperature=5.0, top_p=1e-6).codes, default)
    assert greedy.sampling == SamplingConfig(temperature=0.0)


def test_what_a_user_sets_becomes_the_default(pipeline):
    pipeline.sampling = SamplingConfig(temperature=0.0)
    assert pipeline.settings.sampling == SamplingConfig(temperature=0.0)
    drawn = [pipeline("red square", generator=seeded(seed)).codes for seed in range(2)]
    assert torch.equal(*drawn)


def test_options_are_set_once_and_a_call_overrides_them(pipeline, tmp_path, monkeypatch):
    pipeline.save_pretrained(tmp_path)
    loaded = TextToImagePipeline.from_pretrained(tmp_path, "cpu", batch_size=3, compile=True, quantize="int8")
    used, draw = [], vqlm.lm.pipeline.draw_codes

    def recorded(*arguments, options, **others):
        used.append(options)
        return draw(*arguments, options=DecodingOptions(), **others)

    monkeypatch.setattr(vqlm.lm.pipeline, "draw_codes", recorded)
    loaded("red square")
    loaded("red square", batch_size=2, compile=False, quantize="none")
    loaded.complete(loaded("red square", compile=False).images)
    assert used == [
        DecodingOptions(3, True, "int8"),
        DecodingOptions(2, False, None),
        DecodingOptions(3, False, "int8"),
        DecodingOptions(3, True, "int8"),
    ]


@pytest.mark.parametrize(
    ("wrong", "message"), [({"batch_size": 0}, "`batch_size` must be at least 1"), ({"quantize": "int4"}, "'int4'")]
)
def test_options_out_of_range(pipeline, tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        pipeline("red square", **wrong)
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        TextToImagePipeline.from_pretrained(tmp_path, **wrong)


def test_a_prompt_is_tokenized_once(pipeline, monkeypatch):
    pipeline.settings = replace(pipeline.settings, can_caption=True)
    texts, encode = [], pipeline.vocabulary.encode_text
    monkeypatch.setattr(pipeline.vocabulary, "encode_text", lambda given: texts.extend(given) or encode(given))
    pipeline(PROMPTS, num_images_per_prompt=2, rerank=2)
    assert texts == PROMPTS


def test_spaces_do_not_matter(pipeline):
    spaced = pipeline("  red \n square ", temperature=0.0).codes
    assert torch.equal(spaced, pipeline("red square", temperature=0.0).codes)


@pytest.mark.parametrize("prompt", ["", "  \n", "\u200b", " \ufeff "])
def test_an_empty_prompt(pipeline, prompt):
    with pytest.raises(UserError, match="Prompt 1 is empty; .* None"):
        pipeline(["red square", prompt])


def test_a_prompt_that_is_too_long_is_cut(pipeline, vocabulary):
    ids = vocabulary.encode_text(["xyz" * 5])[0]
    left_out = vocabulary.decode_text(ids[8:])
    with pytest.warns(UserWarning, match=f"prompt has {len(ids)} tokens, this model reads 8; left out: '{left_out}'"):
        drawn = pipeline("xyz" * 5, temperature=0.0).codes
    assert torch.equal(drawn, pipeline(vocabulary.decode_text(ids[:8]), temperature=0.0).codes)
    with pytest.warns(UserWarning, match="left out"):
        pipeline("red square", negative_prompt="xyz" * 5)


def test_words_that_were_never_seen_are_said(pipeline, recwarn):
    pipeline("zebra crossing")  # an old folder records no words
    pipeline.settings = replace(pipeline.settings, known_words="red square")
    pipeline("red square")
    assert not [warning for warning in recwarn if "not know" in str(warning.message)]
    with pytest.warns(UserWarning, match="does not know zebra of the prompt 'zebra square'"):
        pipeline("zebra square")
    with pytest.warns(UserWarning, match="does not know zebra, crossing of the prompt"):
        pipeline("zebra crossing")


def test_an_empty_negative_prompt_is_none(pipeline):
    plain = pipeline(PROMPTS, temperature=0.0).codes
    assert torch.equal(pipeline(PROMPTS, negative_prompt="", temperature=0.0).codes, plain)
    assert torch.equal(pipeline(PROMPTS, negative_prompt=[" ", None], temperature=0.0).codes, plain)
    pipeline("red square", negative_prompt="", guidance_scale=1.0)


def test_a_seed_is_a_generator(pipeline):
    drawn = pipeline(PROMPTS, generator=seeded(42)).codes
    assert torch.equal(pipeline(PROMPTS, generator=42).codes, drawn)
    each = pipeline(PROMPTS, generator=[seeded(1), seeded(2)]).codes
    assert torch.equal(pipeline(PROMPTS, generator=[1, 2]).codes, each)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"generator": "42"}, "`generator` must be a torch.Generator, a seed from 0"),
        ({"generator": -1}, "`generator` must be .* found -1"),
        ({"num_images_per_prompt": 2.0}, "`num_images_per_prompt` must be a whole number, found 2.0 of type float"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, found 0"),
        ({"prompt": 3}, "`prompt` must be text, None or a list of them, found 3 of type int"),
        ({"prompt": ["red", b"blue"]}, "`prompt` must be text, .* found b'blue' of type bytes"),
        ({"prompt": "red", "negative_prompt": [1]}, "`negative_prompt` must be text"),
        ({"prompt": "red", "callback": 3}, r"`callback` must be callable, as `callback\(step, codes\)`; found 3"),
    ],
)
def test_arguments_of_a_wrong_kind(pipeline, unchecked_types, wrong, message):
    with pytest.raises(UserError, match=message):
        pipeline(**wrong)


def test_editing_takes_what_drawing_takes(pipeline):
    pictures, mask = pipeline(PROMPTS, generator=3).images, np.zeros((16, 16), np.uint8)
    mask[:8] = 255
    for edit in (
        lambda images, **given: pipeline.complete(images, "red square", **given),
        lambda images, **given: pipeline.inpaint(images, mask, "red square", candidates=2, **given),
        lambda images, **given: pipeline.vary(images, "red square", share=0.5, temperature=3.0, **given),
    ):
        alone = edit(pictures[:1], generator=7).codes
        assert torch.equal(edit(pictures, generator=7).codes[:1], alone)
        both = edit(pictures, generator=[5, 6]).codes
        assert torch.equal(edit(pictures[1:], generator=[6]).codes, both[1:])
        steps = []
        one_by_one = edit(pictures, generator=[5, 6], batch_size=1, callback=lambda step, _, to=steps: to.append(step))
        assert torch.equal(one_by_one.codes, both)
        assert steps
        other = edit(pictures, generator=[5, 6], negative_prompt="green circle", guidance_scale=20.0).codes
        assert not torch.equal(other, edit(pictures, generator=[5, 6], guidance_scale=20.0).codes)
        with pytest.raises(UserError, match="`generator` must be one, or one for each of the 2"):
            edit(pictures, generator=[1, 2, 3])


def test_masks_of_several_kinds(pipeline):
    (picture,), mask = pipeline("red square", generator=0).images, np.zeros((16, 16), bool)
    mask[4:9] = True
    first, *others = (
        pipeline.inpaint(picture, kind, candidates=1, generator=0).codes
        for kind in (
            mask,
            torch.from_numpy(mask),
            mask.astype(np.uint8) * 255,
            mask.astype(np.float32),
            mask.astype(np.uint16),
            mask.astype(np.int64),
            mask.astype(np.float16),
        )
    )
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": [["red"]]}, "`prompt` must be text, .* found \\['red'\\] of type list"),
        ({"prompt": [1.5]}, "`prompt` must be text, .* of type float"),
        ({"prompt": {"prompt": "red"}}, "`prompt` must be text, .* of type dict"),
        ({"num_images_per_prompt": True}, "`num_images_per_prompt` must be a whole number, found True"),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number"),
        ({"generator": 1.0}, "`generator` must be a torch.Generator, a seed"),
        ({"generator": [1, None]}, "`generator` must be a torch.Generator, a seed"),
        ({"generator": []}, "`generator` must be one, or one for each of the 1 pictures; found 0"),
        ({"guidance_scale": float("nan")}, "`guidance_scale` must lie in .*found nan"),
        ({"guidance_scale": -1.0}, "`guidance_scale` must lie in"),
        ({"temperature": float("inf")}, "`temperature` must not be negative or infinite, found inf"),
        ({"temperature": "hot"}, "`temperature` must be a number, found 'hot' of type str"),
        ({"temperature": [1.0]}, "`temperature` must be a number"),
        ({"top_p": float("nan")}, r"`top_p` must lie in \(0, 1\]"),
        ({"top_k": 2.5}, "`top_k` must be a whole number, found 2.5"),
        ({"min_p": -0.1}, r"`min_p` must lie in \[0, 1\]"),
        ({"rerank": 0}, "`rerank` must be at least 1"),
        ({"speculative": 0}, "`speculative` must be at least 1"),
        ({"speculative": 2.5}, "`speculative` must be a whole number"),
    ],
)
def test_further_arguments_of_a_wrong_kind(pipeline, unchecked_types, wrong, message):
    with pytest.raises(UserError, match=message):
        pipeline(**({"prompt": "red"} | wrong))


def test_wrong_arguments_of_editing(pipeline, unchecked_types):
    (picture,) = pipeline("red square", generator=0).images
    pipeline.settings = replace(pipeline.settings, can_caption=True)
    for call, message in (
        (lambda: pipeline.complete(picture, keep_rows=1.5), "`keep_rows` must be a whole number in .*found 1.5"),
        (lambda: pipeline.complete(picture, keep_rows=True), "`keep_rows` must be a whole number"),
        (lambda: pipeline.complete(picture, []), "`prompt` must be one, or one for each of the 1; found 0"),
        (lambda: pipeline.vary(picture, share=float("nan")), r"`share` must lie in \(0, 1\], found nan"),
        (lambda: pipeline.vary(picture, share="half"), "`share` must lie in"),
        (lambda: pipeline.vary(picture, candidates=0), "`candidates` must be at least 1"),
        (lambda: pipeline.inpaint(picture, "mask.png"), "`mask` must be a PIL picture, or an array .*found str"),
        (lambda: pipeline.inpaint(picture, np.array(["a"])), "`mask` must be a PIL picture, or an array"),
        (lambda: pipeline.inpaint(picture, None), "`mask` must be a PIL picture, .*found NoneType"),
        (lambda: pipeline.inpaint(picture, np.ones((16, 16, 3))), "`mask` must be 16 high and 16 wide"),
        (lambda: pipeline.inpaint(picture, np.zeros((16, 16))), "`mask` is empty"),
        (lambda: pipeline.inpaint(picture, np.full((16, 16), np.nan)), "`mask` is empty"),
        (lambda: pipeline.caption(picture, temperature=-1.0), "`temperature` must not be negative"),
        (lambda: pipeline.caption(picture, batch_size=0), "`batch_size` must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            call()


@pytest.mark.parametrize("number", [0, -1])
def test_no_pictures_a_prompt(pipeline, number):
    with pytest.raises(UserError, match=f"`num_images_per_prompt` must be at least 1, found {number}"):
        pipeline("red square", num_images_per_prompt=number)


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("batch_size", [64, 2])
def test_a_list_of_generators_has_one_per_picture(pipeline, number, batch_size):
    with pytest.raises(UserError, match="`generator` must be one, or one for each"):
        pipeline(PROMPTS, num_images_per_prompt=2, generator=[seeded(n) for n in range(number)], batch_size=batch_size)
