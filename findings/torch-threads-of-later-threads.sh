#!/usr/bin/env bash
# PyTorch 2.14.1: `set_num_threads` counts for the thread that calls it and for all that begin later, not for the process.
#
# Expected: it sets the number of threads that PyTorch computes with, as its documentation says; or else that of the
# calling thread.
#
# Happens: both by half. A worker that sets 1 for itself leaves the main thread at 2, but all threads that first compute
# afterwards have 1, for good; a thread that has computed before keeps its number whatever the main thread sets:
#
#   the main thread sets 2       main 2, a new thread 2
#   a worker sets 1, and ends    main 2, a new thread 1
#   the main thread sets 3       main 3, a new thread 3, a worker that had computed before 1
#
# So a library that sets a number and puts the old one back does that for others too, and of two that overlap, the
# second puts back what the first one had set. `ThreadpoolController().limit(limits=1, user_api="openmp")` of
# threadpoolctl holds for the calling thread alone, and PyTorch follows it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 threadpoolctl==3.8.0
OMP_NUM_THREADS=2 "$folder/venv/bin/python" - <<'PYTHON'
import threading

import torch
from threadpoolctl import ThreadpoolController


def on_a_new_thread(call):
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def set_one():
    torch.set_num_threads(1)
    return torch.get_num_threads()


found = {}
torch.set_num_threads(2)
found["main sets 2"] = torch.get_num_threads(), on_a_new_thread(torch.get_num_threads)
assert on_a_new_thread(set_one) == 1
found["a worker sets 1"] = torch.get_num_threads(), on_a_new_thread(torch.get_num_threads)

begun, is_set, worker = threading.Event(), threading.Event(), []


def work():
    worker.append(torch.get_num_threads())
    begun.set()
    is_set.wait()
    worker.append(torch.get_num_threads())


thread = threading.Thread(target=work)
thread.start()
begun.wait()
torch.set_num_threads(3)
is_set.set()
thread.join()
found["main sets 3"] = torch.get_num_threads(), on_a_new_thread(torch.get_num_threads), *worker
with ThreadpoolController().limit(limits=1, user_api="openmp"):
    found["limited by threadpoolctl"] = torch.get_num_threads(), on_a_new_thread(torch.get_num_threads)
print(torch.__version__, found)
assert found == {
    "main sets 2": (2, 2),
    "a worker sets 1": (2, 1),
    "main sets 3": (3, 3, 1, 1),
    "limited by threadpoolctl": (1, 3),
}
PYTHON
