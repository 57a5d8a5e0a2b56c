"""What a finished model says of pictures: captions, likelihoods, and which of several pictures fits a prompt best."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from vqlm.data_prep.sequences import prompt_ids
from vqlm.lm.decoding.captioning import draw_captions
from vqlm.lm.decoding.likelihood import caption_log_likelihoods, code_log_likelihoods
from vqlm.lm.decoding.minimum_bayes_risk import keep_best
from vqlm.lm.decoding.sampling import Seeds, from_seeds, generators_of, require_finite
from vqlm.lm.image_codes import Pictures
from vqlm.lm.loaded_model import LoadedModel
from vqlm.lm.prompts import Prompts, one_per_picture, repeated
from vqlm.lm.settings import SamplingConfig
from vqlm.training.errors import UserError


@dataclass
class Scores:
    """Log-likelihoods in nats, (B,). picture: of the codes given the prompt. prompt: of the prompt given the picture,
    None where the model was not trained to caption."""

    picture: Tensor
    prompt: Tensor | None


class PictureDescriber(LoadedModel):
    """Describes and scores pictures, and chooses among them."""

    def caption(
        self,
        images: Pictures,
        *,
        temperature: float = 0.0,
        generator: Seeds = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Describe pictures.

        Args:
            images (picture, list of them, or tensor): as `encode` takes them.
            temperature (float): 0 always takes the likeliest token.
            generator, batch_size: as in `__call__`.

        Returns:
            list of str: one caption per picture, no longer than the longest that was trained on; none repeats three
            tokens.

        Raises:
            UserError: for a model that was not trained to caption.

        Example:
            >>> len(pipe.caption(["picture.png", "picture.png"]))
            2
        """
        self._require_captions("`caption`")
        SamplingConfig(temperature=temperature)  # which refuses what is no temperature
        size, codes, captions = self.options.override(batch_size).batch_size, self.encode(images), []
        trained_on = self.settings.trained_on or {}
        longest = min(self.max_caption_tokens, trained_on.get("longest_caption_tokens", self.max_caption_tokens))
        generators = from_seeds(generator)
        generators = None if generators is None else generators_of(generators, len(codes))
        for start in range(0, len(codes), size):
            rows = slice(start, start + size)
            random = None if generators is None else generators[rows]
            captions += draw_captions(self.model, self.vocabulary, codes[rows], longest, temperature, random)
        return captions

    @torch.no_grad()
    def score(self, images: Pictures, prompts: Prompts) -> Scores:
        """How well pictures and prompts fit: log p(picture | prompt) and log p(prompt | picture).

        Args:
            images (picture, list of them, or tensor): as `encode` takes them.
            prompts (str, list of str or None): one for all pictures or one per picture.

        Returns:
            Scores: `picture` and `prompt`, each (B,) in nats; `prompt` is None if the model was not trained to caption,
            or a prompt is None.

        Raises:
            UserError: for an empty prompt.

        Example:
            >>> scores = pipe.score(["picture.png", "picture.png"], ["red heart", "blue square"])
            >>> scores.picture.shape, scores.prompt.shape
            (torch.Size([2]), torch.Size([2]))
        """
        codes = self.encode(images)
        captions = self._tokenize(one_per_picture(prompts, len(codes), "prompts"))
        rows = prompt_ids(self.vocabulary, captions)
        picture = code_log_likelihoods(self.model, self.vocabulary, rows, codes).sum(1)
        texts = [caption for caption in captions if caption is not None]
        if not self.can_caption or len(texts) < len(captions):
            return Scores(picture, None)
        return Scores(picture, caption_log_likelihoods(self.model, self.vocabulary, codes, texts))

    @torch.no_grad()
    def best_of(self, codes: Int[Tensor, "b n *code_shape"], prompts: Prompts) -> Int[Tensor, "b *code_shape"]:
        """Keep one of several pictures of each prompt, as `rerank` does: the one that agrees best with those pictures
        that make the prompt likely (`vqlm.lm.decoding.minimum_bayes_risk`).

        Args:
            codes (int64 tensor (B, n, *code_shape)): n pictures of each prompt; codes may be flat too.
            prompts (str or list of str): one for all, or one for each of the B.

        Returns:
            int64 tensor (B, *code_shape): the codes that are kept.

        Raises:
            UserError: for a model that was not trained to caption, or a prompt that is None or empty.

        Example:
            >>> codes = pipe("red heart", num_images_per_prompt=4).codes
            >>> pipe.decode(pipe.best_of(codes[None], "red heart"))[0].save("best.png")
        """
        texts = one_per_picture(prompts, len(codes), "prompts")
        self._require_captions("`rerank`", texts)
        return best_of_ids(self, codes, self._tokenize(texts))

    def _require_captions(self, what: str, prompts: Sequence[str | None] = ()) -> None:
        if not self.can_caption:
            raise UserError(
                f"{what} needs a model that was trained to describe pictures; train one with `sequences.captioning` "
                "above 0, such as 0.2."
            )
        if any(text is None for text in prompts):
            raise UserError(f"{what} chooses by the prompt; give one for each picture.")


def best_of_ids(
    pipeline: LoadedModel, codes: Int[Tensor, "b n *code_shape"], captions: list[list[int] | None]
) -> Int[Tensor, "b *code_shape"]:
    """As `best_of`, for prompts that are ids already."""
    if not len(codes):
        return codes[:, 0]
    texts = repeated([caption or [] for caption in captions], codes.shape[1])
    scores = caption_log_likelihoods(pipeline.model, pipeline.vocabulary, codes.flatten(0, 1).flatten(1), texts)
    require_finite(scores, "the likelihood of a prompt")
    return keep_best(pipeline.image_tokenizer, codes, scores.view(codes.shape[:2]))
