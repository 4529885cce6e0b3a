#!/usr/bin/env bash
# onnxruntime 1.32.0: a relative path of a plugin provider is looked for in onnxruntime's own folder.
#
# Expected: `register_execution_provider_library("name", "./provider.so")` loads provider.so from the working folder, as
# every other path in onnxruntime's Python interface does, models and profiles among them.
#
# Happens: the path is taken from the folder of onnxruntime's own library in site-packages, where there is no such file:
#
#   Failed to load library .../site-packages/onnxruntime/capi/./provider.so with error: ... cannot open shared object file:
#   No such file or directory
#
# The library here is no provider, which onnxruntime says only once it is given the absolute path. Use that, with links
# resolved: a provider looks for the libraries beside it by the path that it was loaded by.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cp "$("$folder/venv/bin/python" -c "import _ctypes; print(_ctypes.__file__)")" provider.so
"$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import onnxruntime as ort


def said(path):
    try:
        ort.register_execution_provider_library("name", path)
    except Exception as error:
        return str(error)
    raise AssertionError("it was registered")


assert Path("./provider.so").is_file()
relative, absolute = said("./provider.so"), said(str(Path("provider.so").resolve()))
print("relative:", relative)
print("absolute:", absolute)
assert "onnxruntime/capi/./provider.so" in relative and "No such file" in relative
assert "CreateEpFactories" in absolute
PYTHON
