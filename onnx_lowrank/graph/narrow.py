"""Leave channels out of a network: the filters that make them, what carries them, the slices of weights that read them.

The graph keeps its nodes, but those that computed a constant. A constant that nothing else reads is replaced under its
name, another one is copied.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.channel_groups import ChannelGraph, Closure, find_closure
from onnx_lowrank.graph.extract import MIN_FREE_INITIALIZERS_IR, initializer_input, remove_orphans
from onnx_lowrank.graph.find_layers import LAYER_OPERATORS, node_names
from onnx_lowrank.graph.index import GraphIndex, fresh_name, names_in_use, node_key, tensors_read
from onnx_lowrank.graph.tensor_axes import stored_constant
from onnx_lowrank.graph.tensors import put_inside, values

# What becomes of a constant: channels left out on some axes, or entries set that count channels.
Edit = tuple[frozenset[int], frozenset[int]]
Use = tuple[onnx.NodeProto, int]  # a node and the position of one of its inputs


def narrow_channels(model: onnx.ModelProto, reader_input: str, kept: NDArray[np.integer[Any]]) -> None:
    """Leave out all channels but some of the group that a layer reads.

    What the network computes stays the same where the weights of all readers of the group are zero on the channels left
    out. The group is looked for in the model as it is, whose layers may have been replaced since it was found first.

    Args:
        model: changed in place; the nodes that computed a weight which is stored now are removed.
        reader_input: name of the tensor that the layer reads.
        kept: indices of the channels to keep, ascending, shape (k,).

    Raises:
        ModelError: the layer's channels have to stay; the model is unchanged.
        ValueError: the indices are none of channels, or not ascending.
    """
    index = GraphIndex(model)
    closure = _closure(model, index, reader_input)
    kept = np.asarray(kept)
    is_ascending = kept.ndim == 1 and kept.size > 0 and (np.diff(kept) > 0).all()
    if not is_ascending or not 0 <= kept[0] <= kept[-1] < closure.channels:
        raise ValueError(f"kept must be ascending indices of the {closure.channels} channels, got {kept}")
    if len(kept) == closure.channels:
        return
    for node in closure.carried:
        next(each for each in node.attribute if each.name == "group").i = len(kept)
    edits = _edits(closure)
    _remove_annotations(model, index, {*edits, *closure.tensors})
    _correct_shapes(model, closure.tensors, len(kept))
    _replace_constants(model, index, edits, kept)


def _closure(model: onnx.ModelProto, index: GraphIndex, tensor: str) -> Closure:
    """Return the group of channels that a tensor carries to a layer."""
    names = {node_key(node): name for node, name in zip(model.graph.node, node_names(model), strict=True)}
    graph, reason = ChannelGraph(model, index), "no layer reads them"
    for node in index.consumers.get(tensor, []):
        if node.op_type in LAYER_OPERATORS and node.input[0] == tensor:
            closure = find_closure(graph, names, node)
            if isinstance(closure, Closure):
                return closure
            reason = closure
    raise ModelError(f"the channels of tensor '{tensor}' cannot be left out ({reason}): keep its width")


def _edits(closure: Closure) -> dict[str, dict[Edit, list[Use]]]:
    """Return what becomes of every constant, by its name; more than one thing where nodes use it differently."""
    none = frozenset[int]()
    by_use: dict[tuple[str | None, int], tuple[onnx.NodeProto, Edit]] = {}
    cuts = [(each.node, each.position, (frozenset({each.axis}), none)) for each in closure.cuts]
    counts = [(each.node, each.position, (none, frozenset({each.offset}))) for each in closure.counts]
    for node, position, (axes, offsets) in (*cuts, *counts):
        key = node_key(node), position
        _, before = by_use.get(key, (node, (none, none)))
        by_use[key] = node, (before[0] | axes, before[1] | offsets)
    edits: dict[str, dict[Edit, list[Use]]] = {}
    for (_, position), (node, edit) in by_use.items():
        edits.setdefault(node.input[position], {}).setdefault(edit, []).append((node, position))
    return edits


def _replace_constants(
    model: onnx.ModelProto,
    index: GraphIndex,
    edits: Mapping[str, Mapping[Edit, Sequence[Use]]],
    kept: NDArray[np.integer[Any]],
) -> None:
    """Put narrower constants in the place of those that follow the channels."""
    taken = names_in_use(model)
    added: list[onnx.TensorProto] = []
    for name, ways in edits.items():
        stored = stored_constant(index, name)
        value = index.constant(name) if stored is None else values(stored)
        for edit, uses in ways.items():
            narrow = _narrowed(np.asarray(value), edit, kept)
            if stored is not None and not _is_read_elsewhere(index, name, uses):
                _store(model, stored, narrow, name)
                continue
            tensor = numpy_helper.from_array(narrow, fresh_name(f"{name}/narrow", taken))
            taken.add(tensor.name)
            added.append(tensor)
            for node, position in uses:
                node.input[position] = tensor.name
    model.graph.initializer.extend(added)
    if model.ir_version < MIN_FREE_INITIALIZERS_IR:
        model.graph.input.extend(initializer_input(tensor) for tensor in added)
    remove_orphans(model, edits)


def _narrowed(value: NDArray[Any], edit: Edit, kept: NDArray[np.integer[Any]]) -> NDArray[Any]:
    """Return a constant without the channels left out."""
    axes, counts = edit
    for axis in {axis % value.ndim for axis in axes}:
        value = np.take(value, kept, axis)
    value = np.array(value, order="C")
    for offset in counts:
        value.ravel()[offset] = len(kept)  # a view, as the array is contiguous
    return value


def _is_read_elsewhere(index: GraphIndex, name: str, uses: Sequence[Use]) -> bool:
    """Return whether a constant is read other than by some inputs of nodes, or handed out."""
    reads = sum(list(tensors_read(node)).count(name) for node in index.consumers[name])
    return reads > len(uses) or name in index.outputs


def _store(model: onnx.ModelProto, tensor: onnx.TensorProto, value: NDArray[Any], name: str) -> None:
    """Put other values into a stored constant, and their shape wherever the graph says it."""
    del tensor.dims[:]
    tensor.dims.extend(value.shape)
    for field in ("float_data", "double_data", "int32_data", "int64_data"):
        tensor.ClearField(field)
    put_inside(tensor, numpy_helper.from_array(value).raw_data)
    for each in (*model.graph.input, *model.graph.value_info):
        if each.name == name:
            for dim, size in zip(each.type.tensor_type.shape.dim, value.shape, strict=False):
                dim.dim_value = size


def _correct_shapes(model: onnx.ModelProto, tensors: Mapping[str, int], count: int) -> None:
    """Correct the declared shapes of the tensors that carry channels; remove declarations that do not fit them."""
    declared = model.graph.value_info
    for place in reversed(range(len(declared))):
        axis, shape = tensors.get(declared[place].name), declared[place].type.tensor_type.shape
        if axis is None or not declared[place].type.tensor_type.HasField("shape"):
            continue
        if len(shape.dim) < -axis:
            del declared[place]
        else:
            shape.dim[len(shape.dim) + axis].dim_value = count


def _remove_annotations(model: onnx.ModelProto, index: GraphIndex, tensors: Container[str]) -> None:
    """Remove the quantization annotations that have a scale for every channel of a tensor."""
    annotations = model.graph.quantization_annotation
    for place in reversed(range(len(annotations))):
        names = [each.value for each in annotations[place].quant_parameter_tensor_names]
        sizes = [prod(index.initializers[name].dims) for name in names if name in index.initializers]
        if annotations[place].tensor_name in tensors and any(size > 1 for size in sizes):
            del annotations[place]
