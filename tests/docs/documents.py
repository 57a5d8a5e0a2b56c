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
_INLINE = re.compile(r"`([^`]+?)`")


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    fenced = _FENCE.findall(document.read_text(encoding="utf-8"))
    return [text for name, text in fenced if name == language]


def prose(document: Path) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", document.read_text(encoding="utf-8"))


def inline_code(document: Path) -> list[str]:
    """The code in the text, each on one line however the text is wrapped."""
    paragraphs = re.split(r"\n\s*\n", prose(document))
    return [" ".join(code.split()) for paragraph in paragraphs for code in _INLINE.findall(paragraph)]


def commands(document: Path) -> list[list[str]]:
    """Every shell command of the `sh` blocks, and of other blocks and of inline code what begins like one; words,
    without comments."""
    begins = ("vqlm ", "python scripts/", "python benchmarks/", "python docs/", "make ", "pip install ")
    lines = [line for block in blocks(document, "sh") for line in block.replace("\\\n", " ").splitlines()]
    plain = [line for block in blocks(document, "") for line in block.replace("\\\n", " ").splitlines()]
    lines += [line for line in [*plain, *inline_code(document)] if line.startswith(begins)]
    parts = [re.sub(r"^(?:[A-Z_]+=\S* )+", "", part.strip()) for line in lines for part in re.split(r"&&", line)]
    return [words for part in parts if (words := shlex.split(part, comments=True))]
