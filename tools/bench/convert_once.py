"""Convert one network with the build that Python finds, and print seconds and peak memory as a line of JSON.

Usage::

    PYTHONPATH=CHECKOUT python tools/bench/convert_once.py TASK.json

Reads nothing of this project but its public interface, so that builds of any age can be timed side by side:
`conversion.py --against` runs it. ``TASK.json``: ``model`` and ``data`` (paths; ``.npz`` holds arrays by input),
``preprocessing`` and ``settings`` (arguments of `Preprocessing` and `Settings`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import onnx_lowrank as olr

_NOT_COUNTED = ("verify", "bench")  # stages that check a conversion


def main(task: Path) -> None:
    """Convert what a task says."""
    given = json.loads(task.read_text())
    data = dict(np.load(given["data"])) if given["data"].endswith(".npz") else given["data"]
    preprocessing = olr.Preprocessing(**given["preprocessing"])
    result = olr.convert(given["model"], data, olr.Settings(**given["settings"]), preprocessing=preprocessing)
    seconds = result.report.seconds
    total = seconds["total"] - sum(seconds.get(stage, 0.0) for stage in _NOT_COUNTED)
    # Of this process alone: `resource` counts the one that has started it as well.
    peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
    print(json.dumps({"total_s": total, "peak_memory_bytes": peak, "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
