"""bench(), with real sessions and made-up times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from onnx_lowrank import Pace, bench
from onnx_lowrank.commands import bench as benchmark
from onnx_lowrank.errors import MissingDependencyError, ModelError
from onnx_lowrank.runtime.timing import Timing
from tests.helpers import Feeds, build, filters
from tests.networks import network

SHORT = Pace(rounds=2, repeats=3, seconds=0, warm_up=1)
OPEN = "g (float[N,3,h,w] x) => (float[N,4,a,b] y) { y = Conv(x, k) }"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of the clock, which says 8 ms for the first model, 4 for the second, and so on."""
    calls: list[Any] = []

    def timed(models: Sequence[Any], feeds: Sequence[Feeds], provider: Any, pace: Pace) -> list[Timing]:
        calls.append((models, feeds, provider, pace))
        return [Timing(((8.0 / 2**number,) * 3,) * 2) for number, _ in enumerate(models)]

    monkeypatch.setattr(benchmark, "time_in_turns", timed)
    return calls


def shapes(seen: list[Any]) -> list[dict[str, tuple[int, ...]]]:
    """Shapes of what each model is fed."""
    return [{name: values.shape for name, values in each.items()} for each in seen[0][1]]


def test_real_models() -> None:
    found = bench([network(), network(seed=3)], provider="cpu", threads=1, pace=SHORT)
    assert [model.path for model in found.models] == ["<model>", "<model>"]
    assert [model.timing.runs for model in found.models] == [6, 6]
    assert found.models[0].ratio_to_first == 1
    assert found.models[1].ratio_to_first > 0
    for model in found.models:
        row = model.to_dict()
        assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]


