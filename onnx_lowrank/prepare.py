"""What every command needs first: the model, its inputs, its layers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import CalibrationError, ModelError
from onnx_lowrank.layer import Layer, SkippedLayer
from onnx_lowrank.load import (
    find_layers,
    in_single_precision,
    inline_functions,
    is_in_other_precision,
    node_names,
    read_model,
    weighted_tensors,
)
from onnx_lowrank.runtime import Provider, Session, observe_shapes
from onnx_lowrank.tensor_spec import TensorSpec

log = logging.getLogger(__name__)

# 3x3 kernels, onnxruntime on AVX2, chains of 1.8 times fewer multiply-adds: with groups of 16 channels they
# take 1.6 times as long as the layer, with groups of 32 they are 1.3 times as fast, of 64 and 128 1.6 and 1.8 times.
NARROWEST_GROUP = 32

Feeds = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]
Constants = Mapping[str, Sequence[float]]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=_Named)


@dataclass(frozen=True, eq=False)
class Network:
    """A model and what is known of it.

    Attributes:
        model: the original as it runs here.
        original: as it was given; another one only where onnxruntime has no kernels for its types.
        name: what to call it: its path, or ``<model>``.
        provider: where it runs.
        inputs: name, type and shape of its inputs, open axes filled in where the user said how.
    """

    model: onnx.ModelProto
    original: onnx.ModelProto
    name: str
    provider: Provider
    inputs: tuple[TensorSpec, ...]

    def layers(self, feeds: Feeds) -> tuple[list[Layer], list[SkippedLayer]]:
        """Layers that can be factorized, and all others with their reasons.

        Args:
            feeds: one batch of inputs; sizes that the model leaves open are taken from it.

        Raises:
            ModelError: there is no Conv, Gemm or MatMul at all.
        """
        return _layers(self.model, feeds, self.provider, self.name)

    def in_own_types(self, layers: Sequence[Layer], feeds: Feeds) -> list[Layer]:
        """Layers with the weights of the network as it was given."""
        if self.model is self.original:
            return list(layers)
        shapes = observe_shapes(self.model, feeds, weighted_tensors(self.model), self.provider)
        own = {layer.name: layer for layer in find_layers(self.original, shapes, _samples(feeds))[0]}
        return [own[layer.name] for layer in layers]

    def as_run(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A network in the original's types as it runs here."""
        return model if self.model is self.original else in_single_precision(model)

    def takes_batches(self, one: Feeds, two: Feeds) -> bool:
        """Whether samples can go through together: twice as many make every layer's tensors twice as long.

        Networks that are exported with one sample often say that their batch size is open, and then fail on two, or
        take both for one.

        Args:
            one: one sample.
            two: two.
        """
        tensors = weighted_tensors(self.model)
        try:
            before, after = (observe_shapes(self.model, feeds, tensors, self.provider) for feeds in (one, two))
        except ModelError:
            return False
        return all(_doubled(before[name], after[name]) for name in tensors)

    @property
    def sampled(self) -> tuple[TensorSpec, ...]:
        """The inputs that data are wanted for, in order."""
        return tuple(spec for spec in self.inputs if spec.value is None)

    def in_order(self, rows: Iterable[Row]) -> list[Row]:
        """Layers, or what there is to say of each, in the order of the graph; what is inside of other nodes last."""
        order = {name: position for position, name in enumerate(node_names(self.model))}
        return sorted(rows, key=lambda row: order.get(row.name, len(order)))

    def with_shapes(self, shapes: Shapes) -> Network:
        """The same with open axes filled in.

        Args:
            shapes: shape by input name; ``""`` names the only input that is not constant.

        Raises:
            ModelError: a name is not that of an input, or a shape does not fit its input.
        """
        return replace(self, inputs=_with_shapes(self.inputs, shapes))

    def with_constants(self, values: Constants) -> Network:
        """The same with inputs that are always fed the same.

        Args:
            values: numbers by input name, in the order of the input's axes; a single one fills it.

        Raises:
            ModelError: a name is not that of an input, numbers that do not fit it, or no input left for data.
        """
        unknown = sorted(values.keys() - {spec.name for spec in self.inputs})
        if unknown:
            raise ModelError(f"--input: {_no_input(unknown[0], self.inputs)}")
        inputs = [
            replace(spec, value=_constant(spec, values[spec.name])) if spec.name in values else spec
            for spec in self.inputs
        ]
        if self.inputs and all(spec.value is not None for spec in inputs):
            raise ModelError("--input: all inputs are constant, at least one is wanted that samples are fed to")
        return replace(self, inputs=tuple(inputs))

    def zeros(self) -> dict[str, NDArray[Any]]:
        """A batch of zeros, one sample where the batch size is open; constant inputs as they are.

        Raises:
            ModelError: another axis is open, or they do not fit into memory.
        """
        shapes = {spec.name: _known_shape(spec, self.name) for spec in self.sampled}
        try:
            found = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in self.sampled}
        except (MemoryError, ValueError) as error:  # numpy raises the latter for more bytes than it can count
            raise ModelError(f"{self.name}: inputs of shape {shapes} do not fit into memory: check them") from error
        count = next((len(values) for values in found.values() if values.ndim), 1)
        return found | {spec.name: spec.constant(count) for spec in self.inputs if spec.value is not None}


