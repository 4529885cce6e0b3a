from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.layers.layer import Geometry, Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.runtime.latency_table import LatencyTable, Machine, chain_key
from tests.example_layers import conv_layer

HERE = Machine("onnxruntime", "1.2.3", "f32", "cpu", "Marvel 9000, 4 cores, blocks of 16", 2, 16)


def test_a_table_is_read_as_it_was_written() -> None:
    table = LatencyTable(HERE, {"a": 0.1 + 0.2, "b": 1e-9, "c": 3.0})
    assert LatencyTable.from_json(table.to_json(), "here") == table
    assert str(table.machine) == "Marvel 9000, 4 cores, blocks of 16, cpu, 2 threads, onnxruntime 1.2.3, f32"
    assert "default threads" in str(replace(HERE, threads=0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        "[]",
        "3",
        "{}",
        '{"machine": {}, "milliseconds": {}}',
        '{"machine": 3, "milliseconds": {}}',
        '{"machine": {}, "milliseconds": {}, "schema": 1}',
        *(
            f'{{"schema": {schema}, "machine": {{"provider": "cpu", "device": "x", "threads": {threads}, '
            f'"onnxruntime": "1", "block": {block}}}, "milliseconds": {{}}}}'
            for schema, threads, block in ((1, '"many"', 8), (1, "Infinity", 8), (1, 1.5, 8), (1, 1, 0), (2, 1, 8))
        ),
        *(
            json.dumps({"schema": schema, "machine": vars(HERE) | changes, "milliseconds": {}})
            for schema, changes in ((1, {}), (3, {}), (2, {"precision": 16}), (2, {"runtime": None}), (2, {"block": 0}))
        ),
    ],
)
def test_what_is_no_table(text: str) -> None:
    with pytest.raises(BudgetError, match=r"^`latency_table` t: not a latency table \(.*: let `latency_table` write"):
        LatencyTable.from_json(text, "`latency_table` t")


@pytest.mark.parametrize(
    "milliseconds",
    [
        [],
        {"a": "fast"},
        {"a": None},
        None,
        {"a": [1]},
        {"a": float("nan")},
        {"a": -1.0},
        {"a": float("inf")},
        {"a": 0},
        {"a": True},
    ],
)
def test_milliseconds_that_are_none(milliseconds: Any) -> None:
    table = {"schema": 2, "machine": vars(HERE), "milliseconds": milliseconds}
    with pytest.raises(BudgetError, match="not a latency table"):
        LatencyTable.from_json(json.dumps(table), "t")


def test_more_about_the_machine_than_is_known_is_no_table() -> None:
    table = {"schema": 2, "machine": vars(HERE) | {"clock_ghz": 3}, "milliseconds": {}}
    with pytest.raises(BudgetError, match=r"not a latency table \(TypeError: .*clock_ghz"):
        LatencyTable.from_json(json.dumps(table), "t")


@pytest.mark.parametrize(("provider", "precision"), [("cpu", "f32"), ("cuda", "tf32")])
def test_tables_of_before_are_those_of_onnxruntime(provider: str, precision: str) -> None:
    entry = {"provider": provider, "device": "a board", "threads": 4, "onnxruntime": "1.0", "block": 8}
    read = LatencyTable.from_json(json.dumps({"schema": 1, "machine": entry, "milliseconds": {"a": 2}}), "t")
    machine = Machine("onnxruntime", "1.0", precision, provider, "a board", 4, 8)
    assert read == LatencyTable(machine, {"a": 2.0})
    assert json.loads(read.to_json())["schema"] == 2


# Keys

LAYER = conv_layer(16, 8, (3, 5), (10, 12))
PLAN = LayerPlan("conv", "spatial-channel", 4, 6)


def with_geometry(**changes: Any) -> Layer:
    return replace(LAYER, geometry=replace(LAYER.geometry, **changes))


@pytest.mark.parametrize(
    ("layer", "plan", "batch"),
    [
        (LAYER, PLAN, 2),
        (LAYER, LayerPlan("conv"), 1),
        (LAYER, LayerPlan("conv", "channel", 4), 1),
        (LAYER, LayerPlan("conv", "spatial", spatial=6), 1),
        (LAYER, replace(PLAN, channel=6, spatial=4), 1),
        (conv_layer(8, 16, (3, 5), (10, 12)), PLAN, 1),
        (conv_layer(16, 8, (5, 3), (10, 12)), PLAN, 1),
        (conv_layer(16, 8, (3, 5), (12, 10)), PLAN, 1),
        (with_geometry(strides=(1, 2)), PLAN, 1),
        (with_geometry(dilations=(2, 1)), PLAN, 1),
        (with_geometry(pads=(2, 1, 0, 3)), PLAN, 1),
        (with_geometry(auto_pad="SAME_UPPER"), PLAN, 1),
        (with_geometry(auto_pad="VALID"), PLAN, 1),
        (with_geometry(output_padding=(0, 1)), PLAN, 1),
        (replace(LAYER, weight=LAYER.weight.astype(np.float16)), PLAN, 1),
    ],
)
def test_all_that_time_depends_on_is_in_the_key(layer: Layer, plan: LayerPlan, batch: int) -> None:
    assert chain_key(layer, plan, batch) != chain_key(LAYER, PLAN, 1)


def test_nothing_else_is_in_the_key() -> None:
    alike = replace(
        LAYER, name="other", input="a", response="b", nodes=("b",), weight=LAYER.weight + 1, bias=LAYER.bias * 0
    )
    assert chain_key(alike, replace(PLAN, name="other", energy=0.5, reason="why not"), 1) == chain_key(LAYER, PLAN, 1)
    same = with_geometry(auto_pad="SAME_UPPER", pads=(0, 0, 0, 0))
    assert chain_key(same, PLAN, 1) == chain_key(with_geometry(auto_pad="SAME_UPPER", pads=(1, 1, 1, 1)), PLAN, 1)


def test_a_key_is_text_on_one_line() -> None:
    layer = replace(LAYER, geometry=Geometry((1, 1), (1, 1), (1, 2, 1, 2)))
    assert "\n" not in chain_key(layer, PLAN, 1)
    assert chain_key(layer, PLAN, 1).endswith("batch 1, spatial-channel, channel 4, spatial 6")
