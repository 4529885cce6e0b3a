"""Numbers of a conversion, for people and for scripts."""

from onnx_lowrank.report.evidence import Evidence
from onnx_lowrank.report.markdown import to_markdown
from onnx_lowrank.report.page import check_page_packages, to_html
from onnx_lowrank.report.report import Calibration, LayerReport, Report
from onnx_lowrank.report.text import headline, layer_table, short_name, short_number

__all__ = [
    "Calibration",
    "Evidence",
    "LayerReport",
    "Report",
    "check_page_packages",
    "headline",
    "layer_table",
    "short_name",
    "short_number",
    "to_html",
    "to_markdown",
]
