"""The check that PyTorch computes from a network what onnxruntime does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.torch.module.to_module import OnnxModule
from onnx_lowrank.torch.training.dataset import DistillationData
from onnx_lowrank.torch.training.trainer import as_list

CHECKED_SAMPLES = 4
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 2e-2  # relative error of an output; float16 has three digits


@torch.no_grad()
def check_module(network: Network, module: OnnxModule, dataset: DistillationData) -> None:
    """Compare the outputs of a module with those of onnxruntime for a few held-out samples.

    Args:
        network: the network in onnxruntime.
        module: the same in PyTorch.
        dataset: has the samples.

    Raises:
        ModelError: PyTorch cannot run it, or the outputs differ.
    """
    feeds = _feeds(dataset)
    expected = Session(network.model, network.provider, name=network.name).run(feeds)
    names = tuple(value.name for value in network.original.graph.output if value.name in expected)
    actual = _run(network.name, module, feeds, names)
    is_half = any(
        tensor.data_type in {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
        for tensor in network.original.graph.initializer
    )
    for name, tensor in zip(names, actual, strict=True):
        _check_close(
            network.name, name, expected[name], tensor.cpu().numpy(), _HALF_TOLERANCE if is_half else _TOLERANCE
        )


def _feeds(dataset: DistillationData) -> dict[str, NDArray[Any]]:
    """Read a few held-out samples, as many as the model is bound to."""
    usable = dataset.validation.usable(dataset.held_out[: dataset.fixed_batch or CHECKED_SAMPLES])
    return dataset.validation.read(np.resize(usable, dataset.fixed_batch) if dataset.fixed_batch else usable)


def _run(where: str, module: OnnxModule, feeds: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> list[Tensor]:
    """Compute tensors by name; the outputs that the module is set to return stay as they were."""
    device = next(iter(module.state_dict().values())).device
    tensors = [torch.from_numpy(feeds[name]).to(device) for name in module.inputs]
    before = module.outputs
    module.outputs = names
    try:
        return as_list(module(*[tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors]))
    except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        raise ModelError(
            f"{where}: PyTorch cannot run it ({error}; {notes}): simplify the model, with onnxslim for example"
        ) from error
    finally:
        module.outputs = before


def _check_close(where: str, name: str, expected: NDArray[Any], actual: NDArray[Any], tolerance: float) -> None:
    if expected.dtype.kind != "f":
        return
    size = float(np.linalg.norm(expected.astype(np.float64)))
    error = (
        np.inf
        if expected.shape != actual.shape
        else float(np.linalg.norm(expected.astype(np.float64) - actual)) / (size or 1)
    )
    if not error <= tolerance:  # not so either where it is NaN
        raise ModelError(
            f"{where}: output '{name}': PyTorch and onnxruntime differ by {error:.2g} of it: the network cannot be "
            "trained as it is; please report it"
        )
