"""Refine a converted network block by block, each block fed with what the refined ones before it deliver.

The weights of a block's factors, and of what channels were left in it, are trained together (`train`), toward what the
original computes in its place. What is better on samples that served neither the solver nor the training is kept, and
all of it only where the outputs of the whole network are no worse for it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from math import ceil
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_lowrank.calibrate import iterate_batches
from onnx_lowrank.calibrate.calibration import CalibrationSet
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import inline_all_functions
from onnx_lowrank.graph.blocks import Block, split_into_blocks
from onnx_lowrank.graph.extract import with_outputs
from onnx_lowrank.layers.refined_block import RefinedBlock
from onnx_lowrank.linalg.arrays import squares
from onnx_lowrank.runtime.backends.foreign_errors import as_model_error
from onnx_lowrank.runtime.memory import budget_bytes
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.settings import Settings
from onnx_lowrank.torch.blocks.samples import BlockSamples
from onnx_lowrank.torch.blocks.segment import Arrays, Prefix
from onnx_lowrank.torch.blocks.train import train_block
from onnx_lowrank.torch.module.from_module import write_weights
from onnx_lowrank.torch.module.to_module import OnnxModule, to_torch
from onnx_lowrank.torch.module.weights import look_up
from onnx_lowrank.torch.threads import torch_threads
from onnx_lowrank.torch.training.balance import Pair, balance, factor_pairs

log = logging.getLogger(__name__)


def refine_blocks(
    network: Network, converted: onnx.ModelProto, calibration: CalibrationSet, settings: Settings, monitor: Monitor
) -> tuple[onnx.ModelProto, tuple[RefinedBlock, ...]]:
    """Train the converted layers of each block of a network together.

    Args:
        network: the original.
        converted: its conversion, in the original's types; not changed.
        calibration: samples to train on, and those set aside to choose by.
        settings: threads, seed, memory.
        monitor: watches the blocks.

    Returns:
        The refined network, or ``converted`` itself where that is no worse, and what became of each block.
    """
    refinement = _Refinement(network, converted, calibration, settings)
    with torch_threads(settings.threads), closing(refinement):
        blocks = tuple(refinement.blocks(monitor))
    if not any(block.refined for block in blocks):
        return converted, blocks
    refined = refinement.written(converted)
    held_out = list(iterate_batches(calibration.samples, calibration.split.refinement, calibration.split.batch_size))
    before, after = (_error(network, network.as_run(model), held_out) for model in (converted, refined))
    log.info("refined block by block: error of the outputs %.4g -> %.4g", before, after)
    if not after <= before:
        return converted, tuple(block.discarded() for block in blocks)
    return refined, blocks


class _Refinement:
    """Both networks, and the samples on their way through them."""

    def __init__(
        self, network: Network, converted: onnx.ModelProto, calibration: CalibrationSet, settings: Settings
    ) -> None:
        self._original = inline_all_functions(network.model)
        self._converted = onnx.ModelProto()  # a copy, whose weights change
        self._converted.CopyFrom(inline_all_functions(network.as_run(converted)))
        self._weights: dict[str, Tensor] = {}  # those that were trained, by name
        self._seed = settings.seed
        self._device = _device(network)
        split, max_bytes = calibration.split, budget_bytes(settings.memory) // 2
        counts = [ceil(len(part) / split.batch_size) for part in (split.calibration, split.refinement)]
        self._training, self._held_out = range(counts[0]), range(counts[0], sum(counts))
        self._before, self._behind = (Prefix(_batches(calibration), network.provider, max_bytes) for _ in range(2))
        self._blocks = _find_blocks(self._original, self._converted, network, calibration)

    def blocks(self, monitor: Monitor) -> Iterator[RefinedBlock]:
        """Refine one block after the other."""
        for number, block in enumerate(monitor.track(self._blocks, "refine", len(self._blocks))):
            self._behind.advance(self._original, block)
            try:
                yield self._refined(block, self._seed + number)
            except ModelError as error:  # an operator that PyTorch lacks
                log.info("block that ends in '%s' is not refined: %s", block.made[0], error)
                yield RefinedBlock(block.compared, block.layers)
            self._before.advance(self._converted, block)

    def written(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """Return a model with the trained weights."""
        result = onnx.ModelProto()
        result.CopyFrom(model)
        write_weights(result, self._weights)
        return result

    def close(self) -> None:
        """Delete what is on the disk."""
        self._before.close()
        self._behind.close()

    def _refined(self, block: Block, seed: int) -> RefinedBlock:
        part = self._before.block_model(self._converted, block)
        module = to_torch(part, torch.float32).to(self._device)
        module.outputs = block.compared
        names = _trainable(module, part, self._original)
        pairs = [pair for pair in factor_pairs(part.graph) if _is_inside(pair, names)]
        balance(module.state_dict(), pairs, module.keys)
        training, held_out = (
            BlockSamples(block, module.inputs, self._before, self._behind, numbers, self._device)
            for numbers in (self._training, self._held_out)
        )
        with as_model_error("PyTorch cannot train it"):
            trained = train_block(module, [module.keys[name] for name in names], training, held_out, seed)
        if trained.weights:
            found = {name: trained.weights[module.keys[name]] for name in names}
            self._weights |= found
            write_weights(self._converted, found)
        return RefinedBlock(block.compared, block.layers, trained.before, trained.after)


def _batches(calibration: CalibrationSet) -> Iterator[Arrays]:
    """Iterate over the samples to train on, then over those to judge by."""
    for part in (calibration.split.calibration, calibration.split.refinement):
        yield from iterate_batches(calibration.samples, part, calibration.split.batch_size)


def _find_blocks(
    original: onnx.ModelProto, converted: onnx.ModelProto, network: Network, calibration: CalibrationSet
) -> list[Block]:
    """Cut both networks where their tensors can be compared."""
    ours, theirs = (_observed(model, calibration.one_batch, network) for model in (converted, original))
    shapes = {name: array.shape for name, array in theirs.items() if name in ours and ours[name].shape == array.shape}
    floats = frozenset(name for name in shapes if theirs[name].dtype.kind == "f")
    return split_into_blocks(original, converted, shapes, floats)


def _device(network: Network) -> torch.device:
    return torch.device("cuda" if network.provider.name == "cuda" and torch.cuda.is_available() else "cpu")


def _observed(model: onnx.ModelProto, feeds: Arrays, network: Network) -> dict[str, NDArray[Any]]:
    """Return all tensors of a network for one batch, by name."""
    made = [name for node in model.graph.node for name in node.output if name]
    session = Session(with_outputs(model, made), network.provider, name=network.name)
    return {**feeds, **{name: array for name, array in session.run(feeds).items() if name in session.numeric_outputs}}


def _trainable(module: OnnxModule, part: onnx.ModelProto, original: onnx.ModelProto) -> list[str]:
    """Return the names of the weights that the conversion made or changed, and that have gradients."""
    held = {tensor.name: tensor for tensor in original.graph.initializer}
    changed = {each.name for each in part.graph.initializer if held.get(each.name) != each}
    return [name for name, key in module.keys.items() if name in changed and look_up(module, key).requires_grad]


def _is_inside(pair: Pair, names: Sequence[str]) -> bool:
    return {pair.first, pair.second, *([pair.bias] if pair.bias else [])} <= set(names)


def _error(network: Network, model: onnx.ModelProto, batches: Sequence[Arrays]) -> float:
    """Return the relative error of a network's outputs, its root mean square over the outputs."""
    theirs, ours = (Session(each, network.provider, name=network.name) for each in (network.model, model))
    lost, size = (dict.fromkeys(theirs.floating_outputs, 0.0) for _ in range(2))
    for feeds in batches:
        wanted, found = theirs.run(feeds), ours.run(feeds)
        for name in size:
            if found[name].shape == wanted[name].shape:  # lists of objects may differ in length
                size[name] += float(squares(wanted[name].astype(np.float64)))
                lost[name] += float(squares(wanted[name].astype(np.float64) - found[name]))
    return float(np.sqrt(np.mean([lost[name] / size[name] for name in size if size[name]] or [0.0])))
