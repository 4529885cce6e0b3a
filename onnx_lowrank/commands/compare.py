"""Compare two models on data: how close their outputs are, and the accuracy of both."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate import Preprocessing, default_batch, draw_samples, iterate_batches, open_samples
from onnx_lowrank.calibrate.data.sample_axes import with_sample_axes
from onnx_lowrank.calibrate.data.samples import Samples
from onnx_lowrank.calibrate.metric_samples import metric_samples
from onnx_lowrank.errors import CalibrationError, ModelError
from onnx_lowrank.graph import with_outputs, with_samples_on_scores
from onnx_lowrank.metrics import as_metric
from onnx_lowrank.runtime.network import Network, open_networks
from onnx_lowrank.runtime.progress import Progress, Silent, track_samples
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.settings import ClassNames, Constants, MetricChoice
from onnx_lowrank.verify import CachedSession, Comparison, MetricJudge, compare_outputs, scored_classes
from onnx_lowrank.verify.comparable import open_comparable
from onnx_lowrank.verify.conversion import predictor_of

log = logging.getLogger(__name__)


def compare(  # noqa: PLR0913  (the options of the command, each with its default)
    a: str | Path | onnx.ModelProto,
    b: str | Path | onnx.ModelProto,
    data: Any,
    *,
    labels: bool = False,
    class_names: ClassNames | None = None,
    metric: MetricChoice | None = None,
    tensors: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    provider: str = "auto",
    ep_library: str | Path | None = None,
    threads: int | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    constant_inputs: Constants | None = None,
    progress: Progress | None = None,
    samples_axis: Mapping[str, int] | None = None,
) -> Comparison:
    """Measure the fidelity of model B to model A on data, and the accuracy of both.

    Args:
        a: the reference.
        b: the model to judge.
        data: sample inputs, as for `convert`.
        labels: judge accuracy by the class folders of the data.
        class_names: names of the classes in the order of the scores, or a text file with one a line, see `Settings`.
        metric: measure both by this too: a name such as ``top1``, or a function, see `onnx_lowrank.metrics`.
        tensors: inner tensors of both graphs to compare beside the outputs.
        preprocessing: of images; pixels / 255 if not given.
        samples: compare on this many, drawn with ``seed``; None for all.
        batch_size: samples per forward pass.
        seed: of the drawing.
        provider: where both run.
        ep_library: file of a plugin execution provider, which ``provider`` names.
        threads: of onnxruntime.
        input_shapes: shape by input name, where the models leave axes open.
        constant_inputs: by name of the inputs that are always fed the same: numbers, an array or its file.
        progress: watches the passes.
        samples_axis: axis that counts samples by input name, where it is not the first one.

    Raises:
        ModelError: a model cannot be read or run, a tensor is unknown, or the models do not take the same inputs.
        CalibrationError: there are no data, they cannot be used, have no class folders to take labels from, or those of
            other classes than the models score.
        ValueError: there are names of classes, but neither labels nor a metric are wanted.
    """
    if class_names is not None and not labels and metric is None:
        raise ValueError("class_names says what the labels are called: set labels too")
    where = choose_provider(provider, threads, ep_library)
    networks = open_networks((a, b), where, input_shapes or {}, constant_inputs or {}, samples_axis or {})
    first, second = networks
    if first.inputs != second.inputs:
        raise ModelError(f"compare: {first.name} takes {list(first.inputs)}, {second.name} {list(second.inputs)}")
    if data is None:
        raise CalibrationError(
            "data: none given, sample inputs are wanted: pass `data` with a folder of images, .npy, .npz, .zip or .tar"
        )
    first, data = with_sample_axes(first, data)
    networks = [first, networks[1].with_samples_first(first.axes)]
    opened = open_samples(data, first.inputs, preprocessing, networks[0].held or networks[1].held, class_names)
    if labels:
        opened.check_has_labels()
    batch_size = batch_size or default_batch(first.sampled, where.batch_elements)
    indices, batch_size = draw_samples(opened, first.sampled, np.random.default_rng(seed), samples, batch_size)
    batch_size = _batch_that_fits(first, opened, indices, batch_size)
    models = [_with_tensors(_with_comparable_scores(each), tensors, each.name) for each in networks]
    sessions = [
        open_comparable(model, where, each.name, in_plugin=True) for model, each in zip(models, networks, strict=True)
    ]
    if labels and (scores := scored_classes(sessions[0], opened.read(indices[: first.fixed_batch or 1]))):
        opened.check_labels(*scores)

    def batches(stage: str) -> Iterator[dict[str, NDArray[Any]]]:
        read = iterate_batches(opened, indices, batch_size)
        return track_samples(progress or Silent(), read, stage, len(indices))

    truth = opened.labels[indices] if labels and opened.labels is not None else None
    if metric is None:
        return compare_outputs(sessions[0], sessions[1], batches("compare"), truth)
    first_runs, second_runs = map(CachedSession, sessions)  # a metric runs both on the same batches again
    comparison = compare_outputs(first_runs, second_runs, batches("compare"), truth)
    judged_on = metric_samples(opened, indices, lambda: batches("judge"))
    judge = MetricJudge(as_metric(metric), predictor_of(first, first_runs), judged_on)
    return replace(comparison, metric=judge.measure(predictor_of(networks[1], second_runs)))


def _batch_that_fits(network: Network, samples: Samples, indices: NDArray[np.int64], batch_size: int) -> int:
    """Return the batch size; 1 where the network takes one sample at a time, although its inputs say otherwise."""
    if network.fixed_batch or batch_size == 1 or len(indices) < 2:
        return batch_size
    one, two = (samples.read(indices[:count]) for count in (1, 2))
    if network.shapes_of_two(one, two) is not None:
        return batch_size
    log.info("the network takes one sample at a time, although its inputs say otherwise")
    return 1


def _with_comparable_scores(network: Network) -> onnx.ModelProto:
    """Return the model; scores of one that takes single samples get an axis of samples."""
    return with_samples_on_scores(network.model) if network.one_by_one else network.model


def _with_tensors(model: onnx.ModelProto, tensors: Sequence[str], name: str) -> onnx.ModelProto:
    """Return a model that also hands out inner tensors, which it must have."""
    computed = {output for node in model.graph.node for output in node.output}
    for tensor in tensors:
        if tensor not in computed:
            raise ModelError(f"`tensors` '{tensor}': {name} has no such tensor: name one that both graphs have")
    return with_outputs(model, tensors)
