"""ModelProto + Factors -> ModelProto, and onto the disk."""

from onnx_lowrank.rewrite.replace_layer import replace_layer
from onnx_lowrank.rewrite.write import check_writable, set_metadata, staged

__all__ = ["check_writable", "replace_layer", "set_metadata", "staged"]
