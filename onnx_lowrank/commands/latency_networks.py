"""Write what a device without this package needs to measure latencies: networks, and a script to time them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate import Preprocessing
from onnx_lowrank.graph import check_not_read, check_writable, input_shape, layer_model, read_model, staged_file
from onnx_lowrank.graph.eligible import check_any_eligible
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.random_factors import random_factors
from onnx_lowrank.pipeline import find_layers_on_data, timed_batch
from onnx_lowrank.ranks.milliseconds import chains_to_measure
from onnx_lowrank.runtime.backends.fixed_shapes import write_fixed
from onnx_lowrank.runtime.backends.staging import staging_folder
from onnx_lowrank.runtime.latency_table import chain_key, network_key
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.progress import Progress
from onnx_lowrank.settings import Settings

_SCRIPT = "time_networks.py"
_BLOCK = 8  # channels that kernels process at a time: what most processors of devices like, or a multiple of it
_DATE = (1980, 1, 1, 0, 0, 0)  # the same networks make the same archive

Shapes = dict[str, tuple[int, ...]]


def save_latency_networks(
    model: str | Path | onnx.ModelProto,
    data: Any,
    output: str | Path,
    settings: Settings | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> int:
    """Write the networks whose times a conversion under measured milliseconds wants to know, and a script to time them.

    Args:
        model: path of an ONNX file, or a model.
        data: sample inputs, as for `onnx_lowrank.convert`; their number decides which layers can be factorized.
        output: ``.zip`` to write.
        settings: of the conversion; ``rank_multiple`` is the number of channels that the device's kernels process at a
            time, 8 if not given.
        preprocessing: of images; pixels / 255 if not given.
        force: overwrite an existing file.
        progress: watches.
        **changes: fields of `Settings` to change.

    Returns:
        The number of networks.

    Raises:
        ModelError: the model cannot be read or run, or there is nothing in it to factorize.
        CalibrationError: the data cannot be used.
        OutputError: the file exists, or cannot be written.
    """
    path = Path(output)
    settings = (settings or Settings()).changed(changes).resolved()
    check_not_read(path, model)
    check_writable(path, force=force)
    network, layers, calibration = find_layers_on_data(model, data, preprocessing, settings)
    check_any_eligible(layers)
    block, batch = settings.rank_multiple or _BLOCK, timed_batch(network, settings)
    feeds = calibration.repeated(batch)
    shapes = {name: values.shape for name, values in feeds.items()}
    chains = chains_to_measure(layers.eligible, settings, block)
    keyed = {chain_key(layer, plan, batch * layer.maps): (layer, plan) for layer, plan in chains}
    with staged_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        listed = [
            _add(archive, 0, network_key(network.model, shapes), _with_fixed_shapes(network.model, feeds), shapes)
        ]
        models = (_keyed_model(key, layer, plan, batch) for key, (layer, plan) in keyed.items())
        tracked = Monitor(progress).track(models, "write networks", len(keyed))
        for number, (key, small, own_shapes) in enumerate(tracked, 1):
            listed.append(_add(archive, number, key, small, own_shapes))
        _write(archive, "networks.json", json.dumps({"block": block, "networks": listed}, indent=1) + "\n")
        _write(archive, _SCRIPT, files("onnx_lowrank.commands").joinpath(_SCRIPT).read_text(encoding="utf-8"))
    return len(listed)


def _with_fixed_shapes(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """Return a model whose inputs have the shapes of a batch, as tools want it."""
    with staging_folder() as folder:
        return read_model(write_fixed(model, feeds, folder).file)


def _keyed_model(key: str, layer: Layer, plan: LayerPlan, batch: int) -> tuple[str, onnx.ModelProto, Shapes]:
    """Return the key of a chain, its model and the shapes of its inputs."""
    factors, maps = random_factors(layer, plan), batch * layer.maps
    return key, layer_model(layer, factors, maps), {"input": input_shape(layer, factors, maps)}


def _add(archive: zipfile.ZipFile, number: int, key: str, model: onnx.ModelProto, shapes: Shapes) -> dict[str, Any]:
    """Add a network to the archive and return its entry in the list."""
    file = f"{number:04}.onnx"
    _write(archive, f"networks/{file}", model.SerializeToString(deterministic=True))
    return {"file": file, "key": key, "inputs": shapes}


def _write(archive: zipfile.ZipFile, name: str, content: str | bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED, 1)
