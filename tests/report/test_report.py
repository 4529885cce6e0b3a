from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.layers.layer import SkippedLayer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.ranks.estimate import LossEstimate
from onnx_lowrank.report import Calibration, LayerReport, Report, estimate_lines, headline, layer_table, short_number
from tests.example_layers import conv_layer

LIMITS = {"warn": {"agreement": 0.95, "relative_error": 0.3}, "refuse": {"agreement": None, "relative_error": 1.0}}
LAYER = conv_layer(64, 32, (3, 3), (10, 10), name="c1")
SKIPPED = SkippedLayer("fc", "Gemm", "fully connected layers are not factorized", 1_280, 1_290)
REPORT = Report(
    version="1.2.3",
    seed=7,
    input="in.onnx",
    output="out.onnx",
    requested=2.0,
    macs=(1_844_480, 871_680),
    parameters=(19_786, 9_962),
    calibration=Calibration("photos (60 images)", synthetic=False, images=48, positions_per_image=100, provider="cpu"),
    layers=(
        LayerReport.of_planned(
            LAYER, LayerPlan("c1", "spatial-channel", 24, 16, 0.9375), 870_400, SolveErrors(0.25, 0.125), (2.5, 1.25)
        ),
        LayerReport.of_skipped(SKIPPED),
    ),
    verification={
        "images": 12,
        "outputs": {"scores": {"relative_error": 0.0625, "cosine": 0.998, "agreement": 0.75, "close": False}},
    },
    forward_passes={"original": 1.25, "converted": 1.5},
    seconds={"collect": 1.0, "ranks": 0.5, "solve": 2.0, "verify": 0.25, "total": 4.0},
    peak_memory_bytes=123,
    file_bytes=(80_000, 41_000),
    limits=LIMITS,
    predicted_error=0.25,
    estimates=(LossEstimate(2.0, 0.25, "c1", 0.2), LossEstimate(4.0)),
    latency={"before_ms": 30.0, "after_ms": 16.0, "speedup": 1.875, "batch": 1, "threads": None},
)


def printed(report: Report, columns: int | None = None) -> list[str]:
    """The table as a file or pipe gets it, or a terminal of so many columns."""
    stream = io.StringIO()
    Console(file=stream, width=columns or 10_000).print(layer_table(report, columns))
    return stream.getvalue().splitlines()


def test_json_has_the_fields_that_scripts_read() -> None:
    assert json.loads(REPORT.to_json()) == {
        "schema": 1,
        "version": "1.2.3",
        "seed": 7,
        "input": "in.onnx",
        "output": "out.onnx",
        "speedup": {
            "requested": 2.0,
            "macs": pytest.approx(1_844_480 / 871_680, rel=1e-12),
            "params": pytest.approx(19_786 / 9_962, rel=1e-12),
            "latency": 1.875,
        },
        "macs": {"before": 1_844_480, "after": 871_680},
        "params": {"before": 19_786, "after": 9_962},
        "bytes": {"before": 80_000, "after": 41_000},
        "calibration": {
            "source": "photos (60 images)",
            "synthetic": False,
            "images": 48,
            "positions_per_image": 100,
            "provider": "cpu",
            "preprocessing": None,
        },
        "layers": [
            {
                "name": "c1",
                "op": "Conv",
                "method": "spatial-channel",
                "reason": None,
                "ranks": {"channel": 24, "spatial": 16, "input": None},
                "width": None,
                "macs": {"before": 10 * 10 * 64 * 32 * 9, "after": 870_400},
                "activation": "relu",
                "energy": 0.9375,
                "error": {"linear": 0.25, "solved": 0.125},
                "latency_ms": {"before": 2.5, "after": 1.25},
            },
            {
                "name": "fc",
                "op": "Gemm",
                "method": "kept",
                "reason": "fully connected layers are not factorized",
                "ranks": {"channel": None, "spatial": None, "input": None},
                "width": None,
                "macs": {"before": 1_280, "after": 1_280},
                "activation": "",
                "energy": 1.0,
                "error": {"linear": 0.0, "solved": 0.0},
                "latency_ms": {"before": None, "after": None},
            },
        ],
        "verification": {
            "images": 12,
            "outputs": {"scores": {"relative_error": 0.0625, "cosine": 0.998, "agreement": 0.75, "close": False}},
        },
        "latency": {"before_ms": 30.0, "after_ms": 16.0, "speedup": 1.875, "batch": 1, "threads": None},
        "runtime": None,
        "max_drop": None,
        "warnings": [],
        "passed": True,
        "limits": LIMITS,
        "predicted_error": 0.25,
        "estimates": [
            {"speedup": 2.0, "predicted_error": 0.25, "verdict": "little", "worst_layer": "c1", "worst_error": 0.2},
            {
                **{"speedup": 4.0, "predicted_error": None, "verdict": "out of reach"},
                **{"worst_layer": None, "worst_error": 0.0},
            },
        ],
        "preview": False,
        "weighting": "none",
        "forward_passes": {"original": 1.25, "converted": 1.5},
        "seconds": {"collect": 1.0, "ranks": 0.5, "solve": 2.0, "verify": 0.25, "total": 4.0},
        "peak_memory_bytes": 123,
    }


