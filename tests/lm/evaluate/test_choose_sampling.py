"""Sampling defaults chosen on held-out prompts."""

import warnings
from dataclasses import replace

import pytest
import torch

from vqlm.lm import SamplingConfig, TextToImagePipeline
from vqlm.lm.evaluate import choose_sampling as choosing
from vqlm.lm.evaluate.choose_sampling import blank_share, choose_sampling, load_choice, save_choice
from vqlm.training.folders.whole_files import read_json

GRID = [SamplingConfig(temperature=temperature) for temperature in (1.0, 0.5, 0.25)]


def plant(monkeypatch, prepared, best: float) -> None:
    """At temperature `best` a held-out prompt gives its own codes, else one code everywhere."""
    own = torch.tensor(prepared.held_out["held_out"]["codes"][:]).view(-1, 4, 4)

    def draw(_self, captions, temperature, **_others):
        codes = own if temperature == best else own[:, :1, :1].expand_as(own)
        return type("Drawn", (), {"codes": codes[: len(captions)], "images": []})

    monkeypatch.setattr(TextToImagePipeline, "__call__", draw)


def test_the_planted_best_is_chosen(finished, prepared, monkeypatch):
    for best in GRID:
        plant(monkeypatch, prepared, best.temperature)
        choice = choose_sampling(finished, prepared, grid=GRID)
        assert choice.sampling == best
        assert [line["temperature"] for line in choice.table] == [1.0, 0.5, 0.25]
        assert choice.line["temperature"] == best.temperature
        assert choice.line["r1"] == 1.0
        assert choice.plain == choice.table[0]
        assert (choice.prompts, choice.pictures) == (len(prepared.held_out["held_out"]), 24)


def test_held_out_prompts_of_unknown_words_give_no_warning(finished, prepared):
    finished.settings = replace(finished.settings, known_words="nothing")
    with pytest.warns(UserWarning, match="does not know"):
        finished(prepared.held_out["held_out"]["captions"][0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_sampling(finished, prepared, grid=GRID[:1])


def test_time_is_bounded(finished, prepared, monkeypatch):
    plant(monkeypatch, prepared, 0.25)
    choice = choose_sampling(finished, prepared, seconds=-1.0, grid=GRID)
    assert choice.sampling == GRID[0]
    assert len(choice.table) == 1


def test_a_setting_that_draws_blank_pictures_is_not_chosen(finished, prepared, monkeypatch):
    """Blank pictures in the prompt's own colour are nearer to its picture than another prompt's picture is."""
    count = len(prepared.held_out["held_out"])
    shades, pattern = torch.linspace(-0.8, 0.8, count).view(-1, 1, 1, 1), torch.zeros(1, 3, 16, 16)
    pattern[..., :8] = 0.05
    own = shades + pattern
    planted = {1.0: own - 0.02, 0.5: own.mean((1, 2, 3), keepdim=True).expand_as(own), 0.25: own.roll(1, 0)}
    monkeypatch.setattr(choosing, "gallery", lambda *_: [own])
    monkeypatch.setattr(choosing, "decode_flat", lambda _, codes: codes if codes.ndim == 4 else own)

    def draw(_self, captions, temperature, **_others):
        codes = planted[temperature]
        return type("Drawn", (), {"codes": type("Codes", (), {"flatten": lambda _self, _axis: codes})()})

    monkeypatch.setattr(TextToImagePipeline, "__call__", draw)
    choice = choose_sampling(finished, prepared, grid=GRID[1:])
    ranks = {line["temperature"]: line["mean_log_rank"] for line in choice.table}
    assert ranks[0.5] < ranks[0.25]
    assert [line["blank"] for line in choice.table] == [1.0, 0.0]
    assert choice.sampling.temperature == 0.25
    assert choose_sampling(finished, prepared, grid=GRID).sampling.temperature == 1.0


def test_a_choice_is_kept_with_the_weights_that_it_is_of(finished, prepared, tmp_path):
    folder = tmp_path / "model"
    before = read_json(folder / "text_to_image.json")
    assert load_choice(folder) is None
    choice = choose_sampling(finished, prepared, prompts=1, grid=[SamplingConfig(top_k=3)])
    assert save_choice(choice, folder) == folder / "run" / "sampling.json"
    assert load_choice(folder) == choice
    assert read_json(folder / "text_to_image.json") == before | {"sampling": vars(SamplingConfig(top_k=3))}
    assert TextToImagePipeline.from_pretrained(folder).sampling == SamplingConfig(top_k=3)
    finished.model.model.norm.weight.data += 1
    finished.save_pretrained(folder)
    assert load_choice(folder) is None


def test_blank_pictures():
    pictures = torch.zeros(4, 3, 8, 8)
    pictures[0, :, :4] = 1.0
    pictures[1, 0, 0, 0] = torch.nan
    assert blank_share(pictures) == 0.75
