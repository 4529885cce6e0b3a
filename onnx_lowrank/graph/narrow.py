"""Leave channels out of a network: the filters that make them, what carries them, the slices of weights that read them.

The graph keeps its nodes, but those that computed a constant. A constant that nothing else reads is replaced under its
name, another one is copied.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.channel_graph import ChannelGraph, Closure, channels_read, why_not_read_alike
from onnx_lowrank.graph.channel_members import Channels
from onnx_lowrank.graph.channel_walk import find_closures
from onnx_lowrank.graph.extract import MIN_FREE_INITIALIZERS_IR, initializer_input, remove_orphans
from onnx_lowrank.graph.find_layers import LAYER_OPERATORS, node_names
from onnx_lowrank.graph.index import GraphIndex, attribute, fresh_name, names_in_use, node_key, opset, tensors_read
from onnx_lowrank.graph.joined_channels import Division
from onnx_lowrank.graph.tensor_axes import stored_constant
from onnx_lowrank.graph.tensors import put_inside, values

# What becomes of a constant: entries left out on some axes, with the axis, or other numbers at some offsets.
Edit = tuple[frozenset[tuple[int, frozenset[int]]], frozenset[tuple[int, int]]]
Use = tuple[onnx.NodeProto, int]  # a node and the position of one of its inputs
Ints = NDArray[np.integer[Any]]

_SPLIT_BY_INPUT_OPSET = 13  # from here on a Split has its sizes as an input


def narrow_channels(model: onnx.ModelProto, kept: Mapping[str, Ints]) -> None:
    """Leave out all channels but some of those that layers read.

    What the network computes stays the same where the weights of all readers are zero on the channels left out. Groups
    are looked for in the model as it is, whose layers may have been replaced since they were found first.

    Args:
        model: changed in place; the nodes that computed a weight which is stored now are removed.
        kept: by name of the tensor that a layer reads, indices of its channels to keep, ascending, shape (k,).

    Raises:
        ModelError: channels to leave out have to stay; the model is unchanged.
        ValueError: the indices are none of channels, or not ascending.
    """
    index = GraphIndex(model)
    names = {node_key(node): name for node, name in zip(model.graph.node, node_names(model), strict=True)}
    graph, cuts = ChannelGraph(model, index), _Cuts()
    for tensor, indices in kept.items():
        channels = _channels_of(graph, tensor)
        gone = _left_out(np.asarray(indices), channels.count)
        for closure, start, count in find_closures(graph, names, tensor, channels):
            own = frozenset(each - start for each in gone if start <= each < start + count)
            if not own:
                continue
            if isinstance(closure, str):
                raise ModelError(_cannot_be_left_out(tensor, closure))
            if len(own) == count:
                raise ValueError(f"kept must leave one of the channels {start}..{start + count - 1} of '{tensor}'")
            cuts.add(closure, own)
    if cuts.left_out:
        _apply(model, index, cuts)


def _cannot_be_left_out(tensor: str, reason: str) -> str:
    return f"the channels of tensor '{tensor}' cannot be left out ({reason}): keep its width"


def _channels_of(graph: ChannelGraph, tensor: str) -> Channels:
    """Return the channels of a tensor that a layer reads."""
    reason = "no layer reads them"
    for node in graph.index.consumers.get(tensor, []):
        if node.op_type in LAYER_OPERATORS and node.input[0] == tensor:
            why_not, read = why_not_read_alike(graph, node), channels_read(graph.tensors, node)
            if why_not is None and read is not None:
                return read
            reason = why_not or reason
    raise ModelError(_cannot_be_left_out(tensor, reason))


def _left_out(kept: Ints, channels: int) -> list[int]:
    is_ascending = kept.ndim == 1 and kept.size > 0 and (np.diff(kept) > 0).all()
    if not is_ascending or not 0 <= kept[0] <= kept[-1] < channels:
        raise ValueError(f"kept must be ascending indices of the {channels} channels, got {kept}")
    return [int(each) for each in np.setdiff1d(np.arange(channels), kept)]


@dataclass
class _Cuts:
    """What follows from leaving channels out.

    Attributes:
        closures: that lose channels.
        left_out: by tensor name, its channels that are left out.
        axes: by tensor name, that of its channels.
        totals: by tensor name, how many it has.
        constants: by node and position of a constant among its inputs, entries that are left out by axis.
    """

    closures: list[Closure] = field(default_factory=list)
    left_out: dict[str, set[int]] = field(default_factory=dict)
    axes: dict[str, int] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    constants: dict[tuple[str | None, int], tuple[onnx.NodeProto, dict[int, set[int]]]] = field(default_factory=dict)

    def add(self, closure: Closure, gone: frozenset[int]) -> None:
        """Leave channels of a closure out, counted from its first one."""
        self.closures.append(closure)
        for name, (axis, start, total) in closure.tensors.items():
            self.axes[name], self.totals[name] = axis, total
            self.left_out.setdefault(name, set()).update(start + each for each in gone)
        for cut in closure.cuts:
            _, by_axis = self.constants.setdefault((node_key(cut.node), cut.position), (cut.node, {}))
            by_axis.setdefault(cut.axis, set()).update(cut.start + each for each in gone)

    def counts(self) -> dict[tuple[str | None, int], tuple[onnx.NodeProto, dict[int, int]]]:
        """Return the numbers that fall, by node and position of a constant among its inputs, then by their offset."""
        found: dict[tuple[str | None, int], tuple[onnx.NodeProto, dict[int, int]]] = {}
        for closure in self.closures:
            for tensor, count in closure.counts:
                entry, gone = count.entry, sum(each in count.channels for each in self.left_out[tensor])
                _, numbers = found.setdefault((node_key(entry.node), entry.position), (entry.node, {}))
                numbers[entry.offset] = count.value - gone
        return found

    def edits(self) -> dict[str, dict[Edit, list[Use]]]:
        """Return what becomes of every constant, by its name; more than one thing where nodes use it differently."""
        counts, edits = self.counts(), dict[str, dict[Edit, list[Use]]]()
        for key in {**self.constants, **counts}:
            node, axes = self.constants.get(key, (None, {}))
            other, numbers = counts.get(key, (None, {}))
            user = node or other
            if user is not None:
                gone = frozenset((axis, frozenset(each)) for axis, each in axes.items())
                edit = gone, frozenset(numbers.items())
                edits.setdefault(user.input[key[1]], {}).setdefault(edit, []).append((user, key[1]))
        return edits


def _apply(model: onnx.ModelProto, index: GraphIndex, cuts: _Cuts) -> None:
    carried = {node_key(node): node for closure in cuts.closures for node in closure.carried}
    for node in carried.values():
        tensor = node.output[0]
        next(each for each in node.attribute if each.name == "group").i -= len(cuts.left_out[tensor])
    edits = cuts.edits()
    _remove_annotations(model, index, {*edits, *cuts.axes})
    _correct_shapes(model, cuts)
    splits = {node_key(each.node): each for closure in cuts.closures for each in closure.splits}
    for division in splits.values():
        _resize(model, division, cuts.left_out[division.whole])
    _replace_constants(model, index, edits)


def _resize(model: onnx.ModelProto, division: Division, gone: set[int]) -> None:
    """Give a Split the sizes of what is left; one without sizes keeps none where its parts stay equal."""
    node = division.node
    sizes = [part.count - sum(part.start <= each < part.start + part.count for each in gone) for part in division.parts]
    has_sizes = attribute(node, "split") is not None or (len(node.input) > 1 and node.input[1])
    if not has_sizes and len(set(sizes)) == 1:
        return
    for place in reversed(range(len(node.attribute))):
        if node.attribute[place].name in {"split", "num_outputs"}:
            del node.attribute[place]
    if opset(model) < _SPLIT_BY_INPUT_OPSET:
        node.attribute.append(onnx.helper.make_attribute("split", sizes))
        return
    before = list(node.input[1:])
    name = fresh_name(f"{node.output[0]}/sizes", names_in_use(model))
    del node.input[1:]
    node.input.append(name)
    _add(model, [numpy_helper.from_array(np.array(sizes, np.int64), name)])
    remove_orphans(model, before)


def _add(model: onnx.ModelProto, tensors: Sequence[onnx.TensorProto]) -> None:
    model.graph.initializer.extend(tensors)
    if model.ir_version < MIN_FREE_INITIALIZERS_IR:
        model.graph.input.extend(initializer_input(tensor) for tensor in tensors)


def _replace_constants(
    model: onnx.ModelProto, index: GraphIndex, edits: Mapping[str, Mapping[Edit, Sequence[Use]]]
) -> None:
    """Put narrower constants in the place of those that follow the channels."""
    taken = names_in_use(model)
    added: list[onnx.TensorProto] = []
    for name, ways in edits.items():
        stored = stored_constant(index, name)
        value = index.constant(name) if stored is None else values(stored)
        for edit, uses in ways.items():
            narrow = _narrowed(np.asarray(value), edit)
            if stored is not None and not _is_read_elsewhere(index, name, uses):
                _store(model, stored, narrow, name)
                continue
            tensor = numpy_helper.from_array(narrow, fresh_name(f"{name}/narrow", taken))
            taken.add(tensor.name)
            added.append(tensor)
            for node, position in uses:
                node.input[position] = tensor.name
    _add(model, added)
    remove_orphans(model, edits)


def _narrowed(value: NDArray[Any], edit: Edit) -> NDArray[Any]:
    """Return a constant without the channels left out."""
    axes, numbers = edit
    by_axis: dict[int, set[int]] = {}
    for axis, gone in axes:
        by_axis.setdefault(axis % value.ndim, set()).update(gone)
    for axis, entries in by_axis.items():
        value = np.delete(value, sorted(entries), axis)
    value = np.array(value, order="C")
    for offset, number in numbers:
        value.ravel()[offset] = number  # a view, as the array is contiguous
    return value


def _is_read_elsewhere(index: GraphIndex, name: str, uses: Sequence[Use]) -> bool:
    """Return whether a constant is read other than by some inputs of nodes, or handed out."""
    reads = sum(list(tensors_read(node)).count(name) for node in index.consumers[name])
    return reads > len(uses) or name in index.outputs


def _store(model: onnx.ModelProto, tensor: onnx.TensorProto, value: NDArray[Any], name: str) -> None:
    """Put other values into a stored constant, and their shape wherever the graph says it."""
    del tensor.dims[:]
    tensor.dims.extend(value.shape)
    for each in ("float_data", "double_data", "int32_data", "int64_data"):
        tensor.ClearField(each)
    put_inside(tensor, numpy_helper.from_array(value).raw_data)
    for each in (*model.graph.input, *model.graph.value_info):
        if each.name == name:
            for dim, size in zip(each.type.tensor_type.shape.dim, value.shape, strict=False):
                dim.dim_value = size


def _correct_shapes(model: onnx.ModelProto, cuts: _Cuts) -> None:
    """Correct the declared shapes of the tensors that carry channels; remove declarations that do not fit them."""
    declared = model.graph.value_info
    for place in reversed(range(len(declared))):
        name = declared[place].name
        axis, shape = cuts.axes.get(name), declared[place].type.tensor_type.shape
        if axis is None or not declared[place].type.tensor_type.HasField("shape"):
            continue
        if len(shape.dim) < -axis:
            del declared[place]
        else:
            shape.dim[len(shape.dim) + axis].dim_value = cuts.totals[name] - len(cuts.left_out[name])


def _remove_annotations(model: onnx.ModelProto, index: GraphIndex, tensors: Container[str]) -> None:
    """Remove the quantization annotations that have a scale for every channel of a tensor."""
    annotations = model.graph.quantization_annotation
    for place in reversed(range(len(annotations))):
        names = [each.value for each in annotations[place].quant_parameter_tensor_names]
        sizes = [prod(index.initializers[name].dims) for name in names if name in index.initializers]
        if annotations[place].tensor_name in tensors and any(size > 1 for size in sizes):
            del annotations[place]
