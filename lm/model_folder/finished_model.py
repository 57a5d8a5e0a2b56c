"""The finished model folder, here or on the hub: its files, written and read. Knows nothing of drawing.

R/model/
  config.json, model.safetensors, tokenizer.json, ...   load in stock AutoModelForCausalLM and AutoTokenizer
  vocabulary.json           the ranges of ids
  processor_config.json     what AutoProcessor loads after `import vqlm`; not for models of series or volumes
  text_to_image.json        how to draw (`vqlm.lm.model_folder.settings`), and the fingerprints of all weights
  image_tokenizer/          the VQ-VAE and its image processor
  README.md, NOTICE         the model card (`vqlm.lm.model_folder.card`); the licence lines of the pictures
  evaluation.json           figures of these weights, once they were evaluated
"""

import copy
import hashlib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.model_folder.card import WRITTEN_HERE, card_of
from vqlm.lm.model_folder.processor import TextToImageProcessor
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.lm.model_folder.tokenizers import IMAGE_TOKENIZER, fingerprints, load_parts, save_parts
from vqlm.lm.settings import SETTINGS_FILE
from vqlm.training.errors import UserError
from vqlm.training.folders.folder_kinds import require_kind
from vqlm.training.folders.output_folder import require_writable
from vqlm.training.folders.weight_files import COPY_AGAIN, WEIGHT_FILES, weight_files, weights_fingerprint
from vqlm.training.folders.whole_files import (
    NOTICE_FILE,
    checksum_of,
    follow_umask,
    read_json,
    read_json_object,
    write_json,
    write_notice,
)
from vqlm.training.folders.whole_folder import save_whole
from vqlm.training.machine.placement import precision_of
from vqlm.vq import VQVAE, VQVAEConfig

FIGURES_FILE = "evaluation.json"
CARD_FILE = "README.md"
WEIGHTS_KEY = "language_model"  # in SETTINGS_FILE: the fingerprint of the weights
WRONG_WEIGHTS = {
    "missing_keys": "its weights lack {} ({} missing)",
    "mismatched_keys": "{} has another size than config.json says ({} such weights)",
    "unexpected_keys": "its weights hold {}, which config.json has no place for ({} such weights)",
}


class FinishedModel(NamedTuple):
    """All that a folder holds. figures: those of `vqlm.lm.evaluate.report`, with the checksum of the weights that they
    describe."""

    model: PreTrainedModel
    vocabulary: Vocabulary
    image_tokenizer: VQVAE
    settings: ModelFolderSettings
    figures: Mapping[str, Any] | None = None


def save_finished(
    finished: FinishedModel, folder: Path, name: str | None = None, dtype: torch.dtype | str | None = None
) -> None:
    """Write the folder; its card calls it `name`, by default the name of the folder.

    `dtype` is the precision of all weights in it, by default that which they have. What is loaded from it in fp32 has
    the rounded weights, and the fingerprints of these.
    """
    require_writable(folder, "folder")

    precision = precision_of(dtype)

    def write(place: Path) -> None:
        _write_parts(finished, place, precision if isinstance(precision, torch.dtype) else None)
        if not _is_written_by_hand(folder / CARD_FILE):
            write_card(place, name or folder.resolve().name)

    save_whole(folder, SETTINGS_FILE, write, replaced=(WEIGHT_FILES, FIGURES_FILE))


