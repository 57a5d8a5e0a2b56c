"""The command `vqlm`: its subcommands, each the `main` of a script of this folder."""

import difflib
import importlib
import shutil
import sys
from importlib import metadata
from typing import NamedTuple

from vqlm.scripts.run_script import run_script
from vqlm.training.errors import UserError


class Command(NamedTuple):
    module: str  # imported only when it is called
    help: str


COMMANDS: dict[str, dict[str, Command]] = {
    "from pictures to a model": {
        "train": Command("train", "all stages on your pictures, planned for the minutes that you give"),
        "demo": Command("demo", "all stages on OpenMoji, from nothing to drawn prompts"),
        "advise": Command("advise", "how many pictures and minutes reach what, and what yours are worth"),
        "inspect-data": Command("inspect_data", "what is wrong with a collection of pictures"),
        "train-vq": Command("train_vq", "stage one: train a VQ-VAE, which turns pictures into codes"),
        "inspect-vq": Command("inspect_vq", "what is wrong with a trained VQ-VAE"),
        "prepare": Command("prepare_data", "encode pictures to codes and captions to one vocabulary"),
        "train-lm": Command("train_lm", "stage two: train a language model on a prepared set"),
        "plan": Command("plan", "what a config of one stage would cost: parameters, FLOPs, memory, time"),
        "watch": Command("watch", "curves and samples of a training, on a page that refreshes itself"),
    },
    "with a finished model": {
        "generate": Command("generate", "draw a prompt, continue a picture, or draw a part of it again"),
        "caption": Command("caption", "describe pictures"),
        "app": Command("app", "a page to draw on, in the browser"),
        "serve": Command("serve", "draw over HTTP, by OpenAI's image API"),
        "evaluate": Command("evaluate", "figures and samples on a page"),
        "set-sampling": Command("set_sampling", "change how a finished model draws by default"),
    },
    "to look closer": {
        "compare-pca": Command("compare_pca", "a VQ-VAE against PCA at equal bits per picture"),
        "sample-prior": Command("sample_prior", "codes drawn uniformly, by their frequencies, and by the model"),
    },
}


def main() -> None:
    """Run `vqlm SUBCOMMAND ...`; what the console entry point and `python -m vqlm` call."""
    run_script(_dispatch, sys.argv[1:])


def run_command(name: str, arguments: list[str]) -> None:
    """Run one subcommand in this process. Raises UserError for a name that does not exist."""
    known = {name: command for group in COMMANDS.values() for name, command in group.items()}
    if name not in known:
        near = difflib.get_close_matches(name.replace("_", "-"), known, n=3, cutoff=0.5)
        nearest = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}."
        raise UserError(f"vqlm has no subcommand {name!r}; {nearest}")
    program, sys.argv[0] = sys.argv[0], f"vqlm {name}"  # which --help shows
    try:
        importlib.import_module(f"vqlm.scripts.{known[name].module}").main(arguments)
    finally:
        sys.argv[0] = program


def command_prefix() -> list[str]:
    """How a person starts `vqlm` here: by its name where the shell finds it, else as a module."""
    return ["vqlm"] if shutil.which("vqlm") else [sys.executable, "-m", "vqlm"]


def _dispatch(arguments: list[str] | None) -> None:
    first, *rest = arguments or ["--help"]
    if first in ("-h", "--help"):
        print(_help(), flush=True)
    elif first == "help":
        run_command(rest[0], ["--help"]) if rest else print(_help(), flush=True)
    elif first == "--version":
        print(f"vqlm {metadata.version('vqlm')}", flush=True)
    elif first.startswith("-"):
        raise UserError(
            f"the subcommand comes before its options: vqlm SUBCOMMAND {first} ...; vqlm --help lists them."
        )
    else:
        run_command(first, rest)


def _help() -> str:
    lines = ["usage: vqlm SUBCOMMAND [OPTION ...]", "", "From a folder of captioned pictures to a model that draws a"]
    lines[-1] += " prompt."
    for title, group in COMMANDS.items():
        lines += ["", f"{title}:", *(f"  {name:14} {command.help}" for name, command in group.items())]
    return "\n".join([*lines, "", "`vqlm SUBCOMMAND --help` lists the options of one; `vqlm --version`."])
