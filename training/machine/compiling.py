"""Whether torch.compile works here."""

import torch


def compile_failure(device: torch.device) -> str | None:
    """Why torch.compile fails on `device`, or None where it works.

    Compiles one line to find out, since compilers and headers can be missing in many ways.
    """
    try:
        torch.compile(lambda x: x * 2 + 1, dynamic=False)(torch.ones(8, device=device))
    except (RuntimeError, ImportError, OSError) as error:  # torch wraps what compilers raise in a RuntimeError
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
    return None
