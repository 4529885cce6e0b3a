"""Targets of all layers in one pass of the original network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate.positions import Ints
from onnx_lowrank.calibrate.taps import (
    Tap,
    as_patches,
    clear_outside,
    patch_indices,
    patch_rows,
    patch_tap,
    response_indices,
    response_tap,
)
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.graph.extract import extract
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import LARGEST, PatchProbe, TargetResponses, not_usable
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session

Batch = Mapping[str, NDArray[Any]]


def collect_targets(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    positions: Mapping[str, Ints],
    batches: Iterable[Batch],
    provider: Provider,
    probes: Mapping[str, Ints] | None = None,
) -> dict[str, TargetResponses]:
    """Run the original network once over the calibration samples and keep the sampled rows.

    Args:
        model: the original network.
        layers: layers to look at.
        positions: per layer name, sampled positions of every image, shape (images, P).
        batches: inputs by name, in the order of the images.
        provider: where to run.
        probes: per layer name, which of an image's sampled positions also have their input patch kept, shape (p,).

    Returns:
        Targets by layer name, rows image by image.

    Raises:
        CalibrationError: a response is NaN, infinite, or too large to reckon with.
    """
    probes, images = probes or {}, len(next(iter(positions.values()), ()))
    taps = {layer.name: _taps(layer, probed=layer.name in probes) for layer in layers}
    every = [tap for pair in taps.values() for tap in pair.values()]
    session: Session | None = None
    rows: dict[str, NDArray[Any]] = {}
    done = 0
    for batch in batches:
        session = session or _open(model, batch, every, provider)
        count = len(next(iter(batch.values())))
        feeds = dict(batch)
        for layer in layers:
            sampled = positions[layer.name][done : done + count]
            feeds |= response_indices(layer, sampled)
            if layer.name in probes:
                feeds |= patch_indices(layer, sampled[:, probes[layer.name]])
        for name, values in session.run(feeds).items():
            if not done:
                rows[name] = np.empty((images, *values.shape[1:]), np.float32)
            rows[name][done : done + count] = values
        done += count
    for layer in layers:
        if layer.name in probes:
            clear_outside(rows[patch_rows(layer)], layer, positions[layer.name][:, probes[layer.name]])
    return {layer.name: _targets(layer, taps[layer.name], rows, probes.get(layer.name)) for layer in layers}


def _taps(layer: Layer, *, probed: bool) -> dict[str, Tap]:
    element_type = onnx.helper.np_dtype_to_tensor_dtype(layer.weight.dtype)
    tensors = {"response": layer.response} | ({"residual": layer.residual} if layer.residual else {})
    taps = {role: response_tap(layer, tensor, element_type) for role, tensor in tensors.items()}
    return taps | ({"input": patch_tap(layer, element_type)} if probed else {})


def _open(model: onnx.ModelProto, batch: Batch, taps: Sequence[Tap], provider: Provider) -> Session:
    inputs = {value.name: value for value in model.graph.input if value.name in batch}
    inputs |= {value.name: value for tap in taps for value in tap.inputs}
    nodes = list({node.output[0]: node for tap in taps for node in tap.nodes}.values())
    constants = list({tensor.name: tensor for tap in taps for tensor in tap.constants}.values())
    outputs = [tap.output for tap in taps]
    tapped = extract(model, list(inputs.values()), outputs, nodes, constants)
    return Session(tapped, provider, name="original network")


def _targets(
    layer: Layer, taps: Mapping[str, Tap], rows: dict[str, NDArray[Any]], probe: Ints | None
) -> TargetResponses:
    found = {role: rows.pop(tap.output.name) for role, tap in taps.items()}
    for role, values in found.items():
        if not_usable(values):
            raise CalibrationError(
                f"{layer.op} '{layer.name}': its {role} is NaN, infinite or beyond {LARGEST:g} in the original "
                "network: check the model's weights and the preprocessing of the data"
            )
    images, per_image, filters = found["response"].shape
    residual = found["residual"].reshape(-1, filters) if "residual" in found else None
    targets = TargetResponses(found["response"].reshape(-1, filters), residual)
    if probe is None:
        return targets
    probed = (np.arange(images)[:, None] * per_image + probe).ravel()
    return replace(targets, probe=PatchProbe(as_patches(found["input"], layer), probed))
