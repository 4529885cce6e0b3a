"""Kinds of outputs: recognized by the original's values, and judged by what they are for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnx_lowrank import convert
from onnx_lowrank.errors import VerificationError
from onnx_lowrank.report import headline, to_markdown
from onnx_lowrank.verify.fidelity import MAX_RELATIVE_ERROR, fidelity_warnings, is_close, refusal
from onnx_lowrank.verify.output_kinds import KindFidelity, KindSums
from onnx_lowrank.verify.outputs import Comparison, OutputFidelity, compare_outputs
from tests.helpers import build, filters, normal
from tests.networks import images

Array = NDArray[Any]
BATCH, BATCHES = 4, 3


def judged(a: Array, b: Array) -> KindFidelity | None:
    """The fidelity of an output that comes in batches of 4."""
    sums = KindSums()
    for at in range(0, len(a), BATCH):
        sums.add(a[at : at + BATCH], b[at : at + BATCH], BATCH)
    return sums.result()


def softmax(logits: Array, axis: int) -> Array:
    powers = np.exp(logits - logits.max(axis, keepdims=True))
    return (powers / powers.sum(axis, keepdims=True)).astype(np.float32)


def blobs(seed: int, side: int = 16, marked: float = 0.1) -> Array:
    """Maps with some squares near 1 and noise near 0, shape (12, 1, side, side)."""
    generator = np.random.default_rng(seed)
    maps = generator.uniform(0, 0.02, (BATCH * BATCHES, 1, side, side))
    maps[generator.random(maps.shape) < marked] = 0.99
    return maps.astype(np.float32)


def test_maps_are_judged_by_the_overlap_of_what_they_mark() -> None:
    a = blobs(0)
    b = np.where(np.random.default_rng(1).random(a.shape) < 0.2, 0.01, a).astype(np.float32)
    found = judged(a, b)
    union, both = ((a > 0.5) | (b > 0.5)).sum(), ((a > 0.5) & (b > 0.5)).sum()
    assert found == KindFidelity("map", "overlap of marked areas", both / union, 0.75, 0.5)
    assert 0.75 < found.value < 0.85
    channels_last = judged(np.moveaxis(a, 1, 3), np.moveaxis(b, 1, 3))
    assert channels_last == found


def test_maps_of_nothing_are_judged_by_places_that_change_sides() -> None:
    """Where nothing is marked, a relative error is one of noise, and the map says the same."""
    a, b = blobs(0, marked=0.0), blobs(1, marked=0.0)
    assert np.linalg.norm(a - b) > 0.6 * np.linalg.norm(a)
    found = judged(a, b)
    assert found == KindFidelity("empty map", "places marked alike", 1.0, 0.999, 0.99)
    b[:, :, :2] = 0.7  # an eighth of all places
    found = judged(a, b)
    assert found is not None
    assert (found.measure, found.value) == ("overlap of marked areas", 0.0)


@pytest.mark.parametrize("axis", [1, 3])
def test_segmentations_are_judged_by_pixels(axis: int) -> None:
    logits, noise = normal(0, 12, 5, 9, 9), normal(1, 12, 5, 9, 9)
    a, b = (np.moveaxis(softmax(each, 1), 1, axis) for each in (2 * logits, 2 * logits + noise))
    found = judged(a, b)
    assert found is not None
    assert (found.kind, found.measure) == ("segmentation", "pixels of the same class")
    assert found.value == (a.argmax(axis) == b.argmax(axis)).mean()
    assert found.value < 0.9


def test_maps_of_classes_are_judged_by_pixels() -> None:
    a = np.random.default_rng(0).integers(0, 19, (12, 10, 11))
    b = np.where(np.random.default_rng(1).random(a.shape) < 0.1, 0, a)
    found = judged(a, b)
    assert found is not None
    assert (found.kind, found.value) == ("class map", (a == b).mean())


def test_steps_of_a_text_are_judged_where_there_are_letters() -> None:
    """Nine of ten steps are blank in both: they would hide that a third of the letters change."""
    letters = np.where(np.random.default_rng(0).random((12, 50)) < 0.1, 3, 0)
    changed = np.where((letters == 3) & (np.random.default_rng(1).random(letters.shape) < 0.3), 2, letters)
    a, b = (softmax(90 * np.eye(70)[each], -1) for each in (letters, changed))  # next to 0 and 1 as in a map
    found = judged(a, b)
    assert found is not None
    assert (found.kind, found.measure) == ("places", "same class where there is one")
    assert found.value == (changed[letters == 3] == 3).mean()
    assert 0.5 < found.value < 0.85


def test_boxes_are_judged_by_their_overlap() -> None:
    corners = np.random.default_rng(0).uniform(0, 300, (12, 30, 2))
    a = np.concatenate([corners, corners + 20], -1).astype(np.float32)
    b = a + np.array([10, 0, 10, 0], np.float32)  # half of every box: 1/3 of both together
    found = judged(a, b)
    assert found is not None
    assert (found.kind, found.measure) == ("boxes", "mean overlap of boxes")
    assert found.value == pytest.approx(1 / 3, rel=1e-4)
    assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)  # which nobody would be warned of


def test_embeddings_are_judged_by_their_cosine() -> None:
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (normal(0, 12, 64), normal(1, 12, 64)))
    found = judged(a, 3 * (a + 0.5 * b))
    assert found is not None
    assert (found.kind, found.measure) == ("embedding", "mean cosine")
    mixed = a + 0.5 * b
    assert found.value == pytest.approx(float(((a * mixed).sum(1) / np.linalg.norm(mixed, axis=1)).mean()), rel=1e-6)


@pytest.mark.parametrize(
    "output",
    [
        normal(0, 12, 10),
        softmax(normal(0, 12, 10), 1),
        normal(0, 12, 8, 16, 16),
        np.random.default_rng(0).random((12, 3, 16, 16)).astype(np.float32),  # pictures
        normal(0, 12, 84, 100),
        np.abs(normal(0, 12, 4)),
        np.arange(12),
        np.zeros((12, 100), np.int64),
        np.zeros((12, 0, 4), np.float32),
        np.full((12, 1, 16, 16), np.nan, np.float32),
        np.where(np.arange(12 * 9).reshape(12, 9, 1) % 2, np.inf, -np.inf) * np.ones(20, np.float32),
    ],
)
def test_outputs_of_no_such_kind(output: Array) -> None:
    assert judged(output, output) is None


def test_one_batch_that_does_not_fit_is_enough() -> None:
    a = blobs(0)
    a[-1, 0, 0, 0] = 1.5
    assert judged(a, a) is None


SIDE, CELLS = 64, 84  # of an input, and of a head with strides 8, 16 and 32


def heads(boxes: dict[int, tuple[float, float, float]]) -> Array:
    """The output of a YOLOv8 of two classes for 4 images: by cell, centre and score of a box of 10 x 10 pixels."""
    output = np.zeros((4, 6, CELLS), np.float32)
    output[:, :4] = np.random.default_rng(0).uniform(1, SIDE, (4, 4, CELLS))  # which nobody looks at
    for cell, (x, y, score) in boxes.items():
        output[:, :5, cell] = x, y, 10, 10, score
    return output


class Heads:
    """A network that returns a given output."""

    outputs = numeric_outputs = ("output0",)

    def __init__(self, output: Array) -> None:
        self.output = output

    def run(self, _: Any) -> dict[str, Array]:
        return {"output0": self.output}


def test_detectors_are_judged_by_the_objects_that_both_find() -> None:
    """Of three objects one is lost and one moves away, and another one is new: 1 is the same of 3 and of 3."""
    a = heads({3: (12, 12, 0.9), 40: (40, 20, 0.8), 70: (20, 50, 0.7), 9: (50, 50, 0.2)})
    b = heads({3: (13, 12, 0.8), 40: (40, 34, 0.8), 70: (20, 50, 0.1), 9: (50, 50, 0.4)})
    assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)
    batch = {"images": np.zeros((4, 3, SIDE, SIDE), np.float32)}
    found = compare_outputs(Heads(a), Heads(b), [batch, batch]).outputs["output0"]
    assert found.of_kind == KindFidelity("detections", "objects that both find", 1 / 3, 0.9, 0.5)
    assert not is_close(found.to_dict())
    nothing = heads({})
    assert compare_outputs(Heads(nothing), Heads(nothing), [batch]).outputs["output0"].of_kind is None


def fidelity(error: float, kind: KindFidelity | None = None, agreement: float | None = None) -> OutputFidelity:
    return OutputFidelity(error, 0.9, agreement, kind)


MAP = ("map", "overlap of marked areas")


@pytest.mark.parametrize(
    ("found", "close", "refused"),
    [
        (fidelity(0.6, KindFidelity(*MAP, 0.8, 0.75, 0.5)), True, None),
        (fidelity(0.1, KindFidelity(*MAP, 0.7, 0.75, 0.5)), False, None),
        (fidelity(1.4, KindFidelity(*MAP, 0.6, 0.75, 0.5)), False, None),
        (
            fidelity(1.4, KindFidelity(*MAP, 0.41, 0.75, 0.5)),
            False,
            ("overlap of marked areas 0.41 (map; relative error 1.4)", "at least 0.5"),
        ),
        (fidelity(1.4), False, ("relative error 1.4", "at most 1")),
        (fidelity(1.4, agreement=0.97), True, None),
        (fidelity(1.4, agreement=0.4), False, ("same top class 0.4 (relative error 1.4)", "at least 0.5")),
        (fidelity(np.inf, agreement=0.97), True, ("relative error inf", "at most 1")),
    ],
)
def test_kinds_decide_what_is_close_and_what_is_refused(
    found: OutputFidelity, close: bool, refused: tuple[str, str] | None
) -> None:
    assert is_close(found.to_dict()) is close
    assert (fidelity_warnings(Comparison({"y": found}, None, 8), "8 samples") == ()) is close
    assert refusal(found) == refused


def test_warnings_name_the_measure() -> None:
    outputs = {"y": fidelity(0.1, KindFidelity(*MAP, 0.7, 0.75, 0.5))}
    (warning,) = fidelity_warnings(Comparison(outputs, None, 8), "8 held-out samples")
    assert warning.text.startswith(
        "output 'y' is not close to the original: overlap of marked areas 0.7 on 8 held-out samples, 0.75 is the least "
        "to expect: convert with less speedup"
    )


def map_network(bias: float) -> onnx.ModelProto:
    """Two convolutions and a map between 0 and 1, near 0 nearly everywhere by the bias."""
    graph = """g (float[N, 3, 12, 12] x) => (float[N, 1, 12, 12] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        r2 = Relu (c2)
        c3 = Conv (r2, w3, b3)
        y = Sigmoid (c3)
    }"""
    weights = {"w1": filters(0, 16, 3, 3, 3), "w2": filters(1, 16, 16, 3, 3), "w3": 8 * filters(2, 1, 16, 1, 1)}
    return build(graph, weights | {"b3": np.array([bias], np.float32)})


def test_reports_name_the_kind_and_its_measure() -> None:
    model = map_network(-12.0)
    result = convert(model, {"x": images(60)}, speedup=2, rank_multiple=1, bench=False, threads=1)
    assert result.report.verification is not None
    found = result.report.verification["outputs"]["y"]
    assert found["kind"] == "empty map"
    assert found["measure"] == {"name": "places marked alike", "value": 1.0, "warn": 0.999, "refuse": 0.99}
    assert found["relative_error"] > MAX_RELATIVE_ERROR  # which would be warned of
    assert (found["close"], result.report.warnings) == (True, ())
    line = next(line for line in headline(result.report) if line.startswith("close"))
    error = f"relative error {found['relative_error']:.4f}"
    assert line.startswith(f"close       y: places marked alike 1 (empty map), {error} on ")
    assert "| output | relative error | cosine | same top class | judged by |" in to_markdown(result.report)
    assert "| places marked alike 1 (empty map) |" in to_markdown(result.report)
    assert "<td>places marked alike 1 (empty map)</td>" in result.to_html()


def test_a_refused_conversion_says_by_which_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose map is turned over: what was marked is not, and the other way round."""
    real = compare_outputs

    def turned(a: Any, b: Any, *rest: Any) -> Comparison:
        class Turned:
            outputs, numeric_outputs = b.outputs, b.numeric_outputs

            @staticmethod
            def run(feeds: Any) -> Any:
                return {"y": 1 - b.run(feeds)["y"]}

        return real(a, Turned(), *rest)

    monkeypatch.setattr("onnx_lowrank.verify.conversion.compare_outputs", turned)
    with pytest.raises(VerificationError) as caught:
        convert(map_network(-12.0), {"x": images(60)}, speedup=1.5, rank_multiple=1, bench=False, threads=1)
    assert str(caught.value).startswith("output 'y': overlap of marked areas 0 (map; relative error ")
    assert str(caught.value).endswith(
        ") on 12 held-out samples, at least 0.5 is wanted: lower `speedup` or add samples; nothing was written"
    )
