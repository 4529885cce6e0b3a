"""The whole method: collect, choose ranks, then layer by layer propagate, solve, replace; verify, report.

`convert` is the place to start reading. Stages never call each other; they meet here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from importlib import import_module
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.calibrate import Preprocessing, Propagation, collect_targets, iterate_batches
from onnx_lowrank.calibrate.calibration import CalibrationSet, calibration_set
from onnx_lowrank.calibrate.data.sample_axes import with_sample_axes
from onnx_lowrank.calibrate.split import MAX_HELD_OUT_SAMPLES, MAX_PREVIEW_SAMPLES, min_refined_samples
from onnx_lowrank.errors import BudgetError, MissingDependencyError, ModelError
from onnx_lowrank.graph import (
    Publication,
    add_texts,
    check_apart,
    check_not_read,
    check_writable,
    read_model,
    replace_layer,
    set_metadata,
    write_model,
    write_texts,
)
from onnx_lowrank.graph.eligible import (
    check_any_eligible,
    layers_that_follow,
    layers_that_pay,
    layers_with_enough_rows,
    layers_with_own_weights,
    wanted_layers,
)
from onnx_lowrank.graph.tensors import stored_bytes
from onnx_lowrank.layers.factors import FactorChain
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.layer_set import LayerSet
from onnx_lowrank.layers.output_weights import ALIKE, OutputWeights
from onnx_lowrank.layers.plan import LayerPlan, RankPlan
from onnx_lowrank.layers.rank_losses import RankLosses
from onnx_lowrank.layers.responses import LayerSamples, Patches, TargetResponses
from onnx_lowrank.linalg.threads import side_by_side
from onnx_lowrank.ranks import energy_losses
from onnx_lowrank.ranks.choose import check_reachable, choose_ranks
from onnx_lowrank.ranks.estimate import estimate_losses, largest_within, log_prediction
from onnx_lowrank.ranks.gpu import other_batch
from onnx_lowrank.ranks.search import MIN_SPEEDUP, largest_speedup
from onnx_lowrank.report.build import Measurements, build_figures, build_report, warn_of_lost_quantization
from onnx_lowrank.report.converted import ConvertedNetwork
from onnx_lowrank.report.files import OutputFiles
from onnx_lowrank.report.quality import judged_by_metric, open_judge, with_found_objects
from onnx_lowrank.report.result import Result
from onnx_lowrank.report.targets import is_close
from onnx_lowrank.runtime.device import free_on_device, rank_block
from onnx_lowrank.runtime.latency import ConversionTimer
from onnx_lowrank.runtime.layer_latency import open_layer_timer
from onnx_lowrank.runtime.memory import budget_bytes
from onnx_lowrank.runtime.monitor import Monitor
from onnx_lowrank.runtime.network import Network, open_network
from onnx_lowrank.runtime.processors import linear_algebra_threads
from onnx_lowrank.runtime.progress import Progress
from onnx_lowrank.runtime.sample_maps import layers_by_samples, layers_of_one_size
from onnx_lowrank.runtime.session import choose_provider
from onnx_lowrank.runtime.written_file import time_file
from onnx_lowrank.settings import Settings
from onnx_lowrank.solve import solve_layer
from onnx_lowrank.solve.device import SolverDevice, solver_device
from onnx_lowrank.solve.order import in_solving_order, kept_channels, with_layers_solved_anew
from onnx_lowrank.solve.rank_losses import measure_rank_losses
from onnx_lowrank.solve.width import FULL_EFFORT, QUICK_EFFORT, WidthEffort, measure_width_losses
from onnx_lowrank.verify import (
    AccuracyLoss,
    CachedSession,
    Runnable,
    metric_loss,
    scored_classes,
)
from onnx_lowrank.verify.conversion import (
    loss_of,
    open_for_comparison,
    predictor_of,
    verify_conversion,
    warn_if_few,
)
from onnx_lowrank.verify.fidelity import check_bounds
from onnx_lowrank.version import __version__

log = logging.getLogger(__name__)

_MAX_LAYERS_AT_ONCE = 4  # that ranks are measured of: each takes memory


def convert(
    model: str | Path | onnx.ModelProto,
    data: Any = None,
    settings: Settings | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    output: str | Path | OutputFiles | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Result:
    """Convert a network into one that does the same with a fraction of the multiply-adds.

    Args:
        model: path of an ONNX file, or a model; not changed.
        data: sample inputs: path of an image folder, archive, ``.npy`` or ``.npz``; ``{input name: path}``; or an
            iterable of batches ``{input name: array}``, first axis = samples. None: synthetic images.
        settings: how to convert.
        preprocessing: of images, as in ``Preprocessing(mean=127, std=128)``; pixels / 255 if not given.
        output: where to write the result, once it is verified. `OutputFiles` to write reports and the plan too, which
            replace older ones. None writes nothing.
        force: overwrite an existing model.
        dry_run: write no model; stop after choosing ranks, or after the search where ``max_drop`` asks for one.
        progress: watches the stages.
        **changes: fields of `Settings` to change, as in ``convert(model, data, speedup=4)``.

    Returns:
        The converted model, its rank plan and a report.

    Raises:
        LowRankError: anything the user can fix; see `onnx_lowrank.errors`.
        TypeError, ValueError: wrong settings.

    References:
        Zhang, Zou, He, Sun 2015, arXiv:1505.06798.
    """
    settings = (settings or Settings()).changed(changes).resolved()
    files, monitor = OutputFiles.of(output), Monitor(progress)
    for path in files.paths(dry_run=dry_run):
        check_not_read(path, model)
        check_writable(path, force=force or path != files.model)
    with linear_algebra_threads(settings.threads), ExitStack() as opened:
        network, layers, calibration = open_conversion(model, data, preprocessing, settings)
        if files.model is not None:
            check_apart(network.original, files.model)
        check_reachable(layers, settings, rank_block(network.provider))
        if settings.refine == "full" and not dry_run:
            calibration = with_samples_set_aside(calibration)
        judge = None if dry_run else open_judge(network, calibration, calibration.split.held_out, settings, monitor)
        timer = opened.enter_context(closing(conversion_timer(network, calibration, settings, monitor)))
        device, targets = solver_device(network.provider), collect(network, layers, calibration, monitor)
        weights = output_weights(network, layers, calibration, settings, monitor)
        losses = rank_losses(layers, targets, calibration.images, settings, device, monitor, weights)
        targets = calibration.rows_of(targets)  # without the probes, which have served
        choose = partial(choose_ranks, layers, losses, timer=timer)
        if settings.predicted_error is not None:
            settings = with_picked_speedup(choose, settings, monitor)
        solve = partial(solve_network, network, layers, losses, device=device, weights=weights)
        if settings.max_drop is not None:
            converted = search_speedup(choose, solve, network, layers, calibration, targets, settings, monitor)
        else:
            with monitor.measure("ranks"):
                converted = ConvertedNetwork(settings, choose(settings))
            log_prediction(choose, converted.plan, settings)
            if not dry_run and is_measured(settings, timer):
                converted = convert_for_latency(
                    choose, solve, converted, network, layers, calibration, targets, timer, monitor
                )
            elif not dry_run:
                converted = solve(converted.plan, calibration, targets, settings, monitor)
        if dry_run:
            converted = replace(converted, model=None).with_measurements(
                estimates=estimate_losses(choose, settings), weighed=weights.known
            )
            result = report_on(converted, network, layers, losses, calibration, timer, monitor)
            write_texts(files.texts(result))
            return result
        converted = with_refined_blocks(converted, network, calibration, monitor)
        original = CachedSession(open_for_comparison(network, network.model))
        with Publication() as publication:
            file, checked = written_and_verified(
                converted, files.model, original, network, layers, calibration, monitor, publication
            )
            checked = judged_by_metric(checked, file, network, judge, monitor)
            if judge is None:
                checked = with_found_objects(checked, file, network, original, calibration, monitor)
            with monitor.measure("bench"):
                timed = time_file(file, network, layers, converted.plan, converted.settings, timer)
            finished = checked.with_measurements(latency=timed.latency, slow=timed.slow, differing=timed.differing)
            result = report_on(finished, network, layers, losses, calibration, timer, monitor, file)
            result = result.written_to(files.model)
            for warning in result.report.warnings:
                log.warning("%s", warning)
            add_texts(files.texts(result), publication)
        return result  # the model has its name now


def open_conversion(
    model: str | Path | onnx.ModelProto,
    data: Any,
    preprocessing: Preprocessing | None,
    settings: Settings,
    max_held_out: int = MAX_HELD_OUT_SAMPLES,
) -> tuple[Network, LayerSet, CalibrationSet]:
    """Open a model and its samples, and find its layers.

    ``max_held_out`` bounds the number of samples to verify with.

    Returns:
        The network, its layers, and the samples with the positions that are sampled of each layer.

    Raises:
        ModelError: the model cannot be read or run, or there is nothing in it to factorize.
        CalibrationError: the data cannot be used, or have no class folders where labels are wanted, or those of other
            classes than the network scores.
        MissingDependencyError: errors are to be weighed by the outputs, and PyTorch is not there.
    """
    if settings.weighting == "outputs":
        _of_extra_torch("sensitivity")
    network, layers, calibration = find_layers_on_data(model, data, preprocessing, settings, max_held_out)
    check_any_eligible(layers)
    return network, layers, calibration.with_positions(layers.sampled, settings)


def find_layers_on_data(
    model: str | Path | onnx.ModelProto,
    data: Any,
    preprocessing: Preprocessing | None,
    settings: Settings,
    max_held_out: int = MAX_HELD_OUT_SAMPLES,
) -> tuple[Network, LayerSet, CalibrationSet]:
    """Do what `open_conversion` does, except that no positions are drawn and no layer need be left to factorize."""
    provider = choose_provider(settings.provider, settings.threads, settings.ep_library)
    network = open_network(model, provider, settings.input_shapes, settings.constant_inputs, settings.samples_axis)
    network, data = with_sample_axes(network, data)
    if settings.preview:
        max_held_out = min(max_held_out, MAX_PREVIEW_SAMPLES)
    calibration = calibration_set(network, data, preprocessing, settings, max_held_out)
    _check_labels(network, calibration)
    layers = layers_of_one_size(network, network.layers(calibration.one_batch), calibration.one_by_one())
    layers = layers_by_samples(network, layers, calibration.several(), calibration.two)
    _warn_if_random(network, calibration)
    if settings.plan is None:
        layers = layers_with_enough_rows(layers_that_pay(layers), calibration.images)
        if settings.cost == "params":
            layers = layers_with_own_weights(layers)
    layers = layers_that_follow(wanted_layers(layers, settings.include, settings.exclude))
    if settings.preview or not any(settings.leaves_channels_out(layer) for layer in layers.eligible):
        layers = replace(layers, carriers=())  # solving them takes most of the time
    return network, layers, calibration


def _check_labels(network: Network, calibration: CalibrationSet) -> None:
    """Raise CalibrationError where outputs are judged by labels of other classes than the network scores."""
    if calibration.labels:
        scores = scored_classes(open_for_comparison(network, network.model), calibration.one_batch)
        if scores is not None:
            calibration.samples.check_labels(*scores)


def _warn_if_random(network: Network, calibration: CalibrationSet) -> None:
    """Warn where outputs differ from run to run: what is measured on them includes that."""
    outputs = network.random(calibration.one_batch, [value.name for value in network.model.graph.output])
    if outputs:
        log.warning(
            "output %s: differs between runs on the same samples, as '%s' draws random numbers: errors measured on it "
            "include that, and layers behind the draw stay",
            ", ".join(f"'{name}'" for name in outputs), next(iter(outputs.values())),
        )  # fmt: skip


def conversion_timer(
    network: Network, calibration: CalibrationSet, settings: Settings, monitor: Monitor
) -> ConversionTimer:
    """Open what measures milliseconds, see `timed_batch`."""
    batch = timed_batch(network, settings)
    file, size = settings.latency_table, stored_bytes(network.model)
    layer_timer = open_layer_timer(settings.runtime, network.provider, batch, file, size)
    make = partial(ConversionTimer, network, progress=monitor, planar=network.prefers_planar(settings))
    other = None
    if settings.cost == "latency" and layer_timer.on_gpu and not (layer_timer.foreign or network.fixed_batch):
        another = other_batch(batch)  # it must not be slower there either
        other = make(calibration.repeated(another), layer_timer.at_batch(another))
    return make(calibration.repeated(batch), layer_timer, other_batch=other)


def timed_batch(network: Network, settings: Settings) -> int:
    """Return the samples that milliseconds are measured with: one, or as many as the model or the input shapes say."""
    shapes = settings.input_shapes
    shape = shapes.get(network.sampled[0].name) or shapes.get("")
    return network.fixed_batch or (shape[0] if shape else 1)


def collect(
    network: Network, layers: LayerSet, calibration: CalibrationSet, monitor: Monitor
) -> dict[str, TargetResponses]:
    """Collect what the original delivers at the sampled positions of every eligible layer, in one pass, by name."""
    with monitor.measure("collect"):
        batches = calibration.batches(calibration.split.calibration, monitor, "collect")
        positions, probes = calibration.positions, calibration.probes
        return collect_targets(network.model, layers.sampled, positions, batches, network.provider, probes)


def output_weights(
    network: Network, layers: LayerSet, calibration: CalibrationSet, settings: Settings, monitor: Monitor
) -> OutputWeights:
    """Measure how much errors in the channels of every layer count, by what the outputs feel of them.

    Raises:
        ModelError: that was asked for, and PyTorch cannot run the network.
    """
    if not settings.weighs_outputs(layers.eligible, layers.macs):
        return ALIKE
    with monitor.measure("weigh"):
        try:
            measure: Callable[..., OutputWeights] = _of_extra_torch("sensitivity").measure_output_weights
            return measure(network, layers, calibration, settings, monitor)
        except (MissingDependencyError, ModelError, OSError) as error:  # the last one by a broken installation
            if settings.weighting == "outputs":
                raise
            log.info("errors in all channels of a layer count alike: %s", error)
            return ALIKE


def _of_extra_torch(module: str) -> Any:
    """Import a module of `onnx_lowrank.torch`, which is optional.

    Raises:
        MissingDependencyError: PyTorch, or a package that belongs to the extra, is not there.
    """
    try:
        return import_module(f"onnx_lowrank.torch.{module}")
    except ImportError as error:
        raise MissingDependencyError(
            f"onnx_lowrank.torch: a part of the extra is not installed ({error}): pip install 'onnx-lowrank[torch]'"
        ) from error


def rank_losses(
    layers: LayerSet,
    targets: Mapping[str, TargetResponses],
    images: int,
    settings: Settings,
    device: SolverDevice,
    monitor: Monitor,
    weights: OutputWeights = ALIKE,
) -> list[RankLosses]:
    """Measure what pairs of ranks cost every eligible layer in accuracy; the same for every speedup.

    ``images`` is how many the targets were sampled from.
    """

    def weighed(layer: Layer) -> tuple[Layer, TargetResponses]:
        return weights.layer(layer), weights.targets(layer, targets[layer.name])

    def measure(original: Layer) -> RankLosses:
        layer, responses = weighed(original)
        measured = partial(measure_rank_losses, layer, images=images, mixes_inputs=settings.mixes_inputs(layer))
        losses = device.run(measured, responses)
        if not settings.leaves_channels_out(layer):
            return losses
        readers = {name for group in layer.read_groups for name in group.readers}
        others = [weighed(each) for each in layers.sampled if each.name in readers]
        return replace(losses, widths=measure_width_losses(layer, responses, others, _effort(settings)))

    with monitor.measure("ranks"):
        if settings.selection == "energy":
            return [energy_losses(layer, targets[layer.name].responses) for layer in layers.eligible]
        at_once = 1 if device.one_by_one else _MAX_LAYERS_AT_ONCE
        # With the largest last, one thread would wait for the other.
        largest_first = sorted(layers.eligible, key=lambda layer: -layer.weight.size)
        measured = monitor.track(side_by_side(measure, largest_first, at_once), "ranks", len(largest_first))
        losses = dict(zip((layer.name for layer in largest_first), measured, strict=True))
        return [losses[layer.name] for layer in layers.eligible]


def with_picked_speedup(choose: Callable[[Settings], RankPlan], settings: Settings, monitor: Monitor) -> Settings:
    """Return the settings with the largest speedup that is predicted to lose no more than they allow."""
    most = settings.predicted_error or 0.0
    with monitor.measure("ranks"):
        speedup = largest_within(choose, settings, most)
    log.info(
        "speedup %g is picked: the largest up to %g with a predicted error of at most %g; `speedup=%g` takes that one",
        speedup, settings.speedup, most, settings.speedup,
    )  # fmt: skip
    return replace(settings, speedup=speedup)


def solve_network(  # noqa: PLR0913, PLR0917  (all that a conversion has come to by then)
    network: Network,
    layers: LayerSet,
    losses: Sequence[RankLosses],
    plan: RankPlan,
    calibration: CalibrationSet,
    targets: dict[str, TargetResponses],
    settings: Settings,
    monitor: Monitor,
    device: SolverDevice,
    weights: OutputWeights = ALIKE,
) -> ConvertedNetwork:
    """Solve the layers as planned, one after the other, each fed with what the converted prefix really delivers.

    ``targets``, what the original delivers by layer name, is emptied on the way, to free memory.
    """
    converted, solved = onnx.ModelProto(), []
    converted.CopyFrom(network.model)
    prefix = converted if settings.asymmetric else network.model  # what feeds the layers
    plan = with_layers_solved_anew(plan, network, layers, settings)
    kept = kept_channels(layers, losses, plan)
    chains = in_solving_order(network, layers, plan, settings)
    later = [layer for layer, _ in chains]
    with closing(_propagation(network, calibration, targets, settings)) as propagation:
        for layer, ranks in monitor.track(chains, "solve", len(chains)):
            later = later[1:]
            with monitor.measure("propagate"):
                patches = propagation.advance(prefix, layer, later)
            with monitor.measure("solve"):
                wanted = targets.pop(layer.name)
                if propagation.residual is not None:
                    wanted = wanted.delivered(propagation.residual)
                solve = partial(_solve, weights.layer(layer), ranks, kept.get(layer.name), patches, settings)
                factors = weights.chain(layer, device.run(solve, weights.targets(layer, wanted)))
                replace_layer(converted, layer, factors)
                solved.append((layer, factors))
                del patches, solve  # or they would lie beside those of the next layer
    passes = propagation.node_runs / (len(converted.graph.node) * calibration.images)
    errors = {layer.name: factors.errors for layer, factors in solved}
    reasons = {layer.name: factors.reason for layer, factors in solved if factors.reason}
    # ``converted`` has the types it runs in here.
    model = network.with_factors(solved, calibration.one_batch, planar=network.prefers_planar(settings))
    _add_metadata(model, plan, settings)
    measurements = Measurements(errors, reasons, passes, weighed=weights.known)
    return ConvertedNetwork(settings, plan, model, measurements)


def _propagation(
    network: Network, calibration: CalibrationSet, targets: Mapping[str, TargetResponses], settings: Settings
) -> Propagation:
    """Open the front of a conversion at the network's inputs, with the memory that the settings leave it."""
    batches = iterate_batches(calibration.samples, calibration.split.calibration, calibration.split.batch_size)
    max_bytes = budget_bytes(settings.memory, held=sum(each.nbytes for each in targets.values()))
    max_resident_bytes = free_on_device(network.provider) // 2
    return Propagation(batches, calibration.positions, network.provider, max_bytes, max_resident_bytes)


