"""PyTorch is an extra: nothing else needs it, and what is missing is said."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.torch.real_networks import DEMO, ROOT


def python(code: str, *words: str) -> str:
    """Output of a program of its own, in which warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *words], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_nothing_else_imports_torch() -> None:
    code = """if True:
        import sys
        import onnx_lowrank, onnx_lowrank.__main__, onnx_lowrank.cli
        print([name for name in sys.modules if name.split('.')[0].startswith('torch')])
    """
    assert python(code) == "[]\n"


def test_the_command_line_does_not_either() -> None:
    """It works where torch cannot be imported."""
    code = """if True:
        import sys
        sys.modules['torch'] = None
        from onnx_lowrank.__main__ import main
        for words in (['--help'], ['convert', '--help'], ['inspect', sys.argv[1]]):
            sys.argv[1:] = words
            try:
                main()
            except SystemExit as end:
                print('END', end.code)
    """
    *texts, rest = python(code, str(DEMO)).split("END 0\n")
    assert len(texts) == 3
    assert all(texts)
    assert rest == ""


RUN = f"from onnx_lowrank.torch import to_torch\nmodule = to_torch({str(DEMO)!r})\n"
SHOW = """import torch
print(tuple(module(torch.zeros(2, 1, 28, 28)).shape), [name for name in sys.modules if 'torchvision' in name])"""
ABSENT = {
    "torch": "import onnx_lowrank.torch",
    "accelerate": "from onnx_lowrank.torch import finetune",
    "safetensors": "import onnx_lowrank.torch as part\npart.to_torch",
    "onnx2pytorch": RUN,
}
BROKEN = {
    "RuntimeError": "raise RuntimeError('operator torchvision::nms does not exist')",
    "OSError": "raise OSError('undefined symbol')",
    "halfway": "import torchvision.ops\nraise RuntimeError('operator torchvision::nms does not exist')",
}
# Each program imports the extra as if nobody had before; what that builds on is imported once, which takes seconds.
ONE_BY_ONE = """if True:
    import contextlib, io, json, pathlib, sys
    import accelerate, onnx, onnxruntime, safetensors.torch, torch
    modules, path, printed = dict(sys.modules), list(sys.path), {}
    for name, code in json.loads(pathlib.Path(sys.argv[1]).read_text()).items():
        with contextlib.redirect_stdout(io.StringIO()) as text:
            try:
                exec(code, {'sys': sys})
            except Exception as error:
                print(f'{type(error).__module__}.{type(error).__qualname__}: {error}')
        printed[name] = text.getvalue()
        for key in [key for key in sys.modules if key.startswith(('onnx_lowrank', 'onnx2pytorch', 'torchvision'))]:
            del sys.modules[key]
        sys.modules.update(modules)
        sys.path[:] = path
    print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What programs print where a package is missing or broken."""
    folder = tmp_path_factory.mktemp("extra")
    programs = {name: f"sys.modules[{name!r}] = None\n{code}" for name, code in ABSENT.items()}
    programs["torchvision"] = f"sys.modules['torchvision'] = None\n{RUN}sys.modules.pop('torchvision', None)\n{SHOW}"
    for kind, code in BROKEN.items():
        package = folder / kind / "torchvision"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(code, encoding="utf-8")
        (package / "ops.py").write_text("", encoding="utf-8")
        programs[kind] = f"sys.path.insert(0, {str(folder / kind)!r})\n{RUN}{SHOW}"
    (folder / "programs.json").write_text(json.dumps(programs), encoding="utf-8")
    found: dict[str, str] = json.loads(python(ONE_BY_ONE, str(folder / "programs.json")))
    return found


@pytest.mark.parametrize("missing", ABSENT)
def test_what_is_missing_is_said(printed: dict[str, str], missing: str) -> None:
    name = missing if missing == "onnx2pytorch" else "PyTorch"
    assert printed[missing].startswith(f"onnx_lowrank.errors.MissingDependencyError: onnx_lowrank.torch: {name} ")
    assert " is not installed (" in printed[missing]
    assert printed[missing].endswith("): pip install 'onnx-lowrank[torch]'\n")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_torchvision_does_not_matter(printed: dict[str, str], kind: str) -> None:
    left = ["torchvision.ops"] if kind == "halfway" else []  # that one is its own
    assert printed[kind] in {f"(2, 10) {left}\n", "(2, 10) []\n"}


def test_no_torchvision_does_not_matter_either(printed: dict[str, str]) -> None:
    assert printed["torchvision"] == "(2, 10) []\n"
