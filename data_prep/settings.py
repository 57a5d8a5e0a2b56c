"""The settings of collections, captions, views and rows. Needs no torch and no datasets, so that the command line can
name them quickly."""

from dataclasses import dataclass, fields
from typing import Literal

from vqlm.data_prep.captions.lines import require_caption_lines
from vqlm.training.errors import UserError, require_range
from vqlm.vq import Fit

DATA_HELP = (
    "openmoji[:LANGUAGES], a folder of captioned pictures, a glob of WebDataset (.tar) or Parquet files, "
    "hf:NAME[:split], or an .npz of arrays."
)
BETWEEN_COLLECTIONS = " + "  # of several collections that are read as one
FINDINGS_FILE = "findings.json"  # of `vqlm inspect-data`: the sentences of its page, those on what is wrong apart
MAX_PIXELS = 89_478_485  # the limit of Pillow


@dataclass(frozen=True)
class CollectionConfig:
    """How a collection is read.

    Args:
        class_template: caption of pictures that have a class and no caption, such as "a photo of a {}"; {class} or {}
            is the last folder, {path} the words of all folders, {name} those of the file name.
        captions_from: "files" of captions, or the "names" of the pictures: red_bicycle-12.png is "red bicycle".
        caption_lines: which lines of the text beside a picture are captions: first, all, or a language such as de,
            which takes the line de.utf8=...
        image_column: column of the pictures in a table, where it has no usual name.
        caption_column: column of the captions in a table, or their key in a WebDataset's .json.
        background: colour on which transparent pictures are laid.
        fit: how pictures of another shape than the model's become of it: crop to the middle, pad, or auto, which pads
            transparent and flat-bordered ones and crops photographs. By default as the image tokenizer has it, auto for
            a new one.
        max_pixels: larger pictures are refused, since a small file can hold a picture that fills the memory.
        max_skipped: share of the pictures that may be unusable; they are skipped and listed.
        held_out: pictures that are never trained on: a share such as 0.1, the name of a split that the collection comes
            with, a file with one key per line, or a pattern of keys such as test/*. By default the splits that the
            collection comes with, else a tenth.
        allow_outside_files: whether metadata and tables may name pictures outside their folder.
        drop_prefix: words that captions begin with and that are left out, such as "a picture of".
        drop_copies: whether pictures with the same pixels as another are left out.
        min_side: pictures with a shorter side below this are left out, in pixels.
        max_aspect: pictures whose longer side is more than this times the shorter are left out.
        min_caption_words: captions with fewer words are left out, and pictures without another caption.
        max_caption_words: captions with more words are left out likewise.
        add_prefix: stands before every caption, such as a trigger word "sks, ".
        add_suffix: stands after every caption.
    """

    class_template: str | None = None
    captions_from: Literal["files", "names"] = "files"
    caption_lines: str = "all"
    image_column: str | None = None
    caption_column: str | None = None
    background: str = "white"
    fit: Fit | None = None
    max_pixels: int = MAX_PIXELS
    max_skipped: float = 0.01
    held_out: float | str | None = None
    allow_outside_files: bool = False
    drop_prefix: str | None = None
    drop_copies: bool = False
    min_side: int = 0
    max_aspect: float | None = None
    min_caption_words: int = 0
    max_caption_words: int | None = None
    add_prefix: str = ""
    add_suffix: str = ""

    def __post_init__(self):
        require_caption_lines(self.caption_lines)
        require_range(self, "[0, 1]", "max_skipped")
        require_range(self, "[1, inf)", "max_pixels", "max_aspect", "max_caption_words")
        require_range(self, "[0, inf)", "min_side", "min_caption_words")
        if self.max_caption_words is not None and self.max_caption_words < self.min_caption_words:
            raise UserError(
                f"`max_caption_words` must be at least `min_caption_words` {self.min_caption_words}, found "
                f"{self.max_caption_words}."
            )
        from PIL import ImageColor  # its import would double the time of --help

        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise UserError(
                f"`background` must be a colour such as white or #ff8800, found {self.background!r}."
            ) from None

    @property
    def fit_or_auto(self) -> Fit:
        """What pictures are fitted by where no image tokenizer says it."""
        return "auto" if self.fit is None else self.fit

    @property
    def is_named(self) -> bool:
        return self.captions_from == "names"

    @property
    def columns(self) -> tuple[str | None, str | None]:
        return self.image_column, self.caption_column


