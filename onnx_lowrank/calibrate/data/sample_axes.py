"""Which inputs take one sample at a time, without an axis for it, and which have samples elsewhere: by the data."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnx_lowrank.calibrate.data.arrays import named_arrays
from onnx_lowrank.calibrate.data.npy_file import NpyFile
from onnx_lowrank.errors import CalibrationError, ModelError
from onnx_lowrank.graph import weighted_tensors
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.runtime.observed_shapes import observe_shapes

log = logging.getLogger(__name__)

_IMAGE_AXES = 3
_MAX_PROBED_RANK = 3  # inputs with more axes have one for samples, or too many in the data
_PROBED_LENGTH = 256  # of inputs with two or three axes; those with one are run as they are
_MAX_VALUES_READ = 2**20  # of an array in a file, to see whether it is constant


@dataclass(frozen=True, eq=False)
class _Given:
    """The data of one input: its shape, None for images; and its numbers where they are at hand."""

    shape: tuple[int, ...] | None
    array: NDArray[Any] | NpyFile | None = None


def with_sample_axes(network: Network, data: Any) -> tuple[Network, Any]:
    """Compare data with the inputs of a network and see where samples are.

    Data with one axis more than an input have samples in front, which the network takes one at a time. A number for an
    input without axes is the same for all samples. An input whose first axis has a fixed size may have samples on
    another axis.

    Args:
        network: the network, with inputs as the model or the user describe them.
        data: as for `open_samples`.

    Returns:
        The network with samples on the first axis of all inputs; and the data, of which an iterator is as before.

    Raises:
        CalibrationError: the data have no axis of samples that fits the network.
    """
    given, data = _look(data, network.sampled)
    _refuse_weights(network, given)
    constants = {spec.name: number for spec in network.sampled if (number := _scalar(spec, given)) is not None}
    if constants and len(constants) < len(network.sampled):
        log.info("the same for all samples: %s", ", ".join(f"{name}={value}" for name, (value,) in constants.items()))
        network = network.with_constants(constants)
    axes: dict[str, int | None] = {}
    for spec in network.sampled:
        if spec.samples_axis == 0 and spec.name in given:
            axes |= _axis(spec, given[spec.name], _count(network, given, spec.name))
    if not axes and len(network.sampled) == 1:
        axes = _recording(network, network.sampled[0], given)
    if any(axis is None for axis in axes.values()):
        log.info("one sample at a time: no axis of samples in %s", ", ".join(n for n, a in axes.items() if a is None))
    return network.with_samples_first(axes), data


def _refuse_weights(network: Network, given: Mapping[str, _Given]) -> None:
    """Raise for data that are a layer's weight, which are no samples."""
    weights = {}
    for spec in network.sampled:
        shape = given[spec.name].shape if spec.parameter and spec.name in given else None
        if shape is not None and len(shape) == len(spec.shape) and _fits(shape, spec.shape):
            weights[spec.name] = shape
    if weights:
        found = ", ".join(f"'{name}' of shape {shape}" for name, shape in weights.items())
        values = ", ".join(f"'{name}': 'FILE'" for name in weights)
        raise CalibrationError(
            f"data: input {found} found, which are weights of layers, samples are wanted: make them constant with "
            f"`constant_inputs={{{values}}}`, where FILE is the .npy or .npz that holds them"
        )


def _scalar(spec: TensorSpec, given: Mapping[str, _Given]) -> list[Any] | None:
    """Return the one number that the data have for an input without axes, None where there is none or they differ."""
    array = given[spec.name].array if spec.name in given else None
    if spec.shape or not isinstance(array, np.ndarray) or not array.size or array.ndim > 1:
        return None
    if (array != array.flat[0]).any():
        return None
    return [array.flat[0].item()]


