"""ModelProto + Factors -> ModelProto, and onto the disk."""

from onnx_lowrank.rewrite.layer_model import input_shape, layer_model
from onnx_lowrank.rewrite.replace_layer import replace_layer
from onnx_lowrank.rewrite.write import check_apart, check_writable, set_metadata, staged, staged_text, write_text

__all__ = [
    "check_apart",
    "check_writable",
    "input_shape",
    "layer_model",
    "replace_layer",
    "set_metadata",
    "staged",
    "staged_text",
    "write_text",
]
