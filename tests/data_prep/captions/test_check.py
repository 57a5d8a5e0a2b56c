"""What is found in captions as text, and what is said of it."""

import pytest

from vqlm.data_prep import CollectionConfig, load_collection
from vqlm.data_prep.captions.check import CaptionFacts, caption_findings, caption_rows, script_of


def facts_of(captions: list[list[str]], name: str = "IMG_{}.png") -> CaptionFacts:
    facts = CaptionFacts()
    for number, texts in enumerate(captions):
        facts.add(name.format(number), texts)
    return facts


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("a red cat", "Latin"), ("красный кот", "Cyrillic"), ("红猫", "Chinese"), ("赤い猫", "Japanese"),
        ("빨간 고양이", "Hangul"), ("κόκκινη", "Greek"), ("12 !", None), ("", None), ("кот cat домик", "Cyrillic"),
    ],
)  # fmt: skip
def test_the_script_of_a_text(text, script):
    assert script_of(text) == script


def test_nothing_is_said_of_good_captions():
    facts = facts_of([[f"thing {number} on a table"] for number in range(100)])
    assert caption_findings(facts) == []
    assert caption_rows(facts) == {
        "captions per picture: fewest, median, most": "1, 1, 1", "different captions": "100",
        "captions in Latin": "100.0%",
    }  # fmt: skip


def test_translations_are_said_with_the_option_that_keeps_one():
    facts = facts_of([[f"glove {n}", f"Handschuh {n}", f"перчатка {n}", f"手袋 {n}"] for n in range(50)])
    (remark,) = caption_findings(facts)
    assert remark.startswith("50 pictures have captions in several scripts (Latin 50%, Cyrillic 25%, Chinese 25%), 4 ")
    assert "Set `caption_lines` to first" in remark


def test_translations_in_one_script():
    (remark,) = caption_findings(facts_of([[f"word{n} {m}" for m in range(11)] for n in range(50)]))
    assert remark.startswith("There are 11 captions per picture. If they are translations, set `caption_lines`")


def test_two_languages_of_different_pictures():
    captions = [[f"cat {n}"] for n in range(80)] + [[f"кот {n}"] for n in range(20)]
    (remark,) = caption_findings(facts_of(captions))
    assert remark.startswith("The captions are in several scripts (Latin 80%, Cyrillic 20%)")


@pytest.mark.parametrize(
    ("captions", "prefix"),
    [
        ([f"A picture of {n} cats" for n in range(60)] + [f"dog {n}" for n in range(40)], '60% .* "a picture of"'),
        ([f"a {n} cat" for n in range(100)], None),  # an article
        ([f"a picture of {n}" for n in range(10)], None),  # too few to say
        ([f"a picture of {n}" for n in range(50)] + [f"dog {n}" for n in range(50)], None),
    ],
)
def test_a_beginning_that_most_captions_share(captions, prefix):
    remarks = caption_findings(facts_of([[caption] for caption in captions]))
    if prefix is None:
        assert remarks == []
    else:
        (remark,) = remarks
        start, _, words = prefix.partition(" .* ")
        assert remark.startswith(f"{start} of the captions begin with {words}")
        assert "`drop_prefix` " + words in remark


@pytest.mark.parametrize(
    ("name", "remedy"), [("IMG_{}.png", "{path} in `class_template`"), ("red kite {}.png", "`captions_from` names")]
)
def test_one_caption_for_many_pictures(name, remedy):
    captions = [["a bird"]] * 60 + [[f"thing {n}"] for n in range(40)]
    (remark,) = caption_findings(facts_of(captions, name))
    assert remark.startswith("100 pictures have 41 different captions; the commonest, 'a bird', is on 60 of them.")
    assert remedy in remark


def test_names_that_are_the_captions_already_are_no_remedy():
    facts = CaptionFacts()
    for number in range(40):
        facts.add(f"star{number}.png", ["star"])
    (remark,) = caption_findings(facts)
    assert "40 pictures have 1 different captions" in remark
    assert "`captions_from`" not in remark


def test_many_captions_each_of_a_few_pictures():
    (remark,) = caption_findings(facts_of([[f"class {n % 40}"] for n in range(160)]))
    assert remark.startswith("160 pictures have 40 different captions; the commonest, 'class 0', is on 4 of them.")


def test_a_prefix_is_left_out(picture_folder):
    captions = sorted(
        caption
        for row in load_collection(str(picture_folder), 16, CollectionConfig(drop_prefix="RED ")).rows()
        for caption in row.captions
    )
    plain = sorted(caption for row in load_collection(str(picture_folder), 16).rows() for caption in row.captions)
    assert sorted(caption.removeprefix("red ") for caption in plain) == captions != plain
