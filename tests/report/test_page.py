"""The page, read back by a parser of HTML."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.report import Report, ReportFigures, to_html
from tests.report.pages import FIGURES, deep, sample
from tests.report.test_report import REPORT

VOID = {"meta", "link", "img", "wbr", "input", "br"}


class Page(HTMLParser):
    """Elements of a page with their attributes, the text of those that were asked for, and what was left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.cells: list[list[str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.text += " "
        if tag == "tr":
            self.cells.append([])
        elif tag in {"td", "th"}:
            self.cells[-1].append("")

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data.strip()

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def marks(self) -> Counter[str]:
        found = [
            attributes["class"].split() for _, attributes in self.elements if "mark" in attributes.get("class", "")
        ]
        return Counter(kind for mark, kind in found if mark == "mark")

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page(report: Report = REPORT, figures: ReportFigures = FIGURES) -> Page:
    found = Page(to_html(report, figures))
    assert found.open == []
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    return found


@pytest.fixture(scope="module")
def usual() -> Page:
    """The page of the usual report, made once."""
    return page()


def test_headline(usual: Page) -> None:
    words = usual.words
    assert (
        "2.12× fewer multiply-adds, 1.88× faster as measured; same top class on 75.0% of 12 held-out samples." in words
    )
    for text in (
        "Multiply-adds 2.12× fewer 1.84 M → 872 k",
        "Parameters 1.99× fewer 19.8 k → 9.96 k",
        "File 2.00× smaller 80 kB → 40 kB",
        "Latency 1.88× faster 30 ms → 16 ms; batch 1, default threads",
        "Same top class 75.0% 12 held-out samples",
        "48 samples of photos (60 images), up to 100 positions each, on cpu",
    ):
        assert text in words
    assert "Synthetic" not in words


def test_a_network_that_does_not_classify_has_an_error_instead() -> None:
    outputs = {"boxes": {"relative_error": 0.0625, "cosine": 0.998, "agreement": None}}
    words = page(replace(REPORT, verification={"images": 12, "outputs": outputs}), replace(FIGURES, samples=())).words
    assert "Relative error 0.0625 12 held-out samples" in words
    assert "top class" not in words
    assert "Predictions" not in words
    outputs["boxes"]["relative_error"] = None
    assert "Relative error infinite" in page(replace(REPORT, verification={"images": 12, "outputs": outputs})).words


def test_the_table_has_a_row_for_every_layer(usual: Page) -> None:
    titles, first, last = (row for row in usual.cells if row[0] in {"#", "1", "2"} and len(row) > 4)
    assert titles == [
        "#", "layer", "op", "weight", "method", "spatial rank", "channel rank", "MACs before", "MACs after",
        "ms before", "ms after", "energy", "error, linear", "error, solved", "reason",
    ]  # fmt: skip
    assert first == [
        "1", "c1", "Conv", "64×32×3×3", "spatial-channel", "16", "24", "1.84 M", "870 k",
        "2.5", "1.25", "0.9375", "0.2500", "0.1250", "",
    ]  # fmt: skip
    assert last[:5] == ["2", "fc", "Gemm", "", "kept"]
    assert last[-1] == "fully connected layers are not factorized"


def test_columns_that_would_be_empty_are_left_out() -> None:
    layers = tuple(replace(layer, milliseconds=None, errors=None, reason=None) for layer in REPORT.layers)
    titles = next(row for row in page(replace(REPORT, layers=layers)).cells if row[0] == "#")
    assert not {"ms before", "ms after", "error, linear", "error, solved", "reason"} & set(titles)


@pytest.mark.parametrize("count", [1, 2, 34])  # past 32 the charts take the whole width
def test_every_layer_has_its_marks_in_the_charts(count: int) -> None:
    found = page(*deep(count))
    solved = max(1, count - 1)
    wanted = {"linear": solved, "solved": solved, "before": count, "after": count, "curve": count, "rank": solved}
    assert found.marks() == wanted
    assert len(found.all("svg")) == count + 2


def test_charts_say_what_they_show(usual: Page) -> None:
    charts = usual.all("svg")
    assert [chart["role"] for chart in charts] == ["img"] * 3
    assert [chart["aria-label"] for chart in charts] == [
        "Relative error after the activation of 1 solved layers: 0.1250 at layer 1, 0.1250 at layer 1, largest 0.1250 "
        "at layer 1, c1.",
        "Multiply-adds of 2 layers: 1.84 M before, 872 k after; the largest afterwards is layer 1, c1, 870 k.",
        "Energy kept over channel rank, c1: rank 35 of 64 keeps 90%; the chosen rank 24 keeps 75.6%.",
    ]


def test_colours_and_fonts_of_charts_are_those_of_the_page() -> None:
    html = to_html(REPORT, FIGURES)
    charts = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert charts.count("<svg") == 3
    assert "var(--after)" in charts
    assert not re.search(r"(fill|stroke): #", charts)
    assert "font-family" not in charts
    assert "<text" in charts


def test_a_dry_run() -> None:
    layers = tuple(replace(layer, errors=None, milliseconds=None) for layer in REPORT.layers)
    report = replace(REPORT, layers=layers, verification=None, latency=None, output=None)
    found = page(report, replace(FIGURES, samples=(), file_bytes=(80_000, None)))
    assert "2.12× fewer multiply-adds: a plan, nothing was solved or written." in found.words
    assert "Latency not measured" in found.words
    assert "File 80 kB nothing was written" in found.words
    assert "Fidelity unknown" in found.words
    assert "Nothing was solved." in found.words
    assert found.marks() == {"before": 2, "after": 2, "curve": 1, "rank": 1}


def test_synthetic_images_are_said_first() -> None:
    calibration = replace(REPORT.calibration, synthetic=True)
    words = page(replace(REPORT, calibration=calibration)).words
    assert words.index("Synthetic images.") < words.index("Multiply-adds")
    assert "75.0% 12 synthetic samples" in words
    assert "held-out samples" not in words


def test_layers_without_a_channel_rank_have_a_curve_and_no_mark() -> None:
    spatial = replace(REPORT.layers[0], method="spatial", channel=None)
    found = page(replace(REPORT, layers=(spatial, REPORT.layers[1])))
    assert "spatial rank 16, all channels" in found.words
    assert found.marks()["curve"] == 1
    assert found.marks()["rank"] == 0
    assert found.all("svg")[2]["aria-label"].endswith("keeps 90%; no channel rank was chosen.")


def test_input_ranks_have_a_column_where_there_are_any() -> None:
    mixed = replace(REPORT.layers[0], method="input", channel=None, spatial=None, input=5)
    found = page(replace(REPORT, layers=(mixed, REPORT.layers[1])))
    assert "input rank 5, all channels" in found.words
    assert "input rank" in found.words.partition("MACs before")[0]
    assert "input rank" not in page(REPORT).words
    both = replace(mixed, method="tucker", channel=24)
    assert "rank 24 of 64 keeps" in page(replace(REPORT, layers=(both, REPORT.layers[1]))).words


def test_no_layers_that_cost_anything() -> None:
    layers = tuple(replace(layer, macs=(0, 0)) for layer in REPORT.layers)
    assert page(replace(REPORT, layers=layers, macs=(0, 0), parameters=(0, 0))).marks()["after"] == 2
    assert page(replace(REPORT, layers=()), replace(FIGURES, energies={})).marks() == {}


NASTY = "</title><img src=x onerror=alert(1)> & \"q\" 'a' $x$ {{ 7 * 7 }} ünï/{}"


def test_names_mean_nothing_to_the_page() -> None:
    report, figures = deep(3, NASTY.replace("{{", "{{{{").replace("}}", "}}}}"))
    report = replace(report, input=f"/a/{NASTY}", calibration=replace(report.calibration, source=NASTY))
    outputs = {NASTY: {"relative_error": 0.5, "cosine": 0.9, "agreement": 0.75}}
    found = page(replace(report, verification={"images": 12, "outputs": outputs}), figures)
    assert len(found.all("img")) == 3
    assert not any("onerror" in attributes for _, attributes in found.elements)
    assert NASTY.format(0).replace("{ 7 * 7 }", "{{ 7 * 7 }}") in found.words
    assert NASTY.format(0).replace("{ 7 * 7 }", "{{ 7 * 7 }}") in found.all("svg")[2]["aria-label"]


def test_it_loads_nothing() -> None:
    html = to_html(REPORT, FIGURES)
    assert not re.search(r"https?:|//\w|@import", re.sub(r'"data:[^"]*"', "", html))
    found = Page(html)
    loaded = [attributes[key] for _, attributes in found.elements for key in ("src", "href") if key in attributes]
    assert all(each.startswith(("data:", "#")) for each in loaded)
    assert "default-src 'none'" in html


def test_pictures_and_the_predictions_of_both_models(usual: Page) -> None:
    found = usual
    pictures = found.all("img")
    assert [each["src"].split(",")[0] for each in pictures] == ["data:image/png;base64"] * 2 + [
        "data:image/jpeg;base64"
    ]
    assert pictures[0]["alt"] == "Held-out sample 4: class 3 in the original, class 1 in the converted model"
    assert (pictures[2]["width"], pictures[2]["height"]) == ("100", "80")
    assert (
        "3 of 12 held-out samples with the top classes of both models. On 3 of all 12 samples the models" in found.words
    )
    assert "sample 4 differ Top classes of sample 4 original converted 3 4.62 1 1.25 1 1.25 3 4.62 0 -0.50 0 -0.50" in (
        found.words
    )
    assert "sample 1 agree" in found.words


def test_probabilities_are_shares() -> None:
    figures = replace(FIGURES, samples=(sample(1, agree=True, probabilities=True),))
    found = page(figures=figures)
    assert "3 75.0% 3 75.0% 1 20.0% 1 20.0%" in found.words
    assert [each["style"] for each in found.all("span") if each.get("class") == "share"][:2] == ["width: 75.0%"] * 2


@pytest.mark.parametrize(("factor", "text"), [(1e-9, "4.63e-09"), (1e-3, "0.00462"), (100, "462 "), (1e6, "4.62e+06")])
def test_scores_of_any_size_are_short(factor: float, text: str) -> None:
    scores = ((0, 4.625 * factor), (1, 0.0))
    shown = replace(FIGURES.samples[0], original=scores, converted=scores)
    assert f"0 {text}" in page(figures=replace(FIGURES, samples=(shown,))).words


def test_the_same_bytes_every_time_whatever_the_users_settings() -> None:
    first = to_html(REPORT, FIGURES)
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path", "axes.grid": True}):
        assert to_html(REPORT, FIGURES) == first
        assert mpl.rcParams["font.size"] == 30


def test_flat_curves() -> None:
    figures = replace(FIGURES, energies={"c1": np.ones(65)})
    assert page(figures=figures).all("svg")[2]["aria-label"].startswith("Energy kept over channel rank, c1: rank 0 of")


@pytest.mark.parametrize(("module", "package"), [("jinja2", "Jinja2"), ("matplotlib.figure", "matplotlib")])
def test_packages_that_are_not_there(monkeypatch: pytest.MonkeyPatch, module: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingDependencyError,
        match=rf"to_html: {package}, which makes the page, is not installed .*: pip install 'onnx-lowrank\[report\]'",
    ):
        to_html(REPORT, FIGURES)


def test_what_makes_pages_is_imported_for_pages_alone() -> None:
    code = "import sys, onnx_lowrank.cli; print(sorted({'jinja2', 'matplotlib'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
