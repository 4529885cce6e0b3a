"""List what a model is made of: the layers that can be factorized, and for all others why not."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate import Preprocessing, default_batch
from onnx_lowrank.calibrate.calibration import CalibrationSet
from onnx_lowrank.calibrate.data.sample_axes import samples_on_first_axis
from onnx_lowrank.graph.eligible import layers_that_follow, layers_that_pay, min_images
from onnx_lowrank.layers.layer import Layer, SkippedLayer
from onnx_lowrank.layers.layer_set import LayerSet, parameters_of
from onnx_lowrank.pipeline import collect, conversion_timer, find_layers_on_data, open_conversion, rank_losses
from onnx_lowrank.ranks import ranks_keeping, response_energies
from onnx_lowrank.ranks.choose import choose_ranks
from onnx_lowrank.ranks.estimate import LossEstimate, estimate_losses
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network, open_network
from onnx_lowrank.runtime.processors import linear_algebra_threads
from onnx_lowrank.runtime.progress import Progress
from onnx_lowrank.runtime.sample_maps import layers_by_samples, layers_of_one_size
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.settings import Constants, ProviderName, Settings
from onnx_lowrank.solve.device import solver_device

SHARES = (0.9, 0.95, 0.99, 0.999)  # of the energy, whose ranks are said
_ESTIMATE_IMAGES = 64  # more move the prediction by hundredths


@dataclass(frozen=True)
class Inspection:
    """What a model is made of.

    Attributes:
        rows: every Conv, ConvTranspose, Gemm and MatMul in the order of the graph: those that can be factorized as
            `Layer`, all others as `SkippedLayer` with the reason.
        energies: by layer name the share of its responses' energy that each channel rank keeps, shape
            (d / groups + 1,), where that was asked for.
        source: of the samples that reasons and energies come from; None where there were none: then only the model
            was looked at, and what depends on data is open.
        with_energies: whether energies were asked for.
        estimates: what common speedups are predicted to lose; none without samples, and with energies.
    """

    rows: tuple[Layer | SkippedLayer, ...]
    energies: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    source: str | None = None
    with_energies: bool = False
    estimates: tuple[LossEstimate, ...] = ()

    @property
    def narrowed_by(self) -> dict[str, list[str]]:
        """By name of a layer that makes, carries or reads channels, those that choose how many of them are left."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            for group in row.read_groups if isinstance(row, Layer) else ():
                for name in (*group.makers, *group.carried, *group.followers):
                    if row.name not in found.setdefault(name, []):
                        found[name].append(row.name)
        return found

    @property
    def macs(self) -> int:
        """Multiply-adds per image."""
        return sum(row.macs for row in self.rows)

    @property
    def parameters(self) -> int:
        """Weights and biases; those that several layers share count once."""
        return parameters_of(self.rows)

    def ranks(self, name: str) -> dict[float, int] | None:
        """The channel ranks, of each group, that keep `SHARES` of a layer's energy; None where it was not looked at."""
        energies = self.energies.get(name)
        return None if energies is None else dict(zip(SHARES, ranks_keeping(energies, SHARES), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """The fields of ``inspect --json``; with data also their source, with energies the ranks that keep shares."""
        layers = [_row(row) | _width(row, self.narrowed_by.get(row.name, [])) for row in self.rows]
        found: dict[str, Any] = {"macs": self.macs, "params": self.parameters, "layers": layers}
        for row in found["layers"] if self.with_energies else ():
            ranks = self.ranks(row["name"])
            row["energy_ranks"] = None if ranks is None else {f"{share:g}": rank for share, rank in ranks.items()}
        if self.source is not None:
            found["source"] = self.source
        if self.estimates:
            found["estimates"] = [estimate.to_dict() for estimate in self.estimates]
        return found


def inspect(  # noqa: PLR0913  (the options of the command, each with its default)
    model: str | Path | onnx.ModelProto,
    *,
    energy: bool = False,
    data: Any = None,
    preprocessing: Preprocessing | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    provider: ProviderName | str = "auto",
    ep_library: str | Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    constant_inputs: Constants | None = None,
    samples_axis: Mapping[str, int] | None = None,
) -> Inspection:
    """List what can be factorized, and for everything else why not.

    Args:
        model: path of an ONNX file, or a model.
        energy: run it on samples and see how much of every layer's response its leading directions hold.
        data: sample inputs, as for `onnx_lowrank.convert`, to say what a conversion with them says, and for energies;
            None for what the model alone tells, and for energies of synthetic images.
        preprocessing: of images; pixels / 255 if not given.
        samples: how many; None for as many as a conversion takes.
        batch_size: samples per forward pass.
        seed: of the drawing of samples and positions.
        provider: where it runs.
        ep_library: file of a plugin execution provider, which ``provider`` names.
        threads: of onnxruntime.
        progress: watches the pass.
        input_shapes: shape by input name, where the model leaves axes open.
        constant_inputs: by name of the inputs that zeros will not do for: numbers, an array or its file.
        samples_axis: axis that counts samples by input name, where it is not the first one.

    Raises:
        ModelError: it cannot be read or run, an axis is open, or no layer has energies to look at.
        CalibrationError: the data cannot be used.
    """
    if energy or data is not None:
        shapes, constants = input_shapes or {}, constant_inputs or {}
        settings = Settings(
            samples=samples, batch_size=batch_size, seed=seed, provider=provider, threads=threads, method="channel",
            ep_library=ep_library, input_shapes=shapes, constant_inputs=constants, samples_axis=samples_axis or {},
        )  # fmt: skip
        with linear_algebra_threads(threads):
            if energy:
                return _with_energies(model, data, settings, preprocessing, progress)
            network, layers, calibration = find_layers_on_data(model, data, preprocessing, settings)
            estimates = _estimates(network, layers, calibration, settings, Monitor(progress))
            return Inspection(tuple(network.in_order(layers.every)), source=_source(calibration), estimates=estimates)
    network = open_network(model, choose_provider("cpu"), input_shapes or {}, constant_inputs, samples_axis or {})
    if not samples_on_first_axis(network):
        network = network.with_samples_first({network.sampled[0].name: None})
    layers = layers_that_follow(layers_that_pay(_layers_without_data(network)))
    return Inspection(tuple(network.in_order(layers.every)))


def _layers_without_data(network: Network) -> LayerSet:
    """Find the layers of a network that is fed zeros: one sample, and two where a conversion would run several."""
    one = network.zeros()
    layers = layers_of_one_size(network, network.layers(one), None)
    if network.fixed_batch:
        return layers_by_samples(network, layers, one, None)
    if default_batch(network.sampled, network.provider.batch_elements) > 1:
        two = network.zeros(2)
        shapes = network.shapes_of_two(one, two)
        return layers if shapes is None else layers_by_samples(network, layers, two, shapes)
    return layers


def _estimates(
    network: Network, layers: LayerSet, calibration: CalibrationSet, settings: Settings, monitor: Monitor
) -> tuple[LossEstimate, ...]:
    """Predict what common speedups lose, from some of the samples, with the coarse choices of a preview."""
    if not layers.eligible:
        return ()
    settings = replace(settings, method="auto", preview=True).resolved()
    some = calibration.first_images(_ESTIMATE_IMAGES).with_positions(layers.sampled, settings)
    targets, device = collect(network, layers, some, monitor), solver_device(network.provider)
    losses = rank_losses(layers, targets, some.images, settings, device, monitor)
    with closing(conversion_timer(network, some, settings, monitor)) as timer:
        return estimate_losses(partial(choose_ranks, layers, losses, timer=timer), settings)


def _with_energies(
    model: str | Path | onnx.ModelProto,
    data: Any,
    settings: Settings,
    preprocessing: Preprocessing | None,
    progress: Progress | None,
) -> Inspection:
    """Run one pass over the samples that a conversion would be calibrated with."""
    network, layers, calibration = open_conversion(model, data, preprocessing, settings)
    targets = collect(network, layers, calibration, Monitor(progress))
    energies = {layer.name: response_energies(layer, targets[layer.name].responses) for layer in layers.eligible}
    return Inspection(tuple(network.in_order(layers.every)), energies, _source(calibration), with_energies=True)


def _source(calibration: CalibrationSet) -> str:
    return f"{calibration.images} samples of {calibration.samples.source}"


def _row(row: Layer | SkippedLayer) -> dict[str, Any]:
    common = {"name": row.name, "op": row.op, "macs": row.macs, "params": row.parameters}
    if isinstance(row, SkippedLayer):
        return common | {"eligible": False, "reason": row.reason}
    return common | {
        "eligible": True,
        "reason": None,
        "activation": row.activation.name,
        "shape": list(row.weight.shape),
        "groups": row.groups,
        "residual": row.residual,
        "min_samples": min_images(row),
    }


def _width(row: Layer | SkippedLayer, narrowed_by: list[str]) -> dict[str, Any]:
    """Return which channels that a layer reads may be left out, or why not, and who else leaves out some of its own."""
    if isinstance(row, SkippedLayer):
        return {"width": None, "width_reason": None, "channel_groups": [], "narrowed_by": narrowed_by}
    groups = [
        {
            "start": group.start,
            "channels": group.channels,
            "makers": list(group.makers),
            "carried": list(group.carried),
            "squeezed": list(group.squeezed),
            "readers": list(group.readers),
        }
        for group in row.read_groups
    ]
    return {
        "width": {"min": row.min_width, "max": row.channels} if row.narrowable else None,
        "width_reason": row.reads if isinstance(row.reads, str) else None,
        "channel_groups": groups,
        "narrowed_by": narrowed_by,
    }
