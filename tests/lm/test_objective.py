"""The training loss by hand on a model of fixed logits; what padding, noise and the future may not change."""

import math

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from data_prep.sequences import IGNORED, SequenceConfig, TextToImageCollator
from lm.codebook import similar_codes
from lm.objective import WeightedCrossEntropy, has_plain_head
from lm.train import LMTrainingConfig
from training.compiling import compile_failure
from training.errors import UserError

BOS, EOS, BOI, EOI, FIRST_CODE = 1, 2, 259, 260, 261
SIZE, A = 277, 67
LOG2 = math.log(2)


class FixedLogits(PreTrainedModel):
    """Answers `logits` (B, T-1, V) whatever it is asked, and keeps what it was asked."""

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


LABELS = torch.tensor(
    [
        [BOS, A, BOI, 264, 276, EOI, EOS],
        [IGNORED, IGNORED, BOI, 261, 270, EOI, EOS],
    ]
)
# Halvings of the probability of each label but the first.
HALVINGS = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 1, 2]])
IS_CODE = torch.tensor([[False, False, True, True, False, False]] * 2)


def logits_of_halvings() -> torch.Tensor:
    """(B, T-1, V). A label has the probability 2^-halvings among the ids that can stand in its column: the codes in
    the columns of codes, all other ids elsewhere. The ids that cannot stand there are the likeliest of all."""
    logits = torch.full((*HALVINGS.shape, SIZE), 50.0)
    for row, column in HALVINGS.nonzero().tolist():
        allowed = slice(FIRST_CODE, SIZE) if IS_CODE[row, column] else slice(0, FIRST_CODE)
        number = len(range(SIZE)[allowed])
        probability = 2.0 ** -HALVINGS[row, column].item()
        logits[row, column, allowed] = math.log((1 - probability) / (number - 1))
        logits[row, column, LABELS[row, column + 1]] = math.log(probability)
    return logits


def batch_of(labels: torch.Tensor) -> dict[str, torch.Tensor]:
    mask = torch.ones_like(labels, dtype=torch.bool)
    mask[1, 0] = False
    positions = torch.arange(labels.shape[1]).expand_as(labels).contiguous()
    return {
        "input_ids": labels.masked_fill(labels == IGNORED, 0),
        "labels": labels,
        "position_ids": positions,
        "attention_mask": mask,
    }


def test_loss_by_hand(byte_vocabulary):
    model = FixedLogits(logits_of_halvings())
    objective = WeightedCrossEntropy(model, byte_vocabulary, 2, text_weight=0.1, image_weight=1.0)
    made = objective(**batch_of(LABELS))
    codes, rest = 3 + 4 + 2 + 3, 1 + 2 + 5 + 6 + 1 + 1 + 2
    assert made.image_nll.item() == pytest.approx(codes / 4 * LOG2, rel=1e-5)
    assert made.text_nll.item() == pytest.approx(rest / 7 * LOG2, rel=1e-5)
    assert made.loss.item() == pytest.approx((codes + 0.1 * rest) / (4 + 0.1 * 7) * LOG2, rel=1e-5)


@pytest.mark.parametrize(("text_weight", "image_weight", "learns"), [(0.0, 1.0, IS_CODE), (1.0, 0.0, ~IS_CODE)])
def test_each_term_teaches_its_own_columns(byte_vocabulary, text_weight, image_weight, learns):
    model = FixedLogits(logits_of_halvings())
    objective = WeightedCrossEntropy(model, byte_vocabulary, 2, text_weight, image_weight)
    objective(**batch_of(LABELS)).loss.backward()
    has_gradient = model.logits.grad.abs().amax(-1) > 0
    assert torch.equal(has_gradient, learns & (LABELS[:, 1:] != IGNORED))


