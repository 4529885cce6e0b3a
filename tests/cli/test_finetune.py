"""The command ``finetune``: its options, its files, and how it ends: by itself, by Ctrl-C, by being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnx_lowrank.torch as part
from onnx_lowrank.calibrate import preset
from onnx_lowrank.errors import VerificationError
from onnx_lowrank.torch import Epoch, Finetuned, FinetuneSettings, Marks
from onnx_lowrank.torch.training.checkpoint import Checkpoint
from tests import forked
from tests.command_line import call, fails, misused, works
from tests.forked import Forked
from tests.helpers import relative, run
from tests.networks import images, network
from tests.torch.pairs import in_onnxruntime_alone, pair, save_classes, weights_of

Array = NDArray[Any]
ROOT = Path(__file__).parents[2]
LONGEST_WAIT = 60  # seconds for what takes two of them on a quiet machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks, a few arrays, many arrays, and images of five classes."""
    place = tmp_path_factory.mktemp("finetune")
    made = pair("scores")
    onnx.save(made.original, place / "a.onnx")
    onnx.save(made.converted, place / "b.onnx")
    np.save(place / "few.npy", made.samples[:48])
    np.save(place / "many.npy", images(700, 12))
    pictures = np.random.default_rng(0).integers(0, 256, (75, 12, 12, 3)).astype(np.uint8)
    save_classes(place / "classes", pictures, np.arange(75) % 5)
    return place


