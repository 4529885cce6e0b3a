"""An empty torchvision, for packages that import it without need."""

from __future__ import annotations

import sys
from types import ModuleType


def stand_in_for_torchvision() -> None:
    """Replace torchvision, which others import but do not use here, where it is missing or does not fit torch."""
    try:
        import torchvision  # noqa: F401, PLC0415
    except (ImportError, RuntimeError):
        empty = {"RoIPool": object, "Resize": object, "roi_align": None, "nms": None}
        for name in ("", ".ops", ".transforms", ".datasets"):
            module = ModuleType(f"torchvision{name}")
            module.__dict__.update(empty)
            sys.modules[module.__name__] = module
            if name:
                setattr(sys.modules["torchvision"], name[1:], module)
