"""The finished model folder, here or on the hub: its files, written and read. Knows nothing of drawing.

R/model/
  config.json, model.safetensors, tokenizer.json, ...   load in stock AutoModelForCausalLM and AutoTokenizer
  vocabulary.json           the ranges of ids
  processor_config.json     what AutoProcessor loads after `import lm`; not for models of series or volumes
  text_to_image.json        how to draw: sampling defaults, fingerprints of the parts
  image_tokenizer/          the VQ-VAE and its image processor
  README.md, NOTICE         the model card (`vqlm.lm.model_folder.card`); the licence lines of the pictures
  evaluation.json           figures of these weights, where scripts/evaluate.py found them
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.model_folder.card import WRITTEN_HERE, card_of
from vqlm.lm.model_folder.processor import TextToImageProcessor
from vqlm.lm.model_folder.tokenizers import IMAGE_TOKENIZER, fingerprints, load_parts, save_parts
from vqlm.lm.settings import SETTINGS_FILE, SamplingConfig
from vqlm.training.errors import UserError
from vqlm.training.files import checksum_of, read_json, write_json, write_notice
from vqlm.vq import VQVAE, VQVAEConfig

FIGURES_FILE = "evaluation.json"
CARD_FILE, NOTICE_FILE = "README.md", "NOTICE"


@dataclass
class FinishedModel:
    """All that a folder holds, and the arguments of `TextToImagePipeline`.

    trained_on: what the data were called and the pictures of each split. figures: those of `lm.evaluate.report`, with
    the checksum of the weights that they are of.
    """

    model: PreTrainedModel
    vocabulary: Vocabulary
    image_tokenizer: VQVAE
    sampling: SamplingConfig
    max_caption_tokens: int
    attribution: str | None
    can_caption: bool
    trained_on: Mapping[str, Any] | None
    figures: Mapping[str, Any] | None


def save_finished(finished: FinishedModel, folder: Path, name: str | None = None) -> None:
    """Write the folder; its card calls it `name`, by default as the folder."""
    model, vocabulary, image_tokenizer = finished.model, finished.vocabulary, finished.image_tokenizer
    # After `bos caption boi`, stock `generate` then draws exactly the codes of one picture and no other id.
    model.generation_config = GenerationConfig(
        min_new_tokens=image_tokenizer.config.tokens_per_image,
        max_new_tokens=image_tokenizer.config.tokens_per_image,
        suppress_tokens=list(range(vocabulary.image_token_offset)), do_sample=True,
        bos_token_id=vocabulary.bos, pad_token_id=vocabulary.pad,
    )  # fmt: skip
    model.save_pretrained(folder)
    if image_tokenizer.config.takes_pictures:
        TextToImageProcessor(vocabulary, image_tokenizer, finished.max_caption_tokens).save_pretrained(folder)
    else:
        save_parts(folder, vocabulary, image_tokenizer)
    settings = fingerprints(vocabulary, image_tokenizer) | {
        "max_caption_tokens": finished.max_caption_tokens,
        "sampling": asdict(finished.sampling),
        "attribution": finished.attribution,
        "can_caption": finished.can_caption,
        "trained_on": finished.trained_on,
    }
    write_json(folder / SETTINGS_FILE, settings)
    # The pictures of both stages, which may be of two collections.
    lines = {finished.attribution: None, image_tokenizer.config.attribution: None}
    write_notice(folder, "\n".join(line for line in lines if line))
    if finished.figures and finished.figures["weights"] == weights_checksum(folder):
        write_json(folder / FIGURES_FILE, dict(finished.figures))
    else:  # of other weights
        (folder / FIGURES_FILE).unlink(missing_ok=True)
    write_card(folder, name)


def push_finished(
    finished: FinishedModel,
    repo_id: str,
    private: bool | None,
    token: str | bool | None,
    commit_message: str,
    create_pr: bool,
) -> str:
    """Save the folder into a repository of the hub. Returns the address of the repository."""
    api = HfApi(token=token, library_name="vqlm")
    url = api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_finished(finished, Path(folder), url.repo_id)
        api.upload_folder(
            repo_id=url.repo_id, folder_path=folder, commit_message=commit_message, create_pr=create_pr
        )  # fmt: skip
    return str(url)


def load_finished(
    folder: Path,
    model: PreTrainedModel | None = None,
    parts: tuple[Vocabulary, VQVAE] | None = None,
    dtype: torch.dtype | str = torch.float32,
) -> FinishedModel:
    """What `folder` holds; `model` and `parts` are its language model and tokenizers, where they are loaded already.

    Raises UserError for a folder that is no finished model, or whose parts were not trained together.
    """
    settings = read_json(folder / SETTINGS_FILE)
    if model is None and not list(folder.glob("model*.safetensors")):
        raise UserError(f"{folder} holds no language model's weights (model.safetensors); train it again.")
    vocabulary, image_tokenizer = parts or load_parts(folder, settings)
    if model is None:
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype)
    return FinishedModel(
        model, vocabulary, image_tokenizer, SamplingConfig(**settings["sampling"]), settings["max_caption_tokens"],
        settings["attribution"], settings.get("can_caption", False), settings.get("trained_on"), _figures(folder),
    )  # fmt: skip


def _figures(folder: Path) -> dict[str, Any] | None:
    return read_json(folder / FIGURES_FILE) if (folder / FIGURES_FILE).exists() else None


def weights_checksum(folder: Path) -> str:
    """16 hex digits that name the language model's weights as they lie there."""
    checksums = [checksum_of(path) for path in sorted(folder.glob("model*.safetensors"))]
    return hashlib.sha256("".join(checksums).encode()).hexdigest()[:16]


def record_figures(folder: Path, figures: Mapping[str, Any]) -> None:
    """Keep the figures of `lm.evaluate.report` in the folder of their model, and show them in its card."""
    write_json(folder / FIGURES_FILE, {"weights": weights_checksum(folder), **figures})
    write_card(folder)


def write_card(folder: Path, name: str | None = None) -> None:
    """README.md from what the folder holds. One that a person wrote is left alone."""
    card, notice = folder / CARD_FILE, folder / NOTICE_FILE
    if card.exists() and WRITTEN_HERE not in card.read_text(encoding="utf-8"):
        return
    attribution = notice.read_text(encoding="utf-8").split("\n") if notice.exists() else []
    made = card_of(
        name or folder.resolve().name,
        read_json(folder / "config.json")["model_type"],
        read_json(folder / SETTINGS_FILE),
        VQVAEConfig.from_pretrained(folder / IMAGE_TOKENIZER),
        [line for line in attribution if line],
        _figures(folder),
    )
    made.save(card)
