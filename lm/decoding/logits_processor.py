"""Which ids may follow: text, or one whole picture between its brackets, so that a mixed row always parses."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from vqlm.data_prep.vocabulary import Vocabulary

# What may follow: outside a picture text, inside it codes, after its last code its end, after the end of a row padding.
OUTSIDE, INSIDE, FULL, OVER = range(4)


def text_mask(vocabulary: Vocabulary) -> Bool[Tensor, " v"]:
    """(V,) the ids that a caption is made of: text without special tokens."""
    legal = torch.zeros(vocabulary.size, dtype=torch.bool)
    legal[: vocabulary.text_size] = True
    legal[[id for id in vocabulary.tokenizer.all_special_ids if id < vocabulary.text_size]] = False
    return legal


class MixedRowLogitsProcessor(LogitsProcessor):
    """For stock `generate`: whatever the model prefers, a row is text and whole pictures of `tokens_per_image` codes.

    The state of every row is read off its ids; the masks are built once. After `bos caption boi`, greedy decoding draws
    the picture that the pipeline draws at temperature 0 without guidance.

    Args:
        vocabulary (Vocabulary): text and codes in one id space.
        tokens_per_image (int): codes of a picture.

    Example:
        >>> from transformers import AutoModelForCausalLM
        >>> from vqlm import MixedRowLogitsProcessor, Vocabulary, load_image_tokenizer
        >>> vocabulary = Vocabulary.from_pretrained("outputs/demo/model")
        >>> image_tokenizer = load_image_tokenizer("outputs/demo/model/image_tokenizer")
        >>> num_codes = image_tokenizer.config.tokens_per_image
        >>> model = AutoModelForCausalLM.from_pretrained("outputs/demo/model")
        >>> prompt = vocabulary.tokenizer("<bos>red heart<image>", return_tensors="pt")
        >>> ids = model.generate(
        ...     **prompt, logits_processor=[MixedRowLogitsProcessor(vocabulary, num_codes)],
        ...     suppress_tokens=None, max_new_tokens=num_codes + 1,
        ... )
        >>> ids[0, -1].item() == vocabulary.eoi
        True
    """

    def __init__(self, vocabulary: Vocabulary, tokens_per_image: int):
        self.vocabulary, self.tokens_per_image = vocabulary, tokens_per_image
        image = vocabulary.image
        self.legal = torch.zeros(4, vocabulary.size, dtype=torch.bool)
        self.legal[OUTSIDE] = text_mask(vocabulary)
        self.legal[OUTSIDE, [vocabulary.boi, vocabulary.eos]] = True
        self.legal[INSIDE, image.offset : image.stop] = True
        self.legal[FULL, vocabulary.eoi] = True
        self.legal[OVER, vocabulary.pad] = True

    def __call__(self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Forbid the ids that must not follow.

        Args:
            input_ids (int64 tensor (B, T)): the rows so far.
            scores (float tensor (B, V)): logits of the next ids.

        Returns:
            float tensor (B, V): `scores`, -inf where an id must not follow.

        Example:
            >>> processor = vqlm.MixedRowLogitsProcessor(pipe.vocabulary, 16)
            >>> after_the_prompt = torch.tensor([[pipe.vocabulary.bos, pipe.vocabulary.boi]])
            >>> scores = processor(after_the_prompt, torch.zeros(1, pipe.vocabulary.size))
            >>> scores.isfinite().sum().item() == pipe.vocabulary.image.size
            True
        """
        legal = self.legal.to(scores.device)[self.states(input_ids)]
        return scores.masked_fill(~legal, -torch.inf)

    def states(self, input_ids: Int[Tensor, "b t"]) -> Int[Tensor, " b"]:
        """OUTSIDE, INSIDE, FULL or OVER for each row.

        Args:
            input_ids (int64 tensor (B, T)): the rows so far.

        Returns:
            int64 tensor (B,): the state of each row.

        Example:
            >>> processor = vqlm.MixedRowLogitsProcessor(pipe.vocabulary, 16)
            >>> processor.states(torch.tensor([[pipe.vocabulary.bos, pipe.vocabulary.boi]])).tolist()  # INSIDE
            [1]
        """
        vocabulary = self.vocabulary
        places = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
        begin = (places * (input_ids == vocabulary.boi)).amax(1)  # 0 where there is none
        end = (places * (input_ids == vocabulary.eoi)).amax(1)
        is_full = input_ids.shape[1] - begin >= self.tokens_per_image
        # Some tokenizers of pretrained models have one id for bos, eos and pad: the first of a row ends nothing.
        has_begun = ((input_ids != vocabulary.bos) & (input_ids != vocabulary.pad)).any(1)
        is_over = has_begun & ((input_ids[:, -1] == vocabulary.eos) | (input_ids[:, -1] == vocabulary.pad))
        outside = torch.where(is_over, OVER, OUTSIDE)
        return torch.where(begin > end, torch.where(is_full, FULL, INSIDE), outside)