def test_all_fields(seen: list[Any], tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        onnx.save(network(), tmp_path / name)
    found = bench([tmp_path / "a.onnx", str(tmp_path / "b.onnx"), network()], provider="cpu", threads=2)
    facts = json.loads(json.dumps(found.to_dict()))
    (own,) = facts.pop("runtimes")
    assert own == {
        "runtime": {"name": "onnxruntime", "version": onnxruntime.__version__, "precision": "f32", "threads": 2},
        "models": [{**model, "differences": {}, "error": None} for model in facts["models"]],
        "warnings": [],
    }
    assert facts == {
        "provider": "cpu",
        "device": found.device,
        "threads": 2,
        "onnxruntime": onnxruntime.__version__,
        "models": [
            {
                "path": path,
                "inputs": {"x": [1, 3, 12, 12]},
                "median_ms": ms,
                "p10_ms": ms,
                "p90_ms": ms,
                "runs": 6,
                "ratio_to_first": 8 / ms,
                "interval": [8 / ms, 8 / ms],
                "steady": True,
            }
            for path, ms in ((str(tmp_path / "a.onnx"), 8), (str(tmp_path / "b.onnx"), 4), ("<model>", 2))
        ],
    }
    assert facts["device"]


def test_without_threads_there_are_none_in_the_figures(seen: list[Any]) -> None:
    assert bench([network()], provider="cpu").to_dict()["threads"] is None
    assert seen[0][2].threads == 0
    assert seen[0][3] == Pace()


@pytest.mark.parametrize(
    ("batch", "changes", "wanted"),
    [
        ("N", {}, 1),
        ("N", {"batch_size": 6}, 6),
        ("N", {"input_shapes": {"x": (5, 3, 12, 12)}}, 5),
        ("N", {"input_shapes": {"": (5, 3, 12, 12)}}, 5),
        ("N", {"input_shapes": {"x": (5, 3, 12, 12)}, "batch_size": 2}, 2),
        ("4", {}, 4),
        ("4", {"batch_size": 6}, 4),  # fixed in the model
    ],
)
def test_batches(seen: list[Any], batch: str, changes: dict[str, Any], wanted: int) -> None:
    (model,) = bench([network(batch)], provider="cpu", **changes).models
    assert shapes(seen) == [{"x": (wanted, 3, 12, 12)}]
    assert model.inputs == {"x": (wanted, 3, 12, 12)}


def test_axes_that_are_open(seen: list[Any]) -> None:
    model = build(OPEN, {"k": filters(0, 4, 3, 3, 3)})
    with pytest.raises(
        ModelError, match=r"input 'x' has open axes \(1,3,\?,\?\): pass `input_shapes={'x': \(1,3,\?,\?\)}`"
    ):
        bench([model], provider="cpu")
    bench([model], provider="cpu", input_shapes={"x": (2, 3, 9, 10)})
    assert shapes(seen) == [{"x": (2, 3, 9, 10)}]
    with pytest.raises(ModelError, match="no input 'z', the model has x"):
        bench([model], provider="cpu", input_shapes={"z": (2, 3, 9, 10)})
    with pytest.raises(ModelError, match="does not fit input 'x'"):
        bench([model], provider="cpu", input_shapes={"x": (2, 4, 9, 10)})


def test_inputs_of_every_kind() -> None:
    model = build("""g (float[N,3] a, float16[N,3] b, int64[N] i, bool[N,2] c, uint8[N] u, float s, float[7] f)
        => (float[N,3] y, float16[N,3] z, int64[N] j, bool[N,2] d, uint8[N] v, float[7] g) {
            y = Mul(a, s)  z = Neg(b)  j = Neg(i)  d = Not(c)  v = Identity(u)  g = Relu(f)
        }""")
    (found,) = bench([model], provider="cpu", threads=1, batch_size=3, pace=SHORT).models
    assert found.inputs == {"a": (3, 3), "b": (3, 3), "i": (3,), "c": (3, 2), "u": (3,), "s": (), "f": (7,)}


def test_noise_where_fractions_are_taken_and_zeros_elsewhere(seen: list[Any]) -> None:
    model = build("g (float[N,300] a, float16[N,3] b, int32[N,3] i) => (float[N,300] y) { y = Relu(a) }")
    for _ in range(2):
        bench([model], provider="cpu", batch_size=2)
    feeds: list[Mapping[str, Any]] = [call[1][0] for call in seen]
    assert {name: values.dtype for name, values in feeds[0].items()} == {"a": "float32", "b": "float16", "i": "int32"}
    assert 0 <= feeds[0]["a"].min() < 0.1
    assert 0.9 < feeds[0]["a"].max() <= 1
    assert not feeds[0]["i"].any()
    for name, values in feeds[0].items():
        np.testing.assert_array_equal(values, feeds[1][name])


def test_models_that_differ_in_their_inputs(seen: list[Any]) -> None:
    other = build("g (float[2,5] z) => (float[2,5] y) { y = Relu(z) }")
    found = bench([network(), other], provider="cpu")
    assert [dict(model.inputs) for model in found.models] == [{"x": (1, 3, 12, 12)}, {"z": (2, 5)}]


def test_shapes_go_to_the_models_that_have_such_inputs(seen: list[Any]) -> None:
    first, second = (build(f"g (float[N,c] {name}) => (float[N,c] y) {{ y = Relu({name}) }}") for name in ("x", "z"))
    bench([first, second], provider="cpu", input_shapes={"x": (2, 3), "z": (2, 5)})
    assert shapes(seen) == [{"x": (2, 3)}, {"z": (2, 5)}]
    with pytest.raises(ModelError, match="no input 'q', the model has x"):
        bench([first, second], provider="cpu", input_shapes={"x": (2, 3), "z": (2, 5), "q": (2, 1)})


# What goes wrong


def test_no_models() -> None:
    with pytest.raises(ValueError, match="bench: no models, wanted at least one"):
        bench([])


def test_models_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="none.onnx: no such file"):
        bench([network(), tmp_path / "none.onnx"], provider="cpu")
    with pytest.raises(ModelError, match="NoSuchOperator"):
        bench([build("g (float[2] x) => (float[2] y) { y = NoSuchOperator(x) }")], provider="cpu")


def test_a_model_that_fails_on_its_inputs() -> None:
    model = build("g (float[N,3] x) => (float[6] y) { y = Reshape(x, six) }", {"six": np.array([6])})
    assert bench([model], provider="cpu", threads=1, batch_size=2, pace=SHORT).models[0].timing.runs == 6
    with pytest.raises(ModelError, match="onnxruntime cannot run it"):
        bench([model], provider="cpu", threads=1, batch_size=3, pace=SHORT)


def test_providers_there_are_not() -> None:
    with pytest.raises(MissingDependencyError, match="provider 'tensorrt'"):
        bench([network()], provider="tensorrt")
    with pytest.raises(ValueError, match="got 'tpu'"):
        bench([network()], provider="tpu")
