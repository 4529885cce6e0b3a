#!/usr/bin/env bash
# threadpoolctl 3.8.0: once one thread has limited OpenBLAS, limits that other threads set do nothing, without a word.
#
# Expected: a limit that a thread of a program sets holds, as it does with threadpoolctl 3.7.0 and before: OpenBLAS has
# one number of threads for the whole process, whoever sets it.
#
# Happens: the first thread that sets one is "in control" until it leaves a `with threadpool_limits(...)` block or ends.
# `threadpool_limits(2)` without a block, as in the README of threadpoolctl, keeps control for as long as that thread
# lives, which for the main thread is the whole program; so does `restore_original_limits()`. Where another thread, say
# one of a web server, then limits its own eigenvalue problems to one thread, they run with as many as before:
#
#   threads of OpenBLAS inside of `threadpool_limits(1)` on another thread        3.7.0   3.8.0
#   nobody has set a limit                                                            1       1
#   the main thread is inside of `with threadpool_limits(2)`                          1       2
#   the main thread has left it                                                       1       1
#   the main thread has called `threadpool_limits(2)`                                 1       2
#   the main thread has called it, and `restore_original_limits()` afterwards         1       2
#
# `clear_controlling_thread(force=True)` of each library of a `ThreadpoolController` gives the next thread control.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"

limits() { # VERSION EXPECTED
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 "threadpoolctl==$1"
    OPENBLAS_NUM_THREADS=2 "$folder/venv/bin/python" - "$1" "$2" <<'PYTHON'
import sys
import threading

import numpy  # noqa: F401  (loads OpenBLAS)
from threadpoolctl import threadpool_info, threadpool_limits


def limited():
    with threadpool_limits(1, user_api="blas"):
        return max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")


def on_another_thread():
    found = []
    other = threading.Thread(target=lambda: found.append(limited()))
    other.start()
    other.join()
    return found[0]


found = [on_another_thread()]
with threadpool_limits(2, user_api="blas"):
    found.append(on_another_thread())
found.append(on_another_thread())
limit = threadpool_limits(2, user_api="blas")
found.append(on_another_thread())
limit.restore_original_limits()
found.append(on_another_thread())
print(f"threadpoolctl {sys.argv[1]}: {found}")
assert found == [int(each) for each in sys.argv[2].split()]
PYTHON
}

limits 3.7.0 "1 1 1 1 1"
limits 3.8.0 "1 2 1 2 2"
