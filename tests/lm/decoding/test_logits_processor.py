"""Which ids may follow in a mixed row, each row by its own state; stock generate with the processor."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from vqlm.data_prep.segments import segments_of
from vqlm.data_prep.sequences import caption_ids, prompt_ids
from vqlm.lm.decoding.draw import draw_codes
from vqlm.lm.decoding.logits_processor import FULL, INSIDE, OUTSIDE, OVER, MixedRowLogitsProcessor, text_mask
from vqlm.lm.settings import SamplingConfig

PER_IMAGE = 3
PAD, BOS, EOS, BOI, EOI, FIRST_CODE, A = 0, 1, 2, 259, 260, 261, 67


@pytest.fixture
def processor(byte_vocabulary) -> MixedRowLogitsProcessor:
    return MixedRowLogitsProcessor(byte_vocabulary, PER_IMAGE)


def test_captions_are_text_without_special_tokens(byte_vocabulary):
    legal = text_mask(byte_vocabulary)
    assert legal.nonzero().flatten().tolist() == list(range(3, 259))


@pytest.mark.parametrize(
    ("row", "state"),
    [
        ([BOS], OUTSIDE),
        ([PAD, PAD, BOS], OUTSIDE),
        ([BOS, A], OUTSIDE),
        ([BOS, A, BOI], INSIDE),
        ([BOI, 261, 262], INSIDE),
        ([BOI, 261, 262, 263], FULL),
        ([BOI, 261, 262, 263, EOI], OUTSIDE),
        ([BOI, 261, 262, 263, EOI, A, BOI], INSIDE),
        ([BOS, EOS], OVER),
        ([BOI, 261, 262, 263, EOI, EOS], OVER),
        ([BOS, A, EOS, PAD], OVER),
    ],
)
def test_states_by_hand(processor, row, state):
    assert processor.states(torch.tensor([row])).tolist() == [state]


def test_every_row_has_its_own_state(processor):
    rows = torch.tensor(
        [[PAD, PAD, BOS, A, BOI], [BOS, BOI, 261, 262, 263], [BOI, 261, 261, 261, EOI], [PAD, PAD, BOS, A, EOS]]
    )
    legal = processor(rows, torch.zeros(4, 277)).isfinite()
    assert legal[0].nonzero().flatten().tolist() == list(range(261, 277))
    assert legal[1].nonzero().flatten().tolist() == [EOI]
    assert legal[2].nonzero().flatten().tolist() == [EOS, *range(3, 259), BOI]
    assert legal[3].nonzero().flatten().tolist() == [PAD]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_greedy_generate_draws_what_the_pipeline_draws(build_tiny, vocabulary, architecture):
    model, captions = build_tiny(architecture), ["red square", "blue square"]
    prompts = prompt_ids(vocabulary, caption_ids(vocabulary, captions, 8))
    assert len({len(prompt) for prompt in prompts}) == 1
    ours = draw_codes(model, vocabulary, prompts, 6, SamplingConfig(temperature=0.0))
    ids = model.generate(
        torch.tensor(prompts), attention_mask=torch.ones(2, len(prompts[0])), max_new_tokens=7, do_sample=False,
        logits_processor=[MixedRowLogitsProcessor(vocabulary, 6)],
    )[:, len(prompts[0]) :]  # fmt: skip
    assert torch.equal(vocabulary.ids_to_codes(ids[:, :6]), ours)
    assert ids[:, 6].tolist() == [vocabulary.eoi] * 2


def test_the_folders_generation_config_and_the_processor(pipeline, vocabulary, tmp_path):
    pipeline.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = torch.tensor(prompt_ids(vocabulary, caption_ids(vocabulary, ["red square"], 8)))
    ids = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), logits_processor=[MixedRowLogitsProcessor(vocabulary, 16)],
        suppress_tokens=None, max_new_tokens=17, do_sample=False,
    )[0, prompt.shape[1] :]  # fmt: skip
    drawn = pipeline("red square", temperature=0.0, guidance_scale=1.0, min_p=0.0).codes.flatten()
    assert torch.equal(vocabulary.ids_to_codes(ids[:16]), drawn)
    assert ids[16] == vocabulary.eoi


def test_a_document_drawn_at_random_parses(build_tiny, vocabulary):
    torch.manual_seed(3)
    start = torch.full((8, 1), vocabulary.bos)
    rows = build_tiny().generate(
        start, attention_mask=torch.ones_like(start), max_new_tokens=50, do_sample=True, temperature=3.0,
        logits_processor=[MixedRowLogitsProcessor(vocabulary, 4)], eos_token_id=vocabulary.eos,
    ).tolist()  # fmt: skip
    pictures = 0
    for row in rows:
        ids = [id for id in row if id != vocabulary.pad]
        if ids[-1] != vocabulary.eos:
            while vocabulary.boi in ids and len(ids) - max(i for i, x in enumerate(ids) if x == vocabulary.boi) < 6:
                ids = ids[: max(i for i, x in enumerate(ids) if x == vocabulary.boi)]  # the picture that was cut
            ids.append(vocabulary.eos)
        for segment in segments_of(vocabulary, ids):
            if segment.modality == "image":
                pictures += 1
                assert len(segment.content) == 4
    assert pictures
