"""Work on blocks of rows: results in order, and sums that do not depend on the number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_lowrank.layers import activation as act
from onnx_lowrank.linalg.moments import Moments
from onnx_lowrank.linalg.row_blocks import BLOCK_ROWS, over_row_blocks, product, row_blocks
from onnx_lowrank.linalg.threads import workers
from onnx_lowrank.solve.nonlinear import Rows
from onnx_lowrank.solve.refine import map_loss

COUNT = 3 * BLOCK_ROWS + 5


def test_blocks_cover_all_rows_once() -> None:
    covered = np.zeros(COUNT, int)
    for part in row_blocks(covered):
        covered[part] += 1
    assert covered.tolist() == [1] * COUNT


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_order(threads: int) -> None:
    rows = np.arange(COUNT)
    with workers(threads):
        assert list(over_row_blocks(lambda part: part.start, rows)) == [0, BLOCK_ROWS, 2 * BLOCK_ROWS, 3 * BLOCK_ROWS]


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    draw = np.random.default_rng(0)
    inputs, targets = (draw.normal(3, 2, size=(COUNT, size)).astype(np.float32) for size in (7, 5))
    rows = Rows(inputs, targets, np.maximum(targets, 0), None, act.relu())
    map_, offset = draw.normal(size=(5, 7)), draw.normal(size=5)
    found = []
    for threads in (1, 2, 3):
        with workers(threads):
            moments = Moments.of(inputs, targets)
            found.append((moments.gram, moments.cross, *map_loss(map_, offset, inputs[:, None, :], rows)))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(found[0][0] / COUNT, np.cov(inputs.T.astype(np.float64), bias=True), rtol=1e-10)


def test_moments_of_float32_products_are_those_of_float64_ones_but_for_rounding() -> None:
    """Of inputs far from zero, which float32 products of uncentred rows would not survive."""
    generator = np.random.default_rng(4)
    inputs = generator.normal(300, 1, size=(COUNT, 6)).astype(np.float32)
    targets = (inputs[:, :2] - 290).astype(np.float32)
    exact, single = (Moments.of(inputs, targets, single=each) for each in (False, True))
    for one, other in ((exact.gram, single.gram), (exact.cross, single.cross)):
        assert other.dtype == np.float64
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(exact.gram).max())
    np.testing.assert_array_equal(exact.input_mean, single.input_mean)


@pytest.mark.parametrize("dtypes", [("f4", "f4"), ("f8", "f4"), ("f8", "f8")])
@pytest.mark.parametrize("rows", [200, 700])
def test_product(dtypes: tuple[str, str], rows: int) -> None:
    """The same with any number of threads, in the layout of either matrix, and of the type that NumPy gives it."""
    generator = np.random.default_rng(0)
    left = generator.normal(size=(rows, 400)).astype(dtypes[0])
    right = generator.normal(size=(400, 300)).astype(dtypes[1])
    wanted = left.astype("f8") @ right.astype("f8")
    found = []
    for threads in (1, 3):
        with workers(threads):
            found += [product(left, right), product(np.asfortranarray(left), right), product(left, right.T.copy().T)]
    for each in found:
        assert each.dtype == (left[:1] @ right).dtype
        np.testing.assert_allclose(each, wanted, rtol=0, atol=1e-4 if dtypes[1] == "f4" else 1e-10)
    for each, same in zip(found[:3], found[3:], strict=True):
        np.testing.assert_array_equal(each, same)


def test_large_products_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def noted(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
        seen.append(len(left))
        np.dot(left, right, out=out)

    monkeypatch.setattr(np, "matmul", noted)
    product(np.ones((600, 300)), np.ones((300, 200)))
    assert not seen
    product(np.ones((600, 300)), np.ones((300, 300)))
    assert sum(seen) == 600
    assert len(seen) > 1
