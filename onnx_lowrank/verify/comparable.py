"""Sessions of models whose outputs are compared.

Where all that comes out is text, sequences or maps, the numbers that these are made of come out too.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnx_lowrank.graph.extract import with_outputs
from onnx_lowrank.graph.index import tensors_read
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session


def open_comparable(
    model: onnx.ModelProto, provider: Provider, name: str = "model", *, in_plugin: bool = False
) -> Session:
    """Open a model so that at least one of its outputs can be compared, if that is possible.

    Text, sequences, maps and optional values have no distance from each other. Where no output is a floating-point
    tensor and some are of these kinds, the nearest floating-point tensors that they are computed from become outputs
    too, such as the scores behind a class name.

    Args:
        model: the model; not changed.
        provider: where it runs.
        name: what to call it in error messages.
        in_plugin: run it in the provider's plugin, if it has one.

    Raises:
        ModelError: onnxruntime cannot load it.
    """
    session = Session(model, provider, name=name, in_plugin=in_plugin)
    hidden = set(session.outputs) - set(session.numeric_outputs)
    if session.floating_outputs or not hidden:
        return session
    producers = {output: node for node in model.graph.node for output in node.output if output}
    tensors = hidden
    while tensors := _read(producers, tensors):
        opened = Session(with_outputs(model, sorted(tensors)), provider, name=name, in_plugin=in_plugin)
        if nearest := tensors & set(opened.floating_outputs):
            return Session(with_outputs(model, sorted(nearest)), provider, name=name, in_plugin=in_plugin)
    return session


def _read(producers: dict[str, onnx.NodeProto], tensors: Iterable[str]) -> set[str]:
    """Return the names of the inner tensors that some tensors are directly computed from."""
    return {name for each in tensors if each in producers for name in tensors_read(producers[each])} & producers.keys()
