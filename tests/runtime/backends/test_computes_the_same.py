"""Every runtime computes what onnxruntime computes, whatever its converter does to names, axes and types."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.agreement import outputs_in
from onnx_lowrank.runtime.backends import Runtime, open_runtime
from onnx_lowrank.runtime.trial import try_out
from tests.helpers import CPU, Array, build, filters, normal, run

MODULES = {
    "onnxruntime": "onnxruntime",
    "openvino:f32": "openvino",  # by itself it takes bfloat16 where the processor has it
    "ncnn": "pnnx",
    "mnn": "_tools",
    "litert": "ai_edge_litert",
}
# LiteRT's converter takes five seconds or more for a network, however small.
RUNTIMES = [pytest.param(name, marks=pytest.mark.nightly) if name == "litert" else name for name in MODULES]
ROOT = Path(__file__).parents[3]
OCR = Path(getattr(find_spec("rapidocr_onnxruntime"), "origin", None) or "none").parent / "models"
CONV = "Conv<pads=[1,1,1,1]>"
GRAPHS: dict[str, tuple[str, dict[str, Array]]] = {
    "open axes": (
        "g (float[N,3,H,W] x) => (float[N,4] y) "
        f"{{ a = {CONV}(x, w) b = Relu(a) c = GlobalAveragePool(b) y = Flatten(c) }}",
        {"w": filters(0, 4, 3, 3, 3)},
    ),
    "two inputs, two outputs": (
        "g (float[1,3,8,8] x, float[1,3,8,8] z) => (float[1,4,8,8] y, float[1,4,8,8] q) "
        f"{{ a = {CONV}(x, w) b = {CONV}(z, w) y = Sub(a, b) q = Mul(a, b) }}",
        {"w": filters(1, 4, 3, 3, 3)},
    ),
    "outputs of one axis and of none": (
        "g (float[1,4,8,8] x) => (float[4] y, float z) "
        f"{{ a = {CONV}(x, w) y = ReduceMean<axes=[0,2,3], keepdims=0>(a) z = ReduceMean<keepdims=0>(a) }}",
        {"w": filters(2, 4, 4, 3, 3)},
    ),
    "matrices": (
        "g (float[N,16] x) => (float[N,8] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }",
        {"w": normal(3, 16, 12), "v": normal(4, 12, 8)},
    ),
    "rows of matrices": (
        "g (float[1,5,16] x) => (float[1,5,8] y) { y = MatMul(x, w) }",
        {"w": normal(5, 16, 8)},
    ),
    "one spatial axis": (
        "g (float[1,4,32] x) => (float[1,8,32] y) { a = Conv<pads=[1,1]>(x, w) y = Relu(a) }",
        {"w": normal(6, 8, 4, 3)},
    ),
    "channels last": (
        "g (float[1,16,12,3] x) => (float[1,16,12,4] y) "
        f"{{ t = Transpose<perm=[0,3,1,2]>(x) a = {CONV}(t, w) y = Transpose<perm=[0,2,3,1]>(a) }}",
        {"w": filters(7, 4, 3, 3, 3)},
    ),
    "two samples": (
        f"g (float[2,3,8,8] x) => (float[2,4,8,8] y) {{ y = {CONV}(x, w) }}",
        {"w": filters(8, 4, 3, 3, 3)},
    ),
    "whole numbers": (
        "g (int64[1,6] i, float[1,6,4] x) => (float[1,6,8] y) { e = Gather(t, i) s = Add(e, x) y = MatMul(s, w) }",
        {"t": normal(9, 10, 4), "w": normal(10, 4, 8)},
    ),
}


REAL: dict[str, tuple[Path, tuple[int, ...]]] = {
    "the demo": (ROOT / "models/demo_mnist_vgg.onnx", (1, 1, 28, 28)),
    "detection": (OCR / "ch_PP-OCRv4_det_infer.onnx", (1, 3, 96, 160)),
    "recognition": (OCR / "ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 160)),
    "direction": (OCR / "ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, 192)),
}


def opened(name: str) -> Runtime:
    pytest.importorskip(MODULES[name], reason=f"runtime {name} is not installed")
    if name == "litert" and not shutil.which("onnx2tf"):
        pytest.skip("LiteRT's converter onnx2tf is not on PATH")
    return open_runtime(name, CPU)


def feeds_of(model: Any) -> dict[str, Array]:
    """Noise, one sample of 9 x 7 pixels where the model leaves that open; whole numbers up to 9."""
    sizes = {"N": 1, "H": 9, "W": 7}
    feeds = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [dimension.dim_value or sizes[dimension.dim_param] for dimension in tensor.shape.dim]
        whole = np.random.default_rng(0).integers(0, 10, shape)
        feeds[value.name] = normal(11, *shape) if tensor.elem_type == 1 else whole
    return feeds


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_same_as_onnxruntime(name: str, graph: str, tmp_path: Path) -> None:
    runtime = opened(name)
    model = build(*GRAPHS[graph])
    feeds = feeds_of(model)
    wanted = run(model, feeds)
    prepared = runtime.prepare(model, feeds, tmp_path)
    running = prepared.open()
    running.run()
    found = running.outputs()
    running.close()
    assert list(found) == list(wanted)
    for output, values in wanted.items():
        assert found[output].shape == values.shape
        np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RUNTIMES)
def test_one_output_of_two(name: str, tmp_path: Path) -> None:
    runtime = opened(name)
    model = build(*GRAPHS["two inputs, two outputs"])
    feeds = feeds_of(model)
    running = runtime.prepare(model, feeds, tmp_path).open(["q"])
    running.run()
    found = running.outputs()
    assert list(found) == ["q"]
    np.testing.assert_allclose(found["q"], run(model, feeds)["q"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("network", REAL)
def test_real_networks(name: str, network: str, tmp_path: Path) -> None:
    runtime = opened(name)
    file, shape = REAL[network]
    if not file.is_file():
        pytest.skip(f"{file.name} is not there: the package rapidocr-onnxruntime has it")
    (source,) = (value.name for value in onnx.load(file, load_external_data=False).graph.input)
    (found,) = try_out([file], [{source: np.random.default_rng(0).random(shape, np.float32)}], runtime, CPU)
    assert found.error is None
    assert max(found.differences.values()) < 3e-3  # of the detection's map, which is all but 0 on noise


@pytest.mark.parametrize("name", ["ncnn", "mnn", "openvino:f32"])
def test_a_network_that_it_cannot_run_is_an_error_with_its_own_words(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And nothing is printed beside it: whoever reads the command's output wants its table."""
    runtime = opened(name)
    unknown = "g (float[1,4] x) => (float[1,4] y) { y = NoSuchOperator(x) }"
    words, graph = {
        "ncnn": ("ncnn cannot load it: layer NonZero not", "g (float[1,4] x) => (int64[2,M] y) { y = NonZero(x) }"),
        "mnn": ("MNNConvert cannot convert it: ", unknown),
        "openvino:f32": ("OpenVINO cannot read it: .*NoSuchOperator", unknown),
    }[name]
    model = build(graph)
    feeds = feeds_of(model)
    with pytest.raises(ModelError, match=f"^model: {words}"):
        outputs_in(runtime.prepare(model, feeds, tmp_path))
    assert capfd.readouterr() == ("", "")
