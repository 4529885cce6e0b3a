from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph import read_model
from onnx_lowrank.graph.tensors import values
from tests.helpers import build, filters, normal, run


def small() -> onnx.ModelProto:
    return build(
        "g (float[N,3,8,8] x) => (float[N,16,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }",
        {"w": filters(0, 16, 3, 3, 3)},
    )


def saved_apart(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "net.onnx"
    onnx.save(small(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def set_location(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())


def test_reads_a_file_as_it_is(tmp_path: Path) -> None:
    onnx.save(small(), tmp_path / "net.onnx")
    for path in (tmp_path / "net.onnx", str(tmp_path / "net.onnx")):
        assert read_model(path) == small()


def test_a_model_in_memory_is_copied() -> None:
    model = small()
    read = read_model(model)
    assert read == model
    read.graph.node[0].name = "changed"
    assert model == small()


def test_external_weights_come_into_memory(tmp_path: Path) -> None:
    path = saved_apart(tmp_path / "here")
    read = read_model(path)
    (path.parent / "weights.bin").unlink()
    x = normal(1, 2, 3, 8, 8)
    np.testing.assert_array_equal(run(read, {"x": x})["y"], run(small(), {"x": x})["y"])
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[0]), filters(0, 16, 3, 3, 3))


def test_external_weights_are_found_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_apart(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    read = read_model("here/net.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[0]), filters(0, 16, 3, 3, 3))


def test_missing_external_weights(tmp_path: Path) -> None:
    path = saved_apart(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"net\.onnx: external data file 'weights\.bin' of tensor 'w' is missing"):
        read_model(path)


def test_truncated_external_weights(tmp_path: Path) -> None:
    path = saved_apart(tmp_path)
    os.truncate(tmp_path / "weights.bin", 100)
    wanted = r"external data of tensor 'w' cannot be read \('weights\.bin' has 100 bytes, wanted 1728 from byte 0 on\)"
    with pytest.raises(ModelError, match=wanted):
        read_model(path)


@pytest.mark.parametrize("absolute", [False, True])
def test_external_weights_outside_the_folder_are_not_read(tmp_path: Path, absolute: bool) -> None:
    path = saved_apart(tmp_path / "here")
    outside = (path.parent / "weights.bin").rename(tmp_path / "weights.bin")
    set_location(path, str(outside) if absolute else "../weights.bin")
    with pytest.raises(ModelError, match=r"tensor 'w' keeps its data in '.*weights\.bin', outside the model's folder"):
        read_model(path)


def test_a_link_to_outside_the_folder_is_not_followed(tmp_path: Path) -> None:
    path = saved_apart(tmp_path / "here")
    outside = (path.parent / "weights.bin").rename(tmp_path / "weights.bin")
    (path.parent / "weights.bin").symlink_to(outside)
    with pytest.raises(ModelError, match="outside the model's folder"):
        read_model(path)


def test_external_data_of_constant_nodes_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    tensor = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret.bin")
    model = build("g (float[2] x) => (float[2] y) { y = Add(x, k) }")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=tensor))
    (tmp_path / "here/net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"tensor 'k' keeps its data in '\.\./secret\.bin', outside the model's"):
        read_model(tmp_path / "here/net.onnx")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.onnx: no such file, wanted an ONNX model: check the path"):
        read_model(tmp_path / "none.onnx")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="a folder, wanted an ONNX model"):
        read_model(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path: Path) -> None:
    onnx.save(small(), tmp_path / "net.onnx")
    (tmp_path / "net.onnx").chmod(0)
    with pytest.raises(ModelError, match="cannot be read"):
        read_model(tmp_path / "net.onnx")


@pytest.mark.parametrize("name", ["net.onnx", "net.json", "net.textproto", "net.onnxtxt", "net", "net.pb"])
@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"{}"])
def test_other_files_are_refused_whatever_they_are_called(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=r"not an ONNX model.*: export or copy it again"):
        read_model(tmp_path / name)


def test_a_model_without_a_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    with pytest.raises(ModelError, match=r"not an ONNX model \(no graph in it\)"):
        read_model(tmp_path / "net.onnx")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(share=st.floats(0, 0.99))
def test_truncated_models_are_refused(tmp_path: Path, share: float) -> None:
    whole = small().SerializeToString()
    (tmp_path / "net.onnx").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match="not an ONNX model"):
        read_model(tmp_path / "net.onnx")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX model"):
        read_model(tmp_path / "net.onnx")


# Order of nodes


