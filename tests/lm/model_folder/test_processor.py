"""Texts and pictures to the ids that a model is trained on, and back; AutoProcessor's folder."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, LlamaConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from vqlm.data_prep import RowCollator, SequenceConfig
from vqlm.data_prep.sequences import caption_ids, left_pad, picture_ids, prompt_ids
from vqlm.lm import TextToImagePipeline, TextToImageProcessor
from vqlm.training.errors import UserError

SIDE, NUM_CODES, LONGEST = 16, 16, 8
CAPTIONS = ["red square", "a green circle"]


@pytest.fixture
def processor(vocabulary, attributed_vqvae) -> TextToImageProcessor:
    return TextToImageProcessor(vocabulary, attributed_vqvae, LONGEST)


@pytest.fixture
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    return [Image.fromarray(array) for array in noise]


@pytest.fixture
def codes(pipeline, pictures) -> torch.Tensor:
    return pipeline.encode(pictures)


def trained_rows(vocabulary, codes, config: SequenceConfig | None, packs: bool = False) -> list[list[int]]:
    """The rows of `CAPTIONS` as stage two reads them; what it reads of a row is all but its eos."""
    rows = [
        {"caption": text, "codes": picture_codes.numpy()} for text, picture_codes in zip(CAPTIONS, codes, strict=True)
    ]
    collate = RowCollator(vocabulary, LONGEST, config)
    if packs:
        return [[*collate([rows]).input_ids[0].tolist(), vocabulary.eos]]
    return [[*collate([[row]]).input_ids[0].tolist(), vocabulary.eos] for row in rows]


def unchanged(**shares: float) -> SequenceConfig:
    return SequenceConfig(caption_dropout=0.0, code_noise=0.0, **shares)


def rows_of(inputs) -> list[list[int]]:
    """Without the padding on the left."""
    masked = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in masked]


# To ids


def test_rows_with_the_caption_first(processor, vocabulary, pictures, codes):
    inputs = processor(text=[f"{text}<image>" for text in CAPTIONS], images=pictures)
    assert rows_of(inputs) == trained_rows(vocabulary, codes, None)
    assert rows_of(inputs)[0][-2:] == [vocabulary.eoi, vocabulary.eos]


def test_rows_with_the_picture_first(processor, vocabulary, pictures, codes):
    inputs = processor(text=[f"<image>\n {text} " for text in CAPTIONS], images=[[picture] for picture in pictures])
    assert rows_of(inputs) == trained_rows(vocabulary, codes, unchanged(captioning=1.0))


def test_a_document_of_several_pictures(processor, vocabulary, pictures, codes):
    inputs = processor(text="".join(f"{text}<image>" for text in CAPTIONS), images=pictures)
    assert rows_of(inputs) == trained_rows(vocabulary, codes, unchanged(interleaved=1.0), packs=True)


def test_a_picture_without_a_caption(processor, vocabulary, pictures, codes):
    (row,) = rows_of(processor(text="<image>", images=pictures[0]))
    assert row == [*picture_ids(vocabulary, codes[:1])[0].tolist(), vocabulary.eos]


def test_prompts_to_draw(processor, vocabulary):
    inputs = processor(text=[*CAPTIONS, None])
    ids, mask, _ = left_pad(prompt_ids(vocabulary, caption_ids(vocabulary, [*CAPTIONS, None], LONGEST)), vocabulary.pad)
    assert torch.equal(inputs["input_ids"], ids)
    assert torch.equal(inputs["attention_mask"], mask.long())
    assert inputs["input_ids"].dtype == inputs["attention_mask"].dtype == torch.int64
    assert rows_of(inputs)[2] == [vocabulary.bos, vocabulary.boi]


def test_pictures_to_describe(processor, vocabulary, pictures, codes):
    assert torch.equal(processor(images=pictures)["input_ids"], picture_ids(vocabulary, codes))
    assert torch.equal(processor(pictures[0])["input_ids"], picture_ids(vocabulary, codes[:1]))


def test_the_forms_of_the_result(processor):
    lists = processor(text=CAPTIONS, padding=False, return_tensors=None)
    assert lists["input_ids"] == rows_of(processor(text=CAPTIONS))
    assert lists["attention_mask"] == [[1] * len(row) for row in lists["input_ids"]]
    assert isinstance(processor(text=CAPTIONS, return_tensors="np")["input_ids"], np.ndarray)


def test_codes_spelled_in_a_text_stay_text(processor, vocabulary):
    (row,) = rows_of(processor(text="<eos>"))
    assert row[1:-1] == vocabulary.encode_text(["<eos>"])[0]
    assert vocabulary.eos not in row
    assert max(row[1:-1]) < vocabulary.text_size


def test_truncation(processor, vocabulary, pictures):
    long = "xyz" * 5
    ids = vocabulary.encode_text([long])[0]
    left_out = vocabulary.decode_text(ids[LONGEST:])
    with pytest.warns(
        UserWarning, match=f"prompt has {len(ids)} tokens, this model reads {LONGEST}; left out: '{left_out}'"
    ):
        cut = processor(text=long)
    with pytest.warns(UserWarning, match=f"prompt has {len(ids)} tokens"):
        processor(text=f"{long}<image>", images=pictures[0])
    prompts = prompt_ids(vocabulary, caption_ids(vocabulary, [long], LONGEST))
    assert rows_of(cut) == prompts
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows_of(processor(text=long, truncation=True)) == prompts
    (row,) = rows_of(processor(text=f"{long}<image>", images=pictures[0], truncation=True))
    assert row[: LONGEST + 2] == prompts[0]


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        (["red<image>", "blue<image>"], 1, "hold 2 <image> for 1 pictures; give one picture for each <image>"),
        (["red<image>"], 2, "hold 1 <image> for 2 pictures"),
        (["red<image>"], 0, "hold 1 <image> for 0 pictures; .* the text alone to have a picture drawn"),
        (["red"], 1, "hold 0 <image> for 1 pictures"),
        (["red", " "], 0, "Prompt 1 is empty; .* None"),
        (None, 0, "nothing to process"),
    ],
)
def test_texts_and_pictures_that_do_not_match(processor, pictures, text, count, message):
    with pytest.raises(UserError, match=message):
        processor(text=text, images=pictures[:count] or None)


def test_lists_of_pictures_that_do_not_match(processor, pictures):
    with pytest.raises(UserError, match=r"hold \[1, 1\] <image>, their lists \[2, 0\] pictures"):
        processor(text=["red<image>", "blue<image>"], images=[pictures, []])


# Back


def test_rows_come_back(processor, pipeline, pictures, codes):
    inputs = processor(text=["a red square<image>", "<image>blue"], images=pictures)
    first, second = processor.post_process_generation(inputs["input_ids"])
    drawn = pipeline.decode(pipeline.image_tokenizer.unflatten_codes(codes))
    assert first[0] == "red square"  # the tokenizer leaves the article out
    assert first[1].tobytes() == drawn[0].tobytes()
    assert second[0].tobytes() == drawn[1].tobytes()
    assert second[1] == "blue"


def test_what_stock_generate_draws(processor, pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = model.generate(**processor(text=[*CAPTIONS, None]), do_sample=False)
    segments = processor.post_process_generation(ids)
    ours = pipeline([*CAPTIONS, None], temperature=0.0, guidance_scale=1.0, min_p=0.0).images
    assert [row[:-1] for row in segments] == [["red square"], ["green circle"], []]
    assert [row[-1].tobytes() for row in segments] == [picture.tobytes() for picture in ours]
    assert processor.batch_decode(ids, skip_special_tokens=True)[0].strip() == CAPTIONS[0]


def test_a_picture_that_is_not_finished(processor, pictures):
    row = processor(text="red<image>", images=pictures[0])["input_ids"]
    with pytest.raises(UserError, match=f"A picture has {NUM_CODES} codes, found {NUM_CODES - 2}; .*max_new_tokens"):
        processor.post_process_generation(row[:, :-4])


# Files


def test_auto_processor_loads_the_model_folder(processor, pipeline, pictures, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, TextToImageProcessor)
    assert loaded.max_caption_tokens == LONGEST
    assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    arguments = {"text": ["red<image>", "<image>blue"], "images": pictures}
    assert torch.equal(loaded(**arguments)["input_ids"], processor(**arguments)["input_ids"])
    assert "max_caption_tokens" in repr(loaded)


def test_a_processor_saved_alone(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(str(tmp_path))
    assert torch.equal(loaded(text=CAPTIONS)["input_ids"], processor(text=CAPTIONS)["input_ids"])
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == processor.vocabulary.size


def test_unknown_arguments_are_refused(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaders: list[Any] = [TextToImageProcessor.from_pretrained, AutoProcessor.from_pretrained]
    for load in loaders:
        with pytest.raises(UserError, match="`from_pretrained` has no argument 'revison'; did you mean `revision`"):
            load(tmp_path, revison="main")
        assert load(tmp_path, trust_remote_code=False, local_files_only=True).vocabulary.size


def test_other_models_of_the_architecture_keep_their_own_processor():
    assert LlamaConfig not in PROCESSOR_MAPPING


def test_parts_that_do_not_belong_together(processor, pipeline, other_vqvae, tmp_path):
    pipeline.save_pretrained(tmp_path)
    other_vqvae.save_pretrained(tmp_path / "image_tokenizer")
    for load in (AutoProcessor.from_pretrained, TextToImagePipeline.from_pretrained):
        with pytest.raises(UserError, match="image_tokenizer in .*; they do not belong together") as caught:
            load(str(tmp_path))
        assert other_vqvae.fingerprint() in str(caught.value)
        assert processor.image_tokenizer.fingerprint() in str(caught.value)
