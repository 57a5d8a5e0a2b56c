"""From prompts to pictures, and from pictures to captions and likelihoods, with a finished model."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from vqlm.data_prep.sequences import prompt_ids
from vqlm.lm.decoding.draw import UNKNOWN, OnCodes, draw_codes
from vqlm.lm.decoding.inpainting import Mask, code_grid, fill_codes, flat_code_mask, random_mask
from vqlm.lm.decoding.sampling import Generators, Seeds, from_seeds, one_each
from vqlm.lm.decoding.speculative import draw_rows_speculatively
from vqlm.lm.describing import PictureDescriber, best_of_ids
from vqlm.lm.image_codes import Pictures
from vqlm.lm.prompts import Prompts, as_list, one_per_picture, repeated
from vqlm.lm.settings import SamplingConfig, require_count
from vqlm.training.errors import UserError


@dataclass
class TextToImageOutput:
    """images: PIL pictures, `num_images_per_prompt` for each prompt in turn; of a model of series or volumes, tensors
    (C, *shape) in [-1, 1]. codes: (B, *code_shape) int64."""

    images: list[Image.Image] | list[Tensor]
    codes: Int[Tensor, "b *code_shape"]


class TextToImagePipeline(PictureDescriber):
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
        generator: Seeds = None,
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
            negative_prompt (str, list of str or None): what guidance leads away from, one or one per prompt;
                "" is none.
            num_images_per_prompt (int): pictures of each prompt.
            generator (torch.Generator, int or list): random numbers, from any device, or a seed; a list has one per
                picture, which is then the same alone and in any batch in fp32; bf16, fp16 and int8 round differently
                in batches of other sizes, and a code may change.
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
            UserError: for an empty prompt, or a setting out of range or without effect.

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
            require_count(name, value)
        prompts = as_list(prompt)
        if rerank > 1:
            self._require_captions("`rerank`", prompts)
        captions, repeats = self._tokenize(prompts), num_images_per_prompt * rerank
        generators, negative = from_seeds(generator), self._negative_rows(negative_prompt, len(prompts), sampling)
        negative = None if negative is None else repeated(negative, repeats)
        rows = repeated(prompt_ids(self.vocabulary, captions), repeats)
        num_codes = self.image_tokenizer.config.tokens_per_image
        if speculative is not None:
            require_count("speculative", speculative)
            if options.compile or options.quantize is not None or callback is not None:
                raise UserError("`speculative` has no effect with `compile`, `quantize` or `callback`; leave them out.")
            codes = draw_rows_speculatively(
                self.model, self.vocabulary, rows, num_codes, sampling, speculative, generators, negative
            )
        else:
            codes = draw_codes(
                self.model, self.vocabulary, rows, num_codes, sampling, generators, negative_prompts=negative,
                on_codes=callback, options=options,
            )  # fmt: skip
        if rerank > 1:
            wanted = repeated(captions, num_images_per_prompt)
            codes = best_of_ids(self, codes.view(len(wanted), rerank, codes.shape[1]), wanted)
        return self._output(codes)

    @torch.no_grad()
    def complete(
        self,
        image: Pictures,
        prompt: Prompts = None,
        *,
        negative_prompt: Prompts = None,
        keep_rows: int | None = None,
        generator: Seeds = None,
        batch_size: int | None = None,
        callback: OnCodes | None = None,
        **sampling: Any,
    ) -> TextToImageOutput:
        """Continue each picture from its first rows of codes.

        Args:
            image (picture, list of them, or tensor): as `encode` takes them.
            prompt (str, list of str or None): what to draw, one for all pictures or one per picture.
            keep_rows (int): rows of codes that stay, by default half of them.
            negative_prompt, generator, batch_size, callback: as in `__call__`.
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
        if isinstance(keep_rows, bool) or not isinstance(keep_rows, int) or not 0 <= keep_rows < height:
            raise UserError(
                f"`keep_rows` must be a whole number in [0, {height}), the picture's rows of codes; "
                f"found {keep_rows!r:.40}."
            )
        known = codes.clone()
        known[:, keep_rows * codes.shape[1] // height :] = UNKNOWN
        settings, rows = self.sampling.override(**sampling), self._prompt_rows(prompt, len(codes))
        drawn = draw_codes(
            self.model, self.vocabulary, rows, codes.shape[1], settings, from_seeds(generator), known=known,
            negative_prompts=self._negative_rows(negative_prompt, len(codes), settings), on_codes=callback,
            options=self.options.override(batch_size),
        )  # fmt: skip
        return self._output(drawn)

    @torch.no_grad()
    def inpaint(
        self,
        image: Pictures,
        mask: Mask,
        prompt: Prompts = None,
        *,
        negative_prompt: Prompts = None,
        candidates: int = 8,
        generator: Seeds = None,
        batch_size: int | None = None,
        callback: OnCodes | None = None,
        **sampling: Any,
    ) -> TextToImageOutput:
        """Draw again what lies under `mask`, to fit what lies around it (`vqlm.lm.decoding.inpainting`).

        A code is drawn again if any of its pixels is masked. The limits of this: the encoder of the codes beside the
        mask has seen what is under it, and a mask over most of a picture needs more candidates.

        Args:
            image (picture, list of them, or tensor): as `encode` takes them.
            mask (PIL picture, or array or tensor (H, W)): white, or True, where to draw; one for all pictures.
            prompt (str, list of str or None): what to draw, one for all pictures or one per picture.
            candidates (int): fillings that are drawn, of which the likeliest is kept.
            negative_prompt, generator, batch_size, callback: as in `__call__`; a callback gets all candidates.
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
        codes = self.encode(image)
        mask_of_codes = flat_code_mask(mask, self.image_tokenizer.config).to(codes.device)
        generators = from_seeds(generator)
        return self._filled(
            codes, mask_of_codes.expand(len(codes), -1), prompt, negative_prompt, candidates, generators, batch_size,
            callback, sampling,
        )  # fmt: skip

    @torch.no_grad()
    def vary(
        self,
        image: Pictures,
        prompt: Prompts = None,
        *,
        negative_prompt: Prompts = None,
        share: float = 0.25,
        candidates: int = 1,
        generator: Seeds = None,
        batch_size: int | None = None,
        callback: OnCodes | None = None,
        **sampling: Any,
    ) -> TextToImageOutput:
        """Draw a random share of the codes of each picture again.

        Args:
            image (picture, list of them, or tensor): as `encode` takes them.
            prompt (str, list of str or None): what to draw, one for all pictures or one per picture.
            share (float): share of the codes, in (0, 1].
            candidates (int): variations that are drawn, of which the likeliest is kept.
            negative_prompt, generator, batch_size, callback: as in `__call__`; a callback gets all candidates.
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
        generators = one_each(from_seeds(generator), len(codes))  # first for a picture's mask, then for its codes
        masks = random_mask(codes, share, generators)
        return self._filled(
            codes, masks, prompt, negative_prompt, candidates, generators, batch_size, callback, sampling
        )

    def _filled(
        self,
        codes: Int[Tensor, "b n"],
        masks: Tensor,
        prompt: Prompts,
        negative_prompt: Prompts,
        candidates: int,
        generators: Generators,
        batch_size: int | None,
        callback: OnCodes | None,
        sampling: dict[str, Any],
    ) -> TextToImageOutput:
        require_count("candidates", candidates)
        settings, rows = self.sampling.override(**sampling), self._prompt_rows(prompt, len(codes))
        filled = fill_codes(
            self.model, self.vocabulary, rows, codes, masks, settings, candidates, generators,
            self.options.override(batch_size), on_codes=callback,
            negative_prompts=self._negative_rows(negative_prompt, len(codes), settings),
        )  # fmt: skip
        return self._output(filled)

    def _output(self, flat_codes: Int[Tensor, "b n"]) -> TextToImageOutput:
        codes = self.image_tokenizer.unflatten_codes(flat_codes)
        return TextToImageOutput(self.decode(codes) if len(codes) else [], codes)

    def _prompt_rows(self, prompt: Prompts, count: int) -> list[list[int]]:
        return prompt_ids(self.vocabulary, self._tokenize(one_per_picture(prompt, count, "prompt")))

    def _negative_rows(self, negative_prompt: Prompts, count: int, sampling: SamplingConfig) -> list[list[int]] | None:
        """What guidance leads away from, for each of `count` prompts; None if it is no prompt for all of them."""
        texts = one_per_picture(negative_prompt, count, "negative_prompt")
        negatives = [text if text is not None and text.strip() else None for text in texts]
        if not any(negatives):
            return None
        if not sampling.is_guided:
            raise UserError("`negative_prompt` needs guidance: give a `guidance_scale` other than 1.")
        return prompt_ids(self.vocabulary, self._tokenize(negatives))
