"""The loss of stage one: pixels, features of a network, a patch discriminator, and the terms of the quantizer."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from transformers import MODEL_FOR_BACKBONE_MAPPING, AutoConfig
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from vqlm.training.errors import UserError
from vqlm.training.machine.distributed import mean_over_processes
from vqlm.vq.layers import CONV
from vqlm.vq.model import VQVAE
from vqlm.vq.settings import LossConfig, NetworkConfig


class Objective:
    """The loss that the VQ-VAE minimises: reconstruction, features, the quantizer's terms, a discriminator's judgement.

    Args:
        terms: which terms, and their weights.
        model: the VQ-VAE, not wrapped for several processes.
        data_variance: of the pixel values; it makes the weights mean the same for any data.
        learning_rate: of the discriminator.
        device: where the networks of the terms compute.
    """

    def __init__(
        self, terms: LossConfig, model: VQVAE, data_variance: float, learning_rate: float, device: torch.device
    ):
        self.terms, self.data_variance = terms, data_variance
        self.decoder, self.quantizer_weights = model.decoder, model.quantizer.loss_weights()
        self.perceptual: nn.Module | None = None
        self.adversary: Adversary | None = None
        if terms.perceptual_network and terms.perceptual_weight:
            self.perceptual = load_perceptual_network(terms.perceptual_network, model.config.network).to(device)
        if terms.adversarial_weight:
            self.adversary = Adversary(terms, model.config.network, learning_rate)

    def __call__(
        self, reconstruction: Tensor, pixel_values: Tensor, quantizer_losses: dict[str, Tensor], is_judged: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss, and by name the terms that are not those of the quantizer. `is_judged`: by the adversary."""
        loss = reconstruction_loss(self.terms.reconstruction, reconstruction, pixel_values, self.data_variance)
        figures = {"reconstruction_loss": loss}
        if self.perceptual is not None:
            figures["perceptual_loss"] = self.perceptual(reconstruction, pixel_values).mean()
            loss = loss + self.terms.perceptual_weight * figures["perceptual_loss"]
        if self.adversary is not None and is_judged:
            figures["generator_loss"] = self.adversary.generator_loss(loss, reconstruction, self.decoder)
            loss = loss + figures["generator_loss"]
        return loss + sum(self.quantizer_weights[name] * value for name, value in quantizer_losses.items()), figures


def reconstruction_loss(
    kind: str, reconstruction: Tensor, pixel_values: Tensor, data_variance: float
) -> Float[Tensor, ""]:
    """The error over the data's variance ("l2", as in Sonnet's example) or standard deviation ("l1")."""
    if kind == "l1":
        return F.l1_loss(reconstruction, pixel_values) / data_variance**0.5
    return F.mse_loss(reconstruction, pixel_values) / data_variance


