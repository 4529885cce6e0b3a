"""Build small networks with today's exporters and check what this package makes of them.

``python tools/exporters/run.py [NAME ...]``, in an environment with this package. Needs the network and several GB:
each exporter is installed from PyPI into a virtual environment of its own, in a temporary folder that is removed.
Prints a line of JSON per file, see `check`; `tools/docs/support.md` has the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass, field
from pathlib import Path

from check import check

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Exporter:
    """Writes networks.

    Attributes:
        script: in this folder; takes the folder to write to, and arguments.
        packages: to install, in the versions of the table.
        arguments: of the script.
        variables: of its environment.
    """

    script: str
    packages: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)


_TORCH = ("torch==2.14.1", "onnxscript==0.7.2", "onnx==1.23.2", "numpy")
_KERAS = ("keras==3.15.1", "onnx==1.23.2", "numpy")
_TENSORFLOW = ("tensorflow-cpu==2.21.0", "tf2onnx==1.17.0")
_OFFLINE = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true"}
EXPORTERS = {
    "torch": Exporter("torch_networks.py", _TORCH, ("plain",)),
    "timm": Exporter("torch_networks.py", (*_TORCH, "timm==1.0.31"), ("timm",)),
    "transformers": Exporter("torch_networks.py", (*_TORCH, "transformers==5.24.0"), ("transformers",)),
    "ultralytics": Exporter(
        "torch_networks.py", (*_TORCH, "ultralytics==8.4.190", "onnxslim==0.1.98"), ("ultralytics",), _OFFLINE
    ),
    "keras-tensorflow": Exporter("keras_networks.py", (*_KERAS, *_TENSORFLOW), (), {"KERAS_BACKEND": "tensorflow"}),
    "keras-jax": Exporter("keras_networks.py", (*_KERAS, "jax2onnx==0.17.1"), (), {"KERAS_BACKEND": "jax"}),
    "keras-torch": Exporter("keras_networks.py", (*_KERAS, *_TORCH), (), {"KERAS_BACKEND": "torch"}),
    "tf2onnx": Exporter("keras_networks.py", (*_KERAS, *_TENSORFLOW), ("tf2onnx",), {"KERAS_BACKEND": "tensorflow"}),
    "jax2onnx": Exporter("jax_networks.py", ("jax2onnx==0.17.1", "flax", "numpy")),
    "paddle2onnx": Exporter("paddle_networks.py", ("paddlepaddle==3.3.1", "paddle2onnx==2.1.0", "packaging", "numpy")),
    "onnxscript": Exporter("onnxscript_networks.py", ("onnxscript==0.7.2", "onnx==1.23.2", "numpy")),
    "spox": Exporter("spox_networks.py", ("spox==0.18.2", "onnx==1.23.2", "numpy")),
}


def export(exporter: Exporter, folder: Path) -> list[Path]:
    """Install an exporter, let it write into a folder, and return the files."""
    environment = folder / "venv"
    venv.create(environment, with_pip=True)
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *exporter.packages], check=True)
    networks = folder / "networks"
    networks.mkdir()
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **exporter.variables}
    script = [python, str(_HERE / exporter.script), str(networks), *exporter.arguments]
    subprocess.run(script, check=True, cwd=networks, env=variables, stdout=sys.stderr)
    return sorted(networks.glob("*.onnx"))


def main(names: list[str]) -> None:
    """Print what is seen of the networks of some exporters, or of all."""
    for name in names or EXPORTERS:
        with tempfile.TemporaryDirectory() as folder:
            for file in export(EXPORTERS[name], Path(folder)):
                print(json.dumps({"exporter": name, **check(file)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
