"""How much of the encoder's own speed does encoding a collection reach? Decoding, reading and writing should be hidden.

    python benchmarks/encoding_rate.py

Shards of a generated WebDataset are encoded by `ShardEncoder`, which is what prepare_data.py runs, in turns with the
encoder alone on the same pictures as tensors in memory.
"""

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path

from generated import print_machine, write_image_tokenizer, write_webdataset

from data_prep import Vocabulary, load_collection, load_pictures
from data_prep.encoding import ShardEncoder
from training.machine import keep_freed_memory
from vq import to_pixel_values

SHARDS = 20  # of a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=100, help="of 1,000 pictures; how large the collection is")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of 20,000 pictures")
    parser.add_argument("--side", type=int, default=64, help="pixels of the JPEG files and of the model")
    arguments = parser.parse_args()
    keep_freed_memory()
    print_machine()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_webdataset(folder / "tars", 1000 * arguments.shards, arguments.side)
        model = write_image_tokenizer(folder / "vq", arguments.side)
        plain = copy.deepcopy(model)
        collection = load_collection(str(folder / "tars" / "*.tar"))
        vocabulary = Vocabulary.train((row.captions[0] for row in collection.rows()), 400, {"image": 1024})
        encoder = ShardEncoder(collection, model, vocabulary, folder / "shards")
        pictures = load_pictures(collection, (arguments.side, arguments.side), 1000 * SHARDS).train[: 1000 * SHARDS]
        alone, ours = [], []
        for number in range(arguments.rounds + 1):  # the first warms up
            start = time.perf_counter()
            for part in pictures.split(64):
                plain.encode(to_pixel_values(part))
            middle = time.perf_counter()
            list(encoder.encode(list(range(SHARDS * number, SHARDS * (number + 1)))))
            alone.append(middle - start)
            ours.append(time.perf_counter() - middle)
    pairs = [a / b for a, b in zip(alone[1:], ours[1:], strict=True)]
    print("| | pictures/s, median |\n|---|---|")
    print(f"| encoder alone, tensors in memory | {1000 * SHARDS / statistics.median(alone[1:]):.0f} |")
    print(f"| from tar files to a prepared set | {1000 * SHARDS / statistics.median(ours[1:]):.0f} |")
    print(f"| share, median ({min(pairs):.2f} to {max(pairs):.2f}) | {statistics.median(pairs):.2f} |")


if __name__ == "__main__":
    main()
