"""Figures of a finished model on a prepared set: likelihood, retrieval. Functions of a model and rows, not of a run."""

from collections.abc import Iterable
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from vqlm.data_prep.sequences import RowCollator
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.training.machine.distributed import num_processes, process_index, sum_numbers

EVALUATION_BATCH = 64


@torch.no_grad()
@torch.random.fork_rng(devices=[])
def evaluate_nll(
    model: PreTrainedModel | WeightedCrossEntropy,
    vocabulary: Vocabulary,
    rows: Dataset,
    max_caption_tokens: int,
    tokens_per_image: int,
) -> float:
    """Mean negative log-likelihood of the first view's codes given the first caption, in nats per code.

    The processes of a training share the rows; each must call it, and gets the mean over all of them. A model whose
    weights are sharded comes in the objective that gathers them.
    """
    was_training = model.training
    objective: Any = model.eval()
    if isinstance(model, PreTrainedModel):
        objective = WeightedCrossEntropy(model, vocabulary, text_weight=0.0, image_weight=1.0)
    device = next(model.parameters()).device
    collate = RowCollator(vocabulary, max_caption_tokens, None)
    total, count = 0.0, 0
    for batch in rows.select_columns(["captions", "codes"]).iter(EVALUATION_BATCH * num_processes()):
        packs = [
            [{"caption": captions[0], "codes": codes[:tokens_per_image]}]
            for captions, codes in zip(batch["captions"], batch["codes"], strict=True)  # type: ignore[arg-type]
        ]
        share = packs[process_index() :: num_processes()]
        # Sharded weights are gathered by all processes together: one without a row computes, and does not count.
        total += objective(**vars(collate(share or packs[:1]).to(device))).image_nll.item() * len(share)
        count += len(share)
    model.train(was_training)
    whole_total, whole_count = sum_numbers(total, count, device=device)
    return whole_total / whole_count


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
