"""The kinds of inputs of hostile.py: what is written before each is mutated, and how the mutated one is read."""

import gzip
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image

from vqlm.data_prep import CollectionConfig, PreparedSet, ViewConfig, Vocabulary, load_collection, prepare
from vqlm.data_prep.collections.picture_loading import decode_rows
from vqlm.data_prep.pictures.file_kinds import readable_formats
from vqlm.data_prep.sources.rows import LEFT_OUT, Unusable, read_all
from vqlm.lm import LanguageModelConfig, TextToImagePipeline
from vqlm.lm.model import build_language_model
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.scripts import train_vq
from vqlm.vq import VQVAE, NetworkConfig, VQConfig, VQVAEConfig, load_image_tokenizer

SIDE = 16
ROWS = 6
WORDS = ("a red heart", "blå ♥, two", 'the "big" cat', "x", "one two three", "猫")


@dataclass
class Outcome:
    """read: rows that were read. lost: rows that were not, by reason. missing: rows without a reason."""

    read: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    missing: int = 0


class Kind(Protocol):
    def bases(self) -> list[bytes]:
        """Contents that are mutated."""
        ...

    def answer(self, base: int, content: bytes) -> Outcome:
        """What comes of the mutated content of the base of that number. Raises UserError for what is refused whole."""
        ...


