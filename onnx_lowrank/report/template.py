"""Fill in the HTML templates of this folder; needs the extra ``report``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from onnx_lowrank.errors import MissingDependencyError

_PACKAGES = {"Jinja2": "jinja2", "matplotlib": "matplotlib.figure"}


def check_page_packages(where: str) -> None:
    """Check that a page can be made, before the work that it would report on.

    Args:
        where: what needs the page, for the message.

    Raises:
        MissingDependencyError: Jinja2 or matplotlib is not installed.
    """
    for package, module in _PACKAGES.items():
        try:
            import_module(module)
        except ImportError as error:
            raise MissingDependencyError(
                f"{where}: {package}, which makes the page, is not installed ({error}): "
                "pip install 'onnx-lowrank[report]'"
            ) from error


def fill_template(template: str, **values: Any) -> str:
    """Return a template of this folder with values filled in.

    Args:
        template: name of its file.
        **values: every variable of the template; one that is missing is an error.
    """
    import jinja2  # noqa: PLC0415 - an extra

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onnx_lowrank", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
