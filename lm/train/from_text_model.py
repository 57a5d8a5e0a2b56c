"""Starts stage two from a pretrained language model of text, to which it adds embeddings for the image codes."""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from vqlm.data_prep.vocabulary import Vocabulary
from vqlm.lm.code_embeddings import embedding_matrices, project_codebook
from vqlm.lm.settings import NewRows
from vqlm.training.errors import UserError


def load_pretrained(
    name: str, vocabulary: Vocabulary, max_length: int, new_rows: NewRows, codebook: Tensor | None
) -> PreTrainedModel:
    """The causal LM `name` (folder or hub name) in fp32, with one embedding row for each id of `vocabulary`.

    Old embedding rows stay. A new row is the mean of the old ones. With `new_rows` "codebook" and a codebook
    (K, D), rows of image codes are as far from that mean as old rows are, and near one another where the codes are.

    Raises UserError for a name that cannot be loaded, a vocabulary of another tokenizer, or rows of `max_length` ids
    that do not fit into the model's context.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        base_vocabulary = AutoTokenizer.from_pretrained(name, trust_remote_code=False).get_vocab()
    except Exception as error:  # the hub, the network and each architecture raise different errors
        raise UserError(
            f"`init_from` {name!r} holds no causal language model with its tokenizer that can be loaded "
            f"({type(error).__name__}: {' '.join(str(error).split())[:160]})."
        ) from None
    ours = vocabulary.tokenizer.get_vocab()
    different = next((token for token, id in base_vocabulary.items() if ours.get(token) != id), None)
    if different is not None:
        raise UserError(
            f"The prepared data's tokenizer is not that of `init_from` {name!r}: {different!r} is "
            f"{base_vocabulary[different]} there and {ours.get(different)} here. Prepare the data with "
            f"`text.pretrained` {name}."
        )
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and context < max_length:
        raise UserError(
            f"Rows have up to {max_length} ids, the context of `init_from` {name!r} {context}; lower "
            "`max_caption_tokens`, or train an image tokenizer with fewer codes per picture."
        )
    _grow(model, len(base_vocabulary), vocabulary, codebook if new_rows == "codebook" else None)
    config = model.config
    config.pad_token_id, config.bos_token_id, config.eos_token_id = vocabulary.pad, vocabulary.bos, vocabulary.eos
    return model


@torch.no_grad()
def _grow(model: PreTrainedModel, known: int, vocabulary: Vocabulary, codebook: Tensor | None) -> None:
    """Resize the embeddings; the rows after the first `known`, which are trained, are initialised as new ones."""
    model.resize_token_embeddings(vocabulary.size, mean_resizing=False)
    matrices = embedding_matrices(model)
    projected = None if codebook is None else project_codebook(codebook, matrices[0].shape[1])
    for matrix in matrices:
        mean, spread = matrix[:known].mean(0), matrix[:known].std()
        matrix[known:] = mean
        if projected is not None:
            matrix[vocabulary.image.offset : vocabulary.image.stop] += projected.to(matrix) * spread
    if (bias := getattr(model.get_output_embeddings(), "bias", None)) is not None:
        bias[known:] = bias[:known].mean()