def test_the_model_sees_noise_and_learns_the_clean_codes(byte_vocabulary):
    model = FixedLogits(logits_of_halvings())
    objective = WeightedCrossEntropy(model, byte_vocabulary, 2, text_weight=0.1, image_weight=1.0)
    clean = batch_of(LABELS)
    noisy = {**clean, "input_ids": clean["input_ids"].clone()}
    noisy["input_ids"][:, 3:5] = 265
    assert objective(**noisy).loss.item() == objective(**clean).loss.item()
    objective(**noisy)
    assert torch.equal(model.inputs["input_ids"], noisy["input_ids"][:, :-1])
    other = LABELS.clone()
    other[0, 3] = 265
    assert objective(**(clean | {"labels": other})).image_nll.item() != objective(**clean).image_nll.item()


def test_nothing_to_learn_from_text_is_no_nan(byte_vocabulary):
    model = FixedLogits(logits_of_halvings())
    objective = WeightedCrossEntropy(model, byte_vocabulary, 2, text_weight=0.1, image_weight=1.0)
    labels = LABELS.clone()
    labels[:, :3] = labels[:, 5:] = IGNORED
    made = objective(**batch_of(labels))
    assert made.text_nll.item() == 0
    assert made.loss.item() == pytest.approx(made.image_nll.item())


# Against a real model

ROWS = [
    {"caption": "red square", "codes": [3, 1, 4, 1, 5]},
    {"caption": "red", "codes": [9, 2, 6, 5, 3]},
    {"caption": "a green circle", "codes": [5, 8, 9, 7, 9]},
]


@pytest.fixture
def objective_of(vocabulary):
    def objective(model, num_codes=5):
        return WeightedCrossEntropy(model, vocabulary, num_codes, text_weight=0.3, image_weight=1.0)

    return objective


def collate(vocabulary, width, rows):
    return vars(TextToImageCollator(vocabulary, width, None)(rows))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_the_short_head_equals_the_whole_one(build_tiny, vocabulary, objective_of, architecture):
    model = build_tiny(architecture)
    objective = objective_of(model)
    assert objective.has_plain_head
    batch = collate(vocabulary, 6, ROWS)
    short = objective(**batch)
    objective.has_plain_head = False
    for ours, whole in zip(short, objective(**batch), strict=True):
        torch.testing.assert_close(ours, whole)


def test_image_nll_against_plain_log_softmax(build_tiny, vocabulary, objective_of):
    model = build_tiny()
    batch = collate(vocabulary, 6, ROWS[:1])
    ids = batch["input_ids"][:, batch["attention_mask"][0]]
    first = ids.shape[1] - 7  # of the codes, which eoi eos follow
    image = vocabulary.image
    log_probs = model(input_ids=ids).logits[0, first - 1 : first + 4, image.offset : image.stop].log_softmax(-1)
    by_hand = -sum(log_probs[step, code].item() for step, code in enumerate(ROWS[0]["codes"])) / 5
    assert objective_of(model)(**batch).image_nll.item() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_padding_on_the_left_changes_nothing(build_tiny, vocabulary, objective_of, architecture):
    objective = objective_of(build_tiny(architecture))
    width = len(vocabulary.encode_text(["red square"])[0])
    tight, wide = (objective(**collate(vocabulary, columns, ROWS[:1])) for columns in (width, width + 5))
    torch.testing.assert_close(wide.image_nll, tight.image_nll)
    torch.testing.assert_close(wide.text_nll, tight.text_nll)
    torch.testing.assert_close(wide.loss, tight.loss)


def test_rows_do_not_see_each_other(build_tiny, vocabulary, objective_of):
    objective = objective_of(build_tiny())
    together = objective(**collate(vocabulary, 8, ROWS)).image_nll
    alone = torch.stack([objective(**collate(vocabulary, 8, [row])).image_nll for row in ROWS])
    torch.testing.assert_close(together, alone.mean())


def test_the_future_cannot_change_the_past(build_tiny, vocabulary):
    model = build_tiny()
    clean = collate(vocabulary, 6, ROWS)
    del clean["labels"]
    middle = clean["input_ids"].shape[1] - 4
    changed = {**clean, "input_ids": clean["input_ids"].clone()}
    changed["input_ids"][:, middle:] = vocabulary.image.offset
    before, after = model(**clean).logits, model(**changed).logits
    is_past = clean["attention_mask"].clone()
    is_past[:, middle:] = False
    torch.testing.assert_close(after[is_past], before[is_past])
    assert not torch.allclose(after[:, middle:], before[:, middle:])