def _solve(
    layer: Layer,
    ranks: LayerPlan,
    kept: NDArray[np.int64] | None,
    patches: Patches,
    settings: Settings,
    targets: TargetResponses,
) -> FactorChain:
    rows = LayerSamples(targets, patches)
    return solve_layer(layer, rows, ranks, settings.solver, settings.refine, kept, _effort(settings))


def _effort(settings: Settings) -> WidthEffort:
    return QUICK_EFFORT if settings.preview else FULL_EFFORT


def _add_metadata(model: onnx.ModelProto, plan: RankPlan, settings: Settings) -> None:
    """Say in the model's metadata how it was made."""
    target = "plan" if settings.plan else f"speedup {settings.speedup:g} ({settings.cost})"
    if settings.max_drop is not None:
        target = f"max-drop {settings.max_drop:g}, {target}"
    entries = {"version": __version__, "target": target, "seed": str(settings.seed), "plan": plan.to_json()}
    set_metadata(model, {f"onnx_lowrank.{key}": value for key, value in entries.items()})


def is_measured(settings: Settings, timer: ConversionTimer) -> bool:
    """Return whether a speedup in milliseconds is asked for that can be measured here."""
    return settings.cost == "latency" and settings.plan is None and not timer.layer_timer.foreign


def convert_for_latency(  # noqa: PLR0913, PLR0917  (all that a conversion has come to by then)
    choose: Callable[[Settings], RankPlan],
    solve: Callable[..., ConvertedNetwork],
    planned: ConvertedNetwork,
    network: Network,
    layers: LayerSet,
    calibration: CalibrationSet,
    targets: Mapping[str, TargetResponses],
    timer: ConversionTimer,
    monitor: Monitor,
) -> ConvertedNetwork:
    """Solve a network as planned and, where it misses the milliseconds that were asked for, once more with other ranks.

    Ranks were chosen by a network with random weights, some time ago. How the solved one differs from that is measured
    in turns, and made up for; what the machine does differently by now is part of choosing again.

    ``choose`` and ``solve`` are `choose_ranks` and `solve_network` for this network.
    """
    settings, wanted = planned.settings, planned.settings.speedup
    first = solve(planned.plan, calibration, calibration.rows_of(targets), settings, monitor)
    with monitor.measure("bench"):
        found = timer.time(network.as_run(first.solved))
        if is_close(found, wanted):
            return first
        solved, as_planned = timer.time_beside_plan(network.as_run(first.solved), layers.eligible, first.plan)
    aim = max(MIN_SPEEDUP, wanted * as_planned.best_speedup / solved.best_speedup)
    log.info("%s, wanted %g: ranks are chosen again, for %.2f", found.measured_text, wanted, aim)
    try:
        with monitor.measure("ranks"):
            plan = choose(replace(settings, speedup=aim))
    except BudgetError as error:
        log.info("it stays as it is: %s", error)
        return first
    second = solve(plan, calibration, calibration.rows_of(targets), settings, monitor)
    with monitor.measure("bench"):
        both = timer.time_all([network.as_run(each.solved) for each in (first, second)])
    log.info("measured speedups %.2f and %.2f", *(each.speedup for each in both))
    return min(zip((first, second), both, strict=True), key=lambda each: abs(log2(each[1].speedup / wanted)))[0]


