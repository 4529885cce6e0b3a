"""Whether a converted network is close enough to the original to be used: what to warn of, and what to refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from onnx_lowrank.errors import BudgetError, VerificationError
from onnx_lowrank.layers.warning import ReportWarning
from onnx_lowrank.settings import Settings
from onnx_lowrank.verify.outputs import Comparison, OutputFidelity

# What nobody would use without a second look. Few applications can afford to have one answer in twenty changed; where a
# network scores no classes, an error of 0.3 is a tenth of the energy of the output (0.3 squared), 10 dB below it.
MIN_AGREEMENT = 0.95
MAX_RELATIVE_ERROR = 0.3
WORST_ERROR = 1.0  # relative; an output of zeros would be as close
WORST_AGREEMENT = 0.5  # with a larger error
_REMEDY = "convert with less speedup, another method or more samples, or fine-tune the result"


def limits(settings: Settings) -> dict[str, dict[str, float | None]]:
    """Return what results are judged by, as in the JSON report.

    Returns:
        Of each output that is compared, the least share with the original's top class (``agreement``) and the largest
        ``relative_error``: what is worse gets a warning (``warn``), or is refused (``refuse``), None for no limit.
    """
    allowed = settings.output_drop or 0.0
    most = WORST_ERROR if settings.max_error is None else min(settings.max_error, WORST_ERROR)
    return {
        "warn": {
            "agreement": min(MIN_AGREEMENT, 1 - allowed),
            "relative_error": max(MAX_RELATIVE_ERROR, allowed),
        },
        "refuse": {"agreement": settings.min_agreement, "relative_error": most},
    }


def refusal(fidelity: OutputFidelity) -> tuple[str, str] | None:
    """Return why nobody could use an output: what was found, and the least or most that is wanted; None if one could.

    That is one that is further from the original's than zeros would be, and bad by the measure of its kind too.

    Args:
        fidelity: of the output.
    """
    error, kind, agreement = fidelity.relative_error, fidelity.of_kind, fidelity.agreement
    if error <= WORST_ERROR:
        return None
    if kind is not None:
        found = f"{kind.measure} {kind.value:.4g} ({kind.kind}; relative error {error:.4g})"
        return None if kind.value >= kind.least else (found, f"at least {kind.least:g}")
    if agreement is not None and np.isfinite(error):
        found = f"same top class {agreement:.4g} (relative error {error:.4g})"
        return None if agreement >= WORST_AGREEMENT else (found, f"at least {WORST_AGREEMENT:g}")
    return f"relative error {error:.4g}", f"at most {WORST_ERROR:g}"


def is_close(fidelity: Mapping[str, Any], max_drop: float | None = None) -> bool:
    """Return whether an output is as close as most people expect.

    Args:
        fidelity: the entry of the output in the JSON report.
        max_drop: the loss that the user allows, as a share; None for none.
    """
    return _shortfall(fidelity, max_drop) is None


def _shortfall(fidelity: Mapping[str, Any], max_drop: float | None) -> tuple[str, str] | None:
    """Return what was found of an output that is not close, and what is to be expected; None for one that is.

    By the measure of its kind where it has one, else by the agreement of classes, else by the relative error.
    """
    agreement, error, measure = fidelity["agreement"], fidelity["relative_error"], fidelity.get("measure")
    allowed = max_drop or 0.0
    if measure is not None:
        found = f"{measure['name']} {measure['value']:.3g}", f"{measure['warn']:g} is the least to expect"
        return None if measure["value"] >= min(measure["warn"], 1 - allowed) else found
    if agreement is not None:
        found = f"same top class on only {agreement:.1%}", f"{MIN_AGREEMENT:.0%} is the least to expect"
        return None if agreement >= min(MIN_AGREEMENT, 1 - allowed) else found
    if error is not None and error <= max(MAX_RELATIVE_ERROR, allowed):
        return None
    size = "infinite" if error is None else f"{error:.3g}"
    return f"relative error {size}", f"{MAX_RELATIVE_ERROR:g} is the most to expect"


def fidelity_warnings(comparison: Comparison, samples: str, max_drop: float | None = None) -> tuple[ReportWarning, ...]:
    """Return a warning for each output that is not close, with what to do.

    Args:
        comparison: of the converted network with the original.
        samples: their number and kind, as in ``40 held-out samples``.
        max_drop: the loss that the user allows, as a share; None for none.
    """
    warnings = []
    for name, fidelity in comparison.to_dict()["outputs"].items():
        if name in comparison.random or (found := _shortfall(fidelity, max_drop)) is None:
            continue
        joint = "of" if found[0].endswith("%") else "on"
        text = f"output '{name}' is not close to the original: {found[0]} {joint} {samples}, {found[1]}: {_REMEDY}"
        warnings.append(ReportWarning("not-close", text))
    return tuple(warnings)


def check_bounds(comparison: Comparison, settings: Settings) -> None:
    """Raise for a converted network that is outside of the bounds that the user has set.

    Args:
        comparison: with the original, on held-out samples.
        settings: with the bounds.

    Raises:
        BudgetError: ``min_agreement`` is set, and no output scores classes.
        VerificationError: an output is outside.
    """
    least, most = settings.min_agreement, settings.max_error
    agreements = [each.agreement for each in comparison.outputs.values() if each.agreement is not None]
    if least is not None and not agreements:
        raise BudgetError(
            f"`min_agreement`: no output scores classes ({', '.join(comparison.outputs)}), wanted one of shape "
            "(samples, classes): set `max_error` instead"
        )
    less = "raise the ranks of the plan" if settings.plan else "lower `speedup`"
    less = less if settings.max_drop is None else "lower `max_drop`"
    remedy = f"{less}, allow another `method` or add samples; nothing was written"
    for name, fidelity in comparison.outputs.items():
        if least is not None and fidelity.agreement is not None and fidelity.agreement < least:
            raise VerificationError(
                f"output '{name}': same top class on {fidelity.agreement:.4g} of {comparison.images} held-out samples, "
                f"at least {least:g} is wanted by `min_agreement`: {remedy}"
            )
        if most is not None and not fidelity.relative_error <= most:
            raise VerificationError(
                f"output '{name}': relative error {fidelity.relative_error:.4g} on {comparison.images} held-out "
                f"samples, at most {most:g} is wanted by `max_error`: {remedy}"
            )
