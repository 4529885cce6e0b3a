"""The errors that users are promised to understand, one by one: what is said, and that nothing is left behind.

Every command that fails here was asked to write a model, a report and a plan. What has a test as complete elsewhere has
no second one: latencies out of reach, tables and `bench` in cli/test_latency.py, weights and images that spoil a
conversion in test_strange_models.py.
"""

from __future__ import annotations

import json
import os
import pkgutil
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from onnx_lowrank.runtime.session import Session
from tests.bad_input.specimens import branches, picture
from tests.command_line import fails, misused, works
from tests.helpers import Array, build, filters, normal
from tests.networks import images, network

CONVERT = ("in.onnx", "o.onnx", "--data", "data.npy", "--no-bench", "--quiet")
BESIDE = ("--report", "r.json", "--save-plan", "p.json")
ON_DATA = ("in.onnx", "o.onnx", "--no-bench", "--quiet", *BESIDE, "--data")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with a model and data for it; temporary files go there too."""
    onnx.save(network(), tmp_path / "in.onnx")
    np.save(tmp_path / "data.npy", images())
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # a loader's folder is added to it
    return tmp_path


def refused(folder: Path, *words: str, code: int = 1) -> str:
    """Run a command that must fail with one line of error and leave all files and folders as they were."""
    before = set(folder.rglob("*"))
    found = fails(folder, *words, code=code)
    assert set(folder.rglob("*")) == before
    return found


def nothing(_: Path) -> None:
    pass


# Missing file; not ONNX, truncated, random bytes

COMMANDS = {
    "convert": ("{}", "o.onnx", "--data", "data.npy", *BESIDE),
    "inspect": ("inspect", "{}"),
    "compare A": ("compare", "{}", "in.onnx", "--data", "data.npy"),
    "compare B": ("compare", "in.onnx", "{}", "--data", "data.npy"),
    "bench": ("bench", "in.onnx", "{}"),
}
NO_MODEL = "not an ONNX model or truncated ("


def truncated() -> bytes:
    content = network().SerializeToString()
    return content[: len(content) // 2]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("make", "messages"),
    [
        (nothing, ("no such file, wanted an ONNX model: check the path",)),
        (lambda path: path.symlink_to("nowhere"), ("no such file, wanted an ONNX model: check the path",)),
        (Path.mkdir, ("a folder, wanted an ONNX model: check the path",)),
        (Path.touch, ("not an ONNX model (no graph in it): export or copy it again",)),
        (lambda path: path.write_bytes(normal(0, 100).tobytes()), (NO_MODEL, "): export or copy it again")),
        (lambda path: path.write_bytes(truncated()), (NO_MODEL, "): export or copy it again")),
        (lambda path: path.write_text('{"graph": {}}'), (NO_MODEL, "): export or copy it again")),
    ],
    ids=["missing", "dangling link", "folder", "empty", "random", "truncated", "JSON"],
)
def test_files_that_are_no_models(
    folder: Path, command: str, make: Callable[[Path], Any], messages: tuple[str, ...]
) -> None:
    make(Path("bad.onnx"))
    found = refused(folder, *(word.format("bad.onnx") for word in COMMANDS[command]))
    assert found.startswith(f"error: bad.onnx: {messages[0]}")
    assert found.endswith(messages[-1])


# External data file missing or outside the folder


def lose(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, 100)


def move_away(file: Path) -> None:
    file.symlink_to(file.rename("w.bin").absolute())


OUTSIDE = (
    "error: m/big.onnx: tensor 'w1' keeps its data in '{}', outside the model's folder: "
    "only files beside the model are read; move the file there and correct the path"
)

LINK = "error: m/big.onnx: tensor 'w1' keeps its data in '{}', which is a link to '"


@pytest.mark.parametrize(
    ("spoil", "location", "message"),
    [
        (lose, "w.bin", "error: m/big.onnx: external data file 'w.bin' of tensor 'w1' is missing: put it beside"),
        (cut, "w.bin", "error: m/big.onnx: external data"),
        (move_away, "w.bin", LINK),
        (nothing, "../in.onnx", OUTSIDE),
        (nothing, "/etc/hostname", OUTSIDE),
        (nothing, "a/../../in.onnx", OUTSIDE),
    ],
)
def test_external_data(folder: Path, spoil: Callable[[Path], None], location: str, message: str) -> None:
    Path("m").mkdir()
    onnx.save(network(), "m/big.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load("m/big.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = location if entry.key == "location" else entry.value
    onnx.save(model, "m/big.onnx")
    spoil(Path("m/w.bin"))
    assert refused(folder, "m/big.onnx", *CONVERT[1:], *BESIDE).startswith(message.format(location))
    assert refused(folder, "inspect", "m/big.onnx").startswith(message.format(location))


# No eligible layer


def test_no_layer_at_all(folder: Path) -> None:
    onnx.save(build("g (float[N, 3, 12, 12] x) => (float[N, 3, 12, 12] y) { y = Relu(x) }"), "in.onnx")
    assert refused(folder, *CONVERT, *BESIDE) == (
        "error: in.onnx: no Conv, ConvTranspose, Gemm or MatMul in the graph: there is nothing to factorize"
    )


def test_no_layer_that_can_be_factorized(folder: Path) -> None:
    model, data = branches()
    model.graph.node[5].op_type, model.graph.node[5].domain = "FusedConv", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, "in.onnx")
    np.save("data.npy", data["x"])
    found = refused(folder, *CONVERT, *BESIDE)
    assert found.startswith("error: no layer can be factorized ('c': quantized (QDQ) layer; ")
    assert found.endswith("see all reasons with 'onnx-lowrank inspect', check --include and --exclude")


def test_no_layer_that_is_wanted(folder: Path) -> None:
    found = refused(folder, *CONVERT, *BESIDE, "--exclude", "c")
    assert found.startswith("error: no layer can be factorized (")
    assert "'c1', 'c2' and 1 other: excluded by 'c')" in found


# Speedup not reachable, at most 1, not a number


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_a_speedup_out_of_reach(folder: Path, cost: str) -> None:
    words = (*CONVERT, *BESIDE, "--cost", cost, "--speedup")
    found = refused(folder, *words, "900")
    told = re.fullmatch(
        rf"error: speedup 900 cannot be reached, the largest that can is (\d+\.\d\d) "
        rf"\(\S+ {cost}, of which 80 are in layers that stay\): lower --speedup",
        found,
    )
    assert told is not None
    largest = float(told[1])
    assert "cannot be reached" in refused(folder, *words, str(largest + 0.01))
    works(*words, str(largest - 0.01))
    assert json.loads(Path("r.json").read_text())["speedup"][cost] >= largest - 0.01


@pytest.mark.parametrize("speedup", ["1", "0.5", "0", "-3", "nan", "inf", "-inf", "1e999"])
def test_speedups_of_at_most_one(folder: Path, speedup: str) -> None:
    assert misused(folder, *CONVERT, *BESIDE, "--speedup", speedup) == (
        f"speedup: got {float(speedup):g}, wanted a number above 1: try --speedup 4"
    )


@pytest.mark.parametrize("speedup", ["", " ", "fast", "4x", "1,5", "0x4"])
def test_speedups_that_are_no_numbers(folder: Path, speedup: str) -> None:
    assert misused(folder, *CONVERT, *BESIDE, "--speedup", speedup) == (
        f"--speedup: got '{speedup}', wanted a number above 1: try --speedup 4"
    )


# OUT exists, its folder is missing or not writable


def test_out_exists(folder: Path) -> None:
    Path("o.onnx").write_text("mine")
    assert refused(folder, *CONVERT, *BESIDE) == (
        "error: o.onnx: exists already: choose another name, or overwrite it with --force"
    )


@pytest.mark.parametrize("make", [os.link, os.symlink])
def test_out_is_in_by_another_name(folder: Path, make: Callable[[str, str], None]) -> None:
    make("in.onnx", "o.onnx")
    assert refused(folder, *CONVERT, *BESIDE, "--force") == (
        "error: o.onnx: is the model that is read, which is never written: choose another name"
    )


PLACES = {
    "OUT": ("in.onnx", "{}.onnx", *CONVERT[2:], *BESIDE, "--force"),
    "--report": (*CONVERT, "--report", "{}.json", "--save-plan", "p.json"),
    "--save-plan": (*CONVERT, "--report", "r.json", "--save-plan", "{}.json"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("nowhere/x", nothing, "folder 'nowhere' does not exist: make it first"),
        ("x", Path.mkdir, "is a folder, wanted a file name: add one"),
        ("x", os.mkfifo, "is a device or a pipe, which renaming would replace: choose the name of a file"),
        ("in.onnx/x", nothing, "folder 'in.onnx' does not exist: make it first"),
    ],
)
def test_places_that_cannot_be_written_to(
    folder: Path, place: str, name: str, make: Callable[[Path], Any], message: str
) -> None:
    words = [word.format(name) for word in PLACES[place]]
    path = next(word for word, form in zip(words, PLACES[place], strict=True) if word != form)
    make(Path(path))
    assert refused(folder, *words) == f"error: {path}: {message}"


@pytest.mark.parametrize("place", PLACES)
def test_folders_that_are_not_writable(folder: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("theirs").mkdir()
    monkeypatch.setattr(os, "access", lambda path, *_: Path(path).name != "theirs")  # root may write everywhere
    found = refused(folder, *(word.format("theirs/x") for word in PLACES[place]))
    assert found.startswith("error: theirs/x.")
    assert found.endswith(": folder 'theirs' is not writable: choose another, or change its permissions")


def test_in_is_not_overwritten_by_a_plan_nor_are_the_data(folder: Path) -> None:
    assert refused(folder, *CONVERT, "--save-plan", "in.onnx").startswith("error: in.onnx: is ")
    assert refused(folder, *CONVERT, "--save-plan", "data.npy").startswith("error: data.npy: is ")


# Disk full while writing


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("place", PLACES)
def test_files_that_cannot_grow(folder: Path, place: str) -> None:
    words = [word.format("x") for word in PLACES[place]]
    dry = () if place == "OUT" else ("--dry-run",)  # or it is the model that gets too large
    with no_file_beyond(64):
        found = refused(folder, *words, *dry, "--speedup", "1.5")
    assert re.fullmatch(
        r"error: [rx]\.(onnx|json): cannot be written \(File too large\): free some space or choose another place",
        found,
    )


@pytest.fixture
def full_disk(folder: Path) -> Iterator[Path]:
    """A file system of one page, and that is taken."""
    place = folder / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount")
    try:
        with suppress(OSError):
            (place / "large").write_bytes(bytes(2**13))
        yield Path("full")
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk(folder: Path, full_disk: Path, place: str) -> None:
    found = refused(folder, *(word.format(full_disk / "x") for word in PLACES[place]), "--speedup", "1.5")
    assert re.fullmatch(
        r"error: full/x\.(onnx|json): cannot be written \(No space left on device\): "
        r"free some space or choose another place",
        found,
    )


LOADER = """
import pathlib
import numpy


