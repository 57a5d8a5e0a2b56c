"""From prompts to pictures with a finished model folder, whose files `vqlm.lm.model_folder.finished_model` knows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.decoding.captioning import draw_captions
from vqlm.lm.decoding.draw import UNKNOWN, Generators, draw_codes, generators_of, require_finite
from vqlm.lm.decoding.inpainting import code_mask, fill_codes
from vqlm.lm.decoding.likelihood import caption_log_likelihoods, code_log_likelihoods
from vqlm.lm.decoding.reranking import most_agreed
from vqlm.lm.decoding.speculative import draw_speculatively
from vqlm.lm.model_folder.finished_model import FinishedModel, load_finished, push_finished, save_finished
from vqlm.lm.model_folder.image_codes import Pictures, decode_pictures, decode_pixel_values, encode_pictures
from vqlm.lm.model_folder.prompts import checked_prompt_ids, listed, one_each, one_line, require_prompts
from vqlm.lm.model_folder.tokenizers import local_folder
from vqlm.lm.settings import SamplingConfig
from vqlm.training.device import best_device, usable_device
from vqlm.training.errors import UserError
from vqlm.vq import VQVAE

OnCodes = Callable[[int, Tensor], None]


@dataclass
class TextToImageOutput:
    """images: PIL pictures, `num_images_per_prompt` for each prompt in turn; of a model of series or volumes, tensors
    (C, *shape) in [-1, 1]. codes: (B, *code_shape) int64."""

    images: list[Image.Image] | list[Tensor]
    codes: Int[Tensor, "b *code_shape"]


@dataclass
class Scores:
    """Log-likelihoods in nats, (B,). picture: of the codes given the prompt; prompt: of the prompt given the picture,
    None where the model was not trained to caption."""

    picture: Tensor
    prompt: Tensor | None


class TextToImagePipeline:
    """Draws prompts, continues and mends pictures, describes and scores them.

        pipe = TextToImagePipeline.from_pretrained(folder)
        pipe(["red heart"], guidance_scale=2.0, num_images_per_prompt=4, generator=g).images

    `sampling` holds the defaults that the folder was saved with; every call can override each of them.
    `can_caption` is whether the model was trained on rows whose picture comes before the caption. `trained_on` and
    `figures` are what the model card says, see `vqlm.lm.model_folder.finished_model.FinishedModel`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        image_tokenizer: VQVAE,
        sampling: SamplingConfig | None = None,
        max_caption_tokens: int = 64,
        attribution: str | None = None,
        can_caption: bool = False,
        trained_on: Mapping[str, Any] | None = None,
        figures: Mapping[str, Any] | None = None,
    ):
        if model.config.vocab_size != vocabulary.size:
            raise UserError(
                f"The language model knows {model.config.vocab_size} ids, the vocabulary {vocabulary.size}; "
                "they do not belong together. Load both from one finished model folder."
            )
        if vocabulary.image.size != image_tokenizer.config.codebook_size:
            raise UserError(
                f"The vocabulary has {vocabulary.image.size} image codes, the image tokenizer "
                f"{image_tokenizer.config.codebook_size}; load both from one finished model folder."
            )
        self.model, self.vocabulary, self.image_tokenizer = model.eval(), vocabulary, image_tokenizer.eval()
        self.sampling = sampling or SamplingConfig()
        self.max_caption_tokens = max_caption_tokens
        self.attribution = attribution
        self.can_caption = can_caption
        self.trained_on, self.figures = trained_on, figures

    # Drawing

    def __call__(
        self,
        prompt: str | Sequence[str | None] | None = None,
        *,
        negative_prompt: str | Sequence[str | None] | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        guidance_scale: float | None = None,
        guidance_schedule: str | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        rerank: int = 1,
        batch_size: int = 64,
        compile: bool = False,
        quantize: str | None = None,
        speculative: int | None = None,
        callback: OnCodes | None = None,
    ) -> TextToImageOutput:
        """Draw `num_images_per_prompt` pictures for each prompt; None draws without one.

        `negative_prompt` (one, or one a prompt) is what guidance leads away from. `generator` (on any device) makes it
        repeatable; a list holds one a picture. `rerank` pictures are drawn for each that is wanted, and the one kept
        that agrees best with those under which the model finds its prompt likely (`best_of`). `batch_size` pictures are
        drawn at a time, fewer where memory is short; `callback(step, codes)` gets their codes (B, step + 1) after every
        step, see `decode_partial`. `compile` builds the step by torch.compile, in every process: for hundreds of
        pictures on a CPU. `quantize` "int8" multiplies with int8 weights: for large models on a CPU, with `compile`.
        `speculative` codes, 8 for example, are guessed and read together (`lm.decoding.speculative`): for few pictures,
        drawn one by one. For the other arguments see `SamplingConfig`; what is not given is the folder's default.
        """
        settings = self._settings(
            guidance_scale=guidance_scale, guidance_schedule=guidance_schedule, temperature=temperature,
            top_k=top_k, top_p=top_p, min_p=min_p,
        )  # fmt: skip
        for name, value in (("num_images_per_prompt", num_images_per_prompt), ("rerank", rerank)):
            if value < 1:
                raise UserError(f"{name} must be at least 1, found {value}.")
        prompts = listed(prompt)
        if rerank > 1:
            self._require_captions("rerank")
            require_prompts(prompts)
        repeats = num_images_per_prompt * rerank
        negative = None
        if negative_prompt is not None:
            negative = _repeated(self._prompt_ids(one_each(negative_prompt, len(prompts), "negative_prompt")), repeats)
            if not settings.is_guided:
                raise UserError("negative_prompt needs guidance: give a guidance_scale other than 1.")
        rows = _repeated(self._prompt_ids(prompts), repeats)
        if speculative is not None:
            if compile or quantize is not None or callback is not None:
                raise UserError("speculative draws several codes at once: leave out compile, quantize and callback.")
            codes = self._draw_speculatively(rows, settings, generator, negative, speculative)
        else:
            codes = self._draw(
                rows, settings, generator, batch_size, negative, callback=callback, compile=compile, quantize=quantize,
            )  # fmt: skip
        if rerank > 1:
            wanted = [text for text in prompts for _ in range(num_images_per_prompt)]
            codes = self.best_of(codes.view(len(wanted), rerank, codes.shape[1]), wanted)
        return self._output(codes)

    @torch.no_grad()
    def complete(
        self,
        image: Pictures,
        prompt: str | Sequence[str | None] | None = None,
        *,
        keep_rows: int | None = None,
        generator: Generators = None,
        batch_size: int = 64,
        callback: OnCodes | None = None,
        **sampling: Any,
    ) -> TextToImageOutput:
        """Continue each picture from its first `keep_rows` rows of codes, by default half of them, after its prompt.

        Raises UserError for a `keep_rows` out of range, or codes that do not lie on a grid.
        """
        codes, height = self.encode(image), self._grid()[0]
        keep_rows = height // 2 if keep_rows is None else keep_rows
        if not 0 <= keep_rows < height:
            raise UserError(f"keep_rows must lie in [0, {height}), the picture's rows of codes; found {keep_rows}.")
        known = codes.clone()
        known[:, keep_rows * codes.shape[1] // height :] = UNKNOWN
        prompts = self._prompt_ids(one_each(prompt, len(codes), "prompt"))
        settings = self._settings(**sampling)
        return self._output(self._draw(prompts, settings, generator, batch_size, None, known, callback))

    @torch.no_grad()
    def inpaint(
        self,
        image: Pictures,
        mask: Image.Image | Tensor,
        prompt: str | Sequence[str | None] | None = None,
        *,
        candidates: int = 8,
        generator: torch.Generator | None = None,
        **sampling: Any,
    ) -> TextToImageOutput:
        """Draw what lies under `mask` anew: a picture, white where to draw, or bool (H, W), for all pictures.

        A code is drawn again if any of its pixels is masked; the others stay. Of `candidates` fillings the one is
        kept that makes the codes behind the hole likeliest (`lm.decoding.inpainting`). Its limits: codes beside the
        hole were made by an encoder that saw into it, and a hole that takes most of the picture needs more candidates.
        Raises UserError for a mask of another shape, or that is empty.
        """
        codes, grid = self.encode(image), self._grid()
        cells = code_mask(mask, self.image_tokenizer.config.network.input_shape, grid).to(codes.device)
        mask_of_codes = cells.flatten().repeat_interleave(codes.shape[1] // cells.numel())
        return self._filled(codes, mask_of_codes.expand(len(codes), -1), prompt, candidates, generator, sampling)

    @torch.no_grad()
    def vary(
        self,
        image: Pictures,
        prompt: str | Sequence[str | None] | None = None,
        *,
        share: float = 0.25,
        candidates: int = 1,
        generator: torch.Generator | None = None,
        **sampling: Any,
    ) -> TextToImageOutput:
        """Variations: a random `share` of each picture's codes is drawn again. More `candidates` fit better in."""
        if not 0 < share <= 1:
            raise UserError(f"share must lie in (0, 1], found {share}.")
        codes = self.encode(image)
        count = max(1, round(share * codes.shape[1]))
        where = generator.device if generator is not None else "cpu"
        order = torch.rand(codes.shape, generator=generator, device=where).argsort(1).to(codes.device)
        return self._filled(codes, order < count, prompt, candidates, generator, sampling)

    # Describing

    def caption(
        self, images: Pictures, *, temperature: float = 0.0, generator: Generators = None, batch_size: int = 64
    ) -> list[str]:
        """One caption a picture; at temperature 0 always the likeliest token. Raises UserError for a model that was
        not trained to caption."""
        self._require_captions("caption")
        made = []
        for number, part in enumerate(self.encode(images).split(batch_size)):
            own = _part(generator, number * batch_size, batch_size)
            made += draw_captions(self.model, self.vocabulary, part, self.max_caption_tokens, temperature, own)
        return made

    @torch.no_grad()
    def score(self, images: Pictures, prompts: str | Sequence[str | None]) -> Scores:
        """log p(picture | prompt) and log p(prompt | picture), one prompt a picture, or one for all."""
        codes = self.encode(images)
        texts = one_each(prompts, len(codes), "prompts")
        picture = code_log_likelihoods(self.model, self.vocabulary, self._prompt_ids(texts), codes).sum(1)
        if not self.can_caption or any(text is None for text in texts):
            return Scores(picture, None)
        return Scores(picture, self._caption_scores(codes, [text or "" for text in texts]))

    @torch.no_grad()
    def best_of(
        self, codes: Int[Tensor, "b n *code_shape"], prompts: str | Sequence[str | None]
    ) -> Int[Tensor, "b *code_shape"]:
        """Of n pictures of each prompt the one that `rerank` keeps (`lm.decoding.reranking`); codes may be flat too."""
        self._require_captions("rerank")
        texts = one_each(prompts, len(codes), "prompts")
        require_prompts(texts)
        self._prompt_ids(texts)  # raises for what is no prompt
        if not len(codes):
            return codes[:, 0]
        count, flat = codes.shape[1], codes.flatten(0, 1).flatten(1)
        scores = self._caption_scores(flat, [text or "" for text in texts for _ in range(count)])
        require_finite(scores, "the likelihood of a prompt")
        shaped = self.image_tokenizer.unflatten_codes(flat).split(count)
        kept = [
            drawn[most_agreed(decode_pixel_values(self.image_tokenizer, group), own)]
            for drawn, group, own in zip(codes, shaped, scores.split(count), strict=True)
        ]
        return torch.stack(kept)

    # Codes

    def encode(self, images: Pictures) -> Int[Tensor, "b n"]:
        """Pictures -> flat codes. PIL pictures of any size and mode are prepared as in training; tensors are
        (B, C, *shape) in [-1, 1]."""
        return encode_pictures(self.image_tokenizer, images)

    def decode(self, codes: Int[Tensor, "b *code_shape"]) -> list[Image.Image] | list[Tensor]:
        """Codes (B, *code_shape) -> PIL pictures, or tensors (C, *shape) where they are none."""
        return decode_pictures(self.image_tokenizer, codes)

    def decode_partial(self, codes: Int[Tensor, "b m"]) -> list[Image.Image] | list[Tensor]:
        """Pictures of which only the first codes are drawn: their first code, the background's, stands for the rest."""
        missing = self.image_tokenizer.config.tokens_per_image - codes.shape[1]
        whole = torch.cat([codes, codes[:, :1].expand(-1, missing)], 1)
        return self.decode(self.image_tokenizer.unflatten_codes(whole))

    def to(self, device: torch.device | str) -> "TextToImagePipeline":
        """Move both models to `device`."""
        self.model.to(device)  # type: ignore[arg-type]
        self.image_tokenizer.to(device)  # type: ignore[arg-type]
        return self

    def _settings(self, **given: Any) -> SamplingConfig:
        if unknown := sorted(given.keys() - vars(self.sampling).keys()):
            raise UserError(f"There is no sampling setting {unknown[0]!r}; there are {', '.join(vars(self.sampling))}.")
        return replace(self.sampling, **{name: value for name, value in given.items() if value is not None})

    def _draw(
        self,
        rows: list[list[int]],
        settings: SamplingConfig,
        generator: Generators,
        batch_size: int,
        negative: list[list[int]] | None = None,
        known: Tensor | None = None,
        callback: OnCodes | None = None,
        compile: bool = False,
        quantize: str | None = None,
    ) -> Int[Tensor, "b n"]:
        return draw_codes(
            self.model, self.vocabulary, rows, self.image_tokenizer.config.tokens_per_image, settings, generator,
            known=known, negative_prompts=negative, on_codes=callback, batch_size=batch_size, compile=compile,
            quantize=quantize,
        )  # fmt: skip

    def _draw_speculatively(
        self,
        rows: list[list[int]],
        settings: SamplingConfig,
        generator: Generators,
        negative: list[list[int]] | None,
        window: int,
    ) -> Int[Tensor, "b n"]:
        own = generators_of(generator, len(rows))
        num_codes = self.image_tokenizer.config.tokens_per_image
        drawn = [
            draw_speculatively(self.model, self.vocabulary, row, num_codes, settings, window, random, twin)[0]
            for row, random, twin in zip(rows, own, negative or [None] * len(rows), strict=True)
        ]
        return torch.stack(drawn) if drawn else torch.empty(0, num_codes, dtype=torch.int64)

    def _filled(
        self,
        codes: Int[Tensor, "b n"],
        masks: Tensor,
        prompt: str | Sequence[str | None] | None,
        candidates: int,
        generator: torch.Generator | None,
        sampling: dict[str, Any],
    ) -> TextToImageOutput:
        if candidates < 1:
            raise UserError(f"candidates must be at least 1, found {candidates}.")
        settings, prompts = self._settings(**sampling), self._prompt_ids(one_each(prompt, len(codes), "prompt"))
        made = fill_codes(self.model, self.vocabulary, prompts, codes, masks, settings, candidates, generator)
        return self._output(made)

    def _caption_scores(self, codes: Tensor, texts: list[str]) -> Tensor:
        ids = [own[: self.max_caption_tokens] for own in self.vocabulary.encode_text([one_line(t) for t in texts])]
        return caption_log_likelihoods(self.model, self.vocabulary, codes, ids)

    def _output(self, flat_codes: Int[Tensor, "b n"]) -> TextToImageOutput:
        codes = self.image_tokenizer.unflatten_codes(flat_codes)
        return TextToImageOutput(self.decode(codes) if len(codes) else [], codes)

    def _grid(self) -> tuple[int, ...]:
        """(h, w) of codes that lie on a grid and are read row by row."""
        config = self.image_tokenizer.config
        if len(config.network.input_shape) != 2 or len(config.code_shape) < 2:
            raise UserError(f"This needs pictures whose codes lie on a grid; here their shape is {config.code_shape}.")
        return tuple(config.code_shape[:2])

    def _require_captions(self, what: str) -> None:
        if not self.can_caption:
            raise UserError(
                f"{what} needs a model that was trained to describe pictures; train one with train_lm.py "
                "--sequences.captioning 0.2."
            )

    def _prompt_ids(self, prompts: list[str | None]) -> list[list[int]]:
        return checked_prompt_ids(self.vocabulary, prompts, self.max_caption_tokens)

    # Files

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the finished model folder; see `vqlm.lm.model_folder.finished_model` for what it holds."""
        save_finished(self._finished(), Path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload a text-to-image model",
        create_pr: bool = False,
    ) -> str:
        """Save the folder into a repository of the hub, which is made if there is none, and return its address.

        The training's log and checkpoints (`run/`) stay here. `token` is by default the one of `hf auth login`.
        """
        return push_finished(self._finished(), repo_id, private, token, commit_message, create_pr)

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str = torch.float32,
        **hub: Any,
    ) -> "TextToImagePipeline":
        """Load a finished model folder, or OWNER/NAME from the hub, onto the best device unless one is named.

        `dtype` is the precision of the language model's weights; torch.bfloat16 takes half the memory and draws faster
        where the device multiplies it fast.
        `hub` may hold `revision`, `token` and what else `huggingface_hub.snapshot_download` takes. Raises UserError for
        a folder that is no finished model, or whose parts were not trained together.
        """
        device = usable_device(device or best_device())
        return cls(**vars(load_finished(local_folder(folder, **hub), dtype=dtype))).to(device)

    def _finished(self) -> FinishedModel:
        return FinishedModel(**{field.name: getattr(self, field.name) for field in fields(FinishedModel)})


def _repeated(rows: list[list[int]], times: int) -> list[list[int]]:
    return [row for row in rows for _ in range(times)]


def _part(generator: Generators, start: int, size: int) -> Generators:
    return generator[start : start + size] if isinstance(generator, Sequence) else generator
