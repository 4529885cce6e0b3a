"""Whether a runtime computes what onnxruntime computes: outputs of both on the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError
from onnx_lowrank.linalg.relative_error import relative_error
from onnx_lowrank.runtime.backends.native_output import native_output
from onnx_lowrank.runtime.backends.protocol import Prepared, RuntimeFacts

# Relative differences by precision. In float32 the runtimes differ by 1e-7 to 1e-4 from each other on real networks;
# bfloat16 keeps 8 bits, float16 11, TF32 11 too.
_LIMITS = {"f32": 1e-2, "tf32": 3e-2, "f16": 3e-2, "bf16": 0.1}
_CLEARLY_MORE = 3.0  # times what the original differs by
# Root mean square of an output that differences relate to at least: a sigmoid in float32 is off by 1e-7 of its range,
# also where it is close to 0 everywhere, as that of a detector which finds nothing.
_LEAST_SIZE = 1e-4

Outputs = Mapping[str, NDArray[Any]]


def outputs_in(network: Prepared) -> dict[str, NDArray[Any]]:
    """Run a network once and return its outputs; what the runtime prints is kept for the error.

    Raises:
        ModelError: the runtime cannot load or run it.
    """
    running = network.open()
    try:
        with native_output() as printed:
            try:
                running.run()
            except ModelError as error:
                said = " ".join(printed().split())
                raise ModelError(f"{error}; it says: {said}" if said else str(error)) from error
        return running.outputs()
    finally:
        running.close()


def differences(wanted: Outputs, found: Outputs) -> dict[str, float]:
    """Return the relative differences of a runtime's outputs by name.

    Args:
        wanted: what onnxruntime computes.
        found: what the runtime computes.

    Returns:
        ``||A - B||_F / ||A||_F``, where A counts as no smaller than a mean square of 1e-8; infinite where shapes
        differ, an output is missing or only one of them is finite.
    """
    return {name: _difference(values, found.get(name)) for name, values in wanted.items()}


def disagreement(runtime: RuntimeFacts, names: Sequence[str], found: Sequence[Mapping[str, float]]) -> list[str]:
    """Return a warning for every output of a network that a runtime computes otherwise.

    The first network is the original: what it differs by itself is no fault of those that are compared with it, as long
    as they do not differ by much more.

    Args:
        runtime: what they ran in.
        names: of the networks.
        found: the `differences` of each; empty for one that did not run.
    """
    warnings = []
    for position, (name, own) in enumerate(zip(names, found, strict=True)):
        original = found[0] if position else {}
        for output, value in own.items():
            usual = max(_CLEARLY_MORE * original.get(output, 0.0), _LIMITS[runtime.precision])
            if value <= usual:
                continue
            far = f"differs by {100 * value:.2g} %" if isfinite(value) else "has another shape, or no finite numbers"
            warnings.append(
                f"{name}: in {runtime.name} {runtime.version}, output '{output}' {far}, compared with onnxruntime "
                f"(up to {100 * usual:.2g} % is usual in {runtime.precision}): {_remedy(runtime)}"
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
    return relative_error(
        squared, max(float(np.square(wanted[np.isfinite(wanted)]).sum()), wanted.size * _LEAST_SIZE**2)
    )
