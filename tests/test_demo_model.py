"""The demo model and its digits are what models/README.md says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from demo_data import Digits, load_digits, split_digits

MODELS = Path(__file__).parent.parent / "models"
MODEL = MODELS / "demo_mnist_vgg.onnx"


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


def stated(pattern: str) -> str:
    found = re.search(pattern, (MODELS / "README.md").read_text(encoding="utf-8"))
    assert found is not None, f"models/README.md does not say {pattern}"
    return found[1]


def test_hash_is_the_stated_one() -> None:
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == stated(r"sha256 \| `([0-9a-f]{64})`")


def test_reads_the_held_out_digits_as_well_as_stated(digits: Digits) -> None:
    _, held_out = split_digits(digits)
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": held_out.inputs})
    accuracy = float(np.mean(np.argmax(logits, axis=1) == held_out.labels))
    # Another processor's rounding may tip one digit that the model is undecided about.
    assert accuracy == pytest.approx(float(stated(r"(\d\d\.\d) % of the 1,000")) / 100, abs=0.001)


def test_graph_keeps_batch_normalization_behind_every_convolution() -> None:
    model = onnx.load(MODEL)
    onnx.checker.check_model(model, full_check=True)
    producer = {output: node.op_type for node in model.graph.node for output in node.output}
    normalizations = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert [producer[node.input[0]] for node in normalizations] == ["Conv"] * 9


def test_batch_axis_is_open() -> None:
    (images,) = onnx.load(MODEL).graph.input
    shape = images.type.tensor_type.shape.dim
    assert [dimension.dim_param or dimension.dim_value for dimension in shape] == ["batch", 1, 28, 28]


def test_digits_are_split_evenly_without_overlap(digits: Digits) -> None:
    train, held_out = split_digits(digits)
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(held_out.labels).tolist() == [100] * 10
    everything = np.concatenate([train.images, held_out.images]).reshape(5000, -1)
    assert len(np.unique(everything, axis=0)) == 5000


def test_every_image_keeps_its_label(digits: Digits) -> None:
    label_of = {image.tobytes(): label for image, label in zip(digits.images, digits.labels, strict=True)}
    for side in split_digits(digits):
        assert [label_of[image.tobytes()] for image in side.images] == side.labels.tolist()


def test_split_depends_on_the_seed_alone(digits: Digits) -> None:
    first, again, other = (split_digits(digits, seed=seed)[1].images for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_inputs_are_zero_to_one_with_a_channel_axis(digits: Digits) -> None:
    assert digits.inputs.shape == (5000, 1, 28, 28)
    assert digits.inputs.dtype == np.float32
    assert (digits.inputs.min(), digits.inputs.max()) == (0.0, 1.0)
    np.testing.assert_array_equal(np.rint(digits.inputs[:, 0] * 255), digits.images)


@pytest.mark.parametrize("count", [0, 500])
def test_a_side_without_digits_is_refused(digits: Digits, count: int) -> None:
    with pytest.raises(ValueError, match=rf"held_out_per_class must be 1\.\.499, got {count}"):
        split_digits(digits, held_out_per_class=count)
