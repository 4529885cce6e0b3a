"""Normalizations change nothing at first, are those of PyTorch in training, and fold into the weights in the end."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from onnx_lowrank.torch import from_torch, to_torch
from onnx_lowrank.torch.training.normalize import Normalization, NormalizedNetwork, normalized_convolutions
from tests.helpers import build, filters, normal, relative, run
from tests.torch.oracle import outputs_of
from tests.torch.real_networks import QUICK_ONES, REAL

FOLDED = 5e-6  # relative, in single precision


def chains() -> onnx.ModelProto:
    """A chain of two, a convolution with two readers, one whose output is the network's, one without a bias."""
    graph = """g (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y, float[N, 4, 8, 8] z) {
        a = Conv (x, wa, ba)  c = Conv <pads = [1, 1, 1, 1]> (a, wc, bc)  r = Relu (c)
        d = Conv (r, wd, bd)  s = Relu (d)  e = Conv (d, we)  t = Add (e, s)  y = Sigmoid (t)
        z = Conv (t, wz, bz)
    }"""
    weights = {f"w{name}": filters(seed, 4, 3 if name == "a" else 4, 1, 1) for seed, name in enumerate("adez")}
    weights["wc"] = filters(9, 4, 4, 3, 3)
    return build(graph, weights | {f"b{name}": normal(seed, 4) for seed, name in enumerate("acdz")})


def samples(seed: int, count: int = 32) -> Tensor:
    return torch.from_numpy(normal(seed, count, 3, 8, 8))


def normalized(model: onnx.ModelProto, *batches: Tensor) -> NormalizedNetwork:
    made = NormalizedNetwork(to_torch(model), normalized_convolutions(model.graph, onnx.GraphProto()))
    made.start_as_identity([[each] for each in batches])
    return made


def test_they_stand_behind_the_ends_of_chains() -> None:
    assert [place.output for place in normalized_convolutions(chains().graph, onnx.GraphProto())] == ["c", "d"]


@pytest.mark.parametrize(
    ("made", "found"),
    [("a", ["c"]), ("r", ["d"]), ("", [])],
    ids=["a chain", "a chain that reads an activation", "whole layers"],
)
def test_none_stands_behind_a_layer_that_reads_what_the_original_has(made: str, found: list[str]) -> None:
    """Whole layers, and those that only lost channels, are trained without the noise of a batch's statistics."""
    original = onnx.GraphProto()
    original.CopyFrom(chains().graph)
    for node in original.node:
        node.output[:] = [f"not {name}" if name == made else name for name in node.output]
    assert [place.output for place in normalized_convolutions(chains().graph, original)] == found


def test_weights_that_others_read_are_left_alone() -> None:
    model = chains()
    model.graph.node[-1].input[1] = "wd"
    assert [place.output for place in normalized_convolutions(model.graph, onnx.GraphProto())] == ["c"]


@pytest.mark.parametrize("training", [False, True])
def test_at_first_nothing_changes(training: bool) -> None:
    """Nor in training, for the batch that was measured."""
    x = samples(0)
    made = normalized(chains(), x).train(training)
    for want, have in zip(to_torch(chains())(x), made(x), strict=True):
        assert relative(want.detach().numpy(), have.detach().numpy()) < FOLDED


def test_statistics_are_those_of_all_batches_together() -> None:
    batches = samples(0), 3 * samples(1) + 1
    made = normalized(chains(), *batches)
    network = to_torch(chains())
    network.outputs = ("c", "d")
    found = network(torch.cat(batches))
    for tensor, each in zip(found, made.normalizations, strict=True):
        variance, mean = torch.var_mean(tensor.detach(), (0, 2, 3), correction=0)
        torch.testing.assert_close(each.mean, mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(each.variance, variance, rtol=1e-5, atol=1e-5)


def disturbed(made: NormalizedNetwork) -> NormalizedNetwork:
    """After some training."""
    generator = torch.Generator().manual_seed(0)
    made.train()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        found = made(2 * samples(seed + 5))
        sum((each - torch.randn(each.shape, generator=generator)).square().mean() for each in found).backward()
        optimizer.step()
    return made


def test_what_is_folded_does_the_same_without_them() -> None:
    made, x = disturbed(normalized(chains(), samples(0))), samples(3)
    wanted = made.eval()(x)
    model = from_torch(made.folded(), chains())
    assert len(model.graph.node) == len(chains().graph.node)
    for want, have in zip(wanted, run(model, {"x": x.numpy()}).values(), strict=True):
        assert relative(want.detach().numpy(), have) < FOLDED
    for want, old in zip(wanted, to_torch(chains())(x), strict=True):
        assert relative(want.detach().numpy(), old.detach().numpy()) > 0.01  # else it was not disturbed


def test_folding_leaves_what_is_trained_as_it_is() -> None:
    made = disturbed(normalized(chains(), samples(0)))
    before = {key: tensor.clone() for key, tensor in made.state_dict().items()}
    made.folded()
    assert all(torch.equal(tensor, before[key]) for key, tensor in made.state_dict().items())


@pytest.mark.parametrize("name", QUICK_ONES)
def test_real_networks_do_the_same_with_them(name: str) -> None:
    model, batch = REAL[name].model, REAL[name].smallest
    module = to_torch(model)
    before = outputs_of(module, batch)
    made = NormalizedNetwork(module, normalized_convolutions(model.graph, onnx.GraphProto()))
    made.start_as_identity([[torch.from_numpy(batch)]])
    for want, have in zip(before, outputs_of(made.eval(), batch), strict=True):
        assert relative(want, have) < 1e-4
    module.behind = {}
    module.load_state_dict(made.folded())
    for want, have in zip(before, outputs_of(module, batch), strict=True):
        assert relative(want, have) < 1e-4


@pytest.mark.parametrize("shape", [(16, 5), (16, 5, 7), (8, 5, 4, 3), (4, 5, 2, 3, 2)])
def test_in_training_it_is_that_of_pytorch(shape: tuple[int, ...]) -> None:
    x = torch.from_numpy(normal(0, *shape))
    ours, theirs = Normalization(5), {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    plain = theirs[len(shape)](5)
    ours.set_identity(x.transpose(0, 1).flatten(1).mean(1), torch.ones(5))
    for mine, other in zip((ours.scale, ours.shift, ours.mean, ours.variance),
                           (plain.weight, plain.bias, plain.running_mean, plain.running_var), strict=True):  # fmt: skip
        other.data.copy_(mine.data)
    torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=0)
    torch.testing.assert_close(ours.variance, plain.running_var, rtol=0, atol=0)
    np.testing.assert_array_equal(ours.eval()(x).detach().numpy(), plain.eval()(x).detach().numpy())


def test_channels_at_rest_stay_finite() -> None:
    model = chains()
    made = normalized(model, torch.zeros(4, 3, 8, 8))
    made.train()
    sum(each.square().sum() for each in made(torch.zeros(4, 3, 8, 8))).backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in made.parameters())
    assert all(tensor.isfinite().all() for tensor in made.folded().values())
