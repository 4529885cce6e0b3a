"""The written file against the original: what a conversion has to pass before its file gets its name."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError, VerificationError
from onnx_lowrank.graph import node_names, read_model, with_outputs, with_samples_on_scores
from onnx_lowrank.layers.layer_set import LayerSet, following, narrowed_makers
from onnx_lowrank.layers.plan import RankPlan
from onnx_lowrank.metrics.predictor import NetworkPredictor
from onnx_lowrank.runtime.network import Feeds, Network, count_macs
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.verify import (
    AccuracyLoss,
    Comparison,
    check_structure,
    check_untouched,
    compare_outputs,
    measure_loss,
    share_interval,
)
from onnx_lowrank.verify.cached_session import Runnable
from onnx_lowrank.verify.comparable import open_comparable
from onnx_lowrank.verify.fidelity import refusal

log = logging.getLogger(__name__)

_PICKS = "NonMaxSuppression"
MAX_PICTURES = 12  # held-out images that the page shows with the predictions of both models
_LONGER = 32  # by which open axes are stretched: networks halve their maps up to five times


def open_for_comparison(network: Network, model: onnx.ModelProto) -> Session:
    """Open a model whose outputs are compared; it also hands out what objects are picked from.

    What is picked may differ in number: which of many overlapping boxes is best may turn on the last digit, so the
    boxes themselves are compared.

    Args:
        network: the original, which says where to run.
        model: it, or a converted one, as it runs here.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    candidates = [name for node in model.graph.node if node.op_type == _PICKS for name in node.input[:2]]
    shown = with_outputs(model, [name for name in candidates if name not in constants])
    return open_comparable(with_samples_on_scores(shown) if network.one_by_one else shown, network.provider)


def verify_conversion(
    file: Path,
    network: Network,
    layers: LayerSet,
    plan: RankPlan,
    one_batch: Feeds,
    original: Runnable,
    batches: Iterable[Feeds],
    truth: NDArray[np.int64] | None,
) -> Comparison:
    """Read the written file back, check its graph, run it on samples it was not solved with and at other sizes.

    Args:
        file: the written file.
        network: the original.
        layers: its layers.
        plan: their ranks.
        one_batch: the smallest batch that the network takes.
        original: runs the original, see `open_for_comparison`.
        batches: held-out samples to compare both on.
        truth: their classes, shape (samples,); None where they are not known.

    Raises:
        VerificationError: anything about it is not as it should be.
    """
    try:
        written = read_model(file)
    except ModelError as error:
        raise VerificationError(f"written model: cannot be read back: {error}") from error
    check_structure(network.original, written)
    changed = [*(layer for layer, _ in plan.factorized(layers.eligible)), *following(layers, plan), *layers.carriers]
    replaced = {name for layer in changed for name in layer.nodes}
    makers, nodes = narrowed_makers(layers, plan), network.original.graph.node
    named = zip(node_names(network.original), nodes, strict=True)
    replaced |= {output for name, node in named if name in makers for output in node.output}
    check_untouched(network.original, written, replaced)
    runs = network.as_run(written)
    varying = {layer.name: layer.macs for layer in layers.skipped if layer.varies}
    macs = count_macs(runs, one_batch, network.provider, varying.keys())
    planned = sum(layers.planned_macs(plan)) - sum(varying.values())
    if macs != planned:
        raise VerificationError(f"written model: {macs} multiply-adds, the plan makes {planned}: please report this")
    converted = open_for_comparison(network, runs)
    comparison = compare_outputs(original, converted, batches, truth, MAX_PICTURES)
    comparison = replace(comparison, random=frozenset(network.random(one_batch, comparison.outputs)))
    _check_errors(runs, comparison)
    _check_other_sizes(network, one_batch, (original, converted), comparison)
    return comparison


