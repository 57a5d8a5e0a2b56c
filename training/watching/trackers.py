"""The trackers that accelerate knows, such as tensorboard, beside the log that every run has."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers
from accelerate.utils import ProjectConfiguration
from PIL import Image

from vqlm.training.config import tracker_names
from vqlm.training.watching.samples import as_array


class Trackers:
    """The trackers of a run; only the main process has any.

    Args:
        accelerator: of the run.
        names: separated by commas, as accelerate calls them; None for none.
    """

    def __init__(self, accelerator: Accelerator, names: str | None):
        self.accelerator, self.names = accelerator, tracker_names(names)

    def start(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        """Begin to track a run called `name` with these `settings`; those that keep files put them into `folder`."""
        if not self.names or not self.accelerator.is_main_process:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.project_configuration = ProjectConfiguration(logging_dir=str(folder))
        self.accelerator.log_with = filter_trackers(list[Any](self.names), str(folder))
        simple = {
            key: value if isinstance(value, int | float | bool) else str(value) for key, value in settings.items()
        }
        self.accelerator.init_trackers(name, simple)

    def log(self, figures: dict[str, float], step: int) -> None:
        """Figures of a step."""
        self.accelerator.log(figures, step)

    def log_row(self, row: Image.Image, step: int) -> None:
        """A row of samples, to the trackers that take pictures."""
        for tracker in self.accelerator.trackers:
            if hasattr(tracker, "log_images"):
                layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
                tracker.log_images({"samples": as_array(row)}, step, **layout)

    def finish(self) -> None:
        """Have them write what they hold."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.trackers = []
