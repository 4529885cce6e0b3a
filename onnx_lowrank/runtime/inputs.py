"""A model's inputs, with the shapes that the user gives where axes are open."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TensorSpec:
    """One model input.

    Attributes:
        name: the input's name in the graph.
        dtype: element type.
        shape: size of every axis, None where it is open; the first axis counts samples.
        samples_axis: axis that counts samples in the model itself; None where there is none, so that the model takes
            one sample at a time.
        parameter: whether it is a weight or another parameter of a layer.
        value: constant that it is always fed, of size 1 along an open first axis; None where samples provide it.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    value: NDArray[Any] | None = field(default=None, compare=False)
    samples_axis: int | None = 0
    parameter: bool = field(default=False, compare=False)

    @property
    def own_shape(self) -> tuple[int | None, ...]:
        """The shape in the model itself, with samples on their own axis, or without them."""
        if self.samples_axis is None:
            return self.shape[1:]
        return (*self.shape[1 : self.samples_axis + 1], self.shape[0], *self.shape[self.samples_axis + 1 :])

    def samples_first(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return a shape that is the model's own with the number of samples as its first size.

        Args:
            shape: sizes of the axes in the model itself.
        """
        if self.samples_axis is None:
            return (1, *shape)
        axis = self.samples_axis
        return (*shape[axis : axis + 1], *shape[:axis], *shape[axis + 1 :])

    def on_axis(self, axis: int | None) -> TensorSpec:
        """Return the input as one with samples first; ``axis`` is where they are in the model, None for nowhere."""
        if axis is None:
            return replace(self, shape=(1, *self.shape), samples_axis=None)
        moved = (self.shape[axis], *self.shape[:axis], *self.shape[axis + 1 :])
        return replace(self, shape=moved, samples_axis=axis)

    def constant(self, samples: int) -> NDArray[Any]:
        """Return the value for a batch: repeated for every sample where the first axis is open.

        Args:
            samples: number of samples in the batch.

        Raises:
            ValueError: the input is not constant.
        """
        if self.value is None:
            raise ValueError(f"input '{self.name}' is not constant")
        by_sample = bool(self.shape) and self.shape[0] is None
        return np.repeat(self.value, samples, axis=0) if by_sample else self.value


def shape_hint(name: str, sizes: str = "1,3,224,224") -> str:
    """Return how to set the shape of an input, as messages show it."""
    return f"`input_shapes={{'{name}': ({sizes})}}`"


def fixed_batch(inputs: Iterable[TensorSpec]) -> int | None:
    """Return the batch size that the model is bound to: a first axis of an input that is not open; None without one."""
    return next((spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] and not spec.parameter), None)


def with_axes(
    inputs: Sequence[TensorSpec], unknown: Collection[str], shapes: Shapes, where: str
) -> tuple[TensorSpec, ...]:
    """Return the inputs with the number of axes taken from the user's shapes, where the model does not say it.

    Args:
        inputs: the model's inputs.
        unknown: names of those without a shape in the model.
        shapes: shape by input name; ``""`` names the only input.
        where: name of the model in error messages.

    Raises:
        ModelError: one of them has no shape in either.
    """
    completed = []
    for spec in inputs:
        given = shapes.get(spec.name) or (shapes.get("") if len(inputs) == 1 else None)
        if spec.name in unknown and given is None:
            raise ModelError(f"{where}: input '{spec.name}' has no shape: pass {shape_hint(spec.name)}")
        completed.append(replace(spec, shape=(None,) * len(given)) if spec.name in unknown and given else spec)
    return tuple(completed)


def with_shapes(inputs: Sequence[TensorSpec], shapes: Shapes) -> tuple[TensorSpec, ...]:
    """Return the inputs with open axes filled in.

    Args:
        inputs: the model's inputs.
        shapes: shape by input name; ``""`` names the only input that is not constant.

    Raises:
        ModelError: a name is not that of an input, or a shape does not fit its input.
    """
    names = {spec.name for spec in inputs}
    sampled = [spec for spec in inputs if spec.value is None]
    if "" in shapes and len(sampled) == 1:
        shapes = {sampled[0].name: shapes[""]}
    for name in shapes:
        if name not in names:
            raise ModelError(f"`input_shapes`: {no_input(name, inputs)}")
    filled = []
    for spec in inputs:
        own = shapes.get(spec.name)
        if own is None:
            filled.append(spec)
            continue
        shape = spec.samples_first(tuple(own))
        fits = len(shape) == len(spec.shape) and all(
            size in {None, given} for size, given in zip(spec.shape, shape, strict=True)
        )
        if not fits:
            raise ModelError(f"`input_shapes`: {list(own)} does not fit input '{spec.name}' {list(spec.own_shape)}")
        # The first axis counts samples: the model says whether it is fixed, not the example shape.
        filled.append(replace(spec, shape=(spec.shape[0], *shape[1:])))
    return tuple(filled)


def no_input(name: str, inputs: Sequence[TensorSpec]) -> str:
    """Return what to say of a name that no input has."""
    return f"no input '{name}', the model has {', '.join(sorted(spec.name for spec in inputs))}"


def known_shape(spec: TensorSpec, where: str) -> tuple[int, ...]:
    """Return the shape of a batch, of one sample where the batch size is open.

    Args:
        spec: the input.
        where: name of the model in error messages.

    Raises:
        ModelError: another axis is open.
    """
    shape = tuple(size or 1 if axis == 0 else size for axis, size in enumerate(spec.shape))
    if None in shape:
        text = ",".join(str(size or "?") for size in shape)
        raise ModelError(f"{where}: input '{spec.name}' has open axes ({text}): pass {shape_hint(spec.name, text)}")
    return tuple(size for size in shape if size is not None)
