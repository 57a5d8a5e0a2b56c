"""Adapters: only they train, merging them changes no logit, and a stopped run goes on exactly."""

import json
import signal

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from vqlm.data_prep import RowCollator, SequenceConfig
from vqlm.lm import LanguageModelConfig, SamplingConfig, TextToImagePipeline, settings as lm_settings
from vqlm.lm.loss import WeightedCrossEntropy
from vqlm.lm.settings import LMTrainingConfig
from vqlm.lm.train.loop import train_lm
from vqlm.lm.train.lora import add_adapters, save_and_merge
from vqlm.lm.train.optimizers import build_optimizers
from vqlm.training.errors import UserError
from vqlm.training.run import Run
from vqlm.training.stop_signals import Interrupted

pytestmark = pytest.mark.slow

ARCHITECTURES = ("llama", "gpt2")
CLEAN = SequenceConfig(caption_dropout=0.0, word_dropout=0.0, code_noise=0.0)


def disturb(model) -> None:
    """Adapters start as nothing; give them something."""
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)


def batch_of(prepared, vocabulary):
    rows = [{"caption": row["captions"][0], "codes": row["codes"]} for row in prepared.train.select(range(4))]
    return RowCollator(vocabulary, 8, None)([[row] for row in rows])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_adapters_have_gradients(build_tiny, vocabulary, prepared, architecture):
    model = build_tiny(architecture)
    add_adapters(model, 4)
    disturb(model)
    objective = WeightedCrossEntropy(model, vocabulary, 0.1, 1.0).train()
    assert objective.has_plain_head
    objective(**vars(batch_of(prepared, vocabulary))).loss.backward()
    with_gradient = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if "lora_" in name}
    adapted = {name.split(".lora_")[0] for name in with_gradient}
    linear_layers = {"llama": 7, "gpt2": 4}[architecture]
    assert len(adapted) == 2 * linear_layers  # of each of two blocks; neither head nor embeddings
    assert all(weight.grad.abs().max() > 0 for name, weight in model.named_parameters() if name in with_gradient)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_start_as_nothing_and_merge_into_the_same_logits(build_tiny, tmp_path, architecture):
    ids = torch.randint(16, (3, 7))
    plain, model = build_tiny(architecture), build_tiny(architecture)
    adapters = add_adapters(model, 4)
    assert torch.equal(model(ids).logits, plain(ids).logits)
    disturb(model)
    wrapped = model(ids).logits
    assert (wrapped - plain(ids).logits).abs().max() > 0.1
    merged = save_and_merge(adapters, tmp_path / "adapter")
    torch.testing.assert_close(merged(ids).logits, wrapped, rtol=1e-4, atol=1e-4)
    assert type(merged) is type(plain)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(model(ids).logits, wrapped)  # the one that trains stays as it is
    # The adapters alone, on the base, are the merged model.
    assert {path.suffix for path in (tmp_path / "adapter").iterdir()} == {".json", ".safetensors", ".md"}
    again = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    torch.testing.assert_close(again(ids).logits, wrapped, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_optimizers_hold_adapters_only(build_tiny, name):
    model = build_tiny()
    add_adapters(model, 4)
    optimizers = build_optimizers(name, model, 1e-3, 0.1, 0.99)
    held = [weight for optimizer in optimizers for group in optimizer.param_groups for weight in group["params"]]
    assert {id(weight) for weight in held} == {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert len(optimizers) == 1  # no empty one beside it


@pytest.fixture
def base(prepared, tiny_config, tmp_path):
    """The folder of a finished model."""
    settings = {"max_steps": 2, "batch_size": 4, "compile": "no", "mixed_precision": "no"}
    train_lm(
        prepared, tmp_path / "base", tiny_config(spread=0.05), LMTrainingConfig(**settings), SequenceConfig(),
        SamplingConfig(),
    )  # fmt: skip
    return tmp_path / "base"


def tune(prepared, output, base, sequences=None, resume=False, **settings) -> TextToImagePipeline:
    defaults = {"max_steps": 4, "batch_size": 4, "compile": "no", "mixed_precision": "no", "log_every": 1}
    config = LMTrainingConfig(**(defaults | {"init_from": str(base), "lora": True, "lora_rank": 4} | settings))
    return train_lm(
        prepared, output, LanguageModelConfig(), config, sequences or SequenceConfig(), SamplingConfig(), resume
    )


def test_the_finished_folder_is_the_base_and_the_adapters(prepared, base, tmp_path):
    tuned = tune(prepared, tmp_path / "tuned", base)
    before, after = (load_file(path / "model.safetensors") for path in (base, tmp_path / "tuned"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "proj" in name}
    adapters = load_file(tmp_path / "tuned" / "adapter" / "adapter_model.safetensors")
    query = "model.layers.0.self_attn.q_proj"
    a, b = (adapters[f"base_model.model.{query}.lora_{letter}.weight"] for letter in "AB")
    torch.testing.assert_close(after[f"{query}.weight"] - before[f"{query}.weight"], 2 * b @ a, rtol=1e-3, atol=1e-6)
    stock = AutoModelForCausalLM.from_pretrained(str(tmp_path / "tuned"))
    assert type(stock).__name__ == "LlamaForCausalLM"
    ids = torch.arange(9)[None]
    torch.testing.assert_close(stock(ids).logits, tuned.model(ids).logits)
    shared = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(str(base)), str(tmp_path / "tuned" / "adapter")
    )
    torch.testing.assert_close(shared(ids).logits, tuned.model(ids).logits, rtol=1e-4, atol=1e-4)


def test_the_loss_falls(prepared, base, tmp_path):
    unregularised = {"embedding_dropout": 0.0, "label_smoothing": 0.0, "neighbor_smoothing": 0.0}
    tune(prepared, tmp_path / "tuned", base, CLEAN, max_steps=60, batch_size=8, learning_rate=2e-2, **unregularised)
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "run" / "log.jsonl").read_text().splitlines()]
    values = [line["image_nll"] for line in lines if "image_nll" in line]
    assert sum(values[-5:]) / 5 < 0.8 * values[0]


