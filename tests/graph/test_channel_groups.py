"""Channels that one layer reads and nothing else: found in blocks of known networks; every reason why they stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_lowrank.graph import node_names
from onnx_lowrank.graph.channel_graph import ChannelGraph
from onnx_lowrank.graph.channel_groups import channel_groups
from onnx_lowrank.graph.index import GraphIndex, node_key
from onnx_lowrank.layers.channel_group import ChannelGroup, Run
from tests.helpers import Array, build, filters, find, normal

X = normal(1, 2, 4, 8, 7)
M = 6  # channels of the group in every block below
EFFICIENTNETS = [folder / "shared/models/efficientnet_lite0.onnx" for folder in Path(__file__).parents]
STEM = {"w0": filters(0, M, 4, 3, 3), "b0": normal(20, M)}
LAST = {"w9": filters(9, 5, M, 1, 1), "b9": normal(29, 5)}


def normalization(seed: int, channels: int, prefix: str) -> dict[str, Array]:
    gamma, beta, mean, variance = (normal(seed + place, channels) for place in range(4))
    values = (1 + gamma / 4, beta, mean / 2, 1 + variance**2)
    return {f"{prefix}{place}": value for place, value in enumerate(values)}


def block(body: str, weights: dict[str, Any] | None = None, **options: Any) -> onnx.ModelProto:
    """A network of a first layer `a`, what is in between, and a last layer `y` that reads the tensor `z`."""
    layers = f"a = Conv<pads=[1,1,1,1]>(x, w0, b0) {body} y = Conv(z, w9, b9)"
    constants = {key: np.asarray(value) for key, value in (STEM | LAST | (weights or {})).items()}
    return build(f"g (float[N,4,8,7] x) => (float[N,5,e,f] y) {{ {layers} }}", constants, **options)


def inverted_residual() -> onnx.ModelProto:
    """MobileNetV2's block: 4 -> 6 -> depthwise -> 4, with BatchNormalization as trained, and a shortcut around it."""
    return build(
        """g (float[N,4,8,7] x) => (float[N,4,8,7] y) {
            s = Conv<pads=[1,1,1,1]>(x, ws)
            e = Conv(s, we)  en = BatchNormalization(e, n0, n1, n2, n3)  er = Clip(en, zero, six)
            d = Conv<pads=[1,1,1,1], group=6>(er, wd)  dn = BatchNormalization(d, m0, m1, m2, m3)
            dr = Clip(dn, zero, six)
            p = Conv(dr, wp)  pn = BatchNormalization(p, q0, q1, q2, q3)
            t = Add(s, pn)  y = Relu(t)
        }""",
        {
            **{"ws": filters(0, 4, 4, 3, 3), "we": filters(1, M, 4, 1, 1), "wd": filters(2, M, 1, 3, 3)},
            **{"wp": filters(3, 4, M, 1, 1), "zero": np.float32(0), "six": np.float32(6)},
            **normalization(4, M, "n") | normalization(8, M, "m") | normalization(12, 4, "q"),
        },
    )


GATE = {"ws": filters(5, 3, M, 1, 1), "bs": normal(6, 3), "wt": filters(7, M, 3, 1, 1), "bt": normal(8, M)}
GATE_OF = "p = GlobalAveragePool({0})  s = Conv(p, ws, bs)  sr = {1}  t = Conv(sr, wt, bt)  g = {2}(t)  "

SWISH = "sg = Sigmoid(s)  sw = Mul(s, sg)"
DENSE = {"ws": normal(5, M, 3), "bs": normal(6, 3), "wt": normal(7, M, 3), "bt": normal(8, M)}
ERF = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
TANH = {"cubic": np.float32(0.0447), "c": np.float32(0.8), "three": np.float32(3)}