def unsorted() -> onnx.ModelProto:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y)
            { c = Conv<pads=[1,1,1,1]>(x, w)  r = Relu(c)  s = Add(r, c)  y = Tanh(s) }""",
        {"w": filters(0, 4, 3, 3, 3)},
    )
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    onnx.save(unsorted(), tmp_path / "net.onnx")
    for source in (unsorted(), tmp_path / "net.onnx"):
        read = read_model(source)
        assert [node.op_type for node in read.graph.node] == ["Conv", "Relu", "Add", "Tanh"]
        onnx.checker.check_model(read)


def test_nodes_in_order_stay_as_they_are() -> None:
    model = small()
    assert list(read_model(model).graph.node) == list(model.graph.node)


def test_nodes_that_wait_for_each_other_are_refused() -> None:
    model = unsorted()
    model.graph.node[2].input[0] = "y"  # Relu
    with pytest.raises(ModelError, match=r"model in memory: nodes wait for each other \('.*' <- .*\): export it again"):
        read_model(model)


def test_two_makers_of_a_tensor_are_refused(tmp_path: Path) -> None:
    model = unsorted()
    model.graph.node[0].output[0] = "c"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"net\.onnx: two nodes make the tensor 'c', one is wanted: export it again"):
        read_model(tmp_path / "net.onnx")


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("change", ["values", "shape", "type"])
def test_an_initializer_that_stands_twice_and_differs_is_refused(tmp_path: Path, change: str, *, saved: bool) -> None:
    model, weight = small(), filters(0, 16, 3, 3, 3)
    other = {"values": weight + 1, "shape": weight.reshape(16, 27), "type": weight.astype(np.float64)}[change]
    model.graph.initializer.append(numpy_helper.from_array(other, "w"))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="initializer 'w' stands in it twice with different values, one is wanted"):
        read_model(tmp_path / "net.onnx" if saved else model)


@pytest.mark.parametrize("raw", [True, False])
def test_an_initializer_that_stands_twice_and_agrees_is_left_once(*, raw: bool) -> None:
    model, weight = small(), filters(0, 16, 3, 3, 3)
    again = helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.tobytes() if raw else weight.ravel(), raw)
    model.graph.initializer.extend([again, numpy_helper.from_array(np.ones(3), "unused")])
    read = read_model(model)
    assert [tensor.name for tensor in read.graph.initializer] == ["w", "unused"]
    x = normal(1, 2, 3, 8, 8)
    np.testing.assert_array_equal(run(read, {"x": x})["y"], run(small(), {"x": x})["y"])


# A download cache keeps files under their hashes, and folders of links that have the files' names.


def cached(folder: Path, *, inner: str = "") -> Path:
    """A model and its weights in a cache: in ``store``, with links to them in ``versions/1``."""
    model = folder / "versions/1" / inner / "net.onnx"
    model.parent.mkdir(parents=True)
    (folder / "store").mkdir()
    path = saved_apart(folder / "download")
    for file, link in ((path, model), (path.parent / "weights.bin", model.parent / "weights.bin")):
        kept = file.rename(folder / "store" / f"5f3c-{file.suffix[1:]}")
        link.symlink_to(os.path.relpath(kept, link.parent))
    return model


@pytest.mark.parametrize("inner", ["", "onnx"])
def test_a_download_cache_is_read(tmp_path: Path, inner: str) -> None:
    read = read_model(cached(tmp_path, inner=inner))
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[0]), filters(0, 16, 3, 3, 3))


def test_very_large_weights_of_a_download_cache_stay_in_their_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_lowrank.graph.read.MAX_LOADED_BYTES", 10)
    tensor = read_model(cached(tmp_path)).graph.initializer[0]
    assert next(each.value for each in tensor.external_data if each.key == "location").startswith(str(tmp_path))
    np.testing.assert_array_equal(values(tensor), filters(0, 16, 3, 3, 3))


def test_links_do_not_lead_out_of_a_download_cache(tmp_path: Path) -> None:
    """Neither to another folder, nor by a path of their own, even where that ends in the store."""
    model = cached(tmp_path)
    weights, kept = model.parent / "weights.bin", (model.parent / "weights.bin").resolve()
    (tmp_path / "private").mkdir()
    secret = tmp_path / "private/notes.txt"
    secret.write_bytes(kept.read_bytes())
    weights.unlink()
    weights.symlink_to(secret)
    folders = f"the model's folder ({model.parent.resolve()} and {kept.parent})"
    message = rf"'weights.bin', which is a link to '{secret}', outside {folders}: only files there are read; put the f"
    with pytest.raises(ModelError, match=re.escape(message)):
        read_model(model)
    weights.unlink()
    for location in (f"../../store/{kept.name}", str(kept), "../../private/notes.txt", str(secret)):
        set_location(kept.with_name("5f3c-onnx"), location)
        with pytest.raises(ModelError, match="outside the model's folder: only files beside the model are read"):
            read_model(model)
