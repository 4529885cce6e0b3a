"""The command ``inspect``."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import onnx

from tests.command_line import call, fails, works
from tests.helpers import build, filters
from tests.networks import network


def test_inspect(folder: Path) -> None:
    text = call("inspect", "in.onnx")
    assert text.exit_code == 0
    assert "16 -> 5, identity" in text.stdout
    assert "4 of 4 layers can be factorized" in text.stdout
    found = json.loads(call("inspect", "in.onnx", "--json").stdout)
    assert [layer["eligible"] for layer in found["layers"]] == [True] * 4
    assert found["layers"][2]["residual"] == "r1"


def test_names_with_brackets_are_shown_as_they_are(folder: Path) -> None:
    model = network()
    model.graph.node[0].name = "[/x]:star:"
    onnx.save(model, "odd.onnx")
    assert "[/x]:star:" in call("inspect", "odd.onnx").stdout
    converted = call("odd.onnx", "--dry-run", "--data", "data.npy", "--speedup", "2")
    assert converted.exit_code == 0, converted.output
    assert "[/x]:star:" in converted.stdout


def in_a_terminal(columns: int, *words: str) -> str:
    """What a command shows in a terminal of so many columns."""
    shown, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    unset = {"COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"}
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "onnx_lowrank", *words]
    process = subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=environment)
    os.close(terminal)
    text = b""
    with contextlib.suppress(OSError), os.fdopen(shown, "rb", buffering=0) as stream:  # how a terminal ends
        while part := stream.read(4096):
            text += part
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r", "")


def test_names_are_whole_where_there_is_room_and_differ_where_there_is_none(folder: Path) -> None:
    model = network()
    names = [f"/backbone/stage{number}/block10/expansion/convolution/Conv" for number in range(3)]
    for node, name in zip([node for node in model.graph.node if node.op_type == "Conv"], names, strict=True):
        node.name = name
    onnx.save(model, "long.onnx")
    piped = works("inspect", "long.onnx").stdout
    assert [line.split()[0] for line in piped.splitlines()[1:4]] == names
    works("long.onnx", "--dry-run", "--data", "data.npy", "--speedup", "2", "--quiet", "--report", "r.md")
    assert all(name in Path("r.md").read_text() for name in names)
    wide = in_a_terminal(160, "inspect", "long.onnx")
    assert [line.split()[0] for line in wide.splitlines()[1:4]] == names
    narrow = in_a_terminal(80, "inspect", "long.onnx").splitlines()
    table = narrow[: narrow.index("")]  # sentences below it are not broken into lines
    assert max(map(len, table)) <= 80
    shown = [line.split()[0] for line in table if "..." in line]
    assert len(set(shown)) == 3
    for name, (head, tail) in zip(names, (cut.split("...") for cut in shown), strict=True):
        assert name.startswith(head)
        assert name.endswith(tail)
        assert min(len(head), len(tail)) > 0


def test_shapes_in_every_notation(folder: Path) -> None:
    graph = "g (float[N, 3, h, w] x) => (float[N, 8, H, W] y) { y = Conv (x, k) }"
    onnx.save(build(graph, {"k": filters(0, 8, 3, 3, 3)}), "open.onnx")
    assert "pass --input-shapes x:1,3,?,?" in fails(folder, "inspect", "open.onnx")
    for shape in ("x:1,3,10,10", "1x3x10x10", "[1,3,10,10]"):
        found = json.loads(call("inspect", "open.onnx", "--json", "--input-shapes", shape).stdout)
        assert found["macs"] == 8 * 8 * 8 * 27
    assert "does not fit input 'x'" in fails(folder, "inspect", "open.onnx", "--input-shapes", "1,4,10,10")
    assert "no input 'z'" in fails(folder, "inspect", "open.onnx", "--input-shapes", "z:1,3,10,10")


def test_what_depends_on_the_number_of_samples_is_said_and_settled_on_data(folder: Path) -> None:
    shown = " ".join(works("inspect", "in.onnx").stdout.split())
    assert "16 -> 5, identity, from 50 samples on" in shown
    assert shown.count("samples on") == 1
    on_data = " ".join(works("inspect", "in.onnx", "--data", "data.npy", "--samples", "48", "--quiet").stdout.split())
    assert "stays: 48 rows of samples are too few for 5 filters: 10 each are wanted" in on_data
    assert "3 of 4 layers can be factorized with 48 samples of data.npy (60 samples)" in on_data
    found = json.loads(works("inspect", "in.onnx", "--data", "data.npy", "--json", "--quiet").stdout)
    assert found["source"] == "48 samples of data.npy (60 samples)"
    assert [layer.get("min_samples") for layer in found["layers"]] == [1, 1, 1, None]


def test_widths(folder: Path) -> None:
    body = """a = Conv(x, wa)  p = GlobalAveragePool(a)  s = Conv(p, ws)  t = Conv(s, wt)  g = Sigmoid(t)  m = Mul(a, g)
        b = Conv(m, wb)  c = Conv(b, wc)  y = Add(b, c)"""
    weights = {"wa": filters(0, 8, 3, 1, 1), "ws": filters(1, 4, 8, 1, 1), "wt": filters(2, 8, 4, 1, 1)}
    weights |= {"wb": filters(3, 6, 8, 1, 1), "wc": filters(4, 6, 6, 1, 1)}
    onnx.save(build(f"g (float[N,3,5,5] x) => (float[N,6,5,5] y) {{ {body} }}", weights), "gate.onnx")
    found = {row["name"]: row for row in json.loads(works("inspect", "gate.onnx", "--json").stdout)["layers"]}
    assert {name: row["width"] for name, row in found.items()} == {
        **{"a": None, "s": None, "t": {"min": 1, "max": 4}, "b": {"min": 1, "max": 8}, "c": None},
    }
    assert {name: row["narrowed_by"] for name, row in found.items()} == {
        **{"a": ["b"], "s": ["t", "b"], "t": ["b"], "b": [], "c": []},
    }
    assert found["b"]["channel_groups"] == [
        {"start": 0, "channels": 8, "makers": ["a", "t"], "carried": [], "squeezed": ["s"], "readers": []}
    ]
    reasons = {name: row["width_reason"] for name, row in found.items() if row["width_reason"]}
    assert reasons == {
        "a": "made by the network's input 'x'",
        "s": "left out with those that Conv 'b' reads",
        "c": "a shortcut shares its channels",
    }
    text = works("inspect", "gate.onnx").stdout
    rows = [line for line in text.splitlines() if line[1:2] == " "]
    assert [re.findall(r"(?<= )[\d]*[-*]+[-*\d]*(?=  )", line) for line in rows] == [
        ["*"],
        ["*"],
        ["1-4*"],
        ["1-8"],
        [],
    ]
    assert "width: how many channels 2 layers may come to read; *: loses some where others read fewer" in text
    assert "all channels stay that c read: a shortcut shares its channels" in text
    assert "left out with" not in text
