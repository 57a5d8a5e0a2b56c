"""A finished model in memory: its parts and settings, loaded from a folder or the hub and saved there, with pictures
encoded and decoded. `vqlm.lm.pipeline` draws with it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.image_codes import Pictures, decode_pictures, encode_pictures
from vqlm.lm.model_folder.finished_model import FinishedModel, load_finished, push_finished, save_finished
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.lm.model_folder.tokenizers import local_folder
from vqlm.lm.prompts import tokenize_prompts
from vqlm.lm.settings import DecodingOptions, SamplingConfig
from vqlm.training.errors import UserError
from vqlm.training.machine.device import best_device, usable_device
from vqlm.training.machine.placement import HUB, PRECISIONS, device_of, precision_of, require_known
from vqlm.vq import VQVAE

Loaded = TypeVar("Loaded", bound="LoadedModel")


class LoadedModel:
    """The parts of a finished model, what its folder says of it (`settings`), how this machine draws (`options`)."""

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        image_tokenizer: VQVAE,
        settings: ModelFolderSettings | None = None,
        figures: Mapping[str, Any] | None = None,
        options: DecodingOptions | None = None,
    ):
        if model.config.vocab_size != vocabulary.size:
            raise UserError(
                f"The language model knows {model.config.vocab_size} ids, the vocabulary {vocabulary.size}; "
                "they do not belong together. Load both from one finished model folder."
            )
        if vocabulary.image.size != image_tokenizer.config.codebook_size:
            raise UserError(
                f"The vocabulary has {vocabulary.image.size} image codes, the image tokenizer "
                f"{image_tokenizer.config.codebook_size}; load both from one finished model folder."
            )
        self.model, self.vocabulary, self.image_tokenizer = model.eval(), vocabulary, image_tokenizer.eval()
        self.settings, self.figures = settings or ModelFolderSettings(), figures
        self.options = options or DecodingOptions()

    @property
    def sampling(self) -> SamplingConfig:
        """How codes are drawn by default."""
        return self.settings.sampling

    @sampling.setter
    def sampling(self, sampling: SamplingConfig) -> None:
        self.settings = replace(self.settings, sampling=sampling)

    @property
    def max_caption_tokens(self) -> int:
        """The longest prompt, in tokens."""
        return self.settings.max_caption_tokens

    @property
    def can_caption(self) -> bool:
        """Whether the model was trained on rows whose picture comes before the caption."""
        return self.settings.can_caption

    def _tokenize(self, prompts: Sequence[str | None]) -> list[list[int] | None]:
        words = self.settings.known_words
        known = None if words is None else frozenset(words.split())
        return tokenize_prompts(self.vocabulary, prompts, self.max_caption_tokens, known)

    # Codes

    def encode(self, images: Pictures) -> Int[Tensor, "b n"]:
        """Pictures -> flat codes.

        Args:
            images (picture, list of them, or tensor): pictures are PIL images, uint8 arrays (H, W, C) or paths, of any
                size and mode, and are prepared as in training; a floating point tensor is (B, C, *shape) in [-1, 1].

        Returns:
            int64 tensor (B, n): the codes of each picture, in the order in which they are drawn.

        Raises:
            UserError: for a tensor of another shape, or what is not a picture.

        Example:
            >>> codes = pipe.encode(["picture.png", "picture.png"])
            >>> codes.shape[0]
            2
        """
        return encode_pictures(self.image_tokenizer, images)

    def decode(self, codes: Int[Tensor, "b *code_shape"]) -> list[Image.Image] | list[Tensor]:
        """Codes -> pictures.

        Args:
            codes (int64 tensor (B, *code_shape)): as in `TextToImageOutput`.

        Returns:
            list of PIL.Image.Image: one picture each; of a model of series or volumes, tensors (C, *shape) in [-1, 1].

        Example:
            >>> codes = pipe("red heart").codes
            >>> pipe.decode(codes)[0].save("heart.png")
        """
        return decode_pictures(self.image_tokenizer, codes)

    def decode_partial(self, codes: Int[Tensor, "b m"]) -> list[Image.Image] | list[Tensor]:
        """Pictures of which only the first codes are drawn; their first code, usually background, fills the rest.

        Args:
            codes (int64 tensor (B, m)): at least one code of each picture, as a `callback` gets them.

        Returns:
            list of PIL.Image.Image or tensor: as `decode` gives them.

        Example:
            >>> def show(step, codes):
            ...     pipe.decode_partial(codes)[0].save("so_far.png")
            >>> output = pipe("red heart", callback=show)
        """
        missing = self.image_tokenizer.config.tokens_per_image - codes.shape[1]
        whole = torch.cat([codes, codes[:, :1].expand(-1, missing)], 1)
        return self.decode(self.image_tokenizer.unflatten_codes(whole))

    # Files

    @classmethod
    def from_pretrained(
        cls: type[Loaded],
        folder: Path | str,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        batch_size: int = 64,
        compile: bool = False,
        quantize: str | None = None,
        device_map: Any = None,
        torch_dtype: torch.dtype | str | None = None,
        **hub: Any,
    ) -> Loaded:
        """Load a finished model.

        Args:
            folder (path or str): folder of the model, "emoji" for the base model of a checkout, or OWNER/NAME of a
                repository on the hub.
            device (torch.device, str or int): by default the best of this machine.
            dtype (torch.dtype or str): precision of the language model's weights, float32 by default, "auto" as they
                were saved; torch.bfloat16 takes half the memory and draws faster where the device multiplies it fast.
                The image tokenizer stays in float32.
            batch_size (int): pictures drawn at a time, fewer where memory is short.
            compile (bool): whether torch.compile builds the step of drawing, in every process: for hundreds of pictures
                on a CPU.
            quantize ("int8" or None): multiply with int8 weights: for large models on a CPU, with `compile`.
            device_map, torch_dtype: as `device` and `dtype`, for code that names them as transformers does.
            hub: arguments of `huggingface_hub.snapshot_download`, such as `revision` and `token`.

        Returns:
            TextToImagePipeline: on `device`.

        Raises:
            UserError: for a folder that is not a finished model, whose files are damaged, or whose parts were not
                trained together; or for an argument that does not exist.

        Example:
            >>> from vqlm import TextToImagePipeline
            >>> pipe = TextToImagePipeline.from_pretrained("outputs/demo/model", dtype="bfloat16", batch_size=16)
        """
        require_known(hub, (*HUB, "device", "dtype", "batch_size", "compile", "quantize", "device_map", "torch_dtype"))
        place, options = device_of(device, device_map) or best_device(), DecodingOptions(batch_size, compile, quantize)
        precision = precision_of(dtype, torch_dtype) or torch.float32
        return cls(*load_finished(local_folder(folder, **hub), dtype=precision), options=options).to(place)

    def save_pretrained(self, folder: Path | str, dtype: torch.dtype | str | None = None) -> None:
        """Save the finished model folder; `vqlm.lm.model_folder.finished_model` lists its files.

        Args:
            folder (path or str): folder to write into.
            dtype (torch.dtype or str): precision of the saved weights, by default that which they have; "bfloat16"
                makes the folder half as large. `from_pretrained` loads it in fp32 all the same. The image tokenizer's
                codes change with the rounding: prepare data for the saved model, not for the one in memory.

        Example:
            >>> import torch
            >>> pipe.save_pretrained("copy")
            >>> pipe.save_pretrained("small_copy", dtype=torch.bfloat16)
        """
        save_finished(self._finished(), Path(folder), dtype=dtype)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload a text-to-image model",
        create_pr: bool = False,
    ) -> str:
        """Save the model into a repository of the hub, without the log and checkpoints of its training (`run/`).

        Args:
            repo_id (str): NAME or OWNER/NAME; the repository is created if it does not exist.
            private (bool): whether a new repository is private; by default as the owner's account says.
            token (str or bool): by default that of `hf auth login`.
            commit_message (str): first line of the commit.
            create_pr (bool): open a pull request instead of a commit.

        Returns:
            str: address of the repository.

        Example:
            >>> pipe.push_to_hub("anna/emoji")  # doctest: +SKIP
            'https://huggingface.co/anna/emoji'
        """
        return push_finished(self._finished(), repo_id, private, token, commit_message, create_pr)

    def to(self: Loaded, *args: Any, device: Any = None, dtype: Any = None) -> Loaded:
        """Move the language model and the image tokenizer, or change the precision of the language model.

        Args:
            *args (torch.device, str, int or torch.dtype): where to, a precision, or both.
            device, dtype: the same by name. The image tokenizer stays in its precision: its codes would change.

        Returns:
            TextToImagePipeline: itself.

        Raises:
            UserError: for what is neither a device of this machine nor a precision.

        Example:
            >>> pipe = pipe.to("cpu")
            >>> pipe.to(torch.bfloat16).model.dtype
            torch.bfloat16
        """
        for given in args:
            if isinstance(given, torch.dtype) or given in PRECISIONS:
                dtype = given
            else:
                device = given
        precision = precision_of(dtype)
        place = None if device is None else usable_device(device)
        if isinstance(precision, torch.dtype):
            self.model.to(precision)  # type: ignore[arg-type]
        if place is not None:
            self.model.to(place)  # type: ignore[arg-type]
            self.image_tokenizer.to(place)  # type: ignore[arg-type]
        return self

    def _finished(self) -> FinishedModel:
        return FinishedModel(self.model, self.vocabulary, self.image_tokenizer, self.settings, self.figures)
