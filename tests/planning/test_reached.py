"""What a finished stage says it reached."""

from vqlm.planning.reached import risen_nll


def logged(*values: float) -> list[dict[str, float]]:
    """An evaluation every ten steps, among lines of the training."""
    evaluated = [{"step": 10 * number, "held_out_image_nll": value} for number, value in enumerate(values, start=1)]
    return [{"step": 1, "image_nll": 9.0}, *evaluated]


def test_a_held_out_nll_that_was_lower_is_said_with_its_step():
    line = risen_nll(logged(5.9, 5.48, 6.2), {"steps": 30, "held_out_image_nll": 6.2})
    assert "NLL of held_out was lower, 5.48, at step 20" in line


def test_nothing_is_said_of_one_that_fell_or_hardly_moved():
    assert risen_nll(logged(5.9, 5.6, 5.5), {"held_out_image_nll": 5.5}) == ""
    assert risen_nll(logged(5.9, 5.48, 5.5), {"held_out_image_nll": 5.5}) == ""
    assert risen_nll([], {"held_out_image_nll": 5.5}) == ""
