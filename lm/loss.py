"""The training loss: one cross-entropy over the ids that can occur at each position, with a weight per modality."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from vqlm.data_prep.sequences import IGNORED
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.code_embeddings import SimilarCodes
from vqlm.lm.probes import has_plain_head


class ObjectiveOutput(NamedTuple):
    """Scalars. loss: the weighted mean over all labelled ids. image_nll, text_nll: plain means in nats, over the
    codes, and over captions and brackets. weight: the sum of the weights that `loss` is a mean over."""

    loss: Float[Tensor, ""]
    image_nll: Float[Tensor, ""]
    text_nll: Float[Tensor, ""]
    weight: Float[Tensor, ""]


class WeightedCrossEntropy(nn.Module):
    """A causal LM with its loss on packed rows; see `vqlm.data_prep.sequences.Batch`.

    Logits are computed for image codes where the target is a code, and for text and brackets elsewhere: at these sizes
    the head is a third of a training step. Drawing takes codes from the image range only and needs no
    other logit there.
    """

    similar_codes: Tensor
    similar_weights: Tensor

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        text_weight: float,
        image_weight: float,
        caption_weight: float = 1.0,
        label_smoothing: float = 0.0,
        neighbor_smoothing: float = 0.0,
        similar: SimilarCodes | None = None,
    ):
        super().__init__()
        self.model = model
        self.text_weight, self.image_weight, self.caption_weight = text_weight, image_weight, caption_weight
        self.label_smoothing, self.neighbor_smoothing = label_smoothing, neighbor_smoothing
        if neighbor_smoothing and similar is None:
            raise ValueError("`neighbor_smoothing` needs `similar`; see vqlm.lm.code_embeddings.similar_codes.")
        if similar is not None:
            self.register_buffer("similar_codes", similar.codes, persistent=False)
            self.register_buffer("similar_weights", similar.weights, persistent=False)
        self.codes = slice(vocabulary.image.offset, vocabulary.image.stop)
        self.others = slice(0, vocabulary.image.offset)
        self.has_plain_head = has_plain_head(model)

    def forward(
        self,
        input_ids: Int[Tensor, "p t"],
        position_ids: Int[Tensor, "p t"],
        code_places: Int[Tensor, " m"],
        code_targets: Int[Tensor, " m"],
        text_places: Int[Tensor, " n"],
        text_targets: Int[Tensor, " n"],
        is_described: Bool[Tensor, " n"] | None = None,
    ) -> ObjectiveOutput:
        """The loss of a `Batch`; without `is_described` no caption comes after its picture.

        Without an attention mask, transformers keeps packed rows apart by their positions.
        """
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
        if self.has_plain_head:
            output = self.model.get_decoder()(**inputs).last_hidden_state
        else:
            output = self.model(**inputs).logits
        return self._loss(output.flatten(0, 1), code_places, code_targets, text_places, text_targets, is_described)

    def compile_parts(self) -> None:
        """Let torch.compile build the decoder's blocks and the loss when they are first called.

        The blocks are alike, so one build serves all: as fast as compiling the whole model, in half the build time.
        """
        for part in _compilable(self.model.get_decoder() or self.model):
            part.compile(dynamic=False)
        self._loss = torch.compile(self._loss, dynamic=False)

    def _loss(
        self,
        output: Tensor,
        code_places: Tensor,
        code_targets: Tensor,
        text_places: Tensor,
        text_targets: Tensor,
        is_described: Tensor | None,
    ) -> ObjectiveOutput:
        """`output` is (P * T, D) hidden states where the head is plain, else (P * T, V) logits."""
        if self.has_plain_head:
            code_logits = self._head(output[code_places], self.codes)
            text_logits = self._head(output[text_places], self.others)
        else:
            code_logits, text_logits = output[code_places, self.codes], output[text_places, self.others]
        code_logits = code_logits.float()
        image_nll, text_nll = _cross_entropy(code_logits, code_targets), _cross_entropy(text_logits, text_targets)
        num_codes, num_texts = (code_targets != IGNORED).sum(), (text_targets != IGNORED).sum()
        text_weights = torch.full_like(text_nll, self.text_weight)
        if is_described is not None:
            text_weights = text_weights.masked_fill(is_described, self.caption_weight)
        weight = self.image_weight * num_codes + (text_weights * (text_targets != IGNORED)).sum()
        smoothed_nll = self._smoothed(image_nll, code_logits, code_targets) if self.training else image_nll
        return ObjectiveOutput(
            loss=(self.image_weight * smoothed_nll.sum() + (text_weights * text_nll).sum()) / weight.clamp(min=1e-9),
            image_nll=image_nll.sum() / num_codes.clamp(min=1),
            text_nll=text_nll.sum() / num_texts.clamp(min=1),
            weight=weight,
        )

    def _smoothed(self, nll: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """(M,) cross-entropy with a share of each target spread over all codes (Szegedy et al. 2016, arXiv
        1512.00567, section 7) and a share spread over the codes that look like it."""
        if not self.label_smoothing and not self.neighbor_smoothing:
            return nll
        log_normalizer, smoothed = logits.logsumexp(-1), nll
        if self.label_smoothing:
            smoothed = smoothed + self.label_smoothing * (log_normalizer - logits.mean(-1) - nll)
        if self.neighbor_smoothing:
            known = targets.clamp(min=0)
            near = logits.gather(-1, self.similar_codes[known])  # (M, n)
            expected = (self.similar_weights[known] * near).sum(-1)
            smoothed = smoothed + self.neighbor_smoothing * (log_normalizer - expected - nll)
        return smoothed.masked_fill(targets == IGNORED, 0.0)

    def _head(self, hidden: Tensor, ids: slice) -> Tensor:
        head = self.model.get_output_embeddings()
        assert isinstance(head, nn.Linear)  # has_plain_head
        return F.linear(hidden, head.weight[ids], None if head.bias is None else head.bias[ids])


def _compilable(decoder: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a decoder one by one, and its other modules except embeddings, which gain nothing."""
    for part in decoder.children():
        if isinstance(part, nn.ModuleList):
            yield from part
        elif not isinstance(part, nn.Embedding) and any(True for _ in part.parameters()):
            yield part


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(C, V) and (C,) -> (C,) in nats, 0 where ignored."""
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")
