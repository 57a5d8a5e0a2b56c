"""Counts rows of a collection that cannot be used, with reasons; too large a share of them is an error."""

import json
import math
from collections import Counter
from pathlib import Path

from vqlm.data_prep.sources.rows import Unusable
from vqlm.training.errors import UserError

SHOWN = 3


class SkippedRows:
    """Counts the rows of a collection and keeps those that were skipped or that settings left out.

    `max_share` is the share that may be skipped, of the rows that are not left out.
    """

    def __init__(self, max_share: float):
        self.max_share, self.seen = max_share, 0
        self.rows: list[Unusable] = []
        self.left_out: list[Unusable] = []

    def add(self, seen: int, skipped: list[Unusable]) -> None:
        """Count `seen` rows, of which `skipped` were skipped or left out."""
        self.seen += seen
        self.rows += [row for row in skipped if not row.is_left_out]
        self.left_out += [row for row in skipped if row.is_left_out]

    @property
    def wanted(self) -> int:
        """Rows that no setting leaves out."""
        return self.seen - len(self.left_out)

    def require_few(self, listed: Path | None = None, at_least: float = 0.0) -> None:
        """Raises UserError if the share of skipped rows is above `max_share` and above `at_least`.

        `at_least` is for a look at a part of the rows; `listed` is the file that lists all skipped ones.
        """
        if len(self.rows) > max(self.max_share, at_least) * self.wanted:
            examples = "; ".join(f"{row.key}: {row.reason}" for row in self.rows[:SHOWN])
            where = f" All are listed in {listed}." if listed else " vqlm inspect-data lists all."
            raise UserError(
                f"{len(self.rows)} of {self.wanted} pictures cannot be used, more than the share `max_skipped` "
                f"{self.max_share:g}. {examples}{'; ...' if len(self.rows) > SHOWN else '.'}{where} Repair or remove "
                f"them, or skip them with `max_skipped` {self._enough:g}."
            )

    @property
    def _enough(self) -> float:
        """The least share, in whole hundredths, that the skipped rows do not exceed."""
        return math.ceil(100 * len(self.rows) / max(1, self.wanted)) / 100

    def summary(self) -> str:
        """One line for people; empty if nothing was skipped."""
        parts = []
        if self.rows:
            first, count = Counter(row.reason for row in self.rows).most_common(1)[0]
            parts.append(f"{len(self.rows)} of {self.wanted} pictures skipped, most often ({count}) because {first}")
        parts += [f"{count} pictures {reason}" for reason, count in self.left_out_by_reason().items()]
        return "; ".join(parts)

    def left_out_by_reason(self) -> dict[str, int]:
        """How many rows settings leave out, by reason."""
        return dict(Counter(row.reason for row in self.left_out).most_common())

    def write(self, path: Path) -> None:
        """Write one JSON line {key, reason} per row that was skipped or left out."""
        rows = [*self.rows, *self.left_out]
        lines = (json.dumps({"key": row.key, "reason": row.reason}, ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
