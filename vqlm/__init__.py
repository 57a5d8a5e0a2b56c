"""From a folder of captioned pictures to a model that draws a prompt.

    from vqlm import TextToImagePipeline

    picture = TextToImagePipeline.from_pretrained("outputs/demo/model")("red heart").images[0]

Names are loaded when they are first used, so that `import vqlm` and `vqlm --help` take no time.
"""

import importlib
import os
import sys
from functools import partial

import lazy_loader
import wrapt

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# The threads of GNU's OpenMP wait for one another by spinning, by default for milliseconds. Beside one busy program
# the thread that they wait for gets no core meanwhile, and training and drawing become several times slower. A shorter
# time costs little on a free machine (benchmarks/busy_machine.py). OpenMP reads it when torch is first imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Each of ours registers itself with the Auto class of transformers that it belongs to when it is imported. Whoever
# imports such an Auto class gets ours with it; to import them here would cost seconds and need torch.
_REGISTERED_WITH = {
    "transformers.models.auto.modeling_auto": "vqlm.vq.model",
    "transformers.models.auto.image_processing_auto": "vqlm.vq.image_processor",
    "transformers.models.auto.processing_auto": "vqlm.lm.model_folder.processor",
    "transformers.pipelines": "vqlm.lm.transformers_task",
}


def _import(ours: str, _theirs: object) -> None:
    if ours not in sys.modules:  # else it is being imported, and registers itself at its end
        importlib.import_module(ours)


for theirs, ours in _REGISTERED_WITH.items():
    wrapt.register_post_import_hook(partial(_import, ours), theirs)
