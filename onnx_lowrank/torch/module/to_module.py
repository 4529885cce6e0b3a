"""An ONNX graph as a PyTorch module that can be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import inline_all_functions, read_model
from onnx_lowrank.graph.tensors import values
from onnx_lowrank.torch.module.attributes import attributes
from onnx_lowrank.torch.module.indexing import gathering, slicing, splitting
from onnx_lowrank.torch.module.layers import LAYERS, Operation
from onnx_lowrank.torch.module.library import RECURRENT, library_operation
from onnx_lowrank.torch.module.resize import resize
from onnx_lowrank.torch.module.sizes import Sizes, arithmetic, as_tensor, constant_of_shape, shape_of, sizes
from onnx_lowrank.torch.module.weights import Constant, constants, learned, look_up, put, state_keys

Value: TypeAlias = Tensor | Sizes

# Operators whose inputs behind the first are settings; these are passed as numbers.
_WITH_SETTINGS = {
    *("Reshape", "Expand", "Tile", "Slice", "Pad", "Resize", "Squeeze", "Unsqueeze", "Split"),
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
}
_OWN = (
    "inputs",
    "outputs",
    "keys",
    "behind",
    "_steps",
    "_numbers",
    "_tables",
    "_table_keys",
)  # attributes of the module
MAX_NUMBERS = 64  # in a constant that may be such a setting


class _Source(NamedTuple):
    """What a step is made of.

    Attributes:
        node: serialized.
        opset: of the graph.
        weights: those of a recurrent operator, which are not trained, serialized; else none.
        dtype: floating-point type of the module; None for that of the model.
    """

    node: bytes
    opset: int
    weights: tuple[bytes, ...]
    dtype: torch.dtype | None


@dataclass(frozen=True, eq=False)
class _Step:
    """A node.

    Attributes:
        kind: operator.
        name: of the node.
        operation: function of tensors.
        arithmetic: function of sizes; None if it has no such form.
        inputs: names of tensors, empty for omitted optional ones.
        outputs: names of tensors.
        source: of which it is made.
    """

    kind: str
    name: str
    operation: Operation
    arithmetic: Callable[..., Sizes] | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: _Source

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the source, since functions made by functions cannot be, and the tensors of a library operator."""
        if isinstance(self.operation, nn.Module):
            return _step, (self.source,), self.operation.state_dict()
        return _step, (self.source,)

    def __setstate__(self, tensors: dict[str, Tensor]) -> None:
        """Take over the tensors of a library operator, with their device and type."""
        assert isinstance(self.operation, nn.Module)
        self.operation.load_state_dict(tensors, assign=True)


