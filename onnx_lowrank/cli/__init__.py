"""The command line: one thin file per command; the only room that prints and exits.

::

    program.py   which command runs, how its help looks, exit codes
    convert.py   onnx-lowrank IN.onnx OUT.onnx
    inspect.py   onnx-lowrank inspect IN.onnx
    compare.py   onnx-lowrank compare A.onnx B.onnx
    bench.py     onnx-lowrank bench A.onnx B.onnx
    sweep.py     onnx-lowrank sweep IN.onnx OUT_DIR
    samples.py   onnx-lowrank samples IN.onnx OUT.npz
    latency_networks.py  onnx-lowrank latency-networks IN.onnx OUT.zip
    finetune.py  onnx-lowrank finetune A.onnx B.onnx OUT.onnx
    export_torch.py  onnx-lowrank export-torch B.onnx OUT.pt2
    extra.py     imports the part that needs PyTorch
    help.py      --help for newcomers, --help-all for every option
    options.py   options that commands share, and how they are read together
    param_types.py  kinds of values that options take
    presets.py   what the presets of preprocessing stand for
    loader.py    --data-loader and --metric file.py:function
    files.py     checks of files, plans and reports
    tables.py    where tables are printed, and how wide
    watch.py     progress and log lines on stderr
    standard_output.py  what happens where standard output cannot be written
    messages.py  flags in messages of the library, which name settings as Python does
"""

from __future__ import annotations

import io
import sys

from onnx_lowrank import interruption
from onnx_lowrank.cli.bench import bench_command
from onnx_lowrank.cli.compare import compare
from onnx_lowrank.cli.convert import convert
from onnx_lowrank.cli.export_torch import export_torch
from onnx_lowrank.cli.finetune import finetune
from onnx_lowrank.cli.inspect import inspect
from onnx_lowrank.cli.latency_networks import latency_networks
from onnx_lowrank.cli.program import Program
from onnx_lowrank.cli.samples import samples
from onnx_lowrank.cli.standard_output import replace_standard_output
from onnx_lowrank.cli.sweep import sweep

__all__ = ["main", "program"]

program = Program(convert, [inspect, compare, bench_command, sweep, samples, latency_networks, finetune, export_torch])


def main() -> None:
    """Run the program on this process's arguments and exit."""
    replace_standard_output()
    if isinstance(sys.stderr, io.TextIOWrapper):  # names may hold letters that it cannot encode
        sys.stderr.reconfigure(errors="backslashreplace")
    try:
        program(prog_name="onnx-lowrank")
    except SystemExit as end:
        interruption.leave(end.code if isinstance(end.code, int) else 1)
        raise
