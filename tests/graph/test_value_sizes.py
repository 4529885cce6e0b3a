"""Which tensors are as long as values say: that of a Loop is, where values say when it ends."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_lowrank.graph.value_sizes import sized_by_values
from tests.helpers import build


@pytest.mark.parametrize(
    ("turns", "first", "condition", "sized"),
    [
        ("three", "yes", "on = Identity (go)", False),
        ("three", "yes", "on = Constant <value = bool {1}> ()", False),
        ("count", "yes", "on = Identity (go)", True),
        ("three", "some", "on = Identity (go)", True),
        ("three", "yes", "total = ReduceSum <keepdims = 0> (state)  on = Greater (total, zero)", True),
    ],
)
def test_a_loop(turns: str, first: str, condition: str, *, sized: bool) -> None:
    model = build(
        f"""g (float[N,4] x, int64 count) => (float[N,4] last, float[M,N,4] all) {{
            some = Greater (count, none)
            last, all = Loop ({turns}, {first}, x) <
                body = b (int64 i, bool go, float[N,4] state) => (bool on, float[N,4] next, float[N,4] seen) {{
                    {condition}
                    next = Tanh (state)
                    seen = Identity (next)
                }}
            >
        }}""",
        {"three": np.array(3), "yes": np.array([True]), "zero": np.float32(0), "none": np.array(0)},
    )
    assert sized_by_values(model, ["x", "count"]) == ({"last", "all"} if sized else set())


def test_a_scan_has_as_many_turns_as_its_input_is_long() -> None:
    model = build(
        """g (float[N,4] x, float[4] start) => (float[4] last, float[N,4] all) {
            last, all = Scan <
                num_scan_inputs = 1,
                body = b (float[4] state, float[4] row) => (float[4] next, float[4] seen) {
                    next = Add (state, row)
                    seen = Identity (next)
                }
            > (start, x)
        }"""
    )
    assert sized_by_values(model, ["x", "start"]) == set()


def test_what_is_selected_from_values_is_as_long_as_they_say() -> None:
    model = build("g (float[N,4] x) => (int64[2,M] where, float[N,4] y) { where = NonZero (x)  y = Relu (x) }")
    assert sized_by_values(model, ["x"]) == {"where"}
