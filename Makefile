PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo docs test test-gpu format train-demo

demo: .venv/extras-cpu,demo
	$(BIN)/python tools/demo.py

# Options and docstrings are read from the code, so the package and what it can use are installed beside mkdocs.
docs: .venv/extras-cpu,docs,torch
	$(BIN)/mkdocs build --quiet --config-file tools/mkdocs.yml
	@echo site/index.html

# lint-imports' cache goes wrong when a module appears or goes; without it a run takes a second.
test: .venv/extras-cpu,dev,docs,torch
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest

# Runs where the extra gpu and PyTorch for CUDA are installed already.
test-gpu:
	$(PYTHON) -m pytest --device cuda tests/test_gpu.py tests/layers/test_activation_tensors.py tests/linalg/test_symmetric.py \
		tests/calibrate/test_propagate.py tests/solve/test_tensors.py

format: .venv/extras-cpu,dev,docs,torch
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

train-demo: .venv/extras-cpu,demo,torch
	$(BIN)/python tools/train_demo_model.py models/demo_mnist_vgg.onnx

# pip is the last thing that venv installs, so an interrupted creation is started over.
$(BIN)/pip:
	$(PYTHON) -m venv .venv

# The stamp's name lists the extras; it goes stale with the dependencies.
.venv/extras-%: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	@touch $@