def words(folder: Path, out: Path, data: str = "few.npy", **options: Any) -> list[str]:
    """Those of a quick training."""
    chosen = {"epochs": 2, "batch_size": 16, "learning_rate": 0.03, "threads": 1, "provider": "cpu", **options}
    given = [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["finetune", *(str(folder / name) for name in ("a.onnx", "b.onnx")), str(out), "--data",
            str(folder / data), *given]  # fmt: skip


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


# What it writes and says


def test_the_network_is_trained_and_written(folder: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    result = works(*words(folder, out, report=report, temperature=0.0))
    assert names(tmp_path) == {"out.onnx", "report.json"}  # the checkpoint is gone
    found = json.loads(report.read_text())
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    assert [first for first, _ in lines] == ["trained", "before", "after", "written"]
    assert lines[0][1].startswith("2 epochs of 43 samples, ")
    assert lines[1][1].startswith(f"loss {found['before']['loss']:.4g}, same top class ")
    assert lines[2][1].startswith(f"loss {found['after']['loss']:.4g}, ")
    assert lines[2][1].endswith(f"(epoch {found['best']}, on 5 held-out samples)")
    assert lines[3][1] == str(out)
    assert "epoch 2/2 (best so far: loss " in result.stderr
    assert (found["schema"], found["interrupted"], len(found["epochs"])) == (1, False, 2)
    held_out = np.random.default_rng(0).permutation(48)[:5]
    batch = {"x": np.load(folder / "few.npy")[held_out]}
    wanted, before, after = (run(onnx.load(each), batch)["scores"] for each in (
        folder / "a.onnx", folder / "b.onnx", out
    ))  # fmt: skip
    assert relative(wanted, after) < 0.7 * relative(wanted, before)


def test_quiet_says_nothing(folder: Path, tmp_path: Path) -> None:
    result = works(*words(folder, tmp_path / "out.onnx", epochs=1), "--quiet")
    assert result.output == ""
    assert names(tmp_path) == {"out.onnx"}


def test_a_checkpoint_left_from_before_is_gone_after_a_success(folder: Path, tmp_path: Path) -> None:
    """Without --resume nobody reads it."""
    (tmp_path / "out.onnx.checkpoint").write_bytes(b"of another day")
    works(*words(folder, tmp_path / "out.onnx", epochs=1))
    assert names(tmp_path) == {"out.onnx"}


def test_a_network_that_got_no_better_is_written_as_it_came(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = works(*words(folder, out, learning_rate=1e4))
    assert "warning: no epoch was better than the network as it came, which is kept" in result.stderr
    before, after = weights_of(onnx.load(folder / "b.onnx")), weights_of(onnx.load(out))
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_a_loader_gives_data(folder: Path, tmp_path: Path) -> None:
    loader = tmp_path / "loader.py"
    loader.write_text(
        "import numpy as np\n\n\ndef batches():\n"
        f"    data = np.load({str(folder / 'few.npy')!r})\n"
        "    for start in range(0, 48, 12):\n"
        "        yield {'x': data[start : start + 12]}\n"
    )
    given, plain = tmp_path / "given.onnx", tmp_path / "plain.onnx"
    all_words = words(folder, given)
    place = all_words.index("--data")
    works(*all_words[:place], "--data-loader", f"{loader}:batches", *all_words[place + 2 :])
    works(*words(folder, plain))
    assert given.read_bytes() == plain.read_bytes()


# Options


def finished(model: onnx.ModelProto, process: int = 0, *, interrupted: bool = False) -> Finetuned:
    epoch = Epoch(1.0, Marks(0.5))
    return Finetuned(
        model=model,
        before=Marks(2.0),
        epochs=(epoch,),
        best=1,
        learning_rate=0.1,
        samples=(9, 1),
        interrupted=interrupted,
        seconds=1.0,
        process=process,
    )


class Asked:
    """In the place of `finetune`: what it was asked for."""

    def __init__(self, result: Finetuned | Exception) -> None:
        self.result = result
        self.words: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *given: Any, **options: Any) -> Finetuned:
        self.words, self.options = given, options
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    @property
    def settings(self) -> FinetuneSettings:
        found = self.words[3]
        assert isinstance(found, FinetuneSettings)
        return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    made = Asked(finished(network()))
    monkeypatch.setattr(part, "finetune", made)
    return made


OPTIONS: dict[str, tuple[list[str], Any]] = {
    "learn": (["--learn", "both"], "both"),
    "class_names": (["--class-names", "names.txt"], Path("names.txt")),
    "metric": (["--metric", "top1"], "top1"),
    "epochs": (["--epochs", "7"], 7),
    "batch_size": (["--batch-size", "33"], 33),
    "learning_rate": (["--learning-rate", "0.25"], 0.25),
    "temperature": (["--temperature", "2.5"], 2.5),
    "match": (["--match", "0.5"], 0.5),
    "normalize": (["--no-normalize"], False),
    "augment": (["--no-augment"], False),
    "samples": (["--samples", "17"], 17),
    "held_out": (["--held-out", "0.3"], 0.3),
    "patience": (["--patience", "3"], 3),
    "seed": (["--seed", "5"], 5),
    "provider": (["--provider", "cuda"], "cuda"),
    "precision": (["--precision", "bf16"], "bf16"),
    "threads": (["--threads", "3"], 3),
    "input_shapes": (["--input-shapes", "x:1,3,8,8"], {"x": (1, 3, 8, 8)}),
    "constant_inputs": (["--input", "size=2,4"], {"size": (2.0, 4.0)}),
}


@pytest.mark.parametrize("field", [each.name for each in fields(FinetuneSettings)])
def test_every_setting_has_an_option(folder: Path, tmp_path: Path, asked: Asked, field: str) -> None:
    given, value = OPTIONS[field]
    plain = words(folder, tmp_path / "out.onnx")[:6]
    works(*plain)
    default = asked.settings
    assert default == FinetuneSettings()  # nothing given, nothing changed
    (tmp_path / "out.onnx").unlink()
    works(*plain, *given)
    found = getattr(asked.settings, field)
    if isinstance(value, dict):
        assert {name: tuple(each) for name, each in found.items()} == value
    else:
        assert (found, type(found)) == (value, type(value))
    for other in fields(FinetuneSettings):
        if other.name != field:
            assert getattr(asked.settings, other.name) == getattr(default, other.name)


def test_files_and_images_are_passed_on(folder: Path, tmp_path: Path, asked: Asked) -> None:
    out = tmp_path / "out.onnx"
    works(*words(folder, out)[:6], "--preset", "imagenet", "--channel-order", "bgr", "--resize", "pad", "--resume")
    assert asked.words[:3] == (folder / "a.onnx", folder / "b.onnx", str(folder / "few.npy"))
    images_ = asked.options["preprocessing"]
    assert (images_.mean, images_.channel_order, images_.resize) == (preset("imagenet").mean, "bgr", "pad")
    assert asked.options["checkpoint"] == tmp_path / "out.onnx.checkpoint"
    assert asked.options["resume"] is True
    works(*words(folder, out)[:6], "--force")
    assert asked.options["resume"] is False


def test_several_inputs_have_data_each(folder: Path, tmp_path: Path, asked: Asked) -> None:
    plain = words(folder, tmp_path / "out.onnx")[:4]
    works(*plain, "--data", f"x={folder / 'few.npy'}", "--data", f"z={folder / 'many.npy'}")
    assert asked.words[2] == {"x": str(folder / "few.npy"), "z": str(folder / "many.npy")}


def test_other_samples_judge(folder: Path, tmp_path: Path, asked: Asked) -> None:
    given = words(folder, tmp_path / "out.onnx")[:6]
    works(*given)
    assert asked.options["validation"] is None
    works(*given, "--force", "--validation", str(folder / "many.npy"))
    assert asked.options["validation"] == str(folder / "many.npy")
    refused = call(*given, "--force", "--validation", str(tmp_path / "out.onnx"))
    assert refused.exit_code == 1, refused.stderr
    assert "out.onnx" in refused.stderr


def test_other_processes_write_nothing(folder: Path, tmp_path: Path, asked: Asked) -> None:
    (tmp_path / "out.onnx.checkpoint").write_bytes(b"of the first process")
    asked.result = finished(network(), process=1)
    result = works(*words(folder, tmp_path / "out.onnx", report=tmp_path / "report.json"))
    assert result.output == ""
    assert names(tmp_path) == {"out.onnx.checkpoint"}


def test_an_interrupted_training_leaves_what_there_is(folder: Path, tmp_path: Path, asked: Asked) -> None:
    asked.result = finished(network(), interrupted=True)
    (tmp_path / "out.onnx.checkpoint").write_bytes(b"to go on from")
    result = call(*words(folder, tmp_path / "out.onnx"))
    assert result.exit_code == 130
    assert result.stderr == "error: interrupted: the best of 1 epochs was written; --resume goes on\n"
    assert names(tmp_path) == {"out.onnx", "out.onnx.checkpoint"}


def test_a_network_that_is_not_what_was_trained_is_not_written(folder: Path, tmp_path: Path, asked: Asked) -> None:
    asked.result = VerificationError("<model>: output 'y': PyTorch and onnxruntime differ")
    assert fails(tmp_path, *words(folder, tmp_path / "out.onnx"), code=3).startswith("error: <model>: output 'y'")


def test_help_fits_a_screen_and_shows_an_example() -> None:
    lines = works("finetune", "--help").stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert "  Example: onnx-lowrank finetune a.onnx b.onnx c.onnx --data train/" in lines
    lines = works("finetune", "--help-all").stdout.splitlines()
    for given, _ in OPTIONS.values():
        assert any(given[0] in line for line in lines), given[0]
    lines = works("export-torch", "--help").stdout.splitlines()
    assert len(lines) <= 40
    assert "  Example: onnx-lowrank export-torch fast.onnx fast.pt2" in lines


# Errors


def test_out_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_text("mine")
    error = fails(tmp_path, *words(folder, out))
    assert error == f"error: {out}: exists already: choose another name, or overwrite it with --force"
    works(*words(folder, out, epochs=1), "--force")
    onnx.checker.check_model(onnx.load(out))


@pytest.mark.parametrize("name", ["a.onnx", "b.onnx", "few.npy"])
def test_what_is_read_is_never_written(folder: Path, name: str) -> None:
    error = fails(folder, *words(folder, folder / name), "--force")
    assert error.startswith(f"error: {folder / name}: is ")
    assert error.endswith("choose another name")


def test_a_missing_folder_is_said(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "none" / "out.onnx"
    assert fails(tmp_path, *words(folder, out)) == f"error: {out}: folder '{out.parent}' does not exist: make it first"


def test_two_files_do_not_share_a_name(folder: Path, tmp_path: Path) -> None:
    for report in ("out.onnx", "out.onnx.checkpoint"):
        path = tmp_path / report
        error = fails(tmp_path, *words(folder, tmp_path / "out.onnx", report=path))
        assert error == f"error: {path}: is to hold two different files: give each its own name"


def test_a_report_is_json_and_its_name_says_so(folder: Path, tmp_path: Path) -> None:
    """One that ends in .html is a page for the other commands."""
    error = misused(tmp_path, *words(folder, tmp_path / "out.onnx", report=tmp_path / "report.html"))
    assert "report.html" in error
    assert ".json" in error


def test_missing_files_are_said(folder: Path, tmp_path: Path) -> None:
    plain = words(folder, tmp_path / "out.onnx")
    for place in (1, 2, 5):
        missing = str(folder / "missing.onnx")
        error = fails(tmp_path, *plain[:place], missing, *plain[place + 1 :])
        assert error.startswith(f"error: {missing}: no such file")


def test_no_data_is_said(folder: Path, tmp_path: Path) -> None:
    error = fails(tmp_path, *words(folder, tmp_path / "out.onnx")[:4])
    assert error == "error: data: none given, samples to train on are wanted: pass --data"


def test_labels_want_class_folders(folder: Path, tmp_path: Path) -> None:
    error = fails(tmp_path, *words(folder, tmp_path / "out.onnx", learn="labels"))
    assert error == (
        f"error: data {folder / 'few.npy'} (48 samples): no class folders to learn labels from: put the images of each "
        "class into a folder, or learn from the original network alone"
    )


def test_too_few_samples_are_said(folder: Path, tmp_path: Path) -> None:
    error = fails(tmp_path, *words(folder, tmp_path / "out.onnx", samples=49))
    assert error.endswith("48 samples, 49 wanted to train on and choose by: add samples or ask for fewer")


def test_an_operator_that_pytorch_has_not_is_said(folder: Path, tmp_path: Path) -> None:
    onnx.save(in_onnxruntime_alone(), tmp_path / "odd.onnx")
    plain = words(folder, tmp_path / "out.onnx")
    error = fails(tmp_path, plain[0], str(tmp_path / "odd.onnx"), *plain[2:])
    assert "QuickGelu 'quick': there is no such operator in PyTorch" in error


USAGE = {
    "epochs": "0",
    "patience": "0",
    "batch-size": "0",
    "learning-rate": "0",
    "temperature": "-1",
    "match": "x",
    "samples": "0",
    "held-out": "1",
    "learn": "teacher",
    "provider": "tensorrt",
    "precision": "fp16",
    "threads": "0",
    "seed": "-1",
    "input-shapes": "x:a",
}


@pytest.mark.parametrize("option", USAGE)
def test_wrong_values_are_usage_errors(folder: Path, tmp_path: Path, option: str) -> None:
    result = call(*words(folder, tmp_path / "out.onnx"), f"--{option}", USAGE[option])
    assert result.exit_code == 2
    assert f"--{option}" in result.stderr
    assert names(tmp_path) == set()


@pytest.mark.parametrize("option", ["learning-rate", "temperature", "match", "held-out"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_no_number_is_the_user_s_to_correct(folder: Path, tmp_path: Path, option: str, value: str) -> None:
    """Not to be reported as a bug."""
    result = call(*words(folder, tmp_path / "out.onnx"), f"--{option}", value)
    assert result.exit_code in {1, 2}
    assert "unexpected" not in result.stderr
    assert names(tmp_path) == set()


def test_three_names_are_wanted(folder: Path) -> None:
    result = call("finetune", str(folder / "a.onnx"), str(folder / "b.onnx"))
    assert result.exit_code == 2
    assert "OUT.onnx" in result.stderr


def test_without_torch_it_is_said_how_to_get_it(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    code = """if True:
        import json, sys
        sys.modules['torch'] = None
        from onnx_lowrank.__main__ import main
        for words in json.loads(sys.argv[1]):
            sys.argv[1:] = words
            try:
                main()
            except SystemExit as end:
                print('END', end.code)
    """
    commands = json.dumps([words(folder, Path(out)), ["export-torch", str(folder / "b.onnx"), out]])
    done = subprocess.run(
        [sys.executable, "-c", code, commands], capture_output=True, text=True, cwd=ROOT, check=True
    )  # fmt: skip
    assert done.stdout == "END 1\nEND 1\n"
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("error: onnx_lowrank.torch: PyTorch or what belongs to it is not installed (")
        assert line.endswith("): pip install 'onnx-lowrank[torch]'")
    assert names(tmp_path) == set()


# Interruptions


def start(given: Sequence[str], folder: Path) -> Forked:
    """The command line as a process of its own, of which only this test knows; what it says goes to files."""
    return forked.start(folder, *given, output=str(folder / "stdout"), errors=str(folder / "stderr"))


def said(folder: Path) -> tuple[str, str]:
    """What it wrote on stdout and on stderr."""
    return (folder / "stdout").read_text(), (folder / "stderr").read_text()


def wait_for(process: Forked, what: Callable[[], bool]) -> None:
    """Until something is so, while the process runs."""
    end = time.monotonic() + LONGEST_WAIT
    while not what():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.002)


SAID = {"stdout", "stderr"}
LONG = {"epochs": 2, "batch_size": 4, "held_out": 0.03}  # an epoch takes half a second


@pytest.fixture(scope="module")
def uninterrupted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Out and report of a training from end to end, which finds no checkpoint to go on from."""
    place = tmp_path_factory.mktemp("uninterrupted")
    works(*words(folder, place / "out.onnx", "many.npy", report=place / "report.json", **LONG), "--resume")
    return place


def without_time(report: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report.read_text())
    assert found.pop("seconds") > 0
    return found


def assert_as_uninterrupted(uninterrupted: Path, place: Path) -> None:
    assert names(place) - SAID == {"out.onnx", "report.json"}
    assert without_time(place / "report.json") == without_time(uninterrupted / "report.json")
    assert (place / "out.onnx").read_bytes() == (uninterrupted / "out.onnx").read_bytes()


@pytest.mark.slow
def test_a_killed_training_goes_on_where_it_was(folder: Path, tmp_path: Path, uninterrupted: Path) -> None:
    """In the middle of its second epoch, by what no process can prepare for."""
    checkpoint = tmp_path / "out.onnx.checkpoint"
    given = words(folder, tmp_path / "out.onnx", "many.npy", report=tmp_path / "report.json", **LONG)
    process = start(given, tmp_path)
    wait_for(process, checkpoint.exists)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=LONGEST_WAIT)
    assert process.returncode == -signal.SIGKILL
    left = names(tmp_path)  # perhaps with the folder that the checkpoint was written in: the next command removes it
    assert {name for name in left if not name.endswith(".tmp")} == {"out.onnx.checkpoint", *SAID}
    assert len(Checkpoint.read(checkpoint).notes["epochs"]) == 1
    other = fails(tmp_path, *given, "--resume", "--seed", "1")
    assert "checkpoint of another training (seed: 0 there, 1 here)" in other
    result = works(*given, "--resume")
    assert "going on after epoch 1 of" in result.stderr
    assert "epoch 1/2" not in result.stderr
    assert_as_uninterrupted(uninterrupted, tmp_path)


@pytest.mark.slow
def test_ctrl_c_writes_the_best_so_far_and_one_can_go_on(folder: Path, tmp_path: Path, uninterrupted: Path) -> None:
    checkpoint = tmp_path / "out.onnx.checkpoint"
    given = words(folder, tmp_path / "out.onnx", "many.npy", report=tmp_path / "report.json", **LONG)
    process = start(given, tmp_path)
    wait_for(process, checkpoint.exists)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=LONGEST_WAIT)
    output, errors = said(tmp_path)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "error: interrupted: the best of 1 epochs was written; --resume goes on"
    assert "written     " in output
    assert names(tmp_path) == {"out.onnx", "out.onnx.checkpoint", "report.json", *SAID}
    report, whole = (without_time(place / "report.json") for place in (tmp_path, uninterrupted))
    assert (report["interrupted"], report["epochs"]) == (True, whole["epochs"][:1])
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"), full_check=True)
    works(*given, "--resume")  # as it says
    assert_as_uninterrupted(uninterrupted, tmp_path)


@pytest.mark.slow
def test_ctrl_c_before_the_first_epoch_is_over_writes_nothing(folder: Path, tmp_path: Path) -> None:
    process = start(words(folder, tmp_path / "out.onnx", "many.npy", **LONG | {"batch_size": 1}), tmp_path)
    wait_for(process, lambda: "before: loss" in said(tmp_path)[1])
    process.send_signal(signal.SIGINT)
    process.wait(timeout=LONGEST_WAIT)
    output, errors = said(tmp_path)
    assert (process.returncode, output) == (130, ""), errors
    assert errors.splitlines()[-1] == "error: interrupted: nothing was written"
    assert "Traceback" not in errors
    assert names(tmp_path) == SAID


# Several processes


def run_together(given: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run the command line in two processes; none of them is left, whatever happens."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen(
        [*command, "-m", "onnx_lowrank", *given],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=LONGEST_WAIT)
    except subprocess.TimeoutExpired:
        process.terminate()  # it ends its workers first
        stdout, stderr = process.communicate(timeout=LONGEST_WAIT)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.mark.slow
def test_two_processes_train_as_one_does(folder: Path, tmp_path: Path) -> None:
    """Images, flips, labels, inner tensors; in the last batch of those held out only one process has a sample.

    Normalizations see the whole batch in either case. What differs is the order in which floating-point numbers are
    added up: 5e-7 of losses, 3e-5 of weights after 9 steps. A batch shared out wrongly, statistics of half of
    it, or a gradient of half the size move them by some percent.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    for place in (one, two):
        place.mkdir()
    options = {"learn": "both", "match": 0.5, "batch_size": 16, "epochs": 3, "held_out": 17 / 75, "seed": 3}
    given = [
        words(folder, place / "out.onnx", "classes", report=place / "report.json", **options) for place in (one, two)
    ]
    works(*given[0])
    done = run_together(given[1])
    assert done.returncode == 0, done.stderr
    assert names(two) == {"out.onnx", "report.json"}
    alone, together = (without_time(place / "report.json") for place in (one, two))
    assert together["samples"] == alone["samples"]
    assert together["best"] == alone["best"]
    assert alone["best"] > 0
    for ours, theirs in zip(
        [together["before"], *together["epochs"]], [alone["before"], *alone["epochs"]], strict=True
    ):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert together["before"]["accuracy"] == pytest.approx(alone["before"]["accuracy"], rel=1e-12)
    assert together["after"]["loss"] == pytest.approx(alone["after"]["loss"], rel=1e-5)
    weights = [weights_of(onnx.load(place / "out.onnx")) for place in (one, two)]
    assert max(relative(weights[0][name], weights[1][name]) for name in weights[0]) < 1e-4
    # Nothing is said twice.
    said = [line.split(maxsplit=1)[0] for line in done.stdout.splitlines()]
    assert said == ["trained", "before", "after", "written"]
    logged = [line for line in done.stderr.splitlines() if line.startswith(("before", "epoch", "learning", "warning"))]
    assert logged
    assert len(set(logged)) == len(logged)


def test_a_metric_chooses_the_epoch(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])  # the file's folder is added to it
    (tmp_path / "evaluate.py").write_text(
        "import numpy as np\n"
        "def size(predictor, samples):\n"
        "    return [float(np.abs(row).mean()) for batch in samples for row in predictor(batch)['scores']]\n"
    )
    reference, report = f"{tmp_path / 'evaluate.py'}:size", tmp_path / "r.json"
    shown = works(*words(folder, tmp_path / "o.onnx", metric=reference, report=report))
    found = json.loads(report.read_text())
    scores = [found["before"]["metric"], *(each["marks"]["metric"] for each in found["epochs"])]
    assert found["best"] == int(np.argmax(scores))
    assert found["metric"]["converted"] == scores[found["best"]]
    assert f"metric      {reference}: original {found['metric']['original']:.4g}, converted " in shown.stdout
