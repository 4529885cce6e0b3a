"""Networks in another runtime: converted, compared with onnxruntime on the same inputs, and timed in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.runtime.agreement import differences, outputs_in
from onnx_lowrank.runtime.backends.onnxruntime import OnnxRuntime
from onnx_lowrank.runtime.backends.protocol import Prepared, Runtime
from onnx_lowrank.runtime.backends.staging import staging_folder, subfolder
from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.runtime.timing import Pace, Timing, time_prepared

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Trial:
    """One network in a runtime.

    Attributes:
        error: why it does not run there, in the words of the runtime or its converter; None where it does.
        timing: its runs; None where it does not run, or was not timed.
        differences: of its outputs from onnxruntime's, see `agreement.differences`.
    """

    error: str | None = None
    timing: Timing | None = None
    differences: Mapping[str, float] = field(default_factory=dict)


def try_out(
    models: Sequence[onnx.ModelProto | Path],
    feeds: Sequence[Feeds],
    runtime: Runtime,
    provider: Provider,
    pace: Pace | None = None,
) -> list[Trial]:
    """Run networks in a runtime and in onnxruntime, and time them.

    Args:
        models: the networks.
        feeds: one batch of inputs for each.
        runtime: what they are tried in.
        provider: where onnxruntime runs.
        pace: how often and how long they are timed, in turns, one of them loaded at a time; None for not at all.

    Returns:
        One trial for each, in order; a network that the runtime cannot convert or run does not stop the others.

    Raises:
        ModelError: onnxruntime cannot run one of them.
    """
    with staging_folder() as folder:
        trials: list[Trial] = []
        networks: dict[int, Prepared] = {}
        for position, (model, batch) in enumerate(zip(models, feeds, strict=True)):
            own = subfolder(folder, str(position))
            wanted = outputs_in(OnnxRuntime(provider).prepare(model, batch, own))
            try:
                prepared = runtime.prepare(model, batch, own)
                trials.append(Trial(differences=differences(wanted, outputs_in(prepared))))
                networks[position] = prepared
            except ModelError as error:
                trials.append(Trial(str(error)))
        if pace is not None:
            for position, timing in zip(networks, time_prepared(list(networks.values()), pace), strict=True):
                trials[position] = replace(trials[position], timing=timing)
    return trials