class FeatureDistance(nn.Module):
    """Mean squared distance between feature maps scaled to length 1 at every position, summed over stages: LPIPS
    (Zhang et al. 2018, arXiv 1801.03924, equation 1) with all channels weighted alike."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)
        self.register_buffer("mean", torch.tensor(IMAGENET_DEFAULT_MEAN).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_DEFAULT_STD).view(-1, 1, 1))

    def forward(
        self, reconstruction: Float[Tensor, "b 3 h w"], pixel_values: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, " b"]:
        """Pictures in [-1, 1] -> the distance of each pair, (B,)."""
        pairs = zip(self._features(reconstruction), self._features(pixel_values), strict=True)
        return torch.stack([(ours - theirs).square().sum(1).mean((1, 2)) for ours, theirs in pairs]).sum(0)

    def _features(self, pictures: Tensor) -> list[Tensor]:
        maps = self.backbone(((pictures + 1) / 2 - self.mean) / self.std).feature_maps
        return [F.normalize(features.float(), dim=1) for features in maps]


def load_perceptual_network(name: str, network: NetworkConfig) -> nn.Module:
    """A module (reconstruction, pixel_values) -> distance of each pair. See `LossConfig.perceptual_network`.

    Raises UserError where its package, its weights or a picture of three channels is missing.
    """
    if network.spatial_dims != 2 or network.in_channels != 3:
        raise UserError(
            f"`loss.perceptual_network` sees RGB pictures only; `network.input_shape` is {network.input_shape} with "
            f"{network.in_channels} channels. Set `loss.perceptual_weight` to 0."
        )
    try:
        if name == "lpips":
            import lpips  # type: ignore[import-not-found]

            return lpips.LPIPS(net="vgg", verbose=False).eval().requires_grad_(False)
        # AutoBackbone itself asks the Hub whether a folder exists there.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind: Any = MODEL_FOR_BACKBONE_MAPPING[type(config)]
        stages = list(range(1, len(config.stage_names)))  # stage 0 is the stem
        return FeatureDistance(kind.from_pretrained(name, out_indices=stages, use_safetensors=True))
    except (ImportError, OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"`loss.perceptual_network` {name!r} cannot be loaded ({' '.join(str(error).split())[:200]}); give lpips "
            "(pip install lpips; it fetches its weights once), or the name or folder of a transformers backbone."
        ) from error


class PatchDiscriminator(nn.Sequential):
    """One logit per patch: a picture or a reconstruction (Isola et al. 2017, arXiv 1611.07004)."""

    def __init__(self, config: LossConfig, network: NetworkConfig):
        conv, width = CONV[network.spatial_dims], config.discriminator_channels
        layers: list[nn.Module] = [conv(network.in_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(config.discriminator_layers - 1):
            layers += [conv(width, 2 * width, 4, stride=2, padding=1), nn.GroupNorm(1, 2 * width), nn.LeakyReLU(0.2)]
            width *= 2
        super().__init__(*layers, conv(width, 1, 3, padding=1))


class Adversary:
    """The discriminator and its optimizer, for one training run."""

    def __init__(self, config: LossConfig, network: NetworkConfig, learning_rate: float):
        self.config = config
        self.discriminator: nn.Module = PatchDiscriminator(config, network)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=learning_rate, betas=(0.5, 0.9), weight_decay=0.0
        )

    def judges(self, step: int, share: float) -> bool:
        """Whether the discriminator has begun, after so many steps or this share of the budget."""
        start = self.config.adversarial_start
        return share >= start if start < 1 else step >= start

    def generator_loss(
        self, others: Float[Tensor, ""], reconstruction: Tensor, decoder: nn.Module
    ) -> Float[Tensor, ""]:
        """Minus the discriminator's mean logit of the reconstruction, weighted and scaled against the `others` terms.

        The discriminator gets no gradient from it.
        """
        self.discriminator.requires_grad_(False)
        loss = -self.discriminator(reconstruction).float().mean()
        self.discriminator.requires_grad_(True)
        scale = adaptive_weight(others, loss, last_weight(decoder), self.config.max_adaptive_weight)
        return self.config.adversarial_weight * scale * loss

    def discriminator_loss(self, reconstruction: Tensor, pixel_values: Tensor) -> Float[Tensor, ""]:
        """Hinge loss (Lim and Ye 2017, arXiv 1705.02894): patches of pictures above 1, of reconstructions below -1."""
        # One pass for both: a model that is wrapped for several processes allows one forward per backward.
        real, fake = self.discriminator(torch.cat([pixel_values, reconstruction.detach()])).float().chunk(2)
        return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(
    others: Float[Tensor, ""], adversarial: Float[Tensor, ""], weight: Tensor, maximum: float
) -> Float[Tensor, ""]:
    """Norm of the other terms' gradient at `weight` over that of the adversarial term, at most `maximum`.

    The gradients are those of all processes together.
    """
    (ours,) = torch.autograd.grad(others, weight, retain_graph=True)
    (theirs,) = torch.autograd.grad(adversarial, weight, retain_graph=True)
    ours, theirs = mean_over_processes(ours), mean_over_processes(theirs)
    return (ours.norm() / (theirs.norm() + 1e-4)).clamp(max=maximum).detach()


def last_weight(decoder: nn.Module) -> Tensor:
    """The weight of the decoder's last convolution."""
    return [module.weight for module in decoder.modules() if isinstance(module, _ConvNd)][-1]