def test_a_layer_kept_by_choice_says_so() -> None:
    kept = LayerReport.of_planned(LAYER, LayerPlan("c1"), LAYER.macs, None)
    assert kept.reason == "keeping it is the best use of the budget"
    assert kept.to_dict()["ranks"] == {"channel": None, "spatial": None, "input": None}


def test_ranks_in_the_table_come_in_the_order_of_the_chain() -> None:
    mixed = replace(REPORT.layers[0], method="tucker", spatial=None, input=5)
    assert mixed.to_dict()["ranks"] == {"channel": 24, "spatial": None, "input": 5}
    _, line = printed(replace(REPORT, layers=(mixed,)))
    assert line.split()[:3] == ["c1", "tucker", "5+24"]


def test_table_has_a_row_for_every_layer_and_ranks_in_the_order_of_the_chain() -> None:
    header, first, last = (line.split() for line in printed(REPORT))
    assert header == ["layer", "method", "rank", "MACs", "after", "energy", "error"]
    assert first == ["c1", "spatial-channel", "16+24", "1.84", "M", "870", "k", "0.9375", "0.1250"]
    assert last == ["fc", "kept", "1.28", "k"]


def test_table_fits_80_columns_with_the_longest_names_and_numbers() -> None:
    name = "model/backbone/stage1/unit3/[/bottleneck]:star:/Conv"
    wide = replace(REPORT.layers[0], name=name, channel=1024, spatial=1536, macs=(999_900_000, 123_000_000))
    rest = ["spatial-channel", "1536+1024", "1", "G", "123", "M", "0.9375", "0.1250"]
    (_, line) = printed(replace(REPORT, layers=(wide,)), 80)
    assert len(line) <= 80
    assert line.split() == ["model/back...star:/Conv", *rest]
    (_, line) = printed(replace(REPORT, layers=(wide,)), 110)
    assert line.split() == [name, *rest]
    (_, line) = printed(replace(REPORT, layers=(replace(wide, name=10 * name),)))
    assert line.split() == [10 * name, *rest]


def test_headline_says_what_it_comes_to() -> None:
    lines = headline(REPORT)
    assert "1.84 M -> 872 k (2.12x fewer)" in lines[0]
    assert "19.8 k -> 9.96 k (1.99x fewer)" in lines[1]
    assert lines[2] == "file        80 kB -> 41 kB (1.95x smaller)"
    assert "30 -> 16 ms (1.88x faster, batch 1, default threads)" in lines[3]
    assert "48 samples of photos (60 images), up to 100 positions each, on cpu" in lines[4]
    assert lines[5].startswith("verified    the written file: its graph, multiply-adds, shapes and types are")
    assert lines[6] == "not close   scores: relative error 0.0625, same top class 75.0% on 12 held-out samples"
    assert "4.0 (collect 1.0, ranks 0.5, solve 2.0, verify 0.2)" in lines[7]


def test_headline_of_a_dry_run_claims_no_verification() -> None:
    lines = headline(replace(REPORT, verification=None))
    assert not any("verified" in line for line in lines)
    assert "predicted   relative error of about 0.25 (little)" in lines
    assert not any("predicted" in line for line in headline(REPORT))


def test_estimates_in_lines() -> None:
    assert estimate_lines(()) == []
    blank, title, first, second, note = estimate_lines(REPORT.estimates)
    assert (blank, title) == ("", "speedup  predicted error")
    assert first == "2x       0.25 (little); most in c1: 0.20"
    assert second == "4x       (out of reach)"
    assert note.startswith("predicted from the errors of single layers before anything is solved")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1 k"),
        (12_345, "12.3 k"),
        (999_499, "999 k"),
        (999_500, "1 M"),
        (15_346_630_656, "15.3 G"),
        (999_999_999_999, "1 T"),
        (1_234_000_000_000_000, "1234 T"),
    ],
)
def test_counts_are_three_digits_and_a_prefix(count: int, text: str) -> None:
    assert short_number(count) == text


def test_a_search_in_a_line() -> None:
    found = {
        **{"wanted": 0.01, "loss": "other top class", "speedup": 2.5, "found": 0.0075, "interval": [0.005, 0.011]},
        **{"confidence": 0.95, "search_images": 4000, "verified_images": 2000, "verified_drop": 0.0085},
        **{"verified_interval": [0.0053, 0.0136], "tried": [[2.0, 0.005], [2.5, 0.0075]]},
    }
    line = "max-drop    0.01: 2.50x, other top class 0.75% on 4000 samples"
    assert f"{line}, 0.85% (95% interval 0.53% .. 1.36%) on 2000 others" in headline(replace(REPORT, max_drop=found))
    planned = found | {"verified_images": None, "verified_drop": None, "verified_interval": None}
    assert line in headline(replace(REPORT, max_drop=planned))
    assert replace(REPORT, max_drop=found).to_dict()["max_drop"] == found
