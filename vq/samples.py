"""Held-out pictures, reconstructed again and again while stage one trains."""

from PIL import Image

from vqlm.training.watching.samples import SampleSource
from vqlm.vq.model import VQVAE
from vqlm.vq.pixels import to_pil, to_pixel_values

COUNT = 12


def reconstructed_samples(model: VQVAE, held_out) -> SampleSource | None:
    """Reconstructs a spread of `held_out` (M, C, H, W), which heads the strip; None for what is not RGB or grey.

    Args:
        model: that trains, not wrapped.
        held_out: as in `train_vq`.
    """
    if held_out.ndim != 4 or held_out.shape[1] not in (1, 3) or not len(held_out):
        return None
    count = min(COUNT, len(held_out))
    pictures = held_out[[number * len(held_out) // count for number in range(count)]]

    def draw(start: int, stop: int) -> list[Image.Image]:
        was_training = model.training
        model.eval()
        try:
            pixel_values = to_pixel_values(pictures[start:stop]).to(model.device)
            return to_pil(model.decode_codes(model.encode(pixel_values)))
        finally:
            model.train(was_training)

    return SampleSource(
        draw, [f"held-out picture {number + 1}" for number in range(count)], to_pil(to_pixel_values(pictures))
    )
