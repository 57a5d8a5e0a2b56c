"""The training loss by hand on a model of fixed logits; what noise and padding may not change."""

import math

import numpy as np
import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from vqlm.data_prep.sequences import IGNORED, PackShape, RowCollator
from vqlm.data_prep.settings import SequenceConfig
from vqlm.lm.code_embeddings import similar_codes
from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.lm.probes import has_plain_head
from vqlm.lm.settings import LMTrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.machine.compiling import compile_failure

BOS, EOS, BOI, EOI, FIRST_CODE = 1, 2, 259, 260, 261
SIZE, A = 277, 67
LOG2 = math.log(2)


class FixedLogits(PreTrainedModel):
    """Answers `logits` (P, T, V) whatever it is asked, and keeps what it was asked."""

    config_class = PreTrainedConfig

    def __init__(self, logits: torch.Tensor):
        super().__init__(PreTrainedConfig())
        self.logits = torch.nn.Parameter(logits)

    def get_decoder(self):
        return None

    def get_output_embeddings(self):
        return None

    def forward(self, **inputs):
        self.inputs = inputs
        return CausalLMOutput(logits=self.logits)


# One pack of two rows, `bos A boi 3 15 eoi` and `bos boi 0 9 eoi`, and a place of padding. What each place predicts:
INPUT_IDS = torch.tensor([[BOS, A, BOI, 264, 276, EOI, BOS, BOI, 261, 270, EOI, 0]])
TARGETS = [A, BOI, 264, 276, EOI, EOS, BOI, 261, 270, EOI, EOS]
# Halvings of the probability of each target.
HALVINGS = [1, 2, 3, 4, 5, 6, 1, 2, 3, 1, 2]
CODE_PLACES, TEXT_PLACES = [2, 3, 7, 8], [0, 1, 4, 5, 6, 9, 10]


def logits_of_halvings() -> torch.Tensor:
    """(1, T, V). A target has the probability 2^-halvings among the ids that can stand at its place: the codes where a
    code is predicted, all other ids elsewhere. The ids that cannot stand there are the likeliest of all."""
    logits = torch.full((*INPUT_IDS.shape, SIZE), 50.0)
    for place, (target, halvings) in enumerate(zip(TARGETS, HALVINGS, strict=True)):
        allowed = slice(FIRST_CODE, SIZE) if place in CODE_PLACES else slice(0, FIRST_CODE)
        number = len(range(SIZE)[allowed])
        probability = 2.0**-halvings
        logits[0, place, allowed] = math.log((1 - probability) / (number - 1))
        logits[0, place, target] = math.log(probability)
    return logits


def batch_by_hand() -> dict[str, torch.Tensor]:
    """With two places more than there are codes, and three more than there are texts."""
    return {
        "input_ids": INPUT_IDS,
        "position_ids": torch.tensor([[*range(6), *range(5), 0]]),
        "code_places": torch.tensor([*CODE_PLACES, 0, 0]),
        "code_targets": torch.tensor([*(TARGETS[place] - FIRST_CODE for place in CODE_PLACES), IGNORED, IGNORED]),
        "text_places": torch.tensor([*TEXT_PLACES, 0, 0, 0]),
        "text_targets": torch.tensor([*(TARGETS[place] for place in TEXT_PLACES), *[IGNORED] * 3]),
    }


def test_loss_by_hand(byte_vocabulary):
    objective = WeightedCrossEntropy(FixedLogits(logits_of_halvings()), byte_vocabulary, 0.1, image_weight=1.0)
    losses = objective(**batch_by_hand())
    codes, rest = 3 + 4 + 2 + 3, 1 + 2 + 5 + 6 + 1 + 1 + 2
    assert losses.image_nll.item() == pytest.approx(codes / 4 * LOG2, rel=1e-5)
    assert losses.text_nll.item() == pytest.approx(rest / 7 * LOG2, rel=1e-5)
    assert losses.loss.item() == pytest.approx((codes + 0.1 * rest) / (4 + 0.1 * 7) * LOG2, rel=1e-5)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize(("weights", "learns"), [((0.0, 1.0), CODE_PLACES), ((1.0, 0.0), TEXT_PLACES)])
def test_each_term_teaches_its_own_places(byte_vocabulary, weights, learns, label_smoothing):
    model = FixedLogits(logits_of_halvings())
    WeightedCrossEntropy(model, byte_vocabulary, *weights, label_smoothing)(**batch_by_hand()).loss.backward()
    assert model.logits.grad[0].abs().amax(-1).nonzero().flatten().tolist() == learns


