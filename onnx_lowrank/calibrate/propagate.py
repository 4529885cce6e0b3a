"""What the converted prefix delivers to each layer, computed segment by segment.

The network is cut where the conversion has got to. The cut tensors of all calibration batches are kept; to reach the
next layer only the nodes between the cut and that layer's input run. Every node of the converted network so runs at
most once per image, whatever the graph looks like: residual sums and concatenations keep the tensors they still need
in the cut.

There is another choice: the cut stays where it is, and the segment behind it is run again as part of the next one.
That is done where it costs less than to keep what comes of it: for tensors that would go to the disk, and for large
ones that little work has made, such as the responses of a first layer, which often are the largest of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from time import perf_counter
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate.activation_cache import ActivationCache, Tensor
from onnx_lowrank.calibrate.positions import Ints
from onnx_lowrank.calibrate.taps import as_patches, clear_outside, patch_indices, patch_rows, patch_tap
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.graph.extract import ancestors, extract
from onnx_lowrank.graph.index import tensors_read
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.responses import LARGEST, Patches, not_usable
from onnx_lowrank.linalg.disk_arrays import ScratchFile, SpilledRows
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session

Batch = dict[str, NDArray[Any]]

_DISK_BYTES_PER_SECOND = 5e8  # written or read; disks of today, a little on the slow side
_MEMORY_BYTES_PER_SECOND = 5e8  # kept; less time than that, but others may want the memory
_MOST_PASSES = 1.05  # of the network, where segments are run again only to keep less in memory


class Propagation:
    """The front of the conversion as it moves through the network.

    Args:
        batches: the calibration inputs, in the order of the images; kept as the first cut.
        positions: per layer name, sampled positions of every image, shape (images, P).
        provider: where segments run.
        most_bytes: of cut tensors and input patches kept in memory; more of them go to the disk.
        most_resident: bytes of cut tensors that stay where segments run; 0 brings them all back.

    Attributes:
        node_runs: nodes run so far, times images.
        cuts: the cut tensors.
    """

    def __init__(
        self,
        batches: Iterable[Batch],
        positions: Mapping[str, Ints],
        provider: Provider,
        most_bytes: int,
        most_resident: int = 0,
    ) -> None:
        # Counted here: an inner tensor need not have the samples on its first axis.
        self._counts: list[int] = []
        self.cache = ActivationCache(self._counted(batches), most_bytes, most_resident)
        self._resident = most_resident > 0
        self._positions = positions
        self._provider = provider
        self._patches: _Patches | None = None
        self.node_runs = 0

    def advance(self, model: onnx.ModelProto, layer: Layer, later: Sequence[Layer]) -> Patches:
        """Run up to a layer's input and sample what arrives there.

        Args:
            model: the network as converted so far: every layer before ``layer`` replaced, ``layer`` not yet.
            layer: the layer to be solved next.
            later: the layers to be solved after it; what they need stays in the cut.

        Returns:
            Input patches at the sampled positions, shape (n, c, kh, kw), float32; on the disk where they do not fit
            into memory. They are there until the next call.

        Raises:
            CalibrationError: an input is NaN, infinite, or too large to reckon with; or the disk is full.
        """
        self._drop_patches()
        segment = ancestors(model, [layer.input], self.cache.types)
        keep = self._still_needed(model, segment, [layer, *later])
        session, inputs = self._open(model, layer, keep)
        sampled = self._positions[layer.name]
        self._patches = _Patches(sampled.size, layer, self.cache)
        first, again = 0, False
        for number, count in enumerate(self._counts):
            positions = sampled[first : first + count]
            feeds = {**self.cache.read(number, inputs), **patch_indices(layer, positions)}
            started = perf_counter()
            rows, found = self._run(session, feeds, patch_rows(layer))
            seconds = perf_counter() - started
            rows = rows.astype(np.float32, copy=False)
            clear_outside(rows, layer, positions)
            self._patches.append(_finite(rows, layer))
            if number == 0:
                size = len(self._counts) * sum(tensor.nbytes for tensor in found.values())
                spilled, grown = self.cache.excess(keep, size), self.cache.growth(keep, size)
                kept = grown - spilled if self._may_run_again(model, segment, later) else 0
                again = run_again(spilled, kept, seconds * len(self._counts))
            if not again:
                self.cache.advance(number, keep, found)
            first += count
        self.node_runs += len(segment) * first
        return self._patches.rows

    def close(self) -> None:
        """Give up the cut tensors and the patches."""
        self._drop_patches()
        self.cache.close()

    def _may_run_again(self, model: onnx.ModelProto, segment: Sequence[onnx.NodeProto], later: Sequence[Layer]) -> bool:
        """Whether a segment may run twice, and all that is ahead once, without a second pass of the network."""
        ahead = ancestors(model, [layer.input for layer in later], self.cache.types)
        most = _MOST_PASSES * len(model.graph.node) * sum(self._counts)
        return self.node_runs + (len(segment) + len(ahead)) * sum(self._counts) <= most

    def _drop_patches(self) -> None:
        if self._patches is not None:
            self._patches.close()
            self._patches = None

    def _counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._counts.append(len(next(iter(batch.values()))))
            yield batch

    def _run(
        self, session: Session, feeds: Mapping[str, Tensor], rows: str
    ) -> tuple[NDArray[Any], Mapping[str, Tensor]]:
        """The sampled rows, and the other outputs: left where they are, or brought back as well."""
        if self._resident:
            return session.run_resident(feeds, rows)
        found = session.run(cast("Batch", feeds))  # nothing was left anywhere else
        return found.pop(rows), found

    def _still_needed(
        self, model: onnx.ModelProto, segment: Sequence[onnx.NodeProto], layers: Sequence[Layer]
    ) -> set[str]:
        """Tensors at hand after the segment that the rest of the way to ``layers`` reads."""
        at_hand = self.cache.types.keys() | {name for node in segment for name in node.output if name}
        wanted = {layer.input for layer in layers}
        rest = ancestors(model, wanted, at_hand)
        return at_hand & (wanted | {name for node in rest for name in tensors_read(node)})

    def _open(self, model: onnx.ModelProto, layer: Layer, keep: set[str]) -> tuple[Session, list[str]]:
        """A session from the cut to the layer's sampled rows, and the cut tensors it reads."""
        types = self.cache.types
        fresh = sorted(keep - types.keys())
        tap = patch_tap(layer, onnx.helper.np_dtype_to_tensor_dtype(layer.weight.dtype))
        nodes = [*ancestors(model, [layer.input, *fresh], types.keys()), *tap.nodes]
        read = {name for node in nodes for name in tensors_read(node)}
        inputs = [name for name in types if name in read]
        values = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(types[name]), None)
            for name in inputs
        ]
        outputs = [tap.output, *(onnx.ValueInfoProto(name=name) for name in fresh)]
        segment = extract(model, [*values, *tap.inputs], outputs, tap.nodes, tap.constants)
        return Session(segment, self._provider, name=f"segment before '{layer.name}'"), inputs


