"""Every decision of the plan as a table: what it is told, what it decides."""

from dataclasses import replace

import pytest

from vqlm.lm.settings import LMTrainingConfig
from vqlm.planning.allowance import Start, Wishes
from vqlm.planning.facts import CollectionFacts
from vqlm.planning.machine_speed import MachineSpeed
from vqlm.planning.plan import LARGE_MODEL, Plan, make_plan, merged
from vqlm.training.errors import UserError

# Two cores as they were measured: bf16 matrix peak 2,152 GFLOPS, and 400.
FAST = MachineSpeed(vq_step=0.091, lm_step=0.34)
SLOW = MachineSpeed(vq_step=0.21, lm_step=0.8, bf16_gflops=400)

OPENMOJI = CollectionFacts(
    pictures={"train": 3555, "compositional": 210, "novel": 188}, median_side=None, not_square=0.0, transparent=1.0,
    flat_border=1.0, captions_per_picture=1.0, words_per_caption=3.4, tokens_per_caption=6.0, distinct_captions=3953,
    known_words=0.7, counted=3953, seconds_per_picture=0.003,
)  # fmt: skip


def plan_of(collection, speed, minutes, *rest, **options) -> Plan:
    return make_plan(collection, speed, float(minutes), *rest, **options)


def facts(trained: int, held_out: int | None = None, **changed) -> CollectionFacts:
    held_out = max(1, trained // 9) if held_out is None else held_out
    return replace(OPENMOJI, pictures={"train": trained, "held_out": held_out}, counted=trained + held_out, **changed)


def choice(plan: Plan, what: str) -> str:
    (decision,) = (decision for decision in plan.decisions if decision.what == what)
    return decision.choice


def side_of(plan: Plan) -> int:
    return plan.settings["train_vq"]["network"]["input_shape"][0]


@pytest.mark.parametrize(
    ("collection", "speed", "minutes", "side"),
    [
        (OPENMOJI, FAST, 10, 64),
        (OPENMOJI, FAST, 20, 96),
        (OPENMOJI, FAST, 30, 128),
        (OPENMOJI, FAST, 45, 128),
        (OPENMOJI, SLOW, 10, 64),
        (OPENMOJI, SLOW, 30, 64),
        (OPENMOJI, SLOW, 45, 96),
        (OPENMOJI, SLOW, 90, 128),
        (facts(900), FAST, 20, 96),
        # Never much above the pictures' own size, and below 64 only for pictures that are as small.
        (facts(900, median_side=128), FAST, 60, 128),
        (facts(900, median_side=100), FAST, 60, 128),
        (facts(900, median_side=80), FAST, 60, 96),
        (facts(900, median_side=64), FAST, 60, 64),
        (facts(900, median_side=50), FAST, 60, 64),
        (facts(900, median_side=48), FAST, 60, 32),
        (facts(900, median_side=16), FAST, 60, 32),
    ],
)
def test_the_largest_pictures_that_get_enough_steps(collection, speed, minutes, side):
    plan = plan_of(collection, speed, minutes)
    assert side_of(plan) == side
    assert plan.settings["train_vq"]["network"]["strides"] == [4, 2]
    assert plan.settings["inspect"]["image_size"] == side
    assert choice(plan, "pictures") == f"{side}x{side}, {(side // 8) ** 2} codes each"


@pytest.mark.parametrize("speed", [FAST, SLOW])
@pytest.mark.parametrize("minutes", [20, 45, 120])
@pytest.mark.parametrize("trained", [900, 3555])
def test_the_minutes_go_into_training_and_a_fifth_of_that_into_stage_one(speed, minutes, trained):
    seconds = plan_of(facts(trained), speed, minutes).seconds
    training = seconds["train_vq"] + seconds["train_lm"]
    assert training / (60 * minutes) >= 0.8  # 85% with compiling
    assert (training + seconds["compile"]) / (60 * minutes) >= 0.85
    assert training + seconds["rest"] <= 60 * minutes * 1.001
    assert seconds["train_vq"] / training == pytest.approx(0.2, abs=0.02)


def test_stages_are_given_minutes_unless_more_steps_would_not_help():
    plan = plan_of(OPENMOJI, FAST, 10)
    assert plan.settings["train_vq"]["max_minutes"] == pytest.approx(plan.seconds["train_vq"] / 60, abs=0.01)
    assert plan.settings["train_lm"]["max_minutes"] == pytest.approx(plan.seconds["train_lm"] / 60, abs=0.01)
    few = plan_of(facts(90), FAST, 60, Wishes(image_size=64))
    assert few.settings["train_vq"]["max_steps"] == 400 * 90 // 32
    assert few.settings["train_lm"]["max_steps"] == 200 * 90 // 48
    assert "max_minutes" not in few.settings["train_lm"]
    assert "more than these pictures need" in few.decisions[-1].reason


def test_minutes_that_are_given_for_a_stage_are_its_limit():
    plan = plan_of(OPENMOJI, FAST, 30, Wishes(settings={"train_lm": {"max_minutes": 120.0}}))
    assert plan.settings["train_lm"]["max_minutes"] == 120
    assert "max_steps" not in plan.settings["train_lm"]
    assert plan.seconds["train_lm"] == pytest.approx(120 * 60, rel=0.001)
    assert choice(plan, "stage two").endswith("1:59:59")
    one = plan_of(OPENMOJI, FAST, 30, Wishes(settings={"train_vq": {"max_minutes": 2.0}}))
    assert (one.settings["train_vq"]["max_minutes"], "max_steps" in one.settings["train_vq"]) == (2, False)
    assert one.seconds["train_vq"] == pytest.approx(120, abs=1)
    both = plan_of(OPENMOJI, FAST, 30, Wishes(settings={"train_lm": {"max_minutes": 120.0, "max_steps": 300}}))
    assert both.settings["train_lm"] | {"max_minutes": 120.0, "max_steps": 300} == both.settings["train_lm"]
    assert choice(both, "stage two").startswith("about 300 steps")


def test_the_size_of_a_model_that_is_given_is_not_guessed():
    given = plan_of(OPENMOJI, FAST, 30, Wishes(settings={"train_lm": {"model": {"hidden_size": 768}}}))
    (reason,) = (decision.reason for decision in given.decisions if decision.what == "stage two")
    assert reason.startswith("your model, as long a step as the default's; ")


@pytest.mark.parametrize(
    ("trained", "batches", "codebook_size"), [(3555, (32, 48), 1024), (90, (32, 48), 256), (18, (18, 18), 64)]
)
def test_few_pictures_make_small_batches_and_a_small_codebook(trained, batches, codebook_size):
    settings = plan_of(facts(trained), FAST, 10, Wishes(image_size=64)).settings
    assert (settings["train_vq"]["batch_size"], settings["train_lm"]["batch_size"]) == batches
    assert settings["train_vq"]["quantizer"]["codebook_size"] == codebook_size


@pytest.mark.parametrize(("trained", "words", "noise"), [(3555, 3, False), (900, 3, True), (900, 1, True)])
def test_few_pictures_get_noise_against_learning_by_heart(trained, words, noise):
    settings = plan_of(facts(trained, words_per_caption=float(words)), FAST, 10).settings
    assert settings["train_vq"].get("flip", 0.0) == (0.5 if noise else 0.0)
    assert settings["train_vq"].get("max_shift", 0) == (2 if noise else 0)
    assert settings["train_lm"].get("embedding_dropout", 0.0) == (0.1 if noise else 0.0)
    assert settings["train_lm"].get("sequences", {}) == ({"word_dropout": 0.1} if noise and words == 3 else {})


@pytest.mark.parametrize(
    ("speed", "minutes", "compile"), [(FAST, 3, "no"), (FAST, 10, "auto"), (SLOW, 10, "auto"), (SLOW, 6, "no")]
)
def test_stage_two_is_compiled_where_that_wins_steps(speed, minutes, compile):
    plan = plan_of(facts(2000), speed, minutes)
    assert plan.settings["train_lm"]["compile"] == compile
    assert (plan.seconds["compile"] > 0) == (compile == "auto")


@pytest.mark.parametrize(
    ("trained", "minutes", "model"), [(3555, 900, {}), (15_000, 60, {}), (15_000, 900, LARGE_MODEL)]
)
def test_a_larger_model_for_many_pictures_and_hours(trained, minutes, model):
    assert plan_of(facts(trained), FAST, minutes).settings["train_lm"].get("model", {}) == model


@pytest.mark.parametrize(
    ("not_square", "start", "given", "fit", "reason"),
    [
        (0.0, None, {}, "crop", "all pictures are square"),
        (
            0.5,
            None,
            {},
            "auto",
            "50% are not square; 60% are transparent or have a border of one colour: those are padded",
        ),
        (0.5, None, {"fit": "pad"}, "pad", "as you set it"),
        (0.5, Start("base", 64, 64, 30.0, "pad"), {}, "pad", "as the model in base has it"),
        (0.5, Start("base", 64, 64, 30.0), {}, "crop", "as the model in base has it"),
    ],
)
def test_pictures_that_are_not_square_are_padded_or_cropped(not_square, start, given, fit, reason):
    collection = facts(900, not_square=not_square, transparent=0.6, flat_border=0.2)
    plan = plan_of(collection, FAST, 20, None, start, given)
    (decision,) = (decision for decision in plan.decisions if decision.what == "fit")
    assert decision.choice == fit
    assert decision.reason.startswith(reason)
    assert [plan.settings[stage]["fit"] for stage in ("inspect", "prepare")] == [fit] * 2
    assert plan.settings["train_vq"].get("fit") == (None if start else fit)


@pytest.mark.parametrize(("minutes", "seconds"), [(3, 10), (10, 12), (30, 36), (600, 120)])
def test_the_sampling_is_chosen_after_training(minutes, seconds):
    plan = plan_of(OPENMOJI, FAST, minutes)
    assert "sampling" not in plan.settings["train_lm"]
    assert plan.seconds["choose_sampling"] == pytest.approx(seconds)
    assert choice(plan, "sampling") == "chosen after training"


def test_where_a_part_of_the_sampling_is_set_the_rest_is_that_of_the_demo():
    plan = plan_of(OPENMOJI, FAST, 10, Wishes(settings={"train_lm": {"sampling": {"temperature": 0.5}}}))
    assert plan.settings["train_lm"]["sampling"] == {"guidance_scale": 2.0, "temperature": 0.5, "min_p": 0.05}
    assert plan.seconds["choose_sampling"] == 0
    assert choice(plan, "sampling") == "guidance_scale 2, temperature 0.5, min_p 0.05"


def test_how_the_collection_is_read_reaches_every_stage_that_reads_it():
    settings = make_plan(OPENMOJI, FAST, 10.0, collection={"background": "black"}).settings
    assert [stage for stage in settings if settings[stage].get("background") == "black"] == [
        "inspect", "train_vq", "prepare",
    ]  # fmt: skip


def test_what_is_set_is_taken():
    wishes = Wishes(
        128,
        {"train_vq": {"max_steps": 7, "network": {"stem_channels": 96}}, "train_lm": {"sampling": {"top_k": 5}}},
    )
    plan = plan_of(facts(900), FAST, 10, wishes)
    assert plan.settings["train_vq"]["network"] == {"input_shape": [128, 128], "strides": [4, 2], "stem_channels": 96}
    assert plan.settings["train_vq"]["max_steps"] == 7
    assert plan.settings["train_lm"]["sampling"]["top_k"] == 5
    assert plan.seconds["train_vq"] == pytest.approx(7 * FAST.vq_seconds(128))
    reasons = {decision.what: decision.reason for decision in plan.decisions}
    assert reasons["pictures"] == reasons["stage one"] == reasons["sampling"] == "as you set it"
    assert reasons["stage two"] != "as you set it"


def test_a_start_gives_its_size_and_all_minutes_go_to_stage_two():
    start = Start("models/base", side=64, codes=64, psnr_db=24.0)
    plan = plan_of(facts(900), FAST, 10, start=start)
    assert plan.settings["train_vq"] == {}
    assert plan.settings["train_lm"]["init_from"] == "models/base"
    assert plan.settings["train_lm"]["learning_rate"] == pytest.approx(LMTrainingConfig().learning_rate / 10)
    assert plan.settings["train_lm"]["max_steps"] == 30 * 900 // 48  # 30 epochs
    assert "model" not in plan.settings["train_lm"]
    assert plan.seconds["train_vq"] == 0
    assert choice(plan, "pictures") == "64x64, 64 codes each"
    assert plan.notes == []
    few = plan_of(facts(18), FAST, 10, start=start)
    assert "18 pictures are very few: expect the model to draw these again, and mostly what base knows" in few.notes[0]
    poor = plan_of(facts(900), FAST, 10, start=replace(start, psnr_db=17.2))
    assert "reconstructs your pictures at 17.2 dB only" in poor.notes[0]
    with pytest.raises(UserError, match=r"models/base draws pictures of 64x64, `image_size` is 128"):
        plan_of(facts(900), FAST, 10, Wishes(image_size=128), start)
    for given, name in (
        ({"train_vq": {"quantizer": {"codebook_size": 256}}}, "vq.quantizer"),
        ({"train_vq": {"network": {"input_shape": [64, 64], "stem_channels": 8}}}, "vq.network.stem_channels"),
        ({"train_lm": {"model": {"hidden_size": 64}}}, "lm.model"),
    ):
        with pytest.raises(UserError, match=f"the setting {name} has no effect with `start` models/base, whose"):
            plan_of(facts(900), FAST, 10, Wishes(None, given), start)


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        (Wishes(image_size=100), "multiple of 8, such as 64, 96 or 128; found 100"),
        (Wishes(image_size=0), "multiple of 8"),
        (Wishes(96, {"train_vq": {"network": {"input_shape": [64, 64]}}}), "96 contradicts network.input_shape"),
    ],
)
def test_sizes_that_cannot_be(wishes, said):
    with pytest.raises(UserError, match=said):
        plan_of(OPENMOJI, FAST, 10, wishes)