def search_speedup(
    choose: Callable[[Settings], RankPlan],
    solve: Callable[..., ConvertedNetwork],
    network: Network,
    layers: LayerSet,
    calibration: CalibrationSet,
    targets: dict[str, TargetResponses],
    settings: Settings,
    monitor: Monitor,
) -> ConvertedNetwork:
    """Convert to the largest speedup whose loss stays within what is allowed, on samples set aside for that.

    ``choose`` and ``solve`` are `choose_ranks` and `solve_network` for this network.
    """
    samples, max_drop = calibration.split.search, settings.max_drop or 0.0
    judge = open_judge(network, calibration, samples, settings, monitor)
    if judge is None:
        warn_if_few(len(samples), max_drop)
    original = CachedSession(open_for_comparison(network, network.model))
    half = calibration.with_half_the_images(layers.eligible)

    def attempt(speedup: float, *, quick: bool) -> tuple[ConvertedNetwork, AccuracyLoss]:
        used, aim, own_monitor = half if quick else calibration, replace(settings, speedup=speedup), monitor.restarted()
        converted = solve(choose(aim), used, used.rows_of(targets), aim, own_monitor)
        if judge is not None:
            runs = open_for_comparison(network, network.as_run(converted.solved))
            return converted, metric_loss(judge.measure(predictor_of(network, runs)), settings.drop_type)
        batches, truth = calibration.batches(samples, own_monitor, "judge"), calibration.truth(samples)
        return converted, loss_of(network, converted.solved, original, batches, truth)

    with monitor.measure("search"):
        search = largest_speedup(attempt, max_drop)
    return search.network.with_measurements(search=search)


