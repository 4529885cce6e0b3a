"""Refinement: its gradient against central differences, its errors against plain numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize

from onnx_lowrank.layers.activation import Activation, hard_swish, identity, leaky_relu, relu, silu
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.linalg.blas_threads import one_thread
from onnx_lowrank.linalg.row_blocks import BLOCK_ROWS
from onnx_lowrank.solve.factor_map import FactorMap
from onnx_lowrank.solve.nonlinear import Rows
from onnx_lowrank.solve.refine import RefinementEffort, RidgePenalty, chain_error, map_loss, refine

Array = NDArray[Any]

ACTIVATIONS = [relu(), leaky_relu(0.2), silu(), hard_swish(), identity()]
BENDS = {"relu": (0.0,), "leaky_relu": (0.0,), "hard_swish": (-3.0, 3.0)}
STEP = 2.0**-11
GRID = 2.0**-8  # numbers on it stay exact in float32 when they move by a step


@pytest.fixture(autouse=True, scope="module")
def _small_products() -> Iterator[None]:
    """Matrices this small only wait for each other on several threads."""
    with one_thread():
        yield


def on_grid(generator: np.random.Generator, *shape: int) -> Array:
    return np.round(generator.normal(size=shape) / GRID) * GRID


def random_chain(seed: int, filters: int, size: int, columns: int, spatial: int, channel: int | None) -> FactorMap:
    generator = np.random.default_rng(seed)
    last = filters if channel is None else channel
    P = None if channel is None else on_grid(generator, filters, channel)
    Q = on_grid(generator, last, columns * spatial)
    return FactorMap(on_grid(generator, spatial, size), Q, P, on_grid(generator, filters))


def random_rows(
    seed: int, count: int, filters: int, activation: Activation, *, residual: bool, dtype: Any = np.float64
) -> Rows:
    generator = np.random.default_rng(seed)
    responses = generator.normal(size=(count, filters)).astype(dtype)
    branch = generator.normal(size=(count, filters)).astype(dtype) if residual else None
    return Rows.of(TargetResponses(responses, branch), np.zeros((count, 0), dtype), activation)


def response(chain: FactorMap, features: Array, rows: Rows) -> Array:
    """Before the activation, with the residual, by einsum: column by column, filter by filter."""
    spatial = len(chain.T)
    mixed = np.einsum("sk,nwk->nws", chain.T, features.astype(np.float64))
    summed = np.einsum("qws,nws->nq", chain.Q.reshape(len(chain.Q), -1, spatial), mixed)
    last = summed if chain.P is None else np.einsum("dq,nq->nd", chain.P, summed)
    return np.asarray(last + chain.offset + (0 if rows.offset is None else rows.offset))


def squared_error(chain: FactorMap, features: Array, rows: Rows) -> float:
    return float(np.square(rows.activation(response(chain, features, rows)) - rows.targets).sum())


def relative_error(chain: FactorMap, features: Array, rows: Rows) -> float:
    return float(np.sqrt(squared_error(chain, features, rows) / np.square(rows.targets.astype(np.float64)).sum()))


def loss(chain: FactorMap, features: Array, rows: Rows) -> tuple[float, Array]:
    """Squared error of a chain and its gradient, by way of its map."""
    lost, by_map, by_offset = map_loss(chain.map, chain.offset, features, rows)
    return lost, chain.pulled_back(by_map, by_offset).vector()


def quotients(chain: FactorMap, features: Array, rows: Rows, step: float) -> Array:
    """Central differences of the squared error, number by number."""
    vector = chain.vector()
    found = np.empty_like(vector)
    for place in range(len(vector)):
        ends = []
        for sign in (1, -1):
            moved = vector.copy()
            moved[place] += sign * step
            ends.append(squared_error(chain.like(moved), features, rows))
        found[place] = (ends[0] - ends[1]) / (2 * step)
    return found


def crosses_a_bend(chain: FactorMap, features: Array, rows: Rows) -> bool:
    """Whether a step of any number takes an element from one piece of the activation to another."""
    vector, bends = chain.vector(), np.array(BENDS.get(rows.activation.name, ()))

    def pieces(where: Array) -> Array:
        return np.searchsorted(bends, response(chain.like(where), features, rows))

    here = pieces(vector)
    steps = STEP * np.eye(len(vector))
    return any((pieces(vector + sign * step) != here).any() for step in steps for sign in (1, -1))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 7),
    filters=st.integers(1, 4),
    size=st.integers(1, 4),
    columns=st.integers(1, 3),
    residual=st.booleans(),
    data=st.data(),
)
def test_gradient_is_the_difference_quotient(
    activation: Activation, seed: int, count: int, filters: int, size: int, columns: int, residual: bool, data: Any
) -> None:
    spatial = data.draw(st.integers(1, size))
    channel = data.draw(st.none() | st.integers(1, filters))
    chain = random_chain(seed, filters, size, columns, spatial, channel)
    rows = random_rows(seed + 1, count, filters, activation, residual=residual)
    features = np.random.default_rng(seed + 2).normal(size=(count, columns, size))
    assume(not crosses_a_bend(chain, features, rows))
    lost, gradient = loss(chain, features, rows)
    np.testing.assert_allclose(lost, squared_error(chain, features, rows), rtol=1e-12)
    without = map_loss(chain.map, chain.offset, features, rows, gradient=False)
    np.testing.assert_allclose(without[0], lost, rtol=1e-12)
    # Two steps together cancel what is left of the third derivative.
    fine, coarse = (quotients(chain, features, rows, step) for step in (STEP / 2, STEP))
    scale = np.abs(gradient).max(initial=1.0)
    np.testing.assert_allclose(gradient, (4 * fine - coarse) / 3, rtol=1e-7, atol=1e-7 * scale)


@pytest.mark.parametrize("channel", [None, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_loss_and_gradient_add_up_over_blocks(channel: int | None, residual: bool) -> None:
    count = BLOCK_ROWS + 77
    chain = random_chain(0, 5, 4, 3, 2, channel)
    rows = random_rows(1, count, 5, relu(), residual=residual)
    features = np.random.default_rng(2).normal(size=(count, 3, 4))
    lost, gradient = loss(chain, features, rows)
    parts = [loss(chain, features[part], rows.part(part)) for part in (slice(0, 1000), slice(1000, None))]
    np.testing.assert_allclose(lost, squared_error(chain, features, rows), rtol=1e-11)
    np.testing.assert_allclose(lost, parts[0][0] + parts[1][0], rtol=1e-11)
    np.testing.assert_allclose(gradient, parts[0][1] + parts[1][1], rtol=1e-9)


@pytest.mark.parametrize("channel", [None, 2])
def test_vector_and_back(channel: int | None) -> None:
    chain = random_chain(0, 5, 4, 3, 2, channel)
    vector = chain.vector()
    assert vector.shape == (sum(part.size for part in (chain.T, chain.Q, chain.P, chain.offset) if part is not None),)
    back = random_chain(1, 5, 4, 3, 2, channel).like(vector)
    for name in ("T", "Q", "P", "offset"):
        part, wanted = getattr(back, name), getattr(chain, name)
        if wanted is None:
            assert part is None
        else:
            np.testing.assert_array_equal(part, wanted, strict=True)


# Refinement


def problem(
    activation: Activation,
    channel: int | None,
    count: int,
    *,
    seed: int = 0,
    residual: bool = False,
    noise: float = 0.1,
) -> tuple[FactorMap, Array, Rows]:
    """Responses of a map that no chain of these ranks has, and a chain some way off."""
    generator = np.random.default_rng(seed)
    filters, size, columns, spatial = 6, 5, 3, 2
    features = generator.normal(size=(count, columns, size)).astype(np.float32)
    weight = generator.normal(size=(filters, columns * size)) / 3
    responses = features.reshape(count, -1) @ weight.T + 0.5 + noise * generator.normal(size=(count, filters))
    branch = generator.normal(size=(count, filters)).astype(np.float32) if residual else None
    rows = Rows.of(TargetResponses(responses.astype(np.float32), branch), np.zeros((count, 0), np.float32), activation)
    start = np.random.default_rng(7)
    first = weight.reshape(filters, columns, size)[:, :, :spatial].reshape(filters, -1)
    T, offset = np.eye(spatial, size), np.full(filters, 0.5)
    if channel is None:
        return FactorMap(T, first, None, offset), features, rows
    P, _ = np.linalg.qr(start.normal(size=(filters, channel)))
    return FactorMap(T, P.T @ first, P, offset), features, rows


def refined(*arguments: Any, **options: Any) -> FactorMap:
    return refine(*arguments, **options).chain


def free(chain: FactorMap) -> RidgePenalty:
    """No penalty."""
    return RidgePenalty(np.zeros_like(chain.map), 0.0)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
@pytest.mark.parametrize("channel", [None, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_lowers_the_training_error(activation: Activation, channel: int | None, residual: bool) -> None:
    chain, features, rows = problem(activation, channel, 500, residual=residual)
    before = chain.vector()
    errors = [relative_error(chain, features, rows)]
    for iterations in (2, 15):
        found = refined(chain, features, rows, RefinementEffort(iterations), ridge=free(chain))
        errors.append(chain_error(found, features, rows))
        np.testing.assert_allclose(errors[-1], relative_error(found, features, rows), rtol=1e-5)
    assert errors[1] < 0.95 * errors[0]
    assert errors[2] < errors[1]
    np.testing.assert_array_equal(chain.vector(), before)


@pytest.mark.parametrize("channel", [None, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_gets_further_than_scipy_in_as_many_iterations(channel: int | None, residual: bool) -> None:
    """From features that hardly differ from column to column."""
    chain, features, rows = problem(relu(), channel, 500, residual=residual)
    alike = np.random.default_rng(3).normal(size=(500, 1, 5)) + 0.3 * features
    features = alike.astype(np.float32)

    def objective(vector: Array) -> tuple[float, Array]:
        return loss(chain.like(vector), features, rows)

    def by_scipy(iterations: int) -> float:
        options = {"maxiter": iterations, "maxfun": 10_000}
        found = minimize(objective, chain.vector(), jac=True, method="L-BFGS-B", options=options)
        return relative_error(chain.like(found.x), features, rows)

    ours = relative_error(refined(chain, features, rows, RefinementEffort(12), ridge=free(chain)), features, rows)
    lowest = by_scipy(2000)
    assert ours - lowest < 0.8 * (by_scipy(12) - lowest)


@pytest.mark.parametrize("activation", [relu(), silu()], ids=lambda a: a.name)
def test_finds_a_chain_that_is_there(activation: Activation) -> None:
    _, features, rows = problem(activation, None, 400)
    features = features.astype(np.float64)
    truth = random_chain(5, 6, 5, 3, 2, None)
    wanted = response(truth, features, rows)
    exact = Rows.of(TargetResponses(wanted), rows.inputs, activation)
    near = truth.like(truth.vector() + 0.05 * np.random.default_rng(0).normal(size=truth.vector().shape))
    assert relative_error(near, features, exact) > 0.03
    found = refined(near, features, exact, RefinementEffort(60), ridge=free(near))
    assert relative_error(found, features, exact) < 1e-5


@pytest.mark.parametrize("channel", [None, 3])
def test_the_pull_is_toward_the_prior(channel: int | None) -> None:
    chain, features, rows = problem(relu(), channel, 300)
    prior = random_chain(1, 6, 5, 3, 2, channel).map / 3
    gaps = [
        float(
            np.linalg.norm(
                refined(chain, features, rows, RefinementEffort(40), ridge=RidgePenalty(prior, weight)).map - prior
            )
        )
        for weight in (0.0, 0.3, 30.0)
    ]
    assert gaps[2] < 0.2 * gaps[1] < 0.2 * gaps[0]


def test_the_pull_keeps_few_rows_from_being_learnt_by_heart() -> None:
    chain, features, rows = problem(relu(), 3, 1000, noise=0.5)
    train, held_out = rows.part(slice(0, 40)), rows.part(slice(40, None))
    prior = np.linalg.lstsq(features[40:].reshape(960, -1), held_out.responses - 0.5, rcond=None)[0].T

    def error(weight: float) -> float:
        found = refined(chain, features[:40], train, RefinementEffort(60), ridge=RidgePenalty(prior, weight))
        return chain_error(found, features[40:], held_out)

    assert error(0.3) < 0.97 * error(0.0)


@pytest.mark.parametrize("channel", [None, 3])
def test_what_is_minimised_has_the_gradient_that_it_says(channel: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variables, with the pull, on features whose mean is not zero."""
    chain, features, rows = problem(silu(), channel, 60)
    shifted = features.astype(np.float64) + 2
    checked = []

    def differences(objective: Any, start: Array, *_: Any, **__: Any) -> Array:
        place = start + 0.1 * np.random.default_rng(0).normal(size=start.shape)
        step = 2.0**-14
        ends = [[objective(place + sign * step * axis)[0] for sign in (1, -1)] for axis in np.eye(len(start))]
        wanted = np.array([(high - low) / (2 * step) for high, low in ends])
        np.testing.assert_allclose(objective(place)[1], wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
        checked.append(place)
        return start

    monkeypatch.setattr("onnx_lowrank.solve.refine.minimize", differences)
    pull = RidgePenalty(random_chain(1, 6, 5, 3, 2, channel).map, 0.3)
    refined(chain, shifted, rows, RefinementEffort(3), ridge=pull)
    assert checked


@pytest.mark.parametrize("channel", [None, 3])
def test_a_strong_pull_takes_no_more_iterations(channel: int | None) -> None:
    """Where it is all there is along some axes, it is they that set the length of the steps."""
    chain, features, rows = problem(relu(), channel, 300)
    faint = (features * np.geomspace(1, 0.01, 5)).astype(np.float32)
    chain = replace(chain, T=np.eye(2, 5)[:, ::-1].copy())
    penalty = RidgePenalty(chain.map + 0.1 * np.random.default_rng(0).normal(size=chain.map.shape), 1.0)

    def value(iterations: int) -> float:
        found = refined(chain, faint, rows, RefinementEffort(iterations), ridge=penalty)
        return squared_error(found, faint, rows) + len(rows) * float(np.square(found.map - penalty.prior).sum())

    assert value(4) < 1.02 * value(200)


def test_what_goes_into_the_horizontal_filters_is_worked_out_where_it_is_not_given() -> None:
    chain, features, rows = problem(relu(), 3, BLOCK_ROWS + 9)
    vertical = np.einsum("sk,nwk->nws", chain.T, features.astype(np.float64)).reshape(len(rows), -1)
    inner = np.cov(vertical, rowvar=False, bias=True)
    found = refined(chain, features, rows, RefinementEffort(3), ridge=free(chain))
    given = refined(chain, features, rows, RefinementEffort(3), ridge=free(chain), inner=inner)
    np.testing.assert_allclose(found.vector(), given.vector(), rtol=0, atol=1e-4)


def test_is_over_when_an_iteration_gains_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, features, rows = problem(relu(), 3, 300)
    looks = []

    def counted(*arguments: Any) -> Any:
        looks.append(1)
        return map_loss(*arguments)

    monkeypatch.setattr("onnx_lowrank.solve.refine.map_loss", counted)
    refined(chain, features, rows, RefinementEffort(500), ridge=free(chain))
    assert 5 < len(looks) < 100


def test_no_iterations() -> None:
    chain, features, rows = problem(relu(), 3, 50)
    assert refined(chain, features, rows, RefinementEffort(0), ridge=free(chain)) is chain


@pytest.mark.parametrize("channel", [None, 3])
@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_its_errors_are_those_at_the_start_and_at_the_end(channel: int | None, pull: float) -> None:
    """Without the penalty, and of features whose mean is not zero."""
    chain, features, rows = problem(relu(), channel, 300, residual=True)
    features = features + np.float32(1.5)
    found = refine(chain, features, rows, RefinementEffort(6), ridge=RidgePenalty(1.1 * chain.map, pull))
    assert found.errors.linear == pytest.approx(relative_error(chain, features, rows), rel=1e-5)
    assert found.errors.solved == pytest.approx(relative_error(found.chain, features, rows), rel=1e-5)
    assert found.errors.solved < 0.9 * found.errors.linear


def test_errors_without_iterations() -> None:
    chain, features, rows = problem(relu(), 3, 50)
    errors = refine(chain, features, rows, RefinementEffort(0), ridge=free(chain)).errors
    assert errors.linear == errors.solved == pytest.approx(relative_error(chain, features, rows), rel=1e-5)


def test_targets_that_are_all_zero() -> None:
    chain, features, rows = problem(relu(), 3, 50)
    dead = Rows.of(TargetResponses(np.full_like(rows.responses, -1)), rows.inputs, relu())
    assert refined(chain, features, dead, RefinementEffort(30), ridge=free(chain)) is chain
    assert chain_error(chain, features, dead) == np.inf
    silent = replace(chain, offset=np.full(6, -1e3))
    assert chain_error(silent, features, dead) == 0.0


def test_error_is_that_of_plain_numpy() -> None:
    count = BLOCK_ROWS + 33
    for channel in (None, 3):
        chain, features, rows = problem(silu(), channel, count, residual=True)
        np.testing.assert_allclose(chain_error(chain, features, rows), relative_error(chain, features, rows), rtol=1e-5)


def test_it_ends_with_the_first_iteration_that_gains_little() -> None:
    chain, features, rows = problem(relu(), 3, 500)
    efforts = [RefinementEffort(count, 0.0) for count in range(20)]
    errors = [refine(chain, features, rows, each, ridge=free(chain)).errors.solved ** 2 for each in efforts]
    gains = [1 - after / before for before, after in pairwise(errors)]
    least = 2 * min(gains[:12])
    last = next(number for number, gain in enumerate(gains, 1) if gain <= least)
    assert 1 < last < 15
    ended = refined(chain, features, rows, RefinementEffort(19, least), ridge=free(chain))
    assert chain_error(ended, features, rows) ** 2 == pytest.approx(errors[last], rel=1e-6)
