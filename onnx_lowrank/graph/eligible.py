"""Which of the layers that can be factorized are up for it: those that pay, and that the user wants touched."""

from __future__ import annotations

import re
from collections.abc import Sequence

from onnx_lowrank.errors import ModelError
from onnx_lowrank.layers.layer import Layer, SkippedLayer

# 3x3 kernels, onnxruntime on AVX2, chains of 1.8 times fewer multiply-adds: with groups of 16 channels they
# take 1.6 times as long as the layer, with groups of 32 they are 1.3 times as fast, of 64 and 128 1.6 and 1.8 times.
NARROWEST_GROUP = 32


def choose_layers(
    layers: Sequence[Layer], skipped: Sequence[SkippedLayer], include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[Layer], list[SkippedLayer]]:
    """Leave out the layers the user does not want touched.

    Args:
        layers: those that can be factorized.
        skipped: those that stay already.
        include: regular expressions, matched anywhere in the name; none means every layer.
        exclude: the same for layers to leave out.

    Raises:
        ModelError: an expression is invalid or matches no layer, or no layer is left.
    """
    every: list[Layer | SkippedLayer] = [*layers, *skipped]
    names = [each.name for each in every]
    wanted, unwanted = _expressions("include", include, names), _expressions("exclude", exclude, names)
    chosen, left = [], list(skipped)
    for layer in layers:
        reason = next((f"excluded by '{each.pattern}'" for each in unwanted if each.search(layer.name)), None)
        if reason is None and wanted and not any(each.search(layer.name) for each in wanted):
            reason = "not among the included layers"
        if reason is None:
            chosen.append(layer)
        else:
            left.append(layer.stays(reason))
    if not chosen:
        reasons = "; ".join(f"'{each.name}': {each.reason}" for each in left[:3])
        raise ModelError(
            f"no layer can be factorized ({reasons or 'the graph has no Conv'}): "
            "see all reasons with `inspect`, check `include` and `exclude`"
        )
    return chosen, left


def leave_narrow_groups(
    layers: Sequence[Layer], skipped: Sequence[SkippedLayer]
) -> tuple[list[Layer], list[SkippedLayer]]:
    """Leave out convolutions in many small groups, which no thin chain makes faster.

    Args:
        layers: those that can be factorized.
        skipped: those that stay already.
    """
    narrow = [layer for layer in layers if layer.groups > 1 and _width(layer) < NARROWEST_GROUP]
    reasons = {
        layer.name: f"{layer.groups} groups of {_width(layer)} channels: they pay from {NARROWEST_GROUP} channels on"
        for layer in narrow
    }
    kept = [layer for layer in layers if layer.name not in reasons]
    return kept, [*skipped, *(layer.stays(reasons[layer.name]) for layer in narrow)]


def _width(layer: Layer) -> int:
    """Channels of a group, read or made, whichever are fewer."""
    return min(layer.channels, layer.filters) // layer.groups


def _expressions(option: str, patterns: Sequence[str], names: Sequence[str]) -> list[re.Pattern[str]]:
    compiled = []
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise ModelError(f"`{option}` '{pattern}': not a regular expression ({error}): correct it") from error
        if not any(expression.search(name) for name in names):
            raise ModelError(
                f"`{option}` '{pattern}': matches none of the {len(names)} layers ({', '.join(names[:3])}, ...): "
                "see their names with `inspect`"
            )
        compiled.append(expression)
    return compiled
