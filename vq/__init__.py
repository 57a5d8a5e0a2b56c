"""Stage one: pictures (or series, or volumes) <-> codes. Knows nothing of text or of sequences."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
