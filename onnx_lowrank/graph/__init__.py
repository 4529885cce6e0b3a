"""ONNX graphs: everything that knows protobufs.

| file                | does                                                                                       |
|---------------------|--------------------------------------------------------------------------------------------|
| read, order         | read a model; sort its nodes                                                               |
| inline              | inline a model's own functions that contain layers                                         |
| precision           | convert a network to float32 to run it                                                     |
| tensors             | values of tensors, in the model and in files                                               |
| index               | which node makes a tensor, which nodes read it, which tensors are constant                 |
| find_layers         | the layers that can be factorized, and why the others cannot                               |
| work                | multiply-adds and parameters of what stays                                                 |
| stored              | where the file holds weights, and which nodes share them                                   |
| tensor_axes         | how many axes tensors have, and which have size 1                                          |
| channel_members     | operators that keep channels apart                                                         |
| channel_graph       | a graph as walks along channels see it, and the tensors and nodes around a group of them   |
| channel_walk        | what makes, carries and reads the channels of a tensor, or what else depends on them       |
| channel_groups      | the channels that a layer reads and may leave out, or why all of them stay                 |
| joined_channels     | which channels of a tensor come through Concat, Split and Slice                            |
| narrow              | leave channels of a group out                                                              |
| fold                | fold BatchNormalization, bias and scale after a layer into its weight and bias             |
| activations         | recognize the activation after a layer; its function is in layers/activation.py            |
| value_sizes         | tensors whose size depends on the values of the inputs                                     |
| eligible            | leave out layers that do not pay or that the user excludes                                 |
| parameter_inputs    | inputs that are weights, and constants in their places                                     |
| input_statistics    | statistics of the first convolution's responses                                            |
| extract             | a part of a model as a model, further outputs, removal of what nothing reads               |
| draws               | nodes that draw random numbers; Dropout that onnxruntime takes out                         |
| builder             | new nodes, built with onnx-graphsurgeon                                                    |
| typed_factors       | factors in a layer's float type, balanced where half precision needs it                    |
| replace_layer       | put a chain into the model where a layer was                                               |
| layer_model         | a layer, or several side by side, as a model, to be timed                                  |
| publication         | files that become final together, or not at all; what killed processes have left           |
| write               | write models and texts; checks before                                                      |

What the rest of the package needs most is re-exported here; lookups and cuts are imported from `index`, `extract` and
`tensors`.
"""

from onnx_lowrank.graph.channels_last import affine_before_transpose
from onnx_lowrank.graph.extract import with_outputs
from onnx_lowrank.graph.find_layers import find_depthwise, find_layers, node_names, weighted_tensors
from onnx_lowrank.graph.inline import inline_all_functions, inline_functions
from onnx_lowrank.graph.input_statistics import read_input_statistics
from onnx_lowrank.graph.layer_model import Part, input_shape, layer_model, layers_model
from onnx_lowrank.graph.narrow import narrow_channels
from onnx_lowrank.graph.parameter_inputs import parameter_inputs, with_values
from onnx_lowrank.graph.precision import in_single_precision, is_in_other_precision
from onnx_lowrank.graph.publication import Publication
from onnx_lowrank.graph.read import input_names, read_model
from onnx_lowrank.graph.replace_layer import replace_layer
from onnx_lowrank.graph.sample_axes import inner_name, named_sample_axes, with_samples_first, with_samples_on_scores
from onnx_lowrank.graph.typed_factors import rounding_loss
from onnx_lowrank.graph.work import counted_tensors
from onnx_lowrank.graph.write import (
    add_texts,
    check_apart,
    check_not_read,
    check_writable,
    new_folder,
    set_metadata,
    staged,
    staged_file,
    write_model,
    write_texts,
)

__all__ = [
    "Part",
    "Publication",
    "add_texts",
    "affine_before_transpose",
    "check_apart",
    "check_not_read",
    "check_writable",
    "counted_tensors",
    "find_depthwise",
    "find_layers",
    "in_single_precision",
    "inline_all_functions",
    "inline_functions",
    "inner_name",
    "input_names",
    "input_shape",
    "is_in_other_precision",
    "layer_model",
    "layers_model",
    "named_sample_axes",
    "narrow_channels",
    "new_folder",
    "node_names",
    "parameter_inputs",
    "read_input_statistics",
    "read_model",
    "replace_layer",
    "rounding_loss",
    "set_metadata",
    "staged",
    "staged_file",
    "weighted_tensors",
    "with_outputs",
    "with_samples_first",
    "with_samples_on_scores",
    "with_values",
    "write_model",
    "write_texts",
]
