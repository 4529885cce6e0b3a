"""Steps of a training against the same ones written out in plain PyTorch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import Accelerator
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor

from onnx_lowrank.calibrate import open_samples, preset
from onnx_lowrank.runtime.session import Session
from onnx_lowrank.settings import FinetuneSettings
from onnx_lowrank.torch import to_torch
from onnx_lowrank.torch.training.dataset import DistillationData, Shard, split
from onnx_lowrank.torch.training.normalize import NormalizedNetwork, normalized_convolutions
from onnx_lowrank.torch.training.objective import Objective
from onnx_lowrank.torch.training.trainer import Trainer, place_for_training
from tests.helpers import CPU, build, filters, normal
from tests.networks import images
from tests.torch.plain_steps import matrix_step, vector_step

Array = NDArray[Any]
SAME = 3e-6  # of weights in float32 after three steps


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(seed: int) -> onnx.ModelProto:
    """Two convolutions and scores of five classes."""
    graph = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)  r1 = Relu (c1)
        c2 = Conv <strides = [2, 2]> (r1, w2)  r2 = Relu (c2)
        p = GlobalAveragePool (r2)  f = Flatten (p)  y = Gemm (f, g, h)
    }"""
    weights = {"w1": filters(seed, 6, 3, 3, 3), "b1": normal(seed + 1, 6), "w2": 2 * filters(seed + 2, 8, 6, 3, 3)}
    return build(graph, weights | {"g": normal(seed + 3, 8, 5), "h": normal(seed + 4, 5)})


