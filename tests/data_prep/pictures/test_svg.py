"""SVG drawings: sizes in every unit, and drawings that would read files or end the process."""

import base64
import contextlib
import io
import multiprocessing
import signal
import time

import pytest
from PIL import Image

from vqlm.data_prep.pictures import render_process, svg as svg_module
from vqlm.data_prep.pictures.picture_files import UnreadablePicture, decode_picture
from vqlm.data_prep.pictures.svg import draw_svg

pytest.importorskip("resvg_py")
RED, WHITE = (255, 0, 0), (255, 255, 255)


def drawing(inside: str, attributes: str = 'viewBox="0 0 10 10"') -> str:
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f"<svg {namespaces} {attributes}>{inside}</svg>"


def refusal(svg: str, max_pixels: int = 10**8) -> str:
    with pytest.raises(UnreadablePicture) as caught:
        decode_picture(svg.encode(), (16, 16), max_pixels=max_pixels)
    return str(caught.value)


@pytest.mark.parametrize(
    "size", ['width="72pt" height="36pt"', 'width="10mm" height="5mm"', 'width="1in" height="0.5in"', 'width="96"'],
)  # fmt: skip
def test_sizes_in_every_unit(size):
    half = '<rect width="50%" height="100%" fill="red"/>'
    box = "" if "height" in size else ' viewBox="0 0 96 48"'
    drawn = draw_svg(drawing(half, size + box), 64, "white")
    assert drawn.size == (64, 32)
    assert (drawn.getpixel((4, 16)), drawn.getpixel((60, 16))) == (RED, WHITE)


def test_a_missing_renderer_is_said_with_its_extra(monkeypatch):
    monkeypatch.setattr("vqlm.data_prep.pictures.svg.find_spec", lambda name: None)
    monkeypatch.setattr("vqlm.data_prep.pictures.svg.install_hint", lambda extra: f"pip install 'vqlm[{extra}]'")
    assert refusal(drawing("")) == "SVG drawings need resvg-py; install it: pip install 'vqlm[svg]'"


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ('viewBox="0 0 1000000000 1000000000"', "it is 1e+09x1e+09, more than `max_pixels` 100,000,000"),
        ('viewBox="0 0 1 1000000"', "it is 1x1e+06, more than"),  # 16 pixels wide it would be 16 million high
        ('width="1e9" height="1e9"', "more than `max_pixels`"),
        ('width="100000cm" height="1000cm"', "more than `max_pixels`"),
        ("", "neither a width and height nor a viewBox"),
        ('viewBox="0 0 0 0"', "neither a width and height nor a viewBox"),
        ('viewBox="0 0 1e400 1e400"', "neither a width and height nor a viewBox"),
        ('viewBox="a b c d"', "neither a width and height nor a viewBox"),
    ],
)
def test_the_size_is_limited(attributes, said):
    assert said in refusal(drawing("<rect/>", attributes))


def test_the_limit_is_exact():
    svg = drawing('<rect width="10" height="10" fill="red"/>', 'width="100" height="100"')
    assert decode_picture(svg.encode(), (16, 16), max_pixels=10_000).getpixel((3, 3))[0] < 256
    assert "it is 100x100, more than `max_pixels` 9,999" in refusal(svg, 9_999)


@pytest.mark.parametrize(
    "inside",
    [
        '<image href="/etc/hostname" width="9" height="9"/>',
        '<image xlink:href="/dev/zero" width="9" height="9"/>',
        '<image xlink:href="file:///dev/zero" width="9" height="9"/>',
        '<image href="http://example.org/x.png"/>',
        '<use href="other.svg#x"/>',
        '<filter id="f"><feImage href="/dev/zero"/></filter>',
        '<image href="data:image/svg+xml;base64,PHN2Zy8+"/>',
        '<rect fill="url(other.svg#a)"/>',
        "<style>rect { fill: url('/dev/zero') }</style>",
    ],
)
def test_other_files_are_not_read(inside):
    assert "it refers to" in refusal(drawing(inside))


def test_what_a_drawing_may_refer_to():
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    embedded = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    svg = drawing(
        '<defs><linearGradient id="g"><stop stop-color="red"/></linearGradient>'
        '<rect id="r" width="5" height="5"/></defs>'
        f'<image xlink:href="{embedded}" width="10" height="10"/><use href="#r" fill="url(#g)"/>'
        '<a href="https://example.org"><rect fill="none"/></a>'
    )
    assert draw_svg(svg, 20, "white").getpixel((15, 15)) == RED


