"""An ONNX graph as a PyTorch module that can be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx import inliner
from torch import Tensor, nn

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import read_model
from onnx_lowrank.graph.tensors import values
from onnx_lowrank.torch.module.attributes import attributes
from onnx_lowrank.torch.module.indexing import gathering, slicing, splitting
from onnx_lowrank.torch.module.layers import LAYERS, Operation
from onnx_lowrank.torch.module.library import library_operation
from onnx_lowrank.torch.module.resize import resize
from onnx_lowrank.torch.module.sizes import Sizes, arithmetic, as_tensor, constant_of_shape, shape_of, sizes
from onnx_lowrank.torch.module.weights import Constant, constants, learned, look_up, put, state_keys

Value: TypeAlias = Tensor | Sizes

# Their inputs behind the first say how they work; they are read as numbers.
_WITH_SETTINGS = {
    *("Reshape", "Expand", "Tile", "Slice", "Pad", "Resize", "Squeeze", "Unsqueeze", "Split"),
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
}
_OWN = ("inputs", "outputs", "keys", "behind", "_steps", "_numbers", "_tables", "_places")  # attributes of the module
_MOST_NUMBERS = 64  # in a constant that may be such a setting


@dataclass(frozen=True, eq=False)
class _Step:
    """A node.

    Attributes:
        kind: operator.
        name: of the node.
        operation: what it does with tensors.
        arithmetic: what it does with sizes; None where it is not for them.
        inputs: names of tensors, empty for optional ones that are left out.
        outputs: names of tensors.
    """

    kind: str
    name: str
    operation: Operation
    arithmetic: Callable[..., Sizes] | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class OnnxModule(nn.Module):
    """A graph as a module; made by `to_torch`.

    It takes the graph's inputs in their order, and returns its output, or a tuple of its outputs. BatchNormalization
    uses the statistics of the graph, in training too.

    Attributes:
        inputs: names of the graph's inputs.
        outputs: names of the tensors that it returns, at first the graph's outputs. Any tensors of the graph may be
            set here.
        keys: under which key of the state each weight of the graph is held, mostly its name.
        behind: functions that tensors of the graph go through before anything reads them, by name; none at first.
    """

    def __init__(self, graph: onnx.GraphProto, opset: int, dtype: torch.dtype | None) -> None:
        super().__init__()
        held = {each.name: each for each in constants(graph)}
        self.inputs = tuple(value.name for value in graph.input if value.name not in held)
        self.outputs = tuple(value.name for value in graph.output)
        self.behind: dict[str, Callable[[Tensor], Tensor]] = {}
        nodes = [node for node in graph.node if node.output[0] not in held]
        self._steps = [_step(node, opset, graph, dtype) for node in nodes]
        self._numbers = {name: values(each.tensor).tolist() for name, each in held.items() if _is_small(each)}
        floats = {name: each for name, each in held.items() if each.is_float}
        self.keys = self.state_keys(floats)
        trained = learned(graph)
        for name, each in floats.items():
            tensor = each.to_torch().to(dtype)
            put(self, self.keys[name], nn.Parameter(tensor) if name in trained else nn.Buffer(tensor))
        read = {name for node in nodes for name in node.input} | {*self.outputs}
        tables = [name for name in held if name in read and name not in floats]
        self._places = {name: f"table{number}" for number, name in enumerate(tables)}
        self._tables = nn.Module()
        for name, key in self._places.items():
            self._tables.register_buffer(key, held[name].to_torch(), persistent=False)

    @classmethod
    def state_keys(cls, names: Iterable[str]) -> dict[str, str]:
        """Under which keys a module of this kind holds the weights of a graph.

        Args:
            names: of the weights, in the order of the graph.
        """
        return state_keys(names, {*dir(cls), *_OWN})

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the graph.

        Args:
            inputs: the graph's inputs, in their order.

        Returns:
            The tensor of `outputs`, or all of them if they are several.
        """
        if len(inputs) != len(self.inputs):
            raise TypeError(f"{len(inputs)} inputs given, the network takes {len(self.inputs)}: {self.inputs}")
        known: dict[str, Value] = dict(zip(self.inputs, inputs, strict=True))
        for step, done in zip(self._steps, self._last_uses(), strict=True):
            try:
                known |= self._run(step, known, inputs[0])
            except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
                error.add_note(f"in {step.kind} '{step.name}'")
                raise
            for name in done:
                known.pop(name, None)
        found = [known[name] if name in known else self._tensor(name) for name in self.outputs]
        tensors = [as_tensor(each, inputs[0]) if isinstance(each, np.ndarray) else each for each in found]
        return tensors[0] if len(tensors) == 1 else tuple(tensors)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> OnnxModule:
        """Move to a device or type; operators of the library, whose state is none of the module's, come along."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for step in self._steps:
            if isinstance(step.operation, nn.Module):
                step.operation._apply(fn)
        return self

    def _run(self, step: _Step, known: Mapping[str, Value], like: Tensor) -> dict[str, Value]:
        made = [known[name] for name in step.inputs if name in known]
        rest = [name for name in step.inputs if name and name not in known]
        if (
            step.arithmetic is not None
            and all(isinstance(each, np.ndarray) for each in made)
            and self._are_numbers(rest, exact=not made)
        ):
            numbers = [known[name] if name in known else self._as_sizes(name) for name in step.inputs]
            return {step.outputs[0]: step.arithmetic(*numbers)}
        given = []
        for place, name in enumerate(step.inputs):
            is_setting = place > 0 and step.kind in _WITH_SETTINGS
            value = known.get(name)
            if value is None and name:
                value = self._numbers[name] if is_setting and name in self._numbers else self._tensor(name)
                if is_setting and value == [] and step.kind.startswith("Reduce"):
                    value = None  # the same to ONNX, not to the library
            elif isinstance(value, np.ndarray):
                value = value.tolist() if is_setting else as_tensor(value, like)
            given.append(value)
        found = step.operation(*given)
        outputs: Iterable[Value] = (found,) if isinstance(found, Tensor | np.ndarray) else found
        named = zip(step.outputs, outputs, strict=False)
        return {name: self._passed_on(name, output) for name, output in named if name}

    def _passed_on(self, name: str, value: Value) -> Value:
        change = self.behind.get(name)
        return value if change is None or isinstance(value, np.ndarray) else change(value)

    def _are_numbers(self, names: Iterable[str], *, exact: bool) -> bool:
        """Whether constants are few enough numbers to be reckoned with as sizes are; ``exact``: and all integers."""
        return all(name in self._numbers and not (exact and name in self.keys) for name in names)

    def _as_sizes(self, name: str) -> Sizes | None:
        return sizes(self._numbers[name]) if name else None

    def _tensor(self, name: str) -> Tensor:
        """A constant of the graph."""
        if name in self.keys:
            return look_up(self, self.keys[name])
        if name not in self._places:
            raise ModelError(f"tensor '{name}': neither made by the graph nor held in it: export the model again")
        return self._tables.get_buffer(self._places[name])

    def _last_uses(self) -> list[list[str]]:
        """Per step the tensors that nothing needs behind it."""
        last = {name: number for number, step in enumerate(self._steps) for name in (*step.inputs, *step.outputs)}
        done: list[list[str]] = [[] for _ in self._steps]
        for name, number in last.items():
            if name not in self.outputs:
                done[number].append(name)
        return done


def to_torch(model: str | Path | onnx.ModelProto, dtype: torch.dtype | None = None) -> OnnxModule:
    """A model as a PyTorch module.

    Args:
        model: path of an ONNX file, or a model; not changed.
        dtype: floating-point type of the module; None for that of the model. Half precision trains well in float32.

    Returns:
        A module in evaluation mode. Its weights carry the names, shapes and values of the initializers.

    Raises:
        ModelError: it cannot be read, or an operator cannot be turned into PyTorch.
    """
    loaded = read_model(model)
    if loaded.functions:
        loaded = inliner.inline_local_functions(loaded)
    if all(value.name in {each.name for each in loaded.graph.initializer} for value in loaded.graph.input):
        raise ModelError("the model has no inputs: there is nothing to train on")
    opset = next((each.version for each in loaded.opset_import if each.domain in {"", "ai.onnx"}), 1)
    return OnnxModule(loaded.graph, opset, dtype).eval()


def _step(node: onnx.NodeProto, opset: int, graph: onnx.GraphProto, dtype: torch.dtype | None) -> _Step:
    own: dict[str, Callable[[onnx.NodeProto], Any]] = {
        **LAYERS,
        "Slice": slicing,
        "Gather": gathering,
        "Split": splitting,
        "Shape": shape_of,
        "Resize": lambda node: resize(node, opset),
        "ConstantOfShape": lambda node: constant_of_shape(node, dtype),
    }
    if node.op_type in own and not node.domain:
        operation = own[node.op_type](node)
    elif node.op_type == "Cast" and dtype is not None and Constant.is_float_type(attributes(node)["to"]):
        operation = lambda x: x.to(dtype)  # noqa: E731
    else:
        operation = library_operation(node, opset, graph)
    name = node.name or node.output[0]
    return _Step(node.op_type, name, operation, arithmetic(node), tuple(node.input), tuple(node.output))


def _is_small(constant: Constant) -> bool:
    return int(np.prod(constant.tensor.dims, dtype=np.int64)) <= _MOST_NUMBERS
