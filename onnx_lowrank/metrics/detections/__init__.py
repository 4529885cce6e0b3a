"""Detectors: the boxes in their outputs."""

from onnx_lowrank.metrics.detections.boxes import Boxes
from onnx_lowrank.metrics.detections.layouts import BOX_FORMS, LAYOUTS, Layout, layouts_as, recognize_layout
from onnx_lowrank.metrics.detections.read import LEAST_SCORE, NMS_OVERLAP, read_boxes

__all__ = [
    "BOX_FORMS",
    "LAYOUTS",
    "LEAST_SCORE",
    "NMS_OVERLAP",
    "Boxes",
    "Layout",
    "layouts_as",
    "read_boxes",
    "recognize_layout",
]