def with_samples_set_aside(calibration: CalibrationSet) -> CalibrationSet:
    """Return the samples with some set aside to judge a refinement of blocks by; warn where there can be none."""
    try:
        _of_extra_torch("blocks.refine")
    except MissingDependencyError:
        log.warning(
            "refine 'full': layers are refined one by one, several together only with PyTorch: "
            "pip install 'onnx-lowrank[torch]'"
        )
        return calibration
    divided = calibration.with_refinement()
    if not len(divided.split.refinement):
        log.warning(
            "refine 'full': layers are refined one by one: %d samples are too few to train on some and judge by "
            "others: pass more, %d or so",
            calibration.images, min_refined_samples(calibration.smallest_batch),
        )  # fmt: skip
    return divided


def with_refined_blocks(
    converted: ConvertedNetwork, network: Network, calibration: CalibrationSet, monitor: Monitor
) -> ConvertedNetwork:
    """Train the converted layers of each block of a few together, where samples were set aside to judge that by."""
    if not len(calibration.split.refinement):
        return converted
    from onnx_lowrank.torch.blocks.refine import refine_blocks  # noqa: PLC0415  (PyTorch is optional)

    with monitor.measure("refine"):
        model, blocks = refine_blocks(network, converted.solved, calibration, converted.settings, monitor)
    return replace(converted, model=model).with_measurements(blocks=blocks)


