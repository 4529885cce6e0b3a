"""Layers whose filters see few mixtures of their channels: chains that begin with a 1 x 1 convolution find that out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank import convert, inspect
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from tests.helpers import build, normal, relative, run

Array = NDArray[Any]

CHANNELS, MIXTURES = 32, 6
SIZES = {1: (40,), 2: (9, 8), 3: (5, 6, 4)}
KERNELS = {1: (9,), 2: (3, 3), 3: (3, 3, 3)}


def network(axes: int, op: str = "Conv") -> onnx.ModelProto:
    """A layer that makes channels of noise, one that sees six mixtures of them only, and a pool."""
    size, kernel = ",".join(map(str, SIZES[axes])), KERNELS[axes]
    pads = f"pads={[each // 2 for each in kernel] * 2}"
    mixing = normal(1, MIXTURES, CHANNELS)
    seen = np.einsum("dm...,mc->dc...", normal(2, CHANNELS, MIXTURES, *kernel), mixing) / 10
    weight = seen.swapaxes(0, 1) if op == "ConvTranspose" else seen
    text = f"""g (float[N,{CHANNELS},{size}] x) => (float[N,{CHANNELS},{",".join("1" * axes)}] y) {{
        a = Conv(x, w1, b1)  ra = Relu(a)
        c = {op}<{pads}>(ra, w2, b2)  rc = Relu(c)
        y = GlobalAveragePool(rc)
    }}"""
    weights = {
        "w1": normal(3, CHANNELS, CHANNELS, *[1] * axes) / 6,
        "b1": normal(4, CHANNELS),
        "w2": np.ascontiguousarray(weight),
        "b2": normal(5, CHANNELS),
    }
    return build(text, weights)


def samples(axes: int, seed: int) -> Array:
    return normal(seed, 60, CHANNELS, *SIZES[axes])


@pytest.mark.parametrize("method", ["input", "tucker", ("channel", "tucker")])
@pytest.mark.parametrize(("axes", "op"), [(1, "Conv"), (2, "Conv"), (3, "Conv"), (2, "ConvTranspose")])
def test_what_is_not_seen_is_left_out(axes: int, op: str, method: Any) -> None:
    model = network(axes, op)
    how = {"speedup": 3, "rank_multiple": 1, "exclude": ("^a$",), "bench": False}
    result = convert(model, {"x": samples(axes, 0)}, method=method, **how)
    assert result.model is not None
    (entry,) = [entry for entry in result.plan if entry.method != "kept"]
    assert entry.input is not None
    assert entry.input >= MIXTURES
    assert entry.energy > 0.999
    assert result.report.macs[1] == inspect(result.model).macs <= inspect(model).macs / 3
    unseen = {"x": samples(axes, 7)}
    assert relative(run(model, unseen)["y"], run(result.model, unseen)["y"]) < 1e-4
    # Filters themselves have no direction to spare.
    alone = convert(model, {"x": samples(axes, 0)}, method="channel", **how)
    assert alone.model is not None
    assert relative(run(model, unseen)["y"], run(alone.model, unseen)["y"]) > 1e-3


def test_a_layer_that_reads_one_point_is_split_by_channels() -> None:
    result = convert(network(2), {"x": samples(2, 0)}, method="tucker", speedup=2, rank_multiple=1, dry_run=True)
    methods = {entry.name: entry.method for entry in result.plan}
    assert methods["a"] in {"kept", "channel"}
    assert methods["c"] in {"input", "tucker", "channel"}


def test_a_plan_with_input_ranks_has_its_predicted_losses() -> None:
    """As if they had been chosen: the fewer mixtures, the more is lost."""
    energies = []
    for rank in (2, 4, MIXTURES):
        plan = RankPlan((LayerPlan("c", "input", input=rank),))
        result = convert(network(1), {"x": samples(1, 0)}, plan=plan, dry_run=True)
        energies.append(next(entry.energy for entry in result.plan if entry.name == "c"))
    assert energies == sorted(energies)
    assert energies[0] < 0.9
    assert energies[-1] > 0.999
