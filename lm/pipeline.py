"""From prompts to pictures with a finished model folder.

R/model/
  config.json, model.safetensors, tokenizer.json, ...   load in stock AutoModelForCausalLM and AutoTokenizer
  vocabulary.json           the ranges of ids
  text_to_image.json        how to draw: sampling defaults, fingerprints of the parts
  image_tokenizer/          the VQ-VAE
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from data_prep.prepared_set import load_image_tokenizer, require_match
from data_prep.sequences import prompt_ids
from data_prep.vocabulary import Vocabulary
from lm.decoding import Generators, draw_codes
from lm.sampling import SamplingConfig
from training.errors import UserError
from training.files import read_json, write_json, write_notice
from training.machine import best_device
from vq import VQVAE
from vq.pictures import to_pil

SETTINGS_FILE = "text_to_image.json"


@dataclass
class TextToImageOutput:
    """images: PIL pictures, `num_images_per_prompt` for each prompt in turn; of a model of series or volumes, tensors
    (C, *shape) in [-1, 1]. codes: (B, *code_shape) int64."""

    images: list[Image.Image] | list[Tensor]
    codes: Int[Tensor, "b *code_shape"]


class TextToImagePipeline:
    """Draws prompts.

        pipe = TextToImagePipeline.from_pretrained(folder)
        pipe(["red heart"], guidance_scale=2.0, num_images_per_prompt=4, generator=g).images

    `sampling` holds the defaults that the folder was saved with; every call can override each of them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        image_tokenizer: VQVAE,
        sampling: SamplingConfig | None = None,
        max_caption_tokens: int = 64,
        attribution: str | None = None,
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

    def __call__(
        self,
        prompt: str | Sequence[str | None] | None = None,
        *,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        guidance_scale: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        batch_size: int = 64,
    ) -> TextToImageOutput:
        """Draw `num_images_per_prompt` pictures for each prompt; None draws without one.

        `generator` (on any device) makes it repeatable; a list holds one a picture. `batch_size` pictures are drawn
        at a time. For the other arguments see `SamplingConfig`; what is not given is the folder's default.
        """
        given = {
            "guidance_scale": guidance_scale, "temperature": temperature,
            "top_k": top_k, "top_p": top_p, "min_p": min_p,
        }  # fmt: skip
        settings = replace(self.sampling, **{name: value for name, value in given.items() if value is not None})
        if num_images_per_prompt < 1:
            raise UserError(f"num_images_per_prompt must be at least 1, found {num_images_per_prompt}.")
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        rows = [ids for ids in self._prompt_ids(prompts) for _ in range(num_images_per_prompt)]
        if isinstance(generator, Sequence) and len(generator) != len(rows):
            raise UserError(
                f"generator must be one, or one for each of the {len(rows)} pictures; found {len(generator)}."
            )
        num_codes = self.image_tokenizer.config.tokens_per_image
        parts = []
        for start in range(0, len(rows), batch_size):
            own = generator[start : start + batch_size] if isinstance(generator, Sequence) else generator
            part = rows[start : start + batch_size]
            parts.append(draw_codes(self.model, self.vocabulary, part, num_codes, settings, own))
        codes = self.image_tokenizer.unflatten_codes(torch.cat(parts)) if parts else torch.empty(0, dtype=torch.int64)
        return TextToImageOutput(self.decode(codes) if parts else [], codes)

    def decode(self, codes: Int[Tensor, "b *code_shape"]) -> list[Image.Image] | list[Tensor]:
        """Codes (B, *code_shape) -> PIL pictures, or tensors (C, *shape) where they are none."""
        device = self.image_tokenizer.device
        made = torch.cat([self.image_tokenizer.decode_codes(part.to(device)).cpu() for part in codes.split(64)])
        return to_pil(made) if made.ndim == 4 else list(made)

    def to(self, device: torch.device | str) -> "TextToImagePipeline":
        """Move both models to `device`."""
        self.model.to(device)  # type: ignore[arg-type]
        self.image_tokenizer.to(device)  # type: ignore[arg-type]
        return self

    def _prompt_ids(self, prompts: list[str | None]) -> list[list[int]]:
        if empty := [index for index, text in enumerate(prompts) if text is not None and not text.strip()]:
            raise UserError(f"Prompt {empty[0]} is empty; write what to draw, or pass None to draw without a prompt.")
        texts = [None if text is None else " ".join(text.split()) for text in prompts]
        longest = max(map(len, self.vocabulary.encode_text([text for text in texts if text])), default=0)
        if longest > self.max_caption_tokens:
            raise UserError(
                f"A prompt has {longest} tokens, this model knows at most {self.max_caption_tokens}; shorten it."
            )
        return prompt_ids(self.vocabulary, texts, self.max_caption_tokens)

    # Files

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the finished model folder; see the module for what it holds."""
        folder = Path(folder)
        # After `bos caption boi`, stock `generate` then draws exactly the codes of one picture and no other id.
        self.model.generation_config = GenerationConfig(
            min_new_tokens=self.image_tokenizer.config.tokens_per_image,
            max_new_tokens=self.image_tokenizer.config.tokens_per_image,
            suppress_tokens=list(range(self.vocabulary.image_token_offset)), do_sample=True,
            bos_token_id=self.vocabulary.bos, pad_token_id=self.vocabulary.pad,
        )  # fmt: skip
        self.model.save_pretrained(folder)
        self.vocabulary.save_pretrained(folder)
        self.image_tokenizer.save_pretrained(folder / "image_tokenizer")
        settings = {
            "max_caption_tokens": self.max_caption_tokens,
            "sampling": asdict(self.sampling),
            "attribution": self.attribution,
            "image_tokenizer": self.image_tokenizer.fingerprint(),
            "vocabulary": self.vocabulary.fingerprint(),
        }
        write_json(folder / SETTINGS_FILE, settings)
        # The pictures of both stages, which may be of two collections.
        lines = {self.attribution: None, self.image_tokenizer.config.attribution: None}
        write_notice(folder, "\n".join(line for line in lines if line))

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: torch.device | str | None = None) -> "TextToImagePipeline":
        """Load a finished model folder, onto the best device unless one is named.

        Raises UserError for a folder that is no finished model, or whose parts were not trained together.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; --model must name a model that scripts/train_lm.py finished.")
        settings = read_json(folder / SETTINGS_FILE)
        if not list(folder.glob("model*.safetensors")):
            raise UserError(f"{folder} holds no language model's weights (model.safetensors); train it again.")
        vocabulary = Vocabulary.from_pretrained(folder)
        image_tokenizer = load_image_tokenizer(folder / "image_tokenizer")
        for name, part in (("vocabulary", vocabulary), ("image_tokenizer", image_tokenizer)):
            require_match(
                f"the {name} in {folder} is", part.fingerprint(), "its model was trained with", settings[name]
            )
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
        sampling = SamplingConfig(**settings["sampling"])
        pipeline = cls(
            model, vocabulary, image_tokenizer, sampling, settings["max_caption_tokens"], settings["attribution"]
        )
        return pipeline.to(device or best_device())
