"""Models and data that no textbook has: each is converted into what computes the same, or refused with a reason."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.bad_input.specimens import npy, picture, tarred, zipped
from tests.command_line import fails, works
from tests.helpers import Array, Feeds, build, filters, normal, run
from tests.networks import images, network

Change = Callable[[onnx.ModelProto], None]

CONVERT = ("m.onnx", "o.onnx", "--data", "d.npz", "--no-bench", "--quiet")
IMAGES = images()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(*changes: Change) -> onnx.ModelProto:
    model = network()
    for change in changes:
        change(model)
    return model


def save(model: onnx.ModelProto, data: Mapping[str, Array]) -> None:
    onnx.save(model, "m.onnx")
    np.savez("d.npz", **data)


def plan_of_full_rank() -> tuple[str, str]:
    """Every layer is to become a pair of factors that can do exactly what it did."""
    found = json.loads(works("inspect", "m.onnx", "--json").stdout)["layers"]
    ranks = {row["name"]: {"channel": row["shape"][0]} for row in found if row["eligible"]}
    layers = [{"name": name, "method": "channel", "ranks": each} for name, each in ranks.items()]
    Path("plan.json").write_text(json.dumps({"layers": layers}))
    return "--plan", "plan.json"


def converted(model: onnx.ModelProto, data: Feeds, *words: str, error: float = 1e-4) -> onnx.ModelProto:
    """Convert a model, at full rank if nothing else is said, into one whose every output is the same."""
    save(model, data)
    works(*CONVERT, *(words or plan_of_full_rank()))
    found = onnx.load("o.onnx")
    assert any("/lowrank_" in node.name for node in found.graph.node)
    assert [each.name for each in found.graph.input] == [each.name for each in model.graph.input]
    before, after = run(model, data), run(found, data)
    assert before.keys() == after.keys()
    for name, wanted in before.items():
        assert wanted.shape == after[name].shape
        assert np.linalg.norm(after[name] - wanted) <= error * np.linalg.norm(wanted), name
    return found


def refused(folder: Path, model: onnx.ModelProto, data: Mapping[str, Array]) -> str:
    save(model, data)
    return fails(folder, *CONVERT, "--speedup", "1.5")


# Names


def name_nodes(*names: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for node, name in zip(model.graph.node, names, strict=False):
            node.name = name

    return change


def rename_tensor(old: str, new: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        for value in [*model.graph.initializer, *model.graph.input, *model.graph.output]:
            value.name = new if value.name == old else value.name

    return change


@pytest.mark.parametrize(
    "names",
    [
        ["é ü", "a/b/c", "[bold]x[/bold]", " ", "", "<c1>", "\u202e", "a:0", "日本", "'", '"{}\\n'],
        ["c1", "c1/lowrank_0", "c2", "c1/lowrank_1", "c1/lowrank_0_2", "c2/lowrank_0", "", "", "c2/lowrank_1"],
        ["c2", "c3", "c1"],  # what other nodes' outputs are called
    ],
)
def test_node_names(names: list[str]) -> None:
    found = converted(changed(name_nodes(*names)), {"x": IMAGES})
    made = [node.name for node in found.graph.node if node.name]
    assert len(made) == len(set(made))
    kept = [name for node, name in zip(network().graph.node, names, strict=False) if node.op_type == "Relu" and name]
    assert set(kept) <= set(made)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_stdout_cannot_show(encoding: str) -> None:
    save(changed(name_nodes("日本")), {"x": IMAGES})
    command = [sys.executable, "-m", "onnx_lowrank", "inspect", "m.onnx"]
    found = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, check=True)
    shown = found.stdout.decode(encoding)
    assert ("日本" if encoding == "utf-8" else r"\u65e5\u672c") in shown
    assert found.stderr == b""


OLD = ("x", "w2", "r1", "scores")
NEW = ("c1/lowrank_0", "c1/lowrank_0/weight", "c1/lowrank_1/output", "c1/inputs/rows", "c2/shape", "a b", "[/é]:0")
RENAMED = [
    pytest.param(old, new, marks=[pytest.mark.nightly] * ((i + j) % 3 > 0))  # by day every name, not with every other
    for i, old in enumerate(OLD)
    for j, new in enumerate(NEW)
]


@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_tensors_called_like_ours(old: str, new: str) -> None:
    model = changed(name_nodes("c1", "", "c2"), rename_tensor(old, new))
    converted(model, {new if old == "x" else "x": IMAGES})


# Graphs


def add_output(name: str) -> Change:
    return lambda model: model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


@pytest.mark.parametrize("name", ["x", "c1", "r1", "c2", "n2", "s3", "w1", "scores"])
def test_tensors_inside_that_are_outputs_too(name: str) -> None:
    converted(changed(add_output(name)), {"x": IMAGES})


def set_nodes(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def reverse_nodes(model: onnx.ModelProto) -> None:
    set_nodes(model, reversed(model.graph.node))


def pass_a_weight_on(model: onnx.ModelProto) -> None:
    """By way of more nodes than Python's stack is deep."""
    names = [f"w2/{number}" for number in range(2000)]
    model.graph.node[2].input[1] = names[-1]
    links = [helper.make_node("Identity", [a], [b]) for a, b in pairwise(["w2", *names])]
    set_nodes(model, [*links, *model.graph.node])


