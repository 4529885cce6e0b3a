"""Plugin execution providers: the errors of onnxruntime itself, a made-up library, and real ones where installed."""

from __future__ import annotations

import ctypes.util
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_lowrank.errors import MissingDependencyError
from onnx_lowrank.runtime import plugin
from onnx_lowrank.runtime.device import device_name, free_on_device
from onnx_lowrank.runtime.fallback import fallback_text
from onnx_lowrank.runtime.network import open_network
from onnx_lowrank.runtime.plugin import Plugin, open_plugin
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.session import Session, choose_provider
from tests.command_line import fails, misused
from tests.helpers import build

HINT = r"give the library of a plugin provider, which its package knows"


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.so", tmp_path):  # a folder is no library either
        with pytest.raises(MissingDependencyError, match=rf"^`ep_library` {path}: no such file: {HINT}"):
            choose_provider("openvino", None, path)


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(
        MissingDependencyError, match=r"text.so: onnxruntime 1\S+ cannot register it: .*" + HINT
    ) as caught:
        open_plugin(tmp_path / "text.so", "openvino")
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)


def test_a_library_that_is_no_provider() -> None:
    name = ctypes.util.find_library("m")
    found = [path for folder in ("/lib", "/usr/lib") for path in Path(folder).rglob(name or "none")]
    if not found:
        pytest.skip("no libm.so here")
    with pytest.raises(MissingDependencyError, match=r"cannot register it: .*CreateEpFactories"):
        open_plugin(found[0], "openvino")


def test_an_onnxruntime_that_takes_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "lib.so"
    library.touch()
    monkeypatch.setattr(plugin, "load_onnxruntime", lambda: SimpleNamespace(__version__="1.22.1"))
    monkeypatch.setattr(plugin, "version", lambda: "1.22.1")
    with pytest.raises(MissingDependencyError, match=r"onnxruntime 1\.22\.1 takes no plugin providers, wanted 1\.23"):
        open_plugin(library, "openvino")


class MadeUpLibrary:
    """onnxruntime with a library that has these devices, by name and kind, once it is registered."""

    def __init__(self, file: Path, devices: Sequence[tuple[str, str]]) -> None:
        self.registered: list[str] = []
        self.file, self._devices = file, devices

    def register_execution_provider_library(self, name: str, path: str) -> None:
        assert path == str(self.file)
        self.registered.append(name)

    def get_ep_devices(self) -> list[Any]:
        own = self._devices if self.registered else ()
        devices = [
            SimpleNamespace(
                ep_name=name,
                ep_metadata={"library_path": str(self.file), "version": "1.2"},
                device=SimpleNamespace(type=SimpleNamespace(name=kind)),
            )
            for name, kind in own
        ]
        cpu = SimpleNamespace(ep_name="CPUExecutionProvider", ep_metadata={"version": "1.32.0"})
        return [cpu, *devices]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MadeUpLibrary:
    return made_up(
        monkeypatch, tmp_path, ("FooExecutionProvider", "GPU"), ("FooExecutionProvider", "CPU"), ("Bar.AUTO", "NPU")
    )


def made_up(monkeypatch: pytest.MonkeyPatch, folder: Path, *devices: tuple[str, str]) -> MadeUpLibrary:
    file = folder / "libfoo_plugin.so"
    file.touch()
    made = MadeUpLibrary(file.resolve(), devices)
    monkeypatch.setattr(plugin, "load_onnxruntime", lambda: made)
    return made


@pytest.mark.parametrize(
    ("name", "ep_name", "kind"),
    [
        ("foo", "FooExecutionProvider", "cpu"),  # the CPU first, where it runs on that
        ("FooExecutionProvider", "FooExecutionProvider", "cpu"),
        ("FOO:gpu", "FooExecutionProvider", "gpu"),
        ("bar.auto", "Bar.AUTO", "npu"),
        ("auto", "FooExecutionProvider", "cpu"),
    ],
)
def test_a_name_chooses_provider_and_device(library: MadeUpLibrary, name: str, ep_name: str, kind: str) -> None:
    assert open_plugin(library.file, name) == Plugin(library.file, ep_name, kind, "1.2")


@pytest.mark.parametrize("name", ["baz", "bar.auto:cpu"])
def test_a_name_that_the_library_does_not_have(library: MadeUpLibrary, name: str) -> None:
    known = r"has FooExecutionProvider:gpu, FooExecutionProvider:cpu, Bar.AUTO:npu: give one of these as `provider`"
    with pytest.raises(MissingDependencyError, match=rf"provider '{name}': `ep_library` \S+libfoo_plugin.so {known}"):
        open_plugin(library.file, name)


def test_a_library_without_a_device_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = made_up(monkeypatch, tmp_path)
    with pytest.raises(
        MissingDependencyError, match=r"registers it, but it offers no device on this machine: it may be"
    ):
        open_plugin(made.file, "foo")


