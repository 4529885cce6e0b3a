"""TensorRT with stand-ins for its two packages: what is asked of them, in what order, and what is freed."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.backends import RuntimeFacts, open_runtime
from tests.helpers import CPU, Array, build, normal, run

MODEL = build("g (float[N,3] x, float[N,3] z) => (float[N,3] y, float[N,3] q) { y = Sub(x, z) q = Mul(x, z) }")
FEEDS = {"x": normal(0, 2, 3), "z": normal(1, 2, 3)}


class DeviceArray:
    """An array that knows whether its memory is still there."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.values, self.freed = np.zeros(shape, dtype), False

    def copy_from(self, values: Array) -> None:
        self.values[...] = values

    def __enter__(self) -> DeviceArray:
        return self

    def __exit__(self, *_: object) -> None:
        self.freed = True


class Runner:
    """Runs an engine, which is a model here, in onnxruntime."""

    seen: ClassVar[list[Any]] = []

    def __init__(self, engine: onnx.ModelProto) -> None:
        self.engine = engine

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.seen.append("freed")

    def infer(self, feeds: dict[str, DeviceArray], check_inputs: bool, copy_outputs_to_host: bool) -> Any:
        assert not check_inputs
        assert not any(each.freed for each in feeds.values())
        self.seen.append(copy_outputs_to_host)
        return run(self.engine, {name: each.values for name, each in feeds.items()})


def engine(model: onnx.ModelProto, config: Any) -> Any:
    assert config == {"tf32": True}
    return lambda: model


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found = {
        "tensorrt": SimpleNamespace(__version__="11.4"),
        "polygraphy.backend.trt": SimpleNamespace(
            NetworkFromOnnxPath=onnx.load, EngineFromNetwork=engine, CreateConfig=dict, TrtRunner=Runner
        ),
        "polygraphy.cuda": SimpleNamespace(DeviceArray=DeviceArray),
    }
    monkeypatch.setattr(importlib, "import_module", found.__getitem__)
    monkeypatch.setattr(Runner, "seen", [])
    return found


def test_inputs_and_outputs_stay_on_the_gpu_but_where_they_are_looked_at(
    modules: dict[str, Any], tmp_path: Path
) -> None:
    runtime = open_runtime("tensorrt", CPU)
    assert RuntimeFacts.of(runtime) == RuntimeFacts("tensorrt", "11.4", "tf32", 0)
    running = runtime.prepare(MODEL, FEEDS, tmp_path).open(["q"])
    running.run()
    running.run()
    assert Runner.seen == [False, False]
    found = running.outputs()
    assert list(found) == ["q"]
    np.testing.assert_array_equal(found["q"], run(MODEL, FEEDS)["q"])
    running.close()
    assert Runner.seen == [False, False, True, "freed"]


def test_what_it_says_is_kept(modules: dict[str, Any], tmp_path: Path) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no plugin for Foo")

    runtime = open_runtime("tensorrt", CPU)
    prepared = runtime.prepare(MODEL, FEEDS, tmp_path)
    modules["polygraphy.cuda"].DeviceArray = fail
    with pytest.raises(ModelError, match="model: TensorRT cannot load it: no plugin for Foo"):
        prepared.open()
    assert Runner.seen == ["freed"]
    modules["polygraphy.backend.trt"].EngineFromNetwork = fail
    with pytest.raises(ModelError, match="model: TensorRT cannot build it: no plugin for Foo"):
        runtime.prepare(MODEL, FEEDS, tmp_path)
