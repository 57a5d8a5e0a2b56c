"""Collections of captioned pictures, caption BPE, the one vocabulary, mixed sequences, prepared sets."""

import lazy_loader

if __name__ != "vqlm.data_prep":  # in the root of the repository: a second copy of every class
    raise ModuleNotFoundError("No module named 'data_prep'; since 0.2.0 it is vqlm.data_prep.", name="data_prep")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
