"""Files spoiled at random: whatever they hold, users get an answer or one line that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from tests.bad_input.mutations import Spoiled, spoiled, spoiled_bytes, spoiled_json, spoiled_model
from tests.bad_input.specimens import data_files, models, picture
from tests.bad_input.worker import Outcome, Worker
from tests.conftest import examples
from tests.helpers import build, filters
from tests.networks import images, network

pytestmark = pytest.mark.slow

MODELS = {name: model for name, (model, _) in models().items()}
OUTPUT = "o.onnx"
PLAN = RankPlan((LayerPlan("c1", "channel", 8), LayerPlan("c2"), LayerPlan("c3", "spatial-channel", 8, 8)))
LATENCY = ("one.onnx", "--dry-run", "--data", "one.npy", "--speedup", "1.3", "--cost", "latency", "--quiet",
           "--latency-table", "table.json")  # fmt: skip


def fuzz(cases: int) -> settings:
    """Try that many cases, the same in every run; in the profile "nightly" ten times as many, others in every run."""
    usual = examples(cases) == cases
    return settings(derandomize=usual, database=None, deadline=None, max_examples=examples(cases))


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("fuzz")
    onnx.save(network(), folder / "in.onnx")
    np.save(folder / "data.npy", images(20))
    for name, (_, data) in models().items():
        np.savez(folder / f"{name}.npz", **data)
    (folder / "photos").mkdir()
    (folder / "photos/good.png").write_bytes(picture(0))
    worker = Worker(folder)
    yield worker
    worker.stop()


def content(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.name != ".ses"]  # which onnxruntime leaves where TMPDIR says
    return {str(path): b"" if path.is_dir() else path.read_bytes() for path in paths}


def answered(worker: Worker, *words: str) -> Outcome:
    """Run a command that works, or fails as users are promised and leaves nothing behind."""
    before = content(worker.folder)
    outcome = worker.run(*words)
    after = content(worker.folder)
    errors = [line for line in outcome.errors.splitlines() if not line.startswith("warning: ")]
    assert not outcome.raised, outcome
    if outcome.code == 0:
        assert errors == [], outcome
        assert after.keys() <= {*before, str(worker.folder / OUTPUT)}
    else:
        assert outcome.code in {1, 3}, outcome
        assert len(errors) == 1, outcome
        assert errors[0].startswith("error: "), outcome
        assert not errors[0].startswith("error: unexpected "), outcome  # which is what bugs are called
        assert outcome.output == ""
        assert after == before
    return outcome


# Models


def inspect(worker: Worker, model: bytes) -> None:
    (worker.folder / "m.onnx").write_bytes(model)
    answered(worker, "inspect", "m.onnx")


@fuzz(40)
@given(st.binary(max_size=300))
def test_any_bytes(worker: Worker, model: bytes) -> None:
    inspect(worker, model)


@fuzz(100)
@given(spoiled({name: model.SerializeToString() for name, model in MODELS.items()}, spoiled_bytes))
def test_spoiled_bytes(worker: Worker, file: Spoiled) -> None:
    inspect(worker, file.content)


@fuzz(300)
@given(spoiled(MODELS, spoiled_model))
def test_spoiled_fields(worker: Worker, file: Spoiled) -> None:
    inspect(worker, file.content)


@fuzz(100)
@given(spoiled(MODELS, spoiled_model))
def test_spoiled_models_are_converted_or_refused(worker: Worker, file: Spoiled) -> None:
    (worker.folder / "m.onnx").write_bytes(file.content)
    words = ("m.onnx", OUTPUT, "--force", "--data", f"{file.name}.npz", "--speedup", "1.3", "--no-bench")
    if answered(worker, *words, "--quiet").code == 0:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        onnxruntime.InferenceSession(worker.folder / OUTPUT, options, ["CPUExecutionProvider"])


# Data, plans, tables


@fuzz(100)
@given(spoiled(data_files(), spoiled_bytes))
def test_spoiled_data(worker: Worker, file: Spoiled) -> None:
    path = worker.folder / file.name
    path.write_bytes(file.content)
    try:
        answered(worker, "compare", "in.onnx", "in.onnx", "--data", file.name.split("/")[0], "--quiet")
    finally:
        path.unlink()  # the photos of other cases lie in the same folder


@fuzz(50)
@given(spoiled_json(PLAN.to_json()))
def test_spoiled_plans(worker: Worker, plan: bytes) -> None:
    (worker.folder / "plan.json").write_bytes(plan)
    answered(worker, "in.onnx", "--dry-run", "--data", "data.npy", "--plan", "plan.json", "--no-bench", "--quiet")


@pytest.fixture(scope="module")
def table(worker: Worker) -> str:
    """Latencies measured elsewhere, of a network with one layer: nothing is measured here."""
    graph = "g (float[N,3,6,6] x) => (float[N,16,6,6] y) { c = Conv<pads=[1,1,1,1]>(x, w) y = Relu(c) }"
    onnx.save(build(graph, {"w": filters(0, 16, 3, 3, 3)}), worker.folder / "one.onnx")
    np.save(worker.folder / "one.npy", images(20, size=6))
    worker.run(*LATENCY)
    found = json.loads((worker.folder / "table.json").read_text())
    found["machine"]["device"] = "elsewhere"
    found["milliseconds"] = {key: 9.0 if "kept" in key or "network" in key else 1.0 for key in found["milliseconds"]}
    text = json.dumps(found)
    (worker.folder / "table.json").write_text(text)
    assert answered(worker, *LATENCY).code == 0
    return text


@fuzz(20)  # where a latency is missing, it is measured
@given(st.data())
def test_spoiled_latency_tables(worker: Worker, table: str, data: st.DataObject) -> None:
    (worker.folder / "table.json").write_bytes(data.draw(spoiled_json(table)))
    answered(worker, *LATENCY)
