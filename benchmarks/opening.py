"""How long does a prepared set of up to ten million rows take to give its first batch?

    python benchmarks/opening.py

Opens generated sets in a new process, with and without verifying checksums, and reads one batch with the loader of
stage two.
"""

import tempfile
import time
from pathlib import Path

from generated import write_image_tokenizer, write_shards
from measure import Report, choose, in_child, parser
from torch.utils.data import DataLoader

from vqlm.data_prep import PreparedSet, RowCollator, Vocabulary
from vqlm.data_prep.batching import CaptionLengths, PackedBatches, PackedRows, choose_shape
from vqlm.data_prep.prepared_set import FORM
from vqlm.data_prep.sequences import ROW_OVERHEAD
from vqlm.training.folders.whole_files import write_json
from vqlm.vq import VQVAE


def main(arguments: list[str] | None = None) -> dict | None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, nargs="+", help="sizes of the sets")
    options.add_argument(
        "--open", nargs=2, metavar=("FOLDER", "VERIFY"), help="measure one set; used by child processes"
    )
    options = options.parse_args(arguments)
    if options.open:
        print(*open_set(Path(options.open[0]), options.open[1] == "yes"))
        return None
    report = Report("opening", __doc__, options)
    table = report.table(
        "First batch of about 32 rows",
        ["rows", "GB", "shards", "checksums", "opening, s", "first batch, s", "together"],
    )
    points: dict[str, list] = {"yes": [], "no": []}
    for rows in options.rows or choose(options, [10_000, 100_000, 1_000_000, 10_000_000], [100_000], [1_000]):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            shards = write_set(folder, rows)
            size = sum(path.stat().st_size for path in (folder / "shards").rglob("*.arrow"))
            for verify in points:
                if options.tiny:
                    opening, first = open_set(folder, verify == "yes")
                else:
                    opening, first = in_child(__file__, "--open", folder, verify)
                table.row(rows, size / 1e9, shards, verify, opening, first, opening + first)
                points[verify].append((rows, opening + first))
    series = {f"checksums: {verify}": values for verify, values in points.items()}
    report.plot("opening", "First batch by the size of the set", "rows", "s", series)
    return report.save()


def write_set(folder: Path, rows: int) -> int:
    """Write a prepared set of random codes; returns its number of shards."""
    model: VQVAE = write_image_tokenizer(folder / "image_tokenizer")
    config, vocabulary = model.config, Vocabulary.train(["red heart"], 400, {"image": model.config.codebook_size})
    vocabulary.save_pretrained(folder / "vocabulary")
    shards = write_shards(folder / "shards", rows, -(-rows // 256), config.tokens_per_image, config.codebook_size)
    manifest = {
        "form": FORM, "vocabulary": vocabulary.fingerprint(), "splits": {"train": rows},
        "tokens_per_image": config.tokens_per_image, "shards": shards,
        "made_from": {"image_tokenizer": model.fingerprint(), "views": {"views": 1}},
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    return len(shards)


def open_set(folder: Path, verify: bool) -> tuple[float, float]:
    """Seconds to open the set, and seconds from there to the first batch."""
    start = time.perf_counter()
    prepared = PreparedSet.load(folder, verify)
    opened = time.perf_counter()
    lengths, codes = CaptionLengths(prepared.train, 64), prepared.tokens_per_image
    shape = choose_shape(lengths, 32, ROW_OVERHEAD + codes, codes)
    rows, batches = PackedRows(prepared.train, codes), PackedBatches(lengths, shape, seed=0)
    packs = next(iter(DataLoader(rows, batch_sampler=batches, collate_fn=list)))
    RowCollator(prepared.vocabulary, 64, None)(packs, shape)
    return opened - start, time.perf_counter() - opened


if __name__ == "__main__":
    main()
