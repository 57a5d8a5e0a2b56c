"""SVG drawings from strangers: checked before they are rendered, since the renderer would read files that they name
and end the process on some of them."""

import base64
import binascii
import io
import re
from importlib.util import find_spec
from xml.parsers import expat

from PIL import Image as PILImage, UnidentifiedImageError

from vqlm.data_prep.pictures.file_kinds import readable_formats
from vqlm.data_prep.pictures.render_process import DPI, RENDERER
from vqlm.data_prep.settings import MAX_PIXELS
from vqlm.training.extras import install_hint

# The renderer recurses; deeper drawings would overflow its stack.
MAX_DEPTH = 200
MAX_ELEMENTS = 200_000
PIXELS_PER_UNIT = {
    "": 1.0, "px": 1.0, "pt": DPI / 72, "pc": DPI / 6, "mm": DPI / 25.4, "cm": DPI / 2.54, "in": DPI,
}  # fmt: skip
# What has matched is not tried again (*+ and ++): on a long text of strangers that would take hours.
LENGTH = re.compile(r"\s*+([+-]?(?:\d++\.?\d*+|\.\d++)(?:[eE][+-]?\d++)?)\s*+([a-zA-Z%]*+)\s*+$")
URL = re.compile(r"url\(\s*+['\"]?+\s*+(?!#|data:)", re.IGNORECASE)
LOCAL_URL = re.compile(r"url\(\s*+['\"]?+\s*+#([^)'\"\s]++)", re.IGNORECASE)
EMBEDDED = re.compile(r"data:image/(?!svg)[a-z0-9.+-]+;base64,(.*)$", re.IGNORECASE | re.DOTALL)


class UnsafeDrawing(ValueError):
    """Its text says why a drawing is not rendered, for people."""


def draw_svg(svg: str, width: int, background: str, max_pixels: int = MAX_PIXELS) -> PILImage.Image:
    """Render an SVG in RGB, `width` pixels wide, without the fonts of this machine.

    Raises UnsafeDrawing if resvg-py is missing or the drawing is refused, ValueError for text that is not an SVG.
    """
    if find_spec("resvg_py") is None:
        raise UnsafeDrawing(f"SVG drawings need resvg-py; install it: {install_hint('svg')}")
    _Check(svg, width, max_pixels)
    return PILImage.open(io.BytesIO(RENDERER.render(svg, width, background))).convert("RGB")


class _Part:
    """What stands inside an element with an id, and the ids that it refers to, by their depth in it."""

    def __init__(self, depth: int):
        self.depth, self.elements, self.height = depth, 0, 0
        self.references: list[tuple[int, str]] = []


