"""Which of several pictures of a prompt to keep."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def most_agreed(pictures: Float[Tensor, "n c *shape"], log_likelihoods: Float[Tensor, " n"]) -> Int[Tensor, ""]:
    """The index of the picture that lies nearest to all, each weighed by how likely it makes the prompt.

    `log_likelihoods` are log p(prompt | picture) in nats; distances are Euclidean, of pixels. This is the choice of the
    least expected distance (minimum Bayes risk, Kumar and Byrne 2004), with p(prompt | picture) / sum for the belief
    that a picture is the one that was asked for. Where one picture is far the likeliest it is that one; among several
    nearly as likely it is the one that the others agree with.
    """
    flat = pictures.flatten(1).float()
    # Without the detour over a product of matrices, whose rounding is as large as the distance of pictures much alike.
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    beliefs = log_likelihoods.float().softmax(0).to(distances.device)
    return (distances @ beliefs).argmin()
