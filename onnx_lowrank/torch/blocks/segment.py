"""The samples on their way through a network, block by block, in onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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

    def block_model(self, model: onnx.ModelProto, block: Block) -> onnx.ModelProto:
        """Return the part of a network that computes a block's new outputs from where the samples are.

        Args:
            model: the network.
            block: the next block.
        """
        types = {name: onnx.helper.np_dtype_to_tensor_dtype(kind) for name, kind in self.cache.types.items()}
        inputs = [onnx.helper.make_tensor_value_info(name, types[name], None) for name in block.inputs]
        return extract(model, inputs, [onnx.ValueInfoProto(name=name) for name in block.made])

    def advance(self, model: onnx.ModelProto, block: Block) -> None:
        """Run a block, and go on behind it.

        Args:
            model: the network.
            block: the next block.
        """
        session = Session(self.block_model(model, block), self._provider, name=f"block that ends in '{block.made[0]}'")
        taken = [spec.name for spec in session.inputs]
        for number in range(len(self.cache)):
            outputs = session.run(self.arrays(number, taken))
            self.cache.advance(number, block.outputs, outputs)

    def arrays(self, number: int, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return tensors of a batch by name."""
        return cast("dict[str, NDArray[Any]]", self.cache.read(number, names))  # arrays, as none stay on a device

    def close(self) -> None:
        """Delete what is on the disk."""
        self.cache.close()