class _Check:
    """Reads the XML once, without recursion. Raises UnsafeDrawing or expat's ValueError."""

    def __init__(self, svg: str, width: int, max_pixels: int):
        self.width, self.max_pixels = width, max_pixels
        self.depth = 0
        root = _Part(0)
        self.open: list[_Part | None] = [root]  # by depth; None for an element without an id
        self.parts: dict[str, _Part] = {}
        parser = expat.ParserCreate("utf-8")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._check_urls
        try:
            parser.Parse(svg.encode("utf-8"), True)
        except expat.ExpatError as error:
            raise ValueError(f"it is not XML: {error}") from None
        self._expand(root, {}, frozenset())

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        element = name.rpartition(":")[2].lower()
        if self.depth == 1:
            self._check_size(attributes)
        part = _Part(self.depth) if "id" in attributes else None
        if part is not None:
            self.parts.setdefault(attributes["id"], part)
        self.open.append(part)
        references: list[str] = []
        for attribute, value in attributes.items():
            if attribute.rpartition(":")[2].lower() == "href":
                if element != "a":  # a link loads nothing
                    self._check_reference(value.strip())
                    references.append(value.strip()[1:])
            elif not attribute.startswith("xmlns"):
                self._check_urls(value)
                references += LOCAL_URL.findall(value)
        for outer in self.open:
            if outer is not None:
                outer.elements += 1
                outer.height = max(outer.height, self.depth - outer.depth)
                outer.references += [(self.depth - outer.depth, reference) for reference in references]
        if self.depth > MAX_DEPTH:
            raise UnsafeDrawing(f"its elements are nested more than {MAX_DEPTH} deep")

    def _end(self, _: str) -> None:
        self.depth -= 1
        self.open.pop()

    def _expand(self, part: _Part, known: dict[str, tuple[int, int]], opened: frozenset[str]) -> tuple[int, int]:
        """Elements and depth of a part with all that it refers to. Raises UnsafeDrawing beyond the limits."""
        elements, height = part.elements, part.height
        for depth, name in part.references:
            if name in opened or name not in self.parts:  # the renderer ignores references to themselves
                continue
            if len(opened) > MAX_DEPTH:
                raise UnsafeDrawing(f"its references are nested more than {MAX_DEPTH} deep")
            if name not in known:
                known[name] = self._expand(self.parts[name], known, opened | {name})
            elements += known[name][0]
            height = max(height, depth + known[name][1])
        if height > MAX_DEPTH:
            raise UnsafeDrawing(f"its elements are nested more than {MAX_DEPTH} deep")
        if elements > MAX_ELEMENTS:
            raise UnsafeDrawing(f"it has more than {MAX_ELEMENTS:,} elements")
        return elements, height

    def _check_urls(self, text: str) -> None:
        if URL.search(text):
            raise UnsafeDrawing("it refers to another file by url(); only # and data: are allowed")

    def _check_size(self, attributes: dict[str, str]) -> None:
        box = [_number(part) for part in re.split(r"[\s,]+", attributes.get("viewBox", "").strip())]
        wide, high = _pixels(attributes.get("width")), _pixels(attributes.get("height"))
        if len(box) == 4 and box[2] and box[3] and box[2] > 0 and box[3] > 0:
            if wide is None and high is None:
                wide, high = box[2], box[3]
            elif wide is None:
                wide = high * box[2] / box[3]  # type: ignore[operator]
            elif high is None:
                high = wide * box[3] / box[2]
        if wide is None or high is None or not (0 < wide < float("inf") and 0 < high < float("inf")):
            raise UnsafeDrawing("it states neither a width and height nor a viewBox that could be its size")
        # It is drawn at its own proportions, `width` pixels wide.
        if max(wide * high, self.width * self.width * high / wide) > self.max_pixels:
            raise UnsafeDrawing(
                f"it is {wide:g}x{high:g}, more than `max_pixels` {self.max_pixels:,}; scale it down, or raise "
                "`max_pixels` if you trust it"
            )

    def _check_reference(self, reference: str) -> None:
        if reference.startswith("#") or not reference:
            return
        embedded = EMBEDDED.match(reference)
        if embedded is None:
            raise UnsafeDrawing(f"it refers to {reference[:60]!r}; only # and data: of pictures are allowed")
        try:
            content = base64.b64decode(embedded[1])
            with PILImage.open(io.BytesIO(content), formats=readable_formats()) as picture:
                pixels = picture.width * picture.height
        except (binascii.Error, UnidentifiedImageError):
            return  # the renderer leaves it out
        if pixels > self.max_pixels:
            raise UnsafeDrawing(f"a picture in it has {pixels:,} pixels, more than `max_pixels` {self.max_pixels:,}")


def _number(text: str | None) -> float | None:
    length = LENGTH.match(text or "")
    return float(length[1]) if length else None


def _pixels(text: str | None) -> float | None:
    """A length in pixels; None for none and for one that depends on something else, such as 100%."""
    length = LENGTH.match(text or "")
    if length is None or length[2].lower() not in PIXELS_PER_UNIT:
        return None
    return float(length[1]) * PIXELS_PER_UNIT[length[2].lower()]
