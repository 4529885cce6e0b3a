"""``--report x.html``: the page of a real conversion."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from onnx_lowrank import convert
from tests.command_line import fails, works
from tests.networks import images, network

WORDS = ("in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "2", "--no-bench", "--quiet")


def marks(html: str, kind: str) -> int:
    return len(re.findall(f'class="mark {kind}"', html))


def test_a_conversion(folder: Path) -> None:
    works(*WORDS, "--report", "R.HTML", "--report", "r.json")
    html = Path("R.HTML").read_text(encoding="utf-8")
    assert html.startswith("<!DOCTYPE html>")
    assert (marks(html, "before"), marks(html, "curve")) == (4, 3)
    assert marks(html, "solved") > 0
    assert html.count("data:image/png") == 12
    sizes = [Path(name).stat().st_size for name in ("in.onnx", "out.onnx")]
    assert f"{sizes[0] / 1e3:.3g} kB → {sizes[1] / 1e3:.3g} kB" in html


def test_a_dry_run(folder: Path) -> None:
    works(*WORDS[:1], *WORDS[2:], "--dry-run", "--report", "r.html")
    html = Path("r.html").read_text(encoding="utf-8")
    assert "a plan, nothing was solved or written" in html
    assert marks(html, "curve") == 3
    assert marks(html, "solved") == html.count("data:image") == 0


@pytest.mark.parametrize("module", ["jinja2", "matplotlib.figure"])
def test_without_the_extra_it_fails_before_it_starts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    Path("in.onnx").write_text("not looked at")
    error = fails(folder, *WORDS, "--report", "r.html")
    assert error.startswith("error: --report r.html: ")
    assert error.endswith("pip install 'onnx-lowrank[report]'")


def test_from_python() -> None:
    model = network()
    result = convert(model, {"x": images()}, speedup=2, bench=False)
    html = result.to_html()
    assert html == result.to_html()
    assert f"{model.ByteSize() / 1e3:.3g} kB →" in html
    assert len(result.evidence.samples) == 12
    assert list(result.evidence.energies) == ["c1", "c2", "c3"]


def test_curves_where_ranks_are_chosen_by_them() -> None:
    how = {"speedup": 2, "bench": False, "dry_run": True, "method": "channel"}
    curves = [
        convert(network(), {"x": images()}, selection=each, **how).evidence.energies for each in ("energy", "error")
    ]
    for name in ("c1", "c2", "c3"):
        np.testing.assert_allclose(curves[0][name], curves[1][name], atol=1e-6, rtol=0)
