"""Figures of matplotlib as SVG inside a page: its colours and fonts are the page's, its marks can be told apart.

Colours in a figure stand for roles; the style sheet says what they are in light and in dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Xml

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The colours to draw with, by the variable of the style sheet that takes their place.
ROLES = {"text": "#010101", "rule": "#020202", "before": "#030303", "after": "#040404", "surface": "#050505"}
_POINT = 72  # per inch: a pixel of the page is a point of the figure
_STYLE = {
    "axes.edgecolor": ROLES["rule"],
    "axes.labelcolor": ROLES["text"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "font.size": 12,
    "grid.color": ROLES["rule"],
    "grid.linewidth": 0.8,
    "lines.markeredgewidth": 1.5,
    "lines.markersize": 6,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "onnx-lowrank",  # the same ids every time
    "xtick.bottom": False,
    "xtick.color": ROLES["text"],
    "ytick.color": ROLES["text"],
    "ytick.left": False,
}


@contextmanager
def drawing(width: int, height: int, margins: tuple[int, int, int, int]) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of axes, to be drawn on and handed to `markup` inside the block.

    Args:
        width: of the figure, in pixels.
        height: likewise.
        margins: around the axes: left, bottom, right, top.
    """
    from matplotlib import style  # noqa: PLC0415 - an extra, and slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    left, bottom, right, top = margins
    with style.context(["default", _STYLE]):  # whatever the user's own settings are
        figure = Figure(figsize=(width / _POINT, height / _POINT))
        place = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
        yield figure, figure.add_axes(place)


def tag(artist: Artist, kind: str, name: str, text: str) -> None:
    """Mark what is drawn as one mark of a chart.

    Args:
        artist: what is drawn.
        kind: class of the mark, one word.
        name: of what it shows, a layer's number say; no spaces.
        text: shown where the mouse rests on it.
    """
    artist.set_gid(f"mark {kind} {name} {text}")
    artist.set_clip_on(False)


def markup(figure: Figure, name: str, text: str) -> str:
    """A figure as an ``<svg>`` element.

    Args:
        figure: drawn inside of `drawing`.
        name: unique in the page, letters and digits.
        text: what it shows, for those who cannot see it.
    """
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    root = Xml.fromstring(stream.getvalue())
    for child in root.findall("{*}metadata"):
        root.remove(child)
    for element in root.iter():
        _clean(element, name)
    width, height = root.attrib["viewBox"].split()[2:]
    root.attrib.clear()
    root.attrib.update({"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": text, "id": name})
    root.set("style", f"--width: {width}px")
    return Xml.tostring(root, encoding="unicode")


def _clean(element: Xml.Element, name: str) -> None:
    """Drop what a page does not need, and have colours, fonts and ids be its own."""
    element.tag = element.tag.partition("}")[2] or element.tag
    element.tail = None
    if element.text is not None and not element.text.strip():
        element.text = None
    if element.tag == "style":
        element.text = None
    attributes = {key.partition("}")[2] or key: value for key, value in element.attrib.items()}
    element.attrib.clear()
    element.attrib.update({key: _short(key, value, name) for key, value in attributes.items() if key != "id"})
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    kind, *rest = attributes.get("id", "").split(" ", 3)
    if kind == "mark":
        element.set("class", f"mark {rest[0]}")
        element.set("data-of", rest[1])
        title = Xml.Element("title")
        title.text = rest[2]
        element.insert(0, title)
    elif element.tag in {"path", "clipPath"} and "id" in attributes:  # those that others refer to
        element.set("id", f"{name}-{attributes['id']}")


def _short(key: str, value: str, name: str) -> str:
    if key in {"href", "clip-path"}:
        return value.replace("#", f"#{name}-")
    if key == "style":
        for role, colour in ROLES.items():
            value = value.replace(colour, f"var(--{role})")
        return re.sub(r" font-family: [^;]*;", "", value)
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))
