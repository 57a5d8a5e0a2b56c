"""The one exception that is meant for the user, and the check of a setting's range."""

import math
from typing import Any


class UserError(ValueError):
    """Wrong input: says what was expected, what was found and what to do.

    The scripts print it as one line and exit with status 2; anything else is a bug and keeps its traceback.
    """


def require_range(settings: Any, interval: str, *names: str, prefix: str = "") -> None:
    """Raises UserError naming the first of the fields `names` of `settings` that lies outside `interval`.

    A field that is None passes; nan never does, and infinity only where the interval includes it.

    Args:
        settings: a settings dataclass, or the arguments of a script.
        interval: such as "[0, 1)"; "[1, inf)" has no upper end, "(0, inf]" includes infinity.
        *names: fields of `settings`.
        prefix: what the command line writes before the names, such as "network.".
    """
    least, most = (float(end) for end in interval[1:-1].split(","))
    for name in names:
        value = getattr(settings, name)
        if value is None:
            continue
        is_high_enough = value >= least if interval[0] == "[" else value > least
        is_low_enough = value <= most if interval[-1] == "]" else value < most
        if not (is_high_enough and is_low_enough):
            finite = "finite and " if value == math.inf else ""
            lower = f"be {finite}{'at least' if interval[0] == '[' else 'above'} {least:g}"
            required = lower if math.isinf(most) else f"lie in {interval}"
            raise UserError(f"`{prefix}{name}` must {required}, found {value}.")
