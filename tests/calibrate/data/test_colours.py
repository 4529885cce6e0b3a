"""Colours fitted to first responses: the statistics that onnxruntime computes for images of other colours."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank.calibrate import preset, synthetic_samples
from onnx_lowrank.calibrate.data import synthetic
from onnx_lowrank.calibrate.data.colours import fit_colours
from onnx_lowrank.graph import read_input_statistics
from onnx_lowrank.layers.input_statistics import InputStatistics
from onnx_lowrank.runtime.inputs import TensorSpec
from tests.helpers import build, normal, run

Array = NDArray[Any]
MIX = np.array([[1.5, 0.2, 0.0], [-0.3, 0.8, 0.1], [0.2, 0.0, 0.5]])
SHIFT = np.array([0.4, -1.0, 0.1])
SIZE = 40


@pytest.fixture(autouse=True, scope="module")
def _small_pictures() -> Iterator[None]:
    """Still larger than the images, and drawn in less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "_SIDE", 128)
        yield


@cache
def synthetic_images(numbers: range, channels: int = 3) -> Array:
    spec = TensorSpec("x", np.dtype(np.float32), (None, channels, SIZE, SIZE))
    return synthetic_samples([spec], preset("zero-one"), 0).read(numbers)["x"]


def network(body: str, weight: Array, statistics: tuple[Array, Array], **more: Array) -> onnx.ModelProto:
    d = len(weight)
    weights = {"w": weight, "s": np.ones(d, np.float32), "b": normal(7, d), "m": statistics[0], "v": statistics[1]}
    lines = f"g (float[N,C,H,W] x) => (float[N,D,R,S] y) {{ {body} y = BatchNormalization (c, s, b, m, v) }}"
    return build(lines, {**weights, **more})


def statistics(weight: Array, images: Array, attributes: str = "", bias: Array | None = None) -> tuple[Array, Array]:
    """Mean and variance of a convolution's responses, by onnxruntime."""
    given = "" if bias is None else ", k"
    model = build(
        f"g (float[N,C,H,W] x) => (float[N,D,R,S] y) {{ y = Conv {attributes} (x, w{given}) }}",
        {"w": weight, **({} if bias is None else {"k": bias})},
    )
    (found,) = run(model, {"x": images}).values()
    return found.mean(axis=(0, 2, 3)), found.var(axis=(0, 2, 3))


@pytest.mark.parametrize("attributes", ["<pads = [1, 1, 1, 1]>", "", "<strides = [2, 2], pads = [0, 1, 2, 1]>"])
def test_the_colours_that_the_statistics_are_of(attributes: str) -> None:
    """The network has seen images of other leaves, in other colours."""
    seen = np.einsum("ij,njhw->nihw", MIX, synthetic_images(range(100, 164))) + SHIFT[:, None, None]
    weight, bias = normal(0, 32, 3, 3, 3), normal(1, 32)
    model = network(
        f"c = Conv {attributes} (x, w, k) ",
        weight,
        statistics(weight, seen.astype(np.float32), attributes, bias),
        k=bias,
    )
    first = read_input_statistics(model, "x")
    assert first is not None
    images = synthetic_images(range(64))
    colours = fit_colours(images, first)
    assert colours is not None
    changed = colours(images, channels_first=True)
    assert changed.dtype == np.float32
    wanted, found = (np.cov(each.transpose(1, 0, 2, 3).reshape(3, -1)) for each in (seen, changed))
    # Other pictures of the same kind: their own spread is what is left.
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
    assert np.abs(changed.mean(axis=(0, 2, 3)) - seen.mean(axis=(0, 2, 3))).max() < 0.05
    assert colours.error[1] < 0.2 * colours.error[0]


def test_channels_last_is_the_same() -> None:
    first = InputStatistics(
        normal(0, 32, 3, 3, 3, dtype=np.float64), (1, 1), ((1, 1), (1, 1)), normal(1, 32), np.full(32, 3.0)
    )
    images = synthetic_images(range(64))[:8]
    colours = fit_colours(images, first)
    assert colours is not None
    last = colours(images.transpose(0, 2, 3, 1), channels_first=False)
    np.testing.assert_allclose(last.transpose(0, 3, 1, 2), colours(images, channels_first=True), rtol=0, atol=1e-5)


def test_grey_images() -> None:
    weight, images = normal(0, 8, 1, 3, 3), synthetic_images(range(100, 140), 1)
    mean, variance = statistics(weight, (2 * images - 0.7).astype(np.float32))
    first = InputStatistics(weight.astype(np.float64), (1, 1), ((0, 0), (0, 0)), mean, variance)
    colours = fit_colours(synthetic_images(range(40), 1), first)
    assert colours is not None
    assert colours.matrix[0, 0] == pytest.approx(2, rel=0.1)
    assert colours.offset[0] == pytest.approx(-0.7, abs=0.05)


def test_too_few_filters_say_nothing() -> None:
    first = InputStatistics(normal(0, 8, 3, 3, 3, dtype=np.float64), (1, 1), ((1, 1), (1, 1)), normal(1, 8), np.ones(8))
    assert fit_colours(synthetic_images(range(64))[:4], first) is None


def test_what_is_read_of_the_network() -> None:
    weight, mean, variance = normal(0, 16, 3, 3, 5), normal(1, 16), np.abs(normal(2, 16))
    body = "t = Transpose <perm = [0, 3, 1, 2]> (x)  c = Conv <strides = [2, 1], pads = [1, 2, 0, 3]> (t, w, k) "
    first = read_input_statistics(network(body, weight, (mean, variance), k=normal(3, 16)), "x")
    assert first is not None
    assert first.strides == (2, 1)
    assert first.pads == ((1, 0), (2, 3))
    np.testing.assert_array_equal(first.weight, weight)
    np.testing.assert_allclose(first.mean, mean.astype(np.float64) - normal(3, 16), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(first.variance, variance)


@pytest.mark.parametrize(
    "body",
    [
        "u = Sub (x, o)  c = Conv (u, w)",  # another network prepares its images itself
        "r = Conv (x, w)  c = Relu (r)",
        "c = Conv <dilations = [2, 2]> (x, w)",
        "c = Conv <auto_pad = 'SAME_UPPER'> (x, w)",
        "c = Conv (x, w)  z = Relu (x)",  # the image is read by two
    ],
)
def test_networks_that_do_not_tell(body: str) -> None:
    body = body.replace("'", '"')
    model = network(body, normal(0, 16, 3, 3, 3), (normal(1, 16), np.abs(normal(2, 16))), o=np.ones(1, np.float32))
    assert read_input_statistics(model, "x") is None
