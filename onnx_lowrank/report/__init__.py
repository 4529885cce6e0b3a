"""Numbers of a conversion, for people and for scripts."""

from onnx_lowrank.report.report import Calibration, LayerReport, Report

__all__ = ["Calibration", "LayerReport", "Report"]
