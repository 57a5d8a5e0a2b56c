"""Sampling defaults chosen on held-out prompts."""

import torch
from vqlm.lm import SamplingConfig, TextToImagePipeline
from vqlm.lm.evaluate.choose_sampling import blank_share, choose_sampling

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
        chosen, table = choose_sampling(finished, prepared, grid=GRID)
        assert chosen == best
        assert [line["temperature"] for line in table] == [1.0, 0.5, 0.25]
        assert next(line for line in table if line["temperature"] == best.temperature)["r1"] == 1.0


def test_time_is_bounded(finished, prepared, monkeypatch):
    plant(monkeypatch, prepared, 0.25)
    chosen, table = choose_sampling(finished, prepared, seconds=-1.0, grid=GRID)
    assert chosen == GRID[0]
    assert len(table) == 1


def test_blank_pictures():
    pictures = torch.zeros(4, 3, 8, 8)
    pictures[0, :, :4] = 1.0
    pictures[1, 0, 0, 0] = torch.nan
    assert blank_share(pictures) == 0.75
