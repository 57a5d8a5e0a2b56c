"""Texts and pictures -> the ids that a finished model reads, and back. `AutoProcessor` loads it after `import vqlm`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, PreTrainedConfig, ProcessorMixin

from vqlm.data_prep.captions.wording import normalize_caption
from vqlm.data_prep.segments import segments_of
from vqlm.data_prep.sequences import left_pad, picture_ids, prompt_ids
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.image_codes import Picture, Pictures, decode_pictures, encode_pictures
from vqlm.lm.model_folder.tokenizers import fingerprints, load_parts, local_folder, save_parts
from vqlm.lm.prompts import cut, tokenize_prompts
from vqlm.training.errors import UserError
from vqlm.training.folders.folder_kinds import refuse_other_kind
from vqlm.training.folders.whole_files import read_json_object, write_json
from vqlm.training.machine.placement import require_known
from vqlm.vq import VQVAE

PROCESSOR_FILE = "processor_config.json"
# What `from_pretrained` takes.
LOADING = ("cache_dir", "force_download", "local_files_only", "token", "revision", "code_revision", "trust_remote_code")
Text = str | Sequence[str | None]


class TextToImageProcessor(ProcessorMixin):
    """The tokenizer, the image processor and the VQ-VAE of a finished model in one call.

        processor(text=["red heart"])                                bos red heart boi           draw it
        processor(images=[picture])                                  bos boi codes eoi           describe it
        processor(text=["red heart<image>"], images=[picture])       bos red heart boi codes eoi eos
        processor(text=["<image>red heart"], images=[picture])       bos boi codes eoi red heart eos

    With both, each `<image>` in the texts stands for the next picture, and a row is whole, as the model was trained on
    it; several pictures make a document.

    Args:
        vocabulary (Vocabulary): text and codes in one id space.
        image_tokenizer (VQVAE): pictures <-> codes.
        max_caption_tokens (int): the longest prompt, in tokens.

    Example:
        >>> import vqlm
        >>> from transformers import AutoModelForCausalLM, AutoProcessor
        >>> processor = AutoProcessor.from_pretrained("outputs/demo/model")
        >>> model = AutoModelForCausalLM.from_pretrained("outputs/demo/model")
        >>> ids = model.generate(**processor(text=["red heart"]))
        >>> text, picture = processor.post_process_generation(ids)[0]
        >>> text
        'red heart'
        >>> picture.save("heart.png")
    """

    def __init__(self, vocabulary: Vocabulary, image_tokenizer: VQVAE, max_caption_tokens: int = 64):
        super().__init__(image_processor=image_tokenizer.image_processor, tokenizer=vocabulary.tokenizer)
        self.vocabulary, self.image_tokenizer = vocabulary, image_tokenizer.eval()
        self.max_caption_tokens = max_caption_tokens
        self.image_token = str(vocabulary.tokenizer.convert_ids_to_tokens(vocabulary.boi))
        self.folder: Path | None = None

    @classmethod
    def get_attributes(cls) -> list[str]:
        """The names of the parts that transformers knows.

        Returns:
            list of str: names of attributes.

        Example:
            >>> vqlm.TextToImageProcessor.get_attributes()
            ['image_processor', 'tokenizer']
        """
        return ["image_processor", "tokenizer"]

    # To ids

    def __call__(  # type: ignore[override]
        self,
        images: Pictures | Sequence[Sequence[Picture]] | None = None,
        text: Text | None = None,
        *,
        padding: bool = True,
        truncation: bool = False,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Rows of ids of texts and pictures.

        Args:
            images (picture, list of them, or list per text): pictures as `vqlm.VQVAEImageProcessor` takes them.
            text (str or list of str and None): captions, in which `<image>` stands for a picture; None is no caption.
            padding (bool): pad rows on the left to one length.
            truncation (bool): longer captions than `max_caption_tokens` are cut; without this a warning quotes what is
                left out.
            return_tensors ("pt", "np" or None): the kind of the result; None gives lists.

        Returns:
            BatchFeature: `input_ids` and `attention_mask`, (B, T) int64.

        Raises:
            UserError: for an empty prompt, or texts and pictures that do not match.

        Example:
            >>> processor = vqlm.TextToImageProcessor.from_pretrained("outputs/demo/model")
            >>> processor(text=["red heart", None])["input_ids"].shape[0]
            2
        """
        texts: list[str | None] | None = None
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
        if texts is not None:
            self._require_one_picture_each(texts, images)
        if texts is None and images is None:
            raise UserError("There is nothing to process; give `text`, `images` or both.")
        codes = None if images is None else encode_pictures(self.image_tokenizer, _flat(images)).cpu()
        if codes is None:
            captions = tokenize_prompts(self.vocabulary, texts or [], self.max_caption_tokens, None, truncation)
            rows = prompt_ids(self.vocabulary, captions)
        elif texts is None:
            rows = picture_ids(self.vocabulary, codes).tolist()
        else:
            rows = self._rows([text or "" for text in texts], codes, truncation)
        if not padding:
            masks = [[1] * len(row) for row in rows]
            return BatchFeature({"input_ids": rows, "attention_mask": masks}, tensor_type=return_tensors)
        input_ids, mask, _ = left_pad(rows, self.vocabulary.pad)
        values = {"input_ids": input_ids.tolist(), "attention_mask": mask.long().tolist()}
        return BatchFeature(values, tensor_type=return_tensors)

    def _rows(self, texts: list[str], codes: Int[Tensor, "b n"], truncation: bool) -> list[list[int]]:
        vocabulary = self.vocabulary
        pictures = iter(picture_ids(vocabulary, codes)[:, 1:].tolist())  # boi codes eoi
        rows = []
        for text in texts:
            pieces = [normalize_caption(piece) for piece in text.split(self.image_token)]
            captions = [vocabulary.encode_text([piece])[0] if piece else [] for piece in pieces]
            captions = cut(vocabulary, captions, self.max_caption_tokens, truncation)
            row = [vocabulary.bos]
            for number, caption in enumerate(captions):
                row += [*(next(pictures) if number else []), *caption]
            rows.append([*row, vocabulary.eos])
        return rows

    def _require_one_picture_each(self, texts: list[str | None], images: Any) -> None:
        wanted = [(text or "").count(self.image_token) for text in texts]
        if images is None and not sum(wanted):
            return
        given = 0 if images is None else len(_flat(images))
        if sum(wanted) != given:
            raise UserError(
                f"The texts hold {sum(wanted)} {self.image_token} for {given} pictures; give one picture for each "
                f"{self.image_token}, or the text alone to have a picture drawn."
            )
        if isinstance(images, list | tuple) and all(isinstance(part, list | tuple) for part in images):
            counts = [len(part) for part in images]
            if counts != wanted:
                raise UserError(
                    f"The texts hold {wanted} {self.image_token}, their lists {counts} pictures; give each text the "
                    "list of its pictures."
                )

    # Back

    def post_process_generation(self, generated_ids: Int[Tensor, "b t"]) -> list[list[str | Image.Image]]:
        """The texts and pictures of each row, in their order.

        Args:
            generated_ids (int64 tensor (B, T)): whole rows, from bos on, as `generate` returns them.

        Returns:
            list of list of str and PIL.Image.Image: one list per row.

        Raises:
            UserError: for a row that is not a sequence of texts and pictures, or a picture that is not finished.

        Example:
            >>> processor = vqlm.TextToImageProcessor.from_pretrained("outputs/demo/model")
            >>> ids = processor(text="red heart<image>", images="picture.png")["input_ids"]
            >>> [type(part).__name__ for part in processor.post_process_generation(ids)[0]]
            ['str', 'Image']
        """
        return [
            [
                segment.content if isinstance(segment.content, str) else self._picture(segment.content)
                for segment in segments_of(self.vocabulary, self._closed(row))
            ]
            for row in generated_ids.tolist()
        ]

    def _closed(self, row: list[int]) -> list[int]:
        """The row without padding, closed where generation stopped."""
        vocabulary = self.vocabulary
        ids = [id for id in row if id != vocabulary.pad]
        if vocabulary.eos in ids:
            return ids[: ids.index(vocabulary.eos) + 1]
        is_inside = bool(ids) and (
            ids[-1] == vocabulary.boi or vocabulary.image.offset <= ids[-1] < vocabulary.image.stop
        )
        return [*ids, *([vocabulary.eoi] if is_inside else []), vocabulary.eos]

    def _picture(self, codes: Int[Tensor, " n"]) -> Image.Image:
        wanted = self.image_tokenizer.config.tokens_per_image
        if len(codes) != wanted:
            raise UserError(
                f"A picture has {wanted} codes, found {len(codes)}; let generate draw them all (`max_new_tokens`)."
            )
        (picture,) = decode_pictures(self.image_tokenizer, self.image_tokenizer.unflatten_codes(codes[None]))
        assert isinstance(picture, Image.Image)
        return picture

    # Files

    def to_dict(self) -> dict[str, Any]:
        """The content of `processor_config.json`; the parts are saved beside it.

        Returns:
            dict: values of JSON.

        Example:
            >>> processor = vqlm.TextToImageProcessor.from_pretrained("outputs/demo/model")
            >>> processor.to_dict()["processor_class"]
            'TextToImageProcessor'
        """
        return {
            "processor_class": type(self).__name__,
            "image_processor": self.image_processor.to_dict(),
            "max_caption_tokens": self.max_caption_tokens,
            "fingerprints": fingerprints(self.vocabulary, self.image_tokenizer),
        }

    def save_pretrained(self, save_directory: Path | str, **_: Any) -> None:  # type: ignore[override]
        """Save the vocabulary, the VQ-VAE and `processor_config.json`.

        Args:
            save_directory (path): folder to write into.

        Example:
            >>> processor = vqlm.TextToImageProcessor.from_pretrained("outputs/demo/model")
            >>> processor.save_pretrained("processor")
        """
        folder = Path(save_directory)
        save_parts(folder, self.vocabulary, self.image_tokenizer)
        write_json(folder / PROCESSOR_FILE, self.to_dict())

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: Path | str,
        cache_dir: Path | str | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str | None = None,
        trust_remote_code: bool | None = None,
        **kwargs: Any,
    ) -> "TextToImageProcessor":
        """Load the processor of a finished model.

        Args:
            pretrained_model_name_or_path (path or str): folder, or OWNER/NAME of a repository on the hub.
            cache_dir, force_download, local_files_only, token, revision: see `huggingface_hub.snapshot_download`.
            trust_remote_code (bool): no code of a folder is ever run; `AutoProcessor` passes it.
            **kwargs: what `AutoProcessor` passes beside it, with names that begin with `_`. Others are refused.

        Returns:
            TextToImageProcessor: the processor.

        Raises:
            UserError: for a folder that holds no processor, or whose parts do not belong together, or an unknown
                argument.

        Example:
            >>> processor = vqlm.TextToImageProcessor.from_pretrained("outputs/demo/model")
        """
        if "_from_pipeline" not in kwargs:  # which passes the arguments of the model to every part
            require_known((name for name in kwargs if not name.startswith("_")), LOADING)
        folder = local_folder(
            pretrained_model_name_or_path, cache_dir=cache_dir, force_download=force_download,
            local_files_only=local_files_only, token=token, revision=revision,
        )  # fmt: skip
        refuse_other_kind(folder, "finished model")
        settings = read_json_object(folder / PROCESSOR_FILE)
        expected, longest = settings.get("fingerprints"), settings.get("max_caption_tokens")
        if not isinstance(expected, dict) or not isinstance(longest, int):
            raise UserError(f"{folder / PROCESSOR_FILE} is not as it was written; copy the whole folder again.")
        processor = cls(*load_parts(folder, expected), longest)
        processor.folder = folder
        return processor


def _flat(images: Any) -> Any:
    """A list of the pictures, or the tensor that holds them."""
    if isinstance(images, Tensor):
        return images if images.ndim == 4 else images[None]
    if not isinstance(images, list | tuple):
        return [images]
    return [picture for part in images for picture in (part if isinstance(part, list | tuple) else [part])]


class _FinishedModelKey(PreTrainedConfig):
    """The key under which `AutoProcessor` finds our processor by its name. No model has this configuration: registering
    the processor for that of the language model would give it to every model of the architecture."""


AutoProcessor.register(_FinishedModelKey, TextToImageProcessor, exist_ok=True)
