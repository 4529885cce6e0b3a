"""Sizes that a graph works out for itself: as in onnxruntime at any size, and with an open batch in exports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from onnx_lowrank.torch import to_torch
from tests.helpers import build, normal, run
from tests.torch.oracle import assert_same

Array = NDArray[Any]
SHAPE = (2, 4, 6, 8)
SHAPES = (SHAPE, (3, 4, 6, 8), (1, 4, 9, 5))


def integers(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


@dataclass(frozen=True)
class Graph:
    """Nodes between ``x`` and ``y``.

    Attributes:
        body: the nodes.
        ndim: of the output.
        kind: type of its numbers.
        more: constants besides `CONSTANTS`.
    """

    body: str
    ndim: int = 4
    kind: str = "float"
    more: dict[str, Array] = field(default_factory=dict)

    @property
    def model(self) -> onnx.ModelProto:
        sizes = ", ".join("ABCD"[: self.ndim])
        held = {name: value for name, value in {**CONSTANTS, **self.more}.items() if name in self.body}
        return build(f"g (float[N, Q, H, W] x) => ({self.kind}[{sizes}] y) {{ {self.body} }}", held)


CONSTANTS: dict[str, Array] = {
    "i_zero": integers(0),
    "i_one": integers(1),
    "i_two": integers(2),
    "i_three": integers(3),
    "i_rest": integers(-1),
    "i_fixed": integers(12, 16),
    "i_end": integers(2**63 - 1),
    "s_zero": np.int64(0),
    "f_two": np.float32(2),
    "f_third": np.float32(1.3),
}

GRAPHS = {
    "flatten": Graph(
        """s = Shape (x)  n = Gather (s, s_zero)  u = Unsqueeze (n, i_zero)  t = Concat <axis = 0> (u, i_rest)
        y = Reshape (x, t)""",
        ndim=2,
    ),
    "several sizes taken": Graph(
        "s = Shape (x)  g = Gather (s, places)  t = Concat <axis = 0> (g, i_rest)  y = Reshape (x, t)",
        ndim=3,
        more={"places": integers(0, -3)},
    ),
    "start and end": Graph(
        "s = Shape <start = 0, end = 2> (x)  t = Concat <axis = 0> (s, i_rest)  y = Reshape (x, t)", ndim=3
    ),
    "start from the end": Graph(
        "s = Shape <start = -2> (x)  t = Concat <axis = 0> (i_rest, s)  y = Reshape (x, t)", ndim=3
    ),
    "end from the end": Graph("s = Shape <end = -1> (x)  t = Concat <axis = 0> (s, i_rest)  y = Reshape (x, t)"),
    "end beyond the end": Graph(
        "s = Shape <start = 1, end = 9> (x)  t = Concat <axis = 0> (i_rest, s)  y = Reshape (x, t)"
    ),
    "slice of sizes": Graph(
        "s = Shape (x)  a = Slice (s, i_two, i_end)  t = Concat <axis = 0> (i_rest, a)  y = Reshape (x, t)", ndim=3
    ),
    "slice of sizes with axes and steps": Graph(
        """s = Shape (x)  a = Slice (s, i_zero, i_end, i_zero, i_two)  t = Concat <axis = 0> (a, i_rest)
        y = Reshape (x, t)""",
        ndim=3,
    ),
    "squeezed": Graph(
        """s = Shape <end = 1> (x)  q = Squeeze (s)  u = Unsqueeze (q, i_zero)  t = Concat <axis = 0> (u, i_rest)
        y = Reshape (x, t)""",
        ndim=2,
    ),
    "product": Graph(
        """h = Shape <start = 2, end = 3> (x)  w = Shape <start = 3> (x)  p = Mul (h, w)  n = Shape <end = 2> (x)
        t = Concat <axis = 0> (n, p)  y = Reshape (x, t)""",
        ndim=3,
    ),
    "batch times channels and back": Graph(
        """n = Shape <end = 1> (x)  q = Shape <start = 1, end = 2> (x)  p = Mul (n, q)  hw = Shape <start = 2> (x)
        t = Concat <axis = 0> (p, hw)  r = Reshape (x, t)  m = Div (p, q)  u = Concat <axis = 0> (m, q, hw)
        y = Reshape (r, u)"""
    ),
    "half of the channels": Graph(
        "q = Shape <start = 1, end = 2> (x)  h = Div (q, i_two)  y = Slice (x, i_zero, h, i_one)"
    ),
    "the other half": Graph("q = Shape <start = 1, end = 2> (x)  h = Div (q, i_two)  y = Slice (x, h, q, i_one)"),
    "the whole batch": Graph("n = Shape <end = 1> (x)  y = Slice (x, i_zero, n, i_zero)"),
    "split": Graph(
        """q = Shape <start = 1, end = 2> (x)  h = Div (q, i_two)  r = Sub (q, h)  p = Concat <axis = 0> (h, r)
        y, z = Split <axis = 1> (x, p)"""
    ),
    "pad": Graph(
        """h = Shape <start = 2, end = 3> (x)  p = Sub (twenty, h)  t = Concat <axis = 0> (before, p, after)
        y = Pad (x, t)""",
        more={"twenty": integers(20), "before": integers(0, 0), "after": integers(0, 0, 0, 0, 0)},
    ),
    "expand": Graph("s = Shape (x)  y = Expand (wide, s)", more={"wide": normal(0, 1, 4, 1, 1)}),
    "tile": Graph(
        "n = Shape <end = 1> (x)  t = Concat <axis = 0> (n, ones)  y = Tile (one, t)",
        more={"ones": integers(1, 1, 1), "one": normal(0, 1, 4, 2, 2)},
    ),
    "resize to what was there": Graph(
        """n = Shape <end = 2> (x)  t = Concat <axis = 0> (n, i_fixed)
        y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric"> (x, , , t)"""
    ),
    "resize to twice the size": Graph(
        """s = Shape <start = 2> (x)  f = Cast <to = 1> (s)  m = Mul (f, f_two)  r = Floor (m)  c = Cast <to = 7> (r)
        n = Shape <end = 2> (x)  t = Concat <axis = 0> (n, c)
        y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric"> (x, , , t)"""
    ),
    "resize by a quotient": Graph(
        """s = Shape <start = 2> (x)  a = Cast <to = 1> (i_fixed)  b = Cast <to = 1> (s)  q = Div (a, b)
        t = Concat <axis = 0> (alike, q)  y = Resize <mode = "linear"> (x, , t)""",
        more={"alike": np.ones(2, np.float32)},
    ),
    "quotient of sizes": Graph(
        """h = Shape <start = 2, end = 3> (x)  w = Shape <start = 3> (x)  a = Cast <to = 1> (h)  b = Cast <to = 1> (w)
        q = Div (a, b)  y = Mul (x, q)"""
    ),
    "quotient of what was rounded": Graph(
        """w = Shape <start = 3> (x)  a = Cast <to = 1> (w)  m = Mul (a, f_third)  f = Floor (m)  q = Div (f, a)
        y = Mul (x, q)"""
    ),
    "quotient below zero": Graph(
        """w = Shape <start = 3> (x)  n = Sub (i_zero, w)  q = Div (n, i_three)  f = Cast <to = 1> (q)
        y = Mul (x, f)"""
    ),
    "scale of attention": Graph("w = Shape <start = 3> (x)  f = Cast <to = 1> (w)  r = Sqrt (f)  y = Div (x, r)"),
    "count": Graph("s = Size (x)  f = Cast <to = 1> (s)  y = Div (x, f)"),
    "sizes are the output": Graph("y = Shape (x)", ndim=1, kind="int64"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_sizes_follow_the_input(name: str) -> None:
    """One module, several sizes, one after another."""
    model = GRAPHS[name].model
    module = to_torch(model)
    for shape in SHAPES:
        assert_same(model, {"x": normal(0, *shape)}, 2e-6, module)


@pytest.mark.parametrize("name", GRAPHS)
def test_an_export_keeps_the_batch_open(name: str) -> None:
    model = GRAPHS[name].model
    open_batch = (({0: torch.export.Dim.DYNAMIC},),)
    given = (torch.from_numpy(normal(0, *SHAPE)),)
    exported = torch.export.export(to_torch(model), given, dynamic_shapes=open_batch, strict=False).module()
    for batch in (5, 3):
        x = normal(1, batch, *SHAPE[1:])
        (wanted,) = run(model, {"x": x}).values()
        found = exported(torch.from_numpy(x)).numpy()
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        assert np.abs(found - wanted).max() <= 2e-6 * max(1, np.abs(wanted).max())


def test_networks_with_open_sizes_can_be_exported() -> None:
    from tests.torch.real_networks import REAL

    for name in ("detector", "outliner, converted", "demo"):
        model = REAL[name].model
        shape = (2, 3, 64, 32) if name != "demo" else (2, 1, 28, 28)
        given, open_batch = (torch.from_numpy(normal(0, *shape)),), (({0: torch.export.Dim.DYNAMIC},),)
        exported = torch.export.export(to_torch(model), given, dynamic_shapes=open_batch, strict=False).module()
        x = normal(1, 3, *shape[1:])
        found = exported(torch.from_numpy(x))
        (want, *_) = run(model, {to_torch(model).inputs[0]: x}).values()
        have = (found if isinstance(found, torch.Tensor) else found[0]).detach().numpy()
        assert np.abs(have - want).max() <= 1e-5 * np.abs(want).max(), name
