"""Synthetic images: the statistics of photographs, the same every time, in the form that the input takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank import convert
from onnx_lowrank.calibrate import preset, synthetic_samples
from onnx_lowrank.calibrate.data import synthetic
from onnx_lowrank.calibrate.data.synthetic import SYNTHETIC_SAMPLES, dead_leaves
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.runtime.inputs import TensorSpec
from tests.command_line import fails, works
from tests.helpers import build, filters, normal, relative, run
from tests.networks import network

Array = NDArray[Any]


@pytest.fixture(scope="module")
def pictures() -> Array:
    images = [np.asarray(dead_leaves(np.random.default_rng([0, number]))) for number in range(30)]
    return np.stack(images).astype(np.float64)


@pytest.fixture
def few_small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Still larger than the inputs of the networks here, and drawn in a tenth of the time."""
    monkeypatch.setattr(synthetic, "_SIDE", 64)
    monkeypatch.setattr(synthetic, "SYNTHETIC_SAMPLES", 60)


def test_pixels_are_as_much_alike_as_in_photographs(pictures: Array) -> None:
    grey = pictures.mean(axis=-1)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    for apart, photographs in ((1, 0.93), (2, 0.86), (4, 0.79), (8, 0.71), (16, 0.61)):
        for first, second in ((grey[:, :, apart:], grey[:, :, :-apart]), (grey[:, apart:], grey[:, :-apart])):
            assert (first * second).mean() / np.square(grey).mean() == pytest.approx(photographs, abs=0.1)


def test_frequencies_fall_off_as_in_photographs(pictures: Array) -> None:
    """Power is close to frequency^-2 to ^-2.7 in photographs, in noise it is the same everywhere."""
    side = pictures.shape[1]
    window = np.hanning(side)[:, None] * np.hanning(side)
    grey = pictures.mean(axis=-1) - pictures.mean()
    power = np.square(np.abs(np.fft.fft2(grey * window))).mean(axis=0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    middle = (frequency > 4 / side) & (frequency < 0.3)
    slope = np.polyfit(np.log(frequency[middle]), np.log(power[middle]), 1)[0]
    assert -2.8 < slope < -2.0


def test_there_are_edges_and_colours_go_together(pictures: Array) -> None:
    steps = np.diff(pictures.mean(axis=-1), axis=2)
    assert (steps**4).mean() / np.square(np.square(steps).mean()) > 8  # 3 in noise
    correlations = np.corrcoef(pictures.reshape(-1, 3).T)
    assert correlations.min() > 0.7
    assert correlations[0, 1] < 0.99


def test_pictures_differ_from_each_other_and_fill_the_range(pictures: Array) -> None:
    means = pictures.mean(axis=(1, 2))
    assert means.std(axis=0).min() > 15
    assert pictures.min() == 0
    assert pictures.max() == 255


@pytest.mark.parametrize(
    ("shape", "dtype", "wanted"),
    [
        ((None, 3, 20, 24), np.float32, (3, 20, 24)),
        ((None, 20, 24, 3), np.float16, (20, 24, 3)),
        ((2, 1, 16, 16), np.float32, (1, 16, 16)),
        ((None, 16, 16, 3), np.uint8, (16, 16, 3)),
    ],
)
def test_images_come_in_the_form_that_the_input_takes(
    shape: tuple[int | None, ...], dtype: Any, wanted: tuple[int, ...]
) -> None:
    spec = TensorSpec("x", np.dtype(dtype), shape)
    samples = synthetic_samples([spec], preset("imagenet") if 3 in shape else preset("zero-one"), seed=1)
    assert (len(samples), samples.synthetic, samples.labels) == (SYNTHETIC_SAMPLES, True, None)
    assert samples.source == "synthetic images (320)"
    batch = samples.read([5, 0])["x"]
    assert (batch.shape, batch.dtype) == ((2, *wanted), spec.dtype)
    # A sample is made from its number and the seed alone.
    np.testing.assert_array_equal(samples.read([0, 9, 5])["x"][[2, 0]], batch)
    other = synthetic_samples([spec], preset("zero-one"), seed=2).read([5])["x"][0]
    assert not np.array_equal(other, batch[0])


def test_constant_inputs_need_no_images() -> None:
    specs = [
        TensorSpec("x", np.dtype(np.float32), (None, 3, 8, 8)),
        TensorSpec("n", np.dtype(np.int64), (1,), np.array([7])),
    ]
    found = synthetic_samples(specs, preset("zero-one"), seed=0).read([0, 1])
    assert found["x"].shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(found["n"], [7])


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        (
            (None, 40),
            np.float32,
            r"nothing to make up for input 'x' \(samples, 40\), which takes no images: pass `data`",
        ),
        ((None, 3, 8, 8), np.int64, "nothing to make up for input 'x'"),
        (
            (None, 3, None, None),
            np.float32,
            r"leaves the size of images open: .* `input_shapes={'x': \(1,3,224,224\)}`",
        ),
    ],
)
def test_inputs_without_synthetic_images(shape: tuple[int | None, ...], dtype: Any, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        synthetic_samples([TensorSpec("x", np.dtype(dtype), shape)], preset("zero-one"), seed=0)


@pytest.mark.usefixtures("few_small_pictures")
def test_a_conversion_without_data_says_so_and_works(caplog: pytest.LogCaptureFixture) -> None:
    result = convert(network(), speedup=2, samples=40, bench=False)
    assert caplog.text.count("no data: synthetic images take their place") == 1
    assert result.report.calibration.synthetic is True
    assert result.report.to_dict()["calibration"]["source"] == "synthetic images (60)"
    assert result.report.verification is not None
    assert result.report.verification["outputs"]["scores"]["relative_error"] < 0.2
    assert convert(network(), speedup=2, samples=40, bench=False).model == result.model
    assert convert(network(), speedup=2, samples=40, seed=1, bench=False).model != result.model


@pytest.mark.usefixtures("few_small_pictures")
def test_synthetic_images_do_better_than_noise() -> None:
    """Filters that see edges: what noise shows them is not what they are for."""
    graph = (
        "g (float[N,3,16,16] x) => (float[N,16,12,12] y) { c = Conv(x, w1)  r = Relu(c)  d = Conv(r, w2)  y = Relu(d) }"
    )
    model = build(graph, {"w1": filters(0, 32, 3, 3, 3), "w2": filters(1, 16, 32, 3, 3)})
    spec = TensorSpec("x", np.dtype(np.float32), (None, 3, 16, 16))
    others = synthetic_samples([spec], preset("zero-one"), seed=99).read(range(30))["x"]
    noise = np.abs(normal(0, 60, 3, 16, 16))
    errors = [
        relative_error(model, convert(model, data, speedup=3, samples=50, bench=False).model, others)
        for data in (None, noise)
    ]
    assert errors[0] < 0.7 * errors[1]


def relative_error(model: onnx.ModelProto, converted: onnx.ModelProto | None, images: Array) -> float:
    assert converted is not None
    return relative(run(model, {"x": images})["y"], run(converted, {"x": images})["y"])


@pytest.mark.usefixtures("few_small_pictures")
def test_the_command_line_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "in.onnx")
    shown = works("in.onnx", "out.onnx", "--speedup", "2", "--samples", "40", "--no-bench")
    assert shown.stderr.count("warning: no data: synthetic images take their place") == 1
    assert "synthetic images" in shown.stdout
    assert "no such file or folder" in fails(tmp_path, "in.onnx", "o.onnx", "--data", "imagse")
