from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.verify import compare_outputs, measure_loss
from tests.helpers import build

Array = NDArray[np.float32]


def linear(weight: Array, output: str = "y") -> Session:
    graph = f"g (float[N, 4] x) => (float[N, 6] {output}) {{ {output} = MatMul (x, w) }}"
    model = build(graph, {"w": weight})
    return Session(model, Provider())


def data(count: int = 50) -> tuple[Array, Array, Array]:
    generator = np.random.default_rng(0)
    a = generator.normal(size=(4, 6)).astype(np.float32)
    b = a + 0.3 * generator.normal(size=(4, 6)).astype(np.float32)
    return generator.normal(size=(count, 4)).astype(np.float32), a, b


def test_figures_are_those_of_numpy_whatever_the_batches() -> None:
    x, a, b = data()
    labels = np.random.default_rng(1).integers(0, 6, len(x))
    batches = [{"x": x[:7]}, {"x": x[7:30]}, {"x": x[30:]}]
    found = compare_outputs(linear(a), linear(b), batches, labels)
    first, second = x.astype(np.float64) @ a, x.astype(np.float64) @ b
    fidelity = found.outputs["y"]
    assert fidelity.relative_error == pytest.approx(np.linalg.norm(first - second) / np.linalg.norm(first), rel=1e-5)
    cosine = (first * second).sum() / np.linalg.norm(first) / np.linalg.norm(second)
    assert fidelity.cosine == pytest.approx(cosine, rel=1e-5)
    assert fidelity.agreement == pytest.approx((first.argmax(1) == second.argmax(1)).mean())
    assert found.images == 50
    assert found.accuracy is not None
    for scores, top1, top5 in zip((first, second), found.accuracy.top1, found.accuracy.top5, strict=True):
        assert top1 == pytest.approx((scores.argmax(1) == labels).mean())
        assert top5 == pytest.approx((np.argsort(scores, axis=1)[:, 1:] == labels[:, None]).any(1).mean())


def test_a_model_agrees_with_itself() -> None:
    x, a, _ = data()
    fidelity = compare_outputs(linear(a), linear(a), [{"x": x}]).outputs["y"]
    assert (fidelity.relative_error, fidelity.agreement) == (0.0, 1.0)
    assert fidelity.cosine == pytest.approx(1.0, rel=1e-12)


def test_nan_is_no_small_error() -> None:
    x, a, b = data()
    b[0, 0] = np.nan
    fidelity = compare_outputs(linear(a), linear(b), [{"x": x}]).outputs["y"]
    assert fidelity.relative_error == np.inf
    assert fidelity.to_dict()["relative_error"] is None


def halved(weight: Array) -> Session:
    """Divides by the last input: infinite where it is 0, and not a number where the product is 0 too."""
    graph = (
        "g (float[N, 4] x) => (float[N, 6] y) { p = MatMul (x, w)  d = Slice (x, three, four, one)  y = Div (p, d) }"
    )
    return Session(build(graph, {"w": weight, "three": [3], "four": [4], "one": [1]}), Provider())


def test_what_is_infinite_in_the_original_is_not_compared(caplog: pytest.LogCaptureFixture) -> None:
    x, a, b = data()
    x[:10, 3] = 0
    found = compare_outputs(halved(a), halved(b), [{"x": x}]).outputs["y"]
    first, second = (x[10:].astype(np.float64) @ weight / x[10:, 3:] for weight in (a, b))
    assert found.relative_error == pytest.approx(np.linalg.norm(first - second) / np.linalg.norm(first), rel=1e-5)
    assert "output 'y': 60 of 300 numbers are NaN or infinite in the original network and are not" in caplog.text
    with pytest.raises(ModelError, match="output 'y': nothing but NaN or infinity comes out of the original network"):
        compare_outputs(halved(a), halved(b), [{"x": x[:10]}])


def chosen(least: float) -> Session:
    """Hands out the inputs above a limit, however many they are, and all of them."""
    graph = """g (float[N, 4] x) => (int64[2, M] places, float[N, 4] y, string[1] text) {
        c = Greater (x, least)
        places = NonZero (c)
        y = Relu (x)
        text = Identity (word)
    }"""
    model = build(graph, {"least": np.float32(least)})
    model.graph.initializer.append(onnx.helper.make_tensor("word", onnx.TensorProto.STRING, [1], [b"cat"]))
    return Session(model, Provider())


def test_outputs_of_another_length_and_texts_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    x, _, _ = data()
    found = compare_outputs(chosen(0), chosen(1), [{"x": x[:20]}, {"x": x[20:]}])
    assert list(found.outputs) == ["y"]
    assert len([record for record in caplog.records if "it is not compared" in record.getMessage()]) == 1


def test_no_output_in_common() -> None:
    x, a, b = data()
    with pytest.raises(ModelError, match="no output of numbers in common: y and z"):
        compare_outputs(linear(a), linear(b, "z"), [{"x": x}])


def test_labels_beyond_the_scores() -> None:
    x, a, b = data()
    with pytest.raises(ModelError, match=r"output 'y': shape \(50, 6\) does not score 10 classes"):
        compare_outputs(linear(a), linear(b), [{"x": x}], np.full(50, 9))


class Fixed:
    """A model that returns the same outputs, whatever it is fed."""

    def __init__(self, **outputs: Array) -> None:
        self._values = outputs
        self.outputs = self.numeric_outputs = tuple(outputs)

    def run(self, feeds: object) -> dict[str, Array]:  # noqa: ARG002  (what a model is run on)
        return self._values


FEEDS = {"x": np.zeros((3, 4), np.float32)}


def test_an_output_without_rows_is_not_compared(caplog: pytest.LogCaptureFixture) -> None:
    model = Fixed(boxes=np.zeros((0, 5), np.float32), y=np.ones((3, 2), np.float32))
    assert list(compare_outputs(model, model, [FEEDS, FEEDS]).outputs) == ["y"]
    assert caplog.messages == ["output 'boxes': it has no rows on any of 6 images: it is not compared"]


def test_no_output_has_rows(caplog: pytest.LogCaptureFixture) -> None:
    model = Fixed(boxes=np.zeros((0, 5), np.float32))
    assert compare_outputs(model, model, [FEEDS]).outputs == {}
    assert caplog.messages == ["output 'boxes': it has no rows on any of 3 images: it is not compared"]


def test_scores_of_several_images_in_a_row_are_not_compared_by_class(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    a, b = np.float32([[1, 9, 1, 8, 1, 7]]), np.float32([[1, 7, 1, 8, 1, 9]])  # each image has the same class in both
    last = {"x": np.zeros((1, 4), np.float32)}
    fidelity = compare_outputs(Fixed(y=a), Fixed(y=b), [FEEDS, last]).outputs["y"]
    assert fidelity.agreement is None
    assert fidelity.relative_error == pytest.approx(np.sqrt(8 / (3 + 81 + 64 + 49)))
    assert caplog.messages == ["output 'y': its rows hold several images each: it is not compared by class"]
    assert measure_loss(Fixed(y=a), Fixed(y=b), [FEEDS]).what == "relative error"


def test_labels_for_more_images_than_rows() -> None:
    model = Fixed(y=np.float32([[1, 9, 1, 8, 1, 7]]))
    with pytest.raises(ModelError, match="1 rows of scores for 3 images: leave `labels` out"):
        compare_outputs(model, model, [FEEDS], np.array([0, 1, 1]))
