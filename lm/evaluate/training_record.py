"""What a finished model records of its training: the seconds of each stage, and the log."""

import json
from pathlib import Path
from typing import Any

from vqlm.lm.pipeline import TextToImagePipeline
from vqlm.training.folders.whole_files import read_json

LOG_FILE = "training_log.jsonl"


def stage_seconds(pipeline: TextToImagePipeline) -> dict[str, float | None]:
    """Seconds of the stages that led to the model; empty where the model does not record them."""
    recorded = (pipeline.settings.trained_on or {}).get("seconds")
    earlier = _file_of_run(Path(pipeline.model.config.name_or_path or ""), "stages.json")
    return recorded or (read_json(earlier) if earlier.exists() else {})


def training_log(folder: Path) -> list[dict[str, Any]] | None:
    """The lines of the training log of the finished model in `folder`; None where there is none."""
    log = folder / LOG_FILE
    if not log.exists():
        log = _file_of_run(folder, "log.jsonl")
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else None


def _file_of_run(folder: Path, name: str) -> Path:
    """Where a model before version 0.2.0 keeps the record: with its run, and there only. It goes with support for the
    folders of 0.1."""
    return folder / "run" / name
