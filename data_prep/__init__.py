"""Collections of captioned pictures, caption BPE, the one vocabulary, mixed sequences, prepared sets."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