class OnnxModule(nn.Module):
    """A graph as a module; use `to_torch` to create one.

    It takes the graph's inputs in order, and returns its output, or a tuple of its outputs. BatchNormalization uses the
    statistics of the graph, even in training mode. ``torch.save`` writes it whole; to load it, ``torch.load`` wants
    ``weights_only=False`` and this package.

    Attributes:
        inputs: names of the graph's inputs.
        outputs: names of the tensors that it returns, initially the graph's outputs. May be set to any tensors of the
            graph.
        keys: key in the state of each weight of the graph, mostly its name.
        behind: functions by tensor name, applied to a tensor before anything reads it; initially none.
    """

    def __init__(self, graph: onnx.GraphProto, opset: int, dtype: torch.dtype | None) -> None:
        super().__init__()
        held = {each.name: each for each in constants(graph)}
        self.inputs = tuple(value.name for value in graph.input if value.name not in held)
        self.outputs = tuple(value.name for value in graph.output)
        self.behind: dict[str, Callable[[Tensor], Tensor]] = {}
        nodes = [node for node in graph.node if node.output[0] not in held]
        self._steps = [_step(_source(node, opset, graph, dtype)) for node in nodes]
        self._numbers = {name: values(each.tensor).tolist() for name, each in held.items() if _is_small(each)}
        floats = {name: each for name, each in held.items() if each.is_float}
        self.keys = self.state_keys(floats)
        trained = learned(graph)
        for name, each in floats.items():
            tensor = each.to_torch().to(dtype)
            put(self, self.keys[name], nn.Parameter(tensor) if name in trained else nn.Buffer(tensor))
        read = {name for node in nodes for name in node.input} | {*self.outputs}
        tables = [name for name in held if name in read and name not in floats]
        self._table_keys = {name: f"table{number}" for number, name in enumerate(tables)}
        self._tables = nn.Module()
        for name, key in self._table_keys.items():
            self._tables.register_buffer(key, held[name].to_torch(), persistent=False)

    @classmethod
    def state_keys(cls, names: Iterable[str]) -> dict[str, str]:
        """Return the keys under which a module of this class holds the weights of a graph.

        Args:
            names: of the weights, in the order of the graph.
        """
        return state_keys(names, {*dir(cls), *_OWN})

    def forward(self, *inputs: Value) -> Tensor | tuple[Tensor, ...]:
        """Run the graph.

        Args:
            inputs: the graph's inputs, in order: tensors, at least one, and sizes where the graph begins behind them.

        Returns:
            The tensor named in `outputs`, or a tuple if there are several.
        """
        if len(inputs) != len(self.inputs):
            raise TypeError(f"{len(inputs)} inputs given, the network takes {len(self.inputs)}: {self.inputs}")
        known: dict[str, Value] = dict(zip(self.inputs, inputs, strict=True))
        like = next(value for value in inputs if isinstance(value, Tensor))
        for step, done in zip(self._steps, self._last_uses(), strict=True):
            try:
                known |= self._run(step, known, like)
            except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
                error.add_note(f"in {step.kind} '{step.name}'")
                raise
            for name in done:
                known.pop(name, None)
        results = [known[name] if name in known else self._tensor(name) for name in self.outputs]
        tensors = [as_tensor(value, like) if isinstance(value, np.ndarray) else value for value in results]
        return tensors[0] if len(tensors) == 1 else tuple(tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OnnxModule:
        """Move to a device or type, together with library operators, whose tensors are not in the module's state."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for step in self._steps:
            if isinstance(step.operation, nn.Module):
                step.operation._apply(fn)
        return self

    def _run(self, step: _Step, known: Mapping[str, Value], like: Tensor) -> dict[str, Value]:
        """Return the outputs of a node by name, computed as sizes if all inputs are sizes."""
        computed = [known[name] for name in step.inputs if name in known]
        constant_names = [name for name in step.inputs if name and name not in known]
        if (
            step.arithmetic is not None
            and all(isinstance(value, np.ndarray) for value in computed)
            and self._are_numbers(constant_names, exact=not computed)
        ):
            numbers = [known[name] if name in known else self._as_sizes(name) for name in step.inputs]
            return {step.outputs[0]: step.arithmetic(*numbers)}
        result = step.operation(*self._arguments(step, known, like))
        outputs: Iterable[Value] = (result,) if isinstance(result, Tensor | np.ndarray) else result
        named = zip(step.outputs, outputs, strict=False)
        return {name: self._passed_on(name, output) for name, output in named if name}

    def _arguments(self, step: _Step, known: Mapping[str, Value], like: Tensor) -> list[Any]:
        """Return the inputs of an operation: settings as numbers, all else as tensors on the device of ``like``."""
        arguments = []
        for position, name in enumerate(step.inputs):
            is_setting = position > 0 and step.kind in _WITH_SETTINGS
            value: Any = known.get(name)
            if value is None and name:
                value = self._numbers[name] if is_setting and name in self._numbers else self._tensor(name)
                if is_setting and value == [] and step.kind.startswith("Reduce"):
                    value = None  # all axes: equivalent in ONNX, not in the library
            elif isinstance(value, np.ndarray):
                value = value.tolist() if is_setting else as_tensor(value, like)
            arguments.append(value)
        return arguments

    def _passed_on(self, name: str, value: Value) -> Value:
        change = self.behind.get(name)
        return value if change is None or isinstance(value, np.ndarray) else change(value)

    def _are_numbers(self, names: Iterable[str], *, exact: bool) -> bool:
        """Whether constants are small enough to be used as sizes; with ``exact``, also whether they are integers."""
        return all(name in self._numbers and not (exact and name in self.keys) for name in names)

    def _as_sizes(self, name: str) -> Sizes | None:
        return sizes(self._numbers[name]) if name else None

    def _tensor(self, name: str) -> Tensor:
        """Return a constant of the graph."""
        if name in self.keys:
            return look_up(self, self.keys[name])
        if name not in self._table_keys:
            raise ModelError(f"tensor '{name}': neither made by the graph nor held in it: export the model again")
        return self._tables.get_buffer(self._table_keys[name])

    def _last_uses(self) -> list[list[str]]:
        """Return, per step, the tensors that no later step needs."""
        last = {name: number for number, step in enumerate(self._steps) for name in (*step.inputs, *step.outputs)}
        done: list[list[str]] = [[] for _ in self._steps]
        for name, number in last.items():
            if name not in self.outputs:
                done[number].append(name)
        return done


def to_torch(model: str | Path | onnx.ModelProto, dtype: torch.dtype | None = None) -> OnnxModule:
    """Convert a model to a PyTorch module.

    Args:
        model: path of an ONNX file, or a model; not changed.
        dtype: floating-point type of the module; None for that of the model. Half precision trains well in float32.

    Returns:
        A module in evaluation mode. Its weights carry the names, shapes and values of the initializers.

    Raises:
        ModelError: it cannot be read, or an operator cannot be converted.
    """
    loaded = inline_all_functions(read_model(model))
    if all(value.name in {each.name for each in loaded.graph.initializer} for value in loaded.graph.input):
        raise ModelError("the model has no inputs: there is nothing to train on")
    opset = next((each.version for each in loaded.opset_import if each.domain in {"", "ai.onnx"}), 1)
    return OnnxModule(loaded.graph, opset, dtype).eval()


def _source(node: onnx.NodeProto, opset: int, graph: onnx.GraphProto, dtype: torch.dtype | None) -> _Source:
    held = graph.initializer if node.op_type in RECURRENT else ()
    weights = tuple(tensor.SerializeToString() for tensor in held if tensor.name in node.input)
    return _Source(node.SerializeToString(), opset, weights, dtype)


def _step(source: _Source) -> _Step:
    node = onnx.NodeProto.FromString(source.node)
    own: dict[str, Callable[[onnx.NodeProto], Any]] = {
        **LAYERS,
        "Slice": slicing,
        "Gather": gathering,
        "Split": splitting,
        "Shape": shape_of,
        "Resize": lambda node: resize(node, source.opset),
        "ConstantOfShape": lambda node: constant_of_shape(node, source.dtype),
    }
    if node.op_type in own and not node.domain:
        operation = own[node.op_type](node)
    elif node.op_type == "Cast" and source.dtype is not None and Constant.is_float_type(attributes(node)["to"]):
        operation = lambda x: x.to(source.dtype)  # noqa: E731
    else:
        weights = [onnx.TensorProto.FromString(each) for each in source.weights]
        operation = library_operation(node, source.opset, weights)
    name = node.name or node.output[0]
    return _Step(node.op_type, name, operation, arithmetic(node), tuple(node.input), tuple(node.output), source)


def _is_small(constant: Constant) -> bool:
    return int(np.prod(constant.tensor.dims, dtype=np.int64)) <= MAX_NUMBERS
