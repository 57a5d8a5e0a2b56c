"""The forward of any model of transformers with a KV cache that grows."""

import inspect
from typing import Any

from torch import Tensor
from transformers import Cache, PreTrainedModel


def read_into(cache: Cache, model: PreTrainedModel, **inputs: Any) -> Tensor:
    """The logits of a stock forward that extends `cache`, passed by the name that this release of transformers uses."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return model(**inputs, **{name: cache}, use_cache=True).logits
