"""How long a training step takes on this machine: a few real steps are timed at two sizes, others are estimated."""

import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from vqlm.data_prep.sequences import ROW_OVERHEAD

# Sizes at which the steps are measured.
SIDE, PICTURES, CODES, ROWS = 64, 32, 64, 48
# Larger ones, at which the growth is measured.
LARGE_SIDE, LARGE_PICTURES, LARGE_CODES, LARGE_ROWS = 128, 32, 256, 24
# A step takes longer by these powers of the sides' and of the rows' lengths, where they are not measured. They differ
# between machines. Growth with the number of pixels is a power of 2; fixed costs lower it.
SIDE_EXPONENT, LENGTH_EXPONENT = 1.62, 1.32
LEAST_EXPONENT, MOST_EXPONENT = 0.5, 2.5
# Stage two: seconds of a compiled step / of one that is not, and what compiling takes, in steps that are not compiled
# (docs/benchmarks.md, lm_step: 302 and 384 ms, 19.6 s of first steps; the experiments had 33 s).
COMPILED_STEP, COMPILING_STEPS = 0.79, 85
# Seconds of a step of each stage on 2 cores at this matrix peak; they fall with about the root of the peak.
KNOWN_VQ_STEP, KNOWN_LM_STEP, KNOWN_GFLOPS, GFLOPS_EXPONENT = 0.091, 0.34, 2152, 0.47
SLOW = 2.5  # steps of so many times the expected seconds are worth a warning
REPETITIONS = 3  # of the measurement; the fastest counts, since a machine may be busy for a moment
FASTER = 1.3  # one thread at least so many times as fast as all threads is worth a warning


@dataclass(frozen=True)
class MachineSpeed:
    """Seconds per step, and where they were measured.

    Args:
        vq_step: seconds of stage one for 32 pictures of 64x64.
        lm_step: seconds of stage two for 48 rows of 64 codes and `tokens_per_caption`, not compiled, 5.2M parameters.
        tokens_per_caption: mean tokens of the captions in `lm_step`.
        device: "cpu", or the name of the accelerator.
        threads: threads of torch.
        cores: processor cores that this process may use.
        bf16_gflops: matrix peak.
        load: mean number of processes that used or waited for a core in the last minute, ours included; None where
            unknown.
        fastest_vq_step: seconds of the fastest single step of stage one, with one thread or all; None where only
            `vq_step` is known. `fastest_lm_step` likewise.
        one_thread_gain: seconds of a step with all threads / with one thread; 1 where it was not measured.
        side_exponent: a step of stage one takes longer by this power of the side. `length_exponent`: a step of stage
            two takes longer by this power of the rows' length.
    """

    vq_step: float
    lm_step: float
    tokens_per_caption: float = 6.0
    device: str = "cpu"
    threads: int = 2
    cores: int = 2
    bf16_gflops: int = KNOWN_GFLOPS
    load: float | None = None
    fastest_vq_step: float | None = None
    fastest_lm_step: float | None = None
    one_thread_gain: float = 1.0
    side_exponent: float = SIDE_EXPONENT
    length_exponent: float = LENGTH_EXPONENT

    def vq_seconds(self, side: int, batch_size: int = PICTURES) -> float:
        """Seconds per step of stage one for pictures of `side` x `side`."""
        return self.vq_step * (side / SIDE) ** self.side_exponent * batch_size / PICTURES

    def lm_seconds(
        self, codes: int, tokens_per_caption: float, batch_size: int = ROWS, is_compiled: bool = True, size: float = 1.0
    ) -> float:
        """Seconds per step of stage two. `size`: the time of a step of the model / that of the default model."""
        length = codes + tokens_per_caption + ROW_OVERHEAD
        measured = CODES + self.tokens_per_caption + ROW_OVERHEAD
        seconds = self.lm_step * (length / measured) ** self.length_exponent * batch_size / ROWS * size
        return seconds * (COMPILED_STEP if is_compiled else 1.0)

    @property
    def compile_seconds(self) -> float:
        """Seconds that compiling stage two takes, once per training."""
        return COMPILING_STEPS * self.lm_step

    @property
    def undisturbed(self) -> "MachineSpeed":
        """The speed of this machine when nothing else runs: that of the fastest steps, or on a CPU what its matrix peak
        allows, whichever is faster.

        Other programs slow training steps far more than the single matrix products that measure the peak.
        """
        vq_steps, lm_steps = [self.fastest_vq_step or self.vq_step], [self.fastest_lm_step or self.lm_step]
        if self.device == "cpu":
            vq_steps.append(KNOWN_VQ_STEP * self._slower_than_known)
            lm_steps.append(KNOWN_LM_STEP * self._slower_than_known)
        return replace(self, vq_step=min(self.vq_step, *vq_steps), lm_step=min(self.lm_step, *lm_steps))

    @property
    def _slower_than_known(self) -> float:
        """Seconds of a step by the matrix peak / those on the known machine."""
        return (KNOWN_GFLOPS / max(self.bf16_gflops, 1)) ** GFLOPS_EXPONENT

    @property
    def warning(self) -> str | None:
        """A sentence if steps take far longer than the matrix peak allows, or than with one thread."""
        if self.device != "cpu":
            return None
        if self.one_thread_gain >= FASTER:
            return (
                f"One thread takes a step {self.one_thread_gain:.1f} times as fast as {self.threads}, which wait for "
                "one another: set OMP_NUM_THREADS=1, or stop the programs that run beside this one."
            )
        expected = KNOWN_VQ_STEP * self._slower_than_known
        if self.vq_step < SLOW * expected:
            return None
        text = f"A step takes {self.vq_step / expected:.1f} times as long as this processor should need: "
        if self.threads > self.cores:
            return text + f"torch uses {self.threads} threads on {self.cores} cores; set OMP_NUM_THREADS={self.cores}."
        fewer = f"set OMP_NUM_THREADS={self.threads // 2}; it is {self.threads} now." if self.threads > 1 else ""
        if self.load is not None and self.load > 1.5 * self.cores:
            text += f"other programs are running (load {self.load:.1f} on {self.cores} cores); stop them"
            return text + (f", or {fewer}" if fewer else ".")
        return text + (fewer or "look for what slows it, such as a power limit.")


