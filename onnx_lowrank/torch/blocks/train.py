"""Train the converted layers of one block together until its outputs are those of the original's block.

    min  mean_t  ||y_t - y*_t||^2 / ||y*_t||^2        over the weights of the factors

with y_t the outputs of the block in the converted network, which reads what the converted layers before it deliver,
and y*_t the original's. Layers solved one by one cannot trade errors with their neighbours; together they can.

References:
    Li et al. 2021, arXiv:2102.05426 (BRECQ): blocks are the best unit to reconstruct with few samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import inf

import numpy as np
import torch
from torch import Tensor

from onnx_lowrank import interruption
from onnx_lowrank.torch.blocks.samples import BlockBatch, BlockSamples
from onnx_lowrank.torch.module.to_module import OnnxModule
from onnx_lowrank.torch.module.weights import look_up
from onnx_lowrank.torch.training.muon import Muon
from onnx_lowrank.torch.training.trainer import as_list, warmup_cosine

_RATES = (5e-3, 1.5e-3)  # relative to the weights; the second where the first one gains nothing
_STEPS = 80
_LOOKS = 4  # at the held-out samples, during a training
_MIN_GAIN = 2e-3  # relative: less may be chance
_MAX_GRADIENT_NORM = 1.0
_MIN_SIZE = 1e-30  # sum of squares that is divided by


@dataclass(frozen=True, eq=False)
class TrainedBlock:
    """A block after its training.

    Attributes:
        before: relative error of its outputs on samples that served neither the solver nor the training.
        after: the same with ``weights``.
        weights: the best ones, by key; empty where none were better than those it came with.
    """

    before: float
    after: float
    weights: Mapping[str, Tensor]


def train_block(
    module: OnnxModule, keys: Sequence[str], training: BlockSamples, held_out: BlockSamples, seed: int
) -> TrainedBlock:
    """Train some weights of a block, and keep the best by held-out samples.

    Args:
        module: the block; its weights change.
        keys: of the weights to train.
        training: samples to train on.
        held_out: samples to choose by.
        seed: of the order of the samples.
    """
    start = {key: look_up(module, key).detach().clone() for key in keys}
    before = block_error(module, held_out.all())
    for rate in _RATES:
        _put(module, start)
        trained = _trained(module, keys, training, held_out, rate, seed)
        if trained.after < before * (1 - _MIN_GAIN):
            return TrainedBlock(before, trained.after, trained.weights)
    return TrainedBlock(before, before, {})


@torch.no_grad()
def block_error(module: OnnxModule, batches: Iterable[BlockBatch]) -> float:
    """Return the relative error of a block's outputs, its root mean square over the outputs."""
    sums = [_squares(as_list(module(*inputs)), targets) for inputs, targets in batches]
    lost, size = np.sum(sums, axis=0)
    return float(np.sqrt(np.mean(lost / np.maximum(size, _MIN_SIZE))))


def _squares(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[list[float]]:
    """Return the sums of squares of differences and of the original, shape (2, tensors)."""
    lost = [float((a - b).square().sum()) for a, b in zip(ours, theirs, strict=True)]
    return [lost, [float(b.square().sum()) for b in theirs]]


def _trained(
    module: OnnxModule, keys: Sequence[str], training: BlockSamples, held_out: BlockSamples, rate: float, seed: int
) -> TrainedBlock:
    """Train with one learning rate, and look at the held-out samples several times."""
    weights = [look_up(module, key) for key in keys]
    optimizer, generator = Muon(weights, lr=0.0), np.random.default_rng(seed)
    energies = _energies(training)
    best = TrainedBlock(0.0, inf, {})
    for step, (inputs, targets) in enumerate(islice(training.steps(generator), _STEPS)):
        interruption.check()
        for group in optimizer.param_groups:
            group["lr"] = rate * warmup_cosine(step, _STEPS)
        compared = zip(as_list(module(*inputs)), targets, energies, strict=True)
        loss = torch.stack([(ours - theirs).square().mean() / energy for ours, theirs, energy in compared]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, _MAX_GRADIENT_NORM)
        optimizer.step()
        if (step + 1) * _LOOKS // _STEPS > step * _LOOKS // _STEPS:
            error = block_error(module, held_out.all())
            if error < best.after:  # not NaN
                best = TrainedBlock(0.0, error, {key: look_up(module, key).detach().clone() for key in keys})
    return best


def _energies(training: BlockSamples) -> list[float]:
    """Return the mean square of each of the original's outputs, over the first samples."""
    first = next(training.all()).targets
    return [max(float(theirs.square().mean()), _MIN_SIZE) for theirs in first]


@torch.no_grad()
def _put(module: OnnxModule, weights: Mapping[str, Tensor]) -> None:
    for key, tensor in weights.items():
        look_up(module, key).copy_(tensor)
