"""What one training step costs in FLOPs, memory and time, found with steps of fewer rows and scaled to all of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from vqlm.training.config import TrainingConfig
from vqlm.training.machine.allocator import keep_freed_memory, memory_held, memory_taken
from vqlm.training.machine.device import fastest_precision, require_precision
from vqlm.training.machine.matrix_peak import matrix_peak

# What `MemTracker` calls the parts, and what a person does.
PARTS = {
    "Parameter": "weights",
    "Buffer": "weights",
    "Gradient": "gradients",
    "Optstate": "optimizer",
    "Activation": "activations",
    "Temp": "activations",
    "Other": "activations",
}
TIMED_STEPS = 3
# After so many steps the allocator has as many holes between tensors as it will get.
SETTLING_STEPS = 4
LIBRARIES, HOLES = "libraries", "allocator"


@dataclass
class TracedStep:
    """A training step in its two halves, as a stage builds it for some number of units (pictures, or packs of rows).

    Args:
        compute: forward and backward; returns what `update` takes.
        update: the optimizers' step and what follows it.
        models: all that is trained.
        optimizers: of `models`.
    """

    compute: Callable[[], Any]
    update: Callable[[Any], None]
    models: Sequence[nn.Module]
    optimizers: Sequence[Optimizer]


@dataclass
class Cost:
    """What a config costs.

    Args:
        parameters: by part.
        codes_per_picture: tokens of an image.
        rows: that a step of one process computes at once.
        flops: of a step, all its accumulated batches together.
        memory: bytes at the peak of a step, by part; on a CPU of the whole process, on a GPU of the training.
        seconds: of a step as measured here, not compiled.
        peak_gflops: matrix peak of this machine in the precision of the training.
        precision: "bf16", "fp16" or "no".
    """

    parameters: dict[str, int]
    codes_per_picture: int
    rows: int
    flops: int
    memory: dict[str, int]
    seconds: float
    peak_gflops: float
    precision: str
    remarks: list[str] = field(default_factory=list)

    @property
    def peak_seconds(self) -> float:
        """Seconds of a step at the matrix peak, which no step reaches."""
        return self.flops / (self.peak_gflops * 1e9)


def step_cost(
    build: Callable[[int], TracedStep], units: int, config: TrainingConfig, device: torch.device
) -> tuple[int, dict[str, int], float]:
    """FLOPs, bytes by part at the peak, and seconds of a step of `units` units.

    Two steps are traced, of a quarter and of half the units: activations grow with them, all else does not. A peak
    within the update of the weights is that of any number of units. On a CPU the process takes more than its tensors:
    "libraries" is what it holds once a step of one unit has loaded all code, and "allocator" the holes between tensors,
    known from what steps of a quarter and of half the units add to the process.
    """
    keep_freed_memory()
    fewer, half = _fewer(units)
    process = _process(build, units) if device.type == "cpu" else None  # first, while no code is loaded yet
    accumulates = config.gradient_accumulation_steps > 1
    small = _trace(build(fewer), accumulates)
    step = build(half)
    large = _trace(step, accumulates)
    seconds = _seconds(step, device)
    del step

    computing = {
        name: round(_extended(small.computing[name], large.computing[name], units)) for name in large.computing
    }
    memory = max(computing, large.updating, key=lambda parts: sum(parts.values()))
    if process is not None:
        libraries, step_memory = process
        memory = {LIBRARIES: libraries} | memory | {HOLES: max(0, step_memory - sum(memory.values()))}
    if config.weight_ema_decay:
        memory = memory | {"averaged weights": large.computing["weights"]}
    scale = units / half * config.gradient_accumulation_steps
    return round(large.flops * scale), memory, seconds * scale


def _process(build: Callable[[int], TracedStep], units: int) -> tuple[int, int] | None:
    """Bytes of this process with all code that a step needs, and by which steps of `units` units grow it; None where
    the system does not tell."""
    _run(build(1), 1)
    libraries = memory_held()
    taken = [memory_taken(lambda count=count: _run(build(count), SETTLING_STEPS)) for count in _fewer(units)]
    if libraries is None or taken[0] is None or taken[1] is None:
        return None
    return libraries, round(_extended(taken[0], taken[1], units))


def _extended(of_fewer: float, of_half: float, units: int) -> float:
    """What is known of the two numbers of `_fewer`, on their straight line to `units`."""
    fewer, half = _fewer(units)
    return of_half + (of_half - of_fewer) / max(1, half - fewer) * (units - half)


def peak_of(config: TrainingConfig, device: torch.device) -> tuple[str, float]:
    """The precision that a training here would have, and the matrix peak in it, in GFLOPS.

    Raises UserError for a precision that `device` lacks, which a training refuses and a CPU computes for minutes.
    """
    precision = config.mixed_precision if config.mixed_precision != "auto" else fastest_precision(device)
    require_precision(precision, device)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[precision]
    return precision, matrix_peak(dtype, device)


def _fewer(units: int) -> tuple[int, int]:
    """A quarter and a half of the units, or as few as there are."""
    return max(1, units // 4), max(min(2, units), units // 2)


@dataclass
class _Trace:
    flops: int
    computing: dict[str, int]
    updating: dict[str, int]


def _trace(step: TracedStep, accumulates: bool) -> _Trace:
    step.update(step.compute())  # the optimizers' states come to be
    if accumulates:  # a batch computes beside the gradient of the last one
        step.compute()
    counter = FlopCounterMode(display=False)
    with (tracker := _tracker(step)), counter:
        result = step.compute()
    with (updating := _tracker(step)):
        step.update(result)
    return _Trace(counter.get_total_flops(), _peak(tracker), _peak(updating))


def _tracker(step: TracedStep) -> MemTracker:
    tracker = MemTracker()
    tracker.track_external(*step.models, *step.optimizers)
    return tracker


def _peak(tracker: MemTracker) -> dict[str, int]:
    """Bytes by part, of all devices together."""
    parts = dict.fromkeys(PARTS.values(), 0)
    for by_kind in tracker.get_tracker_snapshot("peak").values():
        for kind, size in by_kind.items():
            if (name := getattr(kind, "value", kind)) in PARTS:
                parts[PARTS[name]] += size
    return parts


def _run(step: TracedStep, steps: int) -> None:
    for _ in range(steps):
        step.update(step.compute())


def _seconds(step: TracedStep, device: torch.device) -> float:
    """The fastest of a few steps."""
    best = float("inf")
    for _ in range(TIMED_STEPS):
        start = time.perf_counter()
        step.update(step.compute())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