def loss_of(
    network: Network,
    converted: onnx.ModelProto,
    original: Runnable,
    batches: Iterable[Feeds],
    truth: NDArray[np.int64] | None,
) -> AccuracyLoss:
    """Measure what a converted network loses on some samples.

    Args:
        network: the original.
        converted: the converted network, in the original's types.
        original: runs the original, see `open_for_comparison`.
        batches: the samples.
        truth: their classes, shape (samples,); None where they are not known.
    """
    return measure_loss(original, open_for_comparison(network, network.as_run(converted)), batches, truth)


def predictor_of(network: Network, runs: Runnable) -> NetworkPredictor:
    """Return a network, or one that was converted from it, as a metric sees it.

    Args:
        network: the original.
        runs: runs it, or the converted one, see `open_for_comparison`.
    """
    outputs = tuple(value.name for value in network.original.graph.output)
    return NetworkPredictor(runs.run, tuple(spec.name for spec in network.inputs), outputs)


def warn_if_few(samples: int, max_drop: float) -> None:
    """Warn where not even a network that loses nothing could be told from one that loses more than is allowed.

    Args:
        samples: number of samples that a search judges by.
        max_drop: the loss that is allowed, as a share.
    """
    smallest = share_interval(0, samples)[1]
    if smallest > max_drop:
        log.warning(
            "max-drop %g: %d samples to search with tell losses below %.2g from none badly: add samples",
            max_drop, samples, smallest,
        )  # fmt: skip


def _check_errors(written: onnx.ModelProto, comparison: Comparison) -> None:
    """Raise for an output that nobody could use, by the measure of its kind."""
    for name, fidelity in comparison.outputs.items():
        # Numbers that count or name something may be far off by size and yet be right as often as can be.
        # Of random ones nothing is known: they differ from run to run in the original too.
        if name in _float_outputs(written) and name not in comparison.random and (found := refusal(fidelity)):
            raise VerificationError(
                f"output '{name}': {found[0]} on {comparison.images} held-out samples, {found[1]} "
                "is wanted: lower `speedup` or add samples; nothing was written"
            )


def _float_outputs(model: onnx.ModelProto) -> set[str]:
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.UNDEFINED}
    return {value.name for value in model.graph.output if value.type.tensor_type.elem_type in kinds}


def _check_other_sizes(
    network: Network, one_batch: Feeds, sessions: tuple[Runnable, Runnable], comparison: Comparison
) -> None:
    """Where axes are open, see that shapes and types are the original's at other sizes too, if it takes them."""
    for feeds in _other_sizes(network, one_batch):
        shapes = {name: values.shape for name, values in feeds.items()}
        try:
            expected = sessions[0].run(feeds)
        except ModelError:
            log.debug("the original network does not take inputs of shape %s", shapes)
            continue
        try:
            actual = sessions[1].run(feeds)
        except ModelError as error:
            raise VerificationError(f"written model: fails on inputs of shape {shapes}: {error}") from error
        for name in comparison.outputs:
            before, after = ((outputs[name].shape, outputs[name].dtype) for outputs in (expected, actual))
            if before != after:
                raise VerificationError(
                    f"output '{name}': {after} on inputs of shape {shapes}, the original network makes {before}"
                )


def _other_sizes(network: Network, one_batch: Feeds) -> list[Feeds]:
    """Return a batch twice as long, and one whose open axes are longer; only what differs from the known sizes."""
    batches: list[Feeds] = []
    for twice, longer in ((True, 0), (False, _LONGER)):
        feeds = {}
        for spec in network.sampled:
            values = one_batch[spec.name]
            by = [longer if axis else twice * len(values) for axis in range(values.ndim)]
            more = [(0, 0 if size else each) for size, each in zip(spec.shape, by, strict=True)]
            feeds[spec.name] = np.pad(values, more, mode="wrap") if more else values
        if any(values.shape != one_batch[name].shape for name, values in feeds.items()):
            samples = len(next(iter(feeds.values())))
            constants = {spec.name: spec.constant(samples) for spec in network.inputs if spec.value is not None}
            batches.append(feeds | constants)
    return batches
