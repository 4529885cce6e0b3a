"""Refinement: its gradient against central differences, its iterates against plain numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.activation import Activation, hard_swish, identity, leaky_relu, relu, silu
from onnx_lowrank.responses import Targets
from onnx_lowrank.solve.moments import BLOCK_ROWS
from onnx_lowrank.solve.nonlinear import Rows
from onnx_lowrank.solve.refine import Chain, _loss, balanced, chain_error, refine
from onnx_lowrank.threads import one_thread

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


def random_chain(seed: int, filters: int, size: int, columns: int, spatial: int, channel: int | None) -> Chain:
    generator = np.random.default_rng(seed)
    last = filters if channel is None else channel
    P = None if channel is None else on_grid(generator, filters, channel)
    Q = on_grid(generator, last, columns * spatial)
    return Chain(on_grid(generator, spatial, size), Q, P, on_grid(generator, filters))


def random_rows(
    seed: int, count: int, filters: int, activation: Activation, *, residual: bool, dtype: Any = np.float64
) -> Rows:
    generator = np.random.default_rng(seed)
    responses = generator.normal(size=(count, filters)).astype(dtype)
    branch = generator.normal(size=(count, filters)).astype(dtype) if residual else None
    return Rows.of(Targets(responses, branch), np.zeros((count, 0), dtype), activation)


def response(chain: Chain, features: Array, rows: Rows) -> Array:
    """Before the activation, with the residual, by einsum: column by column, filter by filter."""
    spatial = len(chain.T)
    mixed = np.einsum("sk,nwk->nws", chain.T, features.astype(np.float64))
    summed = np.einsum("qws,nws->nq", chain.Q.reshape(len(chain.Q), -1, spatial), mixed)
    last = summed if chain.P is None else np.einsum("dq,nq->nd", chain.P, summed)
    return np.asarray(last + chain.offset + (0 if rows.offset is None else rows.offset))


def squared_error(chain: Chain, features: Array, rows: Rows) -> float:
    return float(np.square(rows.activation(response(chain, features, rows)) - rows.targets).sum())


def relative_error(chain: Chain, features: Array, rows: Rows) -> float:
    return float(np.sqrt(squared_error(chain, features, rows) / np.square(rows.targets.astype(np.float64)).sum()))


def quotients(chain: Chain, features: Array, rows: Rows, step: float) -> Array:
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


def crosses_a_bend(chain: Chain, features: Array, rows: Rows) -> bool:
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
    lost, gradient = _loss(chain, features, rows)
    np.testing.assert_allclose(lost, squared_error(chain, features, rows), rtol=1e-12)
    np.testing.assert_allclose(_loss(chain, features, rows, gradient=False)[0], lost, rtol=1e-12)
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
    lost, gradient = _loss(chain, features, rows)
    parts = [_loss(chain, features[part], rows.part(part)) for part in (slice(0, 1000), slice(1000, None))]
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
    doubled = chain.map(lambda part: 2 * part)
    np.testing.assert_array_equal(doubled.vector(), 2 * vector)
    assert (doubled.P is None) == (channel is None)


def test_balanced_is_the_same_chain_with_inner_responses_of_size_one() -> None:
    chain = random_chain(0, 5, 4, 3, 2, 3)
    chain.Q[1] *= 100
    features = np.random.default_rng(1).normal(size=(200, 3, 4))
    rows = random_rows(2, 200, 5, relu(), residual=False)
    even = balanced(chain, features)
    np.testing.assert_allclose(response(even, features, rows), response(chain, features, rows), rtol=1e-9, atol=1e-9)
    inner = response(replace(even, P=None, offset=np.zeros(3)), features, rows)
    np.testing.assert_allclose(np.square(inner).mean(axis=0), 1.0, rtol=1e-5)
    dead = replace(chain, Q=np.where(np.arange(3)[:, None] == 1, 0.0, chain.Q))
    assert np.isfinite(balanced(dead, features).vector()).all()
    without = replace(chain, P=None)
    assert balanced(without, features) is without


# Refinement


def problem(
    activation: Activation,
    channel: int | None,
    count: int,
    *,
    seed: int = 0,
    residual: bool = False,
    noise: float = 0.1,
) -> tuple[Chain, Array, Rows]:
    """Responses of a map that no chain of these ranks has, and a chain some way off."""
    generator = np.random.default_rng(seed)
    filters, size, columns, spatial = 6, 5, 3, 2
    features = generator.normal(size=(count, columns, size)).astype(np.float32)
    weight = generator.normal(size=(filters, columns * size)) / 3
    responses = features.reshape(count, -1) @ weight.T + 0.5 + noise * generator.normal(size=(count, filters))
    branch = generator.normal(size=(count, filters)).astype(np.float32) if residual else None
    rows = Rows.of(Targets(responses.astype(np.float32), branch), np.zeros((count, 0), np.float32), activation)
    start = np.random.default_rng(7)
    first = weight.reshape(filters, columns, size)[:, :, :spatial].reshape(filters, -1)
    T, offset = np.eye(spatial, size), np.full(filters, 0.5)
    if channel is None:
        return Chain(T, first, None, offset), features, rows
    P, _ = np.linalg.qr(start.normal(size=(filters, channel)))
    return Chain(T, P.T @ first, P, offset), features, rows


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
@pytest.mark.parametrize("channel", [None, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_lowers_the_training_error(activation: Activation, channel: int | None, residual: bool) -> None:
    chain, features, rows = problem(activation, channel, 500, residual=residual)
    before = chain.vector()
    errors = [relative_error(chain, features, rows)]
    for iterations in (2, 15):
        refined, taken = refine(chain, features, rows, iterations)
        assert taken == iterations
        errors.append(chain_error(refined, features, rows))
        np.testing.assert_allclose(errors[-1], relative_error(refined, features, rows), rtol=1e-5)
    assert errors[1] < 0.95 * errors[0]
    assert errors[2] < 0.95 * errors[1]
    np.testing.assert_array_equal(chain.vector(), before)


@pytest.mark.parametrize("activation", [relu(), silu()], ids=lambda a: a.name)
def test_finds_a_chain_that_is_there(activation: Activation) -> None:
    _, features, rows = problem(activation, None, 400)
    truth = random_chain(5, 6, 5, 3, 2, None)
    wanted = response(truth, features, rows).astype(np.float32)
    exact = Rows.of(Targets(wanted), rows.inputs, activation)
    near = truth.like(truth.vector() + 0.05 * np.random.default_rng(0).normal(size=truth.vector().shape))
    assert relative_error(near, features, exact) > 0.03
    refined, _ = refine(near, features, exact, 60)
    assert relative_error(refined, features, exact) < 1e-5


@pytest.mark.parametrize("activation", [relu(), silu()], ids=lambda a: a.name)
@pytest.mark.parametrize("channel", [None, 3])
@pytest.mark.parametrize("count", [40, 500])
def test_judge_chooses_an_iterate_that_can_be_reached_again(
    activation: Activation, channel: int | None, count: int
) -> None:
    chain, features, rows = problem(activation, channel, count + 200, noise=0.5)
    train, held_out = rows.part(slice(0, count)), rows.part(slice(count, None))
    judge = (features[count:], held_out)
    most = 60
    chosen, taken = refine(chain, features[:count], train, most, judge)
    assert 0 < taken <= most
    error = chain_error(chosen, *judge)
    assert error < chain_error(chain, *judge)
    again, count_again = refine(chain, features[:count], train, taken)
    assert count_again == taken
    np.testing.assert_allclose(again.vector(), chosen.vector(), rtol=1e-9, atol=1e-12)
    if count == 40:  # so few rows are soon learnt by heart: going on to the end does worse
        assert taken < most
        assert error < chain_error(refine(chain, features[:count], train, most)[0], *judge)


def test_judge_that_nothing_pleases_gets_the_start() -> None:
    chain, features, rows = problem(relu(), 3, 300)
    wanted = response(chain, features, rows).astype(np.float32)
    satisfied = Rows.of(Targets(wanted), rows.inputs, relu())
    found, taken = refine(chain, features, rows, 30, (features, satisfied))
    assert found is chain
    assert taken == 0
    without, _ = refine(chain, features, rows, 30)
    assert chain_error(without, features, satisfied) > 0.1


def test_is_over_when_the_judge_has_seen_no_gain_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, features, rows = problem(relu(), 3, 300)
    satisfied = Rows.of(Targets(response(chain, features, rows).astype(np.float32)), rows.inputs, relu())
    looks: list[Chain] = []

    def counted(seen: Chain, *judge: Any) -> float:
        looks.append(seen)
        return chain_error(seen, *judge)

    monkeypatch.setattr("onnx_lowrank.solve.refine.chain_error", counted)
    refine(chain, features, rows, 30, (features, satisfied))
    assert looks[0] is chain
    wanted = [refine(chain, features, rows, iterations)[0].vector() for iterations in (2, 4, 6)]
    np.testing.assert_allclose([seen.vector() for seen in looks[1:]], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("judged", [False, True])
def test_no_iterations(judged: bool) -> None:
    chain, features, rows = problem(relu(), 3, 50)
    found, taken = refine(chain, features, rows, 0, (features, rows) if judged else None)
    assert found is chain
    assert taken == 0


def test_targets_that_are_all_zero() -> None:
    chain, features, rows = problem(relu(), 3, 50)
    dead = Rows.of(Targets(np.full_like(rows.responses, -1)), rows.inputs, relu())
    found, taken = refine(chain, features, dead, 30)
    assert found is chain
    assert taken == 0
    assert chain_error(chain, features, dead) == np.inf
    silent = replace(chain, offset=np.full(6, -1e3))
    assert chain_error(silent, features, dead) == 0.0


def test_error_is_that_of_plain_numpy() -> None:
    count = BLOCK_ROWS + 33
    for channel in (None, 3):
        chain, features, rows = problem(silu(), channel, count, residual=True)
        np.testing.assert_allclose(chain_error(chain, features, rows), relative_error(chain, features, rows), rtol=1e-5)