def batches():
    pathlib.Path("gone").rmdir()
    yield numpy.load("data.npy")
"""


@pytest.mark.parametrize("words", [BESIDE, ("--report", "gone/r.json"), ("--save-plan", "gone/p.json")])
def test_a_folder_that_goes_away_meanwhile(folder: Path, words: tuple[str, ...]) -> None:
    Path("gone").mkdir()
    Path("loader.py").write_text(LOADER)
    output = "gone/o.onnx" if words is BESIDE else "o.onnx"
    command = ("in.onnx", output, "--data-loader", "loader.py:batches", "--speedup", "1.5", "--no-bench", "--quiet")
    before = {path for path in folder.rglob("*") if path.is_file()}
    found = fails(folder, *command, *words)
    assert re.fullmatch(r"error: gone/\S+: cannot be written \(No such file or directory\): .*", found)
    assert {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts} == before


# Data: path empty, unreadable, wrong shape, dtype or name, fewer samples than needed, NaN or Inf


def arrays(**named: Array) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **named)


def array(values: Array) -> Callable[[Path], None]:
    return lambda path: np.save(path, values)


def spoiled(value: float, *, at: int) -> Array:
    values = images()
    values[at, 1, 2, 3] = value
    return values


WANTED = "(samples, 3, 12, 12) wanted: bring the array to the model's layout and size"
NOT_FINITE = "holds NaN or Inf (as float32), finite numbers are wanted: correct or remove it"
NO_IMAGES = "no images found (looked for .jpg .jpeg .png .bmp .gif .tif .tiff .webp .ppm .pgm): pass a folder with some"
BY_NAME = "give one array or path for each of them, by name, and no others"


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("x.npy", nothing, "no such file or folder: check the path of the calibration data"),
        ("x.zip/a", nothing, "no such file or folder: check the path of the calibration data"),
        ("x", Path.mkdir, NO_IMAGES),
        ("x.npy", Path.touch, "cannot be read as .npy ("),
        ("x.npz", Path.touch, "cannot be read as .npz ("),
        ("x.zip", Path.touch, "cannot be read as an archive (File is not a zip file): make or download it anew"),
        ("x.tar", Path.touch, "cannot be read as an archive (empty file): make or download it anew"),
        ("x.csv", Path.touch, "neither a folder nor one of .npy, .npz, .zip, .tar, .tar.gz, .tgz: pass data of one"),
        ("x.npy", lambda path: path.symlink_to("x.npy"), "no such file or folder: check the path of the calibration"),
        ("x.npy", array(images(channels=4)), f"input 'x': shape (60, 4, 12, 12) found, {WANTED}"),
        ("x.npy", array(images()[0]), f"input 'x': shape (3, 12, 12) found, {WANTED}"),
        ("x.npy", array(images().astype(int)), "input 'x': type int64 found, float32 wanted: convert the array"),
        ("x.npy", array(images().astype(np.uint8)), "input 'x': type uint8 found, float32 wanted: pass the images"),
        ("x.npy", array(np.array(["a"] * 3)), f"input 'x': shape (3,) found, {WANTED}"),
        ("x.npy", array(images(0)), "input 'x': no samples found, at least one wanted: the first axis counts them"),
        ("x.npz", arrays(a=images(), b=images()), f"holds a, b, the model's inputs are x: {BY_NAME}"),
        ("x.npz", arrays(), f"holds nothing, the model's inputs are x: {BY_NAME}"),
        ("x.npy", array(spoiled(np.nan, at=0)), f"input 'x': sample 0 {NOT_FINITE}"),
        ("x.npy", array(spoiled(np.inf, at=31)), f"input 'x': sample 31 {NOT_FINITE}"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_used(folder: Path, name: str, make: Callable[[Path], Any], message: str) -> None:
    make(Path(name))
    assert refused(folder, *ON_DATA, name).startswith(f"error: {name}: {message}")
    assert refused(folder, "compare", "in.onnx", "in.onnx", "--data", name).startswith(f"error: {name}: {message}")


def test_data_for_another_input(folder: Path) -> None:
    message = f"error: data: holds y, the model's inputs are x: {BY_NAME}"
    assert refused(folder, *ON_DATA, "y=data.npy").startswith(message)


@pytest.mark.parametrize(
    ("batch", "words", "message"),
    [
        ("N", ("--samples", "61"), "60 usable samples, wanted 61: add samples or lower --samples"),
        ("64", (), "60 usable samples, the model takes batches of 64: add samples"),
        ("4", ("--samples", "3"), "3 samples wanted, the model takes batches of 4: raise --samples"),
    ],
)
def test_fewer_samples_than_needed(folder: Path, batch: str, words: tuple[str, ...], message: str) -> None:
    onnx.save(network(batch=batch), "in.onnx")
    assert refused(folder, *CONVERT, *BESIDE, *words) == f"error: data data.npy (60 samples): {message}"


# Images that cannot be decoded


def test_bad_images_are_counted_unless_all_are_bad(folder: Path) -> None:
    Path("photos").mkdir()
    Path("photos/a.png").write_bytes(b"no image")
    Path("photos/b.png").write_bytes(picture(0)[:-100])
    assert refused(folder, *ON_DATA, "photos") == (
        "error: photos (2 images): none of the 2 images tried can be decoded (the first: a.png: "
        "not an image of a known format): pass images that open elsewhere"
    )
    for number in range(20):
        Path(f"photos/{number}.png").write_bytes(picture(number))
    result = works(*ON_DATA, "photos", "--speedup", "1.5")
    assert result.stderr == (
        "warning: 2 images cannot be decoded and are left out (a.png: not an image of a known format)\n"
    )
    assert json.loads(Path("r.json").read_text())["calibration"]["images"] == 16


# Provider not installed or failing to start

ANY_PROVIDER = {
    "convert": (*CONVERT, *BESIDE),
    "compare": ("compare", "in.onnx", "in.onnx", "--data", "data.npy"),
    "bench": ("bench", "in.onnx"),
}


@pytest.mark.parametrize("command", ANY_PROVIDER)
def test_a_provider_that_is_not_installed(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert refused(folder, *ANY_PROVIDER[command], "--provider", "cuda") == (
        "error: provider 'cuda': this onnxruntime has CPUExecutionProvider, wanted CUDAExecutionProvider: "
        "pip uninstall onnxruntime; pip install 'onnx-lowrank[gpu]'"
    )


@pytest.mark.filterwarnings("ignore:Specified provider")  # onnxruntime's, as it really is not there
@pytest.mark.parametrize("command", ANY_PROVIDER)
def test_a_provider_that_does_not_start(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(Session, "providers", ("CPUExecutionProvider",))
    assert refused(folder, *ANY_PROVIDER[command], "--provider", "cuda") == (
        "error: provider 'cuda': CUDAExecutionProvider is installed but does not start: "
        "check the driver and the CUDA, cuDNN and TensorRT libraries, or use --provider cpu "
        "(pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and cuDNN)"
    )


# Unknown node name in --plan


def entry(name: str, **ranks: int) -> Mapping[str, Any]:
    return {"name": name, "method": "-".join(sorted(ranks, reverse=True)) or "kept", "ranks": ranks}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [entry("c1"), entry("C2", channel=4)],
            "plan: no layer 'C2' that can be factorized, the model has c1, c2, c3, scores, ...: "
            "list them with 'onnx-lowrank inspect'",
        ),
        ([entry("c1"), entry("c1")], "plan: a layer is named twice: leave one entry per layer"),
        (
            [entry("c2", channel=17)],
            "Conv 'c2': channel rank must be 1..16 (16 filters), got 17: change it in the plan",
        ),
        (
            [entry("c2", channel=4, spatial=0)],
            "Conv 'c2': spatial rank must be 1..48 (16 filters), got 0: change it in the plan",
        ),
    ],
)
def test_plans_that_do_not_fit(folder: Path, layers: list[Mapping[str, Any]], message: str) -> None:
    Path("plan.json").write_text(json.dumps({"layers": layers}))
    assert refused(folder, *CONVERT, *BESIDE, "--plan", "plan.json") == f"error: {message}"


@pytest.mark.parametrize("option", ["--plan", "--latency-table"])
@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"layers":' * 100_000, "9" * 5000, "\ufeff{}", "\0"],
    ids=["lists in lists", "objects in objects", "a long number", "a byte order mark", "a zero"],
)
def test_json_that_is_out_of_all_bounds(folder: Path, option: str, text: str) -> None:
    Path("x.json").write_text(text)
    words = [word for word in CONVERT if word != "--no-bench"]
    cost = ("--cost", "latency") if option == "--latency-table" else ()
    kind = "latency table" if cost else "rank plan"
    assert refused(folder, *words, *BESIDE, *cost, option, "x.json").startswith(
        f"error: {option} x.json: not a {kind} ("
    )


# Model onnxruntime cannot load


@pytest.mark.parametrize(
    "body", ["y = Imaginary(x)", "y = Conv(x, x, x, x)", "y = Reshape(x)", "y = Conv<pads=[1]>(x, w)", "y = Add(x, z)"]
)
def test_the_message_of_onnxruntime_is_kept(folder: Path, body: str) -> None:
    model = build(f"g (float[N,3,12,12] x) => (float[N,4,10,10] y) {{ {body} }}", {"w": filters(0, 4, 3, 3, 3)})
    onnx.save(model, "in.onnx")
    with pytest.raises(Exception, match="ONNXRuntimeError") as own:
        onnxruntime.InferenceSession("in.onnx", providers=["CPUExecutionProvider"])
    reason = str(own.value).partition("failed:")[2] or str(own.value)  # a path of the model is in it only here
    for words in ((*CONVERT, *BESIDE), ("inspect", "in.onnx"), ("bench", "in.onnx")):
        found = refused(folder, *words)
        assert found.startswith("error: in.onnx: onnxruntime cannot load it: ")
        assert " ".join(reason.split()) in found


# Interrupted by Ctrl-C

INTERRUPTED = "error: interrupted: nothing was written"


@pytest.mark.parametrize(
    "place",
    [
        "onnx_lowrank.cli.files.check_writable",
        "onnx_lowrank.runtime.network.read_model",
        "onnx_lowrank.calibrate.data.samples.Samples.read",
        "onnx_lowrank.pipeline.collect_targets",
        "onnx_lowrank.pipeline.choose_ranks",
        "onnx_lowrank.pipeline.Propagation.advance",
        "onnx_lowrank.pipeline.solve_layer",
        "onnx_lowrank.pipeline.replace_layer",
        "onnx_lowrank.pipeline.verify_conversion",
        "onnx_lowrank.pipeline.time_file",
        "onnx_lowrank.pipeline.build_report",
        "onnx_lowrank.report.Report.to_json",
        "os.fsync",
        "pathlib.Path.write_text",
        "pathlib.Path.replace",
    ],
)
def test_interrupted_at_any_moment(folder: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = pkgutil.resolve_name(place)

    def interrupted(*args: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return original(*args, **options)

    monkeypatch.setattr(place, interrupted)
    words = [word for word in CONVERT if word != "--no-bench"]
    assert refused(folder, *words, *BESIDE, "--speedup", "1.5", code=130) == INTERRUPTED


@pytest.mark.parametrize("module", ["click.core", "numpy.linalg", "onnx.helper"])
def test_interrupted_while_it_is_imported(folder: Path, module: str) -> None:
    before = set(folder.rglob("*"))
    words = [sys.executable, "-X", "importtime", "-m", "onnx_lowrank", *CONVERT, *BESIDE]
    process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while module not in (line := process.stderr.readline()):
        assert line, "it ended before it was interrupted"
    process.send_signal(signal.SIGINT)
    rest = [line for line in process.communicate(timeout=60)[1].splitlines() if not line.startswith("import time:")]
    assert rest == [INTERRUPTED]
    assert process.returncode == 130
    assert set(folder.rglob("*")) == before
