"""What the converted prefix delivers to each layer, computed segment by segment.

The network is cut where the conversion has got to. The cut tensors of all calibration batches are kept; to reach the
next layer only the nodes between the cut and that layer's input run. Every node of the converted network so runs at
most once per image, whatever the graph looks like: residual sums and concatenations keep the tensors they still need
in the cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate.cuts import Cuts
from onnx_lowrank.calibrate.sampling import Ints, patch_indices, patch_rows, patch_tap
from onnx_lowrank.errors import CalibrationError
from onnx_lowrank.graph import reads
from onnx_lowrank.layer import Layer
from onnx_lowrank.responses import LARGEST, not_usable
from onnx_lowrank.runtime import Provider, Session
from onnx_lowrank.surgery import ancestors, extract

Batch = dict[str, NDArray[Any]]


class Propagation:
    """The front of the conversion as it moves through the network.

    Args:
        batches: the calibration inputs, in the order of the images; kept as the first cut.
        positions: per layer name, sampled positions of every image, shape (images, P).
        provider: where segments run.
        most_bytes: of cut tensors kept in memory; more of them go to the disk.

    Attributes:
        node_runs: nodes run so far, times images.
        cuts: the cut tensors.
    """

    def __init__(
        self, batches: Iterable[Batch], positions: Mapping[str, Ints], provider: Provider, most_bytes: int
    ) -> None:
        # Counted here: an inner tensor need not have the samples on its first axis.
        self._counts: list[int] = []
        self.cuts = Cuts(self._counted(batches), most_bytes)
        self._positions = positions
        self._provider = provider
        self.node_runs = 0

    def advance(self, model: onnx.ModelProto, layer: Layer, later: Sequence[Layer]) -> NDArray[Any]:
        """Run up to a layer's input and sample what arrives there.

        Args:
            model: the network as converted so far: every layer before ``layer`` replaced, ``layer`` not yet.
            layer: the layer to be solved next.
            later: the layers to be solved after it; what they need stays in the cut.

        Returns:
            Input patches at the sampled positions, shape (n, c, kh, kw), float32.

        Raises:
            CalibrationError: an input is NaN, infinite, or too large to reckon with.
        """
        segment = ancestors(model, [layer.input], self.cuts.types)
        keep = self._still_needed(model, segment, [layer, *later])
        session, inputs = self._open(model, layer, keep)
        sampled = self._positions[layer.name]
        # Filled as they come: the largest arrays there are, once and not twice.
        rows, first = np.empty((sampled.size, layer.channels, *layer.kernel), np.float32), 0
        for number, count in enumerate(self._counts):
            positions = sampled[first : first + count]
            feeds = self.cuts.read(number, inputs) | patch_indices(layer, positions)
            found = session.run(feeds)
            patches = found.pop(patch_rows(layer)).reshape(-1, layer.channels, *layer.kernel)
            rows[first * sampled.shape[1] :][: len(patches)] = patches
            self.cuts.advance(number, keep, found)
            first += count
        self.node_runs += len(segment) * first
        return _finite(rows, layer)

    def close(self) -> None:
        """Give up the cut tensors."""
        self.cuts.close()

    def _counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._counts.append(len(next(iter(batch.values()))))
            yield batch

    def _still_needed(
        self, model: onnx.ModelProto, segment: Sequence[onnx.NodeProto], layers: Sequence[Layer]
    ) -> set[str]:
        """Tensors at hand after the segment that the rest of the way to ``layers`` reads."""
        at_hand = self.cuts.types.keys() | {name for node in segment for name in node.output if name}
        wanted = {layer.input for layer in layers}
        rest = ancestors(model, wanted, at_hand)
        return at_hand & (wanted | {name for node in rest for name in reads(node)})

    def _open(self, model: onnx.ModelProto, layer: Layer, keep: set[str]) -> tuple[Session, list[str]]:
        """A session from the cut to the layer's sampled rows, and the cut tensors it reads."""
        types = self.cuts.types
        fresh = sorted(keep - types.keys())
        tap = patch_tap(layer, onnx.helper.np_dtype_to_tensor_dtype(layer.weight.dtype))
        nodes = [*ancestors(model, [layer.input, *fresh], types.keys()), *tap.nodes]
        read = {name for node in nodes for name in reads(node)}
        inputs = [name for name in types if name in read]
        values = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(types[name]), None)
            for name in inputs
        ]
        outputs = [tap.output, *(onnx.ValueInfoProto(name=name) for name in fresh)]
        segment = extract(model, [*values, *tap.inputs], outputs, tap.nodes, tap.constants)
        return Session(segment, self._provider, name=f"segment before '{layer.name}'"), inputs


def _finite(rows: NDArray[Any], layer: Layer) -> NDArray[Any]:
    if not_usable(rows):
        raise CalibrationError(
            f"{layer.op} '{layer.name}': its input is NaN, infinite or beyond {LARGEST:g} in the converted network: "
            "convert at a lower speedup, or leave the layers before it out with --exclude"
        )
    return rows
