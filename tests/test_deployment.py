"""What is promised about deploying a converted model, and the page that says how: tools/docs/deploying.md."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from polygraphy.json import load_json

import onnx_lowrank as olr
from demo_data import load_digits, split_digits
from onnx_lowrank.calibrate import open_samples
from onnx_lowrank.runtime.inputs import TensorSpec
from tests.command_line import fails, works
from tests.helpers import relative, run
from tests.networks import images, network

Array = NDArray[Any]

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "tools/docs/deploying.md").read_text(encoding="utf-8")
RUN = "".join(re.findall(r"<!-- run -->\n```\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"^(?:trtexec|polygraphy) .*$", PAGE.replace("\\\n", " "), re.MULTILINE)
WITH_TENSORRT = [line for line in COMMANDS if line.startswith("polygraphy") and " --trt " in line]

SHARED = ROOT.parent / "shared"
CIFAR10 = olr.Preprocessing("cifar10", 1 / 255, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
POINT = 0.01  # of accuracy


@dataclass(frozen=True, eq=False)
class Deployed:
    """A folder in which the page's Python was run: fast.onnx and what it was made into, with a test set."""

    folder: Path
    original: Path
    inputs: Array
    labels: Array

    def scores(self, name: str, count: int | None = None, *, optimized: bool = True) -> Array:
        """Of the first samples; not optimized, QDQ pairs round values that are computed with in float32."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(self.folder / name, options, ["CPUExecutionProvider"])
        inputs = self.inputs[:count]
        return np.concatenate(
            [session.run(None, {"input": inputs[i : i + 200]})[0] for i in range(0, len(inputs), 200)]
        )

    def accuracy(self, name: str, count: int | None = None, *, optimized: bool = True) -> float:
        """Share of the first samples that are classified right."""
        scores = self.scores(name, count, optimized=optimized)
        return float(np.mean(scores.argmax(axis=1) == self.labels[:count]))

    def model(self, name: str) -> onnx.ModelProto:
        model = onnx.load(self.folder / name)
        onnx.checker.check_model(model, full_check=True)
        return model


def follow_the_page(folder: Path, calibration: Array) -> None:
    """Run its Python, all blocks in one go, in a user's folder that has fast.onnx."""
    np.savez(folder / "calibration.npz", input=calibration)
    program = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=one_thread, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def convert_and_follow(folder: Path, original: Path, samples: Array, positions: int | None = None) -> None:
    """Convert at 3x, on one thread, and follow the page from there with the same samples."""
    quick = olr.Settings(speedup=3, positions=positions, refine="none", bench=False, provider="cpu", threads=1)
    olr.convert(original, {"input": samples}, quick, output=folder / "fast.onnx")
    follow_the_page(folder, samples)


