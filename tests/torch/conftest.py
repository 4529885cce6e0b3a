"""A training that many tests look at, and the extra without one of its packages."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

import onnx_lowrank
from onnx_lowrank.torch import Finetuned
from tests.torch.pairs import pair
from tests.torch.trainings import trained


@pytest.fixture(scope="session")
def scores() -> Finetuned:
    return trained(pair("scores"))


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Take a package away, and import the extra anew; after the test all is as it was."""

    def take_away(package: str) -> None:
        for name in [each for each in sys.modules if each.startswith("onnx_lowrank.torch")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(onnx_lowrank, "torch", onnx_lowrank.torch)  # the next import replaces it
        monkeypatch.setitem(sys.modules, package, None)

    return take_away
