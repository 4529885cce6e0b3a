"""Measure what the outputs of a network feel of each channel of its layers' responses, by gradients in PyTorch.

    w_j = sum_i (dL_i / dy_ij)^2   /   sum_i r'(y_ij)^2

with i over the positions of some samples. The division by the slope of the activation brings gradients from before it
to behind it. L asks for no labels: where an output scores classes, a random mixture of the scores is drawn whose
gradient has the Fisher matrix as its second moments, the curvature of the Kullback-Leibler divergence::

    L_i = v_i . scores_i,   E v v' = diag(p) - p p',   p the network's own probabilities

and the numbers of all other outputs are added up with random signs, each output relative to its size.

References:
    Martens 2020, arXiv:1412.1193, New insights and perspectives on the natural gradient method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_lowrank import interruption
from onnx_lowrank.calibrate import iterate_batches
from onnx_lowrank.calibrate.calibration import CalibrationSet
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import inline_all_functions
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.output_weights import OutputWeights
from onnx_lowrank.runtime.backends.foreign_errors import as_model_error
from onnx_lowrank.runtime.memory import budget_bytes
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.runtime.progress import track_samples
from onnx_lowrank.settings import Settings
from onnx_lowrank.torch.blocks.segment import Arrays
from onnx_lowrank.torch.module.to_module import OnnxModule, Value, to_torch
from onnx_lowrank.torch.threads import torch_threads
from onnx_lowrank.torch.training.objective import ends_in_softmax
from onnx_lowrank.torch.training.trainer import as_list

Floats = NDArray[np.float64]

_MIN_SAMPLES, _MAX_SAMPLES = 16, 256  # that gradients are taken for
_MAX_MACS = 20_000_000_000  # of these together, in the forward pass, where that leaves enough of them
_STEP_ELEMENTS = 2**22  # numbers of the largest response in a batch: all of a network stay in memory
_BYTES_PER_NUMBER = 16  # of all responses: each, its activation and their gradients
_DRAWS = 2  # of mixtures and signs, for each sample
_MIN_PROBABILITY = 1e-12
_MIN_SIZE = 1e-30  # that is divided by
_LEAST_SLOPE = 1e-3  # of the mean over the channels: a dead one has no slope


def measure_output_weights(
    network: Network, layers: LayerSet, calibration: CalibrationSet, settings: Settings, monitor: Monitor
) -> OutputWeights:
    """Measure the weights of all layers that may be solved, on some of the calibration samples.

    Raises:
        ModelError: PyTorch cannot run the network, or that would take more memory than there is.
    """
    step, sizes = calibration.smallest_batch, [layer.rows * layer.filters for layer in layers.sampled]
    needed = _BYTES_PER_NUMBER * step * sum(sizes)
    if needed > budget_bytes(settings.memory):
        raise ModelError(
            f"gradients at the responses of all layers would take {needed / 1e9:.2g} GB, "
            f"{budget_bytes(settings.memory) / 1e9:.2g} GB are there: give more `memory`, or `weighting='none'`"
        )
    wanted = min(_MAX_SAMPLES, max(_MIN_SAMPLES, _MAX_MACS // max(1, layers.macs)))
    some = calibration.split.calibration[: max(1, wanted // step) * step]
    batches = iterate_batches(calibration.samples, some, max(1, _STEP_ELEMENTS // max(sizes) // step) * step)
    tracked = track_samples(monitor, batches, "weigh", len(some))
    with torch_threads(settings.threads):
        return OutputWeights.of_squares(sensitivities(network.model, layers.sampled, tracked, settings.seed))


def sensitivities(
    model: onnx.ModelProto, layers: Sequence[Layer], batches: Iterable[Arrays], seed: int
) -> dict[str, Floats]:
    """Return what the outputs feel of each channel of the layers' responses, behind their activations.

    Args:
        model: the network.
        layers: of it.
        batches: samples by input name.
        seed: of the mixtures of scores, and of the signs, that are drawn.

    Returns:
        Sums of squares of gradients by layer name, shape (2, d): those of every other sample, and of the others, each
        in an arbitrary unit. None of layers that no output that is a floating-point tensor depends on.

    Raises:
        ModelError: PyTorch cannot run the network.
    """
    module = to_torch(inline_all_functions(model), torch.float32)
    outputs = module.outputs
    names = [name for layer in layers for name in (layer.response, layer.residual) if name]
    module.outputs = tuple(dict.fromkeys((*outputs, *names)))
    draw = partial(_loss, outputs, [ends_in_softmax(model.graph, name) for name in outputs], _generator(seed))
    felt, slopes = ({layer.name: np.zeros((2, layer.filters)) for layer in layers} for _ in range(2))
    first = 0
    for batch in batches:
        interruption.check()
        with as_model_error("PyTorch cannot run it"):
            for name, squares, slope in _of_batch(module, layers, batch, draw):
                for half in range(2):
                    felt[name][half] += squares[(first + half) % 2 :: 2].sum(axis=0)
                    slopes[name][half] += slope
        first += len(next(iter(batch.values())))
    return {name: squares / _at_least(slopes[name]) for name, squares in felt.items() if squares.any()}


def _of_batch(
    module: OnnxModule, layers: Sequence[Layer], batch: Arrays, draw: Callable[[dict[str, Value]], Tensor | None]
) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield layers by name with squares of gradients of one batch, shape (samples, d), and of slopes, shape (d,)."""
    tensors = dict(zip(module.outputs, as_list(module(*_inputs(module, batch))), strict=True))
    reached = [layer for layer in layers if tensors[layer.response].requires_grad]
    squares = {layer.name: np.zeros((len(next(iter(batch.values()))), layer.filters)) for layer in reached}
    for _ in range(_DRAWS):
        loss = draw(tensors)
        if loss is None:
            return
        responses = [tensors[layer.response] for layer in reached]
        gradients = torch.autograd.grad(loss, responses, retain_graph=True, allow_unused=True)
        for layer, gradient in zip(reached, gradients, strict=True):
            if gradient is not None:
                squares[layer.name] += _sums_of_squares(layer, gradient, len(squares[layer.name]))
    for layer in reached:
        response = _rows(layer, tensors[layer.response])
        if layer.residual:
            response = response + _rows(layer, tensors[layer.residual])
        _, slope = layer.activation.with_slope(response)
        yield layer.name, squares[layer.name], np.sum(np.square(slope, dtype=np.float64), axis=0)


