"""Any network: at full rank the outputs are the same, at half the cost the result is valid, or it is said why not."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from onnx_lowrank import LayerPlan, RankPlan, convert, inspect
from onnx_lowrank.errors import BudgetError, ModelError, VerificationError
from onnx_lowrank.layers.plan import largest_ranks
from tests.conformance.random_networks import SIZE, networks
from tests.conftest import examples
from tests.helpers import find, run
from tests.networks import images

IMAGES = images(24, size=SIZE)
# Weights are noise, which has no low rank: half of them may well be too few.
REASONS = (
    "cannot be reached, the largest that can is",
    "no layer can be factorized",
    "is wanted: lower `speedup` or add samples",
)
any_network = settings(
    max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@any_network
@given(networks(), st.data())
def test_full_rank_changes_nothing(model: onnx.ModelProto, data: st.DataObject) -> None:
    layers, skipped = find(model, {"x": IMAGES[:1]})
    entries = []
    for layer in layers:
        methods = ["channel", "spatial", "spatial-channel"] if layer.separable else ["channel"]
        method = data.draw(st.sampled_from(methods))
        ranks = {kind: most for kind, most in largest_ranks(layer).items() if kind in method.split("-")}
        entries.append(LayerPlan(layer.name, method, **ranks))
    assert len(layers) + len(skipped) == sum(node.op_type == "Conv" for node in model.graph.node)
    if not layers:
        event("nothing but depthwise layers")
        return
    result = convert(model, {"x": IMAGES}, plan=RankPlan(tuple(entries)), solver="linear", refine="none", bench=False)
    assert result.model is not None
    before, after = run(model, {"x": IMAGES}), run(result.model, {"x": IMAGES})
    for name, values in before.items():
        # Values may cancel to nothing, so the distance is measured by the size of what goes in.
        assert np.abs(values - after[name]).max() <= 1e-4 * max(1.0, float(np.abs(values).max()))


@any_network
@given(networks())
def test_half_the_cost_is_valid_or_out_of_reach(model: onnx.ModelProto) -> None:
    try:
        result = convert(model, {"x": IMAGES}, speedup=2, rank_multiple=1, refine="none", bench=False)
    except (BudgetError, ModelError, VerificationError) as error:
        reason = next((each for each in REASONS if each in str(error)), None)
        if reason is None:
            raise
        event(reason)
        return
    assert result.model is not None
    onnx.checker.check_model(result.model, full_check=True)
    assert result.report.macs[0] == inspect(model).macs
    assert 2 * result.report.macs[1] <= result.report.macs[0]
    assert inspect(result.model).macs == result.report.macs[1]
    before, after = run(model, {"x": IMAGES}), run(result.model, {"x": IMAGES})
    assert [values.shape for values in before.values()] == [values.shape for values in after.values()]
    assert all(np.isfinite(values).all() for values in after.values())