def _count(network: Network, given: Mapping[str, _Given], but: str) -> int | None:
    """Return the number of samples that the data of other inputs have on an open first axis."""
    for spec in network.sampled:
        shape = given[spec.name].shape if spec.name in given and spec.name != but else None
        if shape and spec.samples_axis == 0 and spec.shape and spec.shape[0] is None and len(shape) == len(spec.shape):
            return shape[0]
    return None


def _axis(spec: TensorSpec, given: _Given, count: int | None) -> dict[str, int | None]:
    """Return the axis of samples by the input's name, None for no axis; nothing where it is the first."""
    own, shape = spec.shape, given.shape
    if shape is None:
        return {spec.name: None} if len(own) == _IMAGE_AXES and ({own[0], own[2]} & {1, 3}) else {}
    if len(shape) == len(own) + 1 and _fits(shape[1:], own):
        return {spec.name: None}
    if len(shape) == len(own) and own and own[0] and count not in (None, shape[0]):
        there = [axis for axis, size in enumerate(own) if axis and size is None and shape[axis] == count]
        if len(there) == 1 and _fits(shape, own):
            return {spec.name: there[0]}
        # Samples may be in front of what has them behind in the model.
        behind = [axis for axis, size in enumerate(own) if axis and size is None]
        if len(behind) == 1 and shape[0] == count and _fits(shape, spec.on_axis(behind[0]).shape):
            return {spec.name: behind[0]}
        raise CalibrationError(
            f"data: input '{spec.name}': shape {shape} found, the model takes {_text(own)} and other inputs have "
            f"{count} samples: none of its axes is known to count them: say which with "
            f"`samples_axis={{'{spec.name}': {there[0] if there else 1}}}`"
        )
    return {}


def _recording(network: Network, spec: TensorSpec, given: Mapping[str, _Given]) -> dict[str, int | None]:
    """Look whether data with as many axes as the only input are one sample of a network without an axis for samples.

    The network is run on parts of it: where the first axis counts samples, it is that of the layers' tensors too.
    """
    own, array = spec.shape, given[spec.name].array if spec.name in given else None
    if array is None or not 0 < array.ndim == len(own) <= _MAX_PROBED_RANK or not _fits(array.shape[1:], own[1:]):
        return {}
    fixed, length = own[0], len(array)
    if fixed is None:
        half = length // 2 if array.ndim == 1 else min(length, _PROBED_LENGTH) // 2
        pairs = [(1, 2), (half, 2 * half)] if array.ndim > 1 else [(half, 2 * half)]
        counted = any(_grows(network, spec, array, *pair) for pair in pairs if pair[0])
        return {} if counted or not _runs(network, spec, array[: 2 * half]) else {spec.name: None}
    if fixed == 1 or _counted(_shapes(network, spec, array[:fixed]), fixed):
        return {}
    if length != fixed:
        wanted = _text(("samples", *own))
        raise CalibrationError(
            f"data: input '{spec.name}': shape {array.shape} found, the model takes {_text(own)}, which has no axis of "
            f"samples: {wanted} is wanted: put samples in front of it, on an axis of their own"
        )
    return {spec.name: None}


def samples_on_first_axis(network: Network) -> bool:
    """Return whether the fixed first axis of the only input is also that of a layer's tensors, run on zeros.

    True also where that cannot be seen: with an open first axis, several inputs, or where it does not run.
    """
    fixed = network.fixed_batch or 1
    if len(network.sampled) != 1 or fixed == 1 or len(network.sampled[0].shape) > _MAX_PROBED_RANK:
        return True
    try:
        zeros = network.zeros()
    except ModelError:  # another axis is open
        return True
    spec = network.sampled[0]
    return _counted(_shapes(network, spec, zeros[spec.name]), fixed)


def _counted(shapes: Mapping[str, tuple[int, ...]], samples: int) -> bool:
    """Return whether the first axis of a layer's tensor is that of so many samples; True where nothing could run."""
    return not shapes or any(shape and shape[0] % samples == 0 for shape in shapes.values())


