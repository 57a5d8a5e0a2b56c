"""Settings that come too late, and what each is told."""

import pytest

from vqlm.planning.plan import Plan
from vqlm.planning.without_effect import without_effect

PLAN = Plan({"train_vq": {"max_steps": 3, "network": {"stem_channels": 8}}, "train_lm": {"sampling": {"min_p": 0.1}}})


@pytest.mark.parametrize(
    ("there", "stage", "settings", "said"),
    [
        ([], "train_vq", {"max_steps": 3, "network": {"stem_channels": 8}}, []),
        ([], "train_vq", {"max_steps": 9}, ["--vq.max-steps 9 has no effect: a begun plan is kept. Its stage has not "
                                            "begun; set it in OUT/plan/train_vq.yaml."]),
        (["image_tokenizer"], "train_vq", {"network": {"stem_channels": 9}}, ["--vq.network.stem-channels 9 has no "
         "effect any more: its stage has begun with OUT/plan/train_vq.yaml; take another --output."]),
        (["image_tokenizer"], "train_lm", {"sampling": {"min_p": 0.2}}, ["--lm.sampling.min-p 0.2 has no effect: a "
         "begun plan is kept. Its stage has not begun; set it in OUT/plan/train_lm.yaml."]),
        (["model"], "train_lm", {"sampling": {"min_p": 0.1}}, []),
        (["model"], "train_lm", {"sampling": {"min_p": 0.2, "top_k": 5}}, ["--lm.sampling.min-p 0.2, "
         "--lm.sampling.top-k 5 have no effect on a finished model; this changes how it draws: vqlm set-sampling "
         "OUT/model --min-p 0.2 --top-k 5"]),
    ],
)  # fmt: skip
def test_settings_of_a_stage(tmp_path, there, stage, settings, said):
    for name in there:
        (tmp_path / name).mkdir()
        (tmp_path / name / "text_to_image.json").touch()
    lines = without_effect(tmp_path, PLAN, {}, {}, {stage: settings})
    assert lines == [f"note: {line}".replace("OUT", str(tmp_path)) for line in said]


def test_arguments_of_the_plan(tmp_path):
    lines = without_effect(tmp_path, PLAN, {"minutes": 5.0, "image_size": 64}, {"minutes": None, "image_size": 64}, {})
    assert lines == [
        f"note: --minutes 5 has no effect any more: the plan in {tmp_path / 'plan'} was made without --minutes and "
        "has begun; take another --output."
    ]
