"""Look at models without changing them: what could be factorized, and how close two models are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from onnx_lowrank.calibrate import (
    Preprocessing,
    collect_targets,
    default_batch,
    draw_samples,
    iterate_batches,
    open_samples,
    preset,
)
from onnx_lowrank.eligible import leave_narrow_groups
from onnx_lowrank.errors import CalibrationError, ModelError
from onnx_lowrank.job import prepare_job
from onnx_lowrank.layer import Layer, SkippedLayer
from onnx_lowrank.prepare import open_network
from onnx_lowrank.progress import Progress, Silent
from onnx_lowrank.ranks import ranks_keeping, response_energies
from onnx_lowrank.runtime import Session, choose_provider
from onnx_lowrank.settings import Settings
from onnx_lowrank.verify import Comparison, compare_outputs

SHARES = (0.9, 0.95, 0.99, 0.999)  # of the energy, whose ranks are said


@dataclass(frozen=True)
class Inspection:
    """What a model is made of.

    Attributes:
        rows: every Conv, Gemm and MatMul in the order of the graph: those that can be factorized as `Layer`, all
            others as `SkippedLayer` with the reason.
        energies: by layer name the share of its responses' energy that each channel rank keeps, shape
            (d / groups + 1,), where that was asked for.
        source: of the samples that energies come from; None where they were not asked for.
    """

    rows: tuple[Layer | SkippedLayer, ...]
    energies: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    source: str | None = None

    @property
    def macs(self) -> int:
        """Multiply-adds per image."""
        return sum(row.macs for row in self.rows)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum(row.parameters for row in self.rows)

    def ranks(self, name: str) -> dict[float, int] | None:
        """The channel ranks, of each group, that keep `SHARES` of a layer's energy; None where it was not looked at."""
        energies = self.energies.get(name)
        return None if energies is None else dict(zip(SHARES, ranks_keeping(energies, SHARES), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``inspect --json``; with energies also their source, and the ranks that keep shares of them."""
        found: dict[str, Any] = {"macs": self.macs, "params": self.parameters, "layers": list(map(_row, self.rows))}
        if self.source is None:
            return found
        for row in found["layers"]:
            ranks = self.ranks(row["name"])
            row["energy_ranks"] = None if ranks is None else {f"{share:g}": rank for share, rank in ranks.items()}
        return found | {"source": self.source}


def inspect(  # noqa: PLR0913  (the options of the command, each with its default)
    model: str | Path | onnx.ModelProto,
    *,
    energy: bool = False,
    data: Any = None,
    preprocessing: Preprocessing | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    provider: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    constant_inputs: Mapping[str, Sequence[float]] | None = None,
) -> Inspection:
    """List what can be factorized, and for everything else why not.

    Args:
        model: path of an ONNX file, or a model.
        energy: run it on samples and see how much of every layer's response its leading directions hold.
        data: sample inputs for that, as for `onnx_lowrank.convert`; None for made-up images.
        preprocessing: of images; pixels / 255 if not given.
        samples: how many; None for as many as a conversion takes.
        batch_size: samples per forward pass.
        seed: of the drawing of samples and positions.
        provider: where it runs.
        threads: of onnxruntime.
        progress: watches the pass.
        input_shapes: shape by input name, where the model leaves axes open.
        constant_inputs: numbers by name of the inputs that zeros will not do for.

    Raises:
        ModelError: it cannot be read or run, an axis is open, or no layer has energies to look at.
        CalibrationError: the data cannot be used.
    """
    if energy:
        shapes, constants = input_shapes or {}, constant_inputs or {}
        settings = Settings(
            samples=samples, batch_size=batch_size, seed=seed, provider=provider, threads=threads, method="channel",
            input_shapes=shapes, constant_inputs=constants,
        )  # fmt: skip
        return _with_energies(model, data, settings, preprocessing or preset("zero-one"), progress or Silent())
    network = open_network(model, choose_provider("cpu"), input_shapes or {}, constant_inputs)
    layers, skipped = leave_narrow_groups(*network.layers(network.zeros()))
    every: list[Layer | SkippedLayer] = [*layers, *skipped]
    return Inspection(tuple(network.in_order(every)))


def _with_energies(
    model: str | Path | onnx.ModelProto,
    data: Any,
    settings: Settings,
    preprocessing: Preprocessing,
    progress: Progress,
) -> Inspection:
    """One pass over the samples that a conversion would be calibrated with."""
    with threadpool_limits(settings.threads):
        job = prepare_job(model, data, settings, preprocessing, progress)
        batches, network = job.batches(job.split.calibration, "collect"), job.network
        targets = collect_targets(network.model, job.layers, job.positions, batches, network.provider)
        energies = {each.name: response_energies(each, targets[each.name].responses) for each in job.layers}
    source = f"{len(job.split.calibration)} samples of {job.samples.source}"
    return Inspection(tuple(network.in_order(job.every_layer)), energies, source)


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
) -> Comparison:
    """Fidelity of model B to model A on data, and the accuracy of both.

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

    Raises:
        ModelError: a model cannot be read or run, a tensor is unknown, or the models do not take the same inputs.
        CalibrationError: there are no data, they cannot be used, or have no class folders to take labels from.
    """
    where = choose_provider(provider, threads)
    networks = [open_network(model, where, input_shapes or {}, constant_inputs) for model in (a, b)]
    first, second = networks
    if first.inputs != second.inputs:
        raise ModelError(f"compare: {first.name} takes {list(first.inputs)}, {second.name} {list(second.inputs)}")
    if data is None:
        raise CalibrationError(
            "data: none given, sample inputs are wanted: pass --data with a folder of images, .npy, .npz, .zip or .tar"
        )
    opened = open_samples(data, first.inputs, preprocessing or preset("zero-one"))
    if labels and opened.labels is None:
        raise CalibrationError(f"data {opened.source}: no class folders, which --labels reads: drop --labels")
    batch_size = batch_size or default_batch(first.sampled, where.batch_elements)
    chosen, batch_size = draw_samples(opened, first.sampled, np.random.default_rng(seed), samples, batch_size)
    sessions = [Session(_with_outputs(each.model, tensors, each.name), where, name=each.name) for each in networks]
    total = -(-len(chosen) // batch_size)
    batches = (progress or Silent()).track(iterate_batches(opened, chosen, batch_size), "compare", total)
    truth = opened.labels[chosen] if labels and opened.labels is not None else None
    return compare_outputs(sessions[0], sessions[1], batches, truth)


def _with_outputs(model: onnx.ModelProto, tensors: Sequence[str], name: str) -> onnx.ModelProto:
    """The model with inner tensors among its outputs."""
    known = {output for node in model.graph.node for output in node.output}
    have = {value.name for value in model.graph.output}
    for tensor in tensors:
        if tensor not in known:
            raise ModelError(f"--tensor '{tensor}': {name} has no such tensor: name one that both graphs have")
    extra = [onnx.ValueInfoProto(name=tensor) for tensor in dict.fromkeys(tensors) if tensor not in have]
    model.graph.output.extend(extra)
    return model


def _row(row: Layer | SkippedLayer) -> dict[str, Any]:
    common = {"name": row.name, "op": row.op, "macs": row.macs, "params": row.parameters}
    if isinstance(row, SkippedLayer):
        return common | {"eligible": False, "reason": row.reason}
    return common | {
        "eligible": True,
        "reason": None,
        "activation": row.activation.name,
        "shape": list(row.weight.shape),
        "groups": row.groups,
        "residual": row.residual,
    }
