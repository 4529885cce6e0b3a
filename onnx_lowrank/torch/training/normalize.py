"""Batch normalization behind convolutions, during training only.

A converted network has none: its layers were solved with it folded away. Without it only small learning rates work.
So every last convolution of a chain gets one for the time of the training. It starts as the identity: scale and shift
are the standard deviation and the mean of its input. In the end it is folded into the weight and the bias::

    y = scale (W x + b - mean) / sqrt(variance + eps) + shift
      = (g W) x + g (b - mean) + shift,    g = scale / sqrt(variance + eps)

References:
    Ioffe, Szegedy 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
import torch
import torch.distributed as processes
import torch.distributed.nn.functional as between
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from onnx_lowrank.torch.module.to_module import OnnxModule

MIN_NORMALIZED_BATCH = 16  # samples per step; statistics of fewer are too noisy
_EPSILON = 1e-5
_MOMENTUM = 0.1  # weight of a batch in the running statistics


@dataclass(frozen=True)
class NormalizedConvolution:
    """A convolution that gets a normalization behind it.

    Attributes:
        output: name of its output.
        weight: name of its weight.
        bias: name of its bias.
    """

    output: str
    weight: str
    bias: str


class Normalization(nn.Module):
    """Batch normalization, synchronized over all processes that train together.

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.mean, self.variance = nn.Buffer(torch.zeros(channels)), nn.Buffer(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize by the statistics of the batch in training, by the running statistics in evaluation.

        Args:
            x: shape (samples, channels, ...).
        """
        is_single = not (self.training and processes.is_available() and processes.is_initialized())
        if is_single or processes.get_world_size() == 1:
            normalized: Tensor = F.batch_norm(
                x, self.mean, self.variance, self.scale, self.shift, self.training, _MOMENTUM, _EPSILON
            )
            return normalized
        return self._synchronized(x)

    @torch.no_grad()
    def set_identity(self, mean: Tensor, variance: Tensor) -> None:
        """Become the identity for inputs with these statistics.

        Args:
            mean: shape (channels,).
            variance: shape (channels,).
        """
        self.mean.copy_(mean)
        self.variance.copy_(variance)
        self.scale.copy_((variance + _EPSILON).sqrt())
        self.shift.copy_(mean)

    def gain(self) -> Tensor:
        """Return the factor of each channel in evaluation, shape (channels,)."""
        gain: Tensor = self.scale * torch.rsqrt(self.variance + _EPSILON)
        return gain

    def _synchronized(self, x: Tensor) -> Tensor:
        """Normalize by the statistics of the batch over all processes."""
        axes, by_channel = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        # In single precision, like F.batch_norm.
        whole = x.float()
        count = between.all_reduce(whole.new_tensor(x.numel() / x.shape[1]))
        mean = between.all_reduce(whole.sum(axes)) / count
        centred = whole - mean.reshape(by_channel)
        variance = between.all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.mean.lerp_(mean, _MOMENTUM)
            self.variance.lerp_(variance * count / (count - 1), _MOMENTUM)
        gain = self.scale * torch.rsqrt(variance + _EPSILON)
        normalized: Tensor = centred * gain.reshape(by_channel) + self.shift.reshape(by_channel)
        return normalized.to(x.dtype)


class NormalizedNetwork(nn.Module):
    """A network with normalizations in it.

    Args:
        network: gets the normalizations, as functions behind its tensors.
        convolutions: those that get one.
    """

    def __init__(self, network: OnnxModule, convolutions: Iterable[NormalizedConvolution]) -> None:
        super().__init__()
        self.network = network
        self._convolutions = tuple(convolutions)
        state = network.state_dict()
        biases = [state[network.keys[convolution.bias]] for convolution in self._convolutions]
        self.normalizations = nn.ModuleList(Normalization(len(bias)).to(bias.device) for bias in biases)
        network.behind = {convolution.output: normalization for convolution, normalization in self._pairs()}

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the network."""
        outputs: Tensor | tuple[Tensor, ...] = self.network(*inputs)
        return outputs

    @torch.no_grad()
    def start_as_identity(self, batches: Iterable[list[Tensor]]) -> None:
        """Initialize the normalizations so that they change nothing, from the statistics of their inputs.

        Args:
            batches: inputs of the network.
        """
        if not self._convolutions:
            return
        moments = self._moments(batches)
        for convolution, normalization in self._pairs():
            mean, square = torch.stack(moments[convolution.output]).mean(0)
            normalization.set_identity(mean.float(), (square - mean.square()).clamp(min=0).float())

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """Return a copy of the state of the network alone, with the normalizations folded into its weights."""
        keys = self.network.keys
        state = {key: tensor.detach().clone() for key, tensor in self.network.state_dict().items()}
        for convolution, normalization in self._pairs():
            weight, bias, gain = state[keys[convolution.weight]], state[keys[convolution.bias]], normalization.gain()
            weight *= gain.reshape(-1, *[1] * (weight.ndim - 1))
            bias.sub_(normalization.mean).mul_(gain).add_(normalization.shift)
        return state

    def _moments(self, batches: Iterable[list[Tensor]]) -> dict[str, list[Tensor]]:
        """Return the mean and the mean square per channel, shape (2, channels), of every output and batch."""
        network = self.network
        moments: dict[str, list[Tensor]] = {convolution.output: [] for convolution in self._convolutions}
        behind, outputs = network.behind, network.outputs
        network.behind, network.outputs = {}, tuple(moments)
        for inputs in batches:
            result = network(*inputs)
            for name, tensor in zip(moments, [result] if isinstance(result, Tensor) else result, strict=True):
                by_channel = tensor.transpose(0, 1).flatten(1).double()
                moments[name].append(torch.stack([by_channel.mean(1), by_channel.square().mean(1)]))
        network.behind, network.outputs = behind, outputs
        return moments

    def _pairs(self) -> Iterator[tuple[NormalizedConvolution, Normalization]]:
        for convolution, normalization in zip(self._convolutions, self.normalizations, strict=True):
            assert isinstance(normalization, Normalization)
            yield convolution, normalization


def normalized_convolutions(graph: onnx.GraphProto, original: onnx.GraphProto) -> list[NormalizedConvolution]:
    """Return the convolutions that end a chain of factors and have a weight and a bias that nothing else reads.

    A convolution that reads what the original has too is none: thin factors are badly conditioned, whole layers and
    those that only lost channels are not, and the noise of a batch's statistics makes these worse.

    Args:
        graph: of the converted network.
        original: that of the network it was made of.
    """
    readers = Counter(name for node in graph.node for name in node.input)
    initializers = {tensor.name for tensor in graph.initializer}
    graph_outputs = {value.name for value in graph.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv" and not node.domain]
    inner = {node.input[0] for node in convolutions if readers[node.input[0]] == 1}
    known = {name for node in original.node for name in node.output} | {value.name for value in original.input}
    result = []
    for node in convolutions:
        output = node.output[0]
        own = [name for name in node.input[1:] if name in initializers and readers[name] == 1]
        if len(own) == 2 and node.input[0] not in known and output not in inner and output not in graph_outputs:
            result.append(NormalizedConvolution(output, *own))
    return result
