"""The metric that epochs are chosen by, measured on the network as it would be written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from torch import Tensor

from onnx_lowrank.calibrate import default_batch, iterate_batches
from onnx_lowrank.calibrate.metric_samples import metric_samples
from onnx_lowrank.metrics import Measured, Metric
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.torch.module.from_module import from_torch
from onnx_lowrank.torch.training.dataset import MAX_HELD_OUT, DistillationData
from onnx_lowrank.verify import MetricJudge
from onnx_lowrank.verify.comparable import open_comparable
from onnx_lowrank.verify.conversion import predictor_of


@dataclass(frozen=True, eq=False)
class EpochJudge:
    """Measures a network between epochs by a metric, in onnxruntime.

    Attributes:
        judge: has the metric and the held-out samples.
        network: the converted network before the training.
        converted: it as the user gave it, which trained weights are written into.
    """

    judge: MetricJudge
    network: Network
    converted: str | Path | onnx.ModelProto

    def measure(self, weights: Mapping[str, Tensor]) -> Measured:
        """Measure the network with other weights.

        Args:
            weights: of the trained module.

        Raises:
            CalibrationError: the metric fails.
        """
        model = self.network.as_run(from_torch(weights, self.converted))
        return self.judge.measure(predictor_of(self.network, open_comparable(model, self.network.provider)))


def epoch_judge(
    metric: Metric,
    networks: tuple[Network, Network],
    converted: str | Path | onnx.ModelProto,
    dataset: DistillationData,
) -> EpochJudge:
    """Measure the original by a metric, on the held-out samples as they are, neither flipped nor shifted.

    Args:
        metric: the measure.
        networks: the original and the converted network.
        converted: the latter as the user gave it.
        dataset: has the held-out samples.

    Raises:
        CalibrationError: the metric fails, there is no truth for it, or it returns no scores.
    """
    original, network = networks
    samples, step = dataset.validation, dataset.fixed_batch or 1
    usable = samples.usable(dataset.held_out[:MAX_HELD_OUT])
    indices = usable[: len(usable) // step * step]
    batch_size = dataset.fixed_batch or default_batch(original.sampled, original.provider.batch_elements)

    def batches() -> Iterator[dict[str, NDArray[Any]]]:
        return iterate_batches(samples, indices, batch_size)

    runs = open_comparable(original.model, original.provider, original.name)
    judged_on = metric_samples(samples, indices, batches)
    return EpochJudge(MetricJudge(metric, predictor_of(original, runs), judged_on), network, converted)
