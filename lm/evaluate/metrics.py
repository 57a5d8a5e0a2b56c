"""Figures of a finished model on a prepared set: likelihood, retrieval. Functions of a model and rows, not of a run."""

from collections.abc import Iterable

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from vqlm.data_prep.sequences import RowCollator
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.loss import WeightedCrossEntropy

EVALUATION_BATCH = 64


@torch.no_grad()
@torch.random.fork_rng(devices=[])
def evaluate_nll(
    model: PreTrainedModel, vocabulary: Vocabulary, rows: Dataset, max_caption_tokens: int, tokens_per_image: int
) -> float:
    """Mean negative log-likelihood of the first view's codes given the first caption, in nats per code."""
    was_training = model.training
    objective = WeightedCrossEntropy(model.eval(), vocabulary, text_weight=0.0, image_weight=1.0)
    collate = RowCollator(vocabulary, max_caption_tokens, None)
    total, count = 0.0, 0
    for batch in rows.select_columns(["captions", "codes"]).iter(EVALUATION_BATCH):
        packs = [
            [{"caption": captions[0], "codes": codes[:tokens_per_image]}]
            for captions, codes in zip(batch["captions"], batch["codes"], strict=True)  # type: ignore[arg-type]
        ]
        total += objective(**vars(collate(packs).to(model.device))).image_nll.item() * len(packs)
        count += len(packs)
    model.train(was_training)
    return total / count


def retrieval_ranks(
    drawn: Float[Tensor, "b c h w"], targets: Float[Tensor, "b c h w"], gallery: Iterable[Float[Tensor, "_ c h w"]]
) -> Int[Tensor, " b"]:
    """Rank (1 is best) of `targets[i]` among the gallery by L2 pixel distance to `drawn[i]`.

    The gallery comes in parts and holds the targets. Its pictures that equal the target share the target's rank.
    """
    queries = drawn.flatten(1).double()
    to_target = (queries - targets.flatten(1).double()).square().sum(1, keepdim=True)
    closer = torch.zeros(len(drawn), dtype=torch.int64, device=drawn.device)
    for part in gallery:
        pictures = part.flatten(1).double()
        distances = queries.square().sum(1, keepdim=True) - 2 * queries @ pictures.T + pictures.square().sum(1)
        closer += (distances < to_target * (1 - 1e-9) - 1e-9).sum(1)
    return 1 + closer


def recall_at(ranks: Int[Tensor, " b"], k: int) -> float:
    """Share of the ranks that are at most `k`."""
    return (ranks <= k).double().mean().item()