def written_and_verified(
    converted: ConvertedNetwork,
    output: Path | None,
    original: Runnable,
    network: Network,
    layers: LayerSet,
    calibration: CalibrationSet,
    monitor: Monitor,
    publication: Publication,
) -> tuple[Path, ConvertedNetwork]:
    """Write a converted network into a temporary file and verify that.

    Returns the file and the converted network with its measurements. The file becomes ``output`` with the publication;
    without ``output``, or where it fails the checks, it is none of it.
    """
    held_out, truth = calibration.split.held_out, calibration.truth(calibration.split.held_out)
    with monitor.measure("verify"), publication.left_out_on_error():
        file = write_model(converted.solved, output, publication)
        batches = calibration.batches(held_out, monitor, "verify")
        comparison = verify_conversion(
            file, network, layers, converted.plan, calibration.one_batch, original, batches, truth
        )
        check_bounds(comparison, converted.settings)
        loss = None
        if converted.settings.output_drop is not None:
            batches = calibration.batches(held_out, monitor, "judge")
            loss = loss_of(network, read_model(file), original, batches, truth)
    return file, converted.with_measurements(comparison=comparison, loss=loss)


def report_on(
    converted: ConvertedNetwork,
    network: Network,
    layers: LayerSet,
    losses: Sequence[RankLosses],
    calibration: CalibrationSet,
    timer: ConversionTimer,
    monitor: Monitor,
    file: Path | None = None,
) -> Result:
    """Report on a conversion; ``file`` is the converted network in a folder of its own, None for a dry run."""
    settings, plan, measurements = converted.settings, converted.plan, converted.measurements
    report = build_report(network, layers, plan, calibration, settings, measurements, timer.layer_timer, monitor)
    warn_of_lost_quantization(layers, plan)
    figures = build_figures(network, layers.eligible, losses, measurements, file)
    return Result(converted.model, plan, replace(report, file_bytes=figures.file_bytes), figures)
