"""What the page relies on in matplotlib's SVG writer: group ids for marks, colours as they were given."""

from __future__ import annotations

import re
from xml.etree import ElementTree as Xml

import pytest

from onnx_lowrank.report.svg import PLACEHOLDERS, open_chart


@pytest.fixture(scope="module")
def svg() -> Xml.Element:
    """A line, a dot and a bar as marks, with every role in use."""
    before, after, surface = (PLACEHOLDERS[role] for role in ("before", "after", "surface"))
    with open_chart(200, 100, (30, 20, 5, 5)) as chart:
        (line,) = chart.axes.plot([0, 1, 2], [0, 2, 1], color=before)
        (dot,) = chart.axes.plot([1], [2], "o", color=after, markerfacecolor=surface)
        (bar,) = chart.axes.bar([2], [1], 0.5, color=after)
        chart.axes.set_xlabel("layer <1> & 2")
        chart.mark(line, "curve", "1", "a line: 50 %")
        chart.mark(dot, "rank", "of 2", "a dot")
        chart.mark(bar, "after", "3", "")
        return Xml.fromstring(chart.markup("demo", "What it shows."))


def test_marks_are_groups_with_class_subject_and_tooltip(svg: Xml.Element) -> None:
    marks = [group for group in svg.iter("g") if group.get("class", "").startswith("mark ")]
    subjects = {group.get("class"): (group.get("data-of"), group.findtext("title", "")) for group in marks}
    assert subjects == {
        "mark curve": ("1", "a line: 50 %"),
        "mark rank": ("of 2", "a dot"),
        "mark after": ("3", ""),
    }
    for group in marks:
        assert next(iter(group)).tag == "title"
        assert any(element.tag in {"path", "use"} for element in group.iter())
        assert "clip-path" not in {key for element in group.iter() for key in element.attrib}


def test_every_colour_is_a_variable_of_the_page(svg: Xml.Element) -> None:
    styles = " ".join(element.get("style", "") for element in svg.iter())
    assert set(re.findall(r"var\(--(\w+)\)", styles)) == set(PLACEHOLDERS)
    assert "#" not in styles
    assert "font-family" not in Xml.tostring(svg, encoding="unicode")


def test_ids_are_those_of_the_chart_and_all_references_lead_to_one(svg: Xml.Element) -> None:
    ids = [value for element in svg.iter() if (value := element.get("id")) is not None]
    assert len(ids) == len(set(ids))
    assert all(value == "demo" or value.startswith("demo-") for value in ids)
    text = Xml.tostring(svg, encoding="unicode")
    references = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text)
    assert references
    assert {one or other for one, other in references} <= set(ids)


def test_text_stays_text(svg: Xml.Element) -> None:
    assert "layer <1> & 2" in [element.text for element in svg.iter("text")]
    assert (svg.get("role"), svg.get("aria-label")) == ("img", "What it shows.")
