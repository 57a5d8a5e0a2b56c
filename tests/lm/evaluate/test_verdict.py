"""The verdict as a table: figures, what limits the model, what to do."""

import json
import re
from dataclasses import replace

import pytest

from vqlm.lm.evaluate.verdict import Evidence, Limit, Names, Recall, Verdict, judge

NAMES = Names("runs/model", "runs/data", "my_pictures", minutes=9.6)
# A model without a fault.
GOOD = Evidence(
    psnr_db=29.0, image_size=128, pictures=3953, trained_pictures=3555, trained=Recall(0.95, 0.98, 64),
    held_out={"held_out": Recall(0.7, 0.95, 200)}, by_guidance={"held_out": {1.0: 0.93, 2.0: 0.95}}, guidance=2.0,
    known_words={"held_out": 1.0}, nll={"held_out": [1.0, 0.7, 0.68]},
)  # fmt: skip


def finding(verdict: Verdict, part: str):
    (found,) = (finding for finding in verdict.findings if finding.part == part)
    return found


def test_a_model_without_a_fault():
    verdict = judge(GOOD, NAMES)
    assert verdict.headline == "Nothing that these figures show limits this model."
    assert [finding.limit for finding in verdict.findings] == [Limit.NOT] * 4
    assert [finding.next for finding in verdict.findings] == [None] * 4
    assert verdict.caution is None


@pytest.mark.parametrize(
    ("changed", "part", "limit", "said", "advised"),
    [
        ({"trained": Recall(0.1, 0.3, 64)}, "minutes", Limit.MOST, "Only 30% of 64 prompts that were trained on",
         "`vqlm train my_pictures --minutes 20`"),
        ({"trained": Recall(0.5, 0.8, 64)}, "minutes", Limit.MUCH, "not learned all of its own", "--minutes 20"),
        ({"nll": {"held_out": [1.0, 0.9, 0.7]}}, "minutes", Limit.LITTLE, "still fell when", "--minutes 20"),
        ({"nll": {"a": [1.0, 0.7], "b": [3.5, 3.6]}}, "minutes", Limit.NOT, "knows its own pictures", None),
        ({"nll": {"held_out": [3.4, 3.6]}}, "minutes", Limit.NOT, "more minutes only learn these by heart", None),
        ({"nll": {"held_out": [3.4]}}, "minutes", Limit.NOT, "knows its own pictures", None),
        ({"psnr_db": 19.9, "image_size": 64}, "image tokenizer", Limit.MOST, "at 19.9 dB: parts are lost",
         "`vqlm train my_pictures --image-size 128`"),
        ({"psnr_db": 19.9}, "image tokenizer", Limit.MOST, "parts are lost", "more steps of stage one"),
        ({"psnr_db": 23.9, "image_size": 64}, "image tokenizer", Limit.MUCH, "recognisable", "--image-size 128"),
        ({"psnr_db": 23.9, "image_size": 64, "median_side": 99}, "image tokenizer", Limit.MUCH, "", "--image-size 128"),
        ({"psnr_db": 23.9, "image_size": 64, "median_side": 80}, "image tokenizer", Limit.MUCH, "", "--image-size 96"),
        ({"psnr_db": 23.9, "image_size": 64, "median_side": 64}, "image tokenizer", Limit.MUCH, "",
         "more steps of stage one or with larger pictures: these are about 64 pixels wide."),
        ({"psnr_db": 19.9, "image_size": 64, "median_side": 64}, "image tokenizer", Limit.MOST, "",
         "Train it again with more steps of stage one or with larger pictures: these are about 64 pixels wide."),
        ({"psnr_db": 23.9, "held_out": {"held_out": Recall(0.1, 0.2, 200)}}, "image tokenizer", Limit.LITTLE,
         "recognisable", "more steps of stage one"),
        ({"psnr_db": 28.0}, "image tokenizer", Limit.NOT, "looks clean", None),
        ({"held_out": {"held_out": Recall(0.1, 0.2, 200)}, "known_words": {"held_out": 0.25}}, "data", Limit.MOST,
         r"20% of 200 held_out prompts: from 3,555 pictures .* never trained on: 75% \(held_out\)", "Add pictures"),
        ({"held_out": {"a": Recall(0.7, 0.99, 200), "b": Recall(0.1, 0.2, 188)}, "known_words": {}, "by_guidance": {}},
         "data", Limit.MUCH, "come out, but 20% of 188 b prompts: .* look like.$", "Add pictures"),
        ({"held_out": {"held_out": Recall(0.3, 0.6, 200)}}, "data", Limit.LITTLE, "in part: 60% of 200", "Add"),
        ({"trained": Recall(0.1, 0.3, 64), "held_out": {"held_out": Recall(0.0, 0.0, 200)}}, "data", Limit.NOT,
         "shows once prompts that were trained on come out", None),
        # Of 20 pictures ten are drawn right by chance.
        ({"pictures": 20, "trained": Recall(0.1, 0.7, 18)}, "minutes", Limit.MOST, "Only 70% of 18", "--minutes 20"),
        ({"pictures": 20, "trained": Recall(0.1, 0.9, 18)}, "minutes", Limit.MUCH, "90% of 18", "--minutes 20"),
        ({"pictures": 8, "trained": Recall(0.9, 1.0, 7)}, "minutes", Limit.NOT, "knows its own pictures", None),
        ({"shared_captions": 0.6, "trained": Recall(0.1, 0.3, 64)}, "minutes", Limit.NOT, "no longer fell", None),
        ({"shared_captions": 0.6, "held_out": {"held_out": Recall(0.1, 0.3, 64)}}, "data", Limit.NOT,
         "60% of the held-out prompts are captions of trained pictures too", None),
        # 2 standard errors of 0.6 and 0.5, of 200 each, are 0.099.
        ({"by_guidance": {"held_out": {1.0: 0.6, 2.0: 0.5}}}, "sampling", Limit.MUCH, "Guidance 1 brings 60% of",
         "`vqlm set-sampling runs/model --guidance-scale 1`"),
        ({"by_guidance": {"held_out": {1.0: 0.59, 2.0: 0.5}}}, "sampling", Limit.NOT, "No guidance scale", None),
        ({"is_sampling_plain": True}, "sampling", Limit.LITTLE, "as it is",
         "`vqlm set-sampling runs/model --choose-on runs/data`"),
    ],
)  # fmt: skip
def test_what_limits_a_model(changed, part, limit, said, advised):
    found = finding(judge(replace(GOOD, **changed), NAMES), part)
    assert found.limit == limit
    assert re.search(said, found.text)
    assert found.next is None if advised is None else advised in found.next


