"""Measures an image tokenizer on pictures, and says in words what is wrong and what to do. Makes no pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vqlm.vq.metrics import CodeUsage, psnr, reachable_usage
from vqlm.vq.model import VQVAE
from vqlm.vq.pixels import to_pixel_values
from vqlm.vq.quantizers.base import as_vectors
from vqlm.vq.quantizers.settings import FSQConfig, HierarchicalConfig, LFQConfig, QuantizerConfig, VQConfig

BATCH = 64
SSIM_SMALLEST_SIDE = 6  # its window of 11 is reflected at the edges
# Thresholds of the findings.
UNUSED_SHARE = 0.05
LOW_PERPLEXITY_SHARE = 0.2
CONSTANT_POSITION_NATS = 0.1
CONSTANT_POSITION_SHARE = 0.25
STILL_RISING_DB = 0.1


@dataclass
class Inspection:
    """What was measured.

    Args:
        counts: (num_codebooks, K), how often each code occurs.
        perplexity: of the codes.
        usage: share of the codebook that occurs.
        reachable_usage: share that would occur in any number of such pictures, as `vqlm.vq.metrics` estimates it.
        position_entropy: in nats, for each codebook in the shape of its codes.
        psnr: (N,) in dB.
        ssim: (N,); None for a series, or for sides too short for it.
        z_e: (M, D), a sample of the vectors that are compared with codes; None for a hierarchy, which has no common
            vectors.
        z_q: (M, D), the vectors of their codes; None for a hierarchy.
    """

    counts: Tensor
    perplexity: float
    usage: float
    reachable_usage: float
    position_entropy: list[Tensor]
    psnr: Tensor
    ssim: Tensor | None
    z_e: Tensor | None
    z_q: Tensor | None

    @property
    def worst_first(self) -> list[int]:
        """Numbers of the pictures, the lowest PSNR first."""
        return self.psnr.argsort().tolist()


@torch.no_grad()
def inspect_tokenizer(model: VQVAE, pictures: UInt8[Tensor, "n c *shape"] | Float[Tensor, "n c *shape"]) -> Inspection:
    """Encode and decode all `pictures` (N, C, *shape) and measure."""
    quantizer, size = model.quantizer, model.config.codebook_size
    usage = CodeUsage(size, model.config.quantizer.num_codebooks)
    codes, psnr_values, ssim_values = [], [], []
    for part in pictures.split(BATCH):
        pixel_values = model.fit_size(to_pixel_values(part).to(model.device))
        codes.append(model.encode(pixel_values))
        usage.add(*quantizer.by_codebook(codes[-1]))
        reconstruction = model.decode_codes(codes[-1])
        psnr_values.append(psnr(reconstruction, pixel_values).cpu())
        if pixel_values.ndim > 3 and min(pixel_values.shape[2:]) >= SSIM_SMALLEST_SIDE:
            ssim_values.append(ssim(reconstruction, pixel_values).cpu())
    z_e = z_q = None
    if not isinstance(model.config.quantizer, HierarchicalConfig):
        sample = to_pixel_values(pictures[:: max(1, len(pictures) // BATCH)][:BATCH]).to(model.device)
        seen = quantizer.normalize(model.encode_continuous(sample))
        z_e, z_q = (as_vectors(vectors).cpu() for vectors in (seen, quantizer.decode(model.encode(sample))))
    by_codebook = quantizer.by_codebook(torch.cat(codes).cpu())
    return Inspection(
        counts=usage.counts.cpu(),
        perplexity=usage.perplexity,
        usage=usage.usage,
        reachable_usage=reachable_usage(pictures_with(by_codebook, size), len(pictures)),
        position_entropy=[position_entropy(part, size) for part in by_codebook],
        psnr=torch.cat(psnr_values),
        ssim=torch.cat(ssim_values) if ssim_values else None,
        z_e=z_e,
        z_q=z_q,
    )


def pictures_with(by_codebook: Sequence[Tensor], codebook_size: int) -> Int[Tensor, "c k"]:
    """In how many pictures each code occurs, for each codebook of codes (N, *shape)."""
    counts = []
    for codes in by_codebook:
        in_order = codes.flatten(1).sort(1).values
        is_first = torch.ones_like(in_order, dtype=torch.bool)
        is_first[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
        counts.append(torch.bincount(in_order[is_first], minlength=codebook_size))
    return torch.stack(counts)


def ssim(reconstruction: Float[Tensor, "b c *shape"], pixel_values: Float[Tensor, "b c *shape"]) -> Float[Tensor, " b"]:
    """Structural similarity of each pair (Wang et al. 2004), both in [-1, 1], of two or three dimensions."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(reconstruction, pixel_values, data_range=(-1.0, 1.0), reduction="none")
    assert isinstance(values, Tensor)
    return values.view(-1)