def _grows(network: Network, spec: TensorSpec, array: NDArray[Any] | NpyFile, few: int, more: int) -> bool:
    """Return whether the first axis of any layer's tensor grows with that of the input."""
    before, after = (_shapes(network, spec, array[:count]) for count in (few, more))
    return any(shape[:1] != after[name][:1] for name, shape in before.items() if name in after)


def _runs(network: Network, spec: TensorSpec, array: NDArray[Any]) -> bool:
    return bool(_shapes(network, spec, array))


def _shapes(network: Network, spec: TensorSpec, array: NDArray[Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the layers' tensors, none where the network does not take the array."""
    feeds = {spec.name: array.astype(spec.dtype)}
    feeds |= {each.name: each.constant(len(array)) for each in network.inputs if each.value is not None}
    try:
        return observe_shapes(network.model, feeds, weighted_tensors(network.model), network.provider)
    except ModelError:
        return {}


def _fits(shape: Iterable[int], sizes: Iterable[int | None]) -> bool:
    return all(size in (None, given) for given, size in zip(shape, sizes, strict=True))


def _text(sizes: Iterable[Any]) -> str:
    return f"({', '.join('?' if size is None else str(size) for size in sizes)})"


def _look(data: Any, inputs: tuple[TensorSpec, ...]) -> tuple[dict[str, _Given], Any]:
    """Return what is given for each input, as far as it can be seen without reading it, and the data."""
    if data is None:
        return {spec.name: _Given(None) for spec in inputs}, data
    if isinstance(data, str | os.PathLike):
        return _look_at_file(Path(data), inputs), data
    if isinstance(data, Mapping) and all(isinstance(value, str | os.PathLike) for value in data.values()):
        named = [(spec, data[spec.name]) for spec in inputs if spec.name in data]
        return {name: each for spec, path in named for name, each in _look_at_file(Path(path), (spec,)).items()}, data
    if isinstance(data, Mapping) or hasattr(data, "__array__"):
        return _of_arrays(data, inputs), data
    if not isinstance(data, Iterable):
        return {}, data
    batches = iter(data)
    first = next(batches, None)
    return ({} if first is None else _of_arrays(first, inputs)), batches if first is None else chain([first], batches)


def _of_arrays(batch: Any, inputs: tuple[TensorSpec, ...]) -> dict[str, _Given]:
    try:
        arrays = named_arrays(batch, inputs, "data")
    except CalibrationError:  # said again, with the right words, when they are opened
        return {}
    return {name: _Given(array.shape, array) for name, array in arrays.items()}


def _look_at_file(path: Path, inputs: tuple[TensorSpec, ...]) -> dict[str, _Given]:
    """Return what a file has for inputs, from its headers; images for folders and other files."""
    try:
        if path.suffix.lower() == ".npy" and path.is_file() and len(inputs) == 1:
            file = NpyFile(path)
            return {inputs[0].name: _Given(file.shape, file if file.ndim > 1 else file.whole())}
        if path.suffix.lower() == ".npz" and path.is_file():
            arrays = _npz(path)
            alone = len(arrays) == len(inputs) == 1
            return {inputs[0].name: next(iter(arrays.values()))} if alone else arrays
    except Exception:  # of any type in damaged files, which are refused with their reason when they are opened
        return {}
    return {spec.name: _Given(None) for spec in inputs} if len(inputs) == 1 else {}


def _npz(path: Path) -> dict[str, _Given]:
    """Return the shapes of the arrays in an ``.npz`` file, and the numbers of those with at most one axis."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                found[member.removesuffix(".npy")] = _Given(read(file)[0])
    with np.load(path, allow_pickle=False) as arrays:
        for name, each in found.items():
            if each.shape is not None and (
                len(found) == 1 or (len(each.shape) <= 1 and sum(each.shape) < _MAX_VALUES_READ)
            ):
                found[name] = replace(each, array=arrays[name])
    return found