def leave_out_optional_inputs(model: onnx.ModelProto) -> None:
    model.graph.node[2].input.append("")
    model.graph.node[1].CopyFrom(helper.make_node("Clip", ["c1", "", "six"], ["r1"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(6), "six"))


def set_reference(model: onnx.ModelProto) -> None:
    """Has a meaning in functions only; onnxruntime passes over it."""
    model.graph.node[0].attribute[0].ref_attr_name = "pads_of_a_function"


@pytest.mark.parametrize("change", [reverse_nodes, leave_out_optional_inputs, set_reference, pass_a_weight_on])
def test_graphs_that_onnxruntime_takes(change: Change) -> None:
    converted(changed(change), {"x": IMAGES})


def set_opset(version: int) -> Change:
    return lambda model: setattr(model.opset_import[0], "version", version)


def make_cycle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "r1"


def make_tensor_twice(model: onnx.ModelProto) -> None:
    model.graph.node[2].output[0] = "c1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            make_cycle,
            "nodes wait for each other ('Conv' <- 'Relu' <- 'Conv')",
        ),
        (make_tensor_twice, "two nodes make the tensor 'c1', one is wanted"),
    ],
)
def test_graphs_that_are_none(folder: Path, change: Change, message: str) -> None:
    found = refused(folder, changed(change), {"x": IMAGES})
    assert found == f"error: m.onnx: {message}: export it again"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (name_nodes("c", "c"), "two nodes with same node name (c)"),
        (lambda model: model.ClearField("opset_import"), "Missing opset in the model"),
        (set_opset(0), "No Op registered for Conv with domain_version of 0"),
        (set_opset(2**62), "No Op registered for Conv"),
        (lambda model: setattr(model, "ir_version", 99), "Unsupported model IR version: 99"),
        (lambda model: model.graph.node.add(op_type="Relu", input=["r1"]), "has output size 0"),
    ],
)
def test_graphs_that_onnxruntime_does_not_take(folder: Path, change: Change, message: str) -> None:
    found = refused(folder, changed(change), {"x": IMAGES})
    assert found.startswith("error: m.onnx: onnxruntime cannot load it: [ONNXRuntimeError] : ")
    assert message in found
    assert fails(folder, "inspect", "m.onnx") == found


def add_initializer(name: str, value: Array) -> Change:
    return lambda model: model.graph.initializer.append(numpy_helper.from_array(value, name))


def test_what_nothing_reads_stays() -> None:
    unused = np.full(3, np.nan, np.float32)
    found = converted(changed(add_initializer("unused", unused)), {"x": IMAGES})
    (kept,) = (tensor for tensor in found.graph.initializer if tensor.name == "unused")
    np.testing.assert_array_equal(numpy_helper.to_array(kept), unused)


def test_an_input_that_nothing_reads_wants_data_too(folder: Path) -> None:
    model = network()
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 2]))
    assert "d.npz: holds x, the model's inputs are x, z: give one array" in refused(folder, model, {"x": IMAGES})
    converted(model, {"x": IMAGES, "z": normal(0, len(IMAGES), 2)})


@pytest.mark.parametrize(
    "body",
    [
        "s = Slice(x, zero, zero, one)  t = Concat<axis=1>(s, x)  y = Conv<pads=[1,1,1,1]>(t, w)",
        "s = Slice(x, zero, zero, one)  e = Conv(s, none)  c = Conv<pads=[1,1,1,1]>(x, w)  y = Add(c, e)",
        "n = Conv<pads=[1,1,1,1]>(x, no_filters)  c = Conv<pads=[1,1,1,1]>(x, w)  y = Concat<axis=1>(n, c)",
        "e = Conv(one_image, w)  c = Conv<pads=[1,1,1,1]>(x, w)  y = Add(c, e)",
    ],
)  # fmt: skip
def test_no_channels_and_constant_inputs(body: str) -> None:
    weights = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "w": filters(0, 16, 3, 3, 3),
        "none": np.zeros((16, 0, 1, 1), np.float32),
        "no_filters": np.zeros((0, 3, 3, 3), np.float32),
        "one_image": normal(1, 1, 3, 14, 14),
    }
    converted(build(f"g (float[N,3,12,12] x) => (float[N,16,12,12] y) {{ {body} }}", weights), {"x": IMAGES})


