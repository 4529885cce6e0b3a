"""Order of elimination: against brute force, against one-by-one elimination, on duplicates."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.linalg.elimination import elimination_order

Floats = NDArray[np.float64]


def rows(seed: int, count: int, inputs: int) -> Floats:
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(count, inputs)) @ generator.normal(size=(inputs, inputs))
    features = np.maximum(0, mixed)
    return features - features.mean(axis=0)


def least_error(inputs: Floats, targets: Floats, stay: NDArray[np.int64]) -> float:
    solved = np.linalg.lstsq(inputs[:, stay], targets, rcond=None)[0]
    return float(np.sum((inputs[:, stay] @ solved - targets) ** 2))


def inputs_of(channels: NDArray[np.int64], block: int) -> NDArray[np.int64]:
    return (channels[:, None] * block + np.arange(block)).ravel()


@pytest.mark.parametrize("block", [1, 4])
def test_each_step_takes_the_channel_that_is_missed_least(block: int) -> None:
    inputs = rows(0, 400, 6 * block)
    weight = np.random.default_rng(1).normal(size=(6 * block, 3))
    order = elimination_order(inputs.T @ inputs, inputs.T @ inputs @ weight, weight, block, damping=1e-9)
    left = np.arange(6)
    for step, channel in enumerate(order[:-1]):
        errors = {
            int(each): least_error(inputs, inputs @ weight, inputs_of(left[left != each], block)) for each in left
        }
        assert min(errors, key=errors.__getitem__) == channel, f"step {step}"
        left = left[left != channel]
    assert sorted(order.tolist()) == list(range(6))


def test_is_close_to_the_best_of_all_subsets() -> None:
    inputs = rows(2, 500, 8)
    targets = inputs @ np.random.default_rng(3).normal(size=(8, 4))
    order = elimination_order(inputs.T @ inputs, inputs.T @ targets, np.zeros((8, 4)), damping=1e-9)
    chosen = least_error(inputs, targets, np.sort(order[4:]))
    best = min(least_error(inputs, targets, np.array(subset)) for subset in combinations(range(8), 4))
    assert best <= chosen < 1.3 * best


def test_takes_one_of_two_equal_channels_first_and_the_other_late() -> None:
    inputs = rows(4, 300, 64)
    inputs[:, 17] = inputs[:, 40]  # neither is missed as long as the other stays
    weight = np.random.default_rng(5).normal(size=(64, 16))
    order = elimination_order(inputs.T @ inputs, inputs.T @ inputs @ weight, weight).tolist()
    first, second = sorted((order.index(17), order.index(40)))
    assert first == 0
    assert second > 8


def test_rounds_take_about_what_single_steps_take() -> None:
    inputs, block = rows(6, 3000, 160), 1
    weight = np.random.default_rng(7).normal(size=(160, 20))
    gram = inputs.T @ inputs
    order = elimination_order(gram, gram @ weight, weight, block, damping=1e-6)
    single = one_by_one(gram, gram @ weight)
    for width in (40, 80, 120):
        errors = [least_error(inputs, inputs @ weight, np.sort(each[160 - width :])) for each in (order, single)]
        assert errors[0] == pytest.approx(errors[1], rel=0.02)


def one_by_one(gram: Floats, cross: Floats) -> NDArray[np.int64]:
    """Eliminate by solving all the normal equations anew at every step."""
    left, order = list(range(len(gram))), []
    while left:
        inverse = np.linalg.inv(gram[np.ix_(left, left)])
        best = inverse @ cross[left]
        out = int((np.sum(best**2, axis=1) / np.diag(inverse)).argmin())
        order.append(left.pop(out))
    return np.array(order)


def test_channels_that_are_always_zero_go_first() -> None:
    inputs = rows(8, 200, 10)
    inputs[:, [3, 7]] = 0
    weight = np.random.default_rng(9).normal(size=(10, 2))
    order = elimination_order(inputs.T @ inputs, inputs.T @ inputs @ weight, weight)
    assert set(order[:2].tolist()) == {3, 7}


def test_without_any_variation_the_order_is_that_of_the_channels() -> None:
    order = elimination_order(np.zeros((4, 4)), np.zeros((4, 1)), np.ones((4, 1)), 2)
    assert order.tolist() == [0, 1]
