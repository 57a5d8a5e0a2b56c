"""Properties of a causal language model that no attribute tells: found by running it on a few ids."""

import torch
from torch import nn
from transformers import PreTrainedModel


@torch.no_grad()
def is_causal(model: PreTrainedModel) -> bool:
    """Whether later ids leave the logits of earlier ones as they are."""
    was_training = model.training
    ids = torch.tensor([[0, 1, 2], [0, 1, 3]])
    first, second = model.eval()(input_ids=ids).logits[:, :2]
    model.train(was_training)
    return torch.allclose(first, second, atol=1e-5)


@torch.no_grad()
def supports_packing(model: PreTrainedModel) -> bool:
    """Whether a row has the same logits after another row in one pack as alone, told apart by position ids only.

    True of most attention in transformers; a recurrent model, for one, carries its state over. Two packs are tried,
    since flash attention in transformers looks for packed rows only in a batch of one pack.
    """
    was_training = model.training
    ids = torch.tensor([[0, 1, 2, 3, 2, 1], [3, 0, 2, 1, 1, 2]], device=model.device)
    restarting = torch.tensor([[0, 1, 2, 0, 1, 2]] * 2, device=model.device)
    model.eval()
    packed = model(input_ids=ids, position_ids=restarting, use_cache=False).logits[:, 3:]
    alone = model(input_ids=ids[:, 3:], position_ids=restarting[:, 3:], use_cache=False).logits
    model.train(was_training)
    return torch.allclose(packed, alone, atol=1e-5)


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are the decoder's output through the output embedding and nothing else."""
    head = model.get_output_embeddings()
    if model.get_decoder() is None or not isinstance(head, nn.Linear):
        return False
    was_training = model.training
    model.eval()
    ids = torch.ones(1, 1, dtype=torch.int64, device=model.device)  # not pad, whose embedding is zero
    # Large enough to meet a soft cap, which is the identity near zero.
    enlarge = model.get_decoder().register_forward_hook(_enlarge)
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    logits = model(input_ids=ids, use_cache=False).logits
    enlarge.remove()
    model.train(was_training)
    return torch.allclose(head(hidden), logits, rtol=1e-4)


def _enlarge(_module, _inputs, output):
    output.last_hidden_state = 1000 * output.last_hidden_state
    return output
