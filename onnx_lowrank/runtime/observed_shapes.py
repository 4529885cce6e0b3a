"""Shapes of inner tensors, observed by running the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnx_lowrank.graph.extract import extract
from onnx_lowrank.graph.index import probe_name
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session


def observe_shapes(
    model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], tensors: Sequence[str], provider: Provider
) -> dict[str, tuple[int, ...]]:
    """Run a model once and return the shapes of its tensors: shape inference may not know them.

    Args:
        model: the network.
        feeds: one batch of inputs.
        tensors: names of inputs and inner tensors.
        provider: where to run.

    Returns:
        Shape by tensor name, in the order of ``tensors``.

    Raises:
        ModelError: onnxruntime cannot load or run the model.
    """
    return next(observe_all_shapes(model, [feeds], tensors, provider))


def observe_all_shapes(
    model: onnx.ModelProto, batches: Iterable[Mapping[str, NDArray[Any]]], tensors: Sequence[str], provider: Provider
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Run a model on one batch after the other and yield the shapes of its tensors; see `observe_shapes`."""
    session: Session | None = None
    for feeds in batches:
        shapes = {name: value.shape for name, value in feeds.items()}
        probes = {name: probe_name(name, "shape") for name in tensors if name not in shapes}
        if probes:
            session = session or _open(model, feeds, probes, provider)
            values = session.run(feeds)
            shapes |= {name: tuple(int(size) for size in values[probe]) for name, probe in probes.items()}
        yield {name: shapes[name] for name in tensors}


def _open(
    model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], probes: Mapping[str, str], provider: Provider
) -> Session:
    """Open the part of a model that returns the shapes of tensors under other names."""
    nodes = [onnx.helper.make_node("Shape", [name], [probe]) for name, probe in probes.items()]
    outputs = [onnx.helper.make_tensor_value_info(probe, TensorProto.INT64, None) for probe in probes.values()]
    inputs = [value for value in model.graph.input if value.name in feeds]
    # Optimized, a shape that the graph promises would be taken for granted.
    return Session(extract(model, inputs, outputs, nodes), provider, optimized=False)
