"""Stage one: pictures (or series, or volumes) <-> codes. Knows nothing of text or of sequences."""

import lazy_loader

if __name__ != "vqlm.vq":  # in the root of the repository: a second copy of every class
    raise ModuleNotFoundError("No module named 'vq'; since 0.2.0 it is vqlm.vq.", name="vq")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
