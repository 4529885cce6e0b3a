"""Write what a network reads: samples after preprocessing, for other tools that calibrate or compare."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate import Preprocessing, draw_samples, open_samples
from onnx_lowrank.calibrate.data.sample_axes import with_sample_axes
from onnx_lowrank.calibrate.data.samples import Samples
from onnx_lowrank.calibrate.split import MAX_CALIBRATION_SAMPLES
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.graph import check_writable, staged_file
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network, open_network
from onnx_lowrank.runtime.progress import Progress, track_samples
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.settings import Constants

Shapes = dict[str, tuple[int, ...]]


def save_samples(  # noqa: PLR0913  (the options of the command, each with its default)
    model: str | Path | onnx.ModelProto,
    data: Any,
    output: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    constant_inputs: Constants | None = None,
    samples_axis: Mapping[str, int] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Shapes:
    """Write samples as a network reads them: one array per input, first axis = samples.

    Args:
        model: path of an ONNX file, or a model.
        data: sample inputs, as for `onnx_lowrank.convert`.
        output: ``.npz`` to write.
        preprocessing: of images; pixels / 255 if not given.
        samples: how many, drawn with ``seed``; None for all, but no more than a conversion calibrates with.
        batch_size: samples that are read at a time.
        seed: of the drawing.
        input_shapes: shape by input name, where the model leaves axes open.
        constant_inputs: by name of the inputs that are always fed the same: numbers, an array or its file.
        samples_axis: axis that counts samples by input name, where it is not the first one.
        force: overwrite an existing file.
        progress: watches.

    Returns:
        Shapes of the arrays by input name.

    Raises:
        ModelError: the model cannot be read, or an axis is open.
        CalibrationError: there are no data, or they cannot be used.
        OutputError: the file exists, or cannot be written.
    """
    path = Path(output)
    check_writable(path, force=force)
    if data is None:
        raise CalibrationError(
            "data: none given, sample inputs are wanted: pass `data` with a folder of images, .npy, .npz, .zip or .tar"
        )
    network = open_network(model, choose_provider("cpu"), input_shapes or {}, constant_inputs or {}, samples_axis or {})
    network, data = with_sample_axes(network, data)
    opened = open_samples(data, network.inputs, preprocessing, network.held)
    count = samples or min(len(opened), MAX_CALIBRATION_SAMPLES)
    indices, batch_size = draw_samples(opened, network.sampled, np.random.default_rng(seed), count, batch_size)
    with staged_file(path) as file:
        return _write(file, network, opened, indices, batch_size, Monitor(progress))


def _write(
    file: Path, network: Network, samples: Samples, indices: NDArray[np.int64], batch_size: int, monitor: Monitor
) -> Shapes:
    """Write one array per input, a batch at a time, and return their shapes."""
    shapes: Shapes = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, source in samples.sources.items():
            read = ({name: source.read(indices[at : at + batch_size])} for at in range(0, len(indices), batch_size))
            batches = (batch[name] for batch in track_samples(monitor, read, f"write {name}", len(indices)))
            shapes[name] = _append(archive, name, batches, len(indices))
        for spec in network.inputs:
            if spec.value is not None:
                shapes[spec.name] = _append(archive, spec.name, iter([spec.constant(len(indices))]), None)
    return shapes


def _append(archive: zipfile.ZipFile, name: str, batches: Iterator[NDArray[Any]], count: int | None) -> tuple[int, ...]:
    """Append an array that comes in batches, ``count`` rows in all, or whole where that is None; return its shape."""
    first = next(batches)
    shape = first.shape if count is None else (count, *first.shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": shape}
    # Unlike numpy.savez, this takes inputs of any name, "file" among them, and holds one batch in memory.
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_2_0(member, header)
        member.write(np.ascontiguousarray(first).tobytes())
        for batch in batches:
            member.write(np.ascontiguousarray(batch).tobytes())
    return shape
