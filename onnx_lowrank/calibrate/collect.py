"""Collect the target responses of all layers in one pass of the original network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate.data.prefetch import prefetch
from onnx_lowrank.calibrate.positions import Ints
from onnx_lowrank.calibrate.taps import (
    Tap,
    as_patches,
    clear_outside,
    explained_failures,
    is_computed_anew,
    kernel_points,
    patch_indices,
    patch_rows,
    patch_tap,
    product_indices,
    product_tap,
    response_indices,
    response_tap,
)
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.graph.before_padding import before_padding
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
        layers: layers to sample.
        positions: sampled positions of every image by layer name, shape (images, P).
        batches: inputs by name, in the order of the images.
        provider: where to run.
        probes: by layer name, which of an image's sampled positions also have their input patch kept, shape (p,).

    Returns:
        Targets by layer name; rows image by image, (images * P, d).

    Raises:
        CalibrationError: a response is NaN, infinite, or too large to compute with.
    """
    layers = before_padding(model, layers)
    probes, images = probes or {}, len(next(iter(positions.values()), ()))
    taps = {layer.name: _taps(layer, positions[layer.name].shape[1], probed=layer.name in probes) for layer in layers}
    all_taps = [tap for by_role in taps.values() for tap in by_role.values()]
    session: Session | None = None
    rows: dict[str, NDArray[Any]] = {}
    start = 0

    def sampled(batch: Batch) -> tuple[slice, dict[str, NDArray[Any]]]:
        """Return which samples a batch holds, and their rows by output name."""
        nonlocal session, start
        session = session or _open(model, batch, all_taps, provider)
        samples = slice(start, start + len(next(iter(batch.values()))))
        feeds = dict(batch)
        for layer in layers:
            feeds |= _indices(layer, positions[layer.name][samples], probes.get(layer.name))
        start = samples.stop
        with explained_failures(layers):
            return samples, session.run(feeds)

    for samples, outputs in prefetch(sampled, batches):  # the next batch runs while the rows of this one are put away
        for name, values in outputs.items():
            if name not in rows:
                rows[name] = np.empty((images, *values.shape[1:]), np.float32)
            rows[name][samples] = values
    for layer in layers:
        if layer.name in probes:
            points = kernel_points(layer, positions[layer.name][:, probes[layer.name]])
            clear_outside(rows[patch_rows(layer)], layer, points)
    return {layer.name: _targets(layer, taps[layer.name], rows, probes.get(layer.name)) for layer in layers}


def _indices(layer: Layer, positions: Ints, probe: Ints | None) -> dict[str, NDArray[Any]]:
    """Return the feeds of a layer's taps for one batch."""
    anew = is_computed_anew(layer, positions.shape[1])
    feeds = product_indices(layer, positions) if anew else {}
    if layer.residual or not anew:
        feeds |= response_indices(layer, positions)
    return feeds if probe is None else feeds | patch_indices(layer, positions[:, probe])


def _taps(layer: Layer, per_sample: int, *, probed: bool) -> dict[str, Tap]:
    """Return the taps of a layer by role: its response, residual and input, where there are any."""
    element_type = onnx.helper.np_dtype_to_tensor_dtype(layer.weight.dtype)
    anew = is_computed_anew(layer, per_sample)
    taps = {"response": product_tap(layer) if anew else response_tap(layer, layer.response, element_type)}
    if layer.residual:
        taps["residual"] = response_tap(layer, layer.residual, element_type)
    return taps | ({"input": patch_tap(layer, element_type)} if probed else {})


def _open(model: onnx.ModelProto, batch: Batch, taps: Sequence[Tap], provider: Provider) -> Session:
    """Open the part of the network that the taps need."""
    inputs = {value.name: value for value in model.graph.input if value.name in batch}
    inputs |= {value.name: value for tap in taps for value in tap.inputs}
    nodes = list({node.output[0]: node for tap in taps for node in tap.nodes}.values())
    constants = list({tensor.name: tensor for tap in taps for tensor in tap.constants}.values())
    outputs = [tap.output for tap in taps]
    tapped = extract(model, list(inputs.values()), outputs, nodes, constants)
    return Session(tapped, provider, name="original network")


def _targets(layer: Layer, taps: Mapping[str, Tap], rows: Batch, probe: Ints | None) -> TargetResponses:
    """Return a layer's targets from the rows of all taps by output name."""
    sampled = {role: rows[tap.output.name] for role, tap in taps.items()}
    for role, values in sampled.items():
        if not_usable(values):
            raise CalibrationError(
                f"{layer.op} '{layer.name}': its {role} is NaN, infinite or beyond {LARGEST:g} in the original "
                "network: check the model's weights and the preprocessing of the data"
            )
    images, per_image, filters = sampled["response"].shape
    residual = sampled["residual"].reshape(-1, filters) if "residual" in sampled else None
    targets = TargetResponses(sampled["response"].reshape(-1, filters), residual)
    if probe is None:
        return targets
    probe_rows = (np.arange(images)[:, None] * per_image + probe).ravel()
    return replace(targets, probe=PatchProbe(as_patches(sampled["input"], layer), probe_rows))
