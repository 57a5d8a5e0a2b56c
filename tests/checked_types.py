"""The checker of types that the tests use: beartype, to which a whole number is a number, as in PEP 484.

beartype writes a checker for each signature, which takes longer than importing the code: each is written when its
function is called for the first time.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_write_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its arguments and its result checked."""
    checked: Callable[..., Any] | None = None

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if checked is None:
            checked = _write_checked(function)
        return checked(*args, **kwargs)

    return call
