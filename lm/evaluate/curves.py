"""How a finished model's training went, drawn from its log."""

import json
from importlib.util import find_spec
from pathlib import Path


def save_curves(model_folder: Path, path: Path) -> bool:
    """Image NLL over training steps, trained on and held out, as a picture at `path`.

    Returns whether it was drawn: it needs matplotlib and the model's `run/log.jsonl`.
    """
    log = model_folder / "run" / "log.jsonl"
    if find_spec("matplotlib") is None or not log.exists():
        return False
    from matplotlib.figure import Figure

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    names = dict.fromkeys(name for line in lines for name in line if name.endswith("image_nll"))
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        label = "trained on (with dropout and noise)" if name == "image_nll" else name.removesuffix("_image_nll")
        axes.plot(*zip(*points, strict=True), label=label, marker="" if name == "image_nll" else "o")
    axes.set(xlabel="step", ylabel="image NLL, nats a code", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120)
    return True
