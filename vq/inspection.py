"""What is wrong with a tokenizer, measured on pictures and said in words with a remedy. Draws nothing."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vq.metrics import CodeUsage, psnr
from vq.model import VQVAE
from vq.pictures import to_pixel_values
from vq.quantizers import FSQConfig, LFQConfig, QuantizerConfig, VQConfig

BATCH = 64
# A finding is made beyond these.
UNUSED_SHARE = 0.05
LOW_PERPLEXITY_SHARE = 0.2
SCALE_RATIO = 3.0
CONSTANT_POSITION_NATS = 0.1
CONSTANT_POSITION_SHARE = 0.25
STILL_RISING_DB = 0.1


@dataclass
class Inspection:
    """counts: (codes_per_position, K). position_entropy: (*code_shape) in nats. psnr: (N,) in dB. z_e_norm, z_q_norm,
    error_norm: mean lengths of what is compared with the codes, of the codes chosen and of their difference."""

    counts: Tensor
    perplexity: float
    usage: float
    position_entropy: Tensor
    psnr: Tensor
    z_e_norm: float
    z_q_norm: float
    error_norm: float

    @property
    def worst_first(self) -> list[int]:
        """Numbers of the pictures, the lowest PSNR first."""
        return self.psnr.argsort().tolist()


@torch.no_grad()
def inspect_tokenizer(model: VQVAE, pictures: UInt8[Tensor, "n c *shape"]) -> Inspection:
    """Encode and decode all `pictures` (N, C, *shape) uint8 and measure."""
    quantizer, size = model.quantizer, model.config.codebook_size
    usage = CodeUsage(size, model.config.quantizer.codes_per_position)
    codes, values, norms = [], [], []
    for part in pictures.split(BATCH):
        pixel_values = to_pixel_values(part).to(model.device)
        found = model.encode(pixel_values)
        usage.add(found)
        codes.append(found.cpu())
        values.append(psnr(model.decode_codes(found), pixel_values).cpu())
        seen = quantizer.normalize(model.encode_continuous(pixel_values))
        chosen = quantizer.decode(found)
        norms.append(torch.stack([vectors.norm(dim=1).mean() for vectors in (seen, chosen, seen - chosen)]).cpu())
    z_e_norm, z_q_norm, error_norm = torch.stack(norms).mean(0).tolist()
    return Inspection(
        counts=usage.counts.cpu(),
        perplexity=usage.perplexity,
        usage=usage.usage,
        position_entropy=position_entropy(torch.cat(codes), size),
        psnr=torch.cat(values),
        z_e_norm=z_e_norm,
        z_q_norm=z_q_norm,
        error_norm=error_norm,
    )


def position_entropy(codes: Tensor, codebook_size: int) -> Float[Tensor, "*code_shape"]:
    """Entropy in nats of the codes at each position, (N, *code_shape) -> (*code_shape)."""
    flat = codes.flatten(1)
    entropy = [
        torch.special.entr(torch.bincount(column, minlength=codebook_size) / len(flat)).sum() for column in flat.T
    ]
    return torch.stack(entropy).view(codes.shape[1:])


def usage_findings(usage: float, perplexity: float, codebook_size: int, quantizer: QuantizerConfig) -> list[str]:
    """What the use of the codebook over a window of training, or over a collection, says."""
    findings = []
    if usage < 1 - UNUSED_SHARE:
        findings.append(f"{100 * (1 - usage):.0f}% of {codebook_size} codes are unused. {_remedy_for_dead(quantizer)}")
    if perplexity < LOW_PERPLEXITY_SHARE * usage * codebook_size:
        findings.append(
            f"A few codes do most of the work: perplexity {perplexity:.0f} of {usage * codebook_size:.0f} codes used. "
            "Pictures that are mostly one colour look like this; otherwise lower quantizer.commitment_weight, or take "
            "a smaller codebook."
        )
    return findings


def findings(inspection: Inspection, model: VQVAE, log: list[dict]) -> list[str]:
    """Plain sentences, each with a remedy. `log` holds the lines of the run's `log.jsonl`, if there are any."""
    quantizer = model.config.quantizer
    found = usage_findings(inspection.usage, inspection.perplexity, model.config.codebook_size, quantizer)
    if isinstance(quantizer, VQConfig) and inspection.error_norm > inspection.z_e_norm:
        found.append(
            f"Codes are farther from z_e than zero is (mean error {inspection.error_norm:.2g}, mean length of z_e "
            f"{inspection.z_e_norm:.2g}): the codebook has lost the encoder. Set quantizer.normalize_z_e true, start "
            "from kmeans, or raise quantizer.commitment_weight."
        )
    constant = (inspection.position_entropy < CONSTANT_POSITION_NATS).float().mean().item()
    if constant > CONSTANT_POSITION_SHARE:
        found.append(
            f"At {100 * constant:.0f}% of the positions the code hardly ever changes. A margin that all pictures share "
            "does this; crop it away, or accept that these codes carry nothing."
        )
    held_out = [line["held_out_psnr_db"] for line in log if "held_out_psnr_db" in line]
    if len(held_out) > 1 and held_out[-1] - held_out[-2] > STILL_RISING_DB:
        found.append(
            f"Held-out PSNR was still rising when training ended ({held_out[-2]:.2f} to {held_out[-1]:.2f} dB over the "
            "last evaluation): train longer with --max-steps or --max-minutes."
        )
    if len(held_out) > 1 and max(held_out) - held_out[-1] > STILL_RISING_DB:
        found.append(
            f"Held-out PSNR fell from {max(held_out):.2f} to {held_out[-1]:.2f} dB: stop earlier, lower the learning "
            "rate, or show the pictures mirrored and moved (--flip 0.5 --max-shift 4)."
        )
    return found


def _remedy_for_dead(quantizer: QuantizerConfig) -> str:
    if isinstance(quantizer, FSQConfig):
        return "Take fewer quantizer.levels."
    if isinstance(quantizer, LFQConfig):
        return "Raise quantizer.entropy_weight or quantizer.diversity."
    if quantizer.codebook_training != "simvq" and quantizer.dead_code_threshold == 0:
        return "Set quantizer.dead_code_threshold to 0.1, so that dead codes are revived."
    if quantizer.initialization == "random":
        return "Set quantizer.initialization to sample or kmeans, so that all codes start where z_e is."
    if quantizer.codebook_dim > 16:
        return "Set quantizer.codebook_dim to 8 or 16: in fewer dimensions codes are nearer to z_e."
    return "Take a smaller quantizer.codebook_size, or train longer: the codebook may still be settling."
