"""The report of a conversion in numbers; written as the JSON report that scripts read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.layers.refined_block import RefinedBlock
from onnx_lowrank.layers.warning import ReportWarning
from onnx_lowrank.ranks.estimate import LossEstimate


@dataclass(frozen=True)
class LayerReport:
    """The report on one Conv, ConvTranspose, Gemm or MatMul.

    Attributes:
        name: the layer's name.
        op: ONNX operator.
        method: ``kept``, ``channel``, ``spatial``, ``spatial-channel``, ``input``, ``tucker`` or ``width``.
        reason: why the layer is kept, or why its factors come from the weights alone; None otherwise.
        channel: channel rank, or None.
        spatial: spatial rank, or None.
        macs: multiply-adds per image before and after.
        activation: name of the activation that follows.
        energy: share of the response energy that the ranks keep; 1 for a kept layer.
        errors: relative errors after the activation on calibration samples; None if nothing was solved.
        milliseconds: measured latency before and after; None if it was not measured.
        width: channels of its input that are left, or None.
        input: input rank, or None.
    """

    name: str
    op: str
    method: str
    reason: str | None
    channel: int | None
    spatial: int | None
    macs: tuple[int, int]
    activation: str
    energy: float
    errors: SolveErrors | None
    milliseconds: tuple[float, float] | None = None
    width: int | None = None
    input: int | None = None

    @staticmethod
    def of_skipped(layer: SkippedLayer, macs: int | None = None) -> LayerReport:
        """Return the report on a layer that cannot be factorized.

        Args:
            layer: the layer.
            macs: multiply-adds per image after the conversion; None for as many as before.
        """
        counts = (layer.macs, layer.macs if macs is None else macs)
        return LayerReport(layer.name, layer.op, "kept", layer.reason, None, None, counts, "", 1.0, None)

    @staticmethod
    def of_planned(
        layer: Layer,
        plan: LayerPlan,
        macs: int,
        errors: SolveErrors | None,
        milliseconds: tuple[float, float] | None = None,
        reason: str | None = None,
    ) -> LayerReport:
        """Return the report on a layer that can be factorized.

        Args:
            layer: the original layer.
            plan: its method and ranks.
            macs: multiply-adds per image after the conversion.
            errors: relative errors after the activation; None if nothing was solved.
            milliseconds: measured latency before and after; None if it was not measured.
            reason: why its factors come from the weights alone; None if they were solved as asked for.
        """
        if plan.method == "kept":
            reason = plan.reason or "keeping it is the best use of the budget"
        return LayerReport(
            layer.name,
            layer.op,
            plan.method,
            reason,
            plan.channel,
            plan.spatial,
            (layer.macs, macs),
            layer.activation.name,
            plan.energy,
            errors,
            milliseconds,
            plan.width,
            plan.input,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of ``layers`` in the JSON report."""
        errors = self.errors or SolveErrors(0.0, 0.0)
        before, after = self.milliseconds or (None, None)
        return {
            "name": self.name,
            "op": self.op,
            "method": self.method,
            "reason": self.reason,
            "ranks": {"channel": self.channel, "spatial": self.spatial, "input": self.input},
            "width": self.width,
            "macs": {"before": self.macs[0], "after": self.macs[1]},
            "activation": self.activation,
            "energy": self.energy,
            "error": {"linear": errors.linear, "solved": errors.solved},
            "latency_ms": {"before": before, "after": after},
        }


@dataclass(frozen=True)
class Calibration:
    """Calibration data of a conversion.

    Attributes:
        source: description of the data.
        synthetic: whether the samples were generated because no data were given.
        images: number of samples.
        positions_per_image: positions drawn per sample and layer, at most.
        provider: execution provider that ran the networks.
        preprocessing: the formula that made inputs of pixels; None where the data are no images.
    """

    source: str
    synthetic: bool
    images: int
    positions_per_image: int
    provider: str
    preprocessing: str | None = None


