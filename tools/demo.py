"""Convert the demo model at 4x and print its accuracy, cost and latency before and after.

Usage::

    python tools/demo.py

Reads models/demo_mnist_vgg.onnx, calibrates with training digits, and writes demo-out/demo_4x.onnx and a report.
Needs the extras ``cpu`` and ``demo``.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnxruntime

import onnx_lowrank as olr
from demo_data import Digits, load_digits, split_digits
from onnx_lowrank.report import short_number

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models/demo_mnist_vgg.onnx"
PACE = olr.Pace(rounds=6, repeats=30, seconds=0.1, warm_up=10)


def main() -> None:
    """Convert the demo model, measure both models, print the comparison."""
    folder = ROOT / "demo-out"
    folder.mkdir(exist_ok=True)
    output = folder / "demo_4x.onnx"
    train, held_out = split_digits(load_digits())
    print(f"converting {MODEL.name} at 4x with digits from its training set ...", flush=True)
    result = olr.convert(MODEL, {"input": train.inputs}, speedup=4, output=output, force=True)
    (folder / "demo_4x.json").write_text(result.report.to_json())
    macs = result.report.macs
    print(f"accuracy   {accuracy(MODEL, held_out):.2%} -> {accuracy(output, held_out):.2%}")
    print(f"           on {len(held_out.labels)} digits that neither training nor conversion saw")
    print(f"MACs       {short_number(macs[0])} -> {short_number(macs[1])}: {result.report.speedup:.2f}x fewer")
    for threads in dict.fromkeys((1, os.cpu_count() or 1)):
        before, after = olr.bench([MODEL, output], provider="cpu", threads=threads, pace=PACE).models
        print(
            f"latency    {before.timing.median_ms:.2f} -> {after.timing.median_ms:.2f} ms: {after.ratio_to_first:.2f}x "
            f"faster (batch 1, {threads} thread{'s' if threads > 1 else ''}, median of {after.timing.runs} runs)"
        )
    print(f"converted in {result.report.seconds['total']:.0f} s; wrote {output.relative_to(ROOT)} and its report")


def accuracy(model: Path, digits: Digits) -> float:
    """Return the share of digits that are classified correctly, 0 to 1."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"input": digits.inputs})
    return float((scores.argmax(axis=1) == digits.labels).mean())


if __name__ == "__main__":
    main()