def test_a_library_is_registered_once_by_any_of_its_paths(
    library: MadeUpLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One behind a link would look for its own libraries beside the link, and a relative path is onnxruntime's."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.so").symlink_to(library.file)
    monkeypatch.chdir(tmp_path)
    found = {open_plugin(path, "foo") for path in (library.file, "libfoo_plugin.so", Path("folder/link.so"))}
    assert len(found) == 1
    assert library.registered == ["foo"]


def test_threads_are_told_to_those_that_are_known(library: MadeUpLibrary, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        choose_provider("foo", None, library.file)
        assert caplog.messages == []
        choose_provider("foo", 2, library.file)
    assert caplog.messages == ["provider foo: how it is told `threads` is not known here: it takes its own number"]
    openvino = Plugin(library.file, "OpenVINOExecutionProvider", "cpu", "")
    assert openvino.thread_options(2) == {"load_config": '{"CPU": {"INFERENCE_NUM_THREADS": 2}}'}
    assert openvino.thread_options(0) == {}


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_provider_with_a_plugin(kind: str) -> None:
    provider = Provider("foo", 2, Plugin(Path("lib.so"), "FooExecutionProvider", kind, "1.2"))
    assert provider.label == "foo 1.2"
    assert (provider.on_cpu, provider.batch_elements, provider.memory) == (kind == "cpu", 400_000, "cpu")
    assert free_on_device(provider) == 0
    assert (device_name(provider) == device_name(Provider())) == (kind == "cpu")


def test_what_is_left_to_the_cpu_is_said() -> None:
    cpu = "CPUExecutionProvider"
    assert fallback_text({"Foo": Counter(Conv=3)}, "Foo") == ""
    assert fallback_text({}, "Foo") == ""  # onnxruntime does not say
    assert fallback_text({"Foo": Counter(Conv=3), cpu: Counter(Conv=1, Relu=2)}, "Foo") == (
        "3 of 6 operators do not run on Foo but on onnxruntime's CPU provider (2 Relu, 1 Conv), 1 convolutions or "
        "matrix products among them: times include them"
    )
    many = {cpu: Counter(dict.fromkeys("abcdefg", 1))}
    assert fallback_text(many, "Foo") == (
        "none of 7 operators runs on Foo, all run on onnxruntime's CPU provider (1 a, 1 b, 1 c, 1 d, 1 e, ...): times "
        "are those of the CPU provider; the library may log why"
    )


def test_the_command_line_takes_other_names_with_a_library_only(tmp_path: Path) -> None:
    onnx.save(products(), tmp_path / "model.onnx")
    model, name = str(tmp_path / "model.onnx"), ["--provider", "openvino"]
    assert "'openvino' is not one of 'auto', 'cpu', 'cuda', 'tensorrt'" in misused(tmp_path, "bench", model, *name)
    library = ["--ep-library", str(tmp_path / "none.so")]
    for words in ([*library, *name], [*name, *library]):
        assert f"--ep-library {tmp_path / 'none.so'}: no such file" in fails(tmp_path, "bench", model, *words)


# Real libraries


def products() -> onnx.ModelProto:
    weights = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    return build(
        "g (float[N,16] x) => (float[N,16] y) { a = MatMul(x, w)  b = Relu(a)  y = MatMul(b, w) }", {"w": weights}
    )


def ggml() -> Path:
    package = pytest.importorskip("onnxruntime_ggml", reason="pip install --no-deps onnxruntime-ggml")
    return Path(package.library_path())


def test_ggml_runs_matrix_products(caplog: pytest.LogCaptureFixture) -> None:
    provider = choose_provider("ggml", 1, ggml())
    feeds = {"x": np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)}
    expected = Session(products(), Provider()).run(feeds)["y"]
    with caplog.at_level(logging.WARNING):
        network = open_network(products(), provider, {})
    assert caplog.messages == []
    session = Session(network.model, provider, in_plugin=True)
    assert session.operators == {"ggml": Counter(MatMul=2, Relu=1)}
    difference = np.linalg.norm(session.run(feeds)["y"] - expected) / np.linalg.norm(expected)
    assert difference < 2e-3  # its products have half precision, unasked


def test_ggml_that_runs_nothing_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A session names the provider all the same."""
    provider = choose_provider("ggml", 1, ggml())
    pooled = build(
        "g (float[N,3,8,8] x) => (float[N,3,4,4] y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }", {}
    )
    with caplog.at_level(logging.WARNING):
        network = open_network(pooled, provider, {})
    assert Session(network.model, provider, in_plugin=True).providers[0] == "ggml"
    assert [text.partition(": ")[2].partition(" (")[0] for text in caplog.messages] == [
        "none of 1 operators runs on ggml, all run on onnxruntime's CPU provider"
    ]


def test_openvino_where_it_has_a_device() -> None:
    """The wheel's library offers the CPU only where that is Intel's."""
    package = pytest.importorskip("onnxruntime_ep_openvino")
    model = products()
    library = package.get_library_path()
    try:
        provider = choose_provider("openvino", 1, library)
    except MissingDependencyError:
        with pytest.raises(MissingDependencyError, match="offers no device on this machine"):  # nor does it then
            choose_provider("openvino", 1, library)
        assert package.get_ep_name() not in {each.ep_name for each in onnxruntime.get_ep_devices()}
        return
    feeds = {"x": np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)}
    session = Session(model, provider, in_plugin=True)
    assert set(session.operators) == {"OpenVINOExecutionProvider"}
    assert session.run(feeds)["y"] == pytest.approx(Session(model, Provider()).run(feeds)["y"], rel=1e-2, abs=1e-2)
