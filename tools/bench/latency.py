"""Measured latency: the original and what is converted by multiply-adds and by milliseconds.

Usage::

    python tools/bench/latency.py digits
    python tools/bench/latency.py vgg16 --shared ../shared [--speedups 2,4] [--threads 1,2] [--batches 1,8]
        [--provider cuda] [--json latency.json]

Ranks are chosen with real samples; in the place of solved weights stand random ones, which are as fast. By milliseconds
they are chosen at batch size 1 for each number of threads. All models of a table take turns, one session alive at a
time; figures are medians, ratios medians over rounds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

import onnx_lowrank as olr
from network import Network
from onnx_lowrank.calibrate.calibration import CalibrationSet
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.pipeline import collect, conversion_timer, open_conversion, rank_losses
from onnx_lowrank.ranks.choose import choose_ranks
from onnx_lowrank.runtime import network as runtime
from onnx_lowrank.runtime.latency import with_random_factors
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.solve.device import solver_device
from yardsticks import NETWORKS


def main() -> None:
    """Choose ranks, time, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/")
    parser.add_argument("--speedups", type=_floats, default=(2.0, 3.0, 4.0))
    parser.add_argument("--threads", type=_integers, default=(1, 2))
    parser.add_argument("--batches", type=_integers, default=(1, 8))
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    network = NETWORKS[arguments.network](arguments.shared)
    settings = olr.Settings(samples=network.samples, provider=arguments.provider, bench=False)
    calibrated = _calibrated(network, settings)
    rows: list[dict[str, Any]] = []
    for threads in arguments.threads:
        models = dict(_models(*calibrated, replace(settings, threads=threads), arguments.speedups))
        for batch in arguments.batches:
            rows += _timed(models, arguments, threads, batch)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _calibrated(
    network: Network, settings: olr.Settings
) -> tuple[runtime.Network, LayerSet, CalibrationSet, list[RankLosses]]:
    """Measure all that is the same for every target."""
    opened, layers, calibration = open_conversion(network.model, network.data, network.preprocessing, settings)
    targets = collect(opened, layers, calibration, Monitor())
    losses = rank_losses(layers, targets, calibration.images, settings, solver_device(opened.provider), Monitor())
    return opened, layers, calibration, losses


def _models(
    network: runtime.Network,
    layers: LayerSet,
    calibration: CalibrationSet,
    losses: Sequence[RankLosses],
    settings: olr.Settings,
    speedups: Sequence[float],
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield the original, and a network of random factors for every target."""
    yield "original", network.model
    here = replace(network, provider=choose_provider(network.provider.name, settings.threads))
    with closing(conversion_timer(here, calibration, settings, Monitor())) as timer:
        aims = [replace(settings, cost="macs", speedup=speedup, bench=False) for speedup in speedups]
        aims += [replace(settings, cost="latency", speedup=speedup, bench=True) for speedup in speedups]
        for aim in aims:
            plan = choose_ranks(layers, losses, aim, timer)
            name = f"{aim.speedup:g}x by {aim.cost} ({layers.macs / sum(layers.planned_macs(plan)):.2f}x MACs)"
            yield name, with_random_factors(here.model, layers.eligible, plan)


def _timed(
    models: dict[str, onnx.ModelProto], arguments: argparse.Namespace, threads: int, batch: int
) -> list[dict[str, Any]]:
    found = olr.bench(
        list(models.values()),
        provider=arguments.provider,
        threads=threads,
        batch_size=batch,
        pace=olr.Pace(rounds=arguments.rounds),
    )
    facts = found.to_dict()
    print(f"\n{arguments.network}, batch {batch}, {threads} threads, {facts['provider']}, {facts['device']}, ", end="")
    print(f"onnxruntime {facts['onnxruntime']}", flush=True)
    rows = []
    for name, timing in zip(models, facts["models"], strict=True):
        numbers = {key: timing[key] for key in ("median_ms", "p10_ms", "p90_ms", "ratio_to_first", "runs")}
        rows.append({"network": arguments.network, "model": name, "threads": threads, "batch": batch, **numbers})
        print(
            f"{name:34} {numbers['median_ms']:9.2f} ms ({numbers['p10_ms']:.2f} to {numbers['p90_ms']:.2f}, "
            f"{numbers['runs']} runs) {numbers['ratio_to_first']:6.2f}x",
            flush=True,
        )
    return rows


def _floats(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def _integers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    main()