# Everything in between the first layer and the last, and the group that the last one reads.
BLOCKS: dict[str, tuple[str, dict[str, Any], dict[str, tuple[str, ...]]]] = {
    "one activation": ("z = Relu(a)", {}, {}),
    "nothing": ("z = Identity(a)", {}, {}),
    "BatchNormalization": ("n = BatchNormalization(a, n0, n1, n2, n3)  z = Relu(n)", normalization(3, M, "n"), {}),
    "InstanceNormalization": ("z = InstanceNormalization(a, i0, i1)", {"i0": normal(3, M), "i1": normal(4, M)}, {}),
    "depthwise": (
        "r = Relu(a)  d = Conv<group=6, strides=[2,1]>(r, wd, bd)  z = Clip(d, zero, six)",
        {"wd": filters(3, M, 1, 3, 3), "bd": normal(4, M), "zero": np.float32(0), "six": np.float32(6)},
        {"carried": ("d",)},
    ),
    "pools": (
        "m = MaxPool<kernel_shape=[2,2]>(a)  v = AveragePool<kernel_shape=[2,2], pads=[1,1,1,1]>(m)"
        "  z = LpPool<kernel_shape=[2,1]>(v)",
        {},
        {},
    ),
    "PRelu": ("q = PRelu(a, slope)  z = PRelu(q, shared)", {"slope": normal(3, M, 1, 1), "shared": normal(4, 1)}, {}),
    "constants": (
        "k0 = Add(a, c0)  k1 = Mul(c1, k0)  k2 = Sub(c2, k1)  k3 = Div(k2, c3)  k4 = Max(k3, c4)  z = Min(k4, c5)",
        {
            **{"c0": normal(3, M, 1, 1), "c1": normal(4, 1, M, 1, 1), "c2": normal(5, M, 8, 7)},
            **{"c3": 1 + normal(6, M, 1, 7) ** 2, "c4": normal(7, 8, 1), "c5": np.float32(2)},
        },
        {},
    ),
    "padded and resized": (
        'p = Pad<mode="reflect">(a, pads)  u = Resize<mode="nearest">(p, , scales)  z = Slice(u, from, to, axes)',
        {
            **{"pads": [0, 0, 1, 0, 0, 0, 0, 2], "scales": np.float32([1, 1, 2, 1])},
            **{"from": [1, 0], "to": [9, 5], "axes": [2, -1]},
        },
        {},
    ),
    "resized to a size": ("z = Resize(a, , , sizes)", {"sizes": [2, M, 5, 9]}, {}),
    "SiLU": ("g = Sigmoid(a)  z = Mul(a, g)", {}, {}),
    "HardSwish": ("z = HardSwish(a)", {}, {}),
    "HardSwish in parts": ("h = HardSigmoid<alpha=0.16666667>(a)  z = Mul(a, h)", {}, {}),
    "GELU": (
        "q = Div(a, root)  e = Erf(q)  o = Add(e, one)  m = Mul(a, o)  z = Mul(m, half)",
        ERF,
        {},
    ),
    "GELU by tanh": (  # a sum of two varying tensors, but of the same channels of the same layer
        "c3 = Pow(a, three)  k = Mul(c3, cubic)  s = Add(a, k)  l = Mul(s, c)  t = Tanh(l)  o = Add(t, one)"
        "  m = Mul(a, o)  z = Mul(m, half)",
        ERF | TANH,
        {},
    ),
    "residual of a depthwise convolution": (  # as in ConvMixer
        "d = Conv<group=6, pads=[1,1,1,1]>(a, wd)  r = Relu(d)  z = Add(a, r)",
        {"wd": filters(3, M, 1, 3, 3)},
        {"carried": ("d",)},
    ),
    "two layers multiplied": (  # a gated linear unit
        "b = Conv<pads=[1,1,1,1]>(x, wb)  g = Sigmoid(b)  z = Mul(a, g)",
        {"wb": filters(3, M, 4, 3, 3)},
        {"makers": ("a", "b")},
    ),
    "MobileNetV3": (
        "d = Conv<group=6, pads=[1,1,1,1]>(a, wd)"
        + GATE_OF.format("d", "Relu(s)", "HardSigmoid")
        + "m = Mul(d, g)  z = HardSwish(m)",
        GATE | {"wd": filters(3, M, 1, 3, 3)},
        {"makers": ("a", "t"), "carried": ("d",), "squeezed": ("s",)},
    ),
    "EfficientNet": (
        "i = Sigmoid(a)  j = Mul(a, i)  d = Conv<group=6, pads=[1,1,1,1]>(j, wd)  k = Sigmoid(d)  l = Mul(d, k)"
        "  p = GlobalAveragePool(l)  s = Conv(p, ws, bs)  sg = Sigmoid(s)  sw = Mul(s, sg)  t = Conv(sw, wt, bt)"
        "  g = Sigmoid(t)  z = Mul(g, l)",
        GATE | {"wd": filters(3, M, 1, 3, 3)},
        {"makers": ("a", "t"), "carried": ("d",), "squeezed": ("s",)},
    ),
    "gate of dense layers": (
        "p = ReduceMean<axes=[2,3], keepdims=0>(a)  s = Gemm(p, ws, bs)  r = Relu(s)  t = Gemm<transB=1>(r, wt, bt)"
        "  g = Sigmoid(t)  u = Reshape(g, shape)  z = Mul(a, u)",
        DENSE | {"shape": [-1, M, 1, 1]},
        {"makers": ("a", "t"), "squeezed": ("s",)},
    ),
    "gate of one layer": (
        "p = GlobalAveragePool(a)  t = Conv(p, wt)  g = Sigmoid(t)  z = Mul(a, g)",
        {"wt": filters(7, M, M, 1, 1)},
        {"makers": ("a", "t"), "squeezed": ("t",)},
    ),
    "gate as large as the image": (
        "b = Conv<pads=[1,1,1,1]>(x, wb)  g = Sigmoid(b)  z = Mul(a, g)",
        {"wb": filters(3, 1, 4, 3, 3)},
        {},
    ),
    "gate of the channels themselves": (
        "g = Conv(a, wg)  s = Sigmoid(g)  z = Mul(a, s)",
        {"wg": filters(3, M, M, 1, 1)},
        {"makers": ("a", "g"), "squeezed": ("g",)},
    ),
    "a second head of the pooled channels": (
        "z = Relu(a)  p = GlobalAveragePool(z)  s = Conv(p, ws)  unread = Relu(s)",
        {"ws": GATE["ws"]},
        {"readers": ("s",)},
    ),
    "transposed convolution": (
        "z = ConvTranspose<strides=[2,1]>(x, wb, bb)",
        {"wb": filters(3, 4, M, 3, 3), "bb": normal(4, M)},
        {"makers": ("z",)},
    ),
    "first half of a layer": (
        "b = Conv<pads=[1,1,1,1]>(x, wb, bb)  z, rest = Split<axis=1>(b)  unread = Relu(rest)",
        {"wb": filters(3, 2 * M, 4, 3, 3), "bb": normal(4, 2 * M)},
        {"makers": ("b",), "made": {"b": Run(0, 2 * M)}},
    ),
    "slice of a layer": (
        "b = Conv<pads=[1,1,1,1]>(x, wb, bb)  r = Relu(b)  z = Slice(r, from, to, axes, steps)"
        "  t = Slice(r, to, end, axes)  unread = Relu(t)",
        {
            **{"wb": filters(3, M + 5, 4, 3, 3), "bb": normal(4, M + 5), "from": [-8, 1], "to": [-2, 8]},
            **{"axes": [1, 2], "steps": [1, 1], "end": [100, 9]},
        },
        {"makers": ("b",), "made": {"b": Run(3, M + 5)}},
    ),
    "channels last": (
        "l = Transpose<perm=[0,2,3,1]>(a)  o = Add(l, c0)  r = Relu(o)  z = Transpose<perm=[0,3,1,2]>(r)",
        {"c0": normal(3, M)},
        {},
    ),
    "its own size": (
        "s = Shape(a)  h = Gather(s, place)  n = Cast<to=1>(h)  b = Conv(x, w1)  k = Div(b, n)  q = ReduceMax(k)"
        "  z = Mul(a, q)",
        {"place": 2, "w1": filters(3, 1, 4, 1, 1)},
        {},
    ),
    "computed weight": (  # weight normalization
        "sq = ReduceL2<axes=[1,2,3]>(v)  u = Div(v, sq)  w = Mul(u, gain)  c = Conv(x, w)  z = Relu(c)",
        {"v": filters(3, M, 4, 3, 3), "gain": normal(4, M, 1, 1, 1)},
        {"makers": ("c",)},
    ),
}


