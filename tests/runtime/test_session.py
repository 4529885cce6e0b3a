from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_lowrank.errors import MissingDependencyError, ModelError
from onnx_lowrank.runtime import library
from onnx_lowrank.runtime import session as runtime
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session, choose_provider
from tests.helpers import CPU, build, normal

SUM = "g (float[N,3] x, float[3] z) => (float[N,3] y, float[N,3] u) { y = Add(x, z)  u = Sub(x, z) }"

CPU_ONLY: Any = ("CPUExecutionProvider", {})
PLAIN_CUDA: Any = ("CUDAExecutionProvider", {})
EXACT_CUDA: Any = ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})


def test_runs_and_names_outputs() -> None:
    model = build(SUM)
    feeds = {"x": normal(0, 2, 3), "z": normal(1, 3)}
    session = Session(model, CPU)
    assert session.outputs == ("y", "u")
    assert session.providers == ("CPUExecutionProvider",)
    found = session.run(feeds)
    np.testing.assert_array_equal(found["y"], feeds["x"] + feeds["z"])
    np.testing.assert_array_equal(found["u"], feeds["x"] - feeds["z"])


def test_outputs_stay_where_the_model_runs_and_go_back_in() -> None:
    session, feeds = Session(build(SUM), CPU), {"x": normal(0, 2, 3), "z": normal(1, 3)}
    (array,), rest = session.run_resident(feeds, ["y"])
    np.testing.assert_array_equal(array, feeds["x"] + feeds["z"])
    assert rest.keys() == {"u"}
    assert (rest["u"].dtype, rest["u"].nbytes) == (np.float32, 24)
    (again,), _ = session.run_resident({"x": rest["u"], "z": feeds["z"]}, ["y"])
    np.testing.assert_array_equal(rest["u"].numpy(), feeds["x"] - feeds["z"])
    np.testing.assert_array_equal(again, feeds["x"] - feeds["z"] + feeds["z"])


def test_resident_inputs_that_do_not_fit_keep_the_message_of_onnxruntime() -> None:
    with pytest.raises(ModelError, match=r"sum: onnxruntime cannot run it: .*x"):
        Session(build(SUM), CPU, name="sum").run_resident({"x": normal(0, 2, 4), "z": normal(1, 3)}, ["y"])


def test_runs_from_a_file(tmp_path: Path) -> None:
    onnx.save(build(SUM), tmp_path / "sum.onnx")
    feeds = {"x": normal(0, 2, 3), "z": normal(1, 3)}
    np.testing.assert_array_equal(Session(tmp_path / "sum.onnx", CPU).run(feeds)["y"], feeds["x"] + feeds["z"])


def test_describes_inputs() -> None:
    model = build("""g (float[N,3,4] a, double[2,h] b, float16[1] c, int64[N] d, bool[2] e, uint8 f, float[0,2] z)
        => (float[N,3,4] y) { y = Relu(a) }""")
    f32 = np.dtype(np.float32)
    assert Session(model, CPU).inputs == (
        TensorSpec("a", f32, (None, 3, 4)),
        TensorSpec("b", np.dtype(np.float64), (2, None)),
        TensorSpec("c", np.dtype(np.float16), (1,)),
        TensorSpec("d", np.dtype(np.int64), (None,)),
        TensorSpec("e", np.dtype(np.bool_), (2,)),
        TensorSpec("f", np.dtype(np.uint8), ()),
        TensorSpec("z", f32, (None, 2)),
    )


def test_initializers_that_are_inputs_too_are_no_inputs() -> None:
    model = build("g (float[2] x) => (float[2] y) { y = Add(x, w) }", {"w": normal(0, 2)}, opset=7, ir=3)
    assert [spec.name for spec in Session(model, CPU).inputs] == ["x"]


def test_an_input_that_is_no_tensor_of_numbers_is_refused() -> None:
    model = build("g (string[2] words) => (string[2] y) { y = Identity(words) }")
    with pytest.raises(ModelError, match=r"input 'words': type tensor\(string\) is not supported"):
        _ = Session(model, CPU).inputs


def test_a_model_that_cannot_be_loaded_keeps_the_message_of_onnxruntime() -> None:
    model = build("g (float[2] x) => (float[2] y) { y = NoSuchOperator(x) }")
    with pytest.raises(ModelError, match=r"^net\.onnx: onnxruntime cannot load it: .*NoSuchOperator"):
        Session(model, CPU, name="net.onnx")


def test_inputs_that_cannot_be_run_keep_the_message_of_onnxruntime() -> None:
    session = Session(build(SUM), CPU, name="net.onnx")
    with pytest.raises(ModelError, match=r"(?s)^net\.onnx: onnxruntime cannot run it: .*Got: 5 Expected: 3"):
        session.run({"x": normal(0, 2, 5), "z": normal(1, 3)})


