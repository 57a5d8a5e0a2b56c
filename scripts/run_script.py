"""Runs the `main` of a script: what a person sees of an error, and with which status the program ends."""

import errno
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from vqlm.scripts.options import ScriptParser
from vqlm.training.errors import UserError
from vqlm.training.watching.progress import Progress


def run_script(main: Callable[[list[str] | None], Any], arguments: list[str] | None = None) -> None:
    """Run a script's `main`; a UserError or a full disk becomes one line and exit status 2, Ctrl-C one line and 130.

    Of several processes of one machine the first one says it.
    """
    _quiet_libraries()
    Progress.told = ScriptParser.told
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_show_warning, warnings.showwarning)
            main(arguments)
    except KeyboardInterrupt:
        _end(f"\nstopped{_how_to_continue()}", 128 + signal.SIGINT)  # as a shell has it
    except SystemExit as stopped:
        if (message := getattr(stopped, "message", None)) and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"{message}{_how_to_continue()}", file=sys.stderr)
        raise
    except UserError as error:
        _end(f"error: {ScriptParser.told(str(error))}", 2)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if sentence := _cannot_open(error):
            _end(f"error: {sentence}", 2)
        if not _is_disk_full(error):
            raise
        _end(f"error: the disk is full ({' '.join(str(error).split())[:200]}); make room{_how_to_continue()}.", 2)
    finally:
        Progress.told = str


def _show_warning(show: Callable, message: Warning | str, category: type, filename: str, *rest: Any) -> None:
    """A warning for users is one line; one for programmers is shown as Python does, with its file."""
    if not issubclass(category, UserWarning):
        show(message, category, filename, *rest)
    elif os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"warning: {message}", file=sys.stderr)


def _end(text: str, status: int) -> NoReturn:
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text, file=sys.stderr)
    sys.exit(status)


def _is_disk_full(error: Exception) -> bool:
    """safetensors says it in its own kind of exception."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def _cannot_open(error: Exception) -> str | None:
    """A sentence for a file that this user may not read or write, or whose path is none; None for another error.

    A file that is missing is the user's matter only if an option names it.
    """
    kinds = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
             errno.ELOOP, errno.EIO)  # fmt: skip
    if not isinstance(error, OSError) or error.filename is None:
        return None
    words = ScriptParser.in_use.given if ScriptParser.in_use else []
    is_named = str(error.filename) in {*words, *(word.partition("=")[2] for word in words)}
    if error.errno not in kinds and not (error.errno == errno.ENOENT and is_named):
        return None
    return f"{error.filename} cannot be read or written ({error.strerror}); check its path and who may use it."


def _how_to_continue() -> str:
    """How the script in use goes on, if it can."""
    parser = ScriptParser.in_use
    if parser is None or not any(action.dest == "resume" for action in parser._actions):
        return ""
    return "; the same command with --resume continues it"


def _quiet_libraries() -> None:
    """No progress bars of transformers and datasets, which read these variables when they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # It warns that weights shared by two names are saved once, which is what tied embeddings want.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
