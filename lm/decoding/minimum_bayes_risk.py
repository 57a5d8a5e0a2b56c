"""Which of several pictures of a prompt to keep."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vqlm.lm.image_codes import decode_pixel_values
from vqlm.vq import VQVAE


def keep_best(
    image_tokenizer: VQVAE, codes: Int[Tensor, "b n *code_shape"], log_likelihoods: Float[Tensor, "b n"]
) -> Int[Tensor, "b *code_shape"]:
    """The codes of one of the n pictures of each prompt, see `minimum_bayes_risk_index`."""
    kept = []
    for drawn, likelihoods in zip(codes, log_likelihoods, strict=True):
        pictures = decode_pixel_values(image_tokenizer, image_tokenizer.unflatten_codes(drawn.flatten(1)))
        kept.append(drawn[minimum_bayes_risk_index(pictures, likelihoods)])
    return torch.stack(kept)


def minimum_bayes_risk_index(
    pictures: Float[Tensor, "n c *shape"], log_likelihoods: Float[Tensor, " n"]
) -> Int[Tensor, ""]:
    """The index of the picture that lies nearest to all others, each weighed by how likely it makes the prompt.

    `log_likelihoods` are log p(prompt | picture) in nats; distances are Euclidean, between pixels. The choice has the
    least expected distance (minimum Bayes risk, Kumar and Byrne 2004), with p(prompt | picture) / sum as the belief
    that a picture is the one that the prompt describes. Where one picture is by far the likeliest, it is chosen; among
    several that are nearly as likely, the one that the others agree with.
    """
    flat = pictures.flatten(1).float()
    # Not by way of a product of matrices: its rounding is as large as the distance between pictures much alike.
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    beliefs = log_likelihoods.float().softmax(0).to(distances.device)
    return (distances @ beliefs).argmin()
