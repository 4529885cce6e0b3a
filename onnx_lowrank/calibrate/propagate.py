"""Compute the input of one layer after another in the partly converted network, segment by segment.

The tensors at which the conversion has arrived are cached for all calibration batches. To reach the next layer, only
the segment of nodes between them and the layer's input runs. So each node of the converted network runs at most once
per image in any graph: tensors that a residual sum or a concatenation reads later stay in the cache.

Alternatively, the cache stays as it is and the nodes of this segment run again as part of the next one. That is done
where it costs less than keeping the segment's outputs: for outputs that would go to the disk, and for large ones that
are cheap to compute, such as the responses of a first layer, which are often the largest of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate.activation_cache import ActivationCache, Tensor
from onnx_lowrank.calibrate.patch_buffer import PatchBuffer
from onnx_lowrank.calibrate.positions import Ints
from onnx_lowrank.calibrate.taps import (
    clear_outside,
    explained_failures,
    kernel_points,
    patch_indices,
    patch_rows,
    patch_tap,
    response_indices,
    response_tap,
)
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.graph.before_padding import before_padding
from onnx_lowrank.graph.extract import ancestors, extract
from onnx_lowrank.graph.index import tensors_read
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import LARGEST, Patches, not_usable
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session

Batch = dict[str, NDArray[Any]]

_DISK_BYTES_PER_SECOND = 5e8  # written or read; a little slow for today's disks
_MEMORY_BYTES_PER_SECOND = 5e8  # kept; memory is faster than that, but other programs may need it
_MAX_PASSES = 1.05  # of the network, where segments run again only to save memory


@dataclass(frozen=True, eq=False)
class _Segment:
    """The part of the network between the cached tensors and a layer's input.

    Attributes:
        nodes: its nodes.
        session: runs them and gathers the sampled rows of the layer's input.
        inputs: names of the cached tensors that it reads.
        residual: its output with the sampled rows of the layer's residual; None where that is not known yet.
        keep: names of the tensors, cached or computed by the segment, that the remaining network reads.
    """

    nodes: list[onnx.NodeProto]
    session: Session
    inputs: list[str]
    residual: str | None
    keep: set[str]


class Propagation:
    """The calibration batches on their way through the network, layer by layer.

    Args:
        batches: the calibration inputs, in the order of the images.
        positions: sampled positions of every image by layer name, shape (images, P).
        provider: where segments run.
        max_memory_bytes: of cached tensors and input patches in memory; the rest goes to the disk.
        max_device_bytes: of cached tensors that stay on the provider's device; 0 copies all of them to memory.

    Attributes:
        cache: the cached tensors; the network's inputs at first.
        residual: rows of the last layer's residual as the converted network delivers it, shape (n, d), float32; None
            where there is none, or where it is computed by layers that are converted later.
        node_runs: nodes run so far, times images.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        positions: Mapping[str, Ints],
        provider: Provider,
        max_memory_bytes: int,
        max_device_bytes: int = 0,
    ) -> None:
        # Counted on the inputs: the first axis of an inner tensor need not be that of the samples.
        self._batch_sizes: list[int] = []
        self.cache = ActivationCache(self._counted(batches), max_memory_bytes, max_device_bytes)
        self._on_device = max_device_bytes > 0
        self._positions = positions
        self._provider = provider
        self._buffer: PatchBuffer | None = None
        self._sampled: dict[str, Layer] = {}  # by name, before their padding
        self.residual: NDArray[Any] | None = None
        self.node_runs = 0

    def advance(self, model: onnx.ModelProto, layer: Layer, later: Sequence[Layer]) -> Patches:
        """Run the network up to a layer's input and sample it.

        Args:
            model: the network as converted so far: every layer before ``layer`` is replaced, ``layer`` is not.
            layer: the layer to be solved next.
            later: the layers to be solved after it; the tensors that they need stay in the cache.

        Returns:
            Input patches at the sampled positions, shape (n, c, kh, kw), float32, valid until the next call; on the
            disk if they do not fit into memory.

        Raises:
            CalibrationError: an input is NaN, infinite, or too large to compute with; or the disk is full.
        """
        self._close_buffer()
        layer, *later = self._before_padding(model, [layer, *later])
        segment = self._open_segment(model, layer, later)
        sampled = self._positions[layer.name]
        all_points = kernel_points(layer, sampled)
        self._buffer = PatchBuffer(layer, sampled.size, self.cache)
        start, recompute = 0, False
        delivered: list[NDArray[Any]] = []
        for number, size in enumerate(self._batch_sizes):
            images = slice(start, start + size)
            positions, points = sampled[images], all_points.part(images)
            feeds = {**self.cache.read(number, segment.inputs), **patch_indices(layer, positions, points)}
            if segment.residual is not None:
                feeds |= response_indices(layer, positions)
            started = perf_counter()
            with explained_failures([layer]):
                (rows, *residual), tensors = self._run(segment, feeds, layer)
            seconds = perf_counter() - started
            delivered += [each.reshape(-1, layer.filters).astype(np.float32, copy=False) for each in residual]
            rows = rows.astype(np.float32, copy=False)
            clear_outside(rows, layer, points)
            _check_usable(rows, layer)
            self._buffer.append(rows)
            if number == 0:
                may_run_again = self._may_run_again(model, segment, later)
                recompute = self._should_recompute(segment, tensors, seconds, may_run_again=may_run_again)
            if not recompute:
                self.cache.advance(number, segment.keep, tensors)
            start += size
        self.residual = np.concatenate(delivered) if delivered else None
        self.node_runs += len(segment.nodes) * start
        return self._buffer.patches

    def close(self) -> None:
        """Release the cached tensors and the patches."""
        self._close_buffer()
        self.cache.close()

    def _before_padding(self, model: onnx.ModelProto, layers: Sequence[Layer]) -> list[Layer]:
        """Return layers as they are before the Pad nodes in front of them, which no conversion changes."""
        new = [layer for layer in layers if layer.name not in self._sampled]
        self._sampled |= {layer.name: layer for layer in before_padding(model, new)} if new else {}
        return [self._sampled[layer.name] for layer in layers]

    def _close_buffer(self) -> None:
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None

    def _counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._batch_sizes.append(len(next(iter(batch.values()))))
            yield batch

    def _open_segment(self, model: onnx.ModelProto, layer: Layer, later: Sequence[Layer]) -> _Segment:
        types = self.cache.types
        residual = self._residual(model, layer, later)
        nodes = ancestors(model, [layer.input, *residual], types)
        keep = _tensors_needed(model, types.keys() | _outputs(nodes), layer, later)
        new = sorted(keep - types.keys())
        element_type = onnx.helper.np_dtype_to_tensor_dtype(layer.weight.dtype)
        taps = [patch_tap(layer, element_type), *(response_tap(layer, name, element_type) for name in residual)]
        added = [node for tap in taps for node in tap.nodes]
        read = {name for node in [*nodes, *added] for name in tensors_read(node)}
        inputs = [name for name in types if name in read]
        values = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(types[name]), None)
            for name in inputs
        ]
        values += [value for tap in taps for value in tap.inputs]
        outputs = [*(tap.output for tap in taps), *(onnx.ValueInfoProto(name=name) for name in new)]
        constants = [tensor for tap in taps for tensor in tap.constants]
        session = Session(
            extract(model, values, outputs, added, constants), self._provider, name=f"segment before '{layer.name}'"
        )
        return _Segment(nodes, session, inputs, taps[1].output.name if residual else None, keep)

    def _residual(self, model: onnx.ModelProto, layer: Layer, later: Sequence[Layer]) -> list[str]:
        """Return the layer's residual where the network as converted so far computes what it will in the end."""
        if layer.residual is None:
            return []
        unconverted = {each.response for each in [layer, *later]}
        computed = _outputs(ancestors(model, [layer.residual], self.cache.types))
        return [layer.residual] if computed.isdisjoint(unconverted) else []

    def _run(
        self, segment: _Segment, feeds: Mapping[str, Tensor], layer: Layer
    ) -> tuple[list[NDArray[Any]], Mapping[str, Tensor]]:
        """Return the sampled rows of the layer's input and of its residual, and the other outputs by name.

        These are on the device if tensors may stay there.
        """
        rows = [patch_rows(layer), *([segment.residual] if segment.residual else [])]
        if self._on_device:
            return segment.session.run_resident(feeds, rows)
        outputs = segment.session.run(cast("Batch", feeds))  # without room on the device, cached tensors are arrays
        return [outputs.pop(name) for name in rows], outputs

    def _may_run_again(self, model: onnx.ModelProto, segment: _Segment, later: Sequence[Layer]) -> bool:
        """Return whether the passes stay within `_MAX_PASSES` if the segment runs twice and all later nodes once."""
        remaining = ancestors(model, [layer.input for layer in later], self.cache.types)
        max_runs = _MAX_PASSES * len(model.graph.node) * sum(self._batch_sizes)
        return self.node_runs + (len(segment.nodes) + len(remaining)) * sum(self._batch_sizes) <= max_runs

    def _should_recompute(
        self, segment: _Segment, outputs: Mapping[str, Tensor], seconds: float, *, may_run_again: bool
    ) -> bool:
        """Decide by the first batch whether to leave the cache as it is and to run the segment again later.

        Args:
            segment: the segment.
            outputs: its outputs for the first batch.
            seconds: that it took for the first batch.
            may_run_again: whether it may run again only to save memory.
        """
        batches = len(self._batch_sizes)
        nbytes = batches * sum(tensor.nbytes for tensor in outputs.values())
        spilled = self.cache.spill_bytes(segment.keep, nbytes)
        kept = self.cache.growth_bytes(segment.keep, nbytes) - spilled if may_run_again else 0
        return recomputing_is_faster(spilled, kept, seconds * batches)


