"""A layer as the solver sees it: weights, geometry, activation; and a layer that is left as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.layers.activation import Activation
from onnx_lowrank.layers.channel_group import ChannelGroup, removable


@dataclass(frozen=True)
class Geometry:
    """Strides, dilations and pads of a convolution, one entry per spatial axis.

    A transposed convolution is one of step 1 over its input with ``stride - 1`` zeros put between neighbours. Its pads
    are those of ONNX all the same: what is cut off its output.

    Attributes:
        strides: step per axis; of a transposed convolution, on its output.
        dilations: kernel spacing per axis.
        pads: zeros before each axis, then zeros after each axis (ONNX order); all 0 where ``auto_pad`` decides.
        auto_pad: ``NOTSET``, ``VALID``, ``SAME_UPPER`` or ``SAME_LOWER``; of a transposed convolution ``NOTSET``.
        output_padding: what a transposed convolution adds at the end of each axis; None for any other convolution.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"
    output_padding: tuple[int, ...] | None = None

    @property
    def transposed(self) -> bool:
        """Whether it is that of a transposed convolution."""
        return self.output_padding is not None

    @cached_property
    def by_axis(self) -> tuple[Geometry, ...]:
        """One geometry per axis: along the others the kernel is 1 and moves by single steps, unpadded."""
        return tuple(self._along(axis) for axis in range(len(self.strides)))

    def _along(self, axis: int) -> Geometry:
        def only(values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
            return tuple(value if index == axis else neutral for index, value in enumerate(values))

        half = len(self.pads) // 2
        pads = only(self.pads[:half], 0) + only(self.pads[half:], 0)
        more = None if self.output_padding is None else only(self.output_padding, 0)
        return Geometry(only(self.strides, 1), only(self.dilations, 1), pads, self.auto_pad, more)


@cache
def pointwise(axes: int) -> Geometry:
    """Return the geometry of a 1 x 1 convolution over ``axes`` spatial axes."""
    return Geometry((1,) * axes, (1,) * axes, (0,) * (2 * axes))


@dataclass(frozen=True)
class StoredTensor:
    """Values in a file that are a layer's weight or bias.

    Attributes:
        name: identifies them: layers that share a weight have one name for it.
        size: number of values.
        nbytes: bytes of all that they are computed from, such as quantized values and their scales.
        kind: element type in the file, such as ``float32`` or ``int4``.
        readers: names of the other nodes that read them.
        stays: whether something other than a layer reads them, so that they stay in the file in any case.
    """

    name: str
    size: int
    nbytes: int
    kind: str
    readers: tuple[str, ...] = ()
    stays: bool = False


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution or fully connected layer that can be factorized, with what belongs to it folded in.

    A fully connected layer is a 1-D convolution of kernel 1 over the rows of a sample, with channels last. A transposed
    convolution is a convolution of its input with zeros between neighbours, see `Geometry`.

    Attributes:
        name: the node's name, or its output's where the node has none; unique in the model.
        op: ONNX operator, ``Conv``, ``ConvTranspose``, ``Gemm`` or ``MatMul``.
        weight: filters, shape (d, c / groups, kh, kw), with one kernel axis or three for 1-D and 3-D convolutions,
            batch normalization folded in, the model's float type. Those of a transposed convolution have their kernels
            reversed, as a convolution of the input with zeros in between has them.
        bias: shape (d,), zeros where the layer has none, batch normalization folded in.
        geometry: strides, dilations, pads.
        activation: the function behind the response (after the residual sum, where there is one).
        input: name of the tensor that the convolution reads.
        response: name of its output before the activation (after a folded BatchNormalization).
        residual: name of the tensor added to the response before the activation, which may be none; or None.
        nodes: first output of every node that the factorized chain replaces.
        positions: spatial size of the response, (height, width); as many axes as the kernel has.
        input_size: spatial size of the input, (height, width).
        channels_last: whether channels are the last axis of input and response, as in fully connected layers.
        groups: equal parts of the channels, each convolved separately, with the same number of filters each.
        maps: entries of the first axis of input and response that belong to one sample, where they are not rows of a
            fully connected layer: 1, or more where a network folds views or frames into that axis.
        run: consecutive `rows` that belong to one sample; None where all of a sample's rows lie together.
        stored: where the file holds the weight, then the bias if there is one; empty where that is not known.
        reads: groups of its input's channels that may be left out with all that makes them; or why all have to stay.
    """

    name: str
    op: str
    weight: NDArray[Any]
    bias: NDArray[Any]
    geometry: Geometry
    activation: Activation
    input: str
    response: str
    residual: str | None
    nodes: tuple[str, ...]
    positions: tuple[int, ...]
    input_size: tuple[int, ...]
    channels_last: bool = False
    groups: int = 1
    maps: int = 1
    run: int | None = None
    stored: tuple[StoredTensor, ...] = ()
    reads: tuple[ChannelGroup, ...] | str = "it is not known what makes them"

    @property
    def filters(self) -> int:
        """Output channels d."""
        return int(self.weight.shape[0])

    @property
    def channels(self) -> int:
        """Input channels c."""
        return self.groups * int(self.weight.shape[1])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Kernel size, (kh, kw)."""
        return tuple(int(size) for size in self.weight.shape[2:])

    @property
    def parts(self) -> list[tuple[Layer, slice, slice]]:
        """Every group as a layer of its own, with the slice of channels that it reads and that of its filters."""
        parts = []
        for group in range(self.groups):
            channels, filters = (
                slice(group * count // self.groups, (group + 1) * count // self.groups)
                for count in (self.channels, self.filters)
            )
            part = replace(
                self,
                weight=self.weight[filters],
                bias=self.bias[filters],
                activation=self.activation.part(filters),
                groups=1,
            )
            parts.append((part, channels, filters))
        return parts

    def stays(self, reason: str) -> SkippedLayer:
        """Return this layer as one that is left as it is.

        Args:
            reason: why, in words.
        """
        return SkippedLayer(self.name, self.op, reason, self.macs, self.parameters, self.stored)

    @property
    def shared_with(self) -> tuple[str, ...]:
        """Names of the other nodes that read the weight."""
        return self.stored[0].readers if self.stored else ()

    @property
    def stored_bytes(self) -> int:
        """Bytes of weight and bias in the file: fewer than as numbers of the layer's type where they are quantized."""
        if not self.stored:
            return self.parameters * self.weight.itemsize
        return sum(tensor.nbytes for tensor in self.stored)

    @property
    def compressed(self) -> str | None:
        """The type that the weight is stored in, where that takes less space than its own: ``int4``; else None."""
        return self.stored[0].kind if self.stored and self.stored[0].nbytes < self.weight.nbytes else None

    @property
    def single_point(self) -> bool:
        """Whether its kernel has one point, as those of 1 x 1 convolutions and fully connected layers."""
        return prod(self.kernel) == 1

    @property
    def separable(self) -> bool:
        """Whether it can be factorized into a vertical and a horizontal convolution."""
        return len(self.kernel) == 2 and max(self.kernel) > 1

    @property
    def depthwise(self) -> bool:
        """Whether each of its filters reads one channel, and no two the same."""
        return self.groups > 1 and self.groups == self.channels == self.filters

    @property
    def narrowable(self) -> bool:
        """Whether some of the channels that it reads can be left out."""
        return self.min_width < self.channels

    @property
    def read_groups(self) -> tuple[ChannelGroup, ...]:
        """Groups of its input's channels that may be left out, none where all have to stay."""
        return () if isinstance(self.reads, str) else self.reads

    @property
    def min_width(self) -> int:
        """Channels of its input that are left where as many as possible are left out."""
        return self.channels - removable(self.read_groups)

    @property
    def rows(self) -> int:
        """Positions of a sample: those of all its maps."""
        return self.maps * prod(self.positions)

    @property
    def work_size(self) -> tuple[int, ...]:
        """Positions of a map that the whole weight is multiplied at: of the response, of the input where transposed."""
        return self.input_size if self.geometry.transposed else self.positions

    @property
    def macs(self) -> int:
        """Multiply-adds per image, bias not counted."""
        return self.maps * prod(self.work_size) * self.weight.size

    @property
    def parameters(self) -> int:
        """Number of weights and biases; a bias of zeros is not counted."""
        return self.weight.size + (self.filters if self.bias.any() else 0)


@dataclass(frozen=True)
class SkippedLayer:
    """An operator with weights or products that stays as it is, and why.

    Counted are convolutions and transposed ones, products of matrices (of constants, computed weights or two
    activations; integer ones too), Einsum, recurrent and attention operators. Bodies of If, Loop and Scan count once,
    as far as their sizes can be inferred. Multiply-adds elsewhere (BatchNormalization, a Mul) are not counted.

    Attributes:
        name: the node's name, or its output's where the node has none.
        op: ONNX operator.
        reason: why it is not factorized, in words.
        macs: multiply-adds per sample, bias not counted; 0 where sizes are not known.
        parameters: number of constant weights and biases; 0 where they are computed from the inputs.
        stored: where the file holds these; empty where that is not known.
        varies: whether its multiply-adds differ from sample to sample; ``macs`` is their mean then.
    """

    name: str
    op: str
    reason: str
    macs: int
    parameters: int
    stored: tuple[StoredTensor, ...] = ()
    varies: bool = False
