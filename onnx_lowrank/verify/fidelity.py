"""Whether a converted network is close enough to the original to be used: what to warn of, and what to refuse."""

from __future__ import annotations

from collections.abc import Mapping

from onnx_lowrank.errors import BudgetError, VerificationError
from onnx_lowrank.layers.warning import ReportWarning
from onnx_lowrank.settings import Settings
from onnx_lowrank.verify.outputs import Comparison

# What nobody would use without a second look. Few applications can afford to have one answer in twenty changed; where a
# network scores no classes, an error of 0.3 is a tenth of the energy of the output (0.3 squared), 10 dB below it.
MIN_AGREEMENT = 0.95
MAX_RELATIVE_ERROR = 0.3
WORST_ERROR = 1.0  # relative; an output of zeros would be as close
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


def is_close(fidelity: Mapping[str, float | None], max_drop: float | None = None) -> bool:
    """Return whether an output is as close as most people expect.

    Args:
        fidelity: the entry of the output in the JSON report.
        max_drop: the loss that the user allows, as a share; None for none.
    """
    agreement, error = fidelity["agreement"], fidelity["relative_error"]
    if agreement is not None:
        return agreement >= min(MIN_AGREEMENT, 1 - (max_drop or 0))
    return error is not None and error <= max(MAX_RELATIVE_ERROR, max_drop or 0)


def fidelity_warnings(comparison: Comparison, samples: str, max_drop: float | None = None) -> tuple[ReportWarning, ...]:
    """Return a warning for each output that is not close, with what to do.

    Args:
        comparison: of the converted network with the original.
        samples: their number and kind, as in ``40 held-out samples``.
        max_drop: the loss that the user allows, as a share; None for none.
    """
    warnings = []
    for name, fidelity in comparison.to_dict()["outputs"].items():
        if name in comparison.random or is_close(fidelity, max_drop):
            continue
        agreement, error = fidelity["agreement"], fidelity["relative_error"]
        if agreement is not None:
            found = f"same top class on only {agreement:.1%} of {samples}, {MIN_AGREEMENT:.0%} is the least to expect"
        else:
            size = "infinite" if error is None else f"{error:.3g}"
            found = f"relative error {size} on {samples}, {MAX_RELATIVE_ERROR:g} is the most to expect"
        text = f"output '{name}' is not close to the original: {found}: {_REMEDY}"
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