def recomputing_is_faster(spilled_bytes: int, kept_bytes: int, seconds: float) -> bool:
    """Return whether running a segment again takes less time than keeping its outputs.

    Args:
        spilled_bytes: of the outputs, to be written to the disk and read again.
        kept_bytes: by which the memory in use would grow; negative if it would shrink.
        seconds: that the segment takes.
    """
    return seconds < 2 * spilled_bytes / _DISK_BYTES_PER_SECOND + max(0, kept_bytes) / _MEMORY_BYTES_PER_SECOND


def _outputs(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    return {name for node in nodes for name in node.output if name}


def _tensors_needed(
    model: onnx.ModelProto, available: AbstractSet[str], layer: Layer, later: Sequence[Layer]
) -> set[str]:
    """Return the names of the available tensors that a layer's input is computed from, and what later layers take."""
    inputs = {layer.input} | {name for each in later for name in (each.input, each.residual) if name}
    remaining = ancestors(model, inputs, available)
    return (inputs | {name for node in remaining for name in tensors_read(node)}) & available


def _check_usable(rows: NDArray[Any], layer: Layer) -> None:
    if not_usable(rows):
        raise CalibrationError(
            f"{layer.op} '{layer.name}': its input is NaN, infinite or beyond {LARGEST:g} in the converted network: "
            "convert at a lower speedup, or leave the layers before it out with `exclude`"
        )