def groups_of(layer: str, model: onnx.ModelProto) -> tuple[ChannelGroup, ...] | str:
    """What `channel_groups` says of a layer."""
    index, names = GraphIndex(model), node_names(model)
    by_key = {node_key(node): name for node, name in zip(model.graph.node, names, strict=True)}
    graph = ChannelGraph(model, index)
    return channel_groups(graph, by_key, model.graph.node[names.index(layer)])


def group_of(layer: str, model: onnx.ModelProto) -> ChannelGroup | str:
    """The only group of a layer, which is of all of its channels, or why they stay."""
    groups = groups_of(layer, model)
    if isinstance(groups, str):
        return groups
    (group,) = groups
    return group


def in_block(name: str) -> onnx.ModelProto:
    body, weights, _ = BLOCKS[name]
    return block(body, weights, opset=17 if "HardSwish" in body else 13)


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    wanted = ChannelGroup(M, **{"makers": ("a",)} | BLOCKS[name][2])
    assert group_of("y", in_block(name)) == wanted


def test_layers_have_their_groups() -> None:
    layers, _ = find(inverted_residual(), {"x": X})
    assert {layer.name: layer.reads for layer in layers} == {
        "s": "made by the network's input 'x'",
        "e": "a shortcut shares its channels",
        "p": (ChannelGroup(M, ("e",), ("d",)),),
    }


