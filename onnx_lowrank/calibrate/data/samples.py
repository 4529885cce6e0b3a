"""Calibration data of every kind, read by sample index in the form the model takes.

Opening is cheap: it lists images and reads the headers of arrays, so 50,000 images take a second. Only decoding tells
whether an image can be decoded: pass the chosen samples to `Samples.usable` and read those that it returns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibrate.data.archives import open_image_files, split_archive_path
from onnx_lowrank.calibrate.data.arrays import (
    array_sources,
    check_lengths,
    check_names,
    constant_hint,
    join_batches,
    named_arrays,
    without_constants,
)
from onnx_lowrank.calibrate.data.labels import LabelRule, image_labels
from onnx_lowrank.calibrate.data.npy_file import NpyFile
from onnx_lowrank.calibrate.data.prefetch import prefetch
from onnx_lowrank.calibrate.data.preprocess import DEFAULT, Preprocessing, image_layout
from onnx_lowrank.calibrate.data.sources import ImageSource, Indices, SampleSource
from onnx_lowrank.calibrate.data.synthetic import SyntheticSource, synthetic_sources
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.layers.input_statistics import InputStatistics
from onnx_lowrank.runtime.inputs import TensorSpec
from onnx_lowrank.settings import ClassNames

Loaded = TypeVar("Loaded")

Data: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Iterable[Any]


@dataclass(frozen=True, eq=False)
class Samples:
    """Calibration data, read by sample index; safe to read from several threads.

    Attributes:
        sources: the samples of each model input, by its name; all of the same length.
        labels: class of each sample, shape (samples,), see `onnx_lowrank.calibrate.data.labels`; None where there are
            none.
        constants: inputs with a constant value, the same in every batch.
        label_rule: how samples were given their classes; None without labels.
    """

    sources: Mapping[str, SampleSource]
    labels: NDArray[np.int64] | None = None
    constants: tuple[TensorSpec, ...] = ()
    label_rule: LabelRule | None = None

    @property
    def source(self) -> str:
        """Where the data come from: ``photos.tar (500 images)``, with ``NAME=`` in front for several inputs."""
        if len(self.sources) == 1:
            return next(iter(self.sources.values())).description
        return ", ".join(f"{name}={source.description}" for name, source in self.sources.items())

    @property
    def synthetic(self) -> bool:
        """Whether the images are synthetic."""
        return any(isinstance(source, SyntheticSource) for source in self.sources.values())

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How pixels became inputs; None where no input comes from image files."""
        return next((each.preprocessing for each in self.sources.values() if isinstance(each, ImageSource)), None)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that `usable` could not decode, as ``name: reason``, sorted."""
        return tuple(sorted({text for source in self.sources.values() for text in source.skipped}))

    def __len__(self) -> int:
        """Return the number of samples, usable or not."""
        return len(next(iter(self.sources.values())))

    def check_has_labels(self) -> None:
        """Raise CalibrationError for samples without labels."""
        if self.labels is None:
            raise CalibrationError(
                f"data {self.source}: no class folders, which `labels` reads: drop `labels`, or where file names begin "
                "with their class, pass `class_names='FILE'`"
            )

    def check_labels(self, scored: int, output: str) -> None:
        """Raise CalibrationError for labels of other classes than an output scores.

        Args:
            scored: number of classes that it scores.
            output: its name.
        """
        if self.label_rule is not None:
            self.label_rule.check(scored, output)

    def usable(self, indices: Indices) -> NDArray[np.int64]:
        """Leave out samples whose image cannot be decoded, by decoding each once.

        Args:
            indices: samples to try.

        Returns:
            The indices that can be read, in the order given; `skipped` names the others.

        Raises:
            CalibrationError: there are indices, but none of them is usable.
        """
        decodable = np.logical_and.reduce([source.usable(indices) for source in self.sources.values()])
        if len(indices) and not decodable.any():
            raise CalibrationError(
                f"{self.source}: none of the {len(indices)} images tried can be decoded (the first: "
                f"{self.skipped[0]}): pass images that open elsewhere"
            )
        return np.asarray(indices, dtype=np.int64)[decodable]

    def read(self, indices: Indices) -> dict[str, NDArray[Any]]:
        """Read samples as one batch.

        Args:
            indices: samples, at least one, any order.

        Returns:
            Arrays by input name in the model's dtype, layout and size, one sample per index on the first axis;
            constant inputs last.

        Raises:
            CalibrationError: NaN or Inf in a sample, an image that cannot be decoded, or images of several
                sizes for an input of open size.
        """
        arrays = {name: source.read(indices) for name, source in self.sources.items()}
        return arrays | {spec.name: spec.constant(len(indices)) for spec in self.constants}


def iterate_batches(samples: Samples, indices: Indices, batch_size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Read samples batch by batch, the next batch in the background while the current one is used.

    Args:
        samples: to read from.
        indices: samples to read, in this order.
        batch_size: samples per batch; the last batch may be shorter.

    Yields:
        Batches as `Samples.read` returns them; two are in memory at a time.

    Raises:
        ValueError: ``batch_size`` is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    chunks = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    yield from prefetch(samples.read, chunks)


def open_samples(
    data: Data,
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None = None,
    held: Sequence[TensorSpec] = (),
    class_names: ClassNames | None = None,
) -> Samples:
    """Open calibration data of any kind.

    Args:
        data: the path of an image folder, of an archive of images (or a folder inside it, as in
            ``photos.zip/train``), of ``.npy`` (one input) or ``.npz`` (one array per input); or a mapping of
            input names to such paths; or an iterable of batches, each a mapping of input names to arrays (or a
            bare array for a single input), which is read to its end and kept in memory; or one such batch. Only
            images are preprocessed, arrays are used as they are. The first axis counts samples.
        inputs: the model's inputs; constant ones need no data.
        preprocessing: of images; pixels / 255 if not given.
        held: former inputs whose constants the model holds; data may have the same ones.
        class_names: names of the classes that the labels of images count, or a file with one a line; None to take them
            from class folders.

    Raises:
        CalibrationError: the data are missing, empty or unreadable, or do not match the inputs in name, shape or type.
        TypeError: ``data`` is of another type.
    """
    constants = tuple(spec for spec in inputs if spec.value is not None)
    known = (*constants, *held)
    if known and isinstance(data, Mapping):
        data = _without_known(data, known)
    sampled = [spec for spec in inputs if spec.value is None]
    return replace(_open(data, sampled, preprocessing or DEFAULT, known, class_names), constants=constants)


def synthetic_samples(
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing | None,
    seed: int,
    first: Mapping[str, InputStatistics] | None = None,
) -> Samples:
    """Synthesize images with the statistics of photographs, for conversions without data.

    Args:
        inputs: the model's inputs.
        preprocessing: of images; pixels / 255 if not given.
        seed: of the random numbers.
        first: by input name, statistics of the first responses that the network stores; colours are fitted to them.

    Raises:
        CalibrationError: an input takes no images, or leaves their size open.
    """
    constants = tuple(spec for spec in inputs if spec.value is not None)
    sources = synthetic_sources(
        [spec for spec in inputs if spec.value is None], preprocessing or DEFAULT, seed, first or {}
    )
    return Samples(sources, constants=constants)


def _without_known(data: Mapping[str, Any], constants: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return data without those of constant inputs, which must hold the constant; folders of images are left in."""
    given = {}
    for name in {spec.name for spec in constants} & data.keys():
        value = data[name]
        if isinstance(value, str | os.PathLike):
            path = Path(value)
            if path.suffix.lower() != ".npy" or not path.is_file():
                continue
            value = _load(path, np.load)
        given[name] = np.asarray(value)
    without_constants(given, constants, "data")
    return {name: value for name, value in data.items() if name not in given}


