"""Observe which maps of a layer belong to which sample.

Most networks have the samples on the first axis of every tensor. Some fold views, frames or both images of a pair into
it, so that a sample has several maps, one after the other or apart; and behind a list of detected objects there are as
many maps as it is long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.graph.extract import extract
from onnx_lowrank.graph.value_sizes import sized_by_values
from onnx_lowrank.layers.activation import identity
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.runtime.network import Feeds, Network
from onnx_lowrank.runtime.observed_shapes import observe_all_shapes
from onnx_lowrank.runtime.session import Session

Shape = tuple[int, ...]
_UNKNOWN = "as many rows as the values of the input say: `convert` sees on data whether it can be factorized"


def layers_by_samples(
    network: Network, layers: LayerSet, feeds: Feeds, shapes: Mapping[str, tuple[Shape, Shape]] | None
) -> LayerSet:
    """Return layers with the order of their maps; those whose maps are not those of the samples stay.

    Args:
        network: the network.
        layers: its layers.
        feeds: a batch of several samples.
        shapes: of tensors for one sample and for ``feeds``, which are two; None where the batch size is fixed.

    Raises:
        ModelError: it cannot be run.
    """
    samples, shapes = len(next(iter(feeds.values()))), shapes or {}
    still = {name for name, (one, two) in shapes.items() if one == two}
    eligible, skipped = [], list(layers.skipped)
    for layer in layers.eligible:
        if layer.response in still:
            maps = shapes[layer.response][0][0]
            reason = f"its batch is not that of the samples: {maps} maps for one sample and for two"
            skipped.append(layer.stays(reason))
        else:
            eligible.append(replace(layer, residual=None, activation=identity()) if layer.residual in still else layer)
    carriers = [each for each in layers.carriers if each.response not in still and _maps(each, shapes) == 1]
    folded = {layer.input for layer in eligible if _maps(layer, shapes) > 1}
    if not folded:
        return replace(layers, eligible=eligible, skipped=skipped, carriers=carriers)
    changed = _changed_maps(network, feeds, sorted(folded))
    ordered = [_in_order(layer, changed.get(layer.input), samples) for layer in eligible]
    stay = [layer for layer in ordered if isinstance(layer, SkippedLayer)]
    eligible = [layer for layer in ordered if isinstance(layer, Layer)]
    return replace(layers, eligible=eligible, skipped=[*skipped, *stay], carriers=carriers)


def _maps(layer: Layer, shapes: Mapping[str, tuple[Shape, Shape]]) -> int:
    """Return how many entries of the first axis belong to a sample."""
    one, _ = shapes.get(layer.input, ((1,), ()))
    return max(layer.maps, one[0])


def _in_order(layer: Layer, changed: NDArray[np.bool_] | None, samples: int) -> Layer | SkippedLayer:
    """Return a layer with the number of consecutive rows of a sample, or as one that stays.

    Args:
        layer: the layer.
        changed: which entries of the first axis of its input change with the last sample; None where each sample has
            one of them.
        samples: in the batch.
    """
    if changed is None or not changed.any():  # nothing to see: an input of zeros, or a network that ignores its input
        return layer
    (numbers,), maps = np.nonzero(changed), len(changed) // samples
    for together in range(maps, 0, -1):
        if maps % together == 0 and (numbers // together % samples == samples - 1).all():
            return layer if together == maps else replace(layer, run=together * (layer.rows // maps))
    if layer.channels_last:
        return layer  # the first axis is another one: its rows are sampled in any order
    return layer.stays(
        f"its batch is not that of the samples: one of {samples} samples changes {len(numbers)} of {len(changed)} maps"
    )


def _changed_maps(network: Network, feeds: Feeds, tensors: list[str]) -> dict[str, NDArray[np.bool_]]:
    """Return which entries of the first axis change with the last sample, by tensor."""
    sampled = {spec.name for spec in network.sampled}
    other = {name: _last_changed(values) if name in sampled else values for name, values in feeds.items()}
    inputs = [value for value in network.model.graph.input if value.name in feeds]
    outputs = [onnx.ValueInfoProto(name=name) for name in tensors if name not in feeds]
    session = Session(extract(network.model, inputs, outputs), network.provider, name=network.name)
    first, second = ({**batch, **session.run(batch)} for batch in (feeds, other))
    return {name: _differ(first[name], second[name]) for name in tensors}


def _differ(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    different: NDArray[np.bool_] = (a != b).reshape(len(a), -1).any(axis=1)
    return different


def _last_changed(values: NDArray[Any]) -> NDArray[Any]:
    """Return a batch with other values in its last sample, of the same range where they are whole numbers."""
    changed = values.copy()
    if not values.ndim or not values[-1].size:
        return changed
    if values.dtype.kind not in "fc":
        flipped = values[-1].ravel()[::-1].reshape(values[-1].shape)
        changed[-1] = flipped if (flipped != values[-1]).any() else values[-1] == 0
        return changed
    noise = np.random.default_rng(0).uniform(0.5, 1.5, values[-1].shape)
    scale = float(np.abs(values[-1]).max()) or 1.0
    changed[-1] = (noise * scale - values[-1]).astype(values.dtype)
    return changed


def layers_of_one_size(network: Network, layers: LayerSet, samples: Iterable[Feeds] | None) -> LayerSet:
    """Leave out layers that have as many rows as the values of a sample say, where that number varies.

    Args:
        network: the network.
        layers: its layers.
        samples: the samples to look at, one at a time where the network takes that; None where there are none.

    Raises:
        ModelError: it cannot be run.
    """
    sized = sized_by_values(network.model, {spec.name for spec in network.sampled})
    carriers = [layer for layer in layers.carriers if not sized & {layer.input, layer.response}]
    layers = replace(layers, carriers=carriers)
    doubtful = [layer for layer in layers.eligible if sized & {layer.input, layer.response}]
    if not doubtful:
        return layers
    eligible = [layer for layer in layers.eligible if layer not in doubtful]
    if samples is None:
        stays = [layer.stays(_UNKNOWN) for layer in doubtful]
        return replace(layers, eligible=eligible, skipped=[*layers.skipped, *stays])
    names = list(dict.fromkeys(name for layer in doubtful for name in (layer.input, layer.response)))
    observed = list(observe_all_shapes(network.model, samples, names, network.provider))
    stay = {layer.name: each for layer in doubtful if (each := _why_it_varies(layer, observed)) is not None}
    eligible = [layer for layer in layers.eligible if layer.name not in stay]
    return replace(layers, eligible=eligible, skipped=[*layers.skipped, *stay.values()])


def _why_it_varies(layer: Layer, observed: Sequence[Mapping[str, Shape]]) -> SkippedLayer | None:
    """Return a layer as one that stays where its sizes differ from sample to sample, or nothing gets there."""
    inputs, responses = ([shapes[name] for shapes in observed] for name in (layer.input, layer.response))
    rows, steps = (
        [prod(shape[:-1]) if layer.channels_last else shape[0] * prod(shape[2:]) for shape in shapes]
        for shapes in (responses, inputs if layer.geometry.transposed else responses)
    )
    unit = "rows" if layer.channels_last else "maps"
    counts = [prod(shape[:-1]) if layer.channels_last else shape[0] for shape in responses]
    if max(rows) == 0:
        reason = f"no {unit} in any of {len(rows)} samples: nothing to solve it with"
    elif min(counts) < max(counts):
        reason = f"{min(counts)} to {max(counts)} {unit} from sample to sample: only a constant number is factorized"
    elif len({*inputs}) > 1 or len({*responses}) > 1:
        reason = f"its input varies in size from sample to sample, {min(inputs)} to {max(inputs)}"
    else:
        return None
    macs = round(sum(steps) / len(steps) * layer.weight.size)
    return replace(layer.stays(reason), macs=macs, varies=True)
