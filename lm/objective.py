"""The training loss: one cross-entropy over the whole vocabulary, with a weight per modality."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from data_prep.sequences import IGNORED
from data_prep.vocabulary import Vocabulary


class ObjectiveOutput(NamedTuple):
    """Scalars, except `nll` (B, T-1), 0 where ignored.

    loss: the weighted mean over all labelled ids. image_nll, text_nll: plain means in nats, over codes and over the rest.
    """

    loss: Float[Tensor, ""]
    image_nll: Float[Tensor, ""]
    text_nll: Float[Tensor, ""]
    nll: Float[Tensor, "b t"]


class WeightedCrossEntropy(nn.Module):
    """A causal LM with its loss. Codes and the end of a picture weigh `image_weight`, all else `text_weight`."""

    def __init__(self, model: PreTrainedModel, vocabulary: Vocabulary, text_weight: float, image_weight: float):
        super().__init__()
        self.model = model
        self.text_weight, self.image_weight = text_weight, image_weight
        self.first_code, self.stop, self.eoi = vocabulary.image.offset, vocabulary.image.stop, vocabulary.eoi

    def forward(
        self,
        input_ids: Int[Tensor, "b t"],
        labels: Int[Tensor, "b t"],
        position_ids: Int[Tensor, "b t"],
        attention_mask: Bool[Tensor, "b t"],
    ) -> ObjectiveOutput:
        """The ids before predict each label; see `data_prep.sequences.Batch` for the shapes."""
        logits = self.model(
            input_ids=input_ids[:, :-1],
            attention_mask=attention_mask[:, :-1],
            position_ids=position_ids[:, :-1],
            use_cache=False,
        ).logits  # (B, T-1, V)
        targets = labels[:, 1:]
        nll = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
        nll = nll.view(targets.shape)
        is_code = (targets >= self.first_code) & (targets < self.stop)
        is_text = (targets != IGNORED) & ~is_code
        is_image = is_code | (targets == self.eoi)
        weight = torch.where(is_image, self.image_weight, self.text_weight) * (targets != IGNORED)
        return ObjectiveOutput(
            loss=(nll * weight).sum() / weight.sum().clamp(min=1e-9),
            image_nll=(nll * is_code).sum() / is_code.sum().clamp(min=1),
            text_nll=(nll * is_text).sum() / is_text.sum().clamp(min=1),
            nll=nll,
        )
