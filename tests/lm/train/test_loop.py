"""Stage two end to end on a tiny prepared set: files, learning, stopping and going on, refusing another run."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from file_operations import NAMES, killed_everywhere
from safetensors.torch import load_file

import vqlm.training.watching.samples as samples_module
from vqlm.data_prep import Collection, PreparedSet, RowCollator, SequenceConfig, TextConfig, ViewConfig, prepare
from vqlm.data_prep.batching import PackedRows
from vqlm.data_prep.sources.rows import Shard
from vqlm.lm import SamplingConfig, TextToImagePipeline
from vqlm.lm.settings import LMTrainingConfig
from vqlm.lm.train import loop as lm_train
from vqlm.lm.train.loop import train_lm
from vqlm.training.errors import UserError
from vqlm.training.folders.folder_kinds import is_kind, require_kind
from vqlm.training.folders.whole_files import read_json
from vqlm.training.run import Run
from vqlm.training.stop_signals import Interrupted
from vqlm.training.watching.progress import Progress

pytestmark = pytest.mark.slow

CLEAN = SequenceConfig(caption_dropout=0.0, word_dropout=0.0, code_noise=0.0)


@pytest.fixture
def train(tiny_config):
    """train(prepared, output, sequences, resume, **settings of LMTrainingConfig)"""

    def run(prepared, output, sequences=None, resume=False, architecture="llama", **settings) -> TextToImagePipeline:
        defaults = {"max_steps": 4, "batch_size": 4, "compile": "no", "mixed_precision": "no", "log_every": 1}
        return train_lm(
            prepared, output, tiny_config(architecture, spread=0.05), LMTrainingConfig(**(defaults | settings)),
            sequences or SequenceConfig(), SamplingConfig(guidance_scale=1.5), resume,
        )  # fmt: skip

    return run


def stop_after(monkeypatch, step: int) -> None:
    """As if SIGTERM came while `step` was computed."""
    advance = Run._advance

    def stopping(run):
        if run.state.step + 1 == step:
            run._stop_signals.received = signal.SIGTERM
        advance(run)

    monkeypatch.setattr(Run, "_advance", stopping)


def test_the_finished_folder(train, prepared, tmp_path):
    pipeline = train(prepared, tmp_path / "model")
    names = {str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*")}
    assert names >= {
        "config.json", "model.safetensors", "tokenizer.json", "vocabulary.json", "text_to_image.json",
        "image_tokenizer/model.safetensors", "run/summary.json", "run/log.jsonl", "training_log.jsonl",
    }  # fmt: skip
    summary = read_json(tmp_path / "model" / "run" / "summary.json")
    assert summary["steps"] == 4
    assert summary["held_out_image_nll"] > 0
    seconds = pipeline.settings.trained_on["seconds"]
    assert seconds.pop("train_lm") > 0
    assert seconds == prepared.manifest["seconds"]
    assert seconds.keys() == {"train_vq", "prepare_data"}
    log = (tmp_path / "model" / "training_log.jsonl").read_text()
    assert log == (tmp_path / "model" / "run" / "log.jsonl").read_text()
    assert [line["step"] for line in map(json.loads, log.splitlines()) if "image_nll" in line] == [1, 2, 3, 4]
    assert pipeline.sampling == SamplingConfig(guidance_scale=1.5)
    assert pipeline.max_caption_tokens == 64 > prepared.manifest["longest_caption_tokens"]
    assert set(pipeline.settings.known_words.split()) == {
        word for captions in prepared.train["captions"] for caption in captions for word in caption.split()
    }
    assert pipeline("red square").images[0].size == (16, 16)


def test_the_loss_falls(train, prepared, tmp_path):
    unregularised = {"embedding_dropout": 0.0, "label_smoothing": 0.0, "neighbor_smoothing": 0.0}
    train(prepared, tmp_path / "model", CLEAN, max_steps=60, batch_size=8, learning_rate=1e-2, **unregularised)
    lines = [json.loads(line) for line in (tmp_path / "model" / "run" / "log.jsonl").read_text().splitlines()]
    for name in ("image_nll", "text_nll"):
        values = [line[name] for line in lines if name in line]
        assert sum(values[-5:]) / 5 < 0.6 * values[0]


def test_captions_longer_than_the_limit_are_cut_and_counted(train, prepared, tmp_path, capsys):
    pipeline = train(prepared, tmp_path / "model", max_caption_tokens=1, max_steps=1)
    assert pipeline.max_caption_tokens == 1
    assert "24 of 24 captions are longer than `max_caption_tokens` 1; they are cut" in capsys.readouterr().err


def test_captions_longer_than_the_limit_are_refused_if_asked(train, prepared, tmp_path):
    prepared.manifest["caption_lengths"] = {"2": 20, "3": 1, "5": 3}
    message = (
        "3 of 24 captions are longer than `max_caption_tokens` 4, the longest has 5 tokens. Raise `max_caption_tokens`"
    )
    with pytest.raises(UserError, match=message):
        train(prepared, tmp_path / "model", max_caption_tokens=4, long_captions="refuse")
    train(prepared, tmp_path / "other", max_caption_tokens=5, long_captions="refuse", max_steps=1)


def test_trained_captions_are_memorised(train, collection, tiny_vqvae, tmp_path):
    by_caption = {row.captions[0]: row.key for row in collection.rows("train")}
    chosen = {by_caption[caption] for caption in ("red square", "green circle", "black square", "purple circle")}
    held_out = next(collection.rows("held_out")).key
    few = [row for row in collection.rows() if row.key in chosen | {held_out}]
    splits = {row.key: "held_out" if row.key == held_out else "train" for row in few}
    shard = Shard("few", lambda: iter(few), "few")
    prepared: PreparedSet = prepare(
        Collection([shard], splits=splits), tiny_vqvae, tmp_path / "few", "few", TextConfig(size=300), num_workers=0
    )
    codes = torch.tensor(prepared.train["codes"][:])
    assert len({tuple(row) for row in codes.tolist()}) == 4
    pipeline = train(prepared, tmp_path / "model", CLEAN, max_steps=150, learning_rate=1e-2, embedding_dropout=0.0)
    captions = [captions[0] for captions in prepared.train["captions"]]
    drawn = pipeline(captions, temperature=0.0, guidance_scale=1.0).codes.flatten(1)
    assert (drawn == codes).double().mean(1).min() > 0.9


def test_an_architecture_that_mixes_packed_rows_has_one_a_pack(train, prepared, tmp_path, capsys, monkeypatch):
    positions = []

    def collate(collator, packs, shape=None):
        batch = build(collator, packs, shape)
        positions.append(batch.position_ids)
        return batch

    build = RowCollator.__call__
    monkeypatch.setattr(RowCollator, "__call__", collate)
    train(prepared, tmp_path / "model", architecture="mamba", max_steps=1)
    assert capsys.readouterr().err.count("mamba mixes packed rows: one row per pack, with padding") == 1
    assert len(positions[0]) == 4
    assert positions[0][:, -1].le(positions[0].shape[1] - 1).all()
    assert (positions[0].diff() == 1).sum(1).tolist() == [int(row.max()) for row in positions[0]]


def test_every_view_is_trained_on(train, collection, tiny_vqvae, tmp_path, monkeypatch):
    views = ViewConfig(views=3, flip=0.5)
    prepared = prepare(
        collection, tiny_vqvae, tmp_path / "data", "pictures", TextConfig(size=300), views=views, num_workers=0
    )
    seen = set()
    read = PackedRows.__getitems__

    def noted(rows, packs):
        seen.update(row.view for pack in packs for row in pack)
        return read(rows, packs)

    monkeypatch.setattr(PackedRows, "__getitems__", noted)
    train(prepared, tmp_path / "model")
    assert seen == {0, 1, 2}


def test_a_held_out_evaluation_of_a_large_split_reads_some_of_it(train, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(lm_train, "EVALUATED_ROWS", 3)
    evaluated = []

    def noted(model, vocabulary, rows, *_):
        evaluated.append(rows["key"][:])
        return 1.0

    monkeypatch.setattr(lm_train, "evaluate_nll", noted)
    prepared.rows["held_out"] = prepared.train.select(range(10))
    train(prepared, tmp_path / "model", max_steps=1)
    assert evaluated[-1] == [prepared.train["key"][number] for number in (0, 3, 6)]


@pytest.mark.parametrize("step", [4, 5, 6, 7])  # an epoch has 5 steps or so
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_equals_uninterrupted_bit_for_bit(train, prepared, tmp_path, monkeypatch, step, num_workers):
    settings = {"max_steps": 12, "num_workers": num_workers}
    train(prepared, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(Interrupted) as stopped:
            train(prepared, tmp_path / "parts", **settings)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    assert read_json(tmp_path / "parts" / "run" / "checkpoint" / "state.json")["step"] == step
    train(prepared, tmp_path / "parts", **settings, resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_resumed_equals_uninterrupted_with_accumulated_batches(train, prepared, tmp_path, monkeypatch):
    settings = {
        "max_steps": 6, "num_workers": 2, "gradient_accumulation_steps": 3, "embedding_dropout": 0.1,
        "gradient_checkpointing": True,
    }  # fmt: skip
    train(prepared, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            train(prepared, tmp_path / "parts", **settings)
    train(prepared, tmp_path / "parts", **settings, resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_evaluating_more_often_changes_no_weight(train, prepared, tmp_path):
    train(prepared, tmp_path / "seldom", max_steps=4, eval_every=100)
    train(prepared, tmp_path / "often", max_steps=4, eval_every=1)
    seldom, often = (load_file(tmp_path / name / "model.safetensors") for name in ("seldom", "often"))
    assert [name for name in seldom if not torch.equal(seldom[name], often[name])] == []


def test_the_last_step_is_evaluated_once(train, prepared, tmp_path, monkeypatch):
    evaluated = []
    monkeypatch.setattr(lm_train, "evaluate_nll", lambda *_: float(evaluated.append(1) or len(evaluated)))
    train(prepared, tmp_path / "model", max_steps=4, eval_every=2)
    assert len(evaluated) == 2
    assert read_json(tmp_path / "model" / "run" / "summary.json")["held_out_image_nll"] == 2


def test_the_group_may_read_the_weights(train, prepared, tmp_path):
    mask = os.umask(0o027)
    try:
        train(prepared, tmp_path / "model", max_steps=1)
    finally:
        os.umask(mask)
    files = list((tmp_path / "model").rglob("*.safetensors"))
    assert {path.parent.name for path in files} == {"model", "image_tokenizer", "checkpoint"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}


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
    with pytest.raises(UserError, match="holds another run: its `learning_rate` is"):
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


# While it trains


@pytest.mark.parametrize("prompts", [None, ["a red heart", "blue square"]])
def test_samples_are_drawn_and_change_nothing(train, prepared, tmp_path, monkeypatch, prompts):
    monkeypatch.setattr(samples_module, "SECONDS_BEFORE_FIRST", 0.0)
    path = None
    if prompts is not None:
        path = str(tmp_path / "prompts.txt")
        (tmp_path / "prompts.txt").write_text("\n".join([*prompts, ""]))
    train(prepared, tmp_path / "with", sample_every=0.25, sample_prompts=path, embedding_dropout=0.1)
    train(prepared, tmp_path / "without", sample_every=0.0, embedding_dropout=0.1)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("with", "without")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    folder = tmp_path / "with" / "run" / "samples"
    assert (folder / "strip.png").exists()
    assert (folder / "originals.png").exists() == (prompts is None)
    held_out = next(iter(prepared.held_out.values()))["captions"]
    assert read_json(folder / "names.json") == (prompts or [captions[0] for captions in held_out][:8])
    assert not (tmp_path / "without" / "run" / "samples").exists()


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("\n", "is empty")])
def test_a_file_of_prompts_is_read_before_anything_is_written(train, prepared, tmp_path, content, message):
    if content is not None:
        (tmp_path / "prompts.txt").write_text(content)
    with pytest.raises(UserError, match=f"`sample_prompts` .*prompts.txt {message}"):
        train(prepared, tmp_path / "model", sample_prompts=str(tmp_path / "prompts.txt"))
    assert not (tmp_path / "model").exists()


def test_averaged_weights_are_evaluated_and_saved(train, prepared, tmp_path):
    settings = {"max_steps": 6, "weight_ema_decay": 0.9}
    train(prepared, tmp_path / "plain", max_steps=6)
    train(prepared, tmp_path / "averaged", **settings)
    with pytest.raises(Interrupted):
        train(prepared, tmp_path / "halves", stop_after=2, **settings)
    train(prepared, tmp_path / "halves", resume=True, **settings)
    plain, averaged, halves = (
        load_file(tmp_path / name / "model.safetensors") for name in ("plain", "averaged", "halves")
    )
    assert all(torch.equal(tensor, halves[name]) for name, tensor in averaged.items())
    name = "model.norm.weight"
    assert not torch.equal(plain[name], averaged[name])
    checkpoint = load_file(tmp_path / "averaged" / "run" / "checkpoint" / "model.safetensors")
    assert torch.equal(checkpoint["model." + name], plain[name])


def test_a_save_killed_at_any_file_is_done_again(train, prepared, tmp_path):
    output, states = tmp_path / "model", set()
    with pytest.raises(Interrupted):
        train(prepared, output, stop_after=3)

    def look() -> None:
        states.add(is_whole := is_kind(output, "finished model"))
        if is_whole:
            TextToImagePipeline.from_pretrained(output)
        else:
            with pytest.raises(UserError, match="is not finished; continue it with `vqlm train-lm` and `resume`"):
                require_kind(output, "finished model")

    kills = killed_everywhere(output, lambda: train(prepared, output, resume=True), look, NAMES)
    assert states == {False, True}
    assert kills > 15
