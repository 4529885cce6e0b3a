"""Rows for the solver as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from onnx_lowrank.responses import Probe, Targets
from onnx_lowrank.torch import rows
from onnx_lowrank.torch.rows import GIVES_UP, clear, has_cuda, to_device


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_targets_become_float32_tensors(dtype: Any, residual: bool) -> None:
    responses, branch = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(dtype)
    probe = Probe(np.zeros((2, 3, 1, 1)), np.arange(2))
    moved = to_device(Targets(responses, branch if residual else None, probe), "cpu")
    for tensor, array in ((moved.responses, responses), (moved.residual, branch if residual else None)):
        if array is None:
            assert tensor is None
        else:
            assert tensor.dtype == torch.float32
            np.testing.assert_array_equal(tensor.numpy(), array.astype(np.float32))
    assert moved.probe is probe


def test_the_device_is_cuda_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(rows.torch, "asarray", lambda _, **named: asked.append(named["device"]))
    to_device(Targets(np.ones((2, 2))))
    assert asked == ["cuda"]


def test_whether_there_is_cuda_is_for_pytorch_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda known=known: known)
        assert has_cuda() is known


def test_products_are_not_rounded_to_tf32() -> None:
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.cuda.OutOfMemoryError, torch.linalg.LinAlgError])
def test_what_a_gpu_may_fail_with_is_known(error: type[Exception]) -> None:
    with pytest.raises(GIVES_UP):
        raise error("not converged, or out of memory")


def test_memory_that_is_kept_can_be_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append(1))
    clear()
    assert calls == [1]
