"""Open a page to draw on, with finished models.

vqlm app --model outputs/demo/model
"""

from vqlm.scripts import serve
from vqlm.scripts.run_script import run_script


def main(arguments: list[str] | None = None) -> None:
    serve.main(arguments, page=True, description=__doc__)


if __name__ == "__main__":
    run_script(main)
