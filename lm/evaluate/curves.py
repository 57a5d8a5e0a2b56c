"""How a finished model's training went, drawn from its log."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vqlm.lm.evaluate.training_record import training_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_curves(model_folder: Path, path: Path) -> bool:
    """Image NLL over training steps, trained on and held out, as a picture at `path`.

    Returns whether it was drawn: it needs matplotlib and the log of the model's training.
    """
    figure = draw_curves(model_folder)
    if figure is not None:
        figure.savefig(path, dpi=120)
    return figure is not None


def draw_curves(model_folder: Path) -> "Figure | None":
    """The picture of `save_curves`; None without matplotlib or a log."""
    lines = training_log(model_folder)
    if find_spec("matplotlib") is None or lines is None:
        return None
    from matplotlib.figure import Figure

    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    names = dict.fromkeys(name for line in lines for name in line if name.endswith("image_nll"))
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        label = "trained on (with dropout and noise)" if name == "image_nll" else name.removesuffix("_image_nll")
        axes.plot(*zip(*points, strict=True), label=label, marker="" if name == "image_nll" else "o")
    axes.set(xlabel="step", ylabel="image NLL, nats per code", ylim=(0, None))
    axes.legend()
    return figure
