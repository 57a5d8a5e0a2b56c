"""What finished trainings reached, by number of pictures and steps: the table of `vqlm advise`."""

from typing import NamedTuple


class Measured(NamedTuple):
    """One training, or one held-out set of it.

    Args:
        pictures: number of pictures to train on.
        of: what the pictures show, and what the new prompts ask for.
        start: "nothing", or the finished model that it started from.
        steps: number in stage one and in stage two.
        side: of the pictures in pixels.
        psnr_db: of the image tokenizer on held-out pictures.
        r10: share of the held-out prompts whose picture is among the ten nearest to what was drawn.
        chance: `r10` of pictures drawn without looking at the prompt.
        trained_r10: as `r10`, of prompts that were trained on; None where it was not measured.
    """

    pictures: int
    of: str
    start: str
    steps: tuple[int, int]
    side: int
    psnr_db: float
    r10: float
    chance: float
    trained_r10: float | None


# Printed by benchmarks/from_base.py, `make demo`, `make demo-128`, `make base` and `vqlm train`.
MEASURED = (
    Measured(100, "icons", "nothing", (1250, 416), 64, 21.11, 0.256, 0.038, 1.0),
    Measured(100, "icons", "emoji", (0, 62), 64, 22.78, 0.438, 0.038, 0.844),
    Measured(500, "icons", "nothing", (1194, 1577), 64, 23.13, 0.437, 0.016, 1.0),
    Measured(500, "icons", "emoji", (0, 312), 64, 22.57, 0.538, 0.016, 1.0),
    Measured(852, "icons", "nothing", (1463, 1575), 96, 26.13, 0.426, 0.0105, 0.984),
    Measured(2000, "icons", "nothing", (1187, 1563), 64, 24.73, 0.518, 0.005, 1.0),
    Measured(2000, "icons", "emoji", (0, 1250), 64, 22.91, 0.526, 0.005, 1.0),
    Measured(3334, "OpenMoji, known in other skin tones", "nothing", (2959, 3494), 128, 28.15, 0.894, 0.0027, 0.688),
    Measured(3334, "OpenMoji, unknown things", "nothing", (2959, 3494), 128, 28.15, 0.134, 0.0027, 0.688),
    Measured(3555, "OpenMoji, known in other skin tones", "nothing", (1000, 1400), 64, 23.96, 0.995, 0.0025, 0.953),
    Measured(3555, "OpenMoji, unknown things", "nothing", (1000, 1400), 64, 23.96, 0.197, 0.0025, 0.953),
    Measured(13_705, "emoji, known in other skin tones", "nothing", (5600, 5000), 64, 23.7, 1.0, 0.0007, None),
    Measured(13_705, "emoji, known in other styles", "nothing", (5600, 5000), 64, 23.7, 0.148, 0.0007, None),
    Measured(13_705, "emoji, unknown things", "nothing", (5600, 5000), 64, 23.7, 0.115, 0.0007, None),
)

COLUMNS = ("pictures", "of", "start", "steps", "side", "PSNR", "new prompts, R@10", "chance", "trained prompts, R@10")


def measured_cells() -> list[tuple[str, ...]]:
    """The rows of a table under `COLUMNS`."""
    return [
        (
            f"{row.pictures:,}", row.of, row.start, "{:,} + {:,}".format(*row.steps), f"{row.side}x{row.side}",
            f"{row.psnr_db:.1f} dB",
            f"{row.r10:.0%}", f"{100 * row.chance:.2g}%", "" if row.trained_r10 is None else f"{row.trained_r10:.0%}",
        )
        for row in MEASURED
    ]  # fmt: skip
