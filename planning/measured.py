"""What trainings of so many pictures reached in so many minutes: measured, for a person to know what to expect."""

from typing import NamedTuple


class Measured(NamedTuple):
    """One training.

    Args:
        pictures: that were trained on.
        of: what they are.
        start: "nothing", or the finished model that it started from.
        minutes: of both trainings, on two CPU cores.
        side: of the pictures in pixels.
        psnr_db: of the image tokenizer on held-out pictures.
        r10: share of the held-out prompts whose picture is among the ten nearest to what was drawn.
        chance: that share by chance.
        trained_r10: as `r10`, of prompts that were trained on.
    """

    pictures: int
    of: str
    start: str
    minutes: float
    side: int
    psnr_db: float
    r10: float
    chance: float
    trained_r10: float | None


# Printed by benchmarks/from_base.py, by `make demo` and by `make base`.
MEASURED: tuple[Measured, ...] = ()

COLUMNS = ("pictures", "of", "start", "minutes", "side", "PSNR", "new prompts, R@10", "chance", "trained prompts, R@10")


def measured_cells() -> list[tuple[str, ...]]:
    """The rows of a table under `COLUMNS`."""
    return [
        (
            f"{row.pictures:,}", row.of, row.start, f"{row.minutes:g}", f"{row.side}x{row.side}",
            f"{row.psnr_db:.1f} dB",
            f"{row.r10:.0%}", f"{row.chance:.1%}", "" if row.trained_r10 is None else f"{row.trained_r10:.0%}",
        )
        for row in MEASURED
    ]  # fmt: skip