def picture(number: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    values = np.random.default_rng(number).integers(0, 256, (12, 14, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).resize((56, 48)).convert(mode).save(file, kind)
    return file.getvalue()


def read_collection(data: Path, rows: int, counts_rows: bool = True) -> Outcome:
    """Read and decode all that `data` holds; `rows` are there."""
    collection = load_collection(str(data), SIDE, CollectionConfig(max_skipped=1.0), needs_captions=True)
    batch = decode_rows(list(read_all(collection.shards)), (SIDE, SIDE), collection.config, ViewConfig())
    batch.values.float().mean()
    json.dumps([row.captions for row in batch.rows], ensure_ascii=False).encode()
    json.dumps([(row.key, row.reason) for row in batch.skipped], ensure_ascii=False).encode()
    for row in batch.rows:
        collection.split_of(row.key).encode()
    kinds = collection.count_files() if collection.count_files else Counter()
    told = len(batch.rows) + len(batch.skipped) + kinds[LEFT_OUT]
    lost = Counter(_plain(row) for row in batch.skipped) + Counter({LEFT_OUT: kinds[LEFT_OUT]})
    return Outcome(len(batch.rows), lost, max(0, rows - told) if counts_rows else 0)


def _plain(row: Unusable) -> str:
    return row.reason.partition("(")[0][:80]


class Pictures:
    """Files of every format and mode that can be written, one beside whole ones."""

    kind_of_file = "pictures"

    def __init__(self, folder: Path):
        self.folder = folder / "in"
        self.folder.mkdir()
        self.written: list[tuple[str, bytes]] = []
        for kind in readable_formats():
            for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "F", "LA"):
                try:
                    self.written.append((kind.lower(), picture(1, kind, mode)))
                except Exception:  # a pair that Pillow does not write
                    continue
        for number in range(1, ROWS):
            write_pair(self.folder, f"{number}", picture(number), WORDS[number])

    def bases(self) -> list[bytes]:
        return [content for _, content in self.written]

    def answer(self, base: int, content: bytes) -> Outcome:
        write_pair(self.folder, "0", content, WORDS[0])
        return read_collection(self.folder, ROWS)


def write_pair(folder: Path, stem: str, content: bytes, caption: str) -> None:
    (folder / f"{stem}.png").write_bytes(content)
    (folder / f"{stem}.txt").write_text(caption, encoding="utf-8")


class Drawings:
    """SVG: shapes, gradients, references, text, embedded pictures, filters."""

    def __init__(self, folder: Path):
        self.folder = folder / "in"
        self.folder.mkdir()
        for number in range(1, ROWS):
            write_pair(self.folder, f"{number}", picture(number), WORDS[number])

    def bases(self) -> list[bytes]:
        head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        inside = (
            '<rect x="1" width="50%" height="9" fill="red" transform="rotate(45)"/><path d="M0 0L9 9C1 2 3 4 5 6Z"/>',
            '<defs><linearGradient id="g"><stop offset="0" stop-color="#f00"/></linearGradient><g id="a"><use '
            'xlink:href="#b"/></g></defs><circle r="4" fill="url(#g)"/><use href="#a"/>',
            '<filter id="f" width="9"><feGaussianBlur stdDeviation="2"/><feTurbulence baseFrequency=".1"/></filter>'
            '<g filter="url(#f)"><text font-size="3">heart</text><image href="data:image/png;base64,iVBORw0KGgo="/>'
            "</g>",
            '<pattern id="p" width="1" height="1"><rect width="1" height="1"/></pattern><rect width="9" height="9" '
            'fill="url(#p)"/><mask id="m"><g><g><g/></g></g></mask><style>rect {fill: blue}</style>',
        )
        sizes = ('viewBox="0 0 10 10"', 'width="10mm" height="5in"', 'width="100" height="80" viewBox="0 0 1 1"')
        return [f"{head}{sizes[number % 3]}>{part}</svg>".encode() for number, part in enumerate(inside)]

    def answer(self, base: int, content: bytes) -> Outcome:
        (self.folder / "0.svg").write_bytes(content)
        (self.folder / "0.txt").write_text("a drawing")
        return read_collection(self.folder, ROWS)


class Captions:
    """A `.txt` beside one of six pictures."""

    def __init__(self, folder: Path):
        self.folder = folder / "in"
        self.folder.mkdir()
        for number in range(ROWS):
            write_pair(self.folder, f"{number}", picture(number), WORDS[number])

    def bases(self) -> list[bytes]:
        texts = [*WORDS, "first\nsecond\r\n\nthird ", "de.utf8=Ein Herz\nen.utf8=A heart", "a, b, c" * 500]
        return [text.encode() for text in texts]

    def answer(self, base: int, content: bytes) -> Outcome:
        (self.folder / "0.txt").write_bytes(content)
        return read_collection(self.folder, ROWS)


class Table:
    """A file that names the pictures of a folder and their captions."""

    name = "metadata.csv"

    def __init__(self, folder: Path):
        self.folder = folder / "in"
        self.folder.mkdir()
        for number in range(ROWS):
            (self.folder / f"{number}.png").write_bytes(picture(number))

    def bases(self) -> list[bytes]:
        rows = "".join(f'{number}.png,"{text.replace(chr(34), chr(34) * 2)}"\n' for number, text in enumerate(WORDS))
        return [
            ("file_name,caption\n" + rows).encode(),
            (
                "file_name;text\r\n" + rows.replace(",", ";", 1).replace("\n", "\r\n").replace('.png,"', '.png;"')
            ).encode(),
            ("\ufeffid,file_name, caption\n" + "".join(f"{n},{n}.png, {w}\n" for n, w in enumerate("abcdef"))).encode(),
        ]

    def answer(self, base: int, content: bytes) -> Outcome:
        (self.folder / self.name).write_bytes(content)
        return read_collection(self.folder, ROWS)


class JSONLines(Table):
    name = "metadata.jsonl"

    def bases(self) -> list[bytes]:
        rows = [{"file_name": f"{number}.png", "caption": text} for number, text in enumerate(WORDS)]
        lists = [row | {"caption": [row["caption"], "second"], "size": [1, 2]} for row in rows]
        return ["".join(json.dumps(row, ensure_ascii=n == 0) + "\n" for row in part).encode()
                for n, part in enumerate((rows, lists))]  # fmt: skip


class CaptionJSON(Table):
    """COCO and Karpathy."""

    name = "captions_train.json"

    def bases(self) -> list[bytes]:
        images = [{"id": number, "file_name": f"{number}.png"} for number in range(ROWS)]
        annotations = [{"id": number, "image_id": number, "caption": text} for number, text in enumerate(WORDS)]
        splits = ("train", "restval", "val", "test", "train", "train")
        karpathy = [
            {"filename": f"{number}.png", "split": splits[number], "sentences": [{"raw": text}]}
            for number, text in enumerate(WORDS)
        ]
        return [json.dumps(value).encode() for value in
                ({"images": images, "annotations": annotations}, {"images": karpathy, "dataset": "x"})]  # fmt: skip


class Archives:
    """A WebDataset."""

    name = "x.tar"

    def __init__(self, folder: Path):
        self.path = folder / "in" / self.name
        self.path.parent.mkdir()

    def bases(self) -> list[bytes]:
        return [self._archive(form) for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]

    def _archive(self, form: int) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for number, text in enumerate(WORDS):
                long = "folder/" * 20 if form != tarfile.USTAR_FORMAT else ""
                described = {"caption": text}
                for suffix, content in (
                    (".png", picture(number)),
                    (".json", json.dumps(described).encode()) if number % 2 else (".txt", text.encode()),
                ):
                    member = tarfile.TarInfo(f"{long}{number}{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return file.getvalue()

    def answer(self, base: int, content: bytes) -> Outcome:
        self.path.write_bytes(content)
        outcome = read_collection(self.path, ROWS)
        # Damage is told once, however many rows it costs.
        is_told = any("ends or breaks here" in reason for reason in outcome.lost)
        return Outcome(outcome.read, outcome.lost, 0 if is_told else outcome.missing)


class CompressedArchives(Archives):
    name = "x.tar.gz"

    def bases(self) -> list[bytes]:
        return [gzip.compress(content, mtime=0) for content in super().bases()]


class Tables:
    """Parquet with pictures inside."""

    def __init__(self, folder: Path):
        self.path = folder / "in" / "x.parquet"
        self.path.parent.mkdir()

    def bases(self) -> list[bytes]:
        pictures = [picture(number) for number in range(ROWS)]
        table = pyarrow.table({"image": pictures, "caption": list(WORDS), "id": [str(n) for n in range(ROWS)]})
        structs = pyarrow.table(
            {"image": [{"bytes": content, "path": None} for content in pictures], "text": [[w, w] for w in WORDS]}
        )
        contents = []
        for value, options in ((table, {"compression": "none"}), (structs, {"row_group_size": 2})):
            file = io.BytesIO()
            pyarrow.parquet.write_table(value, file, **options)
            contents.append(file.getvalue())
        return contents

    def answer(self, base: int, content: bytes) -> Outcome:
        self.path.write_bytes(content)
        outcome = read_collection(self.path, ROWS)
        is_told = any("breaks here" in reason or "cannot be opened" in reason for reason in outcome.lost)
        return Outcome(outcome.read, outcome.lost, 0 if is_told else outcome.missing)


class Configs:
    """YAML of `vqlm train-vq --config`."""

    def __init__(self, folder: Path):
        self.path, self.output = folder / "in.yaml", folder / "vq"

    def bases(self) -> list[bytes]:
        return [
            b"max_steps: 10\nbatch_size: 8\nnetwork:\n  input_shape: [16, 16]\n  strides: [2, 2]\nseed: 1\n",
            b"quantizer:\n  type: fsq\n  levels: [8, 5, 5]\nflip: 0.5\nloss: {reconstruction: l1}\nmax_minutes: 1.5\n",
            b"data: [a, b]\nbackground: '#ff8800'\nmax_skipped: 0.1\nclass_template: 'a {}'\nheld_out: 0.2\n",
        ]

    def answer(self, base: int, content: bytes) -> Outcome:
        self.path.write_bytes(content)
        words = ["--config", str(self.path), "--data", "x", "--output", str(self.output)]
        parsed = train_vq.settings_parser(words).parse_args(words)
        VQVAEConfig(network=parsed.network, quantizer=parsed.quantizer)
        return Outcome(1)


def tiny_tokenizer() -> VQVAE:
    torch.manual_seed(0)
    network = NetworkConfig(
        input_shape=[SIDE, SIDE], strides=[2, 2], stem_channels=8, hidden_channels=16, num_residual_layers=1
    )
    return VQVAE(VQVAEConfig(network=network, quantizer=VQConfig(codebook_size=16, codebook_dim=4))).eval()


class SavedParts:
    """A folder that was written by us, of which one file is mutated."""

    names: tuple[str, ...] = ()

    def __init__(self, folder: Path):
        self.folder = folder / "saved"
        self.write(folder)
        self.contents = {name: (self.folder / name).read_bytes() for name in self.names}

    def write(self, folder: Path) -> None:
        raise NotImplementedError

    def load(self) -> Any:
        raise NotImplementedError

    def bases(self) -> list[bytes]:
        return list(self.contents.values())

    def answer(self, base: int, content: bytes) -> Outcome:
        for name, original in self.contents.items():
            (self.folder / name).write_bytes(original)
        (self.folder / self.names[base]).write_bytes(content)
        self.load()
        return Outcome(1)


class Manifests(SavedParts):
    names = ("manifest.json", "vocabulary/vocabulary.json", "vocabulary/tokenizer_config.json")

    def write(self, folder: Path) -> None:
        values = np.random.default_rng(0).integers(0, 256, (20, 3, SIDE, SIDE), dtype=np.uint8)
        np.savez(folder / "x.npz", values=values, captions=["a heart"] * 20)
        prepare(load_collection(str(folder / "x.npz")), tiny_tokenizer(), self.folder, "x", num_workers=0)

    def load(self) -> None:
        prepared = PreparedSet.load(self.folder)
        prepared.codes_of(prepared.train)
        prepared.load_image_tokenizer()


class Weights(SavedParts):
    """The header of a safetensors file, and the settings beside it."""

    names = ("model.safetensors", "config.json", "preprocessor_config.json")

    def write(self, folder: Path) -> None:
        tiny_tokenizer().save_pretrained(self.folder)

    def bases(self) -> list[bytes]:
        weights, *others = self.contents.values()
        self.end = int.from_bytes(weights[:8], "little") + 8
        return [weights[: self.end], *others]

    def answer(self, base: int, content: bytes) -> Outcome:
        weights = self.contents["model.safetensors"]
        return super().answer(base, content + weights[self.end :] if base == 0 else content)

    def load(self) -> None:
        load_image_tokenizer(self.folder).encode(torch.zeros(1, 3, SIDE, SIDE))


class Prompts:
    """Text for a model that draws; bytes that are not UTF-8 become lone surrogates."""

    def __init__(self, folder: Path):
        vocabulary = Vocabulary.train(["red heart", "blue square"] * 3, 300, {"image": 16})
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = build_language_model(LanguageModelConfig(**sizes), vocabulary, 64)
        self.pipeline = TextToImagePipeline(model, vocabulary, tiny_tokenizer(), ModelFolderSettings())

    def bases(self) -> list[bytes]:
        return [
            text.encode() for text in (*WORDS, "<boi> </image> <image_3> <eos>", "heart " * 200, "", "\u202e\u200b")
        ]

    def answer(self, base: int, content: bytes) -> Outcome:
        prompt = content.decode("utf-8", "surrogateescape")
        (drawn,) = self.pipeline(prompt, generator=0).images
        assert drawn.size == (SIDE, SIDE)
        return Outcome(1)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "pictures": Pictures,
    "svg": Drawings,
    "captions": Captions,
    "csv": Table,
    "jsonl": JSONLines,
    "json": CaptionJSON,
    "tar": Archives,
    "tar.gz": CompressedArchives,
    "parquet": Tables,
    "configs": Configs,
    "manifests": Manifests,
    "safetensors": Weights,
    "prompts": Prompts,
}
