"""Whether a runtime computes what onnxruntime computes: outputs of both on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.linalg.relative_error import relative_error
from onnx_lowrank.runtime.backends.protocol import Prepared, RuntimeFacts

# Relative differences by precision. In float32 the runtimes differ by 1e-7 to 1e-4 from each other on real networks;
# bfloat16 keeps 8 bits, float16 11, TF32 11 too.
_LIMITS = {"f32": 1e-2, "tf32": 3e-2, "f16": 3e-2, "bf16": 0.1}
_CLEARLY_MORE = 3.0  # times what the original differs by

Outputs = Mapping[str, NDArray[Any]]


def outputs_in(network: Prepared) -> dict[str, NDArray[Any]]:
    """Run a network once and return its outputs.

    Raises:
        ModelError: the runtime cannot load or run it.
    """
    running = network.open()
    try:
        running.run()
        return running.outputs()
    finally:
        running.close()


def differences(wanted: Outputs, found: Outputs) -> dict[str, float]:
    """Return the relative differences of a runtime's outputs by name.

    Args:
        wanted: what onnxruntime computes.
        found: what the runtime computes.

    Returns:
        ``||A - B||_F / ||A||_F``; infinite where shapes differ, an output is missing or only one of them is finite.
    """
    return {name: _difference(values, found.get(name)) for name, values in wanted.items()}


@dataclass(frozen=True)
class Agreement:
    """How far the outputs of one network in a runtime are from onnxruntime's.

    Attributes:
        name: of the network.
        differences: by output, see `differences`.
        rounding: the same of onnxruntime without its optimizations. Outputs close to zero, as those of a detector that
            finds nothing, have no more digits than that.
    """

    name: str
    differences: Mapping[str, float]
    rounding: Mapping[str, float]


def disagreement(runtime: RuntimeFacts, found: Sequence[Agreement]) -> list[str]:
    """Return a warning for every network that computes something else in a runtime.

    The first network is the original: what it differs by itself is no fault of those that are compared with it, as long
    as they do not differ by much more.

    Args:
        runtime: what they ran in.
        found: of every network, the original first.
    """
    warnings = []
    for network in found:
        original = {} if network is found[0] else found[0].differences
        for output, value in network.differences.items():
            usual = _CLEARLY_MORE * max(original.get(output, 0.0), network.rounding.get(output, 0.0))
            if value <= max(usual, limit := _LIMITS[runtime.precision]):
                continue
            far = f"differs by {100 * value:.2g} %" if isfinite(value) else "has another shape, or no finite numbers"
            where = f"in {runtime.name} {runtime.version}, output '{output}'"
            warnings.append(
                f"{network.name}: {where} {far}, compared with onnxruntime (up to {100 * max(usual, limit):.2g} % is "
                f"usual in {runtime.precision}): {_remedy(runtime)}"
            )
    return warnings


def _remedy(runtime: RuntimeFacts) -> str:
    if runtime.precision != "f32":
        return f"try it in float32, `runtime='{runtime.name}:f32'`, or compare accuracy there"
    return f"do not deploy it there unchecked; another release of {runtime.name} or of its converter may help"


def _difference(wanted: NDArray[Any], found: NDArray[Any] | None) -> float:
    if found is None or wanted.shape != found.shape:
        return float("inf")
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    same = (wanted == found) | (np.isnan(wanted) & np.isnan(found))  # infinities and NaN among them
    if not np.isfinite(wanted[~same]).all() or not np.isfinite(found[~same]).all():
        return float("inf")
    squared = float(np.square(wanted[~same] - found[~same]).sum())
    return relative_error(squared, float(np.square(wanted[np.isfinite(wanted)]).sum()))
