"""Small files of every kind that the program reads, all of them good."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

from tests.helpers import Feeds, build, filters, normal
from tests.networks import images, network

# Models that between them have what the program looks for in graphs, and data for them


def patterns() -> tuple[onnx.ModelProto, Feeds]:
    """Activations made of several nodes, PRelu and Clip, an added scale and bias."""
    numbers = {"zero": 0, "half": 0.5, "one": 1, "root": 2**0.5, "three": 3, "six": 6}
    model = build(
        """g (float[N,3,6,6] x) => (float[N,4,6,6] y) {
            c1 = Conv<pads=[1,1,1,1]>(x, w1)
            c2 = Mul(c1, scale)
            a1 = Add(c2, three)
            a2 = Clip(a1, zero, six)
            a3 = Mul(c2, a2)
            h1 = Div(a3, six)
            d1 = Conv<auto_pad="SAME_UPPER">(h1, w2, b2)
            p1 = PRelu(d1, slope)
            e1 = Conv<strides=[1,1], dilations=[1,1], kernel_shape=[3,3], pads=[1,1,1,1], group=1>(p1, w2)
            q1 = Div(e1, root)
            q2 = Erf(q1)
            q3 = Add(q2, one)
            q4 = Mul(e1, q3)
            g1 = Mul(q4, half)
            f1 = Conv(g1, v)
            y = Clip(f1, zero, six)
        }""",
        {
            "w1": filters(0, 4, 3, 3, 3),
            "w2": filters(1, 4, 4, 3, 3),
            "b2": normal(2, 4),
            "slope": normal(3, 4, 1, 1),
            "scale": normal(4, 1, 4, 1, 1),
            "v": filters(5, 4, 4, 1, 1),
            **{name: np.float32(value) for name, value in numbers.items()},
        },
    )
    return model, {"x": images(20, size=6)}


def dense() -> tuple[onnx.ModelProto, Feeds]:
    """Gemm and MatMul, two of their weights by way of other nodes; two inputs."""
    model = build(
        """g (float[N,6] x, float[N,6] z) => (float[N,3] y, float[N,5] t) {
            s = Add(x, z)
            m = MatMul(s, w)
            a = Add(m, b)
            r = Relu(a)
            v2 = Identity(v)
            v3 = Transpose<perm=[1,0]>(v2)
            t = Gemm<alpha=2.0, beta=0.5, transB=1>(r, v3, c)
            k = Constant<value = float[5,3] {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}>()
            y = MatMul(t, k)
        }""",
        {"w": normal(0, 6, 8), "b": normal(1, 8), "v": normal(2, 8, 5), "c": normal(3, 5)},
    )
    return model, {"x": normal(4, 40, 6), "z": normal(5, 40, 6)}


def one_and_three_axes() -> tuple[onnx.ModelProto, Feeds]:
    """1-D and 3-D convolutions, a grouped one, float16, initializers among the inputs."""
    model = build(
        """g (float[N,4,9] x) => (float16[N,4,1,1,5] y) {
            c = Conv<pads=[1,1], group=2>(x, w)
            r = LeakyRelu<alpha=0.1>(c)
            d = Conv<strides=[2], pads=[1,1]>(r, v)
            e = Sigmoid(d)
            s = Mul(d, e)
            u = Reshape(s, shape)
            h = Cast<to=10>(u)
            y = Conv(h, k)
        }""",
        {
            "w": normal(0, 4, 2, 3),
            "v": normal(1, 4, 4, 3),
            "shape": np.array([-1, 4, 1, 1, 5]),
            "k": normal(2, 4, 4, 1, 1, 1, dtype=np.float16),
        },
        ir=3,
        opset=13,
    )
    return model, {"x": normal(3, 20, 4, 9)}


def branches() -> tuple[onnx.ModelProto, Feeds]:
    """A quantized layer, and others that only one branch of the graph has."""
    model = build(
        """g (float[N,2,4,4] x) => (float[N,2,4,4] y) {
            xq = QuantizeLinear(x, s, z)
            xd = DequantizeLinear(xq, s, z)
            wd = DequantizeLinear(w, s, zw)
            c = Conv(xd, wd)
            r = Relu(c)
            d = Conv<pads=[1,1,1,1]>(r, u)
            m = ReduceMax<keepdims=0>(d)
            flag = Greater(m, one)
        }""",
        {
            "w": np.arange(-2, 2, dtype=np.int8).reshape(2, 2, 1, 1),
            "s": np.float32(0.1),
            "z": np.uint8(0),
            "zw": np.int8(0),
            "u": filters(0, 2, 2, 3, 3),
            "v": normal(1, 2, 2, 1, 1),
            "one": np.float32(1),
        },
    )
    out = [onnx.ValueInfoProto(name="b")]
    nodes = {"then": helper.make_node("Conv", ["d", "v"], ["b"]), "else": helper.make_node("Neg", ["r"], ["b"])}
    graphs = {f"{name}_branch": helper.make_graph([node], name, [], out) for name, node in nodes.items()}
    model.graph.node.append(helper.make_node("If", ["flag"], ["y"], **graphs))
    return model, {"x": normal(2, 20, 2, 4, 4)}


def models() -> dict[str, tuple[onnx.ModelProto, Feeds]]:
    """All of them, with data."""
    every = {each.__name__: each() for each in (patterns, dense, one_and_three_axes, branches)}
    return every | {"network": (network(), {"x": images(20)})}


# Data for `network()`, as files


def picture(seed: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A picture of noise."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def npy(array: NDArray[np.float32]) -> bytes:
    """An array in numpy's format."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(*, compressed: bool) -> bytes:
    """An archive of one array."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, x=images(6))
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """A tar file, ``w:gz`` for a compressed one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def data_files() -> dict[str, bytes]:
    """Data of every kind; those in the folder ``photos`` are images."""
    pictures = {f"set/{number}.png": picture(number) for number in range(4)}
    kinds = {"jpg": "JPEG", "png": "PNG", "bmp": "BMP", "gif": "GIF", "tif": "TIFF", "webp": "WEBP", "ppm": "PPM"}
    return {
        "a.npy": npy(images(6)),
        "a.npz": npz(compressed=False),
        "b.npz": npz(compressed=True),
        "a.zip": zipped(pictures),
        "a.tar": tarred(pictures),
        "a.tgz": tarred(pictures, "w:gz"),
        **{f"photos/1.{ending}": picture(1, kind) for ending, kind in kinds.items()},
        "photos/2.tif": picture(2, "TIFF", "L"),
        "photos/2.png": picture(2, "PNG", "P"),
    }