def test_a_head_that_bends_its_logits_is_not_plain(build_tiny):
    model = build_tiny("gemma2", extra={"initializer_range": 0.02, "head_dim": 16})
    assert model.config.final_logit_softcapping
    assert not has_plain_head(model)


def test_noise_in_the_rows_reaches_the_model(build_tiny, vocabulary, objective_of):
    objective = objective_of(build_tiny(), num_codes=5)
    noise = SequenceConfig(caption_dropout=0.0, word_dropout=0.0, code_noise=1.0)
    noisy = vars(TextToImageCollator(vocabulary, 8, noise)(ROWS))
    clean = collate(vocabulary, 8, ROWS)
    assert torch.equal(noisy["labels"], clean["labels"])
    assert objective(**noisy).image_nll.item() != objective(**clean).image_nll.item()


@pytest.mark.usefixtures("unchecked_types")  # the checks of types cannot be compiled
@pytest.mark.skipif(compile_failure(torch.device("cpu")), reason="torch.compile does not work here")
def test_compiled_equals_plain(build_tiny, vocabulary, objective_of):
    model = build_tiny(num_hidden_layers=1)
    model.set_attn_implementation("eager")
    objective = objective_of(model)
    batch = collate(vocabulary, 6, ROWS)
    with torch.no_grad():
        plain = objective(**batch)
        compiled = torch.compile(objective, dynamic=False)(**batch)
    for ours, expected in zip(compiled, plain, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_label_smoothing_mixes_in_all_codes_in_training_only(build_tiny, vocabulary):
    model = build_tiny()
    plain, smooth = (
        WeightedCrossEntropy(model, vocabulary, 5, text_weight=0.0, image_weight=1.0, label_smoothing=rate)
        for rate in (0.0, 0.25)
    )
    batch = collate(vocabulary, 6, ROWS[:1])
    ids = batch["input_ids"][:, batch["attention_mask"][0]]
    first, image = ids.shape[1] - 7, vocabulary.image
    log_probs = model(input_ids=ids).logits[0, first - 1 : first + 4, image.offset : image.stop].log_softmax(-1)
    expected = 0.75 * plain(**batch).image_nll - 0.25 * log_probs.mean()
    made = smooth.train()(**batch)
    torch.testing.assert_close(made.loss, expected)
    torch.testing.assert_close(made.image_nll, plain(**batch).image_nll)
    torch.testing.assert_close(smooth.eval()(**batch).loss, plain(**batch).loss)


def test_neighbor_smoothing_mixes_in_similar_codes_in_training_only(build_tiny, vocabulary):
    model = build_tiny()
    similar = similar_codes(torch.randn(vocabulary.image.size, 3, generator=torch.Generator().manual_seed(0)))
    plain, smooth = (
        WeightedCrossEntropy(
            model, vocabulary, 5, text_weight=0.0, image_weight=1.0, neighbor_smoothing=rate, similar=similar
        )
        for rate in (0.0, 0.25)
    )
    batch = collate(vocabulary, 6, ROWS[:1])
    ids = batch["input_ids"][:, batch["attention_mask"][0]]
    first, image = ids.shape[1] - 7, vocabulary.image
    log_probs = model(input_ids=ids).logits[0, first - 1 : first + 4, image.offset : image.stop].log_softmax(-1)
    expected = 0.0
    for place, code in enumerate(ids[0, first : first + 5] - image.offset):
        near = sum(w * log_probs[place, c] for c, w in zip(similar.codes[code], similar.weights[code], strict=True))
        expected -= (0.75 * log_probs[place, code] + 0.25 * near) / 5
    made = smooth.train()(**batch)
    torch.testing.assert_close(made.loss, expected)
    torch.testing.assert_close(made.image_nll, plain(**batch).image_nll)
    torch.testing.assert_close(smooth.eval()(**batch).loss, plain(**batch).loss)


def test_smoothing_leaves_the_code_a_share():
    with pytest.raises(UserError, match="must sum to less than 1"):
        LMTrainingConfig(label_smoothing=0.5, neighbor_smoothing=0.5)