@pytest.mark.parametrize(("speed", "minutes", "least"), [(FAST, 1, 3), (FAST, 0.1, 3), (SLOW, 2, 5)])
def test_too_few_minutes_are_refused_with_the_least_that_makes_sense(speed, minutes, least):
    with pytest.raises(UserError, match=f"the least that makes sense is {least} minutes"):
        plan_of(OPENMOJI, speed, minutes)
    assert side_of(plan_of(OPENMOJI, speed, least)) == 64


# As an overloaded machine was measured that needs about 97 minutes at this speed, and four of its own.
BUSY = replace(FAST, vq_step=2.6, lm_step=9.5, load=9.0)


@pytest.mark.parametrize(("minutes", "is_planned"), [(12, True), (18, True), (4, True), (1, False)])
def test_a_busy_machine_is_a_warning_and_no_refusal(minutes, is_planned):
    collection = facts(706, 79, median_side=250)
    if not is_planned:
        with pytest.raises(UserError, match=r"the least that makes sense is \d minutes\. A step takes 28.6 times"):
            plan_of(collection, BUSY, minutes)
        return
    plan = plan_of(collection, BUSY, minutes)
    assert side_of(plan) == 64
    assert plan.decisions[0].reason == "this machine is busy"
    assert plan.settings["train_vq"]["max_minutes"] > 0.1
    assert plan.settings["train_lm"]["max_minutes"] > 1
    assert f"At the speed that was measured now, {minutes} minutes allow" in plan.notes[0]
    assert "A step takes 28.6 times as long as this processor should need: other programs are running" in plan.notes[1]
    assert plan_of(collection, BUSY, 300).notes == [plan.notes[1]]