class _Patches:
    """A layer's input patches as they come in: in one array, or on the disk if the bound leaves no room for it."""

    def __init__(self, count: int, layer: Layer, cache: ActivationCache) -> None:
        shape = (count, layer.channels, *layer.kernel)
        self._size = prod(shape) * np.dtype(np.float32).itemsize
        self._layer, self._cuts, self._done = layer, cache, 0
        self.rows: Patches
        if cache.reserve(self._size):
            self.rows = as_patches(np.empty(prod(shape), np.float32), layer)
        else:
            self.rows = SpilledRows(ScratchFile(), shape, np.dtype(np.float32))

    def append(self, rows: NDArray[Any]) -> None:
        patches = as_patches(rows, self._layer)
        if isinstance(self.rows, SpilledRows):
            self.rows.file.append(patches)
        else:
            self.rows[self._done :][: len(patches)] = patches
        self._done += len(patches)

    def close(self) -> None:
        if isinstance(self.rows, SpilledRows):
            self.rows.file.close()
        else:
            self._cuts.release(self._size)


def run_again(spilled_bytes: int, kept_bytes: int, seconds: float) -> bool:
    """Whether to run a segment again rather than to keep what comes of it.

    Args:
        spilled_bytes: that would have to be written to the disk, and read again.
        kept_bytes: that would have to be kept in memory.
        seconds: that the segment takes.
    """
    return seconds < 2 * spilled_bytes / _DISK_BYTES_PER_SECOND + max(0, kept_bytes) / _MEMORY_BYTES_PER_SECOND


def _finite(rows: NDArray[Any], layer: Layer) -> NDArray[Any]:
    if not_usable(rows):
        raise CalibrationError(
            f"{layer.op} '{layer.name}': its input is NaN, infinite or beyond {LARGEST:g} in the converted network: "
            "convert at a lower speedup, or leave the layers before it out with `exclude`"
        )
    return rows
