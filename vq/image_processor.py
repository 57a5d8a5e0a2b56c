"""Pictures of any size and mode -> the pixel values that a VQ-VAE was trained on. There is no other way.

Training and preparing data read files in worker processes (`vqlm.data_prep.pictures.picture_files`) with the functions
of `vqlm.vq.pixels` and `vqlm.vq.fitting` that this class calls too, so that both give the same bits.
"""

import warnings
from pathlib import Path
from typing import Any, TypedDict, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from vqlm.training.errors import UserError
from vqlm.vq.config import VQVAEConfig
from vqlm.vq.fitting import scale_and_crop, to_fitted_rgb
from vqlm.vq.pixels import draft, to_pixel_values
from vqlm.vq.settings import Fit


class _Settings(TypedDict, total=False):
    size: dict[str, int]
    background: str
    fit: Fit


# What happens to pictures of another shape, in a warning.
_FITTED = {"crop": "cropped", "pad": "padded", "auto": "padded or cropped"}


class VQVAEImageProcessor(BaseImageProcessor):
    """Turns pictures of any size and mode into the pixel values that a VQ-VAE was trained on.

    Pictures are turned upright, laid on `background`, cropped about their centre or padded as `fit` says, scaled to
    `size`, and their values are brought to [-1, 1]. After `import vqlm`, `AutoImageProcessor.from_pretrained` loads it
    from a VQ-VAE's folder.

    Args:
        size: height and width in pixels, as a dict of the two.
        background: colour on which transparent pictures are laid.
        fit: "crop", "pad", or "auto", which decides per picture, see `vqlm.vq.fitting`.
        **kwargs: of `BaseImageProcessor`.

    Raises:
        UserError: for a `size` without height and width, or with one below 1, or another `fit`.

    Example:
        >>> from vqlm import VQVAEImageProcessor
        >>> image_processor = VQVAEImageProcessor(size={"height": 16, "width": 24})
        >>> image_processor("picture.png", return_tensors="pt").pixel_values.shape
        torch.Size([1, 3, 16, 24])
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = _Settings

    def __init__(self, size: dict[str, int] | None = None, background: str = "white", fit: Fit = "auto", **kwargs: Any):
        super().__init__(**kwargs)
        if size is None or set(size) != {"height", "width"} or min(size.values()) < 1:
            raise UserError(f"size must be a dict of height and width in pixels, found {size}.")
        if fit not in get_args(Fit):
            raise UserError(f"fit must be auto, pad or crop, found {fit!r}.")
        self.size, self.background = dict(size), background
        self.fit: Fit = fit

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> "VQVAEImageProcessor":  # type: ignore[override]
        """A processor from JSON. One without a `fit` is from before there was a choice, and means "crop"."""
        return super().from_dict({"fit": "crop"} | image_processor_dict, **kwargs)  # type: ignore[return-value]

    @classmethod
    def of(cls, config: VQVAEConfig) -> "VQVAEImageProcessor":
        """The image processor of a VQ-VAE. Raises UserError if that takes no pictures in colour."""
        network = config.network
        if not config.takes_pictures:
            raise UserError(
                f"This image tokenizer takes arrays of {network.in_channels} channels and shape {network.input_shape}, "
                "not pictures in colour; give a tensor (batch, channels, *shape) with values in [-1, 1]."
            )
        height, width = network.input_shape
        return cls(size={"height": height, "width": width}, background=config.background, fit=config.fit)

    @property
    def backend(self) -> str:
        """The backend of transformers that works without torchvision."""
        return "pil"

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open files, given by name, as pictures; leave anything else as it is."""
        if isinstance(image_url_or_urls, list | tuple):
            return [self.fetch_images(image) for image in image_url_or_urls]
        if not isinstance(image_url_or_urls, str | Path):
            return image_url_or_urls
        try:
            picture = Image.open(image_url_or_urls)
            draft(picture, self._shape)
            picture.load()
        except OSError as error:
            raise UserError(
                f"{image_url_or_urls} cannot be read as a picture ({error}); give a picture file of this machine, a "
                "PIL picture or an array."
            ) from None
        return picture

    def __call__(self, images: Any, return_tensors: str | None = None) -> BatchFeature:  # type: ignore[override]
        """See `preprocess`."""
        return self.preprocess(images, return_tensors)

    def preprocess(self, images: Any, return_tensors: str | None = None) -> BatchFeature:  # type: ignore[override]
        """Turn pictures into pixel values. A warning says once that pictures of another size or mode are changed.

        Args:
            images: one picture or a list of them: PIL, the name of a file, or uint8 arrays (H, W, 3), (3, H, W) or
                (H, W). A large JPEG that is given by its name is decoded at a fraction of its size, as in training.
            return_tensors: "pt" for a tensor instead of a list of arrays.

        Returns:
            `pixel_values`: a list of arrays (3, height, width), float32 in [-1, 1]; with "pt" a tensor
            (B, 3, height, width).

        Raises:
            UserError: for anything that is not a picture, or no pictures at all.

        Example:
            >>> from PIL import Image
            >>> from vqlm import VQVAEImageProcessor
            >>> image_processor = VQVAEImageProcessor(size={"height": 16, "width": 16})
            >>> batch = image_processor.preprocess(["picture.png", Image.new("L", (40, 30))], return_tensors="pt")
            >>> batch.pixel_values.shape
            torch.Size([2, 3, 16, 16])
        """
        pictures = [_as_picture(image) for image in _flat(self.fetch_images(images))]
        if not pictures:
            raise UserError("There are no pictures to prepare; give at least one.")
        height, width = self._shape
        if any(picture.size != (width, height) or picture.mode != "RGB" for picture in pictures):
            # Always from this line: Python's filter then shows it once.
            warnings.warn(
                f"Pictures are scaled and {_FITTED[self.fit]} to {width}x{height}, in RGB, on {self.background}.",
                stacklevel=1,
            )
        arrays = [
            scale_and_crop(to_fitted_rgb(picture, self._shape, self.background, self.fit), self._shape)
            for picture in pictures
        ]
        values = to_pixel_values(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2))
        return BatchFeature({"pixel_values": list(values.contiguous().numpy())}, tensor_type=return_tensors)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.size["height"], self.size["width"]


def _flat(images: Any) -> list[Any]:
    if isinstance(images, list | tuple) or isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return [picture for part in images for picture in _flat(part)]
    return [images]


def _as_picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise UserError(
            f"A picture must be a PIL picture, the name of a file or a uint8 array (height, width, 3), found "
            f"{type(image).__name__} of {array.dtype} {array.shape}; values that are in [-1, 1] already go to the "
            "image tokenizer as they are."
        )
    return Image.fromarray(array.squeeze(-1) if array.shape[2:] == (1,) else array)


AutoImageProcessor.register(VQVAEConfig, image_processor_classes={"pil": VQVAEImageProcessor}, exist_ok=True)
