"""Where layers are solved, decided by the provider and by what PyTorch can do."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnx_lowrank import convert, pipeline
from onnx_lowrank.place import Place
from onnx_lowrank.placement import solving_place
from onnx_lowrank.provider import Provider
from onnx_lowrank.responses import Responses, Targets
from tests.helpers import plain_network
from tests.networks import images

ROWS = "onnx_lowrank.torch.rows"
TARGETS = Targets(np.ones((2, 3), np.float32))


class FullError(Exception):
    """There is no memory left."""


def fake_rows(monkeypatch: pytest.MonkeyPatch, *, cuda: bool) -> Targets:
    """Have a PyTorch with CUDA, or without; what it makes of any targets."""
    moved = Targets(np.zeros((2, 3), np.float32))
    fake: Any = SimpleNamespace(
        has_cuda=lambda: cuda, to_device=lambda _: moved, GIVES_UP=(FullError,), clear=lambda: None
    )
    monkeypatch.setitem(sys.modules, ROWS, fake)
    return moved


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_on_the_gpu_where_pytorch_can(
    provider: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    moved = fake_rows(monkeypatch, cuda=True)
    with caplog.at_level(logging.INFO):
        assert solving_place(Provider(provider)).bring(TARGETS) is moved
    assert caplog.messages == ["layers are solved on the GPU, by PyTorch"]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_on_the_cpu_where_pytorch_has_no_cuda(
    provider: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_rows(monkeypatch, cuda=False)
    with caplog.at_level(logging.INFO):
        assert solving_place(Provider(provider)).bring(TARGETS) is TARGETS
    assert caplog.messages == [
        f"provider {provider}: layers are solved on the CPU all the same, since PyTorch finds no CUDA device: "
        "install a build of PyTorch with CUDA"
    ]


def test_on_the_cpu_pytorch_is_not_asked(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, ROWS, None)
    with caplog.at_level(logging.INFO):
        assert solving_place(Provider("cpu")).bring(TARGETS) is TARGETS
    assert caplog.messages == []


def test_a_layer_too_large_for_the_gpu_is_solved_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    """Memory that the attempt took is given back before; other errors go on."""
    moved, steps = Targets(np.zeros((2, 3), np.float32)), []

    def work(targets: Targets) -> int:
        steps.append("GPU" if targets is moved else "CPU")
        if targets is moved:
            raise FullError("12 GB wanted")
        return 7

    place = Place(lambda _: moved, (FullError,), lambda: steps.append("cleared"))
    assert place.solve(TARGETS, work) == 7
    assert steps == ["GPU", "cleared", "CPU"]
    assert caplog.messages == ["the GPU gave up on a layer, which is solved on the CPU: 12 GB wanted"]
    with pytest.raises(FullError):
        Place(lambda _: moved, (ValueError,)).solve(TARGETS, work)


def test_memory_is_given_back_after_each_layer() -> None:
    steps: list[str] = []
    place = Place(lambda targets: targets, (), lambda: steps.append("cleared"))
    assert place.solve(TARGETS, lambda targets: targets) is TARGETS
    assert steps == ["cleared"]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_threads_that_choose_ranks(one_by_one: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One, or several of their own."""
    seen: set[int] = set()

    def bring(targets: Targets) -> Targets:
        seen.add(threading.get_ident())
        return targets

    monkeypatch.setattr(pipeline, "solving_place", lambda _: Place(bring, one_by_one=one_by_one))
    data = {"x": images(40, size=8)}
    convert(plain_network(), data, speedup=2, provider="cpu", bench=False, dry_run=True)
    assert (seen == {threading.get_ident()}) == one_by_one


CODE = """
import logging, sys
{before}
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from onnx_lowrank.placement import solving_place
from onnx_lowrank.provider import Provider
place = solving_place(Provider({provider!r}))
print("GPU" if place.gives_up and place.one_by_one else "CPU", "torch" in sys.modules)
"""


def decided(provider: str, before: str = "") -> list[str]:
    """What a program of its own logs, and which place it is."""
    code = CODE.format(provider=provider, before=before)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()


def test_without_pytorch_it_is_said_how_to_get_it() -> None:
    said, place = decided("cuda", "sys.modules['torch'] = None")
    assert said.startswith(
        "provider cuda: layers are solved on the CPU all the same, since onnx_lowrank.torch: PyTorch"
    )
    assert said.endswith("pip install 'onnx-lowrank[torch]'")
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
    from onnx_lowrank.torch.rows import to_device

    solved_on: list[str] = []

    def noted(*given: Any) -> Any:
        (responses,) = (each for each in given if isinstance(each, Responses))
        solved_on.append(type(responses.targets.responses).__name__)
        return solve_layer(*given)

    solve_layer = pipeline.solve_layer
    monkeypatch.setattr(pipeline, "solve_layer", noted)
    data, errors = {"x": images(40, size=8)}, []
    for place in (None, Place(partial(to_device, device="cpu"))):
        if place is not None:
            monkeypatch.setattr(pipeline, "solving_place", lambda _, place=place: place)
        report = convert(plain_network(), data, speedup=2, provider="cpu", bench=False, seed=1).report
        errors.append([layer.errors.solved for layer in report.layers if layer.errors])
    half = len(solved_on) // 2
    assert half > 0
    assert solved_on == ["ndarray"] * half + ["Tensor"] * half
    np.testing.assert_allclose(errors[1], errors[0], rtol=2e-2)
