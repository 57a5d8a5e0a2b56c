"""The Markdown files, their fenced blocks, links and commands."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    found = _FENCE.findall(document.read_text(encoding="utf-8"))
    return [text for name, text in found if name == language]


def prose(document: Path) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def commands(document: Path) -> list[list[str]]:
    """Every shell command of the `sh` blocks, and of inline code that begins like one; words, without comments."""
    lines = [line for block in blocks(document, "sh") for line in block.replace("\\\n", " ").splitlines()]
    begins = ("vqlm ", "python scripts/", "python benchmarks/", "python docs/", "make ")
    lines += [code for code in _INLINE.findall(prose(document)) if code.startswith(begins)]
    parts = [part for line in lines for part in re.split(r"&&", line)]
    return [words for part in parts if (words := shlex.split(part, comments=True))]
