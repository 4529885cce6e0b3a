"""Solve a network for the targets of a sweep, two at a time.

What a target needs is known before the first of them, so they do not wait for each other. A single one leaves threads
idle, since much of its work is too small to be shared out: two at a time take three quarters of the time.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from onnx_lowrank.calibrate.calibration import CalibrationSet
from onnx_lowrank.errors import BudgetError, CalibrationError, LowRankError
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.output_weights import OutputWeights
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.layers.responses import TargetResponses
from onnx_lowrank.linalg.threads import allowed, on_threads, workers
from onnx_lowrank.pipeline import solve_network
from onnx_lowrank.ranks.choose import choose_ranks
from onnx_lowrank.report.converted import ConvertedNetwork
from onnx_lowrank.runtime.latency import ConversionTimer
from onnx_lowrank.runtime.memory import budget_bytes
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network
from onnx_lowrank.runtime.processors import usable_cores
from onnx_lowrank.settings import Settings
from onnx_lowrank.solve.device import SolverDevice

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 2  # each takes the memory of a conversion


@dataclass(frozen=True, eq=False)
class ReadyNetwork:
    """A network of which all is known that solving it takes.

    Attributes:
        network: the original.
        layers: of it.
        losses: of the eligible layers.
        calibration: the samples to solve on.
        targets: what the original delivers by layer name, of these samples and perhaps more.
        timer: of layers, where the cost is time.
        device: to solve on.
        weights: what the outputs feel.
    """

    network: Network
    layers: LayerSet
    losses: Sequence[RankLosses]
    calibration: CalibrationSet
    targets: Mapping[str, TargetResponses]
    timer: ConversionTimer
    device: SolverDevice
    weights: OutputWeights

    def solved(
        self, speedups: Sequence[float], settings: Settings, monitor: Monitor
    ) -> Generator[tuple[Monitor, ConvertedNetwork | LowRankError], None, None]:
        """Yield the network of every target, or why there is none, in order, each with what counts its seconds.

        Args:
            speedups: the targets.
            settings: of all of them.
            monitor: watches the sweep: the targets where several are solved at once, else every stage of each.
        """
        aims = [replace(settings, speedup=speedup) for speedup in speedups]
        at_once = self._at_once(settings, len(aims))
        if at_once == 1:
            for aim in aims:
                own = monitor.restarted()
                yield own, self._network_of(aim, own)
            return
        cores = self.network.provider.threads or usable_cores()
        share = replace(self, network=self.network.with_threads(max(1, cores // at_once)))
        threads, memory = allowed() // at_once, self._memory(settings, at_once)

        def work(aim: Settings) -> tuple[Monitor, ConvertedNetwork | LowRankError]:
            own = Monitor()
            with ExitStack() as stack:
                if threads > 1:
                    stack.enter_context(workers(threads))
                return own, share._network_of(replace(aim, memory=memory), own)

        # On threads of its own: the others are for whoever takes the networks, and verifies them meanwhile.
        yield from monitor.track(on_threads(work, aims, at_once), "targets", len(aims))

    def _at_once(self, settings: Settings, targets: int) -> int:
        """Return how many targets are solved at a time: one where that takes a GPU, or layers are timed."""
        alone = self.device.one_by_one or not self.network.provider.on_cpu or settings.cost == "latency"
        return 1 if alone else max(1, min(_MOST_AT_ONCE, allowed(), targets))

    def _memory(self, settings: Settings, at_once: int) -> float:
        """Return the bound of one of several targets, in 1e9 bytes."""
        held = sum(each.nbytes for each in self.targets.values())
        return (budget_bytes(settings.memory, held) / at_once + held) / 1e9

    def _network_of(self, aim: Settings, monitor: Monitor) -> ConvertedNetwork | LowRankError:
        log.info("target %gx", aim.speedup)
        try:
            plan = choose_ranks(self.layers, self.losses, aim, self.timer)
            return solve_network(
                self.network,
                self.layers,
                self.losses,
                plan,
                self.calibration,
                self.calibration.rows_of(self.targets),
                aim,
                monitor,
                self.device,
                self.weights,
            )
        except (BudgetError, CalibrationError) as error:
            return error
