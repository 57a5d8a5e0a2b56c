"""When a training starts from the base model by itself: every reason for it and against it."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.planning.test_plan import facts
from vqlm.data_prep import Collection, load_collection
from vqlm.data_prep.settings import CollectionConfig
from vqlm.lm.model_folder import names
from vqlm.planning import starts
from vqlm.planning.allowance import Start, Wishes
from vqlm.planning.arguments import folder_of_start
from vqlm.planning.machine_speed import MachineSpeed
from vqlm.planning.plan import make_plan
from vqlm.planning.starts import LEAST_PSNR, MOST_AT_ANY_SIZE, MOST_PICTURES, base_for, look_at_start
from vqlm.training.errors import UserError

FAST = MachineSpeed(vq_step=0.091, lm_step=0.34)
EMOJI = names.CHECKOUT / "models" / "emoji"


@pytest.fixture
def collection(picture_folder) -> Collection:
    return load_collection(str(picture_folder))


@pytest.fixture
def psnr_db(monkeypatch):
    """Sets at how many dB the base reconstructs the pictures."""

    def set_it(value: float) -> None:
        base = Start(str(EMOJI), 64, 64, value, "auto")
        monkeypatch.setattr(starts, "look_at_start", lambda folder, collection: base)

    set_it(23.0)
    return set_it


def choose(collection, trained=500, minutes=10.0, side=64, wishes=None, given=None) -> tuple[Start | None, str]:
    wishes, looked = wishes or Wishes(), facts(trained, median_side=side)
    plan = make_plan(looked, FAST, minutes, wishes, None, given)
    return base_for(plan, looked, collection, wishes, given or {})


def test_few_pictures_start_from_the_base(collection, psnr_db):
    base, reason = choose(collection)
    assert base is not None
    assert Path(base.folder) == EMOJI
    assert reason == "500 pictures are few: it knows shapes, and reconstructs yours at 23.0 dB"


def test_very_few_pictures_start_from_the_base_though_the_minutes_allow_larger_ones(collection, psnr_db):
    base, reason = choose(collection, trained=100, side=200, minutes=45.0)
    assert base is not None
    assert reason.endswith("at 23.0 dB; a new model could draw 128x128, but few new prompts")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"trained": MOST_PICTURES + 1}, f"{MOST_PICTURES + 1:,} pictures are enough to learn shapes from"),
        (
            {"trained": MOST_AT_ANY_SIZE + 1, "side": 200, "minutes": 45.0},
            "emoji draws 64x64 only",
        ),  # it takes 128x128
        ({"trained": 100, "side": 200, "wishes": Wishes(image_size=128)}, "emoji draws 64x64 only"),
        ({"side": 20}, "emoji draws 64x64 only"),  # and 32x32
        ({"wishes": Wishes(settings={"train_vq": {"batch_size": 8}})}, "you set its image tokenizer"),
        ({"wishes": Wishes(settings={"train_lm": {"model": {"hidden_size": 64}}})}, "you set the language model"),
        ({"wishes": Wishes(settings={"train_lm": {"init_from": "gpt2"}})}, "you set the language model"),
        ({"given": {"fit": "crop"}}, "emoji learned pictures with fit auto on white"),
        ({"given": {"background": "black"}}, "emoji learned pictures with fit auto on white"),
    ],
)
def test_what_speaks_against_the_base(collection, psnr_db, changed, reason):
    assert choose(collection, **changed) == (None, reason)


def test_pictures_that_the_base_rebuilds_badly(collection, psnr_db):
    psnr_db(LEAST_PSNR - 0.1)
    assert choose(collection) == (None, "the image tokenizer of emoji reconstructs your pictures at 19.9 dB only")
    psnr_db(LEAST_PSNR)
    assert choose(collection)[0] is not None


def test_pictures_that_the_base_was_trained_on(collection, psnr_db):
    """The model of `models/emoji` has seen OpenMoji's held-out pictures: figures on them would mean nothing."""
    known = replace(collection, attribution="Trained on pictures of OpenMoji (https://openmoji.org), CC BY-SA 4.0.")
    assert choose(known) == (
        None,
        "emoji was trained on these very pictures, also on those that are held out",
    )


def test_an_installation_without_the_base(collection, psnr_db, monkeypatch, tmp_path):
    monkeypatch.setattr(names, "CHECKOUT", tmp_path)
    assert choose(collection) == (None, "no finished one was given")


def test_the_base_takes_pictures_of_any_shape(picture_folder):
    """Its own were square; those of others are padded or cropped by what they are, and a wish for less is refused."""
    start = look_at_start(EMOJI, load_collection(str(picture_folder)))
    assert (start.side, start.codes, start.fit) == (64, 64, "auto")
    assert start.psnr_db > 10
    with pytest.raises(UserError, match="learned its pictures with fit auto, not crop"):
        look_at_start(EMOJI, load_collection(str(picture_folder), config=CollectionConfig(fit="crop")))


def test_the_start_by_its_name():
    assert folder_of_start("emoji") == EMOJI
    with pytest.raises(UserError, match="is no folder here; download it first"):
        folder_of_start("someone/something")
    with pytest.raises(UserError, match="name the folder of a finished model"):
        folder_of_start("/nowhere/at/all")