def test_a_picture_inside_a_drawing_is_limited():
    file = io.BytesIO()
    Image.new("1", (3000, 2000)).save(file, "PNG")
    embedded = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    svg = drawing(f'<image href="{embedded}"/>')
    assert "a picture in it has 6,000,000 pixels, more than `max_pixels` 5,000,000" in refusal(svg, 5_000_000)


@pytest.mark.parametrize("depth", [201, 5_000, 100_000])
def test_deep_nesting_ends_no_process(depth):
    assert "nested more than 200 deep" in refusal(drawing("<g>" * depth + "</g>" * depth))


def test_deep_nesting_by_references_ends_no_process():
    groups = "".join(f'<g id="g{number}"><use href="#g{number + 1}"/></g>' for number in range(3000))
    assert "nested more than 200 deep" in refusal(drawing(groups))


def test_references_that_multiply_end_no_process():
    groups = ""
    for level in range(9):
        groups += f'<g id="g{level}">' + f'<use href="#g{level + 1}"/>' * 10 + "</g>"
    assert "more than 200,000 elements" in refusal(drawing(groups + '<g id="g9"><rect/></g>'))


@pytest.mark.slow
def test_entities_that_multiply_end_no_process():
    entities = '<!ENTITY a "<g/><g/>">' + "".join(
        f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(12)
    )
    svg = f"<!DOCTYPE svg [{entities}]>" + drawing("&m;")
    assert refusal(svg)


@pytest.mark.parametrize(
    ("inside", "attributes"),
    [
        (f'<rect fill="url({" " * 100_000}#a)"/>', 'viewBox="0 0 10 10"'),
        (f'<rect fill="{"url(" * 50_000}#a)"/>', 'viewBox="0 0 10 10"'),
        ("", f'width="{"1" * 100_000}!" viewBox="0 0 10 10"'),
        ("", f'width="1{" " * 100_000}!" viewBox="0 0 10 10"'),
    ],
    ids=["spaces", "url", "digits", "trailing"],
)
def test_a_long_value_is_checked_once(inside, attributes):
    """Expressions that try every division of it would take hours."""
    start = time.monotonic()
    with contextlib.suppress(UnreadablePicture):
        decode_picture(drawing(inside, attributes).encode(), (16, 16))
    assert time.monotonic() - start < 10


def test_a_reference_to_itself():
    svg = drawing('<g id="g"><use href="#g"/><rect width="10" height="10" fill="red"/></g>')
    assert draw_svg(svg, 16, "white").size == (16, 16)


@pytest.mark.parametrize("text", ["<svg <", "<svg>", "<html><svg/></html>", "<svg/>\0"])
def test_no_drawing(text):
    assert refusal(text)


# What no check foresees


@pytest.mark.slow
def test_a_crash_of_the_renderer_costs_one_drawing(monkeypatch):
    """Without our check of the depth the renderer overflows its stack."""
    monkeypatch.setattr(svg_module, "MAX_DEPTH", 10**9)
    depth = 20_000
    deep, plain = drawing("<g>" * depth + "</g>" * depth), drawing('<rect width="9" height="9" fill="red"/>')
    before = draw_svg(plain, 16, "white").tobytes()
    assert "the renderer crashed on it" in refusal(deep)
    assert draw_svg(plain, 16, "white").tobytes() == before


def test_a_drawing_that_never_ends(monkeypatch):
    draw_svg(drawing(""), 16, "white")
    monkeypatch.setattr(render_process, "SECONDS", 0.1)
    render_process.RENDERER._process.send_signal(signal.SIGSTOP)
    assert "it takes longer than 0.1 seconds to render" in refusal(drawing(""))
    monkeypatch.undo()
    assert draw_svg(drawing(""), 16, "white").size == (16, 16)


def test_a_renderer_that_was_killed_is_started_again():
    expected = draw_svg(drawing(""), 16, "blue").tobytes()
    process = render_process.RENDERER._process
    process.kill()
    process.wait()
    assert draw_svg(drawing(""), 16, "blue").tobytes() == expected


def test_a_forked_process_has_a_renderer_of_its_own():
    draw_svg(drawing(""), 16, "white")
    with multiprocessing.get_context("fork").Pool(2) as pool:
        sizes = pool.starmap(_size_of, [(drawing(""), width) for width in range(8, 40)])
    assert sizes == [(width, width) for width in range(8, 40)]


def _size_of(svg, width):
    return draw_svg(svg, width, "white").size
