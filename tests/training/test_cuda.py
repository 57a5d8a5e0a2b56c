"""fp16 on a GPU: overflows lower the scale and move nothing, then each step is that of fp32."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from vqlm.training.config import TrainingConfig
from vqlm.training.machine.device import is_fp16_fast
from vqlm.training.run import Run

pytestmark = pytest.mark.cuda

DEVICE, STEPS = "cuda", 20
FACTOR = 1000.0  # of the loss: gradients overflow in fp16 until the scale has fallen from 65,536 to 32 or less


@pytest.fixture
def train(tmp_path):
    """train("fp16", 20): the weight after a training towards 2, and the number of skipped steps."""

    def run_steps(precision: str, steps: int, stop_after: int | None = None, resume: bool = False) -> tuple[float, int]:
        config = TrainingConfig(
            max_steps=steps, batch_size=8, mixed_precision=precision, learning_rate=1e-4, schedule="constant",
            warmup_ratio=0.0, max_grad_norm=1e9, stop_after=stop_after,
        )  # fmt: skip
        run = Run(tmp_path / f"{precision}-{steps}", "test", config, {}, resume)
        model = nn.Linear(1, 1, bias=False)
        nn.init.ones_(model.weight)
        loader = DataLoader(torch.ones(8, 1), batch_size=8, generator=torch.Generator())
        model, optimizer, loader = run.prepare(model, torch.optim.SGD(model.parameters()), loader)
        for batch in run.batches(loader):
            error = model(batch) - 2
            run.step((FACTOR * error.float().square()).mean(), model, optimizer)
        run.finish()
        assert model.weight.device.type == DEVICE
        return model.weight.item(), run.state.skipped

    return run_steps


def test_overflows_lower_the_scale_and_move_nothing(train):
    if not is_fp16_fast(torch.device(DEVICE)):
        pytest.skip("this GPU has no fp16")
    half, skipped = train("fp16", STEPS)
    assert 1 <= skipped <= 16
    exact, _ = train("no", STEPS - skipped)
    assert half == pytest.approx(exact, rel=1e-2)
    assert half > 1.2


def test_the_scale_is_continued(train):
    if not is_fp16_fast(torch.device(DEVICE)):
        pytest.skip("this GPU has no fp16")
    whole = train("fp16", STEPS + 1)
    with pytest.raises(SystemExit):
        train("fp16", STEPS, stop_after=STEPS // 2)
    _, skipped = train("fp16", STEPS, resume=True)
    assert skipped == whole[1]  # a new scale would overflow again
