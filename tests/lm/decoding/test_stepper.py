"""Rows that come and go draw what they draw alone: every setting, any order, a cache that is used again."""

import pytest
import torch

from vqlm.data_prep.sequences import caption_ids, prompt_ids
from vqlm.lm.decoding.draw import UNKNOWN, draw_codes
from vqlm.lm.decoding.sampling import draw_uniform
from vqlm.lm.decoding.slots import LlamaSlots
from vqlm.lm.decoding.stepper import Row, Stepper
from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError

NUM_CODES = 12
CAPTIONS = ["red square", None, "a green circle beside a blue one", "red", "black circle", "blue"]
SETTINGS = {
    "plain": SamplingConfig(),
    "guidance": SamplingConfig(guidance_scale=2.5),
    "no weight of the prompt": SamplingConfig(guidance_scale=0.0),
    "greedy": SamplingConfig(temperature=0.0, guidance_scale=1.5),
    "temperature": SamplingConfig(temperature=0.5),
    "top-k": SamplingConfig(top_k=3),
    "top-p": SamplingConfig(top_p=0.7, guidance_scale=2.0),
    "min-p": SamplingConfig(min_p=0.1),
    "schedule": SamplingConfig(guidance_scale=3.0, guidance_schedule="cosine"),
}


@pytest.fixture
def prompts(vocabulary) -> list[list[int]]:
    return prompt_ids(vocabulary, caption_ids(vocabulary, CAPTIONS, 20))


def uniform_of(seed: int, device: str = "cpu") -> torch.Tensor:
    return draw_uniform(1, NUM_CODES, torch.Generator().manual_seed(seed), torch.device(device))[0]


def alone(model, vocabulary, row: Row, seed: int) -> list[int]:
    known = None if row.known is None else row.known[None]
    negative = None if row.negative_prompt is None else [row.negative_prompt]
    return draw_codes(
        model, vocabulary, [row.prompt], NUM_CODES, row.settings, torch.Generator().manual_seed(seed), known=known,
        negative_prompts=negative,
    )[0].tolist()  # fmt: skip


def run(stepper: Stepper, arrivals: dict[int, list[Row]]) -> None:
    """`arrivals`: the rows that join before each step."""
    finished, step = [], 0
    while arrivals or stepper.rows:
        stepper.join(arrivals.pop(step, []))
        finished += stepper.step()
        step += 1
    assert len({id(row) for row in finished}) == len(finished)
    assert all(row.is_finished for row in finished)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("name", SETTINGS)
def test_rows_that_join_between_steps_draw_what_they_draw_alone(build_tiny, vocabulary, prompts, architecture, name):
    model = build_tiny(architecture)
    rows = [Row(prompt, SETTINGS[name], uniform_of(seed)) for seed, prompt in enumerate(prompts)]
    stepper = Stepper(model, vocabulary, NUM_CODES, max_slots=12, max_prompt=40)
    run(stepper, {0: rows[:1], 1: rows[1:3], 5: rows[3:4], NUM_CODES: rows[4:5], 40: rows[5:]})
    for seed, row in enumerate(rows):
        assert row.codes == alone(model, vocabulary, row, seed)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_rows_with_different_settings_share_a_step(build_tiny, vocabulary, prompts, architecture):
    model = build_tiny(architecture)
    rows = [Row(prompts[n % 6], settings, uniform_of(n)) for n, settings in enumerate(SETTINGS.values())]
    run(Stepper(model, vocabulary, NUM_CODES, 18, 40), {0: rows[:4], 3: rows[4:6], 7: rows[6:]})
    for seed, row in enumerate(rows):
        assert row.codes == alone(model, vocabulary, row, seed)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_negative_prompts_and_known_codes(build_tiny, vocabulary, prompts, architecture):
    model, guided = build_tiny(architecture), SETTINGS["guidance"]
    begun, holes, whole = (torch.full((NUM_CODES,), UNKNOWN) for _ in range(3))
    begun[:5] = torch.arange(5)
    holes[2::3] = 7
    whole[:] = torch.arange(NUM_CODES)
    rows = [
        Row(prompts[0], guided, uniform_of(0), negative_prompt=prompts[2]),
        Row(prompts[2], guided, uniform_of(1), negative_prompt=prompts[3], known=begun),
        Row(prompts[3], SETTINGS["plain"], uniform_of(2), known=begun),
        Row(prompts[4], guided, uniform_of(3), known=holes),
        Row(prompts[5], SETTINGS["plain"], uniform_of(4), known=whole),
    ]
    run(Stepper(model, vocabulary, NUM_CODES, 12, 40), {0: rows[:1], 2: rows[1:4], 4: rows[4:]})
    for seed, row in enumerate(rows):
        assert row.codes == alone(model, vocabulary, row, seed)
        assert all(known in (UNKNOWN, code) for known, code in zip(row.known_codes, row.codes, strict=True))
    assert rows[4].codes == list(range(NUM_CODES))