def plain(weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The same, and its first response."""
    first = F.conv2d(x, weights["w1"], weights["b1"], padding=1)
    second = F.conv2d(first.relu(), weights["w2"], stride=2).relu()
    return second.mean((2, 3)) @ weights["g"] + weights["h"], first


OBJECTIVE = Objective(
    outputs=1, scores=(True,), probabilities=(False,), energies=(1.0, 0.7), temperature=2.0, match=0.5, learn="both"
)
SETTINGS = FinetuneSettings(batch_size=12, held_out=0.25, augment=False, provider="cpu", learn="original")


def dataset(settings: FinetuneSettings = SETTINGS, labelled: bool = True) -> DistillationData:
    session = Session(network(0), CPU, name="network")
    samples = open_samples(images(64, 8), session.inputs, preset("zero-one"))
    if labelled:
        samples = replace(samples, labels=np.random.default_rng(0).integers(0, 5, 64))
    return split(samples, ("x",), settings, Shard(), None)


def trainer(
    chosen: DistillationData,
    objective: Objective = OBJECTIVE,
    student: int = 20,
    *,
    half: bool = False,
    weights: dict[str, Tensor] | None = None,
    normalize: bool = False,
) -> Trainer:
    accelerator = Accelerator(cpu=True)
    ours, theirs = (place_for_training(to_torch(network(seed)), accelerator.device) for seed in (student, 0))
    ours.load_state_dict(weights or ours.state_dict())
    theirs.requires_grad_(False)
    ours.outputs = theirs.outputs = ("y", "c1")
    normalized = NormalizedNetwork(
        ours, normalized_convolutions(network(0).graph, onnx.GraphProto()) if normalize else ()
    )
    normalized.start_as_identity(batch.inputs for batch in chosen.held_out_batches())
    return Trainer(accelerator, normalized, theirs, objective, chosen, half=half)


def raw(seed: int) -> dict[str, Tensor]:
    tensors = network(seed).graph.initializer
    return {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in tensors}


def plain_loss(weights: dict[str, Tensor], x: Tensor, labels: Tensor, match: float = 0.5) -> Tensor:
    """Mean over a batch of what `OBJECTIVE` says; without ``match`` what its outputs lose."""
    (ours, ours1), (theirs, theirs1) = plain(weights, x), plain(raw(0), x)
    soft, goal = F.log_softmax(ours / 2, 1), F.softmax(theirs / 2, 1)
    divergence = 4 * (goal * (goal.log() - soft)).sum(1)
    inner = ((ours1 - theirs1) ** 2).mean((1, 2, 3)) / 0.7
    return (divergence + F.cross_entropy(ours, labels, reduction="none") + match * inner).mean()


def plain_steps(
    batches: list[tuple[Tensor, Tensor]], rates: list[float]
) -> tuple[dict[str, Tensor], list[float], list[float]]:
    """Weights after steps as `plain_steps` has them, gradients no longer than 1; losses and lengths before."""
    weights = {name: tensor.requires_grad_() for name, tensor in raw(20).items()}
    moving = {name: np.zeros(tensor.shape) for name, tensor in weights.items()}
    losses, lengths = [], []
    for (x, labels), rate in zip(batches, rates, strict=True):
        loss = plain_loss(weights, x, labels)
        slopes = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        losses.append(loss.item())
        lengths.append(float(sum((each**2).sum() for each in slopes.values()) ** 0.5))
        for name, weight in weights.items():
            slope = slopes[name].double().numpy() / max(1.0, lengths[-1])
            step, moving[name] = (
                vector_step(slope, moving[name])
                if weight.ndim == 1
                else matrix_step(weight.detach().double().numpy(), slope, moving[name])
            )
            weight.data.sub_(torch.from_numpy(rate * step))
    return {name: weight.detach() for name, weight in weights.items()}, losses, lengths


def as_batches(chosen: DistillationData, number: int = 0) -> list[tuple[Tensor, Tensor]]:
    found = []
    for batch in chosen.epoch(number):
        assert batch.labels is not None
        found.append((batch.inputs[0], batch.labels))
    return found


def test_three_steps_are_those_of_plain_torch() -> None:
    chosen = dataset()
    assert chosen.steps == 4
    batches = as_batches(chosen)[:3]
    made = trainer(chosen)
    # Four steps in all: the first is at the highest rate, the next ones along the cosine.
    rates = [0.05 * share for share in (1.0, 1.0, 0.75)]
    wanted, losses, lengths = plain_steps(batches, rates)
    assert min(lengths) > 1.5  # gradients were cut
    loss = made.train(list(chosen.epoch(0))[:3], 0.05, 0, 4)
    assert loss == pytest.approx(np.mean(losses), rel=1e-6)
    for name, tensor in wanted.items():
        torch.testing.assert_close(made.weights()[name], tensor, rtol=0, atol=SAME)
        assert (tensor - raw(20)[name]).abs().max() > 100 * SAME


def test_short_gradients_are_not_cut() -> None:
    """The student nearly is the teacher, and only imitates it."""
    chosen = dataset(labelled=False)
    quiet = replace(OBJECTIVE, learn="original")
    nearby = {name: tensor + 0.01 * torch.sign(tensor) for name, tensor in raw(0).items()}
    made = trainer(chosen, quiet, weights=nearby)
    (batch, *_) = chosen.epoch(0)
    made.train([batch], 0.05, 0, 1)
    weights = {name: tensor.requires_grad_() for name, tensor in nearby.items()}
    (ours, ours1), (theirs, theirs1) = plain(weights, batch.inputs[0]), plain(raw(0), batch.inputs[0])
    soft, goal = F.log_softmax(ours / 2, 1), F.softmax(theirs / 2, 1)
    loss = 4 * (goal * (goal.log() - soft)).sum(1) + 0.5 * ((ours1 - theirs1) ** 2).mean((1, 2, 3)) / 0.7
    slopes = dict(zip(weights, torch.autograd.grad(loss.mean(), list(weights.values())), strict=True))
    length = float(sum((each**2).sum() for each in slopes.values()) ** 0.5)
    assert 0.01 < length < 0.9
    for name in ("b1", "h"):
        wanted = weights[name].detach() - 0.05 * 1.9 * slopes[name]  # the first step: the gradient, and 0.9 of it again
        torch.testing.assert_close(made.weights()[name], wanted, rtol=0, atol=SAME)


def test_momentum_is_taken_out_and_put_back() -> None:
    """Two steps, everything into another trainer, two more: as four steps in one."""
    chosen = dataset()
    batches = list(chosen.epoch(0))
    whole, first, second = (trainer(chosen, normalize=True) for _ in range(3))
    whole.train(batches, 0.05, 0, 4)
    assert first.momentum() == {}
    first.train(batches[:2], 0.05, 0, 4)
    momentum = {key: tensor.clone() for key, tensor in first.momentum().items()}
    assert momentum.keys() == {key for key in first.state() if not key.endswith((".mean", ".variance"))}
    assert all(tensor.any() for tensor in momentum.values())
    second.set_state(first.state())
    second.set_momentum(momentum)
    assert all(torch.equal(second.momentum()[key], tensor) for key, tensor in momentum.items())
    second.train(batches[2:], 0.05, 2, 4)
    for key, tensor in whole.weights().items():
        assert torch.equal(second.weights()[key], tensor), key


def test_new_weights_come_without_momentum() -> None:
    chosen = dataset()
    made = trainer(chosen, normalize=True)
    start = made.state()
    made.train(chosen.epoch(0), 0.05, 0, 4)
    first = made.weights()
    made.set_state(start)
    assert made.momentum() == {}
    made.train(chosen.epoch(0), 0.05, 0, 4)
    assert all(torch.equal(made.weights()[key], tensor) for key, tensor in first.items())


def test_weights_are_copies() -> None:
    chosen = dataset()
    made = trainer(chosen, normalize=True)
    taken, state = made.weights(), made.state()
    kept = {key: tensor.clone() for key, tensor in (taken | state).items()}
    made.train(chosen.epoch(0), 0.5, 0, 4)
    assert all(torch.equal((taken | state)[key], tensor) for key, tensor in kept.items())
    assert not torch.equal(made.weights()["w2"], kept["w2"])


def test_the_teacher_stays() -> None:
    chosen = dataset()
    made = trainer(chosen)
    before = made.evaluate()
    made.train(chosen.epoch(0), 0.2, 0, 4)
    after = made.evaluate()
    assert after.original_accuracy == before.original_accuracy
    assert after.loss != before.loss


def test_marks_are_those_of_the_network_without_normalizations() -> None:
    chosen = dataset()
    made = trainer(chosen, normalize=True)
    made.train(chosen.epoch(0), 0.05, 0, 4)
    plain_one = trainer(chosen, weights=made.weights())
    assert made.evaluate().loss == pytest.approx(plain_one.evaluate().loss, rel=1e-5)
    assert made.state().keys() > {f"network.{key}" for key in made.weights()}


@pytest.mark.parametrize("most", [None, 5])
def test_marks_are_those_of_the_held_out_samples(most: int | None) -> None:
    """16 samples in batches of 12, the last one shorter: each counts the same."""
    chosen = dataset()
    held_out = chosen.held_out[:most]
    read = torch.from_numpy(chosen.samples.read(held_out)["x"])
    assert chosen.samples.labels is not None
    labels = torch.from_numpy(chosen.samples.labels[held_out])
    scores = [plain(raw(seed), read)[0] for seed in (20, 0)]
    ours, theirs = (each.argmax(1) for each in scores)
    found = trainer(chosen).evaluate(most)
    assert found.label_loss is None
    others = replace(chosen, samples=replace(chosen.samples))
    assert trainer(others).evaluate(most).label_loss == pytest.approx(
        F.cross_entropy(scores[0], labels).item(), rel=1e-6
    )
    assert found.loss == pytest.approx(plain_loss(raw(20), read, labels, match=0.0).item(), rel=1e-6)
    assert found.agreement == pytest.approx((ours == theirs).double().mean().item(), rel=1e-12)
    assert found.accuracy == pytest.approx((ours == labels).double().mean().item(), rel=1e-12)
    assert found.original_accuracy == pytest.approx((theirs == labels).double().mean().item(), rel=1e-12)


def test_marks_say_only_what_is_known() -> None:
    unlabelled = replace(OBJECTIVE, learn="original")
    some = dataset()
    others = replace(some, samples=replace(some.samples))
    assert trainer(others, unlabelled).evaluate().label_loss is None  # labels that nobody asked to learn judge nothing
    found = trainer(dataset(labelled=False), unlabelled).evaluate()
    assert found.agreement is not None
    assert (found.accuracy, found.original_accuracy) == (None, None)
    found = trainer(dataset(labelled=False), replace(unlabelled, scores=(False,))).evaluate()
    assert (found.agreement, found.accuracy, found.original_accuracy) == (None, None, None)


def test_half_precision_is_near() -> None:
    chosen = dataset()
    whole, half = trainer(chosen), trainer(chosen, half=True)
    assert half.evaluate().loss == pytest.approx(whole.evaluate().loss, rel=0.03)
    assert half.evaluate().loss != whole.evaluate().loss  # else it was not in use
    losses = [made.train(chosen.epoch(0), 0.05, 0, 4) for made in (whole, half)]
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert {tensor.dtype for tensor in half.weights().values()} == {torch.float32}
