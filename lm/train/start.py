"""Chooses the model that stage two trains: a new one, a text model, or a finished model with or without adapters."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import PreTrainedModel

from vqlm.data_prep.prepared_set import PreparedSet
from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.code_embeddings import initialize_code_embeddings
from vqlm.lm.model import build_language_model
from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.lm.settings import LanguageModelConfig, LMTrainingConfig, is_finished
from vqlm.lm.train.from_finished_model import lengthen_context, load_start
from vqlm.lm.train.from_text_model import load_pretrained
from vqlm.lm.train.lora import add_adapters
from vqlm.training.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass
class ModelToTrain:
    """model: the one to train. adapters: PEFT's wrapper of it if low-rank adapters train, else None."""

    model: PreTrainedModel
    adapters: "PeftModel | None" = None


def load_base(
    config: LMTrainingConfig, model_config: LanguageModelConfig, prepared: PreparedSet
) -> TextToImagePipeline | None:
    """The finished model in `config.init_from`; None if that is a text model, or None.

    Raises UserError for a finished model that does not fit `prepared`, and for settings of a new model beside any
    `init_from`.
    """
    if config.init_from is None:
        return None
    if model_config != LanguageModelConfig():
        raise UserError(
            f"`model` settings have no effect with `init_from` {config.init_from!r}; leave one of them out."
        )
    return load_start(config.init_from, prepared) if is_finished(config.init_from) else None


def choose_start(
    base: TextToImagePipeline | None,
    config: LMTrainingConfig,
    model_config: LanguageModelConfig,
    vocabulary: Vocabulary,
    max_length: int,
    codebook: Tensor | None,
) -> ModelToTrain:
    """The model to train, with a context of at least `max_length` ids.

    Args:
        base: what `load_base` returned.
        config: says what to start from, and whether adapters train.
        model_config: sizes of a new model.
        vocabulary: of the prepared set.
        max_length: ids of the longest row.
        codebook: (K, D) vectors of the codes, near which their embeddings start; None if codes have no vectors.
    """
    if config.init_from is None:
        model = build_language_model(model_config, vocabulary, max_length)
        if codebook is not None:
            initialize_code_embeddings(model, vocabulary, codebook)
        return ModelToTrain(model)
    if base is None:
        return ModelToTrain(load_pretrained(config.init_from, vocabulary, max_length, config.new_rows, codebook))
    lengthen_context(base, config.init_from, max_length)
    return ModelToTrain(base.model, add_adapters(base.model, config.lora_rank) if config.lora else None)
