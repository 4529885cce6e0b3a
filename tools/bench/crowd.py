"""Measure conversions of one model that run at the same time, as on a build server, against one that runs alone.

Usage::

    python tools/bench/crowd.py models/demo_mnist_vgg.onnx [--at-once 2,4] [--rounds 10] [--json FILE] [-- OPTIONS]

``ratio`` is the time until the last of n has ended, by n times the time of one alone in the same round: 1 where they
share the machine without loss, less where one alone leaves cores idle. The worst round counts. OPTIONS go to every
conversion, ``--threads 1`` for example; without ``--data`` among them, images are synthetic.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import onnxruntime

from onnx_lowrank.runtime.processors import usable_cores


def main() -> None:
    """Measure in rounds, each with all numbers in turn, and print a row for each number."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--at-once", default="2,4", help="how many run at the same time")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    own, options = (sys.argv[1:], []) if "--" not in sys.argv else _split(sys.argv[1:])
    arguments = parser.parse_args(own)
    counts = [int(count) for count in arguments.at_once.split(",")]
    cores = f"{os.cpu_count()} processors, {usable_cores()} usable cores"
    print(f"{platform.machine()}, {cores}, onnxruntime {onnxruntime.__version__}")
    print(f"{arguments.model} {' '.join(options)}", flush=True)
    rounds = []
    for number in range(1, arguments.rounds + 1):
        seconds = {count: convert_at_once(arguments.model, options, count) for count in (1, *counts)}
        rounds.append(seconds)
        print(
            f"round {number}: " + "  ".join(f"{count}: {taken:.1f} s" for count, taken in seconds.items()), flush=True
        )
    rows = []
    for count in counts:
        ratios = [seconds[count] / (count * seconds[1]) for seconds in rounds]
        rows.append({"at_once": count, "worst": max(ratios), "median": median(ratios)})
        print(f"{count} at once: ratio {max(ratios):.2f} in the worst round, {median(ratios):.2f} in the median one")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": rounds, "rows": rows}, indent=2) + "\n")


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words before and after ``--``."""
    at = words.index("--")
    return words[:at], words[at + 1 :]


def convert_at_once(model: Path, options: list[str], count: int) -> float:
    """Return the seconds until the last of several conversions has ended.

    Raises:
        RuntimeError: one of them failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        errors = [Path(folder, f"{number}.txt") for number in range(count)]
        start = time.perf_counter()
        processes = [
            _started(model, Path(folder, f"{number}.onnx"), options, errors[number]) for number in range(count)
        ]
        codes = [process.wait() for process in processes]
        seconds = time.perf_counter() - start
        if any(codes):
            said = [text.read_text() for text, code in zip(errors, codes, strict=True) if code]
            raise RuntimeError(f"exit codes {codes}: {''.join(said)}")
    return seconds


def _started(model: Path, output: Path, options: list[str], errors: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onnx_lowrank", str(model), str(output), "--quiet", *options]
    with errors.open("w") as file:
        return subprocess.Popen(command, stderr=file)


if __name__ == "__main__":
    main()
