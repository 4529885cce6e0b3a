"""Reports and figures to make pages of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_lowrank.layers.factors import SolveErrors
from onnx_lowrank.layers.plan import LayerPlan
from onnx_lowrank.report import LayerReport, Report, ReportFigures
from onnx_lowrank.verify import ExamplePrediction
from tests.report.test_report import LAYER, REPORT


def sample(
    number: int, *, agree: bool, size: tuple[int, ...] = (12, 12), probabilities: bool = False
) -> ExamplePrediction:
    """A picture of a ramp."""
    pixels = np.resize(np.arange(256, dtype=np.uint8), size)
    scores = ((3, 0.75), (1, 0.2), (0, 0.05)) if probabilities else ((3, 4.625), (1, 1.25), (0, -0.5))
    other = scores if agree else (scores[1], scores[0], scores[2])
    return ExamplePrediction(number, pixels, scores, other, probabilities)


def curve(ranks: int = 64) -> np.ndarray:
    """Energies that go up fast, then slowly."""
    return 1 - np.linspace(1, 0, ranks + 1) ** 3


SAMPLES = (sample(4, agree=False), sample(9, agree=False), sample(1, agree=True, size=(80, 100, 3)))
FIGURES = ReportFigures({"c1": (64, 32, 3, 3)}, {"c1": curve()}, (80_000, 40_000), SAMPLES)


def deep(count: int, name: str = "stage/{}/Conv") -> tuple[Report, ReportFigures]:
    """A report of many layers; the last one of several is kept."""
    layers = []
    for number in range(count):
        kept = count > 1 and number == count - 1
        plan = LayerPlan(name.format(number), "kept") if kept else LayerPlan("", "channel", 8 + number % 16, None, 0.9)
        errors = None if kept else SolveErrors(0.02 * (number % 7 + 1), 0.01 * (number % 7 + 1))
        macs = LAYER.macs if kept else LAYER.macs // (2 + number % 3)
        layer = LayerReport.of_planned(LAYER, plan, macs, errors, (2.0, 1.0) if number % 2 else None)
        layers.append(replace(layer, name=name.format(number)))
    kernels = {layer.name: (64, 32, 3, 3) for layer in layers}
    curves = {layer.name: curve() for layer in layers}
    return replace(REPORT, layers=tuple(layers)), replace(FIGURES, kernels=kernels, energies=curves)
