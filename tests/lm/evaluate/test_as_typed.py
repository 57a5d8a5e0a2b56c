"""The image NLL of the held-out prompts in other spellings."""

import pytest

from vqlm.data_prep import TextConfig, prepare
from vqlm.lm import TextToImagePipeline
from vqlm.lm.evaluate.as_typed import FORMS, as_typed_markdown, nll_as_typed
from vqlm.lm.evaluate.metrics import evaluate_nll
from vqlm.lm.model import build_language_model
from vqlm.lm.model_folder.settings import ModelFolderSettings


def test_forms():
    typed = {name: form("woman's hat") for name, form in FORMS.items()}
    assert typed == {
        "Title Case": "Woman'S Hat", "UPPER CASE": "WOMAN'S HAT", "full stop": "woman's hat.",
        "article a": "a woman's hat", "article the": "the woman's hat", "double spaces": " woman's  hat ",
        "typographic quotes": "“woman’s hat”",
    }  # fmt: skip


@pytest.mark.parametrize("is_normalized", [True, False])
def test_nll_as_typed(collection, tiny_vqvae, tiny_config, tmp_path, is_normalized):
    text = TextConfig(300, lowercase=is_normalized, plain_punctuation=is_normalized, drop_article=is_normalized)
    prepared = prepare(collection, tiny_vqvae, tmp_path / "data", "pictures", text, num_workers=0)
    model = build_language_model(tiny_config(), prepared.vocabulary, 64)
    pipeline = TextToImagePipeline(model, prepared.vocabulary, tiny_vqvae, ModelFolderSettings(max_caption_tokens=30))
    rows = prepared.held_out["held_out"]
    nll = evaluate_nll(model, prepared.vocabulary, rows, 30, 16)
    figures = nll_as_typed(pipeline, rows, 16, nll)
    assert list(figures) == list(FORMS)
    assert figures["double spaces"] == nll
    assert (set(figures.values()) == {nll}) == is_normalized
    if not is_normalized:
        upper = rows.map(lambda row: {"captions": [row["captions"][0].upper()]})
        assert figures["UPPER CASE"] == pytest.approx(evaluate_nll(model, prepared.vocabulary, upper, 30, 16))
        assert figures["UPPER CASE"] != pytest.approx(nll, rel=0.001)


def test_the_lines_of_the_report():
    lines = as_typed_markdown({"novel": {"Title Case": 2.2, "full stop": 2.0}}, {"novel": 2.0})
    assert lines[-1] == "- novel: as written 2.000, Title Case 2.200 (+10%), full stop 2.000 (+0%)."
