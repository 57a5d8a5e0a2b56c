"""Describing pictures: text drawn after `bos boi codes eoi`."""

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from vqlm.data_prep.sequences import picture_ids
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.decoding.decoders import build_decoder
from vqlm.lm.decoding.logits_processor import text_mask
from vqlm.lm.decoding.sampling import Generators, draw_uniform, require_finite, sample


@torch.no_grad()
def draw_captions(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    codes: Int[Tensor, "b n"],
    max_tokens: int,
    temperature: float = 0.0,
    generator: Generators = None,
) -> list[str]:
    """One caption for each picture, of 1 to `max_tokens` tokens; at temperature 0 always the likeliest token."""
    device, end = model.device, vocabulary.eos
    inputs = picture_ids(vocabulary, codes.to(device))
    legal = text_mask(vocabulary).to(device)[: vocabulary.image.offset]
    uniform = draw_uniform(len(codes), max_tokens, generator, device)
    decoder, drawn = build_decoder(model, slice(0, vocabulary.image.offset)), []
    logits = decoder.read(inputs, torch.ones_like(inputs, dtype=torch.bool), max_tokens)
    has_ended = torch.zeros(len(codes), dtype=torch.bool, device=device)
    for step in range(max_tokens):
        require_finite(logits, f"token {step}")
        next_ids = sample(logits.masked_fill(~legal, -torch.inf), uniform[:, step], temperature)
        next_ids = torch.where(has_ended, end, next_ids)
        has_ended |= next_ids == end
        if has_ended.all():
            break
        drawn.append(next_ids)
        logits = decoder.step(next_ids)
        legal[end] = True  # but not as the first token
    rows = torch.stack(drawn, 1).tolist()
    return [vocabulary.decode_text([id for id in row if id != end]) for row in rows]