def test_a_chain_makes_and_reads() -> None:
    model = build(
        """g (float[N,4,8,7] x) => (float[N,5] y) {
            a = Conv(x, wa)  ar = Relu(a)  b = Conv<pads=[1,1,1,1]>(ar, wb)  br = Relu(b)
            bp = MaxPool<kernel_shape=[2,2]>(br)  c = Conv(bp, wc)  cr = Relu(c)
            p = GlobalAveragePool(cr)  f = Flatten(p)  y = Gemm<transB=1>(f, wy)
        }""",
        {
            **{"wa": filters(0, 8, 4, 3, 3), "wb": filters(1, 7, 8, 3, 3), "wc": filters(2, 6, 7, 1, 1)},
            "wy": normal(3, 5, 6),
        },
    )
    layers, _ = find(model, {"x": X})
    assert [layer.reads for layer in layers] == [
        "made by the network's input 'x'",
        (ChannelGroup(8, ("a",)),),
        (ChannelGroup(7, ("b",)),),
        (ChannelGroup(6, ("c",)),),
    ]


@pytest.mark.parametrize(
    "flatten",
    [
        "p = GlobalAveragePool(r)  f = Flatten(p)",
        "p = GlobalMaxPool(r)  f = Squeeze(p, axes)",
        "p = ReduceMean<axes=[-1, 2], keepdims=0>(r)  f = Dropout(p)",
        "p = ReduceMean<axes=[2, 3]>(r)  f = Reshape(p, rows)",
        "p = GlobalAveragePool(r)  q = Relu(p)  f = Reshape(q, counted)",
        "p = AveragePool<kernel_shape=[8, 7]>(r)  f = Flatten(p)",
        "p = AveragePool<kernel_shape=[8, 7]>(r)  f = Reshape(p, copied)",
        "p = GlobalAveragePool(r)  s = Shape(x)  n = Gather(s, first)  u = Unsqueeze(n, first_axis)"
        "  t = Concat<axis=0>(u, rest)  f = Reshape(p, t)",
    ],
)
def test_pooled_into_rows(flatten: str) -> None:
    model = build(
        "g (float[N,4,8,7] x) => (float[N,5] y) "
        f"{{ a = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(a) {flatten} y = MatMul(f, w) }}",
        {
            **{"w0": STEM["w0"], "w": normal(3, M, 5), "axes": np.array([2, 3]), "rows": np.array([-1, M])},
            **{"counted": np.array([2, M]), "copied": np.array([0, -1]), "first": np.array(0)},
            **{"first_axis": np.array([0]), "rest": np.array([-1])},
        },
        opset=13,
    )
    assert group_of("y", model) == ChannelGroup(M, ("a",))


def test_rows() -> None:
    """The two layers of a transformer's or a ConvNeXt's MLP."""
    model = build(
        """g (float[N,3,4] x) => (float[N,3,4] y) {
            a = MatMul(x, wa)  ab = Add(ba, a)  q = Div(ab, root)  e = Erf(q)  o = Add(e, one)  m = Mul(ab, o)
            z = Mul(m, half)  b = MatMul(z, wb)  bb = Add(b, bias)  y = Add(x, bb)
        }""",
        ERF | {"wa": normal(0, 4, M), "ba": normal(1, M), "wb": normal(2, M, 4), "bias": normal(3, 4)},
    )
    assert group_of("b", model) == ChannelGroup(M, ("a",))
    assert group_of("a", model) == "made by the network's input 'x'"


