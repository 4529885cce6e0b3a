"""What every test gets: a cache of its own session instead of the user's. What some ask for: tensors, a provider."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import settings

from onnx_lowrank.runtime.provider import Provider
from onnx_lowrank.solve import activation_steps

USUAL_EXAMPLES = 100  # of a hypothesis test, also in hypothesis' own profile "ci"

# `make test-nightly`; a test that sets its own number of examples keeps it, unless it takes it from `examples`.
settings.register_profile(
    "nightly", max_examples=10 * USUAL_EXAMPLES, derandomize=False, deadline=None, print_blob=True
)


def examples(count: int) -> int:
    """Return how many examples a test tries for which that many are enough by day: ten times as many at night."""
    return count * (settings.default.max_examples // USUAL_EXAMPLES)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where tensors are and networks run, in the tests that can do with any place."""
    parser.addoption("--device", default="cpu", choices=["cpu", "cuda"])


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Measured latencies of tests must not be taken for those of quiet machines, nor the other way round."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(autouse=True, scope="session")
def _all_grids() -> None:
    """Keep the grids of all activations and penalties, more than a network has; each takes a fifth of a second."""
    patch = pytest.MonkeyPatch()
    patch.setattr(activation_steps, "_grid", cache(activation_steps._grid.__wrapped__))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tensor(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Make tensors of PyTorch on the device, of the same type as the array."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return partial(torch.asarray, device=request.config.getoption("--device"))


@pytest.fixture(scope="session")
def provider(request: pytest.FixtureRequest) -> Provider:
    """Where networks run, on one thread."""
    return Provider(request.config.getoption("--device"), threads=1)
