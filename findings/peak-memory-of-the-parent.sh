#!/usr/bin/env bash
# CPython 3.11 on Linux, multiprocessing and subprocess: a new process begins with the peak memory of its parent.
#
# Expected: `resource.getrusage(RUSAGE_SELF).ru_maxrss`, the usual way to measure what a step of a pipeline needs, run in a
# process of its own for that very purpose, is the largest resident set of this process.
#
# Happens: it is at least that of the process that started it, even where a new program runs in it (subprocess,
# multiprocessing's "spawn"). What the kernel keeps with the memory itself, VmHWM, begins anew:
#
#   parent with 640 MB starts       ru_maxrss   VmHWM   psutil's rss
#   subprocess                        655 MB     12 MB       12 MB
#   multiprocessing, spawn            654 MB     15 MB       15 MB
#   subprocess, through a shell        12 MB     12 MB       12 MB
#
# (some MB more or less). Steps of a large pipeline all look as large as the pipeline, and by hand, from a shell, none of
# it can be seen. Read VmHWM of /proc/self/status instead; psutil 7.2.2 knows no peak on Linux.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check psutil==7.2.2
cat > "$folder/child.py" <<'PYTHON'
import resource

import psutil


def megabytes():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024, int(status["VmHWM"].split()[0]) // 1024, psutil.Process().memory_info().rss // 2**20


if __name__ == "__main__":
    print(*megabytes())
PYTHON
cat > "$folder/parent.py" <<'PYTHON'
import multiprocessing
import subprocess
import sys

import psutil
from child import megabytes


def main():
    held = bytearray(b"x") * (640 * 2**20)
    command, child = [sys.executable, "child.py"], "child.py"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = {"spawn": pool.apply(megabytes)}
    for name, how in (("subprocess", command), ("shell", ["/bin/sh", "-c", f"{sys.executable} {child}; exit $?"])):
        output = subprocess.run(how, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[name] = tuple(map(int, output.split()))
    print(sys.version.split()[0], "psutil", psutil.__version__, len(held) // 2**20, "MB held:", found)
    for name in ("spawn", "subprocess"):
        assert found[name][0] >= 640 and max(found[name][1:]) < 100, found
    assert max(found["shell"]) < 100, found


if __name__ == "__main__":
    main()
PYTHON
cd "$folder"
"$folder/venv/bin/python" parent.py
