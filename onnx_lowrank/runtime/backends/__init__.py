"""Runtimes that networks are timed in, each behind the same protocol.

| file                                             | does                                                              |
|--------------------------------------------------|-------------------------------------------------------------------|
| protocol                                         | what all of them can do                                           |
| registry                                         | open one by its name, or say how to install it                    |
| onnxruntime, openvino, ncnn, mnn, litert, tensorrt | one runtime each, with the converter that its makers offer      |
| fixed_shapes                                     | a model whose inputs have the shapes that it is fed               |
| converter                                        | run a converter as a program of its own, which dies with this one |
| foreign_errors                                   | what other libraries raise, as our error                          |
| native_output                                    | what libraries print past Python                                  |
| staging                                          | a folder for what converters write, which vanishes                |
"""

from onnx_lowrank.runtime.backends.protocol import Prepared, Running, Runtime, RuntimeFacts
from onnx_lowrank.runtime.backends.registry import open_runtime

__all__ = ["Prepared", "Running", "Runtime", "RuntimeFacts", "open_runtime"]
