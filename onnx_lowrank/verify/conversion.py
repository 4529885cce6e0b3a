"""The written file against the original: what a conversion has to pass before its file gets its name."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate.calibration import Job
from onnx_lowrank.errors import ModelError, VerificationError
from onnx_lowrank.graph import read_model
from onnx_lowrank.layers.plan import RankPlan
from onnx_lowrank.runtime.network import Feeds, count_macs
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
from onnx_lowrank.verify.cached_session import CachedSession, Runnable

log = logging.getLogger(__name__)

WORST_ERROR = 1.0  # relative; an output of zeros would be as close
_PICKS = "NonMaxSuppression"
_PICTURES = 12  # held-out images that the page shows with what both models make of them, at most
_LONGER = 32  # by which open axes are stretched: networks halve their maps up to five times


def cached_original(job: Job) -> CachedSession:
    """The original, to compare several networks with."""
    return CachedSession(_session(job, job.network.model))


def verify_conversion(job: Job, plan: RankPlan, file: Path, original: Runnable | None = None) -> Comparison:
    """Read the written file back, check its graph, run it on samples it was not solved with and at other sizes.

    Args:
        job: the conversion.
        plan: its ranks.
        file: what was written.
        original: see `cached_original`; None to run it for this once.

    Raises:
        VerificationError: anything about it is not as it should be.
    """
    network = job.network
    try:
        written = read_model(file)
    except ModelError as error:
        raise VerificationError(f"written model: cannot be read back: {error}") from error
    check_structure(network.original, written)
    check_untouched(network.original, written, _replaced(job, plan))
    runs = network.as_run(written)
    found, expected = count_macs(runs, job.one_batch, network.provider), sum(job.planned_macs(plan))
    if found != expected:
        raise VerificationError(f"written model: {found} multiply-adds, the plan makes {expected}: please report this")
    sessions = original or _session(job, network.model), _session(job, runs)
    held_out = job.split.held_out
    comparison = compare_outputs(*sessions, job.batches(held_out, "verify"), job.truth(held_out), _PICTURES)
    _check_errors(runs, comparison)
    _check_other_sizes(job, sessions, comparison)
    return comparison


def loss_on(job: Job, indices: NDArray[np.int64], network: onnx.ModelProto, original: Runnable) -> AccuracyLoss:
    """What a converted network loses on some samples.

    Args:
        job: the conversion.
        indices: of the samples.
        network: in the original's types.
        original: what to compare it with, see `cached_original`.
    """
    session = _session(job, job.network.as_run(network))
    return measure_loss(original, session, job.batches(indices, "judge"), job.truth(indices))


def warn_if_few(job: Job) -> None:
    """Say aloud where not even a network that loses nothing could be told from one that loses more than is allowed."""
    count, allowed = len(job.split.search), job.settings.max_drop or 0.0
    most = share_interval(0, count)[1]
    if most > allowed:
        log.warning(
            "max-drop %g: %d samples to search with tell losses below %.2g from none badly: add samples",
            allowed, count, most,
        )  # fmt: skip


def verified_loss(job: Job, file: Path, original: Runnable) -> AccuracyLoss:
    """The loss of what a search found, on samples that neither it nor the solver has seen; said aloud where it is more.

    Args:
        job: the conversion.
        file: what was written.
        original: as for `loss_on`.
    """
    drop, allowed = loss_on(job, job.split.held_out, read_model(file), original), job.settings.max_drop or 0.0
    if drop.interval is not None and drop.interval[0] > allowed:
        log.warning("max-drop %g is kept on the samples searched with, but not on others: %s", allowed, drop)
    return drop


def _replaced(job: Job, plan: RankPlan) -> set[str]:
    """Outputs of the nodes that factors take the place of."""
    pairs = zip(job.layers, plan, strict=True)
    return {name for layer, entry in pairs if entry.method != "kept" for name in layer.nodes}


def _session(job: Job, model: onnx.ModelProto) -> Session:
    """A model that also hands out what objects are picked from: what is picked may differ in number.

    Which of many overlapping boxes is best may turn on the last digit, so the boxes themselves are compared.
    """
    have = {value.name for value in model.graph.output} | {tensor.name for tensor in model.graph.initializer}
    read = [name for node in model.graph.node if node.op_type == _PICKS for name in node.input[:2]]
    if more := [name for name in dict.fromkeys(read) if name not in have]:
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)
        model = shown
    return Session(model, job.network.provider)


def _check_errors(written: onnx.ModelProto, comparison: Comparison) -> None:
    for name, fidelity in comparison.outputs.items():
        # Numbers that count or name something may be far off by size and yet be right as often as can be.
        if name in _float_outputs(written) and not fidelity.relative_error <= WORST_ERROR:
            raise VerificationError(
                f"output '{name}': relative error {fidelity.relative_error:.3g} on {comparison.images} held-out "
                f"samples, at most {WORST_ERROR:g} is wanted: lower `speedup` or add samples; nothing was written"
            )


def _float_outputs(model: onnx.ModelProto) -> set[str]:
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.UNDEFINED}
    return {value.name for value in model.graph.output if value.type.tensor_type.elem_type in kinds}


def _check_other_sizes(job: Job, sessions: tuple[Runnable, Runnable], comparison: Comparison) -> None:
    """Where axes are open, see that shapes and types are the original's at other sizes too, if it takes them."""
    for feeds in _other_sizes(job):
        shapes = {name: values.shape for name, values in feeds.items()}
        try:
            wanted = sessions[0].run(feeds)
        except ModelError:
            log.debug("the original network does not take inputs of shape %s", shapes)
            continue
        try:
            found = sessions[1].run(feeds)
        except ModelError as error:
            raise VerificationError(f"written model: fails on inputs of shape {shapes}: {error}") from error
        for name in comparison.outputs:
            before, after = ((each[name].shape, each[name].dtype) for each in (wanted, found))
            if before != after:
                raise VerificationError(
                    f"output '{name}': {after} on inputs of shape {shapes}, the original network makes {before}"
                )


def _other_sizes(job: Job) -> list[Feeds]:
    """A batch twice as long, and open axes that are longer; only what differs from the sizes that are known."""
    found: list[Feeds] = []
    for twice, longer in ((True, 0), (False, _LONGER)):
        feeds = {}
        for spec in job.network.sampled:
            values = job.one_batch[spec.name]
            by = [longer if axis else twice * len(values) for axis in range(values.ndim)]
            more = [(0, 0 if size else each) for size, each in zip(spec.shape, by, strict=True)]
            feeds[spec.name] = np.pad(values, more, mode="wrap") if more else values
        if any(values.shape != job.one_batch[name].shape for name, values in feeds.items()):
            samples = len(next(iter(feeds.values())))
            constants = {spec.name: spec.constant(samples) for spec in job.samples.constants}
            found.append(feeds | constants)
    return found
