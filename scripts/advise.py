"""What to expect of your pictures: how many are enough, how many minutes they are worth, when to stop.

vqlm advise
vqlm advise my_pictures

Without a folder it prints what trainings of so many pictures reached; with one also what your pictures are, and the
minutes from which they are worth training on this machine. It trains nothing and writes nothing.
"""

from jsonargparse import Namespace

from vqlm.data_prep.collections.source_names import require_data
from vqlm.data_prep.settings import DATA_HELP, CollectionConfig
from vqlm.planning.measured import COLUMNS, measured_cells
from vqlm.scripts.options import ScriptParser, script_parser
from vqlm.scripts.run_script import run_script
from vqlm.scripts.settings_options import values_of

WORDS = """
New prompts are those of pictures that were held out: most prompts that you will type are new. R@10 is the share of them
whose own picture is among the ten nearest to what was drawn, of all pictures; beside it what chance gives.
A model draws new combinations of words that it knows from several pictures, such as a known thing in a known colour. It
cannot draw a thing of which it never saw a picture; there it draws a mixture of what it knows.
Stop when the held-out figure no longer falls (`vqlm watch` shows it), or when trained prompts come out and new ones do
not: then more pictures help, and more minutes do not.
""".strip()


def main(arguments: list[str] | None = None) -> None:
    parser = script_parser(__doc__)
    parser.add_argument("data", nargs="?", help=DATA_HELP)
    parser.add_argument("--seed", type=int, default=0, help="Decides which pictures are looked at.")
    parser.add_class_arguments(CollectionConfig)
    settings = parser.parse_args(arguments)
    if settings.data is not None:
        require_data(settings.data)
    print("\n".join(table_lines()) + "\n\n" + WORDS, flush=True)
    if settings.data is not None:
        _look_at(settings, parser)


def table_lines() -> list[str]:
    """What was measured, as Markdown, which docs/what_to_expect.md holds too."""
    rows = [COLUMNS, tuple("-" * len(name) for name in COLUMNS), *measured_cells()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "| " + " | ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]


def _look_at(settings: Namespace, parser: ScriptParser) -> None:
    """Print what the collection is and what it is worth."""
    from pathlib import Path

    from vqlm.planning.advice import minutes_worth
    from vqlm.planning.facts import gather_facts
    from vqlm.planning.machine_speed import measure_speed
    from vqlm.planning.reasons import expectations
    from vqlm.planning.request import Request, describe, open_collection

    request = Request(settings.data, Path("runs/mine"), collection=values_of(CollectionConfig, settings))
    collection, captions = open_collection(request)
    facts = gather_facts(collection, settings.seed)
    print(f"\n{settings.data}: {describe(facts)}")
    for decision in captions:
        print(f"captions {decision.choice}: {decision.reason}")
    print("measuring how fast this machine trains, about 15 s", flush=True)
    speed = measure_speed(list(facts.captions))
    worth = minutes_worth(facts, speed.undisturbed if speed.warning else speed)
    lines = [f"- {worth.least} minutes are the least from which anything is learned."]
    if worth.larger is not None:
        lines.append(f"- From {worth.larger} minutes on they are drawn at {worth.largest_side}x{worth.largest_side}.")
    if worth.most is not None:
        lines.append(f"- More than {worth.most} minutes do not help: the model would learn these pictures by heart.")
    lines += [f"- {parser.in_options(note)}" for note in expectations(facts, None)]
    lines += [f"- {speed.warning}"] if speed.warning else []
    minutes = worth.larger or worth.most or max(worth.least, 30)
    lines.append(f"Train with: vqlm train {settings.data} --minutes {minutes} --output runs/mine")
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    run_script(main)
