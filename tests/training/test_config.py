"""The settings that every training run has: its budget, and what it refuses."""

import pytest

from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.vq.settings import LossConfig, VQTrainingConfig


@pytest.mark.parametrize("kind", [TrainingConfig, VQTrainingConfig])
def test_without_a_budget_it_is_the_stage_s_own_number_of_steps(kind):
    assert kind().max_steps == kind.default_steps > 0
    assert kind(max_steps=7).max_steps == 7


def test_minutes_alone_bring_no_steps():
    config = TrainingConfig(max_minutes=1.5)
    assert (config.max_steps, config.max_minutes) == (None, 1.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "`max_steps` must be above 0, found 0"),
        ({"max_minutes": -1.0}, "`max_minutes` must be above 0, found -1.0"),
        ({"batch_size": 0}, "`batch_size` must be above 0, found 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be above 0, found 0.0"),
        ({"log_every": 0}, "`log_every` must be above 0, found 0"),
        ({"eval_every": -5}, "`eval_every` must be above 0, found -5"),
        ({"gradient_accumulation_steps": 0}, "`gradient_accumulation_steps` must be above 0, found 0"),
        ({"min_learning_rate_ratio": 1.5}, r"`min_learning_rate_ratio` must lie in \[0, 1\), found 1.5"),
        ({"schedule": "constant", "min_learning_rate_ratio": 0.1}, "0.1 has no effect with the constant `schedule`"),
        ({"warmup_ratio": 1.0}, r"`warmup_ratio` must lie in \[0, 1\), found 1.0"),
        ({"warmup_ratio": -0.1}, "found -0.1"),
        ({"beta2": 7.0}, r"`beta2` must lie in \[0, 1\), found 7.0"),
        ({"weight_decay": -0.1}, "`weight_decay` must be at least 0, found -0.1"),
        ({"checkpoint_minutes": -3.0}, "`checkpoint_minutes` must be at least 0, found -3.0"),
        ({"num_workers": -1}, "`num_workers` must be at least 0, found -1"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be above 0, found nan"),
        ({"max_minutes": float("nan")}, "`max_minutes` must be above 0, found nan"),
        ({"max_minutes": float("inf")}, "`max_minutes` must be finite and above 0, found inf"),
        ({"weight_decay": float("inf")}, "`weight_decay` must be finite and at least 0, found inf"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        TrainingConfig(**settings)


def test_an_adversary_that_would_never_begin_is_refused():
    loss = LossConfig(adversarial_weight=0.5, adversarial_start=1000)
    with pytest.raises(UserError, match="begins at step 1000 .`loss.adversarial_start`. of 1000; lower"):
        VQTrainingConfig(max_steps=1000, loss=loss)
    VQTrainingConfig(max_steps=1001, loss=loss)
    VQTrainingConfig(max_minutes=1.0, loss=loss)
    VQTrainingConfig(max_steps=1, loss=LossConfig(adversarial_weight=0.5))  # from half of the budget
