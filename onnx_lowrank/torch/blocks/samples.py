"""What a block is trained on: its inputs as the converted network delivers them, and the original's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_lowrank.graph.blocks import Block
from onnx_lowrank.torch.blocks.segment import Prefix
from onnx_lowrank.torch.module.sizes import sizes
from onnx_lowrank.torch.module.to_module import MAX_NUMBERS, Value

# Numbers of the largest tensor in a step: maps with many positions say much in few samples.
_STEP_ELEMENTS = 2**19
_MAX_STEP_SAMPLES = 64


class BlockBatch(NamedTuple):
    """Tensors of some samples: what the block reads, sizes among them, and what the original computes in its place."""

    inputs: list[Value]
    targets: list[Tensor]


class BlockSamples:
    """Samples of a block, by the batches they went through the network in.

    Args:
        block: the block.
        order: names of its inputs in the order in which they are wanted.
        before: the samples before the block in the converted network.
        behind: the samples behind it in the original.
        numbers: of the batches to use.
        device: where tensors are wanted.
    """

    def __init__(
        self,
        block: Block,
        order: Sequence[str],
        before: Prefix,
        behind: Prefix,
        numbers: Sequence[int],
        device: torch.device,
    ) -> None:
        self._block, self._order, self._device = block, order, device
        self._before, self._behind, self._numbers = before, behind, numbers
        inputs, targets = self._arrays(numbers[0])
        counts = {array.shape[:1] for array in (*inputs, *targets)}
        # Integers may be sizes that were computed from the batch, and belong to it as a whole.
        is_divisible = len(counts) == 1 and all(array.dtype.kind == "f" for array in inputs)
        self._rows = len(targets[0]) if is_divisible and targets[0].ndim else None
        self._elements: int = max(prod(array.shape[1:]) for array in (*inputs, *targets))  # of a sample

    def all(self) -> Iterator[BlockBatch]:
        """Iterate over all batches."""
        return (self._batch([number], None) for number in self._numbers)

    def steps(self, generator: np.random.Generator) -> Iterator[BlockBatch]:
        """Iterate over the samples of one training step after the other, without end."""
        size = self.step_samples
        while True:
            shuffled = [int(number) for number in generator.permutation(self._numbers)]
            if self._rows is None:
                yield from (self._batch([number], None) for number in shuffled)
            elif size >= self._rows:
                yield from (self._batch(group, None) for group in _parts(shuffled, size // self._rows))
            else:
                for number in shuffled:
                    rows = generator.permutation(len(self._arrays(number)[1][0]))
                    yield from (self._batch([number], part) for part in _parts(rows, size))

    @property
    def step_samples(self) -> int:
        """Samples of a training step, at least 1."""
        return min(_MAX_STEP_SAMPLES, max(1, _STEP_ELEMENTS // self._elements))

    def _batch(self, numbers: Iterable[int], rows: NDArray[Any] | None) -> BlockBatch:
        """Return the tensors of batches one behind the other, or some rows of one batch."""
        columns = [zip(*each, strict=True) for each in zip(*map(self._arrays, numbers), strict=True)]
        inputs, targets = ([_joined(arrays, rows) for arrays in column] for column in columns)
        return BlockBatch([self._value(array) for array in inputs], [self._tensor(array) for array in targets])

    def _value(self, array: NDArray[Any]) -> Value:
        """Return an input as the block takes it: small arrays of integers as sizes."""
        is_sizes = array.dtype.kind in "iu" and array.size <= MAX_NUMBERS
        return sizes(array.tolist()) if is_sizes else self._tensor(array)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        array = array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _arrays(self, number: int) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        """Return inputs and targets of a batch."""
        inputs = self._before.arrays(number, self._order)
        targets = self._behind.arrays(number, self._block.compared)
        return [inputs[name] for name in self._order], [targets[name] for name in self._block.compared]


def _joined(arrays: Sequence[NDArray[Any]], rows: NDArray[Any] | None) -> NDArray[Any]:
    """Return the arrays of several batches one behind the other, or some rows of one."""
    array = np.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    return array if rows is None else np.asarray(array[rows])


def _parts(sequence: Any, size: int) -> Iterator[Any]:
    """Cut a list or an array into parts of a size; the last may be smaller."""
    return (sequence[start : start + size] for start in range(0, len(sequence), size))