def test_the_model_sees_noise_and_learns_the_clean_codes(byte_vocabulary):
    model = FixedLogits(logits_of_halvings())
    objective = WeightedCrossEntropy(model, byte_vocabulary, text_weight=0.1, image_weight=1.0)
    clean = batch_by_hand()
    noisy = {**clean, "input_ids": clean["input_ids"].clone()}
    noisy["input_ids"][:, 3:5] = 265
    assert objective(**noisy).loss.item() == objective(**clean).loss.item()
    assert torch.equal(model.inputs["input_ids"], clean["input_ids"])
    other = clean["code_targets"].clone()
    other[0] = 4
    assert objective(**(clean | {"code_targets": other})).image_nll.item() != objective(**clean).image_nll.item()


def test_packed_rows_are_told_apart_by_positions_and_no_mask(byte_vocabulary):
    model = FixedLogits(logits_of_halvings())
    WeightedCrossEntropy(model, byte_vocabulary, text_weight=0.1, image_weight=1.0)(**batch_by_hand())
    assert model.inputs.keys() == {"input_ids", "position_ids", "use_cache"}
    assert model.inputs["use_cache"] is False


@pytest.mark.parametrize("kind", ["code", "text"])
def test_nothing_to_learn_from_is_no_nan(byte_vocabulary, kind):
    objective = WeightedCrossEntropy(FixedLogits(logits_of_halvings()), byte_vocabulary, 0.1, image_weight=1.0)
    batch = batch_by_hand()
    batch[f"{kind}_targets"].fill_(IGNORED)
    losses = objective(**batch)
    nothing, rest = (losses.text_nll, losses.image_nll) if kind == "text" else (losses.image_nll, losses.text_nll)
    assert nothing.item() == 0
    assert losses.loss.item() == pytest.approx(rest.item())


# Against a real model


def row(caption: str | None, codes: list[int]) -> dict:
    return {"caption": caption, "codes": np.array(codes)}


ROWS = [
    row("red square", [3, 1, 4, 1, 5]),
    row("red", [9, 2, 6, 5, 3]),
    row("a green circle", [5, 8, 9, 7, 9]),
]


@pytest.fixture
def objective_of(vocabulary):
    def objective(model, **smoothing):
        return WeightedCrossEntropy(model, vocabulary, text_weight=0.3, image_weight=1.0, **smoothing)

    return objective


@pytest.fixture
def collate(vocabulary):
    def packed(*packs, shape=None):
        return vars(RowCollator(vocabulary, 8, None)(packs, shape))

    return packed


def log_probs_of_codes(model, vocabulary, batch) -> torch.Tensor:
    """(5, K), of the batch's only row, by a forward without anything of ours."""
    ids, image = batch["input_ids"], vocabulary.image
    first = ids.shape[1] - 6  # of the codes, which eoi follows
    return model(input_ids=ids).logits[0, first - 1 : first + 4, image.offset : image.stop].log_softmax(-1)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_the_short_head_equals_the_whole_one(build_tiny, collate, objective_of, architecture):
    objective = objective_of(build_tiny(architecture))
    assert objective.has_plain_head
    batch = collate(ROWS[:2], ROWS[2:])
    short = objective(**batch)
    objective.has_plain_head = False
    for ours, whole in zip(short, objective(**batch), strict=True):
        torch.testing.assert_close(ours, whole)


def test_image_nll_against_plain_log_softmax(build_tiny, vocabulary, collate, objective_of):
    model, batch = build_tiny(), collate(ROWS[:1])
    log_probs = log_probs_of_codes(model, vocabulary, batch)
    by_hand = -sum(log_probs[step, code].item() for step, code in enumerate(ROWS[0]["codes"])) / 5
    assert objective_of(model)(**batch).image_nll.item() == pytest.approx(by_hand, rel=1e-4)


def test_a_head_that_bends_its_logits_is_not_plain(build_tiny):
    model = build_tiny("gemma2", extra={"initializer_range": 0.02, "head_dim": 16})
    assert model.config.final_logit_softcapping
    assert not has_plain_head(model)


def test_noise_in_the_rows_reaches_the_model(build_tiny, vocabulary, collate, objective_of):
    objective = objective_of(build_tiny())
    noise = SequenceConfig(caption_dropout=0.0, word_dropout=0.0, code_noise=1.0)
    noisy, clean = vars(RowCollator(vocabulary, 8, noise)([ROWS])), collate(ROWS)
    assert torch.equal(noisy["code_targets"], clean["code_targets"])
    assert objective(**noisy).image_nll.item() != objective(**clean).image_nll.item()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_types")  # the checks of types cannot be compiled
