"""From prompts to pictures, and from pictures to captions and likelihoods, with a finished model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from vqlm.lm.decoding.captioning import draw_captions
from vqlm.lm.decoding.draw import UNKNOWN, OnCodes, draw_codes
from vqlm.lm.decoding.inpainting import code_grid, code_mask, fill_codes, random_mask
from vqlm.lm.decoding.likelihood import caption_log_likelihoods, code_log_likelihoods
from vqlm.lm.decoding.minimum_bayes_risk import keep_best
from vqlm.lm.decoding.sampling import Generators, require_finite
from vqlm.lm.decoding.speculative import draw_rows_speculatively
from vqlm.lm.image_codes import Pictures
from vqlm.lm.loaded_model import LoadedModel
from vqlm.lm.prompts import Prompts, as_list, one_per_picture, prompt_ids, repeated, tokenize_prompts
from vqlm.training.errors import UserError


@dataclass
class TextToImageOutput:
    """images: PIL pictures, `num_images_per_prompt` for each prompt in turn; of a model of series or volumes, tensors
    (C, *shape) in [-1, 1]. codes: (B, *code_shape) int64."""

    images: list[Image.Image] | list[Tensor]
    codes: Int[Tensor, "b *code_shape"]


@dataclass
class Scores:
    """Log-likelihoods in nats, (B,). picture: of the codes given the prompt. prompt: of the prompt given the picture,
    None where the model was not trained to caption."""

    picture: Tensor
    prompt: Tensor | None


class TextToImagePipeline(LoadedModel):
    """Draws prompts; continues, inpaints and varies pictures; describes and scores them.

    `settings` is what the folder says of the model, `options` how this machine draws; every call can override both.

    Args:
        model (PreTrainedModel): causal language model over the vocabulary.
        vocabulary (Vocabulary): text and codes in one id space.
        image_tokenizer (VQVAE): pictures <-> codes.
        settings (ModelFolderSettings): sampling defaults, longest caption, whether the model captions, licence lines.
        figures (mapping): the figures of the model card, see `vqlm.lm.evaluate.report`.
        options (DecodingOptions): batch size, torch.compile, int8.

    Raises:
        UserError: if the three parts are of different sizes.

    Example:
        >>> from vqlm import TextToImagePipeline
        >>> pipe = TextToImagePipeline.from_pretrained("outputs/demo/model")
        >>> pipe("red heart").images[0].save("heart.png")
    """

    # Drawing

    def __call__(
        self,
        prompt: Prompts = None,
        *,
        negative_prompt: Prompts = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        rerank: int = 1,
        batch_size: int | None = None,
        compile: bool | None = None,
        quantize: str | None = None,
        speculative: int | None = None,
        callback: OnCodes | None = None,
    ) -> TextToImageOutput:
        """Draw `num_images_per_prompt` pictures of each prompt.

        Args:
            prompt (str, list of str or None): what to draw; None draws without a prompt.
            negative_prompt (str, list of str or None): what guidance leads away from, one or one per prompt.
            num_images_per_prompt (int): pictures of each prompt.
            generator (torch.Generator or list): random numbers, from any device; a list has one per picture.
            guidance_scale, guidance_schedule, temperature, top_k, top_p, min_p: see `vqlm.SamplingConfig`; what is not
                given is the default of the folder.
            rerank (int): pictures drawn for each that is kept, by `best_of`.
            batch_size (int), compile (bool), quantize (str): instead of those of `from_pretrained`; `quantize="none"`
                draws with the model's own weights.
            speculative (int): codes that are guessed and read together, such as 8: for few pictures, which are then
                drawn one by one (`vqlm.lm.decoding.speculative`).
            callback (callable): called as `callback(step, codes)` after every step with the codes so far of the
                pictures that are drawn together, (B, step + 1); see `decode_partial`.

        Returns:
            TextToImageOutput: `images`, prompt by prompt, and `codes` (B, *code_shape).

        Raises:
            UserError: for a prompt that is empty or too long, or a setting out of range or without effect.

        Example:
            >>> generator = torch.Generator().manual_seed(0)
            >>> output = pipe(["red heart", "blue square"], num_images_per_prompt=2, generator=generator)
            >>> len(output.images)
            4
        """
        sampling = self.sampling.override(
            guidance_scale=guidance_scale, guidance_schedule=guidance_schedule, temperature=temperature,
            top_k=top_k, top_p=top_p, min_p=min_p,
        )  # fmt: skip
        options = self.options.override(batch_size, compile, quantize)
        for name, value in (("num_images_per_prompt", num_images_per_prompt), ("rerank", rerank)):
            if value < 1:
                raise UserError(f"`{name}` must be at least 1, found {value}.")
        prompts = as_list(prompt)
        if rerank > 1:
            self._require_captions("`rerank`", prompts)
        captions, repeats = self._tokenize(prompts), num_images_per_prompt * rerank
        negative = None
        if negative_prompt is not None:
            if not sampling.is_guided:
                raise UserError("`negative_prompt` needs guidance: give a `guidance_scale` other than 1.")
            negatives = self._tokenize(one_per_picture(negative_prompt, len(prompts), "negative_prompt"))
            negative = repeated(prompt_ids(self.vocabulary, negatives), repeats)
        rows = repeated(prompt_ids(self.vocabulary, captions), repeats)
        num_codes = self.image_tokenizer.config.tokens_per_image
        if speculative is not None:
            if options.compile or options.quantize is not None or callback is not None:
                raise UserError("`speculative` has no effect with `compile`, `quantize` or `callback`; leave them out.")
            codes = draw_rows_speculatively(
                self.model, self.vocabulary, rows, num_codes, sampling, speculative, generator, negative
            )
        else:
            codes = draw_codes(
                self.model, self.vocabulary, rows, num_codes, sampling, generator, negative_prompts=negative,
                on_codes=callback, options=options,
            )  # fmt: skip
        if rerank > 1:
            wanted = repeated(captions, num_images_per_prompt)
            codes = self._best_of(codes.view(len(wanted), rerank, codes.shape[1]), wanted)
        return self._output(codes)

    @torch.no_grad()
    def complete(
        self,
        image: Pictures,
        prompt: Prompts = None,
        *,
        keep_rows: int | None = None,
        generator: Generators = None,
        batch_size: int | None = None,
        callback: OnCodes | None = None,
        **sampling: Any,
    ) -> TextToImageOutput:
        """Continue each picture from its first rows of codes.

        Args:
            image (picture, list of them, or tensor): as `encode` takes them.
            prompt (str, list of str or None): what to draw, one for all pictures or one per picture.
            keep_rows (int): rows of codes that stay, by default half of them.
            generator, batch_size, callback: as in `__call__`.
            sampling: settings of `vqlm.SamplingConfig`, such as `temperature`.

        Returns:
            TextToImageOutput: a picture for each of `image`.

        Raises:
            UserError: for a `keep_rows` out of range, or codes that do not lie on a grid.

        Example:
            >>> pipe.complete("picture.png", "red heart", keep_rows=1).images[0].save("continued.png")
        """
        codes, height = self.encode(image), code_grid(self.image_tokenizer.config)[0]
        keep_rows = height // 2 if keep_rows is None else keep_rows
        if not 0 <= keep_rows < height:
            raise UserError(f"`keep_rows` must lie in [0, {height}), the picture's rows of codes; found {keep_rows}.")
        known = codes.clone()
        known[:, keep_rows * codes.shape[1] // height :] = UNKNOWN
        settings, rows = self.sampling.override(**sampling), self._prompt_rows(prompt, len(codes))
        drawn = draw_codes(
            self.model, self.vocabulary, rows, codes.shape[1], settings, generator, known=known, on_codes=callback,
            options=self.options.override(batch_size),
        )  # fmt: skip
        return self._output(drawn)

    @torch.no_grad()
    def inpaint(
        self,
        image: Pictures,
        mask: Image.Image | Tensor,
        prompt: Prompts = None,
        *,
        candidates: int = 8,
        generator: torch.Generator | None = None,
        **sampling: Any,
    ) -> TextToImageOutput:
        """Draw again what lies under `mask`, to fit what lies around it (`vqlm.lm.decoding.inpainting`).

        A code is drawn again if any of its pixels is masked. The limits of this: the encoder of the codes beside the
        mask has seen what is under it, and a mask over most of a picture needs more candidates.

        Args:
            image (picture, list of them, or tensor): as `encode` takes them.
            mask (PIL.Image.Image or bool tensor (H, W)): white, or True, where to draw; one for all pictures.
            prompt (str, list of str or None): what to draw, one for all pictures or one per picture.
            candidates (int): fillings that are drawn, of which the likeliest is kept.
            generator (torch.Generator): random numbers.
            sampling: settings of `vqlm.SamplingConfig`, such as `temperature`.

        Returns:
            TextToImageOutput: a picture for each of `image`.

        Raises:
            UserError: for a mask of another shape than the pictures, or an empty one.

        Example:
            >>> height, width = pipe.image_tokenizer.config.network.input_shape
            >>> mask = torch.zeros(height, width, dtype=torch.bool)
            >>> mask[: height // 2] = True
            >>> pipe.inpaint("picture.png", mask, "red heart").images[0].save("inpainted.png")
        """
        codes, grid = self.encode(image), code_grid(self.image_tokenizer.config)
        cells = code_mask(mask, self.image_tokenizer.config.network.input_shape, grid).to(codes.device)
        mask_of_codes = cells.flatten().repeat_interleave(codes.shape[1] // cells.numel())
        return self._filled(codes, mask_of_codes.expand(len(codes), -1), prompt, candidates, generator, sampling)

    @torch.no_grad()
    def vary(
        self,
        image: Pictures,
        prompt: Prompts = None,
        *,
        share: float = 0.25,
        candidates: int = 1,
        generator: torch.Generator | None = None,
        **sampling: Any,
    ) -> TextToImageOutput:
        """Draw a random share of the codes of each picture again.

        Args:
            image (picture, list of them, or tensor): as `encode` takes them.
            prompt (str, list of str or None): what to draw, one for all pictures or one per picture.
            share (float): share of the codes, in (0, 1].
            candidates (int): variations that are drawn, of which the likeliest is kept.
            generator (torch.Generator): random numbers.
            sampling: settings of `vqlm.SamplingConfig`, such as `temperature`.

        Returns:
            TextToImageOutput: a picture for each of `image`.

        Raises:
            UserError: for a `share` out of range.

        Example:
            >>> pipe.vary(["picture.png"] * 4, share=0.5).codes.shape[0]
            4
        """
        codes = self.encode(image)
        masks = random_mask(codes, share, generator)
        return self._filled(codes, masks, prompt, candidates, generator, sampling)

    # Describing

    def caption(
        self,
        images: Pictures,
        *,
        temperature: float = 0.0,
        generator: Generators = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Describe pictures.

        Args:
            images (picture, list of them, or tensor): as `encode` takes them.
            temperature (float): 0 always takes the likeliest token.
            generator, batch_size: as in `__call__`.

        Returns:
            list of str: one caption per picture.

        Raises:
            UserError: for a model that was not trained to caption.

        Example:
            >>> len(pipe.caption(["picture.png", "picture.png"]))
            2
        """
        self._require_captions("`caption`")
        size, captions = self.options.override(batch_size).batch_size, []
        for number, part in enumerate(self.encode(images).split(size)):
            is_list = isinstance(generator, Sequence)
            random = generator[number * size : (number + 1) * size] if is_list else generator
            captions += draw_captions(self.model, self.vocabulary, part, self.max_caption_tokens, temperature, random)
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
            UserError: for a prompt that is empty or too long.

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
            UserError: for a model that was not trained to caption, or a prompt that is None, empty or too long.

        Example:
            >>> codes = pipe("red heart", num_images_per_prompt=4).codes
            >>> pipe.decode(pipe.best_of(codes[None], "red heart"))[0].save("best.png")
        """
        texts = one_per_picture(prompts, len(codes), "prompts")
        self._require_captions("`rerank`", texts)
        return self._best_of(codes, self._tokenize(texts))

    def _best_of(self, codes: Tensor, captions: list[list[int] | None]) -> Tensor:
        if not len(codes):
            return codes[:, 0]
        texts = repeated([caption or [] for caption in captions], codes.shape[1])
        scores = caption_log_likelihoods(self.model, self.vocabulary, codes.flatten(0, 1).flatten(1), texts)
        require_finite(scores, "the likelihood of a prompt")
        return keep_best(self.image_tokenizer, codes, scores.view(codes.shape[:2]))

    def _filled(
        self,
        codes: Int[Tensor, "b n"],
        masks: Tensor,
        prompt: Prompts,
        candidates: int,
        generator: torch.Generator | None,
        sampling: dict[str, Any],
    ) -> TextToImageOutput:
        if candidates < 1:
            raise UserError(f"`candidates` must be at least 1, found {candidates}.")
        settings, rows = self.sampling.override(**sampling), self._prompt_rows(prompt, len(codes))
        filled = fill_codes(
            self.model, self.vocabulary, rows, codes, masks, settings, candidates, generator, self.options
        )
        return self._output(filled)

    def _output(self, flat_codes: Int[Tensor, "b n"]) -> TextToImageOutput:
        codes = self.image_tokenizer.unflatten_codes(flat_codes)
        return TextToImageOutput(self.decode(codes) if len(codes) else [], codes)

    def _tokenize(self, prompts: list[str | None]) -> list[list[int] | None]:
        return tokenize_prompts(self.vocabulary, prompts, self.max_caption_tokens)

    def _prompt_rows(self, prompt: Prompts, count: int) -> list[list[int]]:
        return prompt_ids(self.vocabulary, self._tokenize(one_per_picture(prompt, count, "prompt")))

    def _require_captions(self, what: str, prompts: Sequence[str | None] = ()) -> None:
        if not self.can_caption:
            raise UserError(
                f"{what} needs a model that was trained to describe pictures; train one with `sequences.captioning` "
                "above 0, such as 0.2."
            )
        if any(text is None for text in prompts):
            raise UserError(f"{what} chooses by the prompt; give one for each picture.")
