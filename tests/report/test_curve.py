"""The numbers of a sweep, and the page they are shown on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from onnx_lowrank.report import CurvePoint, curve_table, curve_to_html, quick_text, with_front
from tests.report.curves import MACS, MISSED, MS, POINTS, curve, point

places = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=9)


@given(places)
def test_on_the_front_are_those_that_no_other_one_beats(found: list[tuple[int, int]]) -> None:
    points = [CurvePoint(2.0, 0.0, macs, accuracy={"top1": right / 6, "top5": 1.0}) for macs, right in found]
    for (macs, right), marked in zip(found, with_front(points, "macs"), strict=True):
        better = [
            (other, more)
            for other, more in found
            if (other <= macs and more >= right) and (other < macs or more > right)
        ]
        assert marked.on_front == (not better)


@pytest.mark.parametrize(("cost", "wanted"), [("macs", 2), ("params", 3), ("latency", 4)])
def test_the_front_goes_by_what_the_speedup_counts(cost: str, wanted: int) -> None:
    right = {"top1": 0.9, "top5": 1.0}
    cheap = {"macs": {2: 1}, "params": {3: 1}, "latency": {4: 1}}
    points = [
        CurvePoint(
            each, 0.0, cheap["macs"].get(each, 9), cheap["params"].get(each, 9), cheap["latency"].get(each, 9.0),
            accuracy=right,
        )
        for each in (2, 3, 4)
    ]  # fmt: skip
    assert [each.requested for each in with_front(points, cost) if each.on_front] == [wanted]


def test_errors_are_never_on_the_front_and_errors_without_bounds_are_the_largest_loss() -> None:
    endless = replace(point(9), outputs={"y": {"relative_error": None, "cosine": 0.0, "agreement": None}})
    assert [each.on_front for each in with_front([MISSED, endless, point(2)], "macs")] == [False, True, True]
    assert endless.loss == float("inf")


def test_json_has_every_field() -> None:
    found = json.loads(curve().to_json())
    assert list(found) == [
        *[
            "schema",
            "version",
            "seed",
            "input",
            "cost",
            "calibration",
            "solved",
            "held_out",
            "original",
            "latency",
            "runtime",
        ],
        *["points", "limits", "complete", "seconds", "peak_memory_bytes"],
    ]
    assert [each["on_front"] for each in found["points"]] == [True, True, False, True, False]
    assert found["points"][0] == {
        "speedup": {"requested": 2, "macs": 2, "params": 2.0, "latency": 2.2},
        "macs": MACS // 2,
        "params": 2_000_000,
        "milliseconds": pytest.approx(MS / 2.2, rel=1e-9, abs=0),
        "outputs": {"scores": {"relative_error": 0.04, "cosine": 0.99, "agreement": None, "close": True}},
        "accuracy": {"top1": 0.95, "top5": 0.99},
        "seconds": 2.5,
        "model": "out/n-2x.onnx",
        "on_front": True,
        "error": None,
        "latency": None,
        "warnings": [],
        "passed": True,
    }
    missed = found["points"][-1]
    assert missed["speedup"] == {"requested": 900, "macs": None, "params": None, "latency": None}
    assert missed["error"] == MISSED.error
    assert missed["passed"] is False


class _Page(HTMLParser):
    """Tags that are never closed, and what is referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link", "br", "wbr", "img"}:
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_startendtag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_is_whole_and_loads_nothing() -> None:
    html = curve_to_html(curve())
    assert html == curve_to_html(curve())
    page = _Page()
    page.feed(html)
    assert page.open == []
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert "://" not in re.sub(r'http://www\.w3\.org/[^"]*', "", html)


def test_the_page_shows_points_front_and_original_in_both_charts() -> None:
    html = curve_to_html(curve())
    marks = re.findall(r'class="mark (\w+)" data-of="([^"]*)"', html)
    assert marks.count(("original", "original")) == 2
    for chart in (marks[: len(marks) // 2], marks[len(marks) // 2 :]):
        assert [name for kind, name in chart if kind == "front"] == ["2", "3", "5"]
        assert [name for kind, name in chart if kind == "behind"] == ["4"]
    assert "4x: 20 M multiply-adds, top-1 91.00%" in html
    assert "4x: 2.84 ms, top-1 91.00%" in html
    assert "Top-1 95.00% at 2×, 92.00% at 5×, 96.00% in the original. 1 out of reach." in html
    assert str(MISSED.error) in html


def test_what_was_not_measured_is_not_shown() -> None:
    html = curve_to_html(curve(timed=False))
    assert "milliseconds</h3>" not in html
    assert html.count("<svg") == 1
    agreeing = curve_to_html(curve((point(2, agreement=0.97), point(3, agreement=0.9)), timed=False))
    assert "Same top class as the original (%)" in agreeing
    assert "Same top class 97.00% at 2×, 90.00% at 3×." in agreeing
    assert "top-5" not in agreeing
    errors = curve_to_html(curve((point(2), point(3)), timed=False))
    assert "Relative error 0.0400 at 2×, 0.0600 at 3×." in errors
    assert curve_to_html(curve((point(2),))).count('class="mark front"') == 2


def test_quick_points_are_said_to_be_so() -> None:
    quick = curve()
    half = quick.calibration.images // 2
    wanted = (
        f"solved without refinement with {half} of {quick.calibration.images} samples: "
        "a conversion to the same target does a little better"
    )
    assert quick_text(quick) == wanted
    assert wanted in " ".join(curve_to_html(quick).split())
    assert quick_text(replace(quick, refine="fast")) == wanted.replace("without refinement ", "")
    whole = replace(quick, refine="fast", solved_images=quick.calibration.images)
    assert not whole.quick
    assert 'id="quick"' not in curve_to_html(whole)


def test_names_mean_nothing_to_html() -> None:
    html = curve_to_html(replace(curve(), input="<script>alert(1)</script>.onnx"))
    assert "<script>alert" not in html


def test_the_table_fits_a_terminal() -> None:
    console = Console(width=80, file=None, record=True, highlight=False)
    with console.capture() as capture:
        console.print(curve_table(curve()))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["2x", "40", "M", "2.00x", "2", "M", "5.68", "2.20x", "95.00%", "*"]
    assert lines[5].split() == ["900x", "not", "met"]
    assert len(lines) == 1 + len(POINTS)
