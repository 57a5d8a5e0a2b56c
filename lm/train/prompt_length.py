"""How long the prompts of a trained model may be: as a setting says, even if all captions were shorter."""

from torch import nn
from transformers import PreTrainedModel


def allow_prompts(model: PreTrainedModel, wanted: int, caption_tokens: int, max_length: int) -> int:
    """Lengthen the context of `model` for prompts of `wanted` tokens. Returns the tokens that a prompt may have.

    Only the configuration changes, after the training: neither the weights nor the packs depend on it. An architecture
    with a learned embedding for each position cannot be lengthened; it may get fewer tokens.

    Args:
        model: the trained model.
        wanted: tokens of the longest prompt to allow.
        caption_tokens: tokens of the longest caption that it was trained on.
        max_length: ids of the longest row or document that it was trained on.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if context is None:
        return max(wanted, caption_tokens)
    longer = max_length + max(0, wanted - caption_tokens)
    if not _learns_positions(model):
        model.config.max_position_embeddings = max(context, longer)
        return max(wanted, caption_tokens)
    return max(caption_tokens, min(wanted, caption_tokens + context - max_length))


def _learns_positions(model: PreTrainedModel) -> bool:
    embeddings = model.get_input_embeddings()
    return any(isinstance(module, nn.Embedding) and module is not embeddings for module in model.modules())
