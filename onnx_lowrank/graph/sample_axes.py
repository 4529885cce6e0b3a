"""Networks as if the first axis of every input counted samples: one that lacks such an axis, or has it elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.graph.index import opset, probe_name
from onnx_lowrank.graph.tensors import subgraphs

_MIN_AXES_INPUT_OPSET = 13  # from here on Squeeze and Unsqueeze read their axes from an input
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})


def with_samples_first(model: onnx.ModelProto, axes: Mapping[str, int | None]) -> onnx.ModelProto:
    """Return a network that takes inputs with samples on their first axis, to be run here; names of inputs stay.

    Args:
        model: not changed.
        axes: by input name, the axis that counts samples in ``model``; None where there is none, so that it takes
            one sample at a time.
    """
    if not axes:
        return model
    changed, nodes = onnx.ModelProto(), []
    changed.CopyFrom(model)
    for value in changed.graph.input:
        if value.name in axes:
            axis, shape = axes[value.name], value.type.tensor_type.shape
            _rename_reads(changed.graph.node, value.name, inner_name(value.name))
            dims = list(shape.dim)
            del shape.dim[:]
            if axis is None:
                shape.dim.add(dim_value=1)
                shape.dim.extend(dims)
                nodes.append(_add_axes_node(changed, "Squeeze", value.name, inner_name(value.name)))
            else:
                shape.dim.extend([dims[axis], *dims[:axis], *dims[axis + 1 :]])
                back = [*list(range(1, axis + 1)), 0, *list(range(axis + 1, len(dims)))]
                nodes.append(helper.make_node("Transpose", [value.name], [inner_name(value.name)], perm=back))
    rest = list(changed.graph.node)
    del changed.graph.node[:]
    changed.graph.node.extend([*nodes, *rest])
    return changed


def inner_name(name: str) -> str:
    """Return the name of an input's tensor as the network takes it, in a network `with_samples_first`."""
    return probe_name(name, "input")


def with_samples_on_scores(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a network that takes one sample at a time with a first axis, of one sample, on outputs like scores.

    These are floating-point outputs with one axis, which has a fixed size above 1.

    Args:
        model: not changed.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    producers = {name: node for node in changed.graph.node for name in node.output}
    for value in changed.graph.output:
        kind = value.type.tensor_type
        sizes = [dim.dim_value for dim in kind.shape.dim]
        if len(sizes) == 1 and sizes[0] > 1 and kind.elem_type in _FLOATS and value.name in producers:
            inner = probe_name(value.name, "output")
            _rename_reads(changed.graph.node, value.name, inner)
            node = producers[value.name]
            node.output[:] = [inner if name == value.name else name for name in node.output]
            changed.graph.node.append(_add_axes_node(changed, "Unsqueeze", inner, value.name))
            kind.shape.Clear()
            for size in (1, sizes[0]):
                kind.shape.dim.add(dim_value=size)
    return changed


def named_sample_axes(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, int]:
    """Return the inputs whose samples lie on another axis than the first, by the names of axes in the model.

    The first axis of the first input that has a name there is that of samples; another input whose first axis has a
    fixed size, and one further axis that name, has its samples there.

    Args:
        model: the network.
        names: of the inputs that samples are fed to, in order.
    """
    values = {value.name: value for value in model.graph.input}
    dims = {name: [dim.dim_param or dim.dim_value for dim in values[name].type.tensor_type.shape.dim] for name in names}
    batch = next((sizes[0] for sizes in dims.values() if sizes and isinstance(sizes[0], str)), None)
    return {
        name: sizes.index(batch)
        for name, sizes in dims.items()
        if batch is not None and sizes and isinstance(sizes[0], int) and sizes[0] and sizes.count(batch) == 1
    }


def _add_axes_node(model: onnx.ModelProto, operator: str, source: str, target: str) -> onnx.NodeProto:
    """Return a node that removes or adds the first axis; its axes may become an initializer of the model."""
    if opset(model) < _MIN_AXES_INPUT_OPSET:
        return helper.make_node(operator, [source], [target], axes=[0])
    axes = probe_name(target, "axes")
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), axes))
    return helper.make_node(operator, [source, axes], [target])


def _rename_reads(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        node.input[:] = [new if name == old else name for name in node.input]
        for graph in subgraphs(node):
            _rename_reads(graph.node, old, new)
            for value in graph.output:
                value.name = new if value.name == old else value.name