def test_compiled_equals_plain(build_tiny, collate, objective_of):
    if failure := compile_failure(torch.device("cpu")):  # takes seconds, hence not where the tests are collected
        pytest.skip(f"torch.compile does not work here: {failure}")
    model = build_tiny(num_hidden_layers=3)
    model.set_attn_implementation("eager")
    objective = objective_of(model)
    batch = collate(ROWS, ROWS[1:])

    def made_and_gradients():
        model.zero_grad()
        losses = objective(**batch)
        losses.loss.backward()
        return losses, [weight.grad for weight in model.parameters()]

    plain = made_and_gradients()
    objective.compile_parts()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    torch.testing.assert_close(made_and_gradients(), plain, atol=1e-4, rtol=0)
    # The blocks share one, the last norm and the loss have one each.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3


def smoothed(log_probs: torch.Tensor, expected_of) -> torch.Tensor:
    """The mean over the codes of ROWS[0] of 0.75 of a code's term and 0.25 of `expected_of(place, code)`."""
    codes = ROWS[0]["codes"]
    terms = [0.75 * log_probs[place, code] + 0.25 * expected_of(place, code) for place, code in enumerate(codes)]
    return -sum(terms) / len(codes)


SHAPE = PackShape(24, packs=1, max_rows=2, longest_caption=8, row_overhead=8, tokens_per_image=5)


@pytest.mark.parametrize("shape", [None, SHAPE])  # smoothing must not count the places that are left over
def test_label_smoothing_mixes_in_all_codes_in_training_only(build_tiny, vocabulary, collate, shape):
    model = build_tiny()
    plain, smooth = (WeightedCrossEntropy(model, vocabulary, 0.0, 1.0, label_smoothing=rate) for rate in (0.0, 0.25))
    log_probs = log_probs_of_codes(model, vocabulary, collate(ROWS[:1]))
    batch = collate(ROWS[:1], shape=shape)
    losses = smooth.train()(**batch)
    torch.testing.assert_close(losses.loss, smoothed(log_probs, lambda place, _code: log_probs[place].mean()))
    torch.testing.assert_close(losses.image_nll, plain(**batch).image_nll)
    torch.testing.assert_close(smooth.eval()(**batch).loss, plain(**batch).loss)


@pytest.mark.parametrize("shape", [None, SHAPE])
def test_neighbor_smoothing_mixes_in_similar_codes_in_training_only(build_tiny, vocabulary, collate, shape):
    model = build_tiny()
    similar = similar_codes(torch.randn(vocabulary.image.size, 3, generator=torch.Generator().manual_seed(0)))
    plain, smooth = (
        WeightedCrossEntropy(model, vocabulary, 0.0, 1.0, neighbor_smoothing=rate, similar=similar)
        for rate in (0.0, 0.25)
    )
    log_probs = log_probs_of_codes(model, vocabulary, collate(ROWS[:1]))
    batch = collate(ROWS[:1], shape=shape)
    losses = smooth.train()(**batch)
    expected = smoothed(log_probs, lambda place, code: similar.weights[code] @ log_probs[place, similar.codes[code]])
    torch.testing.assert_close(losses.loss, expected)
    torch.testing.assert_close(losses.image_nll, plain(**batch).image_nll)
    torch.testing.assert_close(smooth.eval()(**batch).loss, plain(**batch).loss)


def test_smoothing_leaves_the_code_a_share():
    with pytest.raises(UserError, match="must sum to less than 1"):
        LMTrainingConfig(label_smoothing=0.5, neighbor_smoothing=0.5)


def test_captions_behind_their_picture_have_a_weight_of_their_own(byte_vocabulary, build_tiny):
    model = FixedLogits(logits_of_halvings())
    batch = batch_by_hand()
    is_described = torch.zeros_like(batch["text_targets"], dtype=torch.bool)
    is_described[1] = True

    def loss(text_weight: float, caption_weight: float) -> float:
        objective = WeightedCrossEntropy(model, byte_vocabulary, text_weight, 0.0, caption_weight)
        return objective(**batch, is_described=is_described).loss.item()

    only, others = loss(0.0, 1.0), loss(1.0, 0.0)
    count = int((batch["text_targets"] != IGNORED).sum())
    assert loss(1.0, 1.0) == pytest.approx((only + (count - 1) * others) / count)
    assert loss(0.3, 2.0) == pytest.approx((2.0 * only + 0.3 * (count - 1) * others) / (2.0 + 0.3 * (count - 1)))
    assert only != pytest.approx(others)