def polygraphy(folder: Path, *arguments: str) -> str:
    """Standard output of the command, which must neither fail nor install anything."""
    done = subprocess.run(
        [Path(sys.executable).with_name("polygraphy"), *arguments],
        cwd=folder,
        env=os.environ | {"POLYGRAPHY_AUTOINSTALL_DEPS": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """The bundled model at 3x; the page followed with the digits that it was converted with."""
    folder = tmp_path_factory.mktemp("demo")
    original = ROOT / "models/demo_mnist_vgg.onnx"
    train, held_out = split_digits(load_digits())
    samples = train.inputs[::20]
    convert_and_follow(folder, original, samples, positions=10)
    return Deployed(folder, original, held_out.inputs, held_out.labels)


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """The benchmark's network at 3x, and 5,000 test images that nothing was made with."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} with real networks and data is not here")
    folder = tmp_path_factory.mktemp("cifar10")
    original, data = SHARED / "models/vgg16_cifar10_half.onnx", SHARED / "data/cifar10.zip"
    spec = TensorSpec("input", np.dtype(np.float32), (None, 3, 32, 32))
    train = open_samples(f"{data}/cifar10/train", [spec], CIFAR10)
    samples = train.read(range(0, 50_000, 250))["input"]
    convert_and_follow(folder, original, samples)
    test = open_samples(f"{data}/cifar10/test", [spec], CIFAR10)
    # Classes come in order, 500 of each: every fifth image first, so that the first 1,000 are of all classes.
    order = np.arange(5000).reshape(-1, 5).T.ravel()
    return Deployed(folder, original, test.read(order.tolist())["input"], np.repeat(np.arange(10), 500)[order])


def operators(model: onnx.ModelProto) -> Counter[tuple[str, str]]:
    return Counter((node.domain, node.op_type) for node in model.graph.node)


def assert_only_convolutions_are_new(original: onnx.ModelProto, converted: onnx.ModelProto) -> None:
    folded = ("", "BatchNormalization")
    more = operators(converted) - operators(original)
    less = operators(original) - operators(converted)
    assert set(more) == {("", "Conv")}
    assert set(less) <= {folded}
    assert list(converted.opset_import) == list(original.opset_import)
    weights = {tensor.name for tensor in converted.graph.initializer}
    before = {node.name for node in original.graph.node}
    for node in converted.graph.node:
        if node.name not in before:
            assert node.op_type == "Conv"
            assert set(node.input[1:]) <= weights
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            assert attributes.get("group", 1) == 1


def test_only_convolutions_are_new_in_the_demo_model(demo: Deployed) -> None:
    assert_only_convolutions_are_new(onnx.load(demo.original), demo.model("fast.onnx"))


@pytest.mark.parametrize("method", ["channel", "spatial", "spatial-channel"])
def test_only_convolutions_are_new_with_every_method_and_a_residual_block(method: str) -> None:
    original = network()
    result = olr.convert(
        original, {"x": images()}, speedup=1.5, method=method, refine="none", bench=False, provider="cpu", threads=1
    )
    assert result.model is not None
    onnx.checker.check_model(result.model, full_check=True)
    assert_only_convolutions_are_new(original, result.model)


def test_polygraphy_reads_and_runs_it(demo: Deployed) -> None:
    inspected, ran, fed = (polygraphy(demo.folder, *shlex.split(line)[1:]) for line in RUN.strip().splitlines())
    assert inspected.count("[Op: Conv]") == operators(demo.model("fast.onnx"))["", "Conv"]
    assert "PASSED | Output: logits is valid" in ran
    assert fed.count("{input [dtype=float32, shape=(8, 1, 28, 28)]}") == 4
    assert "PASSED" in fed


def test_samples_are_written_as_other_tools_read_them(demo: Deployed) -> None:
    """By the page's Python, from what the page's command writes."""
    calibration = np.load(demo.folder / "calibration.npz")["input"]
    batches = load_json(str(demo.folder / "inputs.json"))
    np.testing.assert_array_equal(np.concatenate([batch["input"] for batch in batches]), calibration[:32])
    raw = np.fromfile(demo.folder / "input.bin", np.float32).reshape(8, *calibration.shape[1:])
    np.testing.assert_array_equal(raw, calibration[:8])
    (line,) = re.findall(r"^onnx-lowrank samples .*$", PAGE, re.MULTILINE)
    words = line.replace("model.onnx", str(demo.original)).replace("images/", str(demo.folder / "digits.npy"))
    np.save(demo.folder / "digits.npy", demo.inputs[:300])
    works(*shlex.split(words.replace("calibration.npz", str(demo.folder / "again.npz")))[1:])
    with np.load(demo.folder / "again.npz") as again:
        assert {name: array.shape for name, array in again.items()} == {"input": (300, *calibration.shape[1:])}


def test_polygraphy_knows_the_options_of_every_command(demo: Deployed) -> None:
    # One call for all lines would lose which of them is wrong; parsing takes 0.4 s and imports no TensorRT.
    assert len(WITH_TENSORRT) == 3
    for line in WITH_TENSORRT:
        script = polygraphy(demo.folder, *shlex.split(line)[1:], "--gen-script", "-")
        assert "TrtRunner" in script
        assert "OnnxrtRunner" in script
        assert ("strongly_typed=True" in script) == ("--strongly-typed" in line)


def test_every_file_on_the_page_is_one_it_makes(demo: Deployed) -> None:
    named = {name for line in COMMANDS for name in re.findall(r"\b[\w.]+\.onnx\b", line)}
    assert named == {"fast.onnx", "fast_fp16.onnx", "fast_int8.onnx"}
    assert all((demo.folder / name).exists() for name in named)


@pytest.mark.skipif("TensorrtExecutionProvider" in onnxruntime.get_available_providers(), reason="TensorRT is here")
def test_without_tensorrt_its_provider_is_one_line_of_error_and_no_file(
    demo: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo.folder)
    Path("model.onnx").write_bytes(demo.original.read_bytes())
    lines = re.findall(r"^onnx-lowrank .*--provider tensorrt.*$", PAGE, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        found = fails(demo.folder, *shlex.split(line)[1:])
        assert re.fullmatch(r"error: provider 'tensorrt': this onnxruntime has .*", found)
    assert not Path("fast_trt.onnx").exists()


def rounding_to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that computes in float32 and rounds all weights and what every layer puts out to fp16's 11 bits.

    That is what a GPU does. onnxruntime on a CPU takes fp16's casts out and rounds the weights only.
    """
    rounding = onnx.ModelProto()
    rounding.CopyFrom(model)
    del rounding.graph.node[:]
    for tensor in rounding.graph.initializer:
        value = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16).astype(np.float32), tensor.name))
    rounding.graph.initializer.append(numpy_helper.from_array(np.asarray(2**13 + 1, np.float32), "splitter"))
    for node in model.graph.node:
        rounding.graph.node.append(node)
        if node.op_type in {"Conv", "Gemm"}:  # the others choose among values that are rounded already
            (name,) = node.output
            rounding.graph.node[-1].output[0] = f"{name}/exact"
            # Veltkamp's splitting: x (2^13 + 1) - (x (2^13 + 1) - x) is x to 24 - 13 bits.
            for operator, inputs, output in (
                ("Mul", (f"{name}/exact", "splitter"), f"{name}/wide"),
                ("Sub", (f"{name}/wide", f"{name}/exact"), f"{name}/tail"),
                ("Sub", (f"{name}/wide", f"{name}/tail"), name),
            ):
                rounding.graph.node.append(onnx.helper.make_node(operator, inputs, [output]))
    return rounding


