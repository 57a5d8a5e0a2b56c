"""Does the memory of `vqlm prepare` grow with the collection?

    python benchmarks/encoding_memory.py

Runs scripts/prepare_data.py in a new process on generated WebDatasets of several sizes and reports the peak memory of
the process or of its largest worker.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from generated import write_image_tokenizer, write_webdataset
from measure import Report, choose, parser

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_data.py"
# Run by a fresh interpreter each time: a process is told only the peak of all its children so far.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__)
    options.add_argument("--pictures", type=int, nargs="+", help="sizes of the collections")
    options = options.parse_args(arguments)
    report = Report("encoding_memory", __doc__, options)
    table = report.table("Preparing", ["pictures", "peak memory of the largest process, MB", "seconds"])
    points = []
    for pictures in options.pictures or choose(options, [1_000, 10_000, 100_000], [1_000, 4_000], [100]):
        megabytes, seconds = prepare(pictures, 16 if options.tiny else 64)
        table.row(pictures, megabytes, seconds)
        points.append((pictures, megabytes))
    report.plot(
        "preparing-memory", "Memory of preparing by the size of the collection", "pictures", "peak memory, MB",
        {"largest process": points},
    )  # fmt: skip
    return report.save()


def prepare(pictures: int, side: int) -> tuple[float, float]:
    """Megabytes and seconds."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_webdataset(folder / "tars", pictures, side)
        write_image_tokenizer(folder / "vq", side)
        command = [sys.executable, str(SCRIPT), "--data", str(folder / "tars")]
        command += ["--image-tokenizer", str(folder / "vq"), "--output", str(folder / "data")]
        start = time.monotonic()
        done = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return int(done.stdout.splitlines()[-1]) / 1024, time.monotonic() - start


if __name__ == "__main__":
    main()