def test_an_input_without_a_shape(folder: Path) -> None:
    model = changed(lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"))
    assert "input 'x' has no shape: pass --input-shapes x:1,3,224,224" in refused(folder, model, {"x": IMAGES})
    converted(model, {"x": IMAGES}, "--input-shapes", "1,3,12,12", "--speedup", "1.5", error=0.05)


@pytest.mark.parametrize("size", [10**6, 2**62])
def test_an_input_that_does_not_fit_the_memory(folder: Path, size: int) -> None:
    graph = f"g (float[1,3,{size},{size}] x) => (float[1,8,h,w] y) {{ y = Conv(x, k) }}"
    onnx.save(build(graph, {"k": filters(0, 8, 3, 3, 3)}), "m.onnx")
    found = fails(folder, "inspect", "m.onnx")
    assert f"error: m.onnx: inputs of shape {{'x': (1, 3, {size}, {size})}} do not fit into memory" in found


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "x"), ("offset", "-1"), ("length", "x"), ("length", "99999999999"), ("location", "\0")],
)
def test_descriptions_of_external_data_that_make_no_sense(folder: Path, key: str, value: str) -> None:
    onnx.save(network(), "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load("m.onnx", load_external_data=False)
    entries = {entry.key: entry for entry in model.graph.initializer[0].external_data}
    entries[key].value = value
    onnx.save(model, "m.onnx")
    found = fails(folder, "inspect", "m.onnx")
    assert found.startswith("error: m.onnx: ")
    assert "external data" in found


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("kept", [0, 1, -4])
def test_weights_of_the_wrong_size(folder: Path, dtype: type[np.floating], kept: int) -> None:
    kind = {np.float32: "float", np.float64: "double", np.float16: "float16"}[dtype]
    graph = f"g ({kind}[N,3,12,12] x) => ({kind}[N,16,12,12] y) {{ y = Conv<pads=[1,1,1,1]>(x, w) }}"
    model = build(graph, {"w": filters(0, 16, 3, 3, 3, dtype)})
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:kept]
    found = refused(folder, model, {"x": IMAGES.astype(dtype)})
    assert found.startswith("error: m.onnx: onnxruntime cannot load it: ")


# Numbers


def fill(name: str, value: float, *, places: slice = slice(None)) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[places] = value
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return change


ONE = slice(1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "layer"), [("w1", "c1"), ("b1", "c1"), ("w2", "c2"), ("gamma", "c2"), ("mean", "c2"), ("b3", "c3")]
)
def test_weights_that_are_not_finite(folder: Path, value: float, name: str, layer: str) -> None:
    found = refused(folder, changed(fill(name, value, places=ONE)), {"x": IMAGES})
    assert f"Conv '{layer}': its response is NaN, infinite or beyond 1e+15 in the original network" in found


def test_nothing_but_nan_comes_out(folder: Path) -> None:
    found = refused(folder, changed(fill("f", np.nan)), {"x": IMAGES})
    assert "output 'scores': nothing but NaN or infinity comes out of the original network: check its weights" in found


@pytest.mark.parametrize("names", [["w1"], ["w2"], ["w3"], ["w1", "w2", "w3"], ["gamma"], ["w1", "b1"]])
def test_weights_of_zeros(names: list[str]) -> None:
    converted(changed(*(fill(name, 0) for name in names)), {"x": IMAGES}, "--speedup", "1.5", error=0.05)


def test_responses_whose_squares_no_float32_holds(folder: Path) -> None:
    found = refused(folder, network(), {"x": IMAGES * np.float32(1e20)})
    assert "Conv 'c1': its response is NaN, infinite or beyond 1e+15 in the original network: check" in found


@pytest.mark.parametrize("scale", [1e14, 1e-20, 1e-42])
def test_data_of_unusual_size(scale: float) -> None:
    converted(network(), {"x": IMAGES * np.float32(scale)}, "--speedup", "1.5", error=0.05)


@pytest.mark.parametrize(
    "data",
    [np.zeros_like(IMAGES), np.full_like(IMAGES, 0.5), np.repeat(IMAGES[:1], 60, axis=0), IMAGES[:2], IMAGES[:1]],
    ids=["zeros", "grey", "all alike", "two", "one"],
)
def test_data_that_say_little(data: Array) -> None:
    converted(network(), {"x": data}, "--speedup", "1.5", error=0.05)


# Files of data that mean harm


