"""Which lines of a text beside a picture are captions."""

import pytest

from vqlm.data_prep import CollectionConfig
from vqlm.data_prep.captions.lines import chosen_lines
from vqlm.training.errors import UserError

GLOVE = ["A glove.", "", "de.utf8=Ein Handschuh.", "pt_BR.utf8=Uma luva.", "sr@latin.utf8=Rukavica.", "fr.utf8=",
         "ru.utf8=Перчатка."]  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "captions"),
    [
        ("first", ["A glove."]),
        ("all", ["A glove.", "Ein Handschuh.", "Uma luva.", "Rukavica.", "", "Перчатка."]),
        ("en", ["A glove."]),
        ("de", ["Ein Handschuh."]),
        ("ru", ["Перчатка."]),
        ("pt", ["Uma luva."]),
        ("pt-br", ["Uma luva."]),
        ("sr@latin", ["Rukavica."]),
        ("sr", ["Rukavica."]),
        ("fr", []),
        ("ja", []),
    ],
)
def test_lines_of_several_languages(choice, captions):
    assert [line.decode() for line in chosen_lines([line.encode() for line in GLOVE], choice)] == captions


def test_lines_without_languages_stay_as_they_are():
    lines = [b"a cat", b"", b"x = y", b"e.g.=this"]
    assert chosen_lines(lines, "all") == lines
    assert chosen_lines(lines, "first") == [b"a cat"]


@pytest.mark.parametrize("choice", ["last", "", "german", "de.utf8"])
def test_choices_that_are_refused(choice):
    with pytest.raises(UserError, match=f"`caption_lines` must be first, all, or a language .* found {choice!r}"):
        CollectionConfig(caption_lines=choice)
