"""The samples on their way through a network, block by block, in onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate.activation_cache import ActivationCache
from onnx_lowrank.graph.blocks import Block
from onnx_lowrank.graph.extract import extract
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session

Arrays = Mapping[str, NDArray[Any]]


class Prefix:
    """The samples at the place in a network at which they have arrived.

    Args:
        batches: the network's inputs.
        provider: where it runs.
        max_bytes: of tensors in memory; others go to the disk.

    Attributes:
        cache: the tensors there, by batch.
    """

    def __init__(self, batches: Iterable[Arrays], provider: Provider, max_bytes: int) -> None:
        self.cache = ActivationCache(batches, max_bytes)
        self._provider = provider

    def part(self, model: onnx.ModelProto, inputs: Iterable[str], outputs: Iterable[str]) -> onnx.ModelProto:
        """Return the part of a network that computes tensors from those where the samples are.

        Args:
            model: the network.
            inputs: names of the tensors to begin with.
            outputs: names of the tensors to compute.
        """
        types = {name: onnx.helper.np_dtype_to_tensor_dtype(kind) for name, kind in self.cache.types.items()}
        given = [onnx.helper.make_tensor_value_info(name, types[name], None) for name in inputs]
        return extract(model, given, [onnx.ValueInfoProto(name=name) for name in outputs])

    def run(self, model: onnx.ModelProto, numbers: Iterable[int]) -> Iterator[Arrays]:
        """Run a part of a network on some of the batches where they are, and yield its outputs."""
        session = Session(model, self._provider, name=f"block that ends in '{model.graph.output[0].name}'")
        taken = [spec.name for spec in session.inputs]
        return (session.run(self.arrays(number, taken)) for number in numbers)

    def advance(self, model: onnx.ModelProto, block: Block) -> None:
        """Run a block, and go on behind it.

        Args:
            model: the network.
            block: the next block.
        """
        outputs = self.run(self.part(model, block.inputs, block.made), range(len(self.cache)))
        for number, made in enumerate(outputs):
            self.cache.advance(number, block.outputs, made)

    def arrays(self, number: int, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return tensors of a batch by name."""
        return cast("dict[str, NDArray[Any]]", self.cache.read(number, names))  # arrays, as none stay on a device

    def close(self) -> None:
        """Delete what is on the disk."""
        self.cache.close()
