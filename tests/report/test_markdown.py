"""The Markdown report, read back by a parser of Markdown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from onnx_lowrank.report import Report, headline, to_markdown
from tests.report.test_report import REPORT

PARSER = MarkdownIt("commonmark").enable("table")


def tables(text: str) -> list[list[list[str]]]:
    """Tables, rows, cells as a reader sees them."""
    found: list[list[list[str]]] = []
    for token, inner in zip(tokens := PARSER.parse(text), tokens[1:], strict=False):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in {"td_open", "th_open"}:
            # Nothing but plain text: no emphasis, no code, no links.
            assert {child.type for child in inner.children or ()} <= {"text", "text_special"}
            found[-1][-1].append("".join(child.content for child in inner.children or ()))
    return found


def test_what_it_says() -> None:
    text = to_markdown(REPORT)
    totals, outputs, layers = tables(text)
    assert totals == [
        ["", "before", "after", "ratio"],
        ["multiply-adds", "1.84 M", "872 k", "2.12x"],
        ["parameters", "19.8 k", "9.96 k", "1.99x"],
        ["file", "80 kB", "41 kB", "1.95x smaller"],
        ["latency, batch 1, default threads", "30 ms", "16 ms", "1.88x"],
    ]
    assert outputs[1:] == [["scores", "0.0625", "0.9980", "75.0%"]]
    assert layers[1:] == [
        ["c1 (Conv)", "spatial-channel", "spatial 16, channel 24", "1.84 M", "870 k", "0.9375", "0.1250", ""],
        ["fc (Gemm)", "kept", "", "1.28 k", "", "", "", "fully connected layers are not factorized"],
    ]
    assert text.startswith("# in.onnx, 2.12x fewer multiply-adds\n")
    assert "Calibrated with 48 samples of photos (60 images) on cpu, seed 7." in text
    assert "synthetic" not in text
    assert text.endswith("onnx-lowrank 1.2.3, 4 s.\n")


def test_input_ranks() -> None:
    mixed = replace(REPORT.layers[0], method="tucker", spatial=None, input=5)
    *_, layers = tables(to_markdown(replace(REPORT, layers=(mixed,))))
    assert layers[1][:3] == ["c1 (Conv)", "tucker", "input 5, channel 24"]


def test_a_dry_run_has_nothing_to_compare_or_time() -> None:
    text = to_markdown(replace(REPORT, verification=None, latency=None, file_bytes=(80_000, None)))
    totals, layers = tables(text)
    assert len(totals) == 3
    assert len(layers) == 3
    assert "Compared" not in text


def test_synthetic_images_are_marked() -> None:
    calibration = replace(REPORT.calibration, synthetic=True)
    assert "**Calibrated with synthetic images**" in to_markdown(replace(REPORT, calibration=calibration))


def named(name: str) -> Report:
    return replace(REPORT, layers=(replace(REPORT.layers[0], name=name),))


@pytest.mark.parametrize(
    "name", ["a|b", "*bold*", "`code`", "[link](x)", "<b>", "# title", "a_b_c", "\\", "&amp;x", "~x~"]
)
def test_names_mean_nothing_to_markdown(name: str) -> None:
    assert tables(to_markdown(named(name)))[-1][1][0] == f"{name} (Conv)"


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1).map(lambda text: " ".join(text.split()))
)
def test_any_name_stays_in_its_cell(name: str) -> None:
    assert tables(to_markdown(named(name)))[-1][1][0] == f"{name} (Conv)".strip()


def test_an_error_that_is_no_number() -> None:
    assert REPORT.verification is not None
    infinite = {"relative_error": None, "cosine": 0.0, "agreement": None, "close": False}
    report = replace(REPORT, verification=REPORT.verification | {"outputs": {"map": infinite}})
    assert tables(to_markdown(report))[1][1] == ["map", "infinite", "0.0000", ""]
    assert any("map: relative error infinite" in line for line in headline(report))
