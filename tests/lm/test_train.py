"""Stage two end to end on a tiny prepared set: files, learning, stopping and going on, refusing another run."""

import json
import signal
from types import SimpleNamespace

import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file

from data_prep import Collection, PreparedSet, SequenceConfig, TextConfig, prepare
from lm import SamplingConfig, TextToImagePipeline
from lm import train as lm_train
from lm.train import LMTrainingConfig, train_lm
from training.errors import UserError
from training.files import read_json
from training.progress import Progress
from training.run import Interrupted, Run

CLEAN = SequenceConfig(caption_dropout=0.0, word_dropout=0.0, code_noise=0.0)


@pytest.fixture
def train(tiny_config):
    """train(prepared, output, sequences, resume, **settings of LMTrainingConfig)"""

    def run(prepared, output, sequences=None, resume=False, **settings) -> TextToImagePipeline:
        defaults = {"max_steps": 4, "batch_size": 4, "compile": "no", "mixed_precision": "no", "log_every": 1}
        return train_lm(
            prepared, output, tiny_config(spread=0.05), LMTrainingConfig(**(defaults | settings)),
            sequences or SequenceConfig(), SamplingConfig(guidance_scale=1.5), resume,
        )  # fmt: skip

    return run


def stop_after(monkeypatch, step: int) -> None:
    """As if SIGTERM came while `step` was computed."""
    advance = Run._advance

    def stopping(run):
        if run.state.step + 1 == step:
            run._stop_signal = signal.SIGTERM
        advance(run)

    monkeypatch.setattr(Run, "_advance", stopping)


def test_the_finished_folder(train, prepared, tmp_path):
    pipeline = train(prepared, tmp_path / "model")
    names = {str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*")}
    assert names >= {
        "config.json", "model.safetensors", "tokenizer.json", "vocabulary.json", "text_to_image.json",
        "image_tokenizer/model.safetensors", "run/summary.json", "run/stages.json", "run/log.jsonl",
    }  # fmt: skip
    summary = read_json(tmp_path / "model" / "run" / "summary.json")
    assert summary["steps"] == 4
    assert summary["held_out_image_nll"] > 0
    assert read_json(tmp_path / "model" / "run" / "stages.json").keys() == {"train_vq", "prepare_data", "train_lm"}
    assert pipeline.sampling == SamplingConfig(guidance_scale=1.5)
    assert pipeline.max_caption_tokens == prepared.manifest["longest_caption_tokens"]
    assert pipeline("red square").images[0].size == (16, 16)


def test_the_loss_falls(train, prepared, tmp_path):
    unregularised = {"embedding_dropout": 0.0, "label_smoothing": 0.0, "neighbor_smoothing": 0.0}
    train(prepared, tmp_path / "model", CLEAN, max_steps=60, batch_size=8, learning_rate=1e-2, **unregularised)
    lines = [json.loads(line) for line in (tmp_path / "model" / "run" / "log.jsonl").read_text().splitlines()]
    for name in ("image_nll", "text_nll"):
        values = [line[name] for line in lines if name in line]
        assert sum(values[-5:]) / 5 < 0.6 * values[0]


def test_a_caption_longer_than_the_limit_is_cut(train, prepared, tmp_path):
    pipeline = train(prepared, tmp_path / "model", max_caption_tokens=1, max_steps=1)
    assert pipeline.max_caption_tokens == 1


def test_trained_captions_are_memorised(train, collection, tiny_vqvae, tmp_path):
    by_caption = {row["caption"]: index for index, row in enumerate(collection.train)}
    chosen = [by_caption[caption] for caption in ("red square", "green circle", "black square", "purple circle")]
    few = DatasetDict({"train": collection.train.select(chosen), "held_out": collection.held_out.select([0])})
    prepared: PreparedSet = prepare(Collection(few), tiny_vqvae, tmp_path / "few", "few", TextConfig(size=300))
    codes = torch.tensor(prepared.train["codes"][:])
    assert len({tuple(row) for row in codes.tolist()}) == 4
    pipeline = train(prepared, tmp_path / "model", CLEAN, max_steps=150, learning_rate=1e-2, embedding_dropout=0.0)
    drawn = pipeline(prepared.train["caption"][:], temperature=0.0, guidance_scale=1.0).codes.flatten(1)
    assert (drawn == codes).double().mean(1).min() > 0.9


@pytest.mark.parametrize("step", [5, 7])  # at the end of an epoch, and within one
def test_resumed_equals_uninterrupted_bit_for_bit(train, prepared, tmp_path, monkeypatch, step):
    assert len(prepared.train) // 4 == 5
    train(prepared, tmp_path / "whole", max_steps=12)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Interrupted) as stopped:
            train(prepared, tmp_path / "parts", max_steps=12)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    assert read_json(tmp_path / "parts" / "run" / "checkpoint" / "state.json")["step"] == step
    train(prepared, tmp_path / "parts", max_steps=12, resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_evaluating_more_often_changes_no_weight(train, prepared, tmp_path):
    train(prepared, tmp_path / "seldom", max_steps=4, eval_every=100)
    train(prepared, tmp_path / "often", max_steps=4, eval_every=1)
    seldom, often = (load_file(tmp_path / name / "model.safetensors") for name in ("seldom", "often"))
    assert [name for name in seldom if not torch.equal(seldom[name], often[name])] == []


def test_a_finished_run_is_not_trained_again(train, prepared, tmp_path, monkeypatch):
    train(prepared, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr(Run, "step", lambda *_: pytest.fail("trained again"))
    pipeline = train(prepared, tmp_path / "model", resume=True)
    assert pipeline.vocabulary.fingerprint() == prepared.vocabulary.fingerprint()
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_another_run_is_not_continued(train, prepared, tmp_path):
    train(prepared, tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds another run: its learning_rate is"):
        train(prepared, tmp_path / "model", learning_rate=1e-4, resume=True)
    with pytest.raises(UserError, match="already holds files"):
        train(prepared, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


def test_a_replaced_image_tokenizer_is_found_before_training(train, prepared, other_vqvae, tmp_path, monkeypatch):
    other_vqvae.save_pretrained(prepared.folder / "image_tokenizer")
    monkeypatch.setattr(Run, "step", lambda *_: pytest.fail("trained for nothing"))
    with pytest.raises(UserError, match="image_tokenizer holds image tokenizer"):
        train(prepared, tmp_path / "model")


@pytest.mark.parametrize(
    ("setting", "steps", "is_compiler_found", "compiles"),
    [
        ("yes", 4, False, True),
        ("no", 4000, True, False),
        ("auto", 4000, True, True),
        ("auto", 4000, False, False),
        ("auto", 4, True, False),
        ("auto", None, True, True),
    ],
)
def test_when_a_step_is_compiled(monkeypatch, setting, steps, is_compiler_found, compiles):
    monkeypatch.setattr(lm_train, "compile_failure", lambda _device: None if is_compiler_found else "no compiler")
    config = LMTrainingConfig(compile=setting, max_steps=steps, max_minutes=None if steps else 5.0)
    run = Run.__new__(Run)
    run.accelerator = SimpleNamespace(device=torch.device("cpu"))
    run.progress = Progress("test", is_shown=False)
    assert lm_train._shall_compile(config, run) == compiles
