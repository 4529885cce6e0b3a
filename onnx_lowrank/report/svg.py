"""Turn matplotlib figures into SVG elements that follow the style sheet of a page.

Charts need two things that matplotlib's SVG writer does not know: CSS variables, so that one chart serves light and
dark pages, and tooltips. Both are added to the SVG text that it has written, and only here:

- Colours. Charts draw in the colours of `PLACEHOLDERS`, which stand for nothing but themselves; `_style` replaces each
  by the CSS variable ``var(--role)``.
- Marks. `Chart.mark` gives an artist a group id, which matplotlib writes as the id of the artist's ``<g>`` element;
  `Chart.markup` finds the element by it and adds a class and a tooltip. matplotlib's gallery does the same ("SVG
  Tooltip").

``tests/report/test_svg.py`` fails if a version of matplotlib writes either in another way.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.etree import ElementTree as Xml

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours to draw with, by the CSS variable that replaces them.
PLACEHOLDERS = {"text": "#010101", "rule": "#020202", "before": "#030303", "after": "#040404", "surface": "#050505"}
_PIXELS_PER_INCH = 72  # a pixel of the page is a point of the figure
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": PLACEHOLDERS["rule"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": PLACEHOLDERS["text"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": True,
    "font.size": 12,
    "grid.color": PLACEHOLDERS["rule"],
    "grid.linewidth": 0.8,
    "lines.markeredgewidth": 1.5,
    "lines.markersize": 6,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "onnx-lowrank",  # the same ids every time
    "xtick.bottom": False,
    "xtick.color": PLACEHOLDERS["text"],
    "ytick.color": PLACEHOLDERS["text"],
    "ytick.left": False,
}


@dataclass(frozen=True)
class _Mark:
    kind: str
    subject: str
    tooltip: str


@dataclass(frozen=True, eq=False)
class Chart:
    """A figure with one pair of axes; `open_chart` makes it.

    Attributes:
        figure: the matplotlib figure.
        axes: to draw on.
    """

    figure: Figure
    axes: Axes
    _marks: dict[str, _Mark] = field(default_factory=dict)  # by group id

    def mark(self, artist: Artist, kind: str, subject: str, tooltip: str) -> None:
        """Make a mark of the chart out of something drawn: give it a class and a tooltip.

        Args:
            artist: what was drawn.
            kind: its CSS class besides ``mark``, one word.
            subject: what it shows, such as the number of a layer; becomes ``data-of``.
            tooltip: text shown when the pointer rests on it.
        """
        group_id = f"mark{len(self._marks)}"
        self._marks[group_id] = _Mark(kind, subject, tooltip)
        artist.set_gid(group_id)
        artist.set_clip_on(False)

    def markup(self, name: str, description: str) -> str:
        """Return the figure as an ``<svg>`` element; call it inside the block of `open_chart`.

        Args:
            name: id of the element, unique in the page, letters and digits.
            description: text alternative for those who cannot see the chart.
        """
        stream = io.StringIO()
        self.figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        root = Xml.fromstring(stream.getvalue())
        for child in root.findall("{*}metadata"):
            root.remove(child)
        for element in root.iter():
            group_id = element.get("id", "")
            _clean(element, name)
            if (mark := self._marks.get(group_id)) is not None:
                _add_mark(element, mark)
        width, height = root.attrib["viewBox"].split()[2:]
        root.attrib.clear()
        root.attrib.update({"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": description, "id": name})
        root.set("style", f"--width: {width}px")
        return Xml.tostring(root, encoding="unicode")


@contextmanager
def open_chart(width: int, height: int, margins: tuple[int, int, int, int]) -> Iterator[Chart]:
    """Open a chart to draw on, whatever matplotlib settings the user has.

    Args:
        width: of the figure, in pixels.
        height: of the figure, in pixels.
        margins: around the axes in pixels: left, bottom, right, top.
    """
    from matplotlib import style  # noqa: PLC0415 - an extra, and slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    left, bottom, right, top = margins
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH))
        box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
        yield Chart(figure, figure.add_axes(box))


def _add_mark(element: Xml.Element, mark: _Mark) -> None:
    element.set("class", f"mark {mark.kind}")
    element.set("data-of", mark.subject)
    title = Xml.Element("title")
    title.text = mark.tooltip
    element.insert(0, title)


def _clean(element: Xml.Element, name: str) -> None:
    """Remove what a page does not need from an element, and make its ids, colours and fonts those of the page."""
    element.tag = _without_namespace(element.tag)
    element.tail = None
    if element.tag == "style" or not (element.text or "").strip():
        element.text = None
    attributes = {_without_namespace(key): value for key, value in element.attrib.items()}
    group_id = attributes.pop("id", None)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    element.attrib.clear()
    element.attrib.update({key: _attribute(key, value, name) for key, value in attributes.items()})
    if element.tag in {"path", "clipPath"} and group_id is not None:  # other elements refer to these
        element.set("id", f"{name}-{group_id}")


def _without_namespace(name: str) -> str:
    return name.rpartition("}")[2]


def _attribute(key: str, value: str, name: str) -> str:
    """Return the value of an attribute as the page has it: with ids of its own, short, in the page's colours."""
    if key in {"href", "clip-path"}:
        return value.replace("#", f"#{name}-")
    if key == "style":
        return _style(value)
    return re.sub(r"(\.\d\d)\d+", r"\1", " ".join(value.split()))


def _style(declarations: str) -> str:
    """Return CSS declarations with variables of the page for placeholders, and without a font of their own."""
    for role, colour in PLACEHOLDERS.items():
        declarations = declarations.replace(colour, f"var(--{role})")
    return re.sub(r" font-family: [^;]*;", "", declarations)
