"""Tensors that differ between two runs of one batch, because the network draws random numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.graph.draws import drawn_tensors
from onnx_lowrank.graph.extract import extract
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session

_RUNS = 3  # a few draws, of single numbers for example, may be the same twice


def random_tensors(
    model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], tensors: Iterable[str], provider: Provider
) -> dict[str, str]:
    """Return those of some tensors that differ from run to run, each with the name of a node that draws.

    Costs nothing where no node draws.

    Args:
        model: the network.
        feeds: one batch of inputs; zeros are replaced by ones, as Dropout leaves zeros alone.
        tensors: names of inner tensors or outputs.
        provider: where to run.

    Raises:
        ModelError: onnxruntime cannot run the model.
    """
    drawn = drawn_tensors(model)
    suspects = {name: drawn[name] for name in tensors if name in drawn}
    if not suspects:
        return {}
    feeds = {name: values if values.any() else np.ones_like(values) for name, values in feeds.items()}
    inputs = [value for value in model.graph.input if value.name in feeds]
    outputs = [onnx.ValueInfoProto(name=name) for name in suspects]
    session = Session(extract(model, inputs, outputs), provider)
    first = session.run(feeds)
    differ = set[str]()
    for _ in range(_RUNS - 1):
        again = session.run(feeds)
        differ |= {name for name in suspects if not _same(first[name], again[name])}
    return {name: source for name, source in suspects.items() if name in differ}


def _same(one: Any, other: Any) -> bool:
    """Return whether two outputs are the same; NaN is the same as NaN."""
    if isinstance(one, np.ndarray) and one.dtype != object:
        return bool(one.shape == other.shape and one.tobytes() == other.tobytes())
    return repr(one) == repr(other)