def _write_parts(finished: FinishedModel, folder: Path, precision: torch.dtype | None) -> None:
    """Write all but the card to an empty folder."""
    model, vocabulary, image_tokenizer, settings, figures = finished
    if precision is not None:
        model = copy.deepcopy(model).to(precision)  # type: ignore[arg-type]
        image_tokenizer = copy.deepcopy(image_tokenizer).to(precision).float()  # type: ignore[arg-type]
    # After `bos caption boi`, stock `generate` then draws exactly the codes of one picture and no other id.
    model.generation_config = GenerationConfig(
        min_new_tokens=image_tokenizer.config.tokens_per_image,
        max_new_tokens=image_tokenizer.config.tokens_per_image,
        suppress_tokens=list(range(vocabulary.image.offset)), do_sample=True,
        bos_token_id=vocabulary.bos, pad_token_id=vocabulary.pad,
    )  # fmt: skip
    model.save_pretrained(folder)
    follow_umask(*folder.glob("*.safetensors"))
    if image_tokenizer.config.takes_pictures:
        TextToImageProcessor(vocabulary, image_tokenizer, settings.max_caption_tokens).save_pretrained(folder)
    else:
        save_parts(folder, vocabulary, image_tokenizer)
    if precision is not None:
        copy.deepcopy(image_tokenizer).to(precision).save_pretrained(folder / IMAGE_TOKENIZER)  # type: ignore[arg-type]
    known_by = fingerprints(vocabulary, image_tokenizer) | {WEIGHTS_KEY: weights_fingerprint(folder)}
    write_json(folder / SETTINGS_FILE, settings.to_json(known_by))
    # The pictures of both stages, which may be of two collections.
    lines = dict.fromkeys([settings.attribution, image_tokenizer.config.attribution])
    write_notice(folder, "\n".join(line for line in lines if line))
    if figures and figures["weights"] == weights_checksum(folder):  # else they are of other weights
        write_json(folder / FIGURES_FILE, dict(figures))


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
    """What `folder` holds; `model` and `parts` are its language model and tokenizers, if they are already loaded.

    Raises UserError for a folder that is not a finished model, or whose parts were not trained together.
    """
    require_kind(folder, "finished model")
    content = read_json_object(folder / SETTINGS_FILE)
    settings = ModelFolderSettings.from_json(content)
    _require_config(folder)
    weight_files(folder)
    vocabulary, image_tokenizer = parts or load_parts(folder, content)
    if model is None:
        model = _language_model(folder, dtype)
    if (expected := content.get(WEIGHTS_KEY)) not in (None, weights_fingerprint(folder)):  # old folders have none
        raise UserError(
            f"The weights in {folder} are not those that were saved with it, {expected}; {COPY_AGAIN}. If you changed "
            f"them on purpose, take `{WEIGHTS_KEY}` out of {SETTINGS_FILE}."
        )
    return FinishedModel(model, vocabulary, image_tokenizer, settings, _figures(folder))


def _require_config(folder: Path) -> None:
    """Raises UserError for a config.json that is none of a model; a tokenizer reads it too, and would be blamed."""
    read_json_object(folder / "config.json")
    try:
        AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers checks it in many ways
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise UserError(f"{folder / 'config.json'} describes no model ({reason}); {COPY_AGAIN}.") from None


def _language_model(folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """The language model of `folder`, all of whose weights are there, in the sizes of its config.json."""
    logger = logging.getLogger("transformers")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)  # its report of missing weights
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # a damaged config.json makes transformers raise almost anything
        raise UserError(
            f"{folder / 'config.json'} and the weights beside it do not load as a language model "
            f"({type(error).__name__}: {' '.join(str(error).split())[:160]}); {COPY_AGAIN}."
        ) from None
    finally:
        logger.setLevel(level)
    model, found = loaded
    for kind, what in WRONG_WEIGHTS.items():
        if names := sorted(map(_name_of, found.get(kind) or ())):
            raise UserError(f"{folder}: {what.format(names[0], len(names))}; {COPY_AGAIN}.")
    return model


def _name_of(key: Any) -> str:
    """Of a weight; transformers gives those of another size with the two sizes."""
    return key if isinstance(key, str) else str(key[0])


def _figures(folder: Path) -> dict[str, Any] | None:
    return read_json(folder / FIGURES_FILE) if (folder / FIGURES_FILE).exists() else None


def weights_checksum(folder: Path) -> str:
    """16 hex digits that name the language model's weights in `folder`."""
    checksums = [checksum_of(path) for path in sorted(folder.glob("model*.safetensors"))]
    return hashlib.sha256("".join(checksums).encode()).hexdigest()[:16]


def record_figures(folder: Path, figures: Mapping[str, Any]) -> None:
    """Keep the figures of `vqlm.lm.evaluate.report` in the folder of their model, and show them in its card."""
    write_json(folder / FIGURES_FILE, {"weights": weights_checksum(folder), **figures})
    write_card(folder)


def write_card(folder: Path, name: str | None = None) -> None:
    """Write README.md from what the folder holds. One that a person wrote is left alone."""
    path, notice = folder / CARD_FILE, folder / NOTICE_FILE
    if _is_written_by_hand(path):
        return
    attribution = notice.read_text(encoding="utf-8").split("\n") if notice.exists() else []
    card = card_of(
        name or folder.resolve().name,
        read_json_object(folder / "config.json")["model_type"],
        ModelFolderSettings.from_json(read_json_object(folder / SETTINGS_FILE)),
        VQVAEConfig.from_pretrained(folder / IMAGE_TOKENIZER),
        [line for line in attribution if line],
        _figures(folder),
    )
    card.save(path)


def _is_written_by_hand(card: Path) -> bool:
    return card.exists() and WRITTEN_HERE not in card.read_text(encoding="utf-8")
