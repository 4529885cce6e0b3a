"""A training that many tests look at."""

from __future__ import annotations

import pytest

from onnx_lowrank.torch import Finetuned
from tests.torch.pairs import pair
from tests.torch.trainings import trained


@pytest.fixture(scope="session")
def scores() -> Finetuned:
    return trained(pair("scores"))
