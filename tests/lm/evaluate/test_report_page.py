"""The page: whole, without a network, every caption escaped."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from vqlm.lm import SamplingConfig
from vqlm.lm.evaluate.choose_sampling import choose_sampling, save_choice
from vqlm.lm.evaluate.evidence import gather_evidence, names_of
from vqlm.lm.evaluate.page_drawings import DRAWS, Grid, draw_for_page
from vqlm.lm.evaluate.page_parts import cards, escaped, table
from vqlm.lm.evaluate.report import evaluate
from vqlm.lm.evaluate.report_page import report_page
from vqlm.training.machine import matrix_peak

VOID = {"meta", "img", "br", "hr"}


class Outline(HTMLParser):
    """Tags that are open, and what the page holds. Fails where tags do not nest."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.images, self.headings, self.links, self.ids, self.text = [], [], [], [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        if tag == "img":
            self.images.append(values)
        if tag == "a":
            self.links.append(values["href"])
        if re.fullmatch(r"h\d", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture(autouse=True)
def _no_benchmark(monkeypatch):
    monkeypatch.setattr(matrix_peak, "matrix_peak", lambda *_: 123.0)


@pytest.fixture
def page_of(finished, prepared, tmp_path):
    def build(caption: str | None = None) -> str:
        figures, shown = evaluate(finished, prepared)
        drawings = draw_for_page(finished, shown)
        if caption is not None:
            shown = {split: replace(part, captions=[caption] * len(part.captions)) for split, part in shown.items()}
            grid = replace(drawings.grid, caption=caption)
            drawings = replace(drawings, draws=[replace(part, caption=caption) for part in drawings.draws], grid=grid)
        return report_page(figures, shown, drawings, finished, prepared, tmp_path / "model")[0]

    return build


def test_the_page_is_whole_and_needs_no_network(page_of):
    page = page_of()
    outline = Outline(page)
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert not re.search(r"https?://|<script|<link|url\(", page)
    assert outline.headings[0] == 1
    assert set(outline.headings[1:]) == {2}  # one held-out split needs no headings of its own
    assert {f"#{name}" for name in outline.ids} == set(outline.links)
    for image in outline.images:
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).load()
        assert image["alt"]


def test_what_the_page_shows(page_of, finished, prepared, tmp_path):
    text = Outline(page_of()).text
    held_out, trained = len(prepared.held_out["held_out"]), len(prepared.train)
    for said in (
        f"{trained} pictures trained on, {held_out} held out. Drawn with guidance 1.25, temperature 1, min-p 0",
        "What limits this model",
        "(chance 42%)",  # 10 of 24
        "Codes drawn uniformly have an NLL of 2.77",  # of 16 codes
        f"of {trained} prompts that were trained on",
        f"of {held_out} held out (held_out)",
        "temperature 0.25",
        "guidance 3",
        "of 2 held-out pictures; the median has",
        "as it was set, not chosen by what it draws",
        "123 GFLOPS",
    ):
        assert said in text, said
    save_choice(
        choose_sampling(finished, prepared, grid=[SamplingConfig(), SamplingConfig(top_k=3)]), tmp_path / "model"
    )
    text = Outline(page_of()).text
    assert "How the sampling was chosen" in text
    assert "Chosen on 2 of the held-out prompts, among 24 pictures" in text
    assert "Changed since then to guidance 1.25" in text  # `finished` was loaded before
    assert "guidance 1, temperature 1, min-p 0, top-k 3" in text


def test_every_caption_is_escaped(page_of):
    caption = '<b onclick="x">5 & `6`</b>'
    page = page_of(caption)
    assert "<b " not in page
    assert 'onclick="' not in page
    outline = Outline(page)
    assert caption in outline.text
    assert any(image["alt"].endswith(caption) for image in outline.images)


def test_the_reconstructions_are_worst_first(page_of):
    page = page_of()
    values = [float(value) for value in re.findall(r"<figcaption>(\d+\.\d) dB: ", page)]
    assert len(values) == 2
    assert values == sorted(values)


def test_several_draws_and_the_grid(finished, prepared):
    _, shown = evaluate(finished, prepared)
    drawings = draw_for_page(finished, shown)
    assert [part.split for part in drawings.draws] == ["held_out", "train"]
    assert all(part.pictures.shape == (DRAWS, 3, 16, 16) for part in drawings.draws)
    grid = drawings.grid
    assert isinstance(grid, Grid)
    assert grid.guidance_scales == [1.0, 1.25, 1.5, 2.0, 3.0]
    assert grid.temperatures == [0.25, 0.5, 1.0]
    assert grid.caption == drawings.draws[0].caption
    expected = finished(grid.caption, generator=0, guidance_scale=2.0, temperature=0.5).codes
    torch.testing.assert_close(grid.pictures[3, 1], finished.image_tokenizer.decode_codes(expected)[0].detach())
    assert torch.equal(draw_for_page(finished, shown).grid.pictures, grid.pictures)


def test_the_evidence_is_that_of_the_report(finished, prepared, tmp_path):
    folder = tmp_path / "model"
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / "log.jsonl").write_text('{"step": 1, "held_out_image_nll": 3.0}\n{"step": 2, "image_nll": 1.0}\n')
    figures, shown = evaluate(finished, prepared)
    finished.settings = replace(finished.settings, known_words="red square")
    evidence = gather_evidence(figures, shown, finished, folder, 64)
    recall = figures["retrieval"]["held_out"]["1.25"]
    assert vars(evidence.held_out["held_out"]) == recall | {"prompts": 2}
    assert evidence.by_guidance["held_out"][evidence.guidance] == recall["r10"]
    assert vars(evidence.trained) == figures["trained_prompts"] | {"prompts": 22}
    assert evidence.nll == {"held_out": [3.0]}
    captions = shown["held_out"].captions
    known = sum(set(caption.split()) <= {"red", "square"} for caption in captions) / len(captions)
    assert evidence.known_words == {"held_out": known}
    assert (evidence.image_size, evidence.pictures, evidence.trained_pictures) == (16, 24, 22)
    assert evidence.shared_captions == figures["prompts_also_trained_on"]["held_out"] / 2
    assert not evidence.is_sampling_plain
    assert evidence.median_side == 64
    figures["seconds"] = {"train_vq": 60.0, "train_lm": 120.0, "evaluate": None}
    names = names_of(figures, folder, prepared.folder, "my pictures")
    assert (names.data, names.minutes) == ("'my pictures'", 3.0)


def test_pieces():
    assert escaped("run `a <b>` & c") == "run <code>a &lt;b&gt;</code> &amp; c"
    assert table(["", "<x>"], [["a", "`b`"]]) == (
        '<div class="scroll"><table><thead><tr><td></td><th scope="col">&lt;x&gt;</th></tr></thead>\n'
        '<tbody><tr><th scope="row">a</th><td><code>b</code></td></tr></tbody></table></div>'
    )
    card = cards([("a `tick`", {"drawn": torch.zeros(3, 2, 2)})])
    assert 'alt="drawn: a `tick`" width="2" height="2"' in card
    assert "<figcaption>a `tick`</figcaption>" in card
