"""The peer dalle-pytorch: `DiscreteVAE` and `DALLE` in the sizes that are compared.

    pip install 'vqlm[bench]' && pip install --no-deps dalle-pytorch==1.6.6

With its dependencies it does not install beside current packages: youtokentome needs Cython without declaring it. The
modules that it imports only for pretrained models and for its version number (taming-transformers, omegaconf,
pkg_resources) are replaced by empty ones during its import; the two classes do not use them.
"""

import importlib
import importlib.util
import sys
from importlib.metadata import distribution
from types import ModuleType

import torch
from torch import Tensor, nn

PACKAGE = "dalle-pytorch"
UNUSED = {
    "omegaconf": {"OmegaConf": object},
    "taming": {},
    "taming.models": {},
    "taming.models.vqgan": {"VQModel": object, "GumbelVQ": object},
    "pkg_resources": {"get_distribution": distribution},
}


def load() -> ModuleType | str:
    """The package, or the reason why it cannot be imported."""
    if "dalle_pytorch" in sys.modules:
        return sys.modules["dalle_pytorch"]
    missing = [name for name in UNUSED if "." not in name and importlib.util.find_spec(name) is None]
    empty = {name: content for name, content in UNUSED.items() if name.split(".")[0] in missing}
    for name, content in empty.items():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(content)
    try:
        return importlib.import_module("dalle_pytorch")
    except ImportError as error:
        return f"{PACKAGE}: {error}"
    finally:
        for name in empty:
            del sys.modules[name]


def build_vae(package: ModuleType, side: int, codebook_size: int, layers: int = 3, width: int = 104) -> nn.Module:
    """Takes pictures in [0, 1]. By default about 2.1M parameters, with the residual blocks of its training script."""
    return package.DiscreteVAE(
        image_size=side, num_tokens=codebook_size, codebook_dim=2 * width, num_layers=layers, num_resnet_blocks=2,
        hidden_dim=width,
    )  # fmt: skip


def build_dalle(
    package: ModuleType, text_size: int, longest_text: int, code_side: int, codebook_size: int, width: int, depth: int
) -> nn.Module:
    """A DALLE for pictures of `code_side` x `code_side` codes, with a minimal VAE. Its layers hold 1.5 times the
    weights of a Llama layer of the same width, so fewer layers give an equal number of parameters."""
    vae = build_vae(package, 2 * code_side, codebook_size, layers=1, width=6)
    return package.DALLE(
        dim=width, vae=vae, num_text_tokens=text_size, text_seq_len=longest_text, depth=depth, heads=max(1, width // 64)
    )


def trainable(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def pad_texts(texts: list[list[int]], length: int) -> Tensor:
    """(B, length) ids; 0 is padding for this peer."""
    return torch.tensor([[id + 1 for id in ids] + [0] * (length - len(ids)) for ids in texts])