# What comes in between, further constants, and why the channels stay.
STAYS: dict[str, tuple[str, dict[str, Any], str]] = {
    "shortcut": (
        "r = Relu(a)  b = Conv(r, wb)  z = Add(r, b)",
        {"wb": filters(3, M, M, 1, 1)},
        "a shortcut shares its channels",
    ),
    "beside a shortcut": (
        "b = Conv(a, wb)  c = Conv(b, wb)  s = Add(b, c)  d = Conv(s, wb)  z = Identity(b)",
        {"wb": filters(3, M, M, 1, 1)},
        "a shortcut shares its channels",
    ),
    "maximum of two layers": (
        "b = Conv<pads=[1,1,1,1]>(x, wb)  z = Max(a, b)",
        {"wb": filters(3, M, 4, 3, 3)},
        "Max 'z' compares them with others",
    ),
    "concatenation of a tensor with itself": (
        "b = Conv<pads=[1,1,1,1]>(x, wb)  r = Relu(b)  z = Concat<axis=1>(b, r)",
        {"wb": filters(3, 3, 4, 3, 3)},
        "'z' has them in several places",
    ),
    "concatenation of rows": (
        "z = Concat<axis=2>(a, a)",
        {},
        "Concat 'z' joins them with others",
    ),
    "concatenation with a constant": (
        "b = Conv<pads=[1,1,1,1]>(x, wb)  r = Softmax<axis=1>(b)  z = Concat<axis=1>(r, ones)",
        {"wb": filters(3, 4, 4, 3, 3), "ones": np.ones((2, 2, 8, 7), np.float32)},
        "Softmax 'r' mixes channels",
    ),
    "halves multiplied": (  # a gated linear unit of one layer
        "b = Conv<pads=[1,1,1,1]>(x, wb)  h, g = Split<axis=1>(b)  s = Sigmoid(g)  z = Mul(h, s)",
        {"wb": filters(3, 12, 4, 3, 3)},
        "'b' has them in several places",
    ),
    "LayerNormalization": (
        "t = Transpose<perm=[0,2,3,1]>(a)  l = LayerNormalization(t, scale)  z = Transpose<perm=[0,3,1,2]>(l)",
        {"scale": normal(3, M)},
        "LayerNormalization 'l' mixes channels",
    ),
    "GroupNormalization": (
        "z = GroupNormalization<num_groups=3>(a, scale, offset)",
        {"scale": normal(3, 3), "offset": normal(4, 3)},
        "GroupNormalization 'z' mixes channels",
    ),
    "normalization over channels": (
        "l = ReduceMean<axes=[1]>(a)  z = Sub(a, l)",
        {},
        "ReduceMean 'l' mixes channels",
    ),
    "softmax": ("z = Softmax<axis=1>(a)", {}, "Softmax 'z' mixes channels"),
    "two readers": (
        "z = Relu(a)  b = Conv(z, wb)  unread = Relu(b)",
        {"wb": filters(3, 4, M, 3, 3)},
        "left out with those that Conv 'b' reads",
    ),
    "shuffled": (
        "r = Reshape(a, apart)  t = Transpose<perm=[0,2,1,3,4]>(r)  z = Reshape(t, together)",
        {"apart": [0, 2, 3, 8, 7], "together": [0, M, 8, 7]},
        "Reshape 'r' may mix channels",
    ),
    "depth to space": (
        "b = Conv<pads=[1,1,1,1]>(x, wb)  z = DepthToSpace<blocksize=2>(b)",
        {"wb": filters(3, 24, 4, 3, 3)},
        "DepthToSpace 'z' mixes channels",
    ),
    "groups": (
        "b = Conv<group=2>(x, wb)  z = Relu(b)",
        {"wb": filters(3, M, 2, 1, 1)},
        "made by Conv 'b' in groups",
    ),
    "several filters of each channel": (
        "b = Conv<group=4>(x, wb)  d = Conv<pads=[1,1,1,1]>(x, wd)  z = Conv<group=3>(d, wz)",
        {"wb": filters(3, 8, 1, 1, 1), "wd": filters(4, 3, 4, 3, 3), "wz": filters(5, M, 1, 1, 1)},
        "made by Conv 'z' in groups",
    ),
    "weight computed at run time": (
        "k = ReduceMax(x)  w = Mul(wb, k)  b = Conv(x, w)  z = Relu(b)",
        {"wb": filters(3, M, 4, 1, 1)},
        "made by Conv 'b', whose weight is not constant",
    ),
    "indices of a pool": (
        "m, places = MaxPool<kernel_shape=[2,2]>(a)  f = Cast<to=1>(places)  u = Relu(f)  z = Relu(m)",
        {},
        "another output of MaxPool 'm' is read",
    ),
    "its number of channels": (
        "s = Shape(a)  k = Gather(s, place)  n = Cast<to=1>(k)  z = Mul(a, n)",
        {"place": 1},
        "Shape 's' reads how many there are",
    ),
    "quantized": (
        "q = QuantizeLinear(a, scale, zero)  z = DequantizeLinear(q, scale, zero)",
        {"scale": np.float32(0.1), "zero": np.int8(0)},
        "quantized by DequantizeLinear 'z'",
    ),
    "quantized weight": (
        "w = DequantizeLinear(wq, scale, zero)  b = Conv(x, w)  z = Relu(b)",
        {"wq": np.int8(10 * filters(3, M, 4, 1, 1)), "scale": np.float32(0.1), "zero": np.int8(0)},
        "Conv 'b' has quantized weights",
    ),
    "another domain": ("z = com.example.Relu(a)", {}, "made by Relu 'z'"),
    "turned to integers": ("i = Cast<to=7>(a)  z = Cast<to=1>(i)", {}, "Cast 'i' may mix channels"),
    "trains": (
        "z, mask = Dropout(a, ratio, train)  m = Cast<to=1>(mask)  u = Relu(m)",
        {"ratio": np.float32(0.5), "train": np.array(True)},
        "Dropout 'z' may mix channels",
    ),
    "padded with channels": (
        "b = Conv<pads=[1,1,1,1]>(x, wb)  z = Pad(b, pads)",
        {"wb": filters(3, 5, 4, 3, 3), "pads": [0, 1, 0, 0, 0, 0, 0, 0]},
        "Pad 'z' may mix channels",
    ),
}


