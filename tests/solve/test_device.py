"""Where layers are solved, decided by the provider and by what PyTorch can do."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

from onnx_lowrank import convert, pipeline
from onnx_lowrank.layers.responses import LayerSamples, PatchProbe, TargetResponses
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.solve.device import SolverDevice, solver_device, to_device
from tests.helpers import plain_network
from tests.networks import images

TARGETS = TargetResponses(np.ones((2, 3), np.float32))


class FullError(Exception):
    """There is no memory left."""


def have_cuda(monkeypatch: pytest.MonkeyPatch, *, cuda: bool) -> None:
    """Have a PyTorch that finds a CUDA device, or none."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_on_the_gpu_where_pytorch_can(
    provider: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    have_cuda(monkeypatch, cuda=True)
    with caplog.at_level(logging.INFO):
        device = solver_device(Provider(provider))
    assert device.move is to_device
    assert device.one_by_one
    assert caplog.messages == ["layers are solved on the GPU, by PyTorch"]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_on_the_cpu_where_pytorch_has_no_cuda(
    provider: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    have_cuda(monkeypatch, cuda=False)
    with caplog.at_level(logging.INFO):
        assert solver_device(Provider(provider)).move(TARGETS) is TARGETS
    assert caplog.messages == [
        f"provider {provider}: layers are solved on the CPU all the same, since PyTorch finds no CUDA device: "
        "install a build of PyTorch with CUDA"
    ]


def test_on_the_cpu_pytorch_is_not_asked(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with caplog.at_level(logging.INFO):
        assert solver_device(Provider("cpu")).move(TARGETS) is TARGETS
    assert caplog.messages == []


def test_a_layer_too_large_for_the_gpu_is_solved_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    """Memory that the attempt took is given back before; other errors go on."""
    moved, steps = TargetResponses(np.zeros((2, 3), np.float32)), []

    def work(targets: TargetResponses) -> int:
        steps.append("GPU" if targets is moved else "CPU")
        if targets is moved:
            raise FullError("12 GB wanted")
        return 7

    device = SolverDevice(lambda _: moved, (FullError,), lambda: steps.append("cleared"))
    assert device.run(work, TARGETS) == 7
    assert steps == ["GPU", "cleared", "CPU"]
    assert caplog.messages == ["the GPU gave up on a layer, which is solved on the CPU: 12 GB wanted"]
    with pytest.raises(FullError):
        SolverDevice(lambda _: moved, (ValueError,)).run(work, TARGETS)


def test_memory_is_given_back_after_each_layer() -> None:
    steps: list[str] = []
    device = SolverDevice(lambda targets: targets, (), lambda: steps.append("cleared"))
    assert device.run(lambda targets: targets, TARGETS) is TARGETS
    assert steps == ["cleared"]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_threads_that_choose_ranks(one_by_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, or several of their own."""
    seen: set[int] = set()

    def bring(targets: TargetResponses) -> TargetResponses:
        seen.add(threading.get_ident())
        return targets

    monkeypatch.setattr(pipeline, "solver_device", lambda _: SolverDevice(bring, one_by_one=one_by_one))
    data = {"x": images(40, size=8)}
    convert(plain_network(), data, speedup=2, provider="cpu", threads=2, bench=False, dry_run=True)
    assert (seen == {threading.get_ident()}) == one_by_one


CODE = """
import logging, sys
{before}
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.solve.device import solver_device
device = solver_device(Provider({provider!r}))
print("GPU" if device.failures and device.one_by_one else "CPU", "torch" in sys.modules)
"""


def decided(provider: str, before: str = "") -> list[str]:
    """What a program of its own logs, and which place it is."""
    code = CODE.format(provider=provider, before=before)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


def test_without_pytorch_it_is_said_how_to_get_it() -> None:
    said, place = decided("cuda", "sys.modules['torch'] = None")
    assert said.startswith("provider cuda: layers are solved on the CPU all the same, since PyTorch is not installed")
    assert said.endswith("pip install torch")
    assert place == "CPU True"  # that entry says that it is not there


def test_pytorch_alone_is_enough() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    missing = "sys.modules.update(accelerate=None, safetensors=None, onnx2pytorch=None)"
    cuda = "import torch; torch.cuda.is_available = lambda: True"
    assert decided("cuda", f"{missing}; {cuda}") == ["layers are solved on the GPU, by PyTorch", "GPU True"]


def test_pytorch_is_imported_for_gpus_alone() -> None:
    assert decided("cpu") == ["CPU False"]


def test_a_conversion_solves_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here on tensors of the CPU: the network is as good as with arrays."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    solved_on: list[str] = []

    def noted(*given: Any) -> Any:
        (responses,) = (each for each in given if isinstance(each, LayerSamples))
        solved_on.append(type(responses.targets.responses).__name__)
        return solve_layer(*given)

    solve_layer = pipeline.solve_layer
    monkeypatch.setattr(pipeline, "solve_layer", noted)
    data, errors = {"x": images(40, size=8)}, []
    for place in (None, SolverDevice(partial(to_device, device="cpu"))):
        if place is not None:
            monkeypatch.setattr(pipeline, "solver_device", lambda _, place=place: place)
        report = convert(plain_network(), data, speedup=2, provider="cpu", bench=False, seed=1).report
        errors.append([layer.errors.solved for layer in report.layers if layer.errors])
    half = len(solved_on) // 2
    assert half > 0
    assert solved_on == ["ndarray"] * half + ["Tensor"] * half
    np.testing.assert_allclose(errors[1], errors[0], rtol=2e-2)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_targets_become_float32_tensors(dtype: Any, residual: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    responses, branch = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(dtype)
    probe = PatchProbe(np.zeros((2, 3, 1, 1)), np.arange(2))
    moved = to_device(TargetResponses(responses, branch if residual else None, probe), "cpu")
    for tensor, array in ((moved.responses, responses), (moved.residual, branch if residual else None)):
        if array is None:
            assert tensor is None
        else:
            assert tensor.dtype == torch.float32
            np.testing.assert_array_equal(tensor.numpy(), array.astype(np.float32))
    assert moved.probe is probe


def test_the_device_is_cuda_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    asked: list[Any] = []
    monkeypatch.setattr(torch, "asarray", lambda _, **named: asked.append(named["device"]))
    to_device(TargetResponses(np.ones((2, 2))))
    assert asked == ["cuda"]


def test_products_are_not_rounded_to_tf32() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    assert not torch.backends.cuda.matmul.allow_tf32


def test_failures_of_a_gpu_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    have_cuda(monkeypatch, cuda=True)
    torch, failures = sys.modules["torch"], solver_device(Provider("cuda")).failures
    for error in (torch.OutOfMemoryError, torch.cuda.OutOfMemoryError, torch.linalg.LinAlgError):
        assert issubclass(error, failures)


def test_memory_that_is_kept_can_be_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    have_cuda(monkeypatch, cuda=True)
    calls: list[int] = []
    monkeypatch.setattr(sys.modules["torch"].cuda, "empty_cache", lambda: calls.append(1))
    solver_device(Provider("cuda")).free_unused()
    assert calls == [1]
