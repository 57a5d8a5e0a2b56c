"""Chooses what a training starts from: nothing, a finished model that a person named, or the base model."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

from vqlm.data_prep import Collection
from vqlm.planning.allowance import Settings, Start, Wishes
from vqlm.planning.facts import CollectionFacts
from vqlm.planning.plan import Plan
from vqlm.planning.reasons import POOR_PSNR, START
from vqlm.training.errors import UserError
from vqlm.training.folders.folder_kinds import is_kind
from vqlm.training.folders.whole_files import read_json_object

# The base model is the better start for at most so many pictures (benchmarks/from_base.py), if its image tokenizer
# reconstructs them with at least so many dB.
MOST_PICTURES, LEAST_PSNR = 1000, POOR_PSNR
# With at most so many it is taken even where the minutes allow larger pictures. At 64x64 it draws 3 times as many new
# prompts of 500 icons right (R@1), and with 100 a new model draws blots; one of larger pictures was not compared.
MOST_AT_ANY_SIZE = 500
LOOKED_AT = 64  # pictures that are reconstructed


def base_for(
    plan: Plan, facts: CollectionFacts, collection: Collection, wishes: Wishes, given: Settings
) -> tuple[Start | None, str]:
    """The base model if it is a better start than nothing, from which `plan` starts; else None. And the reason."""
    planned = plan.settings["train_vq"]["network"]["input_shape"][0]
    folder = _base_folder()
    if folder is None:
        return None, "no finished one was given"
    config = read_json_object(folder / "image_tokenizer" / "config.json")
    side = config["network"]["input_shape"][0]
    if wishes.settings.get("train_vq"):
        return None, "you set its image tokenizer"
    if any(wishes.of("train_lm", name) is not None for name in ("model", "init_from")):
        return None, "you set the language model"
    larger = planned > side and facts.trained <= MOST_AT_ANY_SIZE and wishes.image_size is None
    if planned != side and not larger:
        return None, f"{folder.name} draws {side}x{side} only"
    if given.get("fit") not in (None, config["fit"]) or given.get("background") not in (None, config["background"]):
        return None, f"{folder.name} learned pictures with fit {config['fit']} on {config['background']}"
    if _names(collection.attribution) & _names(config["attribution"]):
        return None, f"{folder.name} was trained on these very pictures, also on those that are held out"
    if facts.trained > MOST_PICTURES:
        return None, f"{facts.trained:,} pictures are enough to learn shapes from"
    base = look_at_start(folder, collection)
    if base.psnr_db < LEAST_PSNR:
        return None, f"the image tokenizer of {folder.name} reconstructs your pictures at {base.psnr_db:.1f} dB only"
    why = f"{facts.trained:,} pictures are few: it knows shapes, and reconstructs yours at {base.psnr_db:.1f} dB"
    return base, why + (f"; a new model could draw {planned}x{planned}, but few new prompts" if larger else "")


def with_start_reason(plan: Plan, reason: str) -> Plan:
    """`plan` with `reason` in its decision about the start."""
    plan.decisions = [
        replace(decision, reason=reason) if decision.what == START else decision for decision in plan.decisions
    ]
    return plan


def _base_folder() -> Path | None:
    from vqlm.lm.model_folder.names import BASE_MODEL, CHECKOUT

    folder = CHECKOUT / "models" / BASE_MODEL
    return folder if is_kind(folder, "finished model") else None


def _names(attribution: str | None) -> set[str]:
    """The names in the licence lines of a collection or model, "Trained on pictures of NAME (...)", in lower case."""
    return {name.lower() for name in re.findall(r"Trained on pictures of ([^(\n]+?) \(", attribution or "")}


def look_at_start(folder: Path, collection: Collection) -> Start:
    """The finished model in `folder` as a start, with how well its image tokenizer reconstructs `collection`.

    Raises UserError if the model draws no square pictures, or has another background or fit.
    """
    import torch

    from vqlm.data_prep.collections.picture_loading import decode_few
    from vqlm.vq import load_image_tokenizer, to_pixel_values
    from vqlm.vq.metrics import psnr

    tokenizer = load_image_tokenizer(folder / "image_tokenizer")
    config = tokenizer.config
    shape = config.network.input_shape
    if not config.takes_pictures or shape[0] != shape[1]:
        raise UserError(f"{folder} draws arrays of shape {shape}, not square pictures; leave `start` out.")
    for name in ("background", "fit"):
        learned, given = getattr(config, name), getattr(collection.config, name)
        if given not in (None, learned):
            raise UserError(
                f"{folder} learned its pictures with {name} {learned}, not {given}; give `{name}` {learned}, or leave "
                "`start` out."
            )
    collection = collection.as_learned_by(config)
    rows = list(itertools.islice(collection.rows(), LOOKED_AT))
    pictures = torch.cat([batch.values[:, 0] for batch in decode_few(rows, shape, collection.config)])
    with torch.no_grad():
        pixel_values = to_pixel_values(pictures)
        reconstruction = tokenizer.decode_codes(tokenizer.encode(pixel_values))
        value = psnr(reconstruction, pixel_values).mean().item()
    return Start(str(folder), shape[0], config.tokens_per_image, value, config.fit)