def position_entropy(codes: Tensor, codebook_size: int) -> Float[Tensor, "*shape"]:
    """Entropy in nats of the codes at each position, (N, *shape) -> (*shape)."""
    flat = codes.flatten(1)
    entropy = [
        torch.special.entr(torch.bincount(column, minlength=codebook_size) / len(flat)).sum() for column in flat.T
    ]
    return torch.stack(entropy).view(codes.shape[1:])


def usage_findings(
    usage: float,
    perplexity: float,
    codebook_size: int,
    quantizer: QuantizerConfig,
    since_step: int | None = None,
    reachable: float | None = None,
) -> list[str]:
    """Sentences about how the codebook was used in a window of training, or on a collection.

    `since_step` is the step since which training left as many codes unused, where that is known. `reachable` is the
    share of the codebook that more pictures would use, where `usage` is of a sample of them; else it is `usage`.
    """
    reachable = usage if reachable is None else reachable
    since = "" if since_step is None else f" (in training since step {since_step})"
    findings = []
    if reachable < 1 - UNUSED_SHARE:
        findings.append(
            f"{100 * (1 - reachable):.0f}% of {codebook_size} codes are unused{since}. {_remedy_for_dead(quantizer)}"
        )
    if perplexity < LOW_PERPLEXITY_SHARE * usage * codebook_size:
        findings.append(
            f"A few codes do most of the work: perplexity {perplexity:.0f} of {usage * codebook_size:.0f} codes used. "
            "Pictures that are mostly one colour look like this; otherwise lower `quantizer.commitment_weight`, or "
            "take a smaller codebook."
        )
    return findings


def findings(inspection: Inspection, model: VQVAE, log: list[dict]) -> list[str]:
    """Sentences that each say what is wrong and what to do. `log`: the lines of `log.jsonl`, if any."""
    quantizer = model.config.quantizer
    since = unused_since([line for line in log if "usage" in line])
    sentences = usage_findings(
        inspection.usage, inspection.perplexity, model.config.codebook_size, quantizer, since,
        reachable=inspection.reachable_usage,
    )  # fmt: skip
    if inspection.z_e is not None and inspection.z_q is not None:
        error, length = (inspection.z_e - inspection.z_q).norm(dim=1).mean(), inspection.z_e.norm(dim=1).mean()
        if isinstance(quantizer, VQConfig) and error > length:
            normalise = "" if quantizer.normalize_z_e else "set `quantizer.normalize_z_e`, "
            sentences.append(
                f"Codes are farther from z_e than zero is (mean error {error:.2g}, mean length of z_e {length:.2g}): "
                f"the codebook has lost the encoder. Train again: {normalise}set `quantizer.initialization` to kmeans, "
                "or raise `quantizer.commitment_weight`."
            )
    entropies = torch.cat([entropy.flatten() for entropy in inspection.position_entropy])
    constant = (entropies < CONSTANT_POSITION_NATS).float().mean().item()
    if constant > CONSTANT_POSITION_SHARE:
        sentences.append(
            f"At {100 * constant:.0f}% of the positions the code hardly ever changes. A margin that all pictures share "
            "does this; crop it away, or accept that these codes carry nothing."
        )
    held_out = [line["held_out_psnr_db"] for line in log if "held_out_psnr_db" in line]
    if len(held_out) > 1 and held_out[-1] - held_out[-2] > STILL_RISING_DB:
        sentences.append(
            f"Held-out PSNR was still rising when training ended ({held_out[-2]:.2f} to {held_out[-1]:.2f} dB over the "
            "last evaluation): train longer, with a larger `max_steps` or `max_minutes`."
        )
    if len(held_out) > 1 and max(held_out) - held_out[-1] > STILL_RISING_DB:
        sentences.append(
            f"Held-out PSNR fell from {max(held_out):.2f} to {held_out[-1]:.2f} dB: stop earlier, lower the learning "
            "rate, or show the pictures mirrored and moved (`flip` 0.5, `max_shift` 4)."
        )
    return sentences


def unused_since(lines: list[dict]) -> int | None:
    """The step since which every window of training left too many codes unused; None if the last window did not."""
    since = None
    for line in reversed(lines):
        if line["usage"] >= 1 - UNUSED_SHARE:
            break
        since = line["step"]
    return since


def _remedy_for_dead(quantizer: QuantizerConfig) -> str:
    if isinstance(quantizer, FSQConfig):
        return "Take fewer `quantizer.levels`."
    if isinstance(quantizer, LFQConfig):
        return "Raise `quantizer.entropy_weight` or `quantizer.diversity`."
    if quantizer.codebook_training != "simvq" and quantizer.dead_code_threshold == 0:
        return "Set `quantizer.dead_code_threshold` to 0.1, so that dead codes are revived."
    if quantizer.initialization == "random":
        return "Set `quantizer.initialization` to sample or kmeans, so that all codes start where z_e is."
    if quantizer.codebook_dim > 16:
        return "Set `quantizer.codebook_dim` to 8 or 16: in fewer dimensions codes are nearer to z_e."
    return "Take a smaller `quantizer.codebook_size`, or train longer: the codebook may still be settling."
