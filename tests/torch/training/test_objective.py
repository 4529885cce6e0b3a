"""The loss against scipy and plain numpy; what networks are judged by; which tensors were converted."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax
from torch import Tensor

from onnx_lowrank.torch import Marks
from onnx_lowrank.torch.training.objective import Objective, converted_tensors, ends_in_softmax
from tests.helpers import build, normal
from tests.torch.pairs import MADE, demo, pair

Array = NDArray[Any]
SINGLE = 2e-5  # of a loss in float32 relative to one in float64; differences of logarithms lose digits

SCORES = Objective(
    outputs=1, scores=(True,), probabilities=(False,), energies=(1.0,), temperature=4.0, match=0.0, learn="original"
)


def losses(objective: Objective, ours: list[Array], theirs: list[Array], labels: Array | None = None) -> Array:
    """Of arrays, in float32."""
    tensors = [[torch.from_numpy(each.astype(np.float32)) for each in side] for side in (ours, theirs)]
    found: Tensor = objective.losses(*tensors, None if labels is None else torch.from_numpy(labels))
    assert found.dtype == torch.float32
    assert found.shape == (len(ours[0]),)
    return found.numpy()


def divergence(ours: Array, theirs: Array, temperature: float) -> Array:
    """Kullback-Leibler divergence of softened probabilities, by scipy, in float64."""
    soft, goal = (softmax(each.astype(np.float64) / temperature, axis=1) for each in (ours, theirs))
    found: Array = temperature**2 * rel_entr(goal, soft).sum(axis=1)
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(2, 12), st.floats(0.3, 20), st.floats(0.1, 10), st.integers(0, 2**30))
def test_soft_targets_are_those_of_scipy(count: int, classes: int, temperature: float, size: float, seed: int) -> None:
    ours, theirs = size * normal(seed, count, classes), size * normal(seed + 1, count, classes)
    found = losses(replace(SCORES, temperature=temperature), [ours], [theirs])
    # What is left of differences of logarithms, each off by 1e-7 and more, is multiplied by the temperature squared.
    atol = 2e-6 * max(1.0, temperature, size) ** 2
    np.testing.assert_allclose(found, divergence(ours, theirs, temperature), rtol=1e-5, atol=atol)


def test_soft_targets_vanish_only_for_the_same_scores_up_to_a_constant() -> None:
    ours = normal(0, 4, 5)
    np.testing.assert_allclose(losses(SCORES, [ours + 3], [ours]), 0, atol=1e-5)
    assert (losses(SCORES, [ours[:, ::-1]], [ours]) > 1e-2).all()


def test_probabilities_count_as_the_scores_that_made_them() -> None:
    ours, theirs = 3 * normal(0, 6, 8), 3 * normal(1, 6, 8)
    found = losses(replace(SCORES, probabilities=(True,)), [softmax(ours, axis=1)], [softmax(theirs, axis=1)])
    np.testing.assert_allclose(found, divergence(ours, theirs, 4.0), rtol=1e-4, atol=1e-5)


def test_probabilities_of_nothing_give_numbers() -> None:
    certain = np.eye(4)[[0, 1]]
    found = losses(replace(SCORES, probabilities=(True,), learn="both"), [certain], [certain[::-1]], np.array([0, 0]))
    assert np.isfinite(found).all()
    assert (found > 1).all()


def squares(ours: Array, theirs: Array, energy: float) -> Array:
    """Mean square of the difference per sample, relative."""
    found: Array = ((ours.astype(np.float64) - theirs) ** 2).reshape(len(ours), -1).mean(axis=1) / energy
    return found


def test_without_a_temperature_scores_are_compared_as_they_are() -> None:
    ours, theirs = normal(0, 3, 5), normal(1, 3, 5)
    found = losses(replace(SCORES, temperature=0.0, energies=(2.5,)), [ours], [theirs])
    np.testing.assert_allclose(found, squares(ours, theirs, 2.5), rtol=SINGLE)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4, 5), (3, 2, 4, 5)], ids=str)
def test_what_is_no_row_of_scores_is_compared_by_squares(shape: tuple[int, ...]) -> None:
    ours, theirs = normal(0, *shape), normal(1, *shape)
    found = losses(replace(SCORES, scores=(False,), energies=(0.3,)), [ours], [theirs])
    np.testing.assert_allclose(found, squares(ours.reshape(3, -1), theirs.reshape(3, -1), 0.3), rtol=SINGLE)


def test_an_output_that_is_always_zero_gives_a_number() -> None:
    nothing = np.zeros((2, 3, 4))
    assert (losses(replace(SCORES, scores=(False,), energies=(0.0,)), [nothing], [nothing]) == 0).all()


LABELS = np.array([3, 0, 4])


def entropy(ours: Array, labels: Array) -> Array:
    found: Array = -np.log(softmax(ours.astype(np.float64), axis=1)[np.arange(len(labels)), labels])
    return found


@pytest.mark.parametrize("probabilities", [False, True])
def test_labels_are_learned_by_cross_entropy(probabilities: bool) -> None:
    ours, theirs = 2 * normal(0, 3, 5), normal(1, 3, 5)
    shown = softmax(ours.astype(np.float64), axis=1) if probabilities else ours
    found = losses(replace(SCORES, learn="labels", probabilities=(probabilities,)), [shown], [theirs], LABELS)
    np.testing.assert_allclose(found, entropy(ours, LABELS), rtol=SINGLE)
    if not probabilities:
        same = torch.nn.functional.cross_entropy(torch.from_numpy(ours), torch.from_numpy(LABELS), reduction="none")
        np.testing.assert_array_equal(found, same.numpy())


def test_both_is_the_sum() -> None:
    ours, theirs = normal(0, 3, 5), normal(1, 3, 5)
    found = losses(replace(SCORES, learn="both"), [ours], [theirs], LABELS)
    np.testing.assert_allclose(found, divergence(ours, theirs, 4.0) + entropy(ours, LABELS), rtol=SINGLE)


def test_from_the_original_alone_labels_play_no_part() -> None:
    ours, theirs = [normal(0, 3, 5)], [normal(1, 3, 5)]
    np.testing.assert_array_equal(losses(SCORES, ours, theirs, LABELS), losses(SCORES, ours, theirs))


@pytest.mark.parametrize("match", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("learn", ["original", "labels", "both"])
def test_outputs_and_inner_tensors_add_up(match: float, learn: str) -> None:
    """Two outputs, one of them a map, and two inner tensors; labels go with the first output."""
    shapes = [(3, 5), (3, 2, 4), (3, 4, 3, 3), (3, 7)]
    ours, theirs = ([normal(seed + place, *shape) for place, shape in enumerate(shapes)] for seed in (0, 10))
    energies = (9.0, 0.5, 2.0, 0.25)
    objective = Objective(
        outputs=2,
        scores=(True, False),
        probabilities=(False, False),
        energies=energies,
        temperature=2.0,
        match=match,
        learn=learn,
    )
    wanted = np.zeros(3)
    if learn != "labels":
        wanted += divergence(ours[0], theirs[0], 2.0) + squares(ours[1], theirs[1], 0.5)
    if learn != "original":
        wanted += entropy(ours[0], LABELS)
    wanted += match * sum(squares(ours[place], theirs[place], energies[place]) for place in (2, 3))
    np.testing.assert_allclose(losses(objective, ours, theirs, LABELS), wanted, rtol=SINGLE)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 2**30), st.booleans())
def test_hits_are_counted(count: int, classes: int, seed: int, labelled: bool) -> None:
    generator = np.random.default_rng(seed)
    ours, theirs = generator.standard_normal((2, count, classes))
    labels = generator.integers(0, classes, count)
    truth = torch.from_numpy(labels) if labelled else None
    found = SCORES.hits(torch.from_numpy(ours), torch.from_numpy(theirs), truth).tolist()
    tops = [[max(range(classes), key=row.__getitem__) for row in side] for side in (ours, theirs)]
    same = sum(a == b for a, b in zip(*tops, strict=True))
    right = [sum(a == b for a, b in zip(top, labels, strict=True)) * labelled for top in tops]
    assert found == [same, *right]


# Marks


def test_better_is_a_smaller_loss() -> None:
    assert Marks(1.0).better_than(Marks(2.0))
    assert not Marks(2.0).better_than(Marks(1.0))
    assert not Marks(1.0, 1.0, 1.0).better_than(Marks(1.0, 0.0, 0.0))  # accuracy is too noisy to judge by
    assert Marks(1.0, 0.0, 0.0).better_than(Marks(1.1, 1.0, 1.0))


def test_labels_are_the_truth_where_they_are_learnt() -> None:
    better, worse = Marks(2.0, label_loss=0.4), Marks(1.0, label_loss=0.5)
    assert better.better_than(worse)
    assert not worse.better_than(better)
    assert Marks(1.0).better_than(better)  # there is but one loss that both have
    assert not Marks(1.0, label_loss=nan).better_than(worse)


def test_falling_behind_is_to_have_fewer_right() -> None:
    assert Marks(1.0, accuracy=0.8).falls_behind(Marks(2.0, accuracy=0.9))
    assert not Marks(2.0, accuracy=0.9).falls_behind(Marks(1.0, accuracy=0.9))
    assert not Marks(2.0).falls_behind(Marks(1.0, accuracy=0.9))
    assert not Marks(2.0, accuracy=0.1).falls_behind(Marks(1.0))


mark = st.builds(
    Marks, st.one_of(st.floats(0, 10), st.just(nan), st.just(inf)), st.none(), st.sampled_from([0.0, 0.5, 1.0, None])
)


@settings(deadline=None)
@given(mark, mark)
def test_of_two_at_most_one_is_better(one: Marks, two: Marks) -> None:
    assert not one.better_than(one)
    if (one.accuracy is None) == (two.accuracy is None):
        assert not (one.better_than(two) and two.better_than(one))


@pytest.mark.parametrize("lost", [nan, inf])
def test_a_network_without_a_loss_is_never_better(lost: float) -> None:
    """Outputs that are NaN have a top class as well, which is right for a class of the samples."""
    assert not Marks(lost, accuracy=0.9).better_than(Marks(5.0, accuracy=0.1))
    assert not Marks(lost, accuracy=0.9).better_than(Marks(lost, accuracy=0.1))
    assert Marks(5.0, accuracy=0.1).better_than(Marks(lost, accuracy=0.1))


def test_marks_are_said_in_words() -> None:
    assert str(Marks(0.12346)) == "loss 0.1235"
    assert str(Marks(1.0, 0.5, 0.25, 0.75)) == "loss 1, same top class 50.00%, right 25.00%, original 75.00%"
    assert str(Marks(1.0, 0.5, label_loss=0.25)) == "loss 1, of labels 0.25, same top class 50.00%"


# Graphs

SOFT = {
    "Softmax": "y = Softmax (x)",
    "Identity behind": "s = Softmax (x)  y = Identity (s)",
    "Reshape behind": "s = Softmax (x)  y = Reshape (s, shape)",
    "Flatten and Cast behind": "s = Softmax (x)  f = Flatten (s)  y = Cast <to = 1> (f)",
}
HARD = {
    "scores": "y = Relu (x)",
    "LogSoftmax": "y = LogSoftmax (x)",  # logarithms are scores already
    "something behind": "s = Softmax (x)  y = Mul (s, two)",
    "nothing": "y = Identity (x)",
    "Softmax of something else": "s = Softmax (x)  y = Identity (x)",
}


@pytest.mark.parametrize("case", [*SOFT, *HARD])
def test_a_softmax_at_the_end_is_seen(case: str) -> None:
    text = SOFT.get(case) or HARD[case]
    weights = {"shape": np.array([-1, 4]), "two": np.float32(2)}
    used = {name: value for name, value in weights.items() if name in text}
    model = build(f"g (float[N,4] x) => (float[N,4] y) {{ {text} }}", used)
    assert ends_in_softmax(model.graph, "y") == (case in SOFT)


def test_an_output_that_nothing_makes_is_none() -> None:
    assert not ends_in_softmax(onnx.GraphProto(), "y")


@pytest.mark.parametrize("name", [*MADE, "demo"])
def test_the_responses_of_converted_layers_are_found(name: str) -> None:
    """Those and no others: from the report, layer by layer, with the BatchNormalization that went into it.

    Where only a shortcut is added to one, it is the sum.
    """
    found = demo() if name == "demo" else pair(name)
    original, converted = found.original.graph, found.converted.graph
    makers = {node.name or node.output[0]: node for node in original.node}
    weights = {tensor.name for tensor in original.initializer}
    responses, compared = set(), set()
    for layer in found.result.report.layers:
        if layer.method != "kept":
            (response,) = makers[layer.name].output
            behind = [node for node in original.node if response in node.input]
            if len(behind) == 1 and behind[0].op_type == "BatchNormalization":
                (response,) = behind[0].output
                behind = [node for node in original.node if response in node.input]
            responses.add(response)
            added = len(behind) == 1 and behind[0].op_type == "Add" and not weights & {*behind[0].input}
            compared.add(behind[0].output[0] if added else response)
    assert len(responses) >= 2
    assert converted_tensors(original, converted) == sorted(compared)
    made = {output: node for node in converted.node for output in node.output}
    assert all("/lowrank_" in made[name].input[1] for name in responses)


def test_layers_with_other_weights_are_found() -> None:
    """Where channels are left out nodes stay as they are, and read weights that have changed."""
    graph = """g (float[N,2,4,4] x) => (float[N,2,4,4] y) {
        a = Conv (x, w1)  b = Relu (a)  c = Conv (b, w2)  s = Add (c, x)  t = Add (s, one)  y = Conv (t, w3)
    }"""
    weights = {name: normal(0, 2, 2, 1, 1) for name in ("w1", "w2", "w3")} | {"one": np.float32(1)}
    original = build(graph, weights).graph
    assert converted_tensors(original, build(graph, weights | {"w1": weights["w1"][:1]}).graph) == ["a"]
    assert converted_tensors(original, build(graph, weights | {"w2": 2 * weights["w2"]}).graph) == ["s"]
    assert converted_tensors(original, build(graph, weights | {"one": np.float32(2)}).graph) == ["t"]


def test_a_network_beside_itself_has_none() -> None:
    graph = pair("scores").original.graph
    assert converted_tensors(graph, graph) == []