def test_threads_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = onnxruntime.InferenceSession

    def spy(source: bytes, options: onnxruntime.SessionOptions, **more: object) -> object:
        seen.append(options.intra_op_num_threads)
        return real(source, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    Session(build(SUM), Provider("cpu", threads=1))
    assert seen == [1]


# Providers


def test_standard_output_is_left_to_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another thread prints meanwhile is not lost, and two that open sessions do not restore each other's."""
    seen, real, output = [], onnxruntime.InferenceSession, sys.stdout

    def spy(*given: object, **more: object) -> object:
        seen.append(sys.stdout)
        return real(*given, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    Session(build(SUM), CPU)
    assert seen == [output]


def test_a_model_that_cannot_be_loaded_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError):
        Session(build(SUM.replace("Add(x, z)", "Strange(x, z)")), CPU)
    assert capfd.readouterr() == ("", "")


def test_cpu_by_name_and_by_default() -> None:
    assert choose_provider("cpu", 3) == Provider("cpu", 3)
    assert choose_provider("cpu") == Provider("cpu", 0)


@pytest.mark.parametrize(
    ("name", "deployed", "chain"),
    [
        ("cpu", False, [CPU_ONLY]),
        ("cpu", True, [CPU_ONLY]),
        ("cuda", False, [EXACT_CUDA, CPU_ONLY]),
        ("cuda", True, [PLAIN_CUDA, CPU_ONLY]),
        ("tensorrt", False, [EXACT_CUDA, CPU_ONLY]),
        ("tensorrt", True, [("TensorrtExecutionProvider", {}), PLAIN_CUDA, CPU_ONLY]),
    ],
)
def test_what_runs_a_few_times_is_exact_and_neither_searches_algorithms_nor_builds_engines(
    name: str, deployed: bool, chain: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Noted:
        def __init__(self, *_: Any, providers: Any, **__: Any) -> None:
            asked.append(providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Noted)
    Session(build(SUM), Provider(name), deployed=deployed)
    assert asked == [chain]


def test_libraries_of_cuda_that_pip_installed_are_loaded_once_and_for_gpus_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    loads: list[int] = []

    def preload() -> None:
        loads.append(1)
        print("Failed to load libcudnn.so.9")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: None)
    library.load_cuda_libraries.cache_clear()
    with caplog.at_level(logging.INFO):
        for name in ("cpu", "cuda", "cuda", "tensorrt"):
            Session(build(SUM), Provider(name))
            assert len(loads) == (name != "cpu")
    library.load_cuda_libraries.cache_clear()
    assert caplog.messages == ["onnxruntime: Failed to load libcudnn.so.9"]
    assert capsys.readouterr().out == ""


def test_an_unknown_provider_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="provider must be auto, cpu, cuda or tensorrt, got 'tpu'"):
        choose_provider("tpu")


def pretend_available(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(names))


def test_a_provider_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_available(monkeypatch, "CPUExecutionProvider")
    with pytest.raises(MissingDependencyError, match=r"provider 'cuda': this onnxruntime has CPUExec.*lowrank\[gpu\]"):
        choose_provider("cuda")
    assert choose_provider("auto").name == "cpu"


def test_a_provider_that_is_installed_but_does_not_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_available(monkeypatch, "CUDAExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr(Session, "providers", ("CPUExecutionProvider",))
    with (
        pytest.warns(UserWarning, match="Specified provider"),
        pytest.raises(
            MissingDependencyError, match=r"provider 'cuda': CUDAExecutionProvider is installed but does not start"
        ),
    ):
        choose_provider("cuda")
    with pytest.warns(UserWarning, match="Specified provider"), caplog.at_level(logging.WARNING):
        assert choose_provider("auto").name == "cpu"
    assert caplog.messages == [
        "CUDA is installed but does not start, the CPU is taken: check the driver and the CUDA, cuDNN and TensorRT "
        "libraries, or use `provider='cpu'` (pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and cuDNN)"
    ]


def test_auto_takes_cuda_where_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_available(monkeypatch, "CUDAExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr(runtime, "_starts", lambda name: name == "cuda")
    assert choose_provider("auto", 2) == Provider("cuda", 2)


def test_without_onnxruntime_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnx-lowrank\[cpu\]'"):
        choose_provider("cpu")


def test_outputs_whose_declared_shape_is_not_true_are_run_unbound() -> None:
    model = build("g (float[N,2] x) => (float[7,5] y) { y = Neg(x) }")
    session = Session(model, CPU)
    session.bound({"x": np.ones((3, 2), np.float32)})()


def test_inputs_that_do_not_fit_fail_bound_or_not() -> None:
    session = Session(build("g (float[N,2] x) => (float[7,5] y) { y = Neg(x) }"), CPU)
    with pytest.raises(ModelError, match="onnxruntime cannot run it"):
        session.bound({"x": np.ones((3, 4), np.float32)})()
