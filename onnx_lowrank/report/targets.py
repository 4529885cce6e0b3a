"""Whether a conversion reached what was asked for, and if not, why."""

from __future__ import annotations

from onnx_lowrank.report.report import Report
from onnx_lowrank.runtime.latency import Latency
from onnx_lowrank.settings import Settings
from onnx_lowrank.verify import AccuracyLoss

# Share of the requested speedup that counts as reached. Counts are exact, and only the last digits are rounded; of the
# same network two measurements on a quiet machine differ by a few percent.
REACHED_SHARE_OF_COUNT = 0.99
REACHED_SHARE_OF_TIME = 0.95


def is_close(latency: Latency, wanted: float) -> bool:
    """Return whether a measured speedup may be the one that was asked for, neither less nor more.

    Args:
        latency: measured; unsteady ones are close unless all of their interval is not.
        wanted: speedup in milliseconds.
    """
    return (
        latency.most_speedup >= REACHED_SHARE_OF_TIME * wanted
        and REACHED_SHARE_OF_TIME * latency.least_speedup <= wanted
    )


def missed_targets(
    report: Report, settings: Settings, latency: Latency | None, loss: AccuracyLoss | None
) -> tuple[str, ...]:
    """Return a sentence for each target that was not reached: what was asked for, what came of it, why, what to do.

    Args:
        report: with the multiply-adds and parameters of the network; its warnings may be missing still.
        settings: what was asked for.
        latency: of the original and the written network; None where it was not measured.
        loss: of the network that a search for ``max_drop`` ended with, on samples that it was not searched with; None
            without a search.
    """
    if settings.max_drop is not None:
        return _missed_loss(settings, loss)
    if report.requested is None:
        return ()
    return _missed_speedup(report, report.requested, settings.cost, latency)


def _missed_loss(settings: Settings, loss: AccuracyLoss | None) -> tuple[str, ...]:
    allowed = settings.max_drop or 0.0
    if loss is None or (loss.interval is None and settings.metric is None):
        return ()
    least = loss.value if loss.interval is None else loss.interval[0]
    if least <= allowed:
        return ()
    return (
        f"max-drop {allowed:g} is kept on the samples searched with, but not on others: {loss}: "
        "add samples, or lower `max_drop`",
    )


def _missed_speedup(report: Report, wanted: float, cost: str, latency: Latency | None) -> tuple[str, ...]:
    if cost == "latency":
        if latency is None or latency.most_speedup >= REACHED_SHARE_OF_TIME * wanted:
            return ()
        reached = f"{latency.most_speedup:.2f}x{'' if latency.steady else ' at most'}"
        return (
            f"asked {wanted:g}x in milliseconds, reached {reached}, because the timings that ranks were chosen by met "
            "it and these do not: other work on this machine spoils them, try again",
        )
    ratio, unit = (report.speedup, "multiply-adds") if cost == "macs" else (report.parameter_ratio, "parameters")
    if ratio >= REACHED_SHARE_OF_COUNT * wanted:
        return ()
    if any(layer.width is not None for layer in report.layers):
        why = "layers that lose channels at both ends keep more than was estimated when ranks were chosen"
    else:  # ranks are counted exactly
        why = "it was counted differently when ranks were chosen, please report this"
    return (f"asked {wanted:g}x fewer {unit}, reached {ratio:.2f}x, because {why}: ask for a little more",)