def test_resumed_equals_uninterrupted_bit_for_bit(prepared, base, tmp_path, monkeypatch):
    tune(prepared, tmp_path / "whole", base, max_steps=8)
    advance = Run._advance

    def stopping(run):
        run._stop_signals.received = signal.SIGTERM if run.state.step + 1 == 5 else None
        advance(run)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_advance", stopping)
        with pytest.raises(Interrupted):
            tune(prepared, tmp_path / "parts", base, max_steps=8)
    assert not (tmp_path / "parts" / "adapter").exists()
    tune(prepared, tmp_path / "parts", base, max_steps=8, resume=True)
    for name in ("model.safetensors", "adapter/adapter_model.safetensors"):
        whole, parts = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
        assert [key for key in whole if not torch.equal(whole[key], parts[key])] == []


def test_a_finished_run_goes_on_with_a_larger_budget(prepared, base, tmp_path):
    tune(prepared, tmp_path / "tuned", base, max_steps=2)
    adapter = tmp_path / "tuned" / "adapter" / "adapter_model.safetensors"
    before = load_file(adapter)
    tune(prepared, tmp_path / "tuned", base, max_steps=4, resume=True)
    assert all(not torch.equal(before[name], weight) for name, weight in load_file(adapter).items())


def test_what_lora_needs(base, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="`lora` adapts a finished model; name its folder in `init_from`"):
        LMTrainingConfig(lora=True)
    with pytest.raises(UserError, match="`lora_rank` must be at least 1, found 0"):
        LMTrainingConfig(lora=True, init_from=str(base), lora_rank=0)
    with pytest.raises(UserError, match="`lora_rank` 8 has no effect without `lora`"):
        LMTrainingConfig(lora_rank=8)
    with pytest.raises(UserError, match="`lora` needs a finished model, which `init_from` 'gpt2' is not"):
        LMTrainingConfig(lora=True, init_from="gpt2")
    monkeypatch.setattr(lm_settings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="`lora` needs the package peft; install it:"):
        LMTrainingConfig(lora=True, init_from=str(base))