@dataclass(frozen=True)
class Report:
    """The results of a conversion; field by field its JSON report.

    Attributes:
        version: of this package.
        seed: of all randomness.
        input: path of the original, or ``<model>`` for one in memory.
        output: path of the written model, or None.
        requested: the requested speedup; None if a plan or a maximum loss was given.
        macs: multiply-adds per image before and after.
        parameters: weights and biases of all counted layers before and after.
        calibration: data, positions and provider.
        layers: every Conv, ConvTranspose, Gemm and MatMul, in graph order.
        verification: number of held-out images and fidelity by output, whether that is ``close`` included; None for a
            dry run.
        forward_passes: passes of the original and of the converted network over the calibration set.
        seconds: by stage, and in ``total``.
        peak_memory_bytes: peak resident memory of the process.
        latency: milliseconds before and after, speedup with bounds, batch size and threads; None if not measured.
        max_drop: the allowed loss, the loss of the result and all trials of the search; None if a speedup was given.
        file_bytes: sizes of the original and the converted file, with external data; None where nothing was written.
        warnings: outputs that are not close to the original, targets that were not reached, layers that run slower;
            each with what to do.
        limits: what outputs were judged by, see `onnx_lowrank.verify.fidelity.limits`.
        predicted_error: of the outputs, by what rank selection measured, see `onnx_lowrank.ranks.estimate`; None where
            ranks were selected by energy.
        estimates: what other speedups would lose; for a dry run only.
        preview: whether it was a first look, which loses more than a conversion.
        metric: of the original and the converted network, as `onnx_lowrank.metrics.Measured` has it; None where none
            was asked for.
        blocks: of layers that were trained together; none without ``refine`` `full`.
        weighting: ``outputs`` where errors in channels count by what the outputs feel of them, else ``none``.
    """

    version: str
    seed: int
    input: str
    output: str | None
    requested: float | None
    macs: tuple[int, int]
    parameters: tuple[int, int]
    calibration: Calibration
    layers: tuple[LayerReport, ...]
    verification: dict[str, Any] | None
    forward_passes: dict[str, float]
    seconds: dict[str, float]
    peak_memory_bytes: int
    latency: dict[str, Any] | None = None
    max_drop: dict[str, Any] | None = None
    file_bytes: tuple[int | None, int | None] = (None, None)
    warnings: tuple[ReportWarning, ...] = ()
    limits: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    predicted_error: float | None = None
    estimates: tuple[LossEstimate, ...] = ()
    preview: bool = False
    metric: dict[str, Any] | None = None
    blocks: tuple[RefinedBlock, ...] = ()
    weighting: str = "none"

    @property
    def passed(self) -> bool | None:
        """Whether the network was verified and there is nothing to warn of; None where it was not, after a dry run."""
        return None if self.verification is None else not self.warnings

    @property
    def speedup(self) -> float:
        """Original / converted multiply-adds."""
        return self.macs[0] / max(1, self.macs[1])

    @property
    def parameter_ratio(self) -> float:
        """Original / converted parameters."""
        return self.parameters[0] / max(1, self.parameters[1])

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON report as a dictionary."""
        return {
            "schema": 1,
            "version": self.version,
            "seed": self.seed,
            "input": self.input,
            "output": self.output,
            "speedup": {
                "requested": self.requested,
                "macs": self.speedup,
                "params": self.parameter_ratio,
                "latency": None if self.latency is None else self.latency["speedup"],
            },
            "macs": {"before": self.macs[0], "after": self.macs[1]},
            "params": {"before": self.parameters[0], "after": self.parameters[1]},
            "bytes": {"before": self.file_bytes[0], "after": self.file_bytes[1]},
            "calibration": vars(self.calibration),
            "layers": [layer.to_dict() for layer in self.layers],
            "verification": self.verification,
            **latency_fields(self.latency),
            "max_drop": self.max_drop,
            **({} if self.metric is None else {"metric": self.metric}),
            "warnings": [warning.to_dict() for warning in self.warnings],
            "passed": self.passed,
            "limits": self.limits,
            "predicted_error": self.predicted_error,
            "estimates": [estimate.to_dict() for estimate in self.estimates],
            "preview": self.preview,
            "weighting": self.weighting,
            **({"blocks": [block.to_dict() for block in self.blocks]} if self.blocks else {}),
            "forward_passes": self.forward_passes,
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }

    def to_json(self) -> str:
        """Return the JSON report as text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def latency_fields(latency: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields ``latency`` and ``runtime`` of a JSON report, both None where nothing was measured."""
    if latency is None:
        return {"latency": None, "runtime": None}
    rest = {key: value for key, value in latency.items() if key != "runtime"}
    return {"latency": rest, "runtime": latency.get("runtime")}