def open_network(
    model: str | Path | onnx.ModelProto, provider: Provider, input_shapes: Shapes, constants: Constants | None = None
) -> Network:
    """Read a model and see that onnxruntime runs it.

    Args:
        model: path, or a model in memory.
        provider: where to run it.
        input_shapes: shape by input name, where the model leaves axes open; ``""`` names the only input.
        constants: numbers by name of the inputs that are always fed the same.

    Raises:
        ModelError: it cannot be read or loaded, or a shape or a constant does not fit its input.
    """
    name = "<model>" if isinstance(model, onnx.ModelProto) else str(model)
    original = inline_functions(read_model(model))
    loaded, inputs = _that_runs(original, provider, name)
    if not inputs:
        raise ModelError(f"{name}: it has no inputs: there is nothing to feed samples to")
    inputs = _with_axes(inputs, loaded, input_shapes, name)
    return Network(loaded, original, name, provider, inputs).with_constants(constants or {}).with_shapes(input_shapes)


def _that_runs(
    original: onnx.ModelProto, provider: Provider, name: str
) -> tuple[onnx.ModelProto, tuple[TensorSpec, ...]]:
    """The network, in float32 if it does not run as it is, and its inputs."""
    try:
        return original, Session(original, provider, name=name).inputs
    except ModelError as error:
        if not is_in_other_precision(original):
            raise
        try:
            single = in_single_precision(original)
            inputs = Session(single, provider, name=name).inputs
        except (ModelError, ValueError):  # the latter from weights that do not fit their shape
            raise error from None
        log.info("onnxruntime has no kernels for its types: it is run in float32 and written in its own types")
        return single, inputs


def choose_layers(
    layers: Sequence[Layer], skipped: Sequence[SkippedLayer], include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[Layer], list[SkippedLayer]]:
    """Leave out the layers the user does not want touched.

    Args:
        layers: those that can be factorized.
        skipped: those that stay already.
        include: regular expressions, matched anywhere in the name; none means every layer.
        exclude: the same for layers to leave out.

    Raises:
        ModelError: an expression is invalid or matches no layer, or no layer is left.
    """
    every: list[Layer | SkippedLayer] = [*layers, *skipped]
    names = [each.name for each in every]
    wanted, unwanted = _expressions("include", include, names), _expressions("exclude", exclude, names)
    chosen, left = [], list(skipped)
    for layer in layers:
        reason = next((f"excluded by '{each.pattern}'" for each in unwanted if each.search(layer.name)), None)
        if reason is None and wanted and not any(each.search(layer.name) for each in wanted):
            reason = "not among the included layers"
        if reason is None:
            chosen.append(layer)
        else:
            left.append(layer.stays(reason))
    if not chosen:
        reasons = "; ".join(f"'{each.name}': {each.reason}" for each in left[:3])
        raise ModelError(
            f"no layer can be factorized ({reasons or 'the graph has no Conv'}): "
            "see all reasons with 'onnx-lowrank inspect', check --include and --exclude"
        )
    return chosen, left


def leave_narrow_groups(
    layers: Sequence[Layer], skipped: Sequence[SkippedLayer]
) -> tuple[list[Layer], list[SkippedLayer]]:
    """Leave out convolutions in many small groups, which no thin chain makes faster.

    Args:
        layers: those that can be factorized.
        skipped: those that stay already.
    """
    narrow = [layer for layer in layers if layer.groups > 1 and _width(layer) < NARROWEST_GROUP]
    reasons = {
        layer.name: f"{layer.groups} groups of {_width(layer)} channels: they pay from {NARROWEST_GROUP} channels on"
        for layer in narrow
    }
    kept = [layer for layer in layers if layer.name not in reasons]
    return kept, [*skipped, *(layer.stays(reasons[layer.name]) for layer in narrow)]


def _width(layer: Layer) -> int:
    """Channels of a group, read or made, whichever are fewer."""
    return min(layer.channels, layer.filters) // layer.groups


def count_macs(model: onnx.ModelProto, feeds: Feeds, provider: Provider) -> int:
    """Multiply-adds per image of every Conv, Gemm and MatMul with constant weights."""
    layers, skipped = _layers(model, feeds, provider, "model")
    return sum(layer.macs for layer in layers) + sum(layer.macs for layer in skipped)