def measure_speed(captions: list[str], seconds: float = 4.0) -> MachineSpeed:
    """Train a few steps of each stage on random pictures and `captions`, about `seconds` for each."""
    import torch

    from vqlm.planning.few_steps import language_step, tokenizer_step
    from vqlm.training.machine.matrix_peak import describe_machine

    with torch.random.fork_rng():
        machine = describe_machine(0.5)
        step, tokens_per_caption = language_step(captions, CODES, ROWS)
        steps = {"vq": tokenizer_step(SIDE, PICTURES), "lm": step}
        threads = machine["threads"]
        counts = [threads, 1] if machine["device"] == "cpu" and threads > 1 else [threads]
        try:
            taken = _repeated(steps, counts, seconds, torch.set_num_threads)
        finally:
            torch.set_num_threads(threads)
        large_step, _ = language_step(captions, LARGE_CODES, LARGE_ROWS)
        large_steps = {"vq": tokenizer_step(LARGE_SIDE, LARGE_PICTURES), "lm": large_step}
        large = _repeated(large_steps, [threads], seconds / 3, torch.set_num_threads)
    typical = {key: min(map(statistics.median, repetitions)) for key, repetitions in taken.items()}
    larger = {stage: min(map(statistics.median, large[stage, threads])) for stage in steps}
    longer = (LARGE_CODES + tokens_per_caption + ROW_OVERHEAD) / (CODES + tokens_per_caption + ROW_OVERHEAD)
    fastest = {stage: min(min(map(min, taken[stage, count])) for count in counts) for stage in steps}
    return MachineSpeed(
        vq_step=typical["vq", threads],
        lm_step=typical["lm", threads],
        tokens_per_caption=tokens_per_caption,
        device=machine["device"],
        threads=threads,
        cores=usable_cores(),
        bf16_gflops=machine["bf16_gflops"],
        load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        fastest_vq_step=fastest["vq"],
        fastest_lm_step=fastest["lm"],
        one_thread_gain=min(typical[stage, threads] / typical[stage, counts[-1]] for stage in steps),
        side_exponent=_exponent(larger["vq"] * PICTURES / LARGE_PICTURES / typical["vq", threads], LARGE_SIDE / SIDE),
        length_exponent=_exponent(larger["lm"] * ROWS / LARGE_ROWS / typical["lm", threads], longer),
    )


def _exponent(times_longer: float, times_larger: float) -> float:
    """The power of `times_larger` that is `times_longer`, within bounds that a disturbed measurement may pass."""
    return min(MOST_EXPONENT, max(LEAST_EXPONENT, math.log(times_longer) / math.log(times_larger)))


def _repeated(
    steps: dict[str, Callable[[], None]], counts: list[int], seconds: float, set_threads: Callable[[int], None]
) -> dict[tuple[str, int], list[list[float]]]:
    """Seconds per step of every stage with every number of threads, by repetition.

    Each is measured `REPETITIONS` times, in turns; fewer times on a slow machine. It takes about `seconds` per stage,
    after one step to warm up.
    """
    for step in steps.values():
        step()
    taken: dict[tuple[str, int], list[list[float]]] = {(stage, count): [] for stage in steps for count in counts}
    start = time.perf_counter()
    for repetition in range(REPETITIONS):
        if repetition and time.perf_counter() - start > 2 * len(steps) * seconds:
            break
        for (stage, count), repetitions in taken.items():
            set_threads(count)
            repetitions.append(_seconds_of_steps(steps[stage], seconds / REPETITIONS / len(counts)))
    return taken


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seconds_of_steps(step: Callable[[], None], seconds: float) -> list[float]:
    """Seconds of each step; as many steps as fit into `seconds`, at least one."""
    taken: list[float] = []
    while not taken or math.fsum(taken) < seconds:
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return taken
