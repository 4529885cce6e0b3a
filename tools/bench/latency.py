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
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

import onnx_lowrank as olr
from onnx_lowrank.calibrate import collect_targets
from onnx_lowrank.calibrate.calibration import Job, prepare_job
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.ranks.choose import choose_ranks, measure_errors
from onnx_lowrank.runtime.latency import with_random_factors
from onnx_lowrank.runtime.layer_latency import LayerTimer
from onnx_lowrank.runtime.progress import Silent
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.settings import ProviderName
from onnx_lowrank.solve.device import solver_device
from yardsticks import NETWORKS, Network


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
    job, errors = _prepared(network, arguments.provider)
    rows: list[dict[str, Any]] = []
    for threads in arguments.threads:
        models = dict(_models(job, errors, arguments.speedups, threads))
        for batch in arguments.batches:
            rows += _timed(models, arguments, threads, batch)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _prepared(network: Network, provider: ProviderName) -> tuple[Job, list[RankLosses]]:
    """All that is the same for every target."""
    settings = olr.Settings(samples=network.samples, provider=provider, bench=False)
    job = prepare_job(network.model, network.data, settings, network.preprocessing, Silent())
    batches = job.batches(job.split.calibration, "collect")
    where = job.network.provider
    targets = collect_targets(job.network.model, job.layers, job.positions, batches, where, job.probes)
    return job, measure_errors(job, targets, solver_device(where))


def _models(
    job: Job, errors: Sequence[RankLosses], speedups: Sequence[float], threads: int
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The original, and a stand-in for every target."""
    yield "original", job.network.model
    provider = choose_provider(job.network.provider.name, threads)
    clock = LayerTimer(provider, 1, None, job.network.model.ByteSize())
    here = replace(job, network=replace(job.network, provider=provider), clock=clock)
    for cost in ("macs", "latency"):
        for speedup in speedups:
            settings = replace(job.settings, cost=cost, speedup=speedup, bench=cost == "latency")
            plan = choose_ranks(replace(here, settings=settings), errors)
            macs = sum(layer.macs for layer in here.every_layer) / sum(here.planned_macs(plan))
            yield f"{speedup:g}x by {cost} ({macs:.2f}x MACs)", with_random_factors(here, plan)


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
