"""Methods and ranks under the milliseconds of a runtime: one that is made up, with and without Winograd's algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnx_lowrank.errors import BudgetError
from onnx_lowrank.report.result import Result
from onnx_lowrank.runtime import layer_latency, timing
from onnx_lowrank.runtime.backends import Running
from onnx_lowrank.runtime.latency import with_random_factors
from tests.helpers import Feeds, find, normal, plain_network, work
from tests.ranks.test_choose import converted

_RATE = 1e6  # multiply-adds a millisecond
_BLOCK = 8
_OVERHEAD_MS = 0.01  # of a convolution


@dataclass
class Square:
    """A runtime that runs parts; its 3 x 3 convolutions may take less than half of their multiply-adds.

    Attributes:
        winograd: whether they do.
        clock: milliseconds that have passed.
        whole: networks that were timed as a whole.
    """

    winograd: bool
    clock: float = 0.0
    whole: list[onnx.ModelProto] = field(default_factory=list)
    name: str = "ncnn"
    version: str = "1"
    precision: str = "f32"
    threads: int = 1
    runs_parts: bool = True

    def milliseconds(self, model: onnx.ModelProto) -> float:
        def of(weight: tuple[int, ...], macs: int) -> float:
            fast = self.winograd and weight[2:] == (3, 3) and min(weight[:2]) >= _BLOCK
            return _OVERHEAD_MS + macs / _RATE / (2.25 if fast else 1)

        return sum(of(each.weight, each.blocked(_BLOCK)) for each in work(model))

    def prepare(self, model: onnx.ModelProto | Path, feeds: Mapping[str, Any], folder: Path) -> Any:
        assert isinstance(model, onnx.ModelProto)
        assert folder.is_dir()
        assert {value.name for value in model.graph.input} == feeds.keys()
        if model.graph.name != "layers":
            self.whole.append(model)
        return Opened(self, model)

    def perf_counter(self) -> float:
        return self.clock / 1e3


@dataclass
class Opened:
    runtime: Square
    model: onnx.ModelProto

    def open(self, outputs: Sequence[str] | None = None) -> Running:
        if outputs is None:
            return Runs(self.runtime, self.runtime.milliseconds(self.model))
        (output,) = outputs
        part = onnx.utils.Extractor(self.model).extract_model(self.reads(output), [output])
        return Runs(self.runtime, self.runtime.milliseconds(part))

    def reads(self, output: str) -> list[str]:
        """The input that an output depends on."""
        inputs = {value.name for value in self.model.graph.input}
        makers = {name: node for node in self.model.graph.node for name in node.output}
        name = output
        while name not in inputs:
            name = makers[name].input[0]
        return [name]


@dataclass
class Runs:
    runtime: Square
    takes: float

    def run(self) -> None:
        self.runtime.clock += self.takes

    def outputs(self) -> Feeds:
        return {}

    def close(self) -> None:
        pass


def chosen(monkeypatch: pytest.MonkeyPatch, cache: Path, runtime: Square, **changes: Any) -> Result:
    monkeypatch.setattr(layer_latency, "open_runtime", lambda *_: runtime)
    monkeypatch.setattr(layer_latency, "user_cache_path", lambda name: cache / name)
    monkeypatch.setattr(layer_latency, "rank_block", lambda *_: _BLOCK)
    monkeypatch.setattr(timing, "time", runtime)
    settings = {"cost": "latency", "runtime": "ncnn", "rank_multiple": None, "dry_run": True}
    return converted(network(), **settings | changes)


def network() -> onnx.ModelProto:
    return plain_network(4, channels=64, size=16)


def speedup_of(result: Result, runtime: Square) -> float:
    """The speedup of the plan by the runtime's own rule."""
    layers, _ = find(network(), {"x": normal(0, 1, 3, 16, 16)})
    planned = with_random_factors(network(), layers, result.plan)
    return runtime.milliseconds(network()) / runtime.milliseconds(planned)


@pytest.mark.parametrize(("winograd", "speedup"), [(True, 2.0), (False, 3.0)])
def test_square_kernels_are_kept_where_they_are_fast(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, winograd: bool, speedup: float
) -> None:
    runtime = Square(winograd)
    result = chosen(monkeypatch, tmp_path, runtime, speedup=speedup)
    methods = {entry.method for entry in result.plan} - {"kept"}
    assert methods == {"channel"} if winograd else "spatial-channel" in methods
    assert 0.95 * speedup <= speedup_of(result, runtime) <= 1.1 * speedup


def test_by_multiply_adds_the_same_network_would_hardly_be_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime = Square(winograd=True)
    by_count = chosen(monkeypatch, tmp_path, runtime, cost="macs", speedup=3.0)
    assert speedup_of(by_count, runtime) < 2.2


def test_the_largest_speedup_that_is_named_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runtime = Square(winograd=True)
    with pytest.raises(BudgetError, match=r"^speedup 90 cannot be reached, the largest that can is ") as caught:
        chosen(monkeypatch, tmp_path, runtime, speedup=90.0)
    largest = float(str(caught.value).partition("largest that can is ")[2].split()[0])
    original = runtime.milliseconds(network())
    measured = [original / runtime.milliseconds(each) for each in runtime.whole]
    assert largest == pytest.approx(max(measured), abs=0.006)
    again = chosen(monkeypatch, tmp_path, runtime, speedup=0.97 * largest)
    assert speedup_of(again, runtime) >= 0.95 * 0.97 * largest
