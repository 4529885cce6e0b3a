"""Reports of conversions and sweeps: as JSON for scripts, as Markdown, HTML pages and terminal text for people."""

from onnx_lowrank.report.curve import CurvePoint, CurveReport, with_front
from onnx_lowrank.report.curve_page import curve_to_html, quick_text
from onnx_lowrank.report.figures import ReportFigures
from onnx_lowrank.report.markdown import to_markdown
from onnx_lowrank.report.names import fit_names
from onnx_lowrank.report.page import to_html
from onnx_lowrank.report.report import Calibration, LayerReport, Report
from onnx_lowrank.report.template import check_page_packages
from onnx_lowrank.report.text import (
    curve_notes,
    curve_table,
    estimate_lines,
    headline,
    labelled,
    layer_table,
    short_number,
)

__all__ = [
    "Calibration",
    "CurvePoint",
    "CurveReport",
    "LayerReport",
    "Report",
    "ReportFigures",
    "check_page_packages",
    "curve_notes",
    "curve_table",
    "curve_to_html",
    "estimate_lines",
    "fit_names",
    "headline",
    "labelled",
    "layer_table",
    "quick_text",
    "short_number",
    "to_html",
    "to_markdown",
    "with_front",
]
