"""The language model: stock architectures, unknown ones, dropout by hooks."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from vqlm.lm import LanguageModelConfig
from vqlm.lm.model import add_embedding_dropout, build_language_model, checkpoint_gradients, choose_attention
from vqlm.training.errors import UserError

IDS = torch.tensor([[1, 40, 50, 60, 70]])


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("llama", "LlamaForCausalLM"), ("gpt2", "GPT2LMHeadModel"), ("qwen3", "Qwen3ForCausalLM")],
)
@pytest.mark.parametrize("is_tied", [True, False])
def test_sizes_of_an_architecture(vocabulary, tiny_config, architecture, kind, is_tied):
    config = tiny_config(architecture, num_hidden_layers=3, tie_word_embeddings=is_tied)
    model = build_language_model(config, vocabulary, 40)
    assert type(model).__name__ == kind
    assert model.dtype == torch.float32
    stock = model.config
    assert (stock.vocab_size, stock.hidden_size, stock.num_hidden_layers) == (vocabulary.size, 32, 3)
    assert (stock.num_attention_heads, stock.max_position_embeddings) == (2, 40)
    assert (stock.pad_token_id, stock.bos_token_id, stock.eos_token_id) == (0, 1, 2)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == is_tied
    assert any(64 in p.shape for name, p in model.named_parameters() if "mlp" in name)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_head_has_its_share_of_the_channels(build_tiny, architecture):
    assert build_tiny(architecture).model.layers[0].self_attn.q_proj.out_features == 32


def test_extra_settings_reach_the_architecture(vocabulary, tiny_config):
    config = tiny_config(
        extra={"initializer_range": 0.7, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
    )
    model = build_language_model(config, vocabulary, 40)
    assert model.config.initializer_range == 0.7
    assert model.config.rope_parameters["rope_theta"] == 7.0


@pytest.mark.parametrize("name", ["hidden_size", "vocab_size"])
def test_extra_settings_may_not_name_a_size_again(vocabulary, tiny_config, name):
    with pytest.raises(UserError, match=name):
        build_language_model(tiny_config(extra={name: 8}), vocabulary, 40)


def test_an_extra_setting_that_no_one_knows(vocabulary, tiny_config):
    with pytest.raises(UserError, match="atention_dropout"):
        build_language_model(tiny_config(extra={"atention_dropout": 0.1}), vocabulary, 40)


@pytest.mark.parametrize("architecture", ["lama", "vit", "t5"])
def test_no_causal_language_model(vocabulary, tiny_config, architecture):
    with pytest.raises(UserError, match=f"`model.architecture` '{architecture}' is no causal language model"):
        build_language_model(tiny_config(architecture), vocabulary, 40)


def test_an_architecture_that_sees_the_future_is_refused(vocabulary, tiny_config):
    with pytest.raises(UserError, match="`model.architecture` 'bert' sees later ids; use for example llama or gpt2"):
        build_language_model(tiny_config("bert"), vocabulary, 40)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_the_future_cannot_change_the_past(vocabulary, tiny_config, architecture):
    model = build_language_model(tiny_config(architecture), vocabulary, 40).eval()
    other = IDS.clone()
    other[0, -1] = 71
    before, after = model(input_ids=IDS).logits, model(input_ids=other).logits
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


@pytest.mark.parametrize("name", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"])
def test_sizes_are_at_least_1(name):
    with pytest.raises(UserError, match=f"`model.{name}` must be at least 1, found 0"):
        LanguageModelConfig(**{name: 0})


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match=r"`model.hidden_size` 32 must be divisible by `model.num_attention_heads` 3"):
        LanguageModelConfig(hidden_size=32, num_attention_heads=3)


# Dropout


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_dropout_is_active_in_training_only(build_tiny, architecture):
    model = build_tiny(architecture)
    before = model(input_ids=IDS).logits
    add_embedding_dropout(model, 0.5)
    assert torch.equal(model(input_ids=IDS).logits, before)
    model.train()
    first, second = model(input_ids=IDS).logits, model(input_ids=IDS).logits
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, before)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_dropout_is_on_the_embeddings_alone(build_tiny, architecture):
    model = build_tiny(architecture)
    add_embedding_dropout(model, 0.5)
    hooked = [module for module in model.modules() if module._forward_hooks]
    assert hooked == [model.get_input_embeddings()]


def test_dropout_keeps_the_mean(build_tiny):
    model = build_tiny()
    embedding = model.get_input_embeddings()
    clean = embedding(IDS)
    add_embedding_dropout(model, 0.25)
    model.train()
    drawn = torch.stack([embedding(IDS) for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), clean, atol=0.1, rtol=0)
    zeros = (drawn == 0).double().mean().item()
    assert zeros == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_without_dropout_training_computes_as_evaluation(build_tiny, architecture):
    model = build_tiny(architecture)
    add_embedding_dropout(model, 0.0)
    before = model(input_ids=IDS).logits
    torch.testing.assert_close(model.train()(input_ids=IDS).logits, before)


def test_dropout_is_no_part_of_the_saved_model(build_tiny, tmp_path):
    model = build_tiny()
    config, names = model.config.to_dict(), list(model.state_dict())
    add_embedding_dropout(model, 0.5)
    assert model.config.to_dict() == config
    assert list(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).train()
    assert torch.equal(loaded(input_ids=IDS).logits, loaded(input_ids=IDS).logits)


@pytest.mark.parametrize(
    ("device", "length", "attention"), [("cpu", 148, "eager"), ("cpu", 1024, "sdpa"), ("cuda", 148, "sdpa")]
)
def test_attention_is_explicit_where_that_is_faster(build_tiny, device, length, attention):
    model = build_tiny()
    model.set_attn_implementation("sdpa")
    choose_attention(model, torch.device(device), length)
    assert model.config._attn_implementation == attention


# Gradient checkpointing


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
def test_checkpointing_computes_blocks_twice_and_gives_the_same_loss_and_gradients(build_tiny, architecture):
    losses, gradients, computed = [], [], []
    for is_checkpointed in (False, True):
        model = build_tiny(architecture).train()
        if is_checkpointed:
            checkpoint_gradients(model)
        (block,) = (part for name, part in model.named_modules() if name.endswith(".0.mlp"))
        calls: list[int] = []
        # Before the block computes: the second time it is stopped once nothing more is needed of it.
        block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        losses.append(model(IDS, labels=IDS, use_cache=False).loss)
        losses[-1].backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters()})
        computed.append(len(calls))
    assert computed == [1, 2]
    assert losses[0].item() == losses[1].item()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-8, msg=name)


def test_an_architecture_without_checkpointing_is_refused(build_tiny):
    model = build_tiny()
    model.supports_gradient_checkpointing = False
    with pytest.raises(UserError, match="llama has no gradient checkpointing; set `gradient_checkpointing` to false"):
        checkpoint_gradients(model)
