"""All other operators, from onnx2pytorch.

Of the two libraries that turn ONNX into PyTorch it is the one that knows the operators of today's exporters: onnx2torch
ends at opset 17, for most operators at 13, and could not take four of the onnx package's nine networks, for Dropout or
padded AveragePool. From onnx2pytorch only single operators are taken; how weights are held is in `weights`, `layers`.
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

_RECURRENT = ("LSTM", "GRU", "RNN")
_SUBGRAPHS = ("If", "Loop", "Scan", "SequenceMap")


def library_operation(node: onnx.NodeProto, opset: int, graph: onnx.GraphProto) -> Operation:
    """An operator as a function of its inputs.

    Args:
        node: the operator.
        opset: of the graph.
        graph: holds the weights of recurrent operators, which are not trained.

    Raises:
        ModelError: the library has nothing for it.
    """
    convert, multiple = _library()
    alone = onnx.GraphProto(node=[node])
    if node.op_type in _RECURRENT:
        alone.initializer.extend(each for each in graph.initializer if each.name in node.input)
    kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    where = f"{kind} '{node.name or node.output[0]}'"
    advice = "simplify the model, with onnxslim for example, or export it with another opset"
    if node.domain not in {"", "ai.onnx"} or node.op_type in _SUBGRAPHS:
        raise ModelError(f"{where}: there is no such operator in PyTorch: {advice}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # it guesses where it knows nothing
            ((_, _, operation),) = convert(alone, opset, enable_pruning=False)
    except Exception as error:  # of many kinds
        raise ModelError(f"{where}: cannot be turned into PyTorch (opset {opset}: {error}): {advice}") from error
    if isinstance(operation, partial) and operation.func is torch.cat:
        return lambda *tensors: operation(list(tensors))
    if node.op_type in _RECURRENT:
        weights = {each.name for each in alone.initializer}
        taken = [place for place, name in enumerate(node.input) if name not in weights]
        return _Some(operation.requires_grad_(False), taken)  # its weights are not those that are written back
    if isinstance(operation, multiple) and len(node.output) == 1:
        return _First(operation)
    found: Operation = operation
    return found


class _First(nn.Module):
    """An operator of which only the first output is wanted."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, *inputs: Any) -> Tensor:
        """Run it."""
        found: Sequence[Tensor] = self.operation(*inputs)
        return found[0]


class _Some(nn.Module):
    """An operator that has its weights, and takes only the other inputs."""

    def __init__(self, operation: Any, taken: Sequence[int]) -> None:
        super().__init__()
        self.operation, self.taken = operation, taken

    def forward(self, *inputs: Any) -> Any:
        """Run it."""
        return self.operation(*[inputs[place] for place in self.taken])


@cache
def _library() -> tuple[Any, tuple[type, ...]]:
    """The function that turns the nodes of a graph into operations, and the types of those that return several tensors.

    onnx2pytorch imports torchvision for operators of detection that nothing here is trained through. It is not at hand
    for every build of PyTorch, and where it does not fit it does not even load: then its names are stood in for.
    """
    stand_ins = _stand_ins()
    sys.modules.update(stand_ins)
    try:
        from onnx2pytorch.constants import MULTIOUTPUT_LAYERS  # noqa: PLC0415
        from onnx2pytorch.convert.operations import convert_operations  # noqa: PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            f"onnx_lowrank.torch: onnx2pytorch is not installed ({error}): pip install 'onnx-lowrank[torch]'"
        ) from error
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)
    return convert_operations, MULTIOUTPUT_LAYERS


def _stand_ins() -> dict[str, ModuleType]:
    """Modules by name to put in the place of a torchvision that cannot be imported."""
    try:
        import torchvision  # noqa: F401, PLC0415
    except (ImportError, RuntimeError, OSError):  # the latter two where it was built for another PyTorch
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
