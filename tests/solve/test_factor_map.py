"""Chains as maps, and the variables that weigh alike: against einsum, adjoints and sampled moments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.solve.factor_map import FactorMap, Whitening
from tests.solve.test_refine import random_chain

Array = NDArray[Any]

DOUBLE = np.dtype(np.float64)


def dot(one: FactorMap, other: FactorMap) -> float:
    return float(one.vector() @ other.vector())


def moments(seed: int, size: int) -> Array:
    """Positive definite, condition number about 1e4."""
    directions, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return (directions * np.geomspace(100, 0.01, size)) @ directions.T


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    filters=st.integers(1, 5),
    size=st.integers(1, 5),
    columns=st.integers(1, 3),
    data=st.data(),
)
def test_the_map_is_all_factors_together(seed: int, filters: int, size: int, columns: int, data: Any) -> None:
    spatial, channel = data.draw(st.integers(1, size)), data.draw(st.none() | st.integers(1, filters))
    chain = random_chain(seed, filters, size, columns, spatial, channel)
    wanted = np.einsum("qws,sk->qwk", chain.Q.reshape(len(chain.Q), columns, spatial), chain.T)
    if chain.P is not None:
        wanted = np.einsum("dq,qwk->dwk", chain.P, wanted)
    np.testing.assert_allclose(chain.map, wanted.reshape(filters, -1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channel", [None, 3])
def test_a_gradient_is_pulled_back_as_the_map_is_pushed_forward(channel: int | None) -> None:
    chain, change = random_chain(0, 5, 4, 3, 2, channel), random_chain(1, 5, 4, 3, 2, channel)
    gradient, offset = np.random.default_rng(2).normal(size=(5, 12)), np.random.default_rng(3).normal(size=5)
    step = 2.0**-20
    ends = [chain + chain.like(sign * step * change.vector()) for sign in (1, -1)]
    moved = (ends[0].map - ends[1].map) / (2 * step)
    wanted = float(np.sum(gradient * moved) + offset @ change.offset)
    assert dot(chain.pulled_back(gradient, offset), change) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("channel", [None, 3])
def test_gradients_by_the_variables(channel: int | None) -> None:
    """What a change of the variables promises by one gradient, it promises by the other."""
    chain, variables, gradient = (random_chain(seed, 5, 4, 3, 2, channel) for seed in range(3))
    whitening = Whitening.of(chain, moments(0, 6), DOUBLE)
    there = dot(whitening.gradient(gradient), variables)
    assert there == pytest.approx(dot(gradient, whitening.change(variables)), rel=1e-9)


@pytest.mark.parametrize(("channel", "factor"), [(None, "T"), (None, "Q"), (3, "T"), (3, "Q"), (3, "P")])
def test_variables_of_a_size_move_the_responses_by_that_size(channel: int | None, factor: str) -> None:
    chain = random_chain(0, 5, 4, 3, 2, channel)
    still = chain.like(np.zeros_like(chain.vector()))
    generator = np.random.default_rng(1)
    variables = replace(still, **{factor: generator.normal(size=getattr(chain, factor).shape)})
    # T is thought of as reading features that are white; Q and P read what T makes of features with these moments.
    wide = np.eye(12) if factor == "T" else moments(2, 12)
    reads = np.kron(np.eye(3), chain.T)
    change = Whitening.of(chain, reads @ wide @ reads.T, DOUBLE).change(variables)
    step = 2.0**-20
    moved = ((chain + chain.like(step * change.vector())).map - chain.map) / step
    size = float(np.trace(moved @ wide @ moved.T))
    assert size == pytest.approx(float(np.sum(variables.vector() ** 2)), rel=1e-3)


def test_dead_factors_leave_the_variables_finite() -> None:
    chain = random_chain(0, 5, 4, 3, 2, 3)
    dead = replace(chain, Q=np.zeros_like(chain.Q), P=np.zeros_like(chain.P))
    whitening = Whitening.of(dead, np.zeros((6, 6)), DOUBLE)
    assert np.isfinite(whitening.change(chain).vector()).all()


def test_in_the_type_that_is_asked_for() -> None:
    chain = random_chain(0, 5, 4, 3, 2, 3)
    single = np.dtype(np.float32)
    whitening = Whitening.of(chain, moments(0, 6), single)
    assert whitening.change(chain.astype(single)).vector().dtype == single
    assert whitening.gradient(chain.astype(single)).vector().dtype == single
