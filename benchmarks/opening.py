"""How long until a prepared set of ten million rows gives its first batch?

    python benchmarks/opening.py

Opens a generated set in a fresh process, every checksum verified, and draws one batch through stage two's own loader.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from generated import print_machine, write_image_tokenizer, write_shards

from data_prep import Vocabulary
from data_prep.prepared_set import FORM
from training.files import write_json

OPEN = """
import sys, time
from torch.utils.data import DataLoader
from data_prep import PreparedSet, RowCollator
from data_prep.batching import CaptionLengths, PackedBatches, PackedRows, choose_shape
from data_prep.sequences import ROW_OVERHEAD
start = time.perf_counter()
prepared = PreparedSet.load(sys.argv[1], verify=sys.argv[2] == "yes")
opened = time.perf_counter()
lengths, codes = CaptionLengths(prepared.train, 64), prepared.tokens_per_image
shape = choose_shape(lengths, 32, ROW_OVERHEAD + codes, codes)
rows, batches = PackedRows(prepared.train, codes), PackedBatches(lengths, shape, seed=0)
packs = next(iter(DataLoader(rows, batch_sampler=batches, collate_fn=list)))
RowCollator(prepared.vocabulary, 64, None)(packs, shape)
print(f"{opened - start:.2f} {time.perf_counter() - opened:.2f} {len(prepared.train)}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    arguments = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = write_image_tokenizer(folder / "image_tokenizer")
        vocabulary = Vocabulary.train(["red heart"], 400, {"image": model.config.codebook_size})
        vocabulary.save_pretrained(folder / "vocabulary")
        config = model.config
        shards = write_shards(
            folder / "shards", arguments.rows, -(-arguments.rows // 256), config.tokens_per_image, config.codebook_size
        )
        manifest = {
            "form": FORM, "vocabulary": vocabulary.fingerprint(), "splits": {"train": arguments.rows},
            "tokens_per_image": config.tokens_per_image, "shards": shards,
            "made_from": {"image_tokenizer": model.fingerprint(), "views": {"views": 1}},
        }  # fmt: skip
        write_json(folder / "manifest.json", manifest)
        size = sum(path.stat().st_size for path in (folder / "shards").rglob("*.arrow"))
        print(f"{arguments.rows} rows, {size / 1e9:.2f} GB in {len(shards)} shards\n")
        print("| checksums | opening, s | first batch of 32 rows, s | together |\n|---|---|---|---|")
        for verify in ("yes", "no"):
            command = [sys.executable, "-c", OPEN, str(folder), verify]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            opening, first, _ = map(float, done.stdout.split())
            print(f"| {verify} | {opening:.2f} | {first:.2f} | {opening + first:.2f} |", flush=True)


if __name__ == "__main__":
    main()
