"""Compare two models on data: how close their outputs are, and the accuracy of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_lowrank.calibrate import Preprocessing, default_batch, draw_samples, iterate_batches, open_samples, preset
from onnx_lowrank.calibrate.data.sample_axes import with_sample_axes
from onnx_lowrank.errors import CalibrationError, ModelError
from onnx_lowrank.graph import with_samples_on_scores
from onnx_lowrank.runtime.network import Network, open_network
from onnx_lowrank.runtime.progress import Progress, Silent
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.verify import Comparison, compare_outputs
from onnx_lowrank.verify.comparable import open_comparable


def compare(  # noqa: PLR0913  (the options of the command, each with its default)
    a: str | Path | onnx.ModelProto,
    b: str | Path | onnx.ModelProto,
    data: Any,
    *,
    labels: bool = False,
    tensors: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    provider: str = "auto",
    threads: int | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    constant_inputs: Mapping[str, Sequence[float]] | None = None,
    progress: Progress | None = None,
    samples_axis: Mapping[str, int] | None = None,
) -> Comparison:
    """Measure the fidelity of model B to model A on data, and the accuracy of both.

    Args:
        a: the reference.
        b: the model to judge.
        data: sample inputs, as for `convert`.
        labels: judge accuracy by the class folders of the data.
        tensors: inner tensors of both graphs to compare beside the outputs.
        preprocessing: of images; pixels / 255 if not given.
        samples: compare on this many, drawn with ``seed``; None for all.
        batch_size: samples per forward pass.
        seed: of the drawing.
        provider: where both run.
        threads: of onnxruntime.
        input_shapes: shape by input name, where the models leave axes open.
        constant_inputs: numbers by name of the inputs that are always fed the same.
        progress: watches the passes.
        samples_axis: axis that counts samples by input name, where it is not the first one.

    Raises:
        ModelError: a model cannot be read or run, a tensor is unknown, or the models do not take the same inputs.
        CalibrationError: there are no data, they cannot be used, or have no class folders to take labels from.
    """
    where = choose_provider(provider, threads)
    networks = [open_network(model, where, input_shapes or {}, constant_inputs, samples_axis or {}) for model in (a, b)]
    first, second = networks
    if first.inputs != second.inputs:
        raise ModelError(f"compare: {first.name} takes {list(first.inputs)}, {second.name} {list(second.inputs)}")
    if data is None:
        raise CalibrationError(
            "data: none given, sample inputs are wanted: pass `data` with a folder of images, .npy, .npz, .zip or .tar"
        )
    first, data = with_sample_axes(first, data)
    networks = [first, networks[1].with_samples_first(first.axes)]
    opened = open_samples(data, first.inputs, preprocessing or preset("zero-one"))
    if labels and opened.labels is None:
        raise CalibrationError(f"data {opened.source}: no class folders, which `labels` reads: drop `labels`")
    batch_size = batch_size or default_batch(first.sampled, where.batch_elements)
    indices, batch_size = draw_samples(opened, first.sampled, np.random.default_rng(seed), samples, batch_size)
    sessions = [open_comparable(_with_outputs(_shown(each), tensors, each.name), where, each.name) for each in networks]
    total = ceil(len(indices) / batch_size)
    batches = (progress or Silent()).track(iterate_batches(opened, indices, batch_size), "compare", total)
    truth = opened.labels[indices] if labels and opened.labels is not None else None
    return compare_outputs(sessions[0], sessions[1], batches, truth)


def _shown(network: Network) -> onnx.ModelProto:
    return with_samples_on_scores(network.model) if network.one_by_one else network.model


def _with_outputs(model: onnx.ModelProto, tensors: Sequence[str], name: str) -> onnx.ModelProto:
    """Add inner tensors of a model to its outputs."""
    known = {output for node in model.graph.node for output in node.output}
    have = {value.name for value in model.graph.output}
    for tensor in tensors:
        if tensor not in known:
            raise ModelError(f"`tensors` '{tensor}': {name} has no such tensor: name one that both graphs have")
    extra = [onnx.ValueInfoProto(name=tensor) for tensor in dict.fromkeys(tensors) if tensor not in have]
    model.graph.output.extend(extra)
    return model
