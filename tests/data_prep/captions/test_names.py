"""Captions from the names of files and folders."""

import pytest

from vqlm.data_prep.captions.names import caption_of, require_template, words_of_name
from vqlm.training.errors import UserError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red_bicycle-12.png", "red bicycle"),
        ("redBicycle.jpg", "red bicycle"),
        ("RedBicycle12.webp", "red bicycle"),
        ("Mince Pie (2).png", "mince pie"),
        ("HTMLPage.svg", "HTML page"),
        ("cat%20asleep.png", "cat asleep"),
        ("boating_rules8.png", "boating rules"),
        ("smiley008.png", "smiley"),
        ("player_mp3.png", "player mp3"),
        ("001_cat.png", "cat"),
        ("7_of_hearts.png", "7 of hearts"),
        ("ww2_german_gun.png", "ww2 german gun"),
        ("cat-640x480.png", "cat"),
        ("star@2x.png", "star"),
        ("cat_v2.png", "cat"),
        ("cat copy.png", "cat"),
        ("cat_f47ac10b58cc4372.png", "cat"),
        ("DSC_0001 red house.jpg", "red house"),
        ("photo_of_a_cat.png", "photo of a cat"),
        ("N_outline.png", "N outline"),
        ("A.png", "A"),
        ("боль_шой-дом.png", "боль шой дом"),
        ("猫3.png", "猫3"),
        ("cat.v1.final", "cat v1 final"),  # a folder
        # Nothing that a person wrote
        ("IMG_1234.jpg", ""),
        ("DSC01234.JPG", ""),
        ("P1010001.jpg", ""),
        ("GOPR0123.JPG", ""),
        ("PXL_20210101_123456.jpg", ""),
        ("IMG-20200101-WA0001.jpg", ""),
        ("Screenshot_2020-01-01-12-13-14.png", ""),
        ("WhatsApp Image 2020-01-01 at 12.13.14 PM.jpeg", ""),
        ("f47ac10b-58cc-4372-a567-0e02b2c3d479.png", ""),
        ("d41d8cd98f00b204e9800998ecf8427e.png", ""),
        ("aZ3kP9qL2xY7.png", ""),
        ("1F44D-1F3FD.svg", ""),
        ("emoji_u1f600.svg", ""),
        ("image001.png", ""),
        ("download (1).png", ""),
        ("12345.png", ""),
    ],
)
def test_the_words_of_a_name(name, words):
    assert words_of_name(name) == words


@pytest.mark.parametrize(
    ("template", "key", "caption"),
    [
        ("a photo of a {}", "animals/polar_bear/01.png", "a photo of a polar bear"),
        ("{class}", "animals/polar_bear/01.png", "polar bear"),
        ("{path}, {name}", "animals/PolarBear/on_ice-3.png", "animals polar bear, on ice"),
        ("{name}", "animals/IMG_1.png", ""),
        ("{path} {name}", "red_kite.png", " red kite"),
        ("{name} {name}", "x/owl.png", "owl owl"),
    ],
)
def test_templates(template, key, caption):
    assert caption_of(template, key) == caption


def test_a_class_that_is_given_by_name():
    assert caption_of("a {class}, {name}", "kite2.png", "red_kite") == "a red kite, kite"


@pytest.mark.parametrize("template", ["a photo", "a {colour}", "{name} {x}"])
def test_templates_that_are_refused(template):
    with pytest.raises(UserError, match=r"`class_template` must hold \{\} .* \{class\}, \{path\} and \{name\}"):
        require_template(template)
