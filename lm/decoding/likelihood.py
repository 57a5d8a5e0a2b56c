"""The likelihood of a picture given its prompt, and of a prompt given its picture: log-probabilities in nats.

Codes are scored against the image range and captions against text and brackets, as in training (`vqlm.lm.loss`).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from vqlm.data_prep.sequences import picture_ids
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.decoding.stock_forward import read_into

ROWS_AT_ONCE = 64


@torch.no_grad()
def code_log_likelihoods(
    model: PreTrainedModel, vocabulary: Vocabulary, prompts: list[list[int]], codes: Int[Tensor, "b n"]
) -> Float[Tensor, "b n"]:
    """log p(code | prompt, the codes before it) for each code of the rows `bos caption boi codes`."""
    image, parts = vocabulary.image, [torch.empty(0, codes.shape[1], device=model.device)]
    for start in range(0, len(prompts), ROWS_AT_ONCE):
        targets = codes[start : start + ROWS_AT_ONCE].to(model.device)
        part = prompts[start : start + ROWS_AT_ONCE]
        rows = [prompt + ids for prompt, ids in zip(part, vocabulary.codes_to_ids(targets).tolist(), strict=True)]
        logits = model(input_ids=_right_pad(rows, vocabulary.pad).to(model.device), use_cache=False).logits
        first = torch.tensor([len(prompt) - 1 for prompt in part], device=model.device).unsqueeze(1)
        places = first + torch.arange(targets.shape[1], device=model.device)
        rows_at = torch.arange(len(part), device=model.device).unsqueeze(1)
        log_probs = logits[rows_at, places][..., image.offset : image.stop].float().log_softmax(-1)
        parts.append(log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1))
    return torch.cat(parts)


@torch.no_grad()
def caption_log_likelihoods(
    model: PreTrainedModel, vocabulary: Vocabulary, codes: Int[Tensor, "b n"], captions: list[list[int]]
) -> Float[Tensor, " b"]:
    """log p(caption | picture) for one caption (ids) per picture, given that the picture has a caption."""
    text, parts = slice(0, vocabulary.image.offset), []
    for start in range(0, len(captions), ROWS_AT_ONCE):
        pictures = picture_ids(vocabulary, codes[start : start + ROWS_AT_ONCE].to(model.device))
        part = captions[start : start + ROWS_AT_ONCE]
        inputs = torch.cat([pictures, _right_pad(part, vocabulary.pad).to(model.device)], 1)
        logits = model(input_ids=inputs, use_cache=False).logits[:, pictures.shape[1] - 1 :, text].float()
        parts.append(_sum_of_log_probs(logits, part, vocabulary))
    return torch.cat(parts)


@torch.no_grad()
def log_likelihoods_of_captions(
    model: PreTrainedModel, vocabulary: Vocabulary, codes: Int[Tensor, " n"], captions: list[list[int]]
) -> Float[Tensor, " c"]:
    """log p(caption | picture) for each of `captions` of one picture, which is read once: its KV cache is shared."""
    device, picture = model.device, picture_ids(vocabulary, codes.to(model.device)[None])
    text, parts = slice(0, vocabulary.image.offset), []
    for start in range(0, len(captions), ROWS_AT_ONCE):
        part = captions[start : start + ROWS_AT_ONCE]
        cache = DynamicCache(config=model.config)
        first = read_into(cache, model, input_ids=picture)[:, -1:, text].float()
        cache.batch_repeat_interleave(len(part))
        inputs = _right_pad(part, vocabulary.pad).to(device)
        mask = torch.ones(len(part), picture.shape[1] + inputs.shape[1], dtype=torch.int64, device=device)
        later = read_into(cache, model, input_ids=inputs, attention_mask=mask)[..., text]
        logits = torch.cat([first.expand(len(part), -1, -1), later.float()], 1)
        parts.append(_sum_of_log_probs(logits, part, vocabulary))
    return torch.cat(parts)


def _sum_of_log_probs(
    logits: Float[Tensor, "b t v"], captions: list[list[int]], vocabulary: Vocabulary
) -> Float[Tensor, " b"]:
    """The sum over each caption and the eos after it; logits[:, 0] predict its first id, which cannot be eos."""
    logits[:, 0, vocabulary.eos] = -torch.inf
    targets = _right_pad([[*ids, vocabulary.eos] for ids in captions], vocabulary.pad).to(logits.device)
    lengths = torch.tensor([len(ids) + 1 for ids in captions], device=logits.device).unsqueeze(1)
    chosen = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return torch.where(torch.arange(targets.shape[1], device=logits.device) < lengths, chosen, 0.0).sum(1)


def _right_pad(rows: list[list[int]], pad: int) -> Int[Tensor, "b t"]:
    length = max(map(len, rows))
    return torch.tensor([row + [pad] * (length - len(row)) for row in rows], dtype=torch.int64)