def _loss(
    outputs: Sequence[str], probabilities: Sequence[bool], generator: torch.Generator, tensors: dict[str, Value]
) -> Tensor | None:
    """Return what gradients are taken of, for one batch; None where no output is a tensor that has one."""
    losses: list[Tensor] = []
    for name, is_probability in zip(outputs, probabilities, strict=True):
        output = tensors[name]
        if not (isinstance(output, Tensor) and output.is_floating_point() and output.requires_grad):
            continue
        if output.ndim == 2 and output.shape[1] > 1:
            scores = output.clamp(min=_MIN_PROBABILITY).log() if is_probability else output
            losses.append((scores * _drawn(scores.detach().softmax(1), generator)).sum())
        else:
            signs = torch.randint(0, 2, output.shape, generator=generator) * 2 - 1
            size = output.detach().square().mean() * output[0].numel() if output.ndim else output.detach().square()
            losses.append((output * signs).sum() / size.sqrt().clamp(min=_MIN_SIZE))
    return torch.stack(losses).sum() if losses else None


def _drawn(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Draw vectors of covariance ``diag(p) - p p'``, the Fisher matrix of scores, shape (samples, classes)."""
    root = probabilities.sqrt()
    normal = torch.randn(root.shape, generator=generator)
    return root * (normal - root * (root * normal).sum(1, keepdim=True))


def _inputs(module: OnnxModule, batch: Arrays) -> list[Tensor]:
    """Return the inputs of a network in their order."""
    arrays = (np.ascontiguousarray(batch[name]) for name in module.inputs)
    tensors = [torch.from_numpy(each.astype(np.float32) if each.dtype.kind == "f" else each) for each in arrays]
    return [each.contiguous(memory_format=torch.channels_last) if each.ndim == 4 else each for each in tensors]


def _rows(layer: Layer, tensor: Value) -> NDArray[Any]:
    """Return a response as rows, sample by sample, shape (n, d)."""
    array = np.asarray(tensor.detach()) if isinstance(tensor, Tensor) else tensor
    return np.moveaxis(array, -1 if layer.channels_last else 1, -1).reshape(-1, layer.filters)


def _sums_of_squares(layer: Layer, gradient: Tensor, samples: int) -> Floats:
    """Return sums over the positions of each sample, which lie one behind the other, shape (samples, d)."""
    squares = gradient.square()
    rows = squares.reshape(-1, layer.filters) if layer.channels_last else squares.sum(tuple(range(2, squares.ndim)))
    return np.stack([part.double().sum(0).numpy() for part in rows.tensor_split(samples)])


def _at_least(slopes: Floats) -> Floats:
    bounded: Floats = np.maximum(slopes, max(_LEAST_SLOPE * float(slopes.mean()), _MIN_SIZE))
    return bounded


def _generator(seed: int) -> torch.Generator:
    generator = torch.Generator()
    generator.manual_seed(seed)
    return generator
