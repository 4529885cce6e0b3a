"""A GPU of flesh and blood: ``make test-gpu``, with onnxruntime-gpu and PyTorch for CUDA installed.

What the CPU can say about the same code is in the tests of each part, of which some take ``--device cuda`` as well.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from onnx_lowrank import convert, pipeline
from onnx_lowrank.calibrate import Propagation
from onnx_lowrank.runtime.device import free_on_device
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session
from tests.helpers import CPU, build, filters, normal, plain_network
from tests.networks import images, network

CUDA = Provider("cuda", threads=1)
DATA = {"x": images(120)}


@pytest.fixture(autouse=True)
def _gpu(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--device") != "cuda":
        pytest.skip("wants a GPU: --device cuda")


def settings(**changes: Any) -> dict[str, Any]:
    return {"speedup": 2.0, "threads": 1, "seed": 1, "rank_multiple": 1, "bench": False} | changes


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_it_is_found_without_pytorch(provider: str) -> None:
    """The libraries that pip installed are; it is PyTorch's import that would have loaded them."""
    code = (
        "import sys; from onnx_lowrank.runtime.session import choose_provider; "
        f"print(choose_provider({provider!r}).name, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "cuda False\n"


def test_what_runs_a_few_times_is_not_rounded_to_tf32() -> None:
    graph = "g (float[N,64,9,9] x) => (float[N,32,7,7] y) { y = Conv(x, w) }"
    model = build(graph, {"w": filters(0, 32, 64, 3, 3)})
    feeds = {"x": normal(1, 4, 64, 9, 9)}
    wanted = Session(model, CPU).run(feeds)["y"]
    np.testing.assert_allclose(Session(model, CUDA).run(feeds)["y"], wanted, rtol=1e-5, atol=1e-5)


def test_outputs_can_stay_there() -> None:
    model = build("g (float[N,3] x) => (float[N,3] y, float[N,3] u) { y = Relu(x)  u = Neg(x) }")
    session, x = Session(model, CUDA), normal(0, 5, 3)
    (array,), rest = session.run_resident({"x": x}, ["y"])
    np.testing.assert_array_equal(array, np.maximum(x, 0))
    assert rest["u"].value.device_name() == "cuda"
    np.testing.assert_array_equal(rest["u"].numpy(), -x)
    (array,), _ = session.run_resident({"x": rest["u"]}, ["y"])
    np.testing.assert_array_equal(array, np.maximum(-x, 0))


def test_its_memory_is_known() -> None:
    assert 1e9 < free_on_device(CUDA) < 1e12


@pytest.mark.parametrize("method", ["channel", "spatial", "spatial-channel"])
@pytest.mark.parametrize("refine", ["none", "fast"])
def test_a_conversion_is_as_on_the_cpu(method: str, refine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ranks, and errors of the layers as on the CPU, or as there on data shaken a little.

    A last digit may send the alternation to a solution that is a tenth better or worse. Cut tensors are on the GPU.
    """
    kept: list[int] = []

    class Watched(Propagation):
        def advance(self, *given: Any) -> Any:
            patches = super().advance(*given)
            kept.append(self.cache._device_bytes)
            return patches

    monkeypatch.setattr(pipeline, "Propagation", Watched)
    shaken = {"x": DATA["x"] + np.float32(1e-6) * normal(0, *DATA["x"].shape)}
    runs = []
    for provider, data in (("cpu", DATA), ("cpu", shaken), ("cuda", DATA)):
        kept.clear()
        runs.append(convert(network(), data, **settings(provider=provider, method=method, refine=refine)))
        assert (max(kept) > 0) == (provider == "cuda")
    ranks = [[(entry.method, entry.channel, entry.spatial) for entry in run.plan] for run in runs]
    assert ranks[2] == ranks[1] == ranks[0]
    errors = [[layer.errors for layer in run.report.layers if layer.errors] for run in runs]
    assert errors[2]
    for *here, there in zip(*errors, strict=True):
        assert there.linear == pytest.approx(here[0].linear, rel=1e-2)
        assert any(there.solved == pytest.approx(each.solved, rel=1e-2) for each in here)


def test_layers_are_solved_on_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        convert(plain_network(), {"x": images(40, size=8)}, **settings(provider="auto"))
    assert "running on provider cuda" in caplog.messages
    assert "layers are solved on the GPU, by PyTorch" in caplog.messages


def test_layers_too_large_for_it_are_solved_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    """PyTorch may take next to nothing."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        result = convert(plain_network(), {"x": images(40, size=8)}, **settings(provider="cuda"))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("the GPU gave up on a layer" in message for message in caplog.messages)
    assert result.model is not None


def test_it_is_timed_with_inputs_and_outputs_there() -> None:
    result = convert(network(), DATA, **settings(provider="cuda", bench=True))
    found = result.to_dict()["latency"]
    assert 0 < found["before_ms"] < 100
    assert 0 < found["after_ms"] < 100