def test_a_row_that_leaves_early_disturbs_no_other(build_tiny, vocabulary, prompts):
    model = build_tiny()
    rows = [Row(prompt, SETTINGS["guidance"], uniform_of(seed)) for seed, prompt in enumerate(prompts)]
    stepper = Stepper(model, vocabulary, NUM_CODES, 12, 40)
    stepper.join(rows)
    for step in range(NUM_CODES):
        if step == 4:
            stepper.leave([rows[0], rows[3]])
            assert stepper.free_slots == 4
        stepper.step()
    assert stepper.free_slots == 12
    for seed in (1, 2, 4, 5):
        assert rows[seed].codes == alone(model, vocabulary, rows[seed], seed)
    assert len(rows[0].codes) == 4


def test_the_cache_is_taken_once_and_used_again(build_tiny, vocabulary, prompts):
    """Far more steps than it has places, with a row in it at all times, so that the clock is turned back."""
    model = build_tiny()
    stepper = Stepper(model, vocabulary, NUM_CODES, 6, 40)
    slots = stepper._slots
    assert isinstance(slots, LlamaSlots)
    memory = [kept.data_ptr() for layer in slots.cache for kept in layer]
    rows = [Row(prompts[seed % 6], SETTINGS["guidance"], uniform_of(seed)) for seed in range(40)]
    arrivals = {5 * n: [row] for n, row in enumerate(rows)}
    assert 5 * len(rows) > 2 * slots.length
    run(stepper, arrivals)
    assert memory == [kept.data_ptr() for layer in slots.cache for kept in layer]
    for seed, row in enumerate(rows):
        assert row.codes == alone(model, vocabulary, row, seed)


def test_bf16_logits_stay_near(build_tiny, vocabulary, prompts):
    """In bf16 a product may depend on the number of its rows: logits of a row that joined differ from those of the row
    alone by less than a twentieth of their spread."""
    model = build_tiny().to(torch.bfloat16)
    rows = [prompts[0], prompts[2], prompts[3]]
    together, by_itself = (Stepper(model, vocabulary, NUM_CODES, 8, 40)._slots for _ in range(2))
    together.join(rows[:2])
    together.step(torch.tensor([vocabulary.image.offset] * 2))
    late = together.join(rows[2:])
    ids = torch.randint(
        vocabulary.image.offset, vocabulary.image.stop, (6, 3), generator=torch.Generator().manual_seed(1)
    )
    made = [late[0]] + [together.step(step)[2] for step in ids]
    expected = [by_itself.join(rows[2:])[0]] + [by_itself.step(step[2:])[0] for step in ids]
    difference = torch.stack(made) - torch.stack(expected)
    assert difference.abs().max() < 0.05 * torch.stack(expected).std()


def test_what_does_not_fit(build_tiny, vocabulary, prompts):
    stepper = Stepper(build_tiny(), vocabulary, NUM_CODES, 3, 6)
    row = Row(prompts[0][:4], SETTINGS["guidance"], uniform_of(0))
    stepper.join([row])
    with pytest.raises(UserError, match="2 slots are needed, 1 of 3 are free"):
        stepper.join([Row([1, 2], SETTINGS["guidance"], uniform_of(0))])
    with pytest.raises(UserError, match="has 7 ids, this stepper takes at most 6"):
        stepper.join([Row([1] * 7, SETTINGS["plain"], uniform_of(0))])
    with pytest.raises(UserError, match="must have 12 numbers, one per code; found 3"):
        stepper.join([Row([1, 2], SETTINGS["plain"], torch.rand(3))])


@pytest.mark.usefixtures("unchecked_types")
def test_known_codes_of_another_picture():
    with pytest.raises(UserError, match="known has 2 codes, uniform 12"):
        Row([1, 2], SETTINGS["plain"], uniform_of(0), known=torch.zeros(2, dtype=torch.int64))


def test_damaged_weights(build_tiny, vocabulary, prompts):
    model = build_tiny()
    model.get_output_embeddings().weight.data[vocabulary.image.offset] = float("nan")
    stepper = Stepper(model, vocabulary, NUM_CODES, 3, 40)
    stepper.join([Row(prompts[0], SETTINGS["plain"], uniform_of(0))])
    with pytest.raises(UserError, match="not finite"):
        stepper.step()


def test_a_model_without_a_cache_of_every_id(vocabulary, build_tiny):
    model = build_tiny("mistral", extra={"sliding_window": 4, "initializer_range": 0.3})
    with pytest.raises(UserError, match="keeps no cache of every id"):
        Stepper(model, vocabulary, NUM_CODES, 3, 40)
