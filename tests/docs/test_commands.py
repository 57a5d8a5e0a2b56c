"""Every command of the documents is one that its parser takes, and every Python block imports what exists."""

import ast
import importlib
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import jsonargparse
import pytest

from vqlm.scripts.commands import COMMANDS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from documents import DOCUMENTS, blocks, commands  # noqa: E402

SCRIPTS = {name: command.module for group in COMMANDS.values() for name, command in group.items()}
# Programs of others: not ours to check.
OTHERS = {"pip", "python3", ".", "apt", "npm", "tar", "pytest", "pre-commit", ".venv/bin/pip"}


class Parsed(Exception):
    """The parser took the command; nothing is run."""


@pytest.fixture
def parse(monkeypatch):
    """Parses a command of a script as the script does, and stops there."""
    parse_args = jsonargparse.ArgumentParser.parse_args

    def stop_after(parser, *arguments, **options):
        parse_args(parser, *arguments, **options)
        raise Parsed

    monkeypatch.setattr(jsonargparse.ArgumentParser, "parse_args", stop_after)
    monkeypatch.chdir(ROOT)

    def run(script: str, arguments: list[str]) -> None:
        main = importlib.import_module(f"vqlm.scripts.{script}").main
        if "--help" in arguments:
            with pytest.raises(SystemExit) as leaving:
                main(arguments)
            assert leaving.value.code == 0
            return
        with pytest.raises(Parsed):
            main(arguments)

    return run


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """The script and its arguments, however the command names it."""
    if words[:2] == ["accelerate", "launch"]:
        words = ["python", *words[2:]]
    if words[0] == "torchrun":  # options of its own, then a script or a module
        first = next(i for i, word in enumerate(words) if word == "-m" or word.endswith(".py"))
        words = (
            ["vqlm", *words[first + 2 :]] if words[first : first + 2] == ["-m", "vqlm"] else ["python", *words[first:]]
        )
    if words[0] == "vqlm" and words[1:] not in ([], ["--help"]):
        return SCRIPTS[words[1]], words[2:]
    if words[0] == "python" and words[1] == "-m" and words[2].startswith("vqlm.scripts."):
        return words[2].removeprefix("vqlm.scripts."), words[3:]
    if words[0] == "python" and words[1].startswith("scripts/"):
        return Path(words[1]).stem, words[2:]
    return None


def complete(words: list[str]) -> bool:
    """Whether it is a whole command: prose also names options that a reader adds to one."""
    return not any(word in ("COMMAND", "...") for word in words)


ALL = [(path, words) for path in DOCUMENTS for words in commands(path) if complete(words)]


def test_commands_are_found():
    assert sum(ours(words) is not None for _, words in ALL) > 30


def test_options_that_do_not_exist_are_noticed(parse):
    with pytest.raises(Exception, match="no-such"):
        parse("generate", ["--model", "m", "--output", "a.png", "--no-such", "1"])


QUOTED = [(path.name, words) for path, words in ALL if ours(words) is not None and len(words) > 2]


@pytest.mark.parametrize(("name", "words"), QUOTED, ids=[f"{name}: {' '.join(words)}"[:90] for name, words in QUOTED])
def test_its_parser_takes_every_command(name, words, parse):
    script, arguments = ours(words)
    whole = "--output" in arguments or "--image" in arguments or "--help" in arguments
    if script == "generate" and not whole:
        arguments = [*arguments, "--output", "o"]
    elif not whole and script not in ("advise", "set_sampling", "app", "serve", "watch", "plan", "train"):
        # prose that names the options of interest: what is required is added
        from_help = {"train_vq": ["--data", "d"], "prepare_data": ["--data", "d", "--image_tokenizer", "t"]}
        arguments = [*from_help.get(script, ["--data", "d"]), "--output", "o", *arguments]
    parse(script, arguments)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_of_settings_and_extras_exist(document):
    if document.name == "CHANGELOG.md":
        return  # names what there was
    text = " ".join(document.read_text(encoding="utf-8").split())
    named = re.findall(r"--config (configs/[\w/.-]+\.yaml)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in commands(document):
        if words[:2] == ["pip", "install"]:
            chosen = [name for word in words for names in re.findall(r"\[(.*?)\]", word) for name in names.split(",")]
            assert set(chosen) <= extras.keys(), words
            assert not any(word.startswith("vqlm") for word in words), "vqlm is not on PyPI"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_boolean_has_no_value(document):
    assert re.findall(r"--[a-z][\w.-]* (?:true|false)\b", document.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_and_files_of_commands_exist(document):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(document):
        if words[0] == "make":
            named = [word for word in words[1:] if "=" not in word]
            assert set(named) <= targets, words
        elif words[0] in ("python", ".venv/bin/python") and len(words) > 1 and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), words
        elif words[0] in ("python", "accelerate", "torchrun", "vqlm"):
            continue
        else:
            assert words[0] in OTHERS, f"{document.name}: {words}"


PYTHON = [(path, block) for path in DOCUMENTS if path.name != "lecture.md" for block in blocks(path, "python")]


@pytest.mark.parametrize(("path", "block"), PYTHON, ids=[path.name for path, _ in PYTHON])
def test_python_blocks_parse_and_import_what_exists(path, block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert importlib.util.find_spec(alias.name), alias.name
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
