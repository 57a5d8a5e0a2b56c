"""Stage two: the autoregressive model over the one vocabulary: train, decode, pipeline."""

import lazy_loader

if __name__ != "vqlm.lm":  # in the root of the repository: a second copy of every class
    raise ModuleNotFoundError("No module named 'lm'; since 0.2.0 it is vqlm.lm.", name="lm")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
