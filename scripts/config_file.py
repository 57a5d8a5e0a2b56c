"""Settings of a --config file, as they stand in it and as the parser wants them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from vqlm.training.errors import UserError


def require_settings_file(path: Path) -> None:
    """Raises UserError for a file that cannot be read or does not hold settings."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"--config {path} is not UTF-8 (byte {error.start}); save it as UTF-8.") from None
    except OSError as error:
        raise UserError(f"--config {path} cannot be read ({error.strerror}); name a YAML file.") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"--config {path} is not YAML ({reason}{where}); correct that line.") from None
    if not isinstance(settings, dict | None):
        raise UserError(f"--config {path} must hold settings such as `batch_size: 8`, found {settings!r:.40}.")


def with_underscores(settings: Any) -> Any:
    """Settings of a YAML file whose names may be written with dashes, as options are."""
    if not isinstance(settings, dict):
        return settings
    return {
        name.replace("-", "_") if isinstance(name, str) else name: with_underscores(value)
        for name, value in settings.items()
    }


def with_words(settings: dict[str, Any], kinds: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`settings` of a YAML file, where an unquoted yes or no is a boolean, with these words where a setting takes them,
    as in `mixed_precision: no`. `kinds` are the types of the settings by name."""
    words = {True: "yes", False: "no"}
    result: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            result[name] = with_words(value, kinds, f"{prefix}{name}.")
        else:
            is_word = isinstance(value, bool) and words[value] in get_args(kinds.get(f"{prefix}{name}"))
            result[name] = words[value] if is_word else value
    return result