@pytest.mark.parametrize("name", STAYS)
def test_stays(name: str) -> None:
    body, weights, reason = STAYS[name]
    assert group_of("y", block(body, weights)) == reason


def test_parts_that_are_joined() -> None:
    body = "b = Conv<pads=[1,1,1,1]>(x, wb)  c = Conv<pads=[1,1,1,1]>(x, wc)  j = Concat<axis=1>(b, c)  z = Relu(j)"
    model = block(body, {"wb": filters(3, 4, 4, 3, 3), "wc": filters(4, 2, 4, 3, 3)})
    assert groups_of("y", model) == (ChannelGroup(4, ("b",)), ChannelGroup(2, ("c",), start=4))


def test_parts_of_which_some_stay() -> None:
    body = "b = Conv<pads=[1,1,1,1]>(x, wb)  z = Concat<axis=-3>(x, b)"
    assert groups_of("y", block(body, {"wb": filters(3, 2, 4, 3, 3)})) == (ChannelGroup(2, ("b",), start=4),)


def cross_stage(opset: int = 17) -> onnx.ModelProto:
    """YOLO's C2f: one half of a layer goes past two others, the second half into them, and all of it is joined."""
    body = """b = Conv(x, wb, bb)  r = Relu(b)  p, q = Split<axis=1>(r)  d = Conv<pads=[1,1,1,1]>(q, wd)  dr = Relu(d)
        e = Conv<pads=[1,1,1,1]>(dr, we)  er = Relu(e)  z = Concat<axis=1>(p, q, er)"""
    weights = {
        **{"wb": filters(3, 8, 4, 1, 1), "bb": normal(4, 8), "wd": filters(5, 3, 4, 3, 3)},
        **{"we": filters(6, 5, 3, 3, 3), "w9": filters(7, 5, 13, 1, 1)},
    }
    return block(body, weights, opset=opset)


