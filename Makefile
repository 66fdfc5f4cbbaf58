# Two commands do everything: `make demo` and `make test`. Both make the environment.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
# Tests run side by side in this many processes.
JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal
# Without compat, a checkout called mmstop hides the package in the folder above it.
EDITABLE = --constraint requirements/constraints.txt \
	--config-settings editable_mode=compat --editable
READY = $(VENV)/.ready
READY_DOCS = $(VENV)/.ready-docs

.PHONY: demo docs env lint test test-gpu test-slow

env: $(READY)

$(READY): setup.cfg pyproject.toml $(wildcard requirements/*.txt)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install $(EDITABLE) '.[lite,tests]'
	touch $@

$(READY_DOCS): $(READY) requirements/docs.txt
	$(BIN)/pip install $(EDITABLE) '.[docs]'
	touch $@

demo: $(READY)
	$(BIN)/python tools/demo.py

docs: $(READY_DOCS)
	$(BIN)/python -m mkdocs build --strict

test: $(READY)
	$(PYTEST) -m 'not slow and not gpu'

test-slow: $(READY)
	$(PYTEST) -m slow

# On a machine with CUDA; elsewhere the tests are skipped and the benchmark fails.
test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python tools/analysis/benchmark_gpu.py --out gpu.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell mmstop mmstop_cli configs docs tools tests README.md SECURITY.md Makefile
