"""What is wrong with a prompt is said in one sentence."""

import pytest

from vqlm.lm.prompts import as_list
from vqlm.training.errors import UserError


@pytest.mark.parametrize("prompts", ["a \udce9toile", ["a star", "a \udce9toile"]])
def test_half_a_character(prompts):
    with pytest.raises(UserError, match=r"`negative_prompt` holds '\\udce9', half of a character"):
        as_list(prompts, "negative_prompt")
