"""What every command needs first: the model, its inputs, its layers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import (
    affine_before_transpose,
    counted_tensors,
    find_depthwise,
    find_layers,
    in_single_precision,
    inline_functions,
    inner_name,
    is_in_other_precision,
    named_sample_axes,
    narrow_channels,
    node_names,
    parameter_inputs,
    read_model,
    replace_layer,
    rounding_loss,
    weighted_tensors,
    with_samples_first,
    with_values,
)
from onnx_lowrank.graph.eligible import layers_before_draws
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.runtime.constants import with_constants
from onnx_lowrank.runtime.fallback import warn_of_fallback
from onnx_lowrank.runtime.inputs import Shapes, TensorSpec, fixed_batch, known_shape, with_axes, with_shapes
from onnx_lowrank.runtime.observed_shapes import observe_shapes
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.random_numbers import random_tensors
from onnx_lowrank.runtime.session import RunError, Session
from onnx_lowrank.settings import Constants, Settings

log = logging.getLogger(__name__)

_MAX_ROUNDING_LOSS = 2.0  # in units of the float type's precision; more is worth a warning

Feeds = Mapping[str, NDArray[Any]]
Shape = tuple[int, ...]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=_Named)


@dataclass(frozen=True, eq=False)
class Network:
    """A model and what is known of it.

    Attributes:
        model: the original as it runs here.
        original: as it was given, with the constants in ``held``; another one only where onnxruntime has no kernels
            for its types, or samples are not on the first axis of its inputs.
        name: what to call it: its path, or ``<model>``.
        provider: where it runs.
        inputs: name, type and shape of its inputs, open axes filled in where the user said how.
        single: whether ``model`` is in float32 since onnxruntime has no kernels for the original's types.
        axes: by input name, the axis of the original that counts samples where it is not the first; None where there
            is none. In ``model`` it is the first one of all inputs.
        held: inputs of the model as it was given that are weights of layers and constant: both models hold them.
    """

    model: onnx.ModelProto
    original: onnx.ModelProto
    name: str
    provider: Provider
    inputs: tuple[TensorSpec, ...]
    single: bool = False
    axes: Mapping[str, int | None] = field(default_factory=dict)
    held: tuple[TensorSpec, ...] = ()

    def with_threads(self, count: int) -> Network:
        """Return the same, run by so many threads."""
        return replace(self, provider=replace(self.provider, threads=count))

    def layers(self, feeds: Feeds) -> LayerSet:
        """Find the layers that can be factorized, and all others with their reasons.

        Args:
            feeds: one batch of inputs; sizes that the model leaves open are taken from it.

        Raises:
            ModelError: there is no Conv, ConvTranspose, Gemm or MatMul at all, or the network does not take the inputs.
        """
        try:
            layers = _layers(self.model, feeds, self.provider, self.name)
        except RunError as error:
            sizes = ", ".join(f"{name} {'x'.join(map(str, value.shape))}" for name, value in feeds.items())
            raise ModelError(
                f"{self.name}: onnxruntime cannot run it on {sizes}: {error.reason}: give sizes that it takes, with "
                "the data or `input_shapes`; many networks want multiples of 32"
            ) from error
        return layers_before_draws(layers, self.random(feeds, [layer.input for layer in layers.sampled]))

    def random(self, feeds: Feeds, tensors: Iterable[str]) -> dict[str, str]:
        """Return those of some tensors that differ from run to run, each with the name of a node that draws.

        Args:
            feeds: one batch of inputs.
            tensors: names of inner tensors or outputs.
        """
        return random_tensors(self.model, feeds, tensors, self.provider)

    def in_own_types(self, layers: Sequence[Layer], feeds: Feeds) -> list[Layer]:
        """Layers with the weights of the network as it was given."""
        if self.model is self.original:
            return list(layers)
        shapes = observe_shapes(self.model, feeds, weighted_tensors(self.model), self.provider)
        shapes |= {name: shapes[inner_name(name)] for name in self.axes if inner_name(name) in shapes}
        samples = _samples(feeds)
        found = [*find_layers(self.original, shapes, samples)[0], *find_depthwise(self.original, shapes, samples)]
        own = {layer.name: layer for layer in found}
        return [own[layer.name] for layer in layers]

    def with_factors(
        self, solved: Sequence[tuple[Layer, FactorChain]], feeds: Feeds, *, planar: bool = False
    ) -> onnx.ModelProto:
        """Return the network as it was given with factors in the places of layers, in its own types.

        Args:
            solved: layers and the chains that replace them.
            feeds: one batch of inputs.
            planar: write chains of 1-D convolutions as 2-D ones, see `onnx_lowrank.graph.planar`.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.original)
        layers = self.in_own_types([layer for layer, _ in solved], feeds)
        for layer, (_, factors) in zip(layers, solved, strict=True):
            replace_layer(model, layer, factors, planar=planar)
            if (loss := rounding_loss(layer, factors)) > _MAX_ROUNDING_LOSS:
                log.warning(
                    "%s '%s': its factors lose %.0f times the precision of %s when rounded to it: "
                    "leave the layer out with `exclude`, or convert the float32 model",
                    layer.op, layer.name, loss, layer.weight.dtype,
                )  # fmt: skip
        narrow_channels(model, {layer.input: each.kept for layer, each in solved if each.kept is not None})
        return model

    def as_run(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A network in the original's types as it runs here."""
        return with_samples_first(in_single_precision(model) if self.single else model, self.axes)

    def prefers_planar(self, settings: Settings) -> bool:
        """Whether milliseconds count, and chains of 1-D convolutions run faster as 2-D: in onnxruntime on a CPU."""
        in_onnxruntime = settings.runtime == Settings.runtime and self.provider.name == "cpu"
        return settings.cost == "latency" and in_onnxruntime

    @property
    def one_by_one(self) -> bool:
        """Whether no input has an axis of samples: one sample at a time."""
        return all(spec.samples_axis is None for spec in self.sampled)

    def with_samples_first(self, axes: Mapping[str, int | None]) -> Network:
        """Return the same network as one that takes samples on the first axis of all inputs.

        Args:
            axes: by input name, the axis that counts samples now; None where there is none. Inputs that are left out
                have them on the first.
        """
        moved = {name: axis for name, axis in axes.items() if axis != 0 and name not in self.axes}
        inputs = tuple(spec.on_axis(moved[spec.name]) if spec.name in moved else spec for spec in self.inputs)
        model = with_samples_first(self.model, moved)
        return replace(self, model=model, inputs=inputs, axes={**self.axes, **moved})

    def shapes_of_two(self, one: Feeds, two: Feeds) -> dict[str, tuple[Shape, Shape]] | None:
        """Return the shapes of tensors for one sample and for two, where samples can go through together.

        They can where twice as many make every layer's tensors twice as long. Networks that are exported with one
        sample often say that their batch size is open, and then fail on two, or take both for one: in a layer, or
        behind the last one.

        Args:
            one: one sample.
            two: two.

        Returns:
            Both shapes by name, of `weighted_tensors`; None where the network takes one sample at a time.
        """
        tensors = weighted_tensors(self.model)
        outputs = [value.name for value in self.model.graph.output if value.type.HasField("tensor_type")]
        names = list(dict.fromkeys([*tensors, *outputs]))
        try:
            before, after = (observe_shapes(self.model, feeds, names, self.provider) for feeds in (one, two))
        except ModelError:
            return None
        if any(_joined(before[name], after[name]) for name in outputs):
            return None
        return (
            {name: (before[name], after[name]) for name in tensors}
            if all(_doubled(before[name], after[name]) for name in tensors)
            else None
        )

    @property
    def fixed_batch(self) -> int | None:
        """Samples that the model takes at a time; None where that is open."""
        return fixed_batch(self.sampled)

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
        return replace(self, inputs=with_shapes(self.inputs, shapes))

    def with_constants(self, values: Constants) -> Network:
        """The same with inputs that are always fed the same.

        Args:
            values: by input name, see `with_constants`.

        Raises:
            ModelError: a name is not that of an input, values that do not fit it, or no input left for data.
        """
        return replace(self, inputs=with_constants(self.inputs, values))

    def zeros(self, samples: int = 1) -> dict[str, NDArray[Any]]:
        """A batch of zeros, with as many samples where the batch size is open; constant inputs as they are.

        Raises:
            ModelError: another axis is open, or they do not fit into memory.
        """
        in_order = sorted(self.sampled, key=lambda spec: spec.parameter)  # the first one counts samples
        shapes = {spec.name: known_shape(spec, self.name) for spec in in_order}
        for spec in self.sampled:
            if spec.shape and spec.shape[0] is None and not spec.parameter:
                shapes[spec.name] = (samples, *shapes[spec.name][1:])
        try:
            found = {spec.name: np.zeros(shapes[spec.name], spec.dtype) for spec in in_order}
        except (MemoryError, ValueError) as error:  # numpy raises the latter for more bytes than it can count
            raise ModelError(f"{self.name}: inputs of shape {shapes} do not fit into memory: check them") from error
        count = next((len(values) for values in found.values() if values.ndim), 1)
        return found | {spec.name: spec.constant(count) for spec in self.inputs if spec.value is not None}


def open_network(
    model: str | Path | onnx.ModelProto,
    provider: Provider,
    input_shapes: Shapes,
    constants: Constants | None = None,
    samples_axis: Mapping[str, int] | None = None,
    may_lack: Collection[str] = (),
) -> Network:
    """Read a model and see that onnxruntime runs it.

    Args:
        model: path, or a model in memory.
        provider: where to run it.
        input_shapes: shape by input name, where the model leaves axes open; ``""`` names the only input.
        constants: by name of the inputs that are always fed the same, see `with_constants`. Weights of layers among
            them become part of the model.
        samples_axis: axis that counts samples by input name, where neither is it the first one nor do the names of the
            model's axes tell; ``""`` names the only input. None takes all inputs as they are in the model.
        may_lack: names of constants that need not be inputs.

    Raises:
        ModelError: it cannot be read or loaded, or an axis, a shape or a constant does not fit its input.
    """
    name = "<model>" if isinstance(model, onnx.ModelProto) else str(model)
    original = affine_before_transpose(inline_functions(read_model(model)))
    network = _opened(original, provider, name, input_shapes)
    missing = set(may_lack) - {spec.name for spec in network.inputs}
    constants = {key: value for key, value in (constants or {}).items() if key not in missing}
    network = network.with_constants(constants)
    if held := tuple(spec for spec in network.inputs if spec.parameter and spec.value is not None):
        original = with_values(original, {spec.name: spec.value for spec in held if spec.value is not None})
        others = {key: value for key, value in constants.items() if key not in {spec.name for spec in held}}
        network = replace(_opened(original, provider, name, input_shapes).with_constants(others), held=held)
    if samples_axis is None:
        return network.with_shapes(input_shapes)
    given = _sample_axes(samples_axis, network.sampled)
    named = named_sample_axes(network.model, [spec.name for spec in network.sampled])
    return network.with_samples_first(named | given).with_shapes(input_shapes)


def open_networks(
    models: Iterable[str | Path | onnx.ModelProto],
    provider: Provider,
    input_shapes: Shapes,
    constants: Constants,
    samples_axis: Mapping[str, int] | None = None,
) -> list[Network]:
    """Open several models, with constants for those that have inputs of their names: a converted one may hold them.

    Raises:
        ModelError: see `open_network`; none of them has an input that is to be constant.
    """
    networks = [open_network(model, provider, input_shapes, constants, samples_axis, constants) for model in models]
    taken = {spec.name for network in networks for spec in (*network.inputs, *network.held)}
    networks[0].with_constants({name: value for name, value in constants.items() if name not in taken})
    return networks


def _opened(original: onnx.ModelProto, provider: Provider, name: str, input_shapes: Shapes) -> Network:
    """Load a model, and take the number of axes of its inputs from the user's shapes where it does not say it."""
    loaded, inputs = _that_runs(original, provider, name)
    if not inputs:
        raise ModelError(f"{name}: it has no inputs: there is nothing to feed samples to")
    unknown = {value.name for value in loaded.graph.input if not value.type.tensor_type.HasField("shape")}
    parameters = parameter_inputs(original)
    inputs = tuple(replace(spec, parameter=spec.name in parameters) for spec in inputs)
    inputs = with_axes(inputs, unknown, input_shapes, name)
    return Network(loaded, original, name, provider, inputs, loaded is not original)


def _sample_axes(given: Mapping[str, int], inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Return the axes of samples that the user names, counted from the front.

    Raises:
        ModelError: there is no such input, or no such axis.
    """
    axes = {}
    ranks = {spec.name: len(spec.shape) for spec in inputs}
    for name, axis in given.items():
        own = inputs[0].name if not name and len(inputs) == 1 else name
        if own not in ranks:
            names = ", ".join(ranks)
            raise ModelError(f"`samples_axis`: no input '{name}' that samples are fed to, wanted one of {names}")
        if not -ranks[own] <= axis < ranks[own]:
            raise ModelError(
                f"`samples_axis`: axis {axis} of input '{own}' found, which has {ranks[own]}: "
                f"give one from 0 to {ranks[own] - 1}, or none where the model takes single samples"
            )
        axes[own] = axis % ranks[own]
    return axes


def _that_runs(
    original: onnx.ModelProto, provider: Provider, name: str
) -> tuple[onnx.ModelProto, tuple[TensorSpec, ...]]:
    """The network, in float32 if it does not run as it is, and its inputs."""
    try:
        return original, _inputs(original, provider, name)
    except ModelError as error:
        if not is_in_other_precision(original):
            raise
        try:
            single = in_single_precision(original)
            inputs = _inputs(single, provider, name)
        except (ModelError, ValueError):  # the latter from weights that do not fit their shape
            raise error from None
        log.info("onnxruntime has no kernels for its types: it is run in float32 and written in its own types")
        return single, inputs


def _inputs(model: onnx.ModelProto, provider: Provider, name: str) -> tuple[TensorSpec, ...]:
    """The inputs of a network that runs; with a warning where a plugin leaves operators to the CPU."""
    session = Session(model, provider, name=name, in_plugin=True)
    if provider.plugin is not None:
        warn_of_fallback(session, provider.plugin, name)
    return session.inputs


def count_macs(model: onnx.ModelProto, feeds: Feeds, provider: Provider, without: Collection[str] = ()) -> int:
    """Return the multiply-adds per sample of all layers and all that stays, see `SkippedLayer`, but for those named."""
    return sum(layer.macs for layer in _layers(model, feeds, provider, "model").every if layer.name not in without)


def _layers(model: onnx.ModelProto, feeds: Feeds, provider: Provider, name: str) -> LayerSet:
    tensors = list(dict.fromkeys([*weighted_tensors(model), *counted_tensors(model)]))
    shapes = observe_shapes(model, feeds, tensors, provider) if tensors else {}
    samples = _samples(feeds)
    layers = LayerSet(*find_layers(model, shapes, samples), carriers=find_depthwise(model, shapes, samples))
    if not layers.every:
        raise ModelError(f"{name}: no Conv, ConvTranspose, Gemm or MatMul in the graph: there is nothing to factorize")
    return layers


def _samples(feeds: Feeds) -> int:
    return next((len(values) for values in feeds.values() if values.ndim), 1)


def _doubled(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    """Whether the first axis is twice as long; or nothing differs, where samples play no part."""
    return one == two or (bool(one) and two == (2 * one[0], *one[1:]))


def _joined(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    """Whether an output holds two samples in one row."""
    return len(one) == 2 and one[0] == 1 and two == (1, 2 * one[1])