@pytest.mark.parametrize(
    ("changed", "headline"),
    [
        ({"trained": Recall(0.1, 0.3, 64), "psnr_db": 24.0}, "The minutes limit this model most."),
        ({"psnr_db": 15.0}, "The image tokenizer limits this model most."),
        ({"psnr_db": 23.9, "held_out": {"a": Recall(0.7, 0.99, 200), "b": Recall(0.1, 0.2, 188)}},
         "The image tokenizer and the data limit this model most."),
        ({"is_sampling_plain": True}, "The sampling limits this model a little."),
    ],
)  # fmt: skip
def test_the_headline_names_what_limits_most(changed, headline):
    verdict = judge(replace(GOOD, by_guidance={}, **changed), NAMES)
    assert verdict.headline == headline
    limits = [finding.limit for finding in verdict.findings]
    assert limits == sorted(limits, reverse=True)


def test_the_demo_as_it_was_kept():
    """Its report, and the evaluations of its log."""
    demo = Evidence(
        psnr_db=23.872, image_size=64, pictures=3953, trained_pictures=3555, trained=Recall(0.953, 0.984, 64),
        held_out={"compositional": Recall(0.7095, 0.9952, 210), "novel": Recall(0.0851, 0.2394, 188)},
        by_guidance={
            "compositional": {1.0: 0.9952, 1.5: 0.9952, 2.0: 0.9952, 3.0: 0.9952},
            "novel": {1.0: 0.2128, 1.5: 0.2074, 2.0: 0.2394, 3.0: 0.1968},
        },
        guidance=2.0, nll={"compositional": [1.402, 0.953, 0.724, 0.616], "novel": [3.556, 3.436, 3.524, 3.664]},
    )  # fmt: skip
    verdict = judge(demo, NAMES)
    assert verdict.headline == "The image tokenizer and the data limit this model most."
    assert [(finding.part, finding.limit) for finding in verdict.findings] == [
        ("image tokenizer", Limit.MUCH), ("data", Limit.MUCH), ("minutes", Limit.NOT), ("sampling", Limit.NOT),
    ]  # fmt: skip


def test_few_prompts_are_a_caution():
    few = replace(GOOD, held_out={"a": Recall(1.0, 1.0, 25), "b": Recall(1.0, 1.0, 200)}, by_guidance={})
    assert (
        judge(few, NAMES).caution == "Held-out prompts are few: 25 (a). A share of them may be off by 20% either way."
    )


def test_minutes_that_were_not_recorded_are_not_named():
    young = replace(GOOD, trained=Recall(0.0, 0.1, 64))
    assert finding(judge(young, replace(NAMES, minutes=None)), "minutes").next == (
        "Train for longer: raise `max_minutes` or `max_steps` of stage two."
    )


def test_json_values():
    content = judge(GOOD, NAMES).to_json()
    assert json.loads(json.dumps(content)) == content
    assert content["findings"][0].keys() == {"part", "limit", "text", "next"}
    assert content["findings"][0]["limit"] == "not"
