PYTHON ?= python3
BIN := .venv/bin
# One process of tests per core, each with one thread for linear algebra. A file stays in one process, since its tests share
# what they convert. Files come in the order of their names, which ends with many short ones; xdist's own, by number of
# tests, ends with long ones, and leaves a core idle for most of a minute.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder

.PHONY: demo docs test test-nightly test-gpu findings versions format train-demo

# Converts the bundled model at 4x and prints accuracy, multiply-adds and latency before and after.
demo: .venv/extras-cpu,demo
	$(BIN)/python tools/demo.py

# Builds tools/docs/ into a site. Options and docstrings are read from the code into two of its pages, which are committed.
docs: .venv/extras-cpu,docs,torch
	$(BIN)/python tools/docs_reference.py
	$(BIN)/mkdocs build --quiet --config-file tools/mkdocs.yml
	@echo site/index.html

# Lint, types, import contracts and all tests but those marked nightly: what CI runs. Without its cache, which goes stale
# when a module is added or removed, lint-imports takes a second.
test: .venv/extras-cpu,dev,docs,torch
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(PYTEST)

# All tests, also those marked nightly, hypothesis' with ten times as many examples where they scale, and other examples
# in every run.
test-nightly: .venv/extras-cpu,dev,docs,torch
	$(PYTEST) --hypothesis-profile=nightly -m ''

# Tests that need an NVIDIA GPU, where onnxruntime-gpu and PyTorch for CUDA are installed already.
test-gpu:
	$(PYTHON) -m pytest --device cuda tests/test_gpu.py tests/layers/test_activation_tensors.py tests/linalg/test_symmetric.py \
		tests/calibrate/test_propagate.py tests/solve/test_tensors.py

# Runs what findings/ says about other libraries, and says what has changed since. Needs the network, so CI does not.
findings:
	@changed=; for script in findings/*.sh; do \
		echo "== $$script"; $$script || changed="$$changed $$script"; \
	done; \
	if [ -n "$$changed" ]; then echo "changed:$$changed"; exit 1; fi; echo "nothing has changed"

# Runs quick tests with the oldest and the newest allowed packages, on each Python that is found. Needs the network.
versions: .venv/extras-versions
	$(BIN)/python tools/versions/versions.py

# Repairs what ruff can repair, and formats.
format: .venv/extras-cpu,dev,docs,torch
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Trains the bundled model again, see models/README.md.
train-demo: .venv/extras-cpu,demo,torch
	$(BIN)/python tools/train_demo_model.py models/demo_mnist_vgg.onnx

# venv installs pip last, so an interrupted creation is started over.
$(BIN)/pip:
	$(PYTHON) -m venv .venv

# An environment's stamp: its name lists the extras, and it is older than pyproject.toml once dependencies change.
.venv/extras-%: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	@touch $@