@pytest.mark.parametrize("minutes", [0, -3, float("inf"), float("nan")])
def test_minutes_must_be_a_number(minutes):
    with pytest.raises(UserError, match="`minutes` must be above 0"):
        plan_of(OPENMOJI, FAST, minutes)


def test_twenty_pictures_are_trained_on_and_told_what_to_expect():
    plan = plan_of(facts(18, 2), FAST, 5)
    assert "18 pictures are very few" in plan.notes[0]


def test_captions_of_unknown_words_are_said_to_tell_nothing():
    assert plan_of(OPENMOJI, FAST, 10).notes == []
    plan = plan_of(facts(900, known_words=0.04), FAST, 10)
    assert "Only 4% of the held-out captions" in plan.notes[0]


def test_a_slow_machine_is_a_note():
    plan = plan_of(OPENMOJI, replace(FAST, vq_step=0.5), 60)
    assert "times as long as this processor should need" in plan.notes[-1]


def test_the_plan_has_about_ten_lines():
    plan = plan_of(facts(900, not_square=0.4), FAST, 20)
    assert len(plan.decisions) == 9
    assert all(decision.choice and decision.reason for decision in plan.decisions)


def test_settings_are_merged_part_by_part():
    assert merged({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"y": 4}, "c": {"z": 5}}) == {
        "a": {"x": 1, "y": 4}, "b": 3, "c": {"z": 5},
    }  # fmt: skip
