"""Batch normalization behind convolutions while a network is trained, and none in the network that comes out.

A converted network has none: its layers were solved with it folded away. Without it only small learning rates work.
So every last convolution of a chain gets one for the time of the training. It starts as the identity: scale and shift
are the deviation and the mean of what arrives. In the end it is folded into the weight and the bias again::

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

LEAST_BATCH = 16  # samples in a step; the statistics of fewer are noise
_EPSILON = 1e-5
_MOMENTUM = 0.1  # share of a batch in the running statistics


@dataclass(frozen=True)
class Place:
    """A convolution that can have a normalization behind it.

    Attributes:
        output: the tensor it makes.
        weight: name of its weight.
        bias: name of its bias.
    """

    output: str
    weight: str
    bias: str


class Normalization(nn.Module):
    """Batch normalization over all processes that train together.

    Args:
        channels: how many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.mean, self.variance = nn.Buffer(torch.zeros(channels)), nn.Buffer(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize by the statistics of the batch in training, by the running ones otherwise.

        Args:
            x: shape (samples, channels, ...).
        """
        alone = not (self.training and processes.is_available() and processes.is_initialized())
        if alone or processes.get_world_size() == 1:
            alike: Tensor = F.batch_norm(
                x, self.mean, self.variance, self.scale, self.shift, self.training, _MOMENTUM, _EPSILON
            )
            return alike
        return self._over_all(x)

    @torch.no_grad()
    def start_at(self, mean: Tensor, variance: Tensor) -> None:
        """Be the identity for tensors of these statistics."""
        self.mean.copy_(mean)
        self.variance.copy_(variance)
        self.scale.copy_((variance + _EPSILON).sqrt())
        self.shift.copy_(mean)

    def gain(self) -> Tensor:
        """What each channel is multiplied by."""
        found: Tensor = self.scale * torch.rsqrt(self.variance + _EPSILON)
        return found

    def _over_all(self, x: Tensor) -> Tensor:
        axes, places = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        # In single precision, as what is not distributed does it.
        whole = x.float()
        count = between.all_reduce(whole.new_tensor(x.numel() / x.shape[1]))
        mean = between.all_reduce(whole.sum(axes)) / count
        centred = whole - mean.reshape(places)
        variance = between.all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.mean.lerp_(mean, _MOMENTUM)
            self.variance.lerp_(variance * count / (count - 1), _MOMENTUM)
        gain = self.scale * torch.rsqrt(variance + _EPSILON)
        alike: Tensor = centred * gain.reshape(places) + self.shift.reshape(places)
        return alike.to(x.dtype)


class Normalized(nn.Module):
    """A network with normalizations in it.

    Args:
        network: it gets the normalizations; what they make of its tensors is part of it from now on.
        places: where they go.
    """

    def __init__(self, network: OnnxModule, places: Iterable[Place]) -> None:
        super().__init__()
        self.network = network
        self._places = tuple(places)
        state = network.state_dict()
        biases = [state[network.keys[place.bias]] for place in self._places]
        self.normalizations = nn.ModuleList(Normalization(len(bias)).to(bias.device) for bias in biases)
        network.behind = {place.output: each for place, each in self._pairs()}

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the network makes of its inputs."""
        found: Tensor | tuple[Tensor, ...] = self.network(*inputs)
        return found

    @torch.no_grad()
    def start(self, batches: Iterable[list[Tensor]]) -> None:
        """Have the normalizations change nothing, by what arrives at them.

        Args:
            batches: inputs of the network.
        """
        seen: dict[str, list[Tensor]] = {place.output: [] for place in self._places}
        network, before = self.network, (self.network.behind, self.network.outputs)
        network.behind, network.outputs = {}, tuple(seen)
        for inputs in batches if seen else ():  # a network asked for no outputs cannot be run
            found = network(*inputs)
            for name, tensor in zip(seen, [found] if isinstance(found, Tensor) else found, strict=True):
                wide = tensor.transpose(0, 1).flatten(1).double()
                seen[name].append(torch.stack([wide.mean(1), wide.square().mean(1)]))
        network.behind, network.outputs = before
        for place, each in self._pairs():
            mean, square = torch.stack(seen[place.output]).mean(0)
            each.start_at(mean.float(), (square - mean.square()).clamp(min=0).float())

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """A copy of the state of the network alone, with the normalizations folded into its weights."""
        keys = self.network.keys
        state = {key: tensor.detach().clone() for key, tensor in self.network.state_dict().items()}
        for place, each in self._pairs():
            weight, bias, gain = state[keys[place.weight]], state[keys[place.bias]], each.gain()
            weight *= gain.reshape(-1, *[1] * (weight.ndim - 1))
            bias.sub_(each.mean).mul_(gain).add_(each.shift)
        return state

    def _pairs(self) -> Iterator[tuple[Place, Normalization]]:
        for place, each in zip(self._places, self.normalizations, strict=True):
            assert isinstance(each, Normalization)
            yield place, each


def places_of(graph: onnx.GraphProto) -> list[Place]:
    """Convolutions with a weight and a bias of their own that end a chain.

    Args:
        graph: of the converted network.
    """
    reads = Counter(name for node in graph.node for name in node.input)
    held = {tensor.name for tensor in graph.initializer}
    outside = {value.name for value in graph.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv" and not node.domain]
    inner = {node.input[0] for node in convolutions if reads[node.input[0]] == 1}
    found = []
    for node in convolutions:
        output, own = node.output[0], [name for name in node.input[1:] if name in held and reads[name] == 1]
        if len(own) == 2 and output not in inner and output not in outside:
            found.append(Place(output, *own))
    return found
