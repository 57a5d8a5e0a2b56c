"""SVG for hostile.py that stays well-formed XML, so that it reaches the checks and the renderer."""

import copy
import re
from xml.etree import ElementTree

from hostile_inputs import Drawings

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd]")
IDS = ("a", "b", "g", "f", "p", "m", "self")
VALUES = (
    "", " ", "0", "-1", "1e38", "-1e38", "1e-38", "1e308", "1e999", "NaN", "inf", "4294967296", "9" * 400, "1e9px",
    "1e30%", "1" * 100_000 + "!", "1" + " " * 100_000 + "!", "0 0 1e9 1e-9", "0 0 1e-30 1e-30", "0 0 10 10 10",
    "url(" + " " * 50_000 + "#a)", "url(#a)" * 2_000, "url(#self)", "url(#missing)", "url(/dev/zero)",
    "url(\"../x.svg#a\")", "/dev/zero", "file:///dev/zero", "http://127.0.0.1:1/x.png", "../../x.png", "#self", "#a#b",
    "data:image/png;base64,AAAA", "data:image/svg+xml,<svg/>", "data:image/gif;base64,R0lGODlh/////w==", "data:,x",
    "M0 0" + "L1e30-1e30" * 500, "M" + "0 " * 30_001, "M0 0A1e30 1e-30 0 1 1 9 9Z", "M nan nan C", "m0 0h1e38v1e38z",
    "scale(1e38)", "matrix(0 0 0 0 0 0)", "matrix(1e38 1e38 1e38 1e38 1e38 1e38)", "rotate(" * 500, "skewX(90)",
    "1e-9", "1e-9 1e-9", "0 0", "blur(1e9px)", "userSpaceOnUse", "objectBoundingBox", "currentColor", "#12",
    "rgb(1e9,1e9,1e9)", "inherit", "bolder", "1e6em", "\u202e\u0301" * 100, "♥",
)  # fmt: skip
ATTRIBUTES = (
    "id", "href", "x", "y", "width", "height", "viewBox", "d", "points", "transform", "fill", "stroke", "stroke-width",
    "stroke-dasharray", "stroke-miterlimit", "r", "rx", "opacity", "clip-path", "mask", "filter", "marker-mid", "style",
    "class", "gradientTransform", "patternUnits", "patternTransform", "spreadMethod", "preserveAspectRatio", "offset",
    "stdDeviation", "baseFrequency", "numOctaves", "radius", "order", "kernelMatrix", "scale", "in", "result", "mode",
    "tableValues", "surfaceScale", "font-size", "font-family", "letter-spacing", "textLength", "dx", "rotate",
    "startOffset", "visibility", "display", "systemLanguage", "requiredExtensions",
)  # fmt: skip
ELEMENTS = (
    "g", "svg", "use", "symbol", "defs", "rect", "circle", "ellipse", "line", "polyline", "polygon", "path", "image",
    "text", "tspan", "textPath", "switch", "a", "style", "marker", "clipPath", "mask", "pattern", "filter", "stop",
    "linearGradient", "radialGradient", "feGaussianBlur", "feTurbulence", "feMorphology", "feConvolveMatrix", "feImage",
    "feTile", "feOffset", "feFlood", "feBlend", "feComposite", "feMerge", "feDisplacementMap", "feDiffuseLighting",
    "feSpecularLighting", "fePointLight", "feColorMatrix", "feComponentTransfer", "feFuncR", "feDropShadow", "unknown",
)  # fmt: skip
DEEPEST = 250  # beyond the limit of the checks, and not that of ElementTree
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)


class DrawingElements(Drawings):
    """SVG whose elements, attributes and references are changed."""

    def mutated(self, content: bytes, edits: list[tuple[float, str, bytes, int]]) -> bytes:
        """`content` after edits, each of an element at a share of their number."""
        root = ElementTree.fromstring(content)
        try:
            return ElementTree.tostring(self._changed(root, edits))
        except RecursionError:  # of ElementTree, which is ours here
            return content

    def _changed(self, root: ElementTree.Element, edits: list[tuple[float, str, bytes, int]]) -> ElementTree.Element:
        for place, action, piece, count in edits:
            elements = list(root.iter())
            if len(elements) > 1 and count % 8:  # without its size the root is refused before anything else
                elements = elements[1:]
            number = min(int(place * len(elements)), len(elements) - 1)
            _edit(elements[number], elements, action, piece, count)
        return root


def _edit(
    element: ElementTree.Element, elements: list[ElementTree.Element], action: str, piece: bytes, count: int
) -> None:
    choice = int.from_bytes(piece[:4], "big") + count
    if action == "replace":
        names = list(element.attrib) if element.attrib and choice % 3 else list(ATTRIBUTES)
        _set(element, names[choice % len(names)], piece, count)
    elif action == "insert":
        child = ElementTree.Element(f"{{{SVG}}}{ELEMENTS[choice % len(ELEMENTS)]}")
        _set(child, ATTRIBUTES[count % len(ATTRIBUTES)], piece, count)
        _set(child, ATTRIBUTES[choice * 7 % len(ATTRIBUTES)], piece[::-1], count + 1)
        child.text = _text(piece, choice)
        element.append(child)
    elif action == "double":
        _repeat(element, choice, count)
    elif action == "delete":
        element.attrib.clear()
    else:  # move an element into another
        other = elements[choice % len(elements)]
        element.append(copy.deepcopy(other))


def _set(element: ElementTree.Element, name: str, piece: bytes, count: int) -> None:
    if name == "id" or count % 4 == 0:
        target = IDS[count % len(IDS)]
        value = target if name == "id" else f"#{target}" if name.endswith("href") else f"url(#{target})"
        element.set(name, value)
        return
    element.set(f"{{{XLINK}}}href" if name == "href" and count % 2 else name, _text(piece, count))


def _text(piece: bytes, choice: int) -> str:
    if choice % 5 == 0:
        return NO_XML.sub("", piece.decode("utf-8", "replace"))
    return VALUES[choice % len(VALUES)]


def _repeat(element: ElementTree.Element, choice: int, count: int) -> None:
    """Many copies beside one another, one inside the other, or each of which refers to the next."""
    kind = choice % 4
    if kind == 0:
        name, size = element.tag, len(element) + 1
        element.extend([ElementTree.Element(name, dict(element.attrib)) for _ in range(count * 10 // size)])
    elif kind == 1:
        inner = element
        for _ in range(min(DEEPEST, count)):
            inner = ElementTree.SubElement(inner, element.tag, dict(element.attrib))
    elif kind == 2:
        for number in range(count):
            part = ElementTree.SubElement(element, f"{{{SVG}}}g", {"id": f"n{number}"})
            ElementTree.SubElement(part, f"{{{SVG}}}use", {"href": f"#n{number + 1}"})
    else:
        owner = ("mask", "clipPath", "pattern", "filter", "marker", "linearGradient")[count % 6]
        attribute = ("mask", "clip-path", "fill", "filter", "marker-mid", "href")[count % 6]
        for number in range(count):
            refers = f"#k{number + 1}" if attribute == "href" else f"url(#k{number + 1})"
            size = {"id": f"k{number}", "width": "9", "height": "9", attribute: refers}
            part = ElementTree.SubElement(element, f"{{{SVG}}}{owner}", size)
            ElementTree.SubElement(part, f"{{{SVG}}}rect", {"width": "9", "height": "9", attribute: refers})
