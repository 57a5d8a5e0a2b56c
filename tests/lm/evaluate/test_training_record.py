"""What a finished model records of its training, and where folders before version 0.2.0 have it."""

import json

from vqlm.lm import TextToImagePipeline
from vqlm.lm.evaluate.training_record import LOG_FILE, stage_seconds, training_log
from vqlm.lm.model_folder.settings import ModelFolderSettings
from vqlm.training.folders.whole_files import write_json

SECONDS = {"train_vq": 10.0, "prepare_data": 20.0, "train_lm": 30.0}
OLD_SECONDS = {"train_vq": 1.0, "prepare_data": None, "train_lm": 3.0}
LINES = [{"step": 5, "image_nll": 6.0}, {"step": 10, "image_nll": 3.0}]
OLD_LINES = [{"step": 1, "image_nll": 9.0}]


def write_lines(path, lines) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def saved(pipeline, folder, trained_on) -> TextToImagePipeline:
    settings = ModelFolderSettings(trained_on=trained_on)
    model = TextToImagePipeline(pipeline.model, pipeline.vocabulary, pipeline.image_tokenizer, settings)
    model.save_pretrained(folder)
    return TextToImagePipeline.from_pretrained(folder, "cpu")


def test_the_seconds_are_those_that_the_model_records(pipeline, tmp_path):
    model = saved(pipeline, tmp_path, {"seconds": SECONDS})
    write_json(tmp_path / "run" / "stages.json", OLD_SECONDS)  # of an earlier training in this folder
    assert stage_seconds(model) == SECONDS


def test_an_old_folder_has_the_seconds_with_its_run(pipeline, tmp_path):
    model = saved(pipeline, tmp_path, {"data": "openmoji"})
    write_json(tmp_path / "run" / "stages.json", OLD_SECONDS)
    assert stage_seconds(model) == OLD_SECONDS


def test_a_model_without_any_record_has_no_seconds(pipeline, tmp_path):
    assert stage_seconds(saved(pipeline, tmp_path, None)) == {}
    assert stage_seconds(pipeline) == {}  # was never saved


def test_the_log_is_that_beside_the_weights(tmp_path):
    write_lines(tmp_path / LOG_FILE, LINES)
    write_lines(tmp_path / "run" / "log.jsonl", OLD_LINES)
    assert training_log(tmp_path) == LINES


def test_an_old_folder_has_the_log_with_its_run(tmp_path):
    write_lines(tmp_path / "run" / "log.jsonl", OLD_LINES)
    assert training_log(tmp_path) == OLD_LINES


def test_a_folder_without_a_log(tmp_path):
    assert training_log(tmp_path) is None
