"""Steps are measured at one size and scaled to the others; a slow machine is told why it may be slow."""

import re
from dataclasses import replace

import pytest
from vqlm.planning import machine_speed
from vqlm.planning.machine_speed import MachineSpeed, measure_speed

FAST = MachineSpeed(vq_step=0.091, lm_step=0.34)


def test_the_scale_meets_the_sizes_that_were_measured():
    assert FAST.vq_seconds(64) == pytest.approx(0.091)
    assert FAST.vq_seconds(128) == pytest.approx(0.28, rel=0.02)
    assert FAST.vq_seconds(64, 16) == pytest.approx(0.0455)
    assert FAST.lm_seconds(64, 6.0) == pytest.approx(0.27, rel=0.02)
    assert FAST.lm_seconds(256, 6.0) == pytest.approx(1.48, rel=0.02)
    assert FAST.lm_seconds(64, 6.0, is_compiled=False) == pytest.approx(0.34)
    assert FAST.lm_seconds(64, 6.0, 24, is_compiled=False, size=2.0) == pytest.approx(0.34)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"vq_step": 0.2, "bf16_gflops": 400}, None),  # what such a processor needs
        ({"vq_step": 0.5, "threads": 16}, "torch uses 16 threads on 2 cores; set OMP_NUM_THREADS=2"),
        ({"vq_step": 0.5, "load": 6.0}, r"other programs are running \(load 6.0 on 2 cores\)"),
        ({"vq_step": 0.5, "cores": 8, "threads": 8, "load": 1.0}, ": set OMP_NUM_THREADS=4; it is 8 now."),
        ({"vq_step": 0.5, "threads": 1, "load": 6.0}, r"on 2 cores\); stop them\.$"),
        ({"vq_step": 0.5, "device": "NVIDIA H200"}, None),
    ],
)
def test_a_warning_where_steps_take_far_longer_than_the_matrix_peak_allows(changed, said):
    warning = replace(FAST, **changed).warning
    if said is None:
        assert warning is None
    else:
        assert re.search(said, warning)


def test_a_step_of_each_stage_is_timed(monkeypatch):
    monkeypatch.setattr(machine_speed, "SIDE", 16)
    monkeypatch.setattr(machine_speed, "PICTURES", 4)
    monkeypatch.setattr(machine_speed, "CODES", 4)
    monkeypatch.setattr(machine_speed, "ROWS", 4)
    speed = measure_speed(["a red square", "a blue circle that is large"], seconds=0.01)
    assert 0 < speed.vq_step < 10
    assert 0 < speed.lm_step < 10
    assert speed.tokens_per_caption >= 2
    assert speed.threads >= 1
