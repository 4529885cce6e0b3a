"""Choose which of the layers that can be factorized are tried: those that pay, have rows enough, and are wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil, prod

from onnx_lowrank.errors import ModelError
from onnx_lowrank.layers.channel_group import ChannelGroup
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet

# 3x3 kernels, onnxruntime on AVX2, chains of 1.8 times fewer multiply-adds: with groups of 16 channels they
# take 1.6 times as long as the layer, with groups of 32 they are 1.3 times as fast, of 64 and 128 1.6 and 1.8 times.
MIN_GROUP_CHANNELS = 32
_MIN_ROWS_PER_FILTER = 10  # with fewer, the solver fits noise
_MAX_NAMES = 2  # of layers in a message that has the same to say of several
_MAX_REASONS = 3
_MAX_FURTHER_READERS = 4  # of the same channels; in a dense block dozens read them, each of which is measured
_MAX_INPUTS = 1300  # of each of them: equations of that size are solved for every width that is measured

ReasonToStay = Callable[[Layer], str | None]  # None where it need not


def wanted_layers(layers: LayerSet, include: Sequence[str], exclude: Sequence[str]) -> LayerSet:
    """Return the layers with those skipped that the user does not want changed, or not factorized.

    Where a layer is excluded, the channels that it makes or reads stay too.

    Args:
        layers: all layers.
        include: regular expressions, matched anywhere in the name; none means every layer.
        exclude: the same for layers to leave out.

    Raises:
        ModelError: an expression is invalid or matches no layer.
    """
    names = [layer.name for layer in layers.every]
    included, excluded = _expressions("include", include, names), _expressions("exclude", exclude, names)

    def excluding(name: str) -> str | None:
        return next((f"excluded by '{each.pattern}'" for each in excluded if each.search(name)), None)

    def not_included(layer: Layer) -> str | None:
        is_included = not included or any(expression.search(layer.name) for expression in included)
        return None if is_included else "not among the included layers"

    if excluded:
        carriers = [layer for layer in layers.carriers if excluding(layer.name) is None]
        layers = _without(replace(layers, carriers=carriers), lambda layer: excluding(layer.name))
        layers = _with_channels_kept(layers, excluding)
    return _without(layers, not_included, follow=True)


def _with_channels_kept(layers: LayerSet, reason: Callable[[str], str | None]) -> LayerSet:
    """Return the layers without the groups of channels that some layers make or read, where there is a reason."""

    def why_not(group: ChannelGroup) -> str | None:
        for name in (*group.makers, *group.carried, *group.followers):
            if (text := reason(name)) is not None:
                return f"'{name}' makes or reads them: {text}"
        return None

    return replace(layers, eligible=[_with_groups(layer, why_not) for layer in layers.eligible])


def layers_that_follow(layers: LayerSet) -> LayerSet:
    """Return the layers with the groups of channels that all further readers can be solved without, and with these."""
    solvable = {layer.name: layer for layer in layers.sampled}

    def why_not(group: ChannelGroup) -> str | None:
        if len(group.readers) > _MAX_FURTHER_READERS:
            return f"also read by {_named(group.readers)}: more than {_MAX_FURTHER_READERS} take long to solve anew"
        for name in group.followers:
            if name not in solvable:
                return f"also read by '{name}', which cannot be solved anew"
            if solvable[name].weight[0].size > _MAX_INPUTS:
                return f"also read by '{name}', which is too large to be solved anew"
        return None

    eligible = [_with_groups(layer, why_not) for layer in layers.eligible]
    names = {name for layer in eligible for group in layer.read_groups for name in group.followers}
    return replace(layers, eligible=eligible, followers=[each for each in layers.followers if each.name in names])


def _with_groups(layer: Layer, why_not: Callable[[ChannelGroup], str | None]) -> Layer:
    """Return a layer with those of its groups of channels that there is no reason to keep."""
    reasons = [why_not(group) for group in layer.read_groups]
    kept = tuple(group for group, reason in zip(layer.read_groups, reasons, strict=True) if reason is None)
    first = next((reason for reason in reasons if reason is not None), None)
    return layer if first is None else replace(layer, reads=kept or first)


def check_any_eligible(layers: LayerSet) -> None:
    """Raise ModelError where no layer can be factorized, with the reasons, each once."""
    if layers.eligible:
        return
    by_reason: dict[str, list[str]] = {}
    for layer in layers.skipped:
        by_reason.setdefault(layer.reason, []).append(layer.name)
    reasons = "; ".join(f"{_named(names)}: {reason}" for reason, names in [*by_reason.items()][:_MAX_REASONS])
    raise ModelError(
        f"no layer can be factorized ({reasons}): see all reasons with `inspect`, check `include` and `exclude`"
    )


def layers_that_pay(layers: LayerSet) -> LayerSet:
    """Return the layers with convolutions in many small groups skipped, which no thin chain makes faster."""
    return _without(layers, _narrow_groups)


def layers_before_draws(layers: LayerSet, drawn: Mapping[str, str]) -> LayerSet:
    """Leave out layers whose input differs from run to run: their responses would not belong to their inputs.

    Args:
        layers: all layers.
        drawn: tensors that differ from run to run, each with the name of a node that draws random numbers.
    """

    def reason(layer: Layer) -> str | None:
        return f"its input is random: '{drawn[layer.input]}' draws numbers" if layer.input in drawn else None

    return _without(replace(layers, carriers=[each for each in layers.carriers if reason(each) is None]), reason)


def layers_with_enough_rows(layers: LayerSet, images: int) -> LayerSet:
    """Return the layers with those skipped that so few images say too little of.

    Args:
        layers: all layers.
        images: number of samples to solve with.
    """
    return _without(layers, lambda layer: too_few_rows(layer, images), follow=True)


def too_few_rows(layer: Layer, images: int) -> str | None:
    """Say why a layer cannot be solved from so few images; None where it can.

    Fully connected layers and convolutions with one position need ten rows per filter; others are taken to have enough.
    """
    if images >= min_images(layer):
        return None
    rows = images * layer.rows
    return f"{rows} rows of samples are too few for {layer.filters} filters: {_MIN_ROWS_PER_FILTER} each are wanted"


def min_images(layer: Layer) -> int:
    """Return the number of images that it takes to solve a layer."""
    few_positions = layer.channels_last or prod(layer.positions) == 1
    return ceil(_MIN_ROWS_PER_FILTER * layer.filters / max(1, layer.rows)) if few_positions else 1


def layers_with_own_weights(layers: LayerSet) -> LayerSet:
    """Return the layers with those skipped whose weight other nodes read too: a file holds it once, but all factors."""
    return _without(layers, _shared_weight)


def _shared_weight(layer: Layer) -> str | None:
    others = layer.shared_with
    if not others:
        return None
    reason = f"shares its weight with {_named(others)}"
    if layer.stored[0].stays:
        return f"{reason}: it would stay in the file beside its factors"
    return f"{reason}: factors would be stored {len(others) + 1} times"


def _without(layers: LayerSet, reason: ReasonToStay, *, follow: bool = False) -> LayerSet:
    """Return the layers with those skipped that have a reason to stay; they may follow others all the same."""
    reasons = {layer.name: reason(layer) for layer in layers.eligible}
    eligible = [layer for layer in layers.eligible if reasons[layer.name] is None]
    stay = [layer.stays(text) for layer in layers.eligible if (text := reasons[layer.name]) is not None]
    followers = [layer for layer in layers.eligible if reasons[layer.name] is not None] if follow else []
    return replace(
        layers, eligible=eligible, skipped=[*layers.skipped, *stay], followers=[*layers.followers, *followers]
    )


def _named(names: Sequence[str]) -> str:
    """Return the first of some names, and how many others there are."""
    shown, more = ", ".join(f"'{name}'" for name in names[:_MAX_NAMES]), len(names) - _MAX_NAMES
    return f"{shown} and {more} other{'s' if more > 1 else ''}" if more > 0 else shown


def _narrow_groups(layer: Layer) -> str | None:
    channels = min(layer.channels, layer.filters) // layer.groups  # of a group, read or written, whichever are fewer
    if layer.groups == 1 or channels >= MIN_GROUP_CHANNELS:
        return None
    return f"{layer.groups} groups of {channels} channels: they pay from {MIN_GROUP_CHANNELS} channels on"


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
