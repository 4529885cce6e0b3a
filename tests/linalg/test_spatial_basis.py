"""Vertical filters against a plain SVD, loops and einsum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.linalg.spatial_basis import (
    SHRINK,
    column_features,
    horizontal_map,
    vertical_basis,
    vertical_moments,
)

Matrix = NDArray[np.float64]

BLOCK = 2048  # rows that are handled at a time


def correlated(seed: int, count: int, channels: int, kernel: tuple[int, int]) -> NDArray[np.float32]:
    """Patches whose columns have second moments far from a multiple of the identity."""
    generator = np.random.default_rng(seed)
    size = channels * kernel[0]
    mixing = generator.normal(size=(size, size)) * np.geomspace(3, 0.3, size)
    columns = generator.normal(size=(count, kernel[1], size)) @ mixing.T + generator.normal(size=size)
    return columns.reshape(count, kernel[1], kernel[0], channels).transpose(0, 3, 2, 1).astype(np.float32)


def random_weight(seed: int, shape: tuple[int, ...]) -> Matrix:
    return np.random.default_rng(seed).normal(size=shape)


def random_moments(seed: int, size: int) -> Matrix:
    """Positive definite, condition number about a hundred."""
    directions, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return (directions * np.geomspace(10, 0.1, size)) @ directions.T


def joined(horizontal: Matrix, basis: Matrix, shape: tuple[int, ...]) -> Matrix:
    """The kernel that a 1 x kw convolution behind a kh x 1 one makes, number by number."""
    filters, channels, height, width = shape
    kernel = np.zeros(shape)
    for d in range(filters):
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    kernel[d, c, y, x] = horizontal[d, x] @ basis[:, y * channels + c]
    return kernel


def lost(difference: Matrix, moments: Matrix) -> float:
    """``sum_j || (W_j - H_j V) S^(1/2) ||^2`` of what is left of a kernel."""
    width = difference.shape[3]
    columns = [difference[..., j].swapaxes(1, 2).reshape(len(difference), -1) for j in range(width)]
    return float(sum(np.trace(column @ moments @ column.T) for column in columns))


def flat(weight: Matrix) -> Matrix:
    """The kernel as the matrix that the spatial decomposition splits, shape (kh * c, d * kw)."""
    filters, channels, height, width = weight.shape
    return weight.transpose(2, 1, 0, 3).reshape(height * channels, filters * width)


@pytest.mark.parametrize("count", [7, BLOCK + 9])
def test_moments_are_the_average_outer_products_of_columns(count: int) -> None:
    patches = correlated(0, count, 3, (2, 4))
    total = np.zeros((6, 6))
    for patch in patches.astype(np.float64):
        for j in range(4):
            column = np.array([patch[c, y, j] for y in range(2) for c in range(3)])
            total += np.outer(column, column)
    average = total / (count * 4)
    wanted = average + SHRINK * np.trace(average) / 6 * np.eye(6)
    np.testing.assert_allclose(vertical_moments(patches), wanted, rtol=1e-5, atol=1e-5 * np.trace(average) / 6)
    np.testing.assert_array_equal(vertical_moments(patches), vertical_moments(patches).T)


def test_moments_of_many_long_columns_are_those_of_patches_from_all_over() -> None:
    """Of every third patch here, also across blocks; a shift from the first to the last shows what was left out."""
    patches = correlated(0, 8 * BLOCK + 9, 200, (3, 1))
    patches += np.linspace(0, 5, len(patches), dtype=np.float32)[:, None, None, None]
    found = vertical_moments(patches)
    columns = patches[::3].transpose(0, 3, 2, 1).reshape(-1, 600).astype(np.float64)
    wanted = columns.T @ columns / len(columns)
    size = np.trace(wanted) / 600
    np.testing.assert_allclose(found, wanted + SHRINK * size * np.eye(600), rtol=0, atol=1e-5 * size)
    every = patches.transpose(0, 3, 2, 1).reshape(-1, 600).astype(np.float64)
    np.testing.assert_allclose(found, every.T @ every / len(every), rtol=0, atol=0.1 * size)


def test_moments_of_dead_inputs_and_of_fewer_columns_than_numbers_are_positive_definite() -> None:
    np.testing.assert_array_equal(vertical_moments(np.zeros((5, 2, 3, 3), np.float32)), np.eye(6))
    np.testing.assert_array_equal(vertical_moments(np.zeros((0, 2, 3, 3), np.float32)), np.eye(6))
    few = correlated(0, 1, 4, (3, 2))
    few[:, 1] = 0
    smallest = np.linalg.eigvalsh(vertical_moments(few))[0]
    wanted = SHRINK * np.square(few.astype(np.float64)).sum() / 2 / 12
    np.testing.assert_allclose(smallest, wanted, rtol=1e-3)


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 10_000),
    weighed=st.booleans(),
    data=st.data(),
)
def test_is_the_optimum_that_a_full_svd_finds(
    shape: tuple[int, int, int, int], seed: int, weighed: bool, data: Any
) -> None:
    filters, channels, height, width = shape
    size = channels * height
    rank = data.draw(st.integers(1, min(size, filters * width)))
    weight = random_weight(seed, shape)
    moments = random_moments(seed + 1, size) if weighed else None
    basis = vertical_basis(weight, rank, moments)
    horizontal = horizontal_map(weight, basis, moments)
    assert basis.shape == (rank, size)
    assert horizontal.shape == (filters, width, rank)
    known = np.eye(size) if moments is None else moments
    np.testing.assert_allclose(basis @ known @ basis.T, np.eye(rank), atol=1e-10)
    values = scipy.linalg.svdvals(scipy.linalg.sqrtm(known).real @ flat(weight))
    found = lost(weight - joined(horizontal, basis, shape), known)
    np.testing.assert_allclose(found, np.square(values[rank:]).sum(), rtol=1e-8, atol=1e-11 * np.square(values).sum())


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 10_000),
    weighed=st.booleans(),
)
def test_full_rank_is_the_kernel(shape: tuple[int, int, int, int], seed: int, weighed: bool) -> None:
    filters, channels, height, width = shape
    weight = random_weight(seed, shape)
    moments = random_moments(seed + 1, channels * height) if weighed else None
    basis = vertical_basis(weight, min(channels * height, filters * width), moments)
    np.testing.assert_allclose(joined(horizontal_map(weight, basis, moments), basis, shape), weight, atol=1e-10)


def test_without_moments_is_the_svd_of_the_reshaped_kernel() -> None:
    weight = random_weight(0, (6, 4, 3, 2))
    left, values, right = np.linalg.svd(flat(weight), full_matrices=False)
    basis = vertical_basis(weight, 5)
    wanted = (left[:, :5] * values[:5] @ right[:5]).reshape(3, 4, 6, 2).transpose(2, 1, 0, 3)
    np.testing.assert_allclose(joined(horizontal_map(weight, basis), basis, weight.shape), wanted, atol=1e-10)
    error = np.linalg.norm(weight - joined(horizontal_map(weight, basis), basis, weight.shape))
    np.testing.assert_allclose(error, np.sqrt(np.square(values[5:]).sum()), rtol=1e-10)


def test_no_other_pair_of_that_rank_is_better() -> None:
    weight, moments = random_weight(0, (5, 3, 3, 2)), random_moments(1, 9)
    basis = vertical_basis(weight, 4, moments)
    horizontal = horizontal_map(weight, basis, moments)
    best = lost(weight - joined(horizontal, basis, weight.shape), moments)
    generator = np.random.default_rng(2)
    for size in (1e-3, 1e-1):
        for _ in range(100):
            other = basis + size * generator.normal(size=basis.shape)
            assert lost(weight - joined(horizontal, other, weight.shape), moments) > best
            moved = horizontal + size * generator.normal(size=horizontal.shape)
            assert lost(weight - joined(moved, other, weight.shape), moments) > best


def test_moments_help_where_columns_are_correlated() -> None:
    patches = correlated(3, 4000, 4, (3, 3))
    weight = random_weight(4, (6, 4, 3, 3))
    responses = np.einsum("dchw,nchw->nd", weight, patches)
    errors = []
    for moments in (None, vertical_moments(patches)):
        basis = vertical_basis(weight, 4, moments)
        kernel = joined(horizontal_map(weight, basis, moments), basis, weight.shape)
        errors.append(np.square(responses - np.einsum("dchw,nchw->nd", kernel, patches)).sum())
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("weighed", [False, True])
def test_leading_rows_of_a_larger_basis_are_the_smaller_basis(weighed: bool) -> None:
    weight = random_weight(0, (6, 4, 3, 2))
    moments = random_moments(1, 12) if weighed else None
    large = vertical_basis(weight, 9, moments)
    for rank in (1, 4, 8):
        small = vertical_basis(weight, rank, moments)
        signs = np.sign(np.sum(small * large[:rank], axis=1))
        np.testing.assert_allclose(small, signs[:, None] * large[:rank], atol=1e-10)
        # Then so are the leading parts of the map.
        part = horizontal_map(weight, large, moments)[:, :, :rank]
        np.testing.assert_allclose(horizontal_map(weight, small, moments), part * signs, atol=1e-10)


@pytest.mark.parametrize("count", [0, 1, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_column_features_are_the_convolution(count: int, dtype: type[np.floating[Any]]) -> None:
    patches = np.random.default_rng(0).normal(size=(count, 3, 2, 4)).astype(dtype)
    basis = np.random.default_rng(1).normal(size=(5, 6))
    features = column_features(patches, basis)
    assert features.dtype == np.float32
    assert features.shape == (count, 4, 5)
    wanted = np.einsum("khc,nchw->nwk", basis.reshape(5, 2, 3), patches.astype(np.float64))
    np.testing.assert_allclose(features, wanted, rtol=1e-5, atol=2e-6)


def test_the_type_of_the_weight_does_not_matter() -> None:
    weight = random_weight(0, (5, 3, 2, 3)).astype(np.float16)
    for dtype in (np.float32, np.float64):
        wide = weight.astype(dtype)
        np.testing.assert_array_equal(vertical_basis(weight, 3), vertical_basis(wide, 3))
    assert vertical_basis(weight, 3).dtype == np.float64
    assert horizontal_map(weight, vertical_basis(weight, 3)).dtype == np.float64