def test_halves_and_what_becomes_of_one_of_them() -> None:
    model = cross_stage()
    assert groups_of("y", model) == (
        ChannelGroup(4, ("b",), made={"b": Run(0, 8)}),
        ChannelGroup(5, ("e",), start=8),
    )
    assert group_of("d", model) == ChannelGroup(
        4, ("b",), readers=("y",), made={"b": Run(4, 8)}, read={"y": Run(4, 13)}
    )
    assert group_of("e", model) == ChannelGroup(3, ("d",))


def test_a_transposed_convolution_reads() -> None:
    model = block("r = Relu(a)  z = ConvTranspose(r, wz)", {"wz": filters(3, M, 6, 2, 2)})
    assert group_of("z", model) == ChannelGroup(M, ("a",))
    assert group_of("y", model) == ChannelGroup(6, ("z",))


def test_what_the_squeezing_layer_reads_stays() -> None:
    model = in_block("EfficientNet")
    assert group_of("s", model) == "left out with those that Conv 'y' reads"
    assert group_of("t", model) == ChannelGroup(3, ("s",))


def test_outputs_stay() -> None:
    model = block("z = Relu(a)")
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    assert group_of("y", model) == "an output of the network: 'a'"


def test_inputs_stay() -> None:
    assert group_of("a", block("z = Relu(a)")) == "made by the network's input 'x'"


def test_a_single_channel_stays() -> None:
    model = build(
        "g (float[N,4,8,7] x) => (float[N,5,8,7] y) { a = Conv(x, w0)  y = Conv(a, w1) }",
        {"w0": filters(0, 1, 4, 1, 1), "w1": filters(1, 5, 1, 1, 1)},
    )
    assert group_of("y", model) == "it reads a single channel"


def test_flattened_maps_stay() -> None:
    model = build(
        "g (float[N,4,8,7] x) => (float[N,5] y) { a = Conv<pads=[1,1,1,1]>(x, w0)  f = Flatten(a)  y = Gemm(f, w) }",
        {"w0": STEM["w0"], "w": normal(1, M * 56, 5)},
    )
    assert group_of("y", model) == "its 336 channels are not the 6 that Conv 'a' makes"


def test_positions_are_not_taken_for_rows() -> None:
    model = build(
        "g (float[N,4,8,7] x) => (float[R,5] y) { a = Conv<pads=[1,1,1,1]>(x, w0) f = Reshape(a, s) y = Gemm(f, w) }",
        {"w0": STEM["w0"], "s": np.array([-1, M]), "w": normal(1, M, 5)},
    )
    assert group_of("y", model) == "its channels are positions of what Conv 'a' makes"


@pytest.mark.parametrize("opset", [5, 6])
def test_old_broadcasting_stays(opset: int) -> None:
    reason = f"opset {opset} broadcasts in ways of its own: convert the model to a newer one"
    assert group_of("y", block("z = Relu(a)", opset=opset)) == reason


def test_subgraphs() -> None:
    inside = """z = If(flag) <
        then_branch = t () => (float[N,6,8,7] p) { p = Relu(a) },
        else_branch = e () => (float[N,6,8,7] q) { q = Tanh(a) }
    >"""
    assert group_of("y", block(inside, {"flag": np.array(True)})) == "made inside the If 'z'"
    captured = "z = Relu(a)  " + inside.replace("z =", "u =", 1)
    assert group_of("y", block(captured, {"flag": np.array(True)})) == "also read inside the If 'u'"


def test_every_block_of_efficientnet_lite0() -> None:
    path = next((each for each in EFFICIENTNETS if each.is_file()), None)
    if path is None:
        pytest.skip("shared/models/efficientnet_lite0.onnx is in no folder above")
    model = onnx.load(path)
    for number in range(16):
        prefix = f"/_blocks.{number}"
        maker = f"{prefix}/_expand_conv/Conv" if number else "/_conv_stem/Conv"
        group = group_of(f"{prefix}/_project_conv/Conv", model)
        assert isinstance(group, ChannelGroup)
        assert (group.makers, group.carried) == ((maker,), (f"{prefix}/_depthwise_conv/Conv",))
