"""Where torch computes: in one thread that stays, and otherwise in threads that end."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def in_passing_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` in a new thread, which ends with it, and return what it returns.

    OpenMP keeps a team of threads for each thread that ever computed in parallel. As soon as all teams together have
    more threads than the machine has cores, every team sleeps between two operations, which slows drawing down.
    A team ends with its thread, so whatever computes beside the engine does so in a thread that ends.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args, **kwargs).result()
