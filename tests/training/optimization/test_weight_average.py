"""The moving average of weights: its values, its use, its place in a checkpoint."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.optimization.weight_average import WeightAverage
from vqlm.training.run import Run
from vqlm.training.stop_signals import Interrupted


class WithBuffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.frozen = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1), requires_grad=False)
        self.register_buffer("codebook", torch.zeros(1))
        self.register_buffer("count", torch.zeros(1, dtype=torch.int64))


def test_the_average_by_hand():
    model = WithBuffers()
    average = WeightAverage(model, decay=0.15)
    for value in (1.0, 2.0, 4.0):
        for tensor in (model.weight, model.codebook):
            tensor.data.fill_(value)
        model.count.fill_(int(value))
        average.update()
    # 1; then 2/11 of 1 and 9/11 of 2 would decay more than 0.15 allows: 0.15 of 1, 0.85 of 2; then likewise
    expected = 0.15 * (0.15 * 1 + 0.85 * 2) + 0.85 * 4
    with average.in_use():
        assert model.weight.item() == pytest.approx(expected)
        assert model.codebook.item() == pytest.approx(expected)
        assert model.count.item() == 4
    assert (model.weight.item(), model.codebook.item()) == (4.0, 4.0)
    assert average.averages.keys() == {"weight", "codebook"}


def test_an_early_average_is_short():
    model = WithBuffers()
    average = WeightAverage(model, decay=0.999)
    for value in (0.0, 1.0):
        model.weight.data.fill_(value)
        average.update()
    assert average.averages["weight"].item() == pytest.approx(9 / 11)  # decay (1 + 1) / (10 + 1)


def train(tmp_path, name: str, resume: bool = False, **config) -> tuple[float, float]:
    """The weight that a run ends with, and the one of its last step."""
    config = TrainingConfig(
        **{"max_steps": 7, "batch_size": 2, "mixed_precision": "no", "weight_ema_decay": 0.5} | config
    )
    run = Run(tmp_path / name, "test", config, {}, resume)
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    rows = torch.arange(6.0).view(6, 1)
    loader = DataLoader(rows, batch_size=2, shuffle=True, generator=torch.Generator())
    model, optimizer, loader = run.prepare(model, torch.optim.SGD(model.parameters()), loader)
    for batch in run.batches(loader):
        run.step(model(batch + torch.rand(2, 1)).square().mean(), model, optimizer)
    last = model.weight.item()
    run.finish()
    return model.weight.item(), last


def test_a_run_ends_with_the_average_and_continues_bit_for_bit(tmp_path):
    whole = train(tmp_path, "whole")
    assert whole[0] != whole[1]
    assert train(tmp_path, "plain", weight_ema_decay=0.0) == (whole[1], whole[1])
    with pytest.raises(Interrupted) as stopped:
        train(tmp_path, "halves", stop_after=3)
    assert stopped.value.code == 0
    assert train(tmp_path, "halves", resume=True) == whole


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(UserError, match="`weight_ema_decay` must lie in"):
        TrainingConfig(weight_ema_decay=decay)
