"""Does the memory that preparing takes grow with the collection?

    python benchmarks/encoding_memory.py

Runs scripts/prepare_data.py in a process of its own on generated WebDatasets of two sizes and prints the largest memory
that the process and its workers held.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from generated import print_machine, write_image_tokenizer, write_webdataset

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_data.py"
# Run by a fresh interpreter each time: a process is told only the peak of all its children so far.
MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(done.returncode)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[10_000, 100_000])
    arguments = parser.parse_args()
    print_machine()
    print("| pictures | peak memory of the largest process, MB | seconds |\n|---|---|---|", flush=True)
    for pictures in arguments.pictures:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_webdataset(folder / "tars", pictures, 64)
            write_image_tokenizer(folder / "vq")
            command = [sys.executable, str(SCRIPT), "--data", str(folder / "tars")]
            command += ["--image-tokenizer", str(folder / "vq"), "--output", str(folder / "data")]
            start = time.monotonic()
            done = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            megabytes = int(done.stdout.splitlines()[-1]) / 1024
            print(f"| {pictures} | {megabytes:.0f} | {time.monotonic() - start:.0f} |", flush=True)


if __name__ == "__main__":
    main()
