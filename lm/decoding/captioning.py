"""Describing pictures: text drawn after `bos boi codes eoi`."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor, PreTrainedModel

from vqlm.data_prep.sequences import picture_ids
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.decoding.decoders import build_decoder
from vqlm.lm.decoding.logits_processor import text_mask
from vqlm.lm.decoding.sampling import Generators, draw_uniform, require_finite, sample

# A model that has learned little repeats itself up to the longest caption. OpenMoji's captions hold no three tokens
# twice, while many hold the same two, such as those of "skin tone".
NO_REPEAT = 3
WORD_MARKS = ("Ġ", "▁")  # with which the tokens of byte-level and other BPE begin a word


@torch.no_grad()
def draw_captions(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    codes: Int[Tensor, "b n"],
    max_tokens: int,
    temperature: float = 0.0,
    generator: Generators = None,
) -> list[str]:
    """One caption for each picture, of 1 to `max_tokens` tokens; at temperature 0 always the likeliest token.

    No `NO_REPEAT` tokens come twice, and no piece of several characters follows itself within a word. Where the model
    does not end a caption, it ends with its last whole word.
    """
    device, end = model.device, vocabulary.eos
    inputs = picture_ids(vocabulary, codes.to(device))
    legal = text_mask(vocabulary).to(device)[: vocabulary.image.offset]
    # One more than may stay tells whether the last word is whole.
    uniform = draw_uniform(len(codes), max_tokens + 1, generator, device)
    decoder = build_decoder(model, slice(0, vocabulary.image.offset))
    logits = decoder.read(inputs, torch.ones_like(inputs, dtype=torch.bool), max_tokens)
    without_repeats, is_inner = NoRepeatNGramLogitsProcessor(NO_REPEAT), _inner_pieces(vocabulary).to(device)
    drawn = inputs[:, :0]
    has_ended = torch.zeros(len(codes), dtype=torch.bool, device=device)
    for step in range(max_tokens + 1):
        require_finite(logits, f"token {step}")
        allowed = without_repeats(drawn, logits.masked_fill(~legal, -torch.inf))  # type: ignore[arg-type]
        if step:
            last = drawn[:, -1:]
            allowed = allowed.scatter(1, last, allowed.gather(1, last).masked_fill(is_inner[last], -torch.inf))
        next_ids = torch.where(has_ended, end, sample(allowed, uniform[:, step], temperature))
        has_ended |= next_ids == end
        drawn = torch.cat([drawn, next_ids.unsqueeze(1)], 1)
        if has_ended.all() or step == max_tokens:
            break
        logits = decoder.step(next_ids)
        legal[end] = True  # but not as the first token
    return [_text([id for id in row if id != end], vocabulary, max_tokens) for row in drawn.tolist()]


def _inner_pieces(vocabulary: Vocabulary) -> Bool[Tensor, " v"]:
    """Which ids before the image's codes are pieces of several characters that continue a word."""
    tokens = vocabulary.tokenizer.convert_ids_to_tokens(list(range(vocabulary.image.offset)))
    special = set(vocabulary.tokenizer.all_special_tokens)
    return torch.tensor([len(token) > 1 and token[0] not in WORD_MARKS and token not in special for token in tokens])


def _text(ids: list[int], vocabulary: Vocabulary, max_tokens: int) -> str:
    """The caption; of one that did not end, which has a token too many, its whole words."""
    if len(ids) <= max_tokens:
        return vocabulary.decode_text(ids)
    text = str(vocabulary.tokenizer.decode(ids, skip_special_tokens=True))
    return text.lstrip().rpartition(" ")[0].strip() or vocabulary.decode_text(ids[:max_tokens])