def test_fp16_keeps_the_outputs(demo: Deployed) -> None:
    half = demo.model("fast_fp16.onnx")
    values = [*half.graph.input, *half.graph.output]
    assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT}
    assert {tensor.data_type for tensor in half.graph.initializer} == {TensorProto.FLOAT16}
    wanted, found = demo.scores("fast.onnx"), demo.scores("fast_fp16.onnx")
    # Rounding to fp16 is off by at most 2^-11 of a value, and averages out over the inputs of a layer.
    assert 2**-14 < relative(wanted, found) < 2**-10
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) >= 0.999


def test_fp16_keeps_the_outputs_where_every_layer_rounds(demo: Deployed) -> None:
    model = rounding_to_half(demo.model("fast.onnx"))
    (found,) = run(model, {"input": demo.inputs[::4]}).values()
    wanted = demo.scores("fast.onnx")[::4]
    # Here the output itself is rounded too.
    np.testing.assert_array_equal(found, found.astype(np.float16))
    assert 2**-14 < relative(wanted, found) < 2**-10
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) >= 0.996


def test_values_inside_are_far_from_the_end_of_fp16(demo: Deployed) -> None:
    model = demo.model("fast.onnx")
    feeds = {"input": demo.inputs[::10]}
    inner = [output for node in model.graph.node if node.op_type == "Conv" for output in node.output]
    assert (
        max(float(np.abs(value).max()) for value in run(model, feeds, inner).values()) < np.finfo(np.float16).max / 64
    )


def test_int8_is_as_tensorrt_wants_it(demo: Deployed) -> None:
    model = demo.model("fast_int8.onnx")
    assert not {domain for domain, _ in operators(model) if domain}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in model.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    for node in pairs:
        zero_point = constants[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
    dequantized = {node.output[0]: constants.get(node.input[0]) for node in pairs if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == operators(demo.model("fast.onnx"))["", "Conv"]
    for node in convolutions:
        weight = dequantized[node.input[1]]
        assert weight is not None
        assert weight.dtype == np.int8
        assert node.input[0] in dequantized
        assert all(constants[bias].dtype == np.float32 for bias in node.input[2:])


def test_int8_keeps_the_accuracy_of_the_demo_model(demo: Deployed) -> None:
    wanted = demo.accuracy("fast.onnx")
    assert demo.accuracy("fast_int8_cpu.onnx") == pytest.approx(wanted, abs=POINT)
    assert demo.accuracy("fast_int8.onnx", optimized=False) == pytest.approx(wanted, abs=POINT)


@pytest.mark.nightly
def test_int8_keeps_the_accuracy_on_cifar10(cifar10: Deployed) -> None:
    wanted = cifar10.accuracy("fast.onnx")
    assert wanted > 0.84
    assert cifar10.accuracy("fast_int8_cpu.onnx") > wanted - POINT
    # Integers added up exactly, as on a GPU: slow to imitate, so on the first fifth.
    part = cifar10.accuracy("fast.onnx", 1000)
    assert cifar10.accuracy("fast_int8.onnx", 1000, optimized=False) > part - POINT


@pytest.mark.nightly
def test_fp16_keeps_the_predictions_on_cifar10(cifar10: Deployed) -> None:
    wanted, found = cifar10.scores("fast.onnx", 2000), cifar10.scores("fast_fp16.onnx", 2000)
    assert np.mean(wanted.argmax(axis=1) == found.argmax(axis=1)) >= 0.998
