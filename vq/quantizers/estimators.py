"""How the gradient passes a quantizer: the value of `z_q`, a gradient to `z_e`. Both (B, D, *shape)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SMALLEST_NORM = 1e-6


def straight_through(z_e: Float[Tensor, "b d *shape"], z_q: Float[Tensor, "b d *shape"]) -> Float[Tensor, "b d *shape"]:
    """The gradient of the identity (Bengio et al. 2013; van den Oord et al. 2017, section 3.2)."""
    return z_e + (z_q - z_e).detach()


def rotation(z_e: Float[Tensor, "b d *shape"], z_q: Float[Tensor, "b d *shape"]) -> Float[Tensor, "b d *shape"]:
    """The gradient of the rotation and scaling that carry z_e onto z_q (Fifty et al. 2024, arXiv 2410.06424, 4.2)."""
    norm_e = z_e.norm(dim=1, keepdim=True).detach().clamp(min=SMALLEST_NORM)
    norm_q = z_q.norm(dim=1, keepdim=True).detach()
    e = (z_e / norm_e).detach()
    q = (z_q / norm_q.clamp(min=SMALLEST_NORM)).detach()
    between = F.normalize(e + q, dim=1)
    reflected = z_e - 2 * (z_e * between).sum(1, keepdim=True) * between
    rotated = (reflected + 2 * (z_e * e).sum(1, keepdim=True) * q) * (norm_q / norm_e)
    return rotated + (z_q - rotated).detach()  # the value of z_q, without the rounding of the rotation


ESTIMATORS = {"straight_through": straight_through, "rotation": rotation}
