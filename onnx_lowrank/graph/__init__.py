"""All that knows ONNX's protobufs: read a model, find its layers, look inside, replace layers, write it."""

from onnx_lowrank.graph.find_layers import find_layers, node_names, weighted_tensors
from onnx_lowrank.graph.inline import inline_functions
from onnx_lowrank.graph.input_statistics import read_input_statistics
from onnx_lowrank.graph.layer_model import input_shape, layer_model
from onnx_lowrank.graph.precision import in_single_precision, is_in_other_precision
from onnx_lowrank.graph.read import read_model
from onnx_lowrank.graph.replace_layer import replace_layer
from onnx_lowrank.graph.write import (
    check_apart,
    check_writable,
    new_folder,
    set_metadata,
    staged,
    staged_text,
    write_text,
    write_texts,
)

__all__ = [
    "check_apart",
    "check_writable",
    "find_layers",
    "in_single_precision",
    "inline_functions",
    "input_shape",
    "is_in_other_precision",
    "layer_model",
    "new_folder",
    "node_names",
    "read_input_statistics",
    "read_model",
    "replace_layer",
    "set_metadata",
    "staged",
    "staged_text",
    "weighted_tensors",
    "write_text",
    "write_texts",
]
