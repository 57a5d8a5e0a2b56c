"""The cost of a step: FLOPs and bytes by hand, and scaled to more rows than were tried."""

import pytest
import torch
from torch import nn

import vqlm.training.machine.cost as cost
from vqlm.training.config import TrainingConfig
from vqlm.training.errors import UserError
from vqlm.training.machine.allocator import memory_held, memory_taken
from vqlm.training.machine.cost import Cost, TracedStep, peak_of, step_cost
from vqlm.vq import NetworkConfig, VQConfig, VQTrainingConfig, VQVAEConfig
from vqlm.vq.cost import cost_of_vq

WIDTH, HIDDEN = 16, 1024
CPU = torch.device("cpu")


def build(rows: int) -> TracedStep:
    """Two linear layers without biases, momentum, and `rows` rows."""
    model = nn.Sequential(nn.Linear(WIDTH, HIDDEN, bias=False), nn.ReLU(), nn.Linear(HIDDEN, WIDTH, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    inputs = torch.rand(rows, WIDTH)

    def compute() -> None:
        model(inputs).sum().backward()

    def update(_: None) -> None:
        optimizer.step()
        optimizer.zero_grad()

    return TracedStep(compute, update, [model], [optimizer])


def test_flops_and_bytes_by_hand():
    rows, weights = 1024, 2 * WIDTH * HIDDEN
    flops, memory, seconds = step_cost(build, rows, TrainingConfig(), CPU)
    # forward, gradients of both matrices, gradient of the hidden layer
    assert flops == 2 * rows * WIDTH * HIDDEN * (2 + 2 + 1)
    assert memory["weights"] == 4 * weights
    assert memory["optimizer"] == 4 * weights
    hidden = 4 * rows * HIDDEN
    assert hidden <= memory["activations"] <= 4 * hidden  # after the ReLU, and its gradient before and after
    assert seconds > 0


def test_a_peak_in_the_update_does_not_grow_with_the_rows():
    def build_with_adam(rows: int) -> TracedStep:
        step = build(rows)
        optimizer = torch.optim.AdamW(step.models[0].parameters(), foreach=True)  # whose update copies all weights
        return TracedStep(step.compute, lambda _: (optimizer.step(), optimizer.zero_grad()), step.models, [optimizer])

    few, more = (step_cost(build_with_adam, rows, TrainingConfig(), CPU)[1] for rows in (2, 4))
    assert all(few[name] == more[name] for name in ("weights", "gradients", "optimizer", "activations"))
    assert few["gradients"] == 4 * 2 * WIDTH * HIDDEN
    assert few["optimizer"] >= 3 * few["weights"]


def test_accumulation_takes_more_flops_and_keeps_the_gradient():
    once, twice = (step_cost(build, 1024, TrainingConfig(gradient_accumulation_steps=count), CPU) for count in (1, 2))
    assert twice[0] == 2 * once[0]
    assert twice[1]["gradients"] == 4 * 2 * WIDTH * HIDDEN > once[1]["gradients"]


def test_holes_between_tensors_are_measured():
    size = 50 * 2**20
    taken = memory_taken(lambda: torch.ones(size // 4))
    assert taken == pytest.approx(size, rel=0.1)
    memory = step_cost(build, 4096, TrainingConfig(), CPU)[1]
    libraries = memory.pop("libraries")
    assert 0 <= memory["allocator"] < 2 * sum(memory.values())
    assert libraries == pytest.approx(memory_held(), rel=0.1)


def test_what_the_process_takes_is_extended_from_a_quarter_and_a_half(monkeypatch):
    """Steps of n units take 10 + 3 n bytes."""
    tried = []

    def taken(function) -> int:
        tried.append(function.__defaults__[0])
        return 10 + 3 * tried[-1]

    monkeypatch.setattr(cost, "memory_taken", taken)
    monkeypatch.setattr(cost, "memory_held", lambda: 500)
    assert cost._process(build, 64) == (500, 10 + 3 * 64)
    assert tried == [16, 32]
    monkeypatch.setattr(cost, "memory_held", lambda: None)
    assert cost._process(build, 64) is None


def test_averaged_weights_are_counted():
    memory = step_cost(build, 1024, TrainingConfig(weight_ema_decay=0.9), CPU)[1]
    assert memory["averaged weights"] == memory["weights"]


def test_more_rows_than_were_tried(monkeypatch, unchecked_types):
    monkeypatch.setattr(cost, "matrix_peak", lambda *given: 100.0)
    network = NetworkConfig(input_shape=[32, 32], stem_channels=16, hidden_channels=32, num_residual_layers=1)
    model_config = VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=64))
    config = VQTrainingConfig(max_steps=1, batch_size=64, mixed_precision="no")
    whole = cost_of_vq(model_config, config, pictures=100)
    assert whole.codes_per_picture == 16
    assert whole.memory.pop("pictures") == 100 * 3 * 32 * 32
    monkeypatch.setattr(cost, "_fewer", lambda units: (units - 1, units))
    exact = cost_of_vq(model_config, config)
    for each in (whole, exact):
        for name in ("allocator", "libraries"):
            each.memory.pop(name, None)
    assert whole.flops == pytest.approx(exact.flops, rel=1e-3)
    assert sum(whole.memory.values()) == pytest.approx(sum(exact.memory.values()), rel=0.1)


def test_time_at_the_peak():
    whole = Cost({}, 64, 32, flops=34_000_000_000, memory={}, seconds=0.2, peak_gflops=340.0, precision="bf16")
    assert whole.peak_seconds == pytest.approx(0.1)


def test_a_precision_that_a_training_would_refuse_is_not_measured(monkeypatch):
    monkeypatch.setattr(cost, "matrix_peak", lambda *_: pytest.fail("fp16 on a CPU takes minutes"))
    with pytest.raises(UserError, match="`mixed_precision` fp16 needs a GPU"):
        peak_of(TrainingConfig(mixed_precision="fp16"), CPU)