def _layers(
    model: onnx.ModelProto, feeds: Feeds, provider: Provider, name: str
) -> tuple[list[Layer], list[SkippedLayer]]:
    tensors = weighted_tensors(model)
    found = find_layers(model, observe_shapes(model, feeds, tensors, provider) if tensors else {}, _samples(feeds))
    if not any(found):
        raise ModelError(f"{name}: no Conv, Gemm or MatMul in the graph: there is nothing to factorize")
    return found


def _samples(feeds: Feeds) -> int:
    return next((len(values) for values in feeds.values() if values.ndim), 1)


def _doubled(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    """Whether the first axis is twice as long; or nothing differs, where samples play no part."""
    return one == two or (bool(one) and two == (2 * one[0], *one[1:]))


def _expressions(option: str, patterns: Sequence[str], names: Sequence[str]) -> list[re.Pattern[str]]:
    compiled = []
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise ModelError(f"--{option} '{pattern}': not a regular expression ({error}): correct it") from error
        if not any(expression.search(name) for name in names):
            raise ModelError(
                f"--{option} '{pattern}': matches none of the {len(names)} layers ({', '.join(names[:3])}, ...): "
                "see their names with 'onnx-lowrank inspect'"
            )
        compiled.append(expression)
    return compiled


def _with_axes(
    inputs: Sequence[TensorSpec], model: onnx.ModelProto, shapes: Shapes, where: str
) -> tuple[TensorSpec, ...]:
    """Inputs whose number of axes the model does not say get that of the shape the user gave."""
    unknown = {value.name for value in model.graph.input if not value.type.tensor_type.HasField("shape")}
    found = []
    for spec in inputs:
        given = shapes.get(spec.name) or (shapes.get("") if len(inputs) == 1 else None)
        if spec.name in unknown and given is None:
            raise ModelError(f"{where}: input '{spec.name}' has no shape: pass --input-shapes {spec.name}:1,3,224,224")
        found.append(replace(spec, shape=(None,) * len(given)) if spec.name in unknown and given else spec)
    return tuple(found)


def _with_shapes(inputs: Sequence[TensorSpec], shapes: Shapes) -> tuple[TensorSpec, ...]:
    known = {spec.name for spec in inputs}
    sampled = [spec for spec in inputs if spec.value is None]
    if "" in shapes and len(sampled) == 1:
        shapes = {sampled[0].name: shapes[""]}
    for name in shapes:
        if name not in known:
            raise ModelError(f"--input-shapes: {_no_input(name, inputs)}")
    filled = []
    for spec in inputs:
        shape = shapes.get(spec.name)
        if shape is None:
            filled.append(spec)
            continue
        fits = len(shape) == len(spec.shape) and all(
            own in {None, given} for own, given in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise ModelError(f"--input-shapes: {list(shape)} does not fit input '{spec.name}' {list(spec.shape)}")
        # The first axis counts samples: the model says whether it is fixed, not the example shape.
        filled.append(replace(spec, shape=(spec.shape[0], *shape[1:])))
    return tuple(filled)


def _no_input(name: str, inputs: Sequence[TensorSpec]) -> str:
    return f"no input '{name}', the model has {', '.join(sorted(spec.name for spec in inputs))}"


def _constant(spec: TensorSpec, numbers: Sequence[float]) -> NDArray[Any]:
    """Numbers in an input's type and shape; an open axis is as long as it takes, an open first one 1."""
    found, open_axes = np.asarray(numbers), [axis for axis, size in enumerate(spec.shape) if axis and size is None]
    sizes = [size or 1 for size in spec.shape]
    if len(open_axes) == 1:
        sizes[open_axes[0]] = max(1, found.size // prod(sizes))
    fits = len(open_axes) < 2 and found.size in {1, prod(sizes)}
    value: NDArray[Any] = np.resize(found, sizes).astype(spec.dtype) if fits else np.empty(0)
    whole = not np.issubdtype(spec.dtype, np.integer) or np.array_equal(found, found.astype(spec.dtype))
    if not (fits and whole):
        raise ModelError(
            f"--input {spec.name}: {', '.join(map(str, found.ravel()[:4]))} found, {spec.dtype} of shape "
            f"{[size or '?' for size in spec.shape]} wanted: give one number for all, or every one"
        )
    return value


def _known_shape(spec: TensorSpec, where: str) -> tuple[int, ...]:
    shape = tuple(size or 1 if axis == 0 else size for axis, size in enumerate(spec.shape))
    if None in shape:
        text = ",".join(str(size or "?") for size in shape)
        raise ModelError(f"{where}: input '{spec.name}' has open axes ({text}): pass --input-shapes {spec.name}:{text}")
    return tuple(size for size in shape if size is not None)


def check_has_data(data: object) -> None:
    """Refuse to go on without sample inputs.

    Raises:
        CalibrationError: there are none.
    """
    if data is None:
        raise CalibrationError(
            "data: none given, sample inputs are wanted: pass --data with a folder of images, .npy, .npz, .zip or .tar"
        )
