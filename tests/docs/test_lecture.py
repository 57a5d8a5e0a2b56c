"""docs/lecture.md quotes code that still stands where it says."""

import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
LECTURE = ROOT / "docs" / "lecture.md"

QUOTE = re.compile(r"^`([\w/]+\.py)`:\n\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def stands_in(source: str, quoted: str) -> bool:
    """Whether the quoted lines follow one another in the source, however deep they are indented there."""
    lines, wanted = source.splitlines(), dedent(quoted).splitlines()
    windows = (lines[start : start + len(wanted)] for start in range(len(lines) - len(wanted) + 1))
    return any(dedent("\n".join(window)).splitlines() == wanted for window in windows)


def test_a_changed_line_is_noticed():
    source = "def f():\n    a = 1\n    b = 2\n"
    assert stands_in(source, "a = 1\nb = 2\n")
    assert stands_in(source, "        b = 2\n")
    assert not stands_in(source, "a = 1\nb = 3\n")
    assert not stands_in(source, "b = 2\na = 1\n")
    assert not stands_in(source, "a = 1\n    b = 2\n")


def test_every_quoted_line_stands_in_its_file():
    text = LECTURE.read_text(encoding="utf-8")
    quotes = QUOTE.findall(text)
    assert len(quotes) == text.count("```python") > 20
    gone = [
        (name, quoted) for name, quoted in quotes if not stands_in((ROOT / name).read_text(encoding="utf-8"), quoted)
    ]
    assert gone == []
