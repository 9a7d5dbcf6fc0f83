# Two commands: `make smoke` and `make test`. Each does its own set-up; a second call needs none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PACKAGES := cispo rollout rewards sandboxes launch conf
# Processes that run tests. More than processors, because much of it is waiting for other processes.
WORKERS ?= 3
export OMP_NUM_THREADS := 1
export PYTHONUNBUFFERED := 1

.PHONY: setup smoke test lint unit clean

setup: $(READY)

# torch first and pinned: anything that asks for an unpinned torch would bring gigabytes of CUDA libraries.
# Byte code is compiled because Ray's daemons never write it and miss their start-up deadline without it.
$(READY): pyproject.toml requirements/constraints.txt requirements/bubblewrap.txt
	@echo "setup: creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "setup: needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	$(BIN)/python -m pip install --quiet --constraint requirements/constraints.txt torch
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint requirements/constraints.txt --editable '.[dev]'
	@command -v bwrap >/dev/null || $(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/bubblewrap.txt
	@touch $(READY)

# A supervised cold start, then CISPO; ends with a summary and a picture.
smoke: setup
	$(BIN)/python -m launch.sft experiment=smoke_cold_start
	$(BIN)/python -m launch.train experiment=smoke
	@echo "picture: runs/smoke/report.png   report: runs/smoke/report.html   numbers: runs/smoke/summary.json"

test: lint unit

lint: setup
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup
	$(BIN)/python -m pytest --numprocesses $(WORKERS)

clean:
	rm -rf $(VENV) runs dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