def looked_at(data: str) -> str:
    """What is said about the data where some of them can be used; how many on the last line."""
    onnx.save(network(), "in.onnx")
    result = works("compare", "in.onnx", "in.onnx", "--data", data, "--quiet")
    return result.stderr + result.stdout


def not_looked_at(folder: Path, data: str) -> str:
    onnx.save(network(), "in.onnx")
    return fails(folder, "compare", "in.onnx", "in.onnx", "--data", data, "--quiet")


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_images_that_claim_to_be_huge(folder: Path, side: int) -> None:
    Path("photos").mkdir()
    Path("photos/bomb.png").write_bytes(png_that_claims(side, side))
    found = not_looked_at(folder, "photos")
    assert "photos (1 images): none of the 1 images tried can be decoded (the first: bomb.png: " in found
    assert "pixels" in found
    Path("photos/good.png").write_bytes(picture(0))
    found = looked_at("photos")
    assert "warning: 1 images cannot be decoded and are left out (bomb.png: " in found
    assert found.endswith("images: 1\n")


def test_a_zip_member_that_is_huge_when_unpacked() -> None:
    with zipfile.ZipFile("photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(300 * 2**20))
        archive.writestr("good.png", picture(0))
    assert Path("photos.zip").stat().st_size < 2**20
    found = looked_at("photos.zip")
    assert "(bomb.png: file of 300 MiB, more than the 256 MiB an image may have)" in found
    assert found.endswith("images: 1\n")


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar"])
@pytest.mark.parametrize("name", ["/photo.png", "../../photo.png", "a/../../photo.png", "C:\\photo.png"])
def test_members_that_point_outside_are_written_nowhere(
    folder: Path, pack: Callable[[Mapping[str, bytes]], bytes], name: str
) -> None:
    inner = folder / "a/b"
    inner.mkdir(parents=True)
    archive = inner / f"photos.{'zip' if pack is zipped else 'tar'}"
    archive.write_bytes(pack({name: picture(0), "good.png": picture(1)}))
    before = set(folder.rglob("*")) | {folder / "in.onnx"}
    assert looked_at(str(archive)).splitlines()[-1] in {"images: 1", "images: 2"}
    assert set(folder.rglob("*")) == before
    assert not Path("/photo.png").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_and_devices_in_a_tar_are_passed_over(mode: str) -> None:
    path = Path("photos.tgz" if mode == "w:gz" else "photos.tar")
    kinds = {"soft": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    with tarfile.open(path, mode) as archive:
        for name, kind in kinds.items():
            member = tarfile.TarInfo(f"{name}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("good.png")
        member.size = len(picture(0))
        archive.addfile(member, BytesIO(picture(0)))
    assert looked_at(str(path)).endswith("images: 1\n")


def test_a_link_in_a_zip_is_but_a_bad_image() -> None:
    with zipfile.ZipFile("photos.zip", "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good.png", picture(0))
    assert "(link.png: not an image of a known format)" in looked_at("photos.zip")


class Harmful:
    """Pickled, it is a command to run when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path.touch, (Path("harm"),)  # type: ignore[return-value]


def pickled() -> bytes:
    buffer = BytesIO()
    np.save(buffer, np.array([Harmful()], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def header_only(shape: object) -> bytes:
    """An .npy file of float32 that claims a shape, and has nothing behind."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickled(), "cannot be read as .np"),
        (header_only((10**12, 3, 12, 12)), "cannot be read as .np"),
        (header_only((2**63, 3, 12, 12)), "cannot be read as .np"),
        (header_only((-1, 3, 12, 12)), "cannot be read as .np"),
        (header_only("'x'"), "shape is not valid"),
        (header_only((0, 3, 12, 12)), "no samples found"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{", "EOF: reading array header"),
    ],
    ids=["pickled", "huge", "overflowing", "negative", "no shape", "no rows", "long header"],
)
@pytest.mark.parametrize("name", ["data.npy", "data.npz"])
def test_arrays_that_are_none(folder: Path, name: str, content: bytes, message: str) -> None:
    Path(name).write_bytes(zipped({"x.npy": content}) if name.endswith("z") else content)
    found = not_looked_at(folder, name)
    assert found.startswith(f"error: {name}: ")
    assert message in found
    assert not Path("harm").exists()


def test_an_npz_with_a_name_twice_or_outside_is_but_an_array() -> None:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile("twice.npz", "w") as archive:
        for count in (4, 5):
            archive.writestr("x.npy", npy(images(count)))
    assert looked_at("twice.npz").endswith("images: 5\n")
    Path("outside.npz").write_bytes(zipped({"../x.npy": npy(images(3))}))
    assert looked_at("outside.npz").endswith("images: 3\n")
