"""A finished model behind an HTTP API that existing clients speak: `vqlm serve`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
