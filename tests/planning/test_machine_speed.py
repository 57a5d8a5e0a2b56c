"""Steps are measured at two sizes and scaled to the others; a slow machine is told why it may be slow."""

import re
from dataclasses import replace

import pytest
import torch

from vqlm.data_prep.sequences import ROW_OVERHEAD
from vqlm.planning import machine_speed
from vqlm.planning.machine_speed import LEAST_EXPONENT, MOST_EXPONENT, MachineSpeed, _exponent, measure_speed

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
        ({"one_thread_gain": 1.2}, None),
        ({"one_thread_gain": 3.0}, "One thread takes a step 3.0 times as fast as 2, .*: set OMP_NUM_THREADS=1"),
        ({"one_thread_gain": 3.0, "device": "NVIDIA H200"}, None),
    ],
)
def test_a_warning_where_steps_take_far_longer_than_the_matrix_peak_allows(changed, said):
    warning = replace(FAST, **changed).warning
    if said is None:
        assert warning is None
    else:
        assert re.search(said, warning)


@pytest.mark.parametrize(
    ("changed", "vq_step", "lm_step"),
    [
        ({}, 0.091, 0.34),
        ({"vq_step": 2.0, "lm_step": 8.0}, 0.091, 0.34),  # by the matrix peak
        ({"vq_step": 2.0, "lm_step": 8.0, "bf16_gflops": 400}, 0.201, 0.751),
        ({"vq_step": 2.0, "lm_step": 8.0, "fastest_vq_step": 0.08, "fastest_lm_step": 0.3}, 0.08, 0.3),
        ({"vq_step": 0.05, "lm_step": 0.2, "fastest_vq_step": 0.05, "fastest_lm_step": 0.19}, 0.05, 0.19),
        ({"vq_step": 2.0, "lm_step": 8.0, "fastest_vq_step": 0.5, "device": "NVIDIA H200"}, 0.5, 8.0),
    ],
)  # fmt: skip
def test_the_undisturbed_speed(changed, vq_step, lm_step):
    speed = replace(FAST, **changed).undisturbed
    assert speed.vq_step == pytest.approx(vq_step, rel=0.01)
    assert speed.lm_step == pytest.approx(lm_step, rel=0.01)


def test_of_a_machine_that_is_busy_for_a_moment_the_best_repetition_counts(monkeypatch):
    """A clock that only steps move: the first repetition is ten times as slow, two threads twice as slow as one."""
    now, calls, threads = [0.0], [0], [2]
    monkeypatch.setattr(machine_speed.time, "perf_counter", lambda: now[0])

    def step():
        calls[0] += 1
        now[0] += (10 if calls[0] <= 5 else 1) * threads[0] * 0.5

    def set_threads(count):
        threads[0] = count

    taken = machine_speed._repeated({"vq": step}, [2, 1], 100.0, set_threads)
    assert [len(repetitions) for repetitions in taken.values()] == [3, 3]
    assert taken["vq", 2][0][0] == 10.0
    assert taken["vq", 2][1:] == [[1.0] * 17] * 2
    assert set(taken["vq", 1][2]) == {0.5}
    slow = machine_speed._repeated({"vq": lambda: step() or now.__setitem__(0, now[0] + 1000)}, [2], 1.0, set_threads)
    assert len(slow["vq", 2]) == 1


@pytest.mark.parametrize(
    ("times_longer", "times_larger", "power"),
    [(4.0, 2.0, 2.0), (2.0, 2.0, 1.0), (5.4, 3.6, 1.3166), (0.5, 2.0, LEAST_EXPONENT), (100.0, 2.0, MOST_EXPONENT)],
)
def test_the_power_by_which_steps_take_longer(times_longer, times_larger, power):
    assert _exponent(times_longer, times_larger) == pytest.approx(power, rel=1e-3)


def test_measured_growth_decides_the_seconds_of_larger_pictures():
    grown = replace(FAST, side_exponent=1.0, length_exponent=1.0)
    assert grown.vq_seconds(64) == FAST.vq_seconds(64)
    assert grown.vq_seconds(128) == pytest.approx(2 * 0.091)
    assert grown.lm_seconds(256, 6.0, is_compiled=False) == pytest.approx(
        0.34 * (262 + ROW_OVERHEAD) / (70 + ROW_OVERHEAD)
    )


@pytest.mark.slow
def test_a_step_of_each_stage_is_timed(monkeypatch):
    monkeypatch.setattr(machine_speed, "LARGE_SIDE", 32)
    monkeypatch.setattr(machine_speed, "LARGE_PICTURES", 2)
    monkeypatch.setattr(machine_speed, "LARGE_CODES", 16)
    monkeypatch.setattr(machine_speed, "LARGE_ROWS", 2)
    monkeypatch.setattr(machine_speed, "SIDE", 16)
    monkeypatch.setattr(machine_speed, "PICTURES", 4)
    monkeypatch.setattr(machine_speed, "CODES", 4)
    monkeypatch.setattr(machine_speed, "ROWS", 4)
    speed = measure_speed(["a red square", "a blue circle that is large"], seconds=0.01)
    assert 0 < speed.vq_step < 10
    assert 0 < speed.lm_step < 10
    assert speed.tokens_per_caption >= 2
    assert speed.threads >= 1
    assert 0 < speed.fastest_vq_step <= speed.vq_step
    assert 0 < speed.fastest_lm_step <= speed.lm_step
    assert min(speed.side_exponent, speed.length_exponent) >= LEAST_EXPONENT
    assert torch.get_num_threads() == speed.threads
