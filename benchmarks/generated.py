"""Generated pictures, collections and prepared sets."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
from datasets import Features, List, Value
from PIL import Image

from vqlm.training.folders.whole_files import checksum_of
from vqlm.vq import VQVAE, NetworkConfig, VQVAEConfig

WORDS = ("red", "blue", "green", "small", "large", "heart", "square", "circle", "flag", "cat", "dog", "moon")
PICTURES_A_TAR = 1000


def write_webdataset(folder: Path, pictures: int, side: int, pictures_a_tar: int = PICTURES_A_TAR) -> None:
    """`pictures` JPEG files of coloured blocks with a caption each, in tars of `pictures_a_tar`."""
    folder.mkdir(parents=True)
    for start in range(0, pictures, pictures_a_tar):
        random = np.random.default_rng(start)
        with tarfile.open(folder / f"{start // pictures_a_tar:06}.tar", "w") as archive:
            for number in range(start, min(start + pictures_a_tar, pictures)):
                file = io.BytesIO()
                Image.fromarray(coloured_blocks(1, side, random)[0]).save(file, "JPEG")
                caption = " ".join(random.choice(WORDS, random.integers(2, 7)))
                for suffix, content in ((".jpg", file.getvalue()), (".txt", caption.encode())):
                    member = tarfile.TarInfo(f"{number:09}{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def coloured_blocks(pictures: int, side: int, random: np.random.Generator | None = None) -> np.ndarray:
    """(N, H, W, 3) uint8: 8x8 random colours each, smoothed."""
    random = random or np.random.default_rng(0)
    blocks = [Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(pictures)]
    return np.stack([np.asarray(block.resize((side, side), Image.Resampling.BICUBIC)) for block in blocks])


def write_image_tokenizer(folder: Path, side: int = 64) -> VQVAE:
    """The default network, untrained, which is as fast as a trained one."""
    model = VQVAE(VQVAEConfig(network=NetworkConfig(input_shape=[side, side]))).eval()
    model.save_pretrained(folder)
    return model


def write_shards(folder: Path, rows: int, rows_per_shard: int, tokens_per_image: int, codebook_size: int) -> list[dict]:
    """Write shards of random codes and captions; returns their entries in the manifest."""
    features = Features(
        {
            "key": Value("string"),
            "captions": List(Value("string")),
            "caption_tokens": List(Value("uint16")),
            "codes": List(Value("uint16"), length=tokens_per_image),
        }
    )
    random, described = np.random.default_rng(0), []
    for start in range(0, rows, rows_per_shard):
        count = min(rows_per_shard, rows - start)
        lengths = random.integers(2, 7, count)
        words = random.choice(WORDS, lengths.sum())
        captions = [" ".join(part) for part in np.split(words, lengths.cumsum()[:-1])]
        one_each = pyarrow.array(np.arange(count + 1, dtype=np.int32))
        codes = random.integers(0, codebook_size, count * tokens_per_image, dtype=np.uint16)
        table = pyarrow.table(
            [
                pyarrow.array([f"{number:09}" for number in range(start, start + count)]),
                pyarrow.ListArray.from_arrays(one_each, pyarrow.array(captions)),
                pyarrow.ListArray.from_arrays(one_each, pyarrow.array(lengths.astype(np.uint16))),
                pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(codes), tokens_per_image),
            ],
            schema=features.arrow_schema,
        )
        name = f"{start // rows_per_shard:06}"
        (folder / name).mkdir(parents=True)
        path = folder / name / "train.arrow"
        with path.open("wb") as file, pyarrow.ipc.new_stream(file, features.arrow_schema) as writer:
            writer.write_table(table, max_chunksize=4096)
        checksum = checksum_of(folder / name / "train.arrow")
        described.append({"folder": name, "rows": {"train": count}, "sha256": {"train": checksum}})
    return described