def _open(
    data: Data,
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing,
    constants: Sequence[TensorSpec],
    class_names: ClassNames | None,
) -> Samples:
    if isinstance(data, str | os.PathLike):
        return _open_path(Path(data), inputs, preprocessing, constants, class_names)
    if isinstance(data, Mapping) and all(isinstance(value, str | os.PathLike) for value in data.values()):
        check_names(data, inputs, "data")
        opened = {
            spec.name: _open_path(Path(data[spec.name]), [spec], preprocessing, class_names=class_names)
            for spec in inputs
        }
        check_lengths({name: len(samples) for name, samples in opened.items()}, "data")
        sources = {name: samples.sources[name] for name, samples in opened.items()}
        labelled = next((samples for samples in opened.values() if samples.labels is not None), Samples(sources))
        return Samples(sources, labelled.labels, label_rule=labelled.label_rule)
    if isinstance(data, Mapping) or hasattr(data, "__array__"):
        return Samples(array_sources(named_arrays(data, inputs, "data"), inputs, "data"))
    if isinstance(data, Iterable):
        return Samples(join_batches(data, inputs, constants))
    raise TypeError(f"data must be a path, a mapping or an iterable of batches, got {type(data).__name__}")


def _open_path(
    path: Path,
    inputs: Sequence[TensorSpec],
    preprocessing: Preprocessing,
    constants: Sequence[TensorSpec] = (),
    class_names: ClassNames | None = None,
) -> Samples:
    try:
        existing, _ = split_archive_path(path)
    except OSError as error:
        raise CalibrationError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    kind = existing.suffix.lower() if existing.is_file() else "folder"
    if kind == ".npz":
        arrays = without_constants(_load(path, _read_npz), constants, str(path))
        if len(arrays) == len(inputs) == 1:
            arrays = {inputs[0].name: next(iter(arrays.values()))}
        return Samples(array_sources(arrays, inputs, str(path)))
    if len(inputs) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise CalibrationError(
            f"{path}: data for one input, the model has {names}: "
            f"pass `data={{'NAME': PATH}}` for each, .npz, or {constant_hint(inputs)}"
        )
    name = inputs[0].name
    if kind == ".npy":
        return Samples(array_sources({name: _load(path, NpyFile)}, inputs, str(path)))
    files = open_image_files(path)
    source = ImageSource(files, inputs[0], image_layout(inputs[0], preprocessing), preprocessing)
    labels, rule = image_labels(files, class_names)
    return Samples({name: source.with_fixed_size()}, labels, label_rule=rule)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return dict(archive)


def _load(path: Path, read: Callable[[Path], Loaded]) -> Loaded:
    try:
        return read(path)
    except Exception as error:  # NumPy lets errors of zip files, headers and memory maps through
        raise CalibrationError(
            f"{path}: cannot be read as {path.suffix} ({error}): save it with numpy again"
        ) from error
