#!/usr/bin/env bash
# SciPy 1.17.1: `inv`, `solve`, `svd`, `eigh`, `cholesky` and `solve_triangular` stop all other threads of a program.
#
# Expected: linear algebra that runs in LAPACK for a second lets other Python threads work meanwhile, as numpy.linalg
# does; so several threads that solve several systems use several cores.
#
# Happens: these functions keep the interpreter's lock from beginning to end. Another thread, which does nothing but
# count, comes to nothing for nearly all of the call; its longest stop, as a share of the call, at the least of three:
#
#   numpy.linalg {'inv': 0.0, 'solve': 0.01, 'svd': 0.0, 'eigh': 0.0, 'cholesky': 0.01}
#   scipy.linalg {'lu_factor': 0.0, 'qr': 0.0}
#   scipy.linalg {'inv': 0.99, 'solve': 0.95, 'svd': 0.96, 'eigh': 0.98, 'cholesky': 0.72, 'solve_triangular': 0.83}
#
# So a pool of threads that solves by scipy.linalg is no faster than one of them, and a server that calls it answers
# nobody until it is done. Use numpy.linalg in threads: its `solve` takes 0.45 s for 1500 equations and as many right-hand
# sides here, `cholesky` and `cho_solve` of SciPy together 0.42 s.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 scipy==1.17.1
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PYTHON'
import threading
import time

import numpy as np
from scipy import linalg

drawn = np.random.default_rng(0).normal(size=(3000, 1500))
symmetric = drawn.T @ drawn + 1500 * np.eye(1500)
right, small = drawn[:1500], symmetric[:600, :600].copy()
root = np.linalg.cholesky(symmetric)


def longest_stop(call):
    """Return the share of a call in which another thread came to nothing, in one piece; the least of three calls."""
    return min(stop(call) for _ in range(3))


def stop(call):
    seen, over = [], threading.Event()

    def count():
        while not over.is_set():
            seen.append(time.perf_counter())
            time.sleep(0)

    other = threading.Thread(target=count)
    other.start()
    time.sleep(0.1)
    begin = time.perf_counter()
    call()
    end = time.perf_counter()
    over.set()
    other.join()
    inside = [begin, *(each for each in seen if begin < each < end), end]
    return max(np.diff(inside)) / (end - begin)


def measured(module, **calls):
    found = {name: longest_stop(call) for name, call in calls.items()}
    print(module, {name: round(float(share), 2) for name, share in found.items()})
    return found.values()


free = measured(
    "numpy.linalg",
    inv=lambda: np.linalg.inv(symmetric),
    solve=lambda: np.linalg.solve(symmetric, right),
    svd=lambda: np.linalg.svd(small),
    eigh=lambda: np.linalg.eigh(symmetric),
    cholesky=lambda: np.linalg.cholesky(symmetric),
)
also_free = measured(
    "scipy.linalg", lu_factor=lambda: linalg.lu_factor(symmetric), qr=lambda: linalg.qr(symmetric)
)
held = measured(
    "scipy.linalg",
    inv=lambda: linalg.inv(symmetric),
    solve=lambda: linalg.solve(symmetric, right),
    svd=lambda: linalg.svd(small),
    eigh=lambda: linalg.eigh(symmetric),
    cholesky=lambda: linalg.cholesky(symmetric),
    solve_triangular=lambda: linalg.solve_triangular(root, right, lower=True),
)
assert max(*free, *also_free) < 0.4
assert min(held) > 0.6
PYTHON
