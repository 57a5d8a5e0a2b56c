"""Does a preparation that is killed again and again give exactly the rows of an undisturbed run?

    python benchmarks/killed.py

Starts scripts/prepare_data.py on a generated WebDataset, kills it and its workers (SIGKILL) at a random moment,
continues it with --resume, and so on. Then compares all checksums and all skipped rows with an undisturbed run.
"""

import argparse
import datetime
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from generated import write_image_tokenizer, write_webdataset

from vqlm.training.folders.whole_files import read_json
from vqlm.training.machine.matrix_peak import describe_machine

SCRIPT = Path(__file__).parents[1] / "scripts" / "prepare_data.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(datetime.date.today(), json.dumps(describe_machine()), flush=True)
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_webdataset(folder / "tars", arguments.pictures, 64)
        (folder / "tars" / "broken.tar").write_bytes((folder / "tars" / "000000.tar").read_bytes()[:100_000])
        write_image_tokenizer(folder / "vq")

        def command(output: str) -> list[str]:
            return [
                sys.executable, str(SCRIPT), "--data", str(folder / "tars"), "--image-tokenizer", str(folder / "vq"),
                "--output", str(folder / output), "--resume",
            ]  # fmt: skip

        def finished(output: str) -> int:
            return len([path for path in (folder / output / "shards").glob("*") if not path.suffix])

        def start(output: str) -> subprocess.Popen:
            """Start a run; returns when it encodes or has ended."""
            begin = time.time()
            run = subprocess.Popen(command(output), start_new_session=True, stderr=subprocess.PIPE, text=True)

            def is_encoding() -> bool:
                return any(path.stat().st_mtime > begin for path in (folder / output / "shards").glob("*.tmp"))

            while run.poll() is None and not is_encoding():
                time.sleep(0.01)
            return run

        def finish(run: subprocess.Popen) -> None:
            if run.wait():
                sys.exit(run.stderr.read() if run.stderr else "")

        run, begin = start("undisturbed"), time.monotonic()
        finish(run)
        seconds = time.monotonic() - begin
        print(f"undisturbed: {finished('undisturbed')} shards in {seconds:.0f} s")
        for kill in range(arguments.kills):
            # One kill in five comes at any time after the start, the others while the run encodes.
            run = (
                start("killed") if draw.random() > 0.2 else subprocess.Popen(command("killed"), start_new_session=True)
            )
            after = draw.uniform(0, 1.5 * seconds / arguments.kills)
            try:
                run.wait(after)
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
            print(f"kill {kill + 1} after {after:.1f} s: {finished('killed')} shards finished, status {run.returncode}")
        finish(start("killed"))
        ours, theirs = (read_json(folder / name / "manifest.json") for name in ("killed", "undisturbed"))
        skipped = [(folder / name / "skipped.jsonl").read_text() for name in ("killed", "undisturbed")]
        same = ours["shards"] == theirs["shards"] and ours["splits"] == theirs["splits"] and skipped[0] == skipped[1]
        print(f"rows {ours['splits']} against {theirs['splits']}; {'identical' if same else 'DIFFERENT'}")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
