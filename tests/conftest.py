"""What every test gets: a cache of its own session instead of the user's. What some ask for: tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Measured latencies of tests must not be taken for those of quiet machines, nor the other way round."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def tensor() -> Callable[[Any], Any]:
    """Make tensors of PyTorch on the CPU, of the same type as the array."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    asarray: Callable[[Any], Any] = torch.asarray
    return asarray
