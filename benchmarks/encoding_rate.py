"""How close does encoding a collection come to the speed of the encoder alone?

    python benchmarks/encoding_rate.py

`ShardEncoder`, which `vqlm prepare` runs, encodes shards of a generated WebDataset, in turns with `VQVAE.encode` on
the same pictures as tensors in memory. Decoding, reading and writing should cost no time of their own.
"""

import copy
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from generated import PICTURES_A_TAR, write_image_tokenizer, write_webdataset
from measure import Report, Spread, choose, in_turns, parser, ratio
from torch import Tensor

from vqlm.data_prep import Vocabulary, load_collection, load_pictures
from vqlm.data_prep.encoding import ShardEncoder
from vqlm.training.machine.allocator import keep_freed_memory
from vqlm.training.machine.device import is_bf16_fast
from vqlm.vq import VQVAE, to_pixel_values

ALONE, OURS = "encoder alone, tensors in memory", "from tar files to a prepared set"
IS_BF16 = is_bf16_fast(torch.device("cpu"))  # what `vqlm prepare` does by default


class Settings(NamedTuple):
    """shards: tar files per round. side: pixels of the JPEG files and of the model. workers: of ShardEncoder."""

    shards: int = 20
    rounds: int = 4
    side: int = 64
    pictures_a_shard: int = PICTURES_A_TAR
    workers: int | None = None


QUICK = Settings(shards=3, rounds=2)
TINY = Settings(1, 1, 16, 20, 0)


def main(arguments: list[str] | None = None) -> dict:
    options = parser(__doc__).parse_args(arguments)
    settings = choose(options, Settings(), QUICK, TINY)
    keep_freed_memory()
    report = Report("encoding_rate", __doc__, options)
    rounds, count = settings.rounds + 1, settings.shards * settings.pictures_a_shard  # the first warms up
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_webdataset(folder / "tars", rounds * count, settings.side, settings.pictures_a_shard)
        model = write_image_tokenizer(folder / "vq", settings.side)
        plain = copy.deepcopy(model).to(memory_format=torch.channels_last)
        collection = load_collection(str(folder / "tars" / "*.tar"))
        vocabulary = Vocabulary.train((row.captions[0] for row in collection.rows()), 400, {"image": 1024})
        encoder = ShardEncoder(
            collection, model, vocabulary, folder / "shards", num_workers=settings.workers, is_bf16=IS_BF16
        )
        pictures = load_pictures(collection, (settings.side, settings.side), count).train[:count]
        numbers = iter(
            [
                list(range(start, start + settings.shards))
                for start in range(0, rounds * settings.shards, settings.shards)
            ]
        )
        timings = in_turns(
            {ALONE: lambda: encode_all(plain, pictures), OURS: lambda: list(encoder.encode(next(numbers)))},
            settings.rounds,
        )
    table = report.table(f"Pictures of {settings.side}x{settings.side}", ["", "pictures/s", "share of the encoder's"])
    table.row(ALONE, Spread.of(len(pictures) / seconds for seconds in timings[ALONE]), None)
    ours = [count / seconds for seconds in timings[OURS]]
    table.row(OURS, Spread.of(ours), ratio(ours, [len(pictures) / seconds for seconds in timings[ALONE]]))
    return report.save()


def encode_all(model: VQVAE, pictures: Tensor) -> None:
    """The work of `ShardEncoder` without decoding, reading and writing."""
    for part in pictures.split(128):
        pixel_values = to_pixel_values(part).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=IS_BF16):
            model.encode(pixel_values)


if __name__ == "__main__":
    main()
