"""All other operators, from onnx2pytorch.

Of the two libraries that convert ONNX to PyTorch it is the one that knows the operators of today's exporters:
onnx2torch ends at opset 17, for most operators at 13, and fails for four of the onnx package's nine networks, because
of Dropout or padded AveragePool. Only single operators come from onnx2pytorch; `weights` and `layers` hold the weights.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from onnx_lowrank.errors import MissingDependencyError, ModelError
from onnx_lowrank.torch.module.layers import Operation

RECURRENT = ("LSTM", "GRU", "RNN")
_SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")


def library_operation(node: onnx.NodeProto, opset: int, weights: Sequence[onnx.TensorProto]) -> Operation:
    """Return an operator as a function of its inputs.

    Args:
        node: the operator.
        opset: of the graph.
        weights: those of a recurrent operator, which are not trained; none for others.

    Raises:
        ModelError: onnx2pytorch does not support it.
    """
    convert, multi_output = _library()
    alone = onnx.GraphProto(node=[node], initializer=weights)
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    where = f"{kind} '{node.name or node.output[0]}'"
    advice = "simplify the model, with onnxslim for example, or export it with another opset"
    if node.domain not in {"", "ai.onnx"} or node.op_type in _SUBGRAPHS:
        raise ModelError(f"{where}: there is no such operator in PyTorch: {advice}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # it warns where it guesses
            ((_, _, operation),) = convert(alone, opset, enable_pruning=False)
    except Exception as error:  # the library raises many types
        raise ModelError(f"{where}: cannot be turned into PyTorch (opset {opset}: {error}): {advice}") from error
    if isinstance(operation, partial) and operation.func is torch.cat:
        return lambda *tensors: operation(list(tensors))
    if node.op_type in RECURRENT:
        held = {tensor.name for tensor in weights}
        positions = [position for position, name in enumerate(node.input) if name not in held]
        return _WithoutWeights(operation.requires_grad_(False), positions)  # its weights are copies, never written back
    if isinstance(operation, multi_output) and len(node.output) == 1:
        return _First(operation)
    result: Operation = operation
    return result


class _First(nn.Module):
    """An operator reduced to its first output."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, *inputs: Any) -> Tensor:
        """Run the operator."""
        outputs: Sequence[Tensor] = self.operation(*inputs)
        return outputs[0]


class _WithoutWeights(nn.Module):
    """An operator that holds its weights, and takes only the other inputs."""

    def __init__(self, operation: Any, positions: Sequence[int]) -> None:
        super().__init__()
        self.operation, self.positions = operation, positions

    def forward(self, *inputs: Any) -> Any:
        """Run the operator."""
        return self.operation(*[inputs[position] for position in self.positions])


@cache
def _library() -> tuple[Any, tuple[type, ...]]:
    """Return the function that converts the nodes of a graph, and the types of operations with several outputs.

    onnx2pytorch imports torchvision for detection operators, which nothing here is trained through. torchvision is not
    available for every build of PyTorch, and fails to import if it does not match; placeholders take its place then.
    """
    placeholders = _placeholders()
    sys.modules.update(placeholders)
    try:
        from onnx2pytorch.constants import MULTIOUTPUT_LAYERS  # noqa: PLC0415
        from onnx2pytorch.convert.operations import convert_operations  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"onnx_lowrank.torch: onnx2pytorch is not installed ({error}): pip install 'onnx-lowrank[torch]'"
        ) from error
    finally:
        for name in placeholders:
            sys.modules.pop(name, None)
    return convert_operations, MULTIOUTPUT_LAYERS


def _placeholders() -> dict[str, ModuleType]:
    """Return modules by name that replace a torchvision that cannot be imported; none if it can."""
    try:
        import torchvision  # noqa: F401, PLC0415
    except (ImportError, RuntimeError, OSError):  # the latter two if it was built for another PyTorch
        names = ("torchvision", "torchvision.ops", "torchvision.io")
        modules = {name: ModuleType(name) for name in names}
        for module in modules.values():
            module.__getattr__ = _missing  # type: ignore[method-assign]
        return modules
    return {}


def _missing(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)

    def fail(*_: Any, **__: Any) -> None:
        raise MissingDependencyError(f"torchvision.{name}: torchvision is not installed for this build of PyTorch")

    return fail