@dataclass(frozen=True)
class TextConfig:
    """How captions become ids.

    Args:
        size: the most text ids that the vocabulary gets.
        byte_level: BPE over bytes, which can write any text; else over the characters that occur in the captions.
        normalization: Unicode form that captions are brought to, nfc, nfkc, or none.
        lowercase: whether captions are brought to lower case.
        plain_punctuation: whether curly quotes and long dashes become plain ones; repeated spaces, invisible
            characters, quotes around the caption and the full stop, "!" or other punctuation at its end are left out.
        drop_article: whether "a", "an" or "the" at the beginning is left out.
        pretrained: folder or hub name of a causal language model whose tokenizer is taken instead of all this.
    """

    size: int = 1500
    byte_level: bool = True
    normalization: Literal["nfc", "nfkc", "none"] = "nfc"
    lowercase: bool = True
    plain_punctuation: bool = True
    drop_article: bool = True
    pretrained: str | None = None

    def __post_init__(self):
        if self.pretrained is None:
            return
        for field in fields(self):
            if field.name != "pretrained" and getattr(self, field.name) != field.default:
                raise UserError(
                    f"`text.{field.name}` has no effect on the tokenizer of `text.pretrained` {self.pretrained!r}; "
                    "leave one of the two out."
                )


@dataclass(frozen=True)
class ViewConfig:
    """Further views of every picture, encoded once and drawn from in training. The first view is the picture itself.

    Args:
        views: number of views of a picture, the picture itself included.
        flip: probability of mirroring a further view left to right.
        crop: a further view keeps between this share and all of the picture's side, at a random place.
    """

    views: int = 1
    flip: float = 0.0
    crop: float = 1.0

    def __post_init__(self):
        if self.views < 1:
            raise UserError(f"`views` must be at least 1, the picture itself; found {self.views}.")
        if not 0 <= self.flip <= 1 or not 0 < self.crop <= 1:
            raise UserError(f"`flip` must lie in [0, 1] and `crop` in (0, 1], found {self.flip} and {self.crop}.")
        if self.views > 1 and not self.flip and self.crop == 1:
            raise UserError(f"{self.views} views are all alike without `flip` or `crop`; set one of them.")


@dataclass
class SequenceConfig:
    """What is left out of or changed in a row before the model sees it. None of it touches the codes' targets.

    Args:
        caption_dropout: share of rows without a caption; they teach the unconditional picture that guidance needs.
            Drawn where batches are (`PackedBatches`), whose packs it shortens.
        captioning: share of rows whose picture comes before the caption; they teach to describe a picture.
        interleaved: share of the packs whose rows form one document, in which each row sees all rows before it.
        word_dropout: share of the words left out of a caption.
        code_noise: each row draws a rate up to this; that share of its input codes is replaced by random ones.
        bpe_dropout: share of the merges left out while a caption is split into tokens.
        shuffle_tags: captions are lists of tags between commas, and come in another order each time.
        keep_tags: so many tags at the beginning are neither moved nor left out, such as a trigger word.
        tag_dropout: share of the other tags left out.
    """

    caption_dropout: float = 0.1
    captioning: float = 0.0
    interleaved: float = 0.0
    word_dropout: float = 0.0
    code_noise: float = 0.5
    bpe_dropout: float = 0.0
    shuffle_tags: bool = False
    keep_tags: int = 0
    tag_dropout: float = 0.0

    def __post_init__(self):
        require_range(self, "[0, 1]", *(vars(self).keys() - {"shuffle_tags", "keep_tags"}))
        require_range(self, "[0, inf)", "keep_tags")
        if self.keep_tags and not self.varies_tags:
            raise UserError("`keep_tags` has no effect without `shuffle_tags` or `tag_dropout`; set one of them.")

    @property
    def varies_tags(self) -> bool:
        return self.shuffle_tags or self.tag_dropout > 0
