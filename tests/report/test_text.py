"""Phrases that all kinds of report share: they agree with the numbers beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from onnx_lowrank.report import Report, headline, labelled, to_html, to_markdown
from tests.report.pages import FIGURES
from tests.report.test_report import REPORT


@pytest.mark.parametrize(("close", "word"), [(True, "close"), (False, "not close"), (None, "random")])
def test_quality_has_words_of_its_own(close: bool | None, word: str) -> None:
    outputs = {"y": {"relative_error": 0.5, "cosine": 0.9, "agreement": None, "close": close}}
    lines = headline(replace(REPORT, verification={"images": 12, "outputs": outputs}))
    (quality,) = (line for line in lines if "relative error" in line)
    assert quality == f"{word:<12}y: relative error 0.5000 on 12 held-out samples"
    assert [line.split()[0] for line in lines].count("verified") == 1


def timed(before: float, after: float, *bounds: float) -> Report:
    times = {"before_ms": before, "after_ms": after, "speedup": before / after, "steady": True}
    return replace(REPORT, latency=times | {"interval": list(bounds), "batch": 1, "threads": 1})


@pytest.mark.parametrize(
    ("before", "after", "bounds", "text"),
    [
        (23.1, 21.9, (1.04, 1.07), "23.1 -> 21.9 ms (1.05x faster, 1.04 to 1.07, batch 1, 1 thread)"),
        (21.9, 23.1, (0.93, 0.97), "21.9 -> 23.1 ms (1.05x slower, 1.03 to 1.08, batch 1, 1 thread)"),
        (30.0, 30.01, (0.97, 1.02), "30 -> 30.01 ms (as fast, 1.03x slower to 1.02x faster, batch 1, 1 thread)"),
        (2.00049, 1.00001, (2.0, 2.0), "2 -> 1 ms (2.00x faster, batch 1, 1 thread)"),  # not 2.0005
    ],
)
def test_the_ratio_follows_from_what_is_shown(
    before: float, after: float, bounds: tuple[float, float], text: str
) -> None:
    report = timed(before, after, *bounds)
    assert f"latency     {text}" in headline(report)
    times, word = text.partition(" ms")[0].split(" -> "), text.partition("(")[2].partition(",")[0]
    ratio = float(times[0]) / float(times[1])
    wanted = {"faster": f"{ratio:.2f}x faster", "slower": f"{1 / ratio:.2f}x slower"}.get(word.split()[-1], "as fast")
    assert word == wanted
    assert word.replace("x", "×") in to_html(report, FIGURES)
    shown = next(line for line in to_markdown(report).splitlines() if line.startswith("| latency"))
    assert shown.rpartition(" ms | ")[2].removesuffix(" |") in {word, word.removesuffix(" faster"), "1.00x"}


def test_more_is_not_fewer() -> None:
    report = replace(REPORT, parameters=(1000, 1250))
    assert "parameters  1 k -> 1.25 k (1.25x more)" in headline(report)
    assert "| parameters | 1 k | 1.25 k | 1.25x more |" in to_markdown(report)
    assert "1.25× more" in to_html(report, FIGURES)


def test_options_and_paths_are_not_broken_where_a_text_wraps() -> None:
    """They are there to be copied."""
    path = "/data/" + 12 * "a-long-folder/"
    for start in range(70, 100):
        lines = labelled("warning", f"{start * 'x'} lower --max-drop or see {path} then").splitlines()
        words = " ".join(lines).split()
        assert words == ["warning", start * "x", "lower", "--max-drop", "or", "see", path, "then"]
        assert all(line.startswith(12 * " ") for line in lines[1:])
        assert all(len(line) <= 100 or path in line or start * "x" in line for line in lines)
