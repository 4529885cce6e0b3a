"""Patches may be anything that gives arrays for slices of rows: they are read a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.layers.activation import relu
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import LayerSamples, TargetResponses
from onnx_lowrank.linalg.blas_threads import one_thread
from onnx_lowrank.solve import solve_layer
from tests.solve.test_spatial_channel import problem
from tests.solve.test_tensors import PLANS

MOST = 6144  # rows read at a time
ROWS = MOST + 100


@pytest.fixture(autouse=True, scope="module")
def _small_products() -> Iterator[None]:
    """Blocks make no difference to one thread; several share the rows of a product out among them."""
    with one_thread():
        yield


@dataclass(frozen=True)
class SlicesOnly:
    """Rows that are somewhere else."""

    rows: NDArray[Any]
    lengths: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        assert isinstance(rows, slice)
        assert 0 <= rows.start < rows.stop <= len(self.rows)
        assert rows.step is None
        self.lengths.append(rows.stop - rows.start)
        return self.rows[rows].copy()


def many(count: int) -> tuple[Layer, LayerSamples]:
    """The rows of `problem` several times over, a little off."""
    layer, few = problem(relu())
    generator = np.random.default_rng(0)
    chosen = generator.integers(0, len(few.patches), count)
    patches = few.patches[chosen] + 0.1 * generator.normal(size=(count, *few.patches.shape[1:])).astype(np.float32)
    return layer, LayerSamples(TargetResponses(few.targets.responses[chosen]), patches)


@pytest.mark.parametrize("method", PLANS)
@pytest.mark.parametrize("solver", ["auto", "paper", "weights"])
def test_blocks_of_rows_are_enough(solver: str, method: str) -> None:
    layer, responses = many(ROWS)
    patches: Any = SlicesOnly(responses.patches)
    wanted = solve_layer(layer, responses, PLANS[method], solver)
    found = solve_layer(layer, LayerSamples(responses.targets, patches), PLANS[method], solver)
    assert max(patches.lengths) <= MOST
    assert sum(patches.lengths) >= ROWS
    assert found.errors == wanted.errors
    for part, like in zip(found.convolutions, wanted.convolutions, strict=True):
        np.testing.assert_array_equal(part.weight, like.weight)
