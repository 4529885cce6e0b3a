"""Every setting of a conversion and of fine-tuning, with its default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import inf, isfinite, prod
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from numpy.typing import NDArray

from onnx_lowrank.errors import BudgetError, did_you_mean
from onnx_lowrank.layers.layer import Layer
from onnx_lowrank.layers.plan import Factorization, RankPlan, rank_kinds

Cost = Literal["macs", "latency", "params"]
Form = Literal[Factorization, "width"]
Method = Literal["auto", Form]
Refinement = Literal["none", "fast", "full"]
Solver = Literal["auto", "nonlinear", "linear", "weights", "paper"]
Selection = Literal["error", "energy"]
Weighting = Literal["auto", "outputs", "none"]
DropType = Literal["absolute", "relative"]
ProviderName = Literal["auto", "cpu", "cuda", "tensorrt"]
RuntimeName = Literal["onnxruntime", "openvino", "openvino:f32", "ncnn", "ncnn:f32", "mnn", "litert", "tensorrt"]
COSTS, FORMS, REFINEMENTS = get_args(Cost), get_args(Form), get_args(Refinement)
SOLVERS, SELECTIONS, PROVIDERS = get_args(Solver), get_args(Selection), get_args(ProviderName)
DROP_TYPES, RUNTIMES, WEIGHTINGS = get_args(DropType), get_args(RuntimeName), get_args(Weighting)

Constants: TypeAlias = Mapping[str, Sequence[float] | NDArray[Any] | str | PathLike[str]]

ClassNames: TypeAlias = str | PathLike[str] | Sequence[str]  # a file with one class a line, or the names

# A name, maybe with options, as in "map:score=0.5"; or a function, see `onnx_lowrank.metrics`.
MetricChoice: TypeAlias = str | Callable[..., Any]

# Fine-tuning.
Learn = Literal["original", "labels", "both"]
Precision = Literal["auto", "fp32", "bf16"]
TrainingProvider = Literal["auto", "cpu", "cuda"]
LEARN_CHOICES, PRECISIONS, TRAINING_PROVIDERS = get_args(Learn), get_args(Precision), get_args(TrainingProvider)

PREVIEW_POSITIONS = 100
_MIN_WEIGHED_MACS = 10_000_000  # conversions of smaller networks take less time than loading PyTorch
_MIN_WEIGHED_SHARE = 0.25  # of these in layers that may come to read fewer channels


@dataclass(frozen=True)
class Settings:
    """How to convert.

    Attributes:
        speedup: whole-model target, original cost / converted cost; above 1.
        cost: what ``speedup`` counts: ``macs``, ``params``, or measured ``latency``.
        method: ``auto``, ``spatial-channel``, ``channel``, ``spatial``, ``input`` or ``tucker``: the factorizations
            allowed; or ``width``: no factorization, but fewer channels between layers; or several of these, as in
            ``("channel", "width")``. ``auto`` allows all of them, the last one for what 1 x 1 convolutions and fully
            connected layers read.
        samples: calibration images; None for as many as are worth it.
        positions: positions per image and layer; None for as many as the solver needs.
        memory: gigabytes of tensors kept in memory: responses to solve for, tensors between layers, input patches of
            a layer. What does not fit beside the responses goes to the disk. None for half of what is free.
        batch_size: samples per forward pass; None to go by the input's size. A fixed batch in the model goes first.
        seed: of all randomness.
        provider: ``auto``, ``cpu``, ``cuda`` or ``tensorrt``; with ``ep_library`` the name of one that it has.
        ep_library: file of a plugin execution provider, see `onnx_lowrank.runtime.plugin`; None for those that
            onnxruntime brings.
        threads: of onnxruntime and of the solver; None for the cores that this process may use.
        rank_multiple: ranks are multiples of this; None for what the provider and its version like.
        include: regular expressions on layer names; only layers that one of them matches are factorized.
        exclude: regular expressions on layer names; layers that one of them matches stay.
        input_shapes: shape by input name, where the model leaves axes open.
        constant_inputs: by name of the inputs that are always fed the same: numbers, an array, or a ``.npy`` or
            ``.npz`` file with one. An input that is a weight of a layer becomes part of the written model.
        samples_axis: axis that counts samples by input name, where it is not the first one.
        plan: ranks to use instead of choosing them.
        bench: measure the latency of the original and of the converted network; with cost ``macs`` and ``params``
            that changes nothing in what is converted, and warns where it runs slower than it should.
        latency_table: file of measured latencies to read and to add to, for cost ``latency``; None for the user's
            cache.
        runtime: what milliseconds are measured in: ``onnxruntime``, ``openvino``, ``ncnn``, ``mnn``, ``litert`` or
            ``tensorrt``; with ``:f32`` behind ``openvino`` and ``ncnn`` in float32, also where they would choose less.
        refine: ``none``, ``fast`` or ``full``: how long all factors of a layer are refined after the closed form.
            ``full`` also draws twice as many positions, unless ``positions`` says how many. With it, PyTorch and 200
            samples or more, blocks of a few layers are trained together in the end, in `convert` only, and judged by a
            tenth of the samples, which are set aside for that.
        solver: ``auto``; or ``nonlinear``, ``linear``, ``weights``, ``paper`` to see what each step brings.
        selection: what rank selection goes by: ``error`` after the activation, or PCA ``energy``, as in the paper
            (channel ranks only).
        weighting: how much errors in a layer's channels count: by what the ``outputs`` of the network feel of them,
            which takes PyTorch; ``none``: all alike; ``auto``: by the outputs where PyTorch is installed, a quarter of
            the multiply-adds or more, of ten million at least, is in layers that may come to read fewer channels, and
            neither ``preview``, ``solver`` nor ``selection`` ask for less.
        asymmetric: solve with what the converted prefix really delivers; off only for comparison.
        max_drop: in the place of ``speedup``: the largest one whose loss on held-out samples stays within this share,
            found by search. What is lost is top-1 with ``labels``; else it is the share of samples that get another
            class; else, where the network scores no classes, the relative error. With ``metric`` it is that, and may
            be any number above 0.
        drop_type: whether ``max_drop`` is a difference of scores of ``metric`` (``absolute``), or a share of the
            original's score (``relative``).
        metric: what quality means: a name such as ``top1``, or a function that scores a network on samples, higher is
            better, see `onnx_lowrank.metrics`; None to go by the outputs.
        labels: judge by the class folders of the data.
        class_names: names of the classes in the order of the scores, or a text file with one a line, where the sorted
            order of the class folders is another; without class folders, files begin with them.
        min_agreement: refuse a result that has the original's top class on a smaller share of the held-out samples.
        max_error: refuse a result with a larger relative error on the held-out samples, in any output.
        preview: a first look in a fraction of the time: few samples and positions unless ``samples`` and ``positions``
            say how many, closed forms only, coarser choices, no latencies, whatever ``refine`` and ``bench`` say.
        predicted_error: ``speedup``, or the largest one below it whose outputs are predicted to have no larger relative
            error, see `onnx_lowrank.ranks.estimate`. With cost ``latency`` it is predicted for as many times fewer
            multiply-adds. None for ``speedup`` whatever it loses.

    Raises:
        BudgetError: ``speedup`` is not a number above 1, ``max_drop`` or ``min_agreement`` none between 0 and 1, or
            ``max_error`` or ``predicted_error`` none above 0.
        ValueError: another field is out of its range.
    """

    speedup: float = 4.0
    cost: Cost = "macs"
    method: Method | Sequence[Form] = "auto"
    samples: int | None = None
    positions: int | None = None
    memory: float | None = None
    batch_size: int | None = None
    seed: int = 0
    provider: ProviderName | str = "auto"
    ep_library: str | PathLike[str] | None = None
    threads: int | None = None
    rank_multiple: int | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constant_inputs: Constants = field(default_factory=dict)
    samples_axis: Mapping[str, int] = field(default_factory=dict)
    plan: RankPlan | None = None
    bench: bool = True
    latency_table: Path | None = None
    runtime: RuntimeName = "onnxruntime"
    refine: Refinement = "fast"
    solver: Solver = "auto"
    selection: Selection = "error"
    weighting: Weighting = "auto"
    asymmetric: bool = True
    max_drop: float | None = None
    drop_type: DropType = "absolute"
    metric: MetricChoice | None = None
    labels: bool = False
    class_names: ClassNames | None = None
    min_agreement: float | None = None
    max_error: float | None = None
    preview: bool = False
    predicted_error: float | None = None

    def __post_init__(self) -> None:
        if not isfinite(self.speedup) or self.speedup <= 1:
            raise BudgetError(f"speedup: got {self.speedup:g}, wanted a number above 1: try `speedup=4`")
        self._check_bounds()
        self._check_targets()
        for name in ("samples", "positions", "batch_size", "threads", "rank_multiple"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.memory is not None and not 0 <= self.memory < inf:
            raise ValueError(f"memory must be a number of gigabytes, got {self.memory}")
        choices = {
            "cost": COSTS, "refine": REFINEMENTS, "solver": SOLVERS, "selection": SELECTIONS, "drop_type": DROP_TYPES,
            "weighting": WEIGHTINGS,
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if not self.methods or not set(self.methods) <= set(FORMS):
            raise ValueError(f"method must be auto, or one or several of {', '.join(FORMS)}, got {self.method!r}")
        if self.cost == "latency" and not self.bench:
            raise ValueError("cost 'latency' has to be measured: leave bench on")
        if self.class_names is not None and not self.labels and self.metric is None:
            raise ValueError("class_names says what the labels are called: set labels too")
        if self.runtime not in RUNTIMES:
            raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got {self.runtime!r}")
        if self.latency_table is not None and self.cost != "latency":
            raise ValueError(f"latency_table is for cost 'latency', got {self.cost!r}")
        if self.selection == "energy" and self.methods != ("channel",):
            raise ValueError(f"selection 'energy' knows channel ranks only, got method {self.method!r}: use 'channel'")

    @property
    def methods(self) -> tuple[str, ...]:
        """What is allowed: factorizations, and ``width``."""
        if self.method == "auto":
            return FORMS
        return (self.method,) if isinstance(self.method, str) else tuple(dict.fromkeys(self.method))

    def changed(self, changes: Mapping[str, Any]) -> Settings:
        """Return the settings with fields changed.

        Raises:
            TypeError: there is no such field; which one was meant, or where to give one of the preprocessing.
        """
        known = [each.name for each in fields(self)]
        for name in changes.keys() - set(known):
            of_images = name in {"mean", "std", "scale", "channel_order", "resize"}
            remedy = f": pass preprocessing=Preprocessing({name}=...)" if of_images else did_you_mean(name, known)
            raise TypeError(f"no setting '{name}'{remedy}")
        return replace(self, **changes)

    @property
    def output_drop(self) -> float | None:
        """``max_drop`` where it is counted in the outputs themselves; None where a metric counts it."""
        return None if self.metric is not None else self.max_drop

    def resolved(self) -> Settings:
        """Return the same settings with those changed that a preview goes without."""
        if not self.preview:
            return self
        return replace(self, refine="none", bench=False, positions=self.positions or PREVIEW_POSITIONS)

    def mixes_inputs(self, layer: Layer) -> bool:
        """Return whether a layer may come to begin with a 1 x 1 convolution, so that input ranks are to be measured."""
        if layer.single_point:
            return False
        if self.plan is not None:
            return any(entry.name == layer.name and "input" in rank_kinds(entry.method) for entry in self.plan)
        return not {"input", "tucker"}.isdisjoint(self.methods)

    def leaves_channels_out(self, layer: Layer) -> bool:
        """Return whether a layer may come to read fewer channels.

        By ``auto`` only 1 x 1 convolutions and fully connected layers: larger kernels gain more from factorization.
        """
        if not layer.narrowable:
            return False
        if self.plan is not None:
            return any(entry.name == layer.name and entry.width is not None for entry in self.plan)
        return "width" in self.methods and (self.method != "auto" or prod(layer.kernel) == 1)

    def weighs_outputs(self, layers: Iterable[Layer], macs: int) -> bool:
        """Return whether errors in channels count by what the outputs feel of them, if PyTorch is there.

        By ``auto`` where a good part of the work is in layers that may come to read fewer channels. Chains of low rank
        make good much of earlier errors; with these weights they lost more, not less.

        Args:
            layers: that may be factorized.
            macs: multiply-adds of the network, per sample.
        """
        if self.weighting != "auto":
            return self.weighting == "outputs"
        is_plain = not self.preview and self.solver == "auto" and self.selection == "error"
        narrowed = sum(layer.macs for layer in layers if self.leaves_channels_out(layer))
        return is_plain and macs >= _MIN_WEIGHED_MACS and narrowed >= _MIN_WEIGHED_SHARE * macs

    def _check_targets(self) -> None:
        """Raise for settings that say twice how far to go."""
        if self.max_drop is not None and self.plan is not None:
            raise ValueError(
                "max_drop is searched for by choosing ranks, which a plan has fixed: leave one of them out"
            )
        if self.predicted_error is not None and (self.plan is not None or self.max_drop is not None):
            raise ValueError("predicted_error picks a speedup, which plan and max_drop do too: leave one of them out")
        if self.drop_type == "relative" and (self.max_drop is None or self.metric is None):
            raise ValueError("drop_type 'relative' says how max_drop counts scores of a metric: set both")
        if self.metric is not None and self.max_drop is not None and self.labels:
            raise ValueError("metric and labels both say what max_drop is a loss of: leave labels out")
        if self.preview and (self.cost == "latency" or self.max_drop is not None):
            raise ValueError("a preview measures neither latencies nor a loss to search by: leave one of them out")

    def _check_bounds(self) -> None:
        """Raise for bounds of what may be lost that are out of their range."""
        most = inf if self.metric is not None and self.drop_type == "absolute" else 1
        if self.max_drop is not None and not 0 < self.max_drop < most:
            if most == inf:
                raise BudgetError(
                    f"`max_drop`: got {self.max_drop:g}, wanted a number above 0, in the unit of the metric: try "
                    "`max_drop=0.01`"
                )
            raise BudgetError(
                f"`max_drop`: got {self.max_drop:g}, wanted a share above 0 and below 1: try `max_drop=0.01`"
            )
        if self.min_agreement is not None and not 0 <= self.min_agreement <= 1:
            raise BudgetError(
                f"`min_agreement`: got {self.min_agreement:g}, wanted a share from 0 to 1: try `min_agreement=0.95`"
            )
        if self.predicted_error is not None and not 0 < self.predicted_error < inf:
            raise BudgetError(
                f"predicted_error: got {self.predicted_error:g}, wanted a number above 0: try predicted_error=0.25"
            )
        if self.max_error is not None and not 0 < self.max_error < inf:
            raise BudgetError(f"`max_error`: got {self.max_error:g}, wanted a number above 0: try `max_error=0.3`")


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune.

    Attributes:
        learn: what to learn from: ``original``: the outputs of the original network, without labels; ``labels``: the
            class folders of the data; ``both``.
        class_names: names of the classes, as in `Settings`.
        metric: what the best epoch is chosen by, as in `Settings`; None for the loss on the held-out samples.
        epochs: passes over the training samples.
        batch_size: samples per step, over all processes; None for 128, and for fewer where samples are few, so that an
            epoch has some steps. A batch size that is fixed in the model takes precedence.
        learning_rate: peak length of a step relative to a weight; None to find it by short trials. It is warmed up for
            a twentieth of the steps and decays along a cosine to zero.
        temperature: softens the scores of classifiers before they are compared; 0 compares outputs as they are.
        match: weight of the differences at the converted layers themselves, in addition to those of the outputs.
        normalize: put batch normalization behind chains of factors while training, which is folded into their weights
            in the end. Batches of fewer than 16 samples are trained without.
        augment: flip and shift images at random.
        samples: number of samples to use; None for all.
        held_out: fraction of the samples that is never trained on, by which the best epoch is chosen.
        patience: epochs without an improvement after which to stop; None for never.
        seed: of all randomness.
        provider: ``auto``, ``cpu`` or ``cuda``.
        precision: of the forward pass: ``fp32``, ``bf16``, or ``auto``: bf16 on a GPU that supports it.
        threads: of PyTorch; None for the cores that this process may use.
        input_shapes: shape by input name, where the model leaves axes open.
        constant_inputs: values by name of the inputs that are the same for every sample, or a file with them.

    Raises:
        ValueError: a field is out of its range.
    """

    learn: Learn = "original"
    class_names: ClassNames | None = None
    metric: MetricChoice | None = None
    epochs: int = 10
    batch_size: int | None = None
    learning_rate: float | None = None
    temperature: float = 4.0
    match: float = 0.0
    normalize: bool = True
    augment: bool = True
    samples: int | None = None
    held_out: float = 0.1
    patience: int | None = None
    seed: int = 0
    provider: TrainingProvider = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constant_inputs: Constants = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "samples", "patience", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("temperature", "match"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name} must be a number from 0 on, got {getattr(self, name)}")
        if self.learning_rate is not None and not 0 < self.learning_rate < inf:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must be a share between 0 and 1, got {self.held_out}")
        choices = {"learn": LEARN_CHOICES, "precision": PRECISIONS, "provider": TRAINING_PROVIDERS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
