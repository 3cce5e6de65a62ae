# `make demo` and `make test` set up a fresh machine themselves: Python >= 3.11, pip and make suffice.
PYTHON ?= python3
# For a CUDA build of torch: make TORCH_INDEX="--extra-index-url https://download.pytorch.org/whl/cu130" ...
TORCH_INDEX ?=
# Add kernels (Triton, 1 GB) to check the GPU kernels without a GPU, as CI does.
EXTRAS ?= faces,test,cluster
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.apexflow-ready
ARGS ?=

.PHONY: docs demo test test-slow check lint types contracts bench up down status clean setup
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## the environment in .venv, from exact pins

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "apexflow needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_INDEX) -c constraints.txt --only-binary :all: -e ".[$(EXTRAS)]"
	touch $@

demo: setup  ## synthetic data, all stages, both networks, report, Prefect UI
	$(BIN)/python -m flows demo $(ARGS)

test: setup  ## the fast tests: no GPU, minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: setup  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: setup  ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy, strict
	$(BIN)/mypy

contracts: setup  ## imports point one way
	PYTHONPATH=. $(BIN)/lint-imports

docs: setup  ## the documentation as a site in site/, every link checked
	@test -x $(BIN)/mkdocs || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

check: lint types contracts docs test  ## everything CI runs

bench: setup  ## measured ratios (tests/benchmarks), minutes
	$(BIN)/python -m tests.benchmarks $(ARGS)

up: setup  ## Prefect server, worker and deployments
	$(BIN)/python -m flows up $(ARGS)

down: setup  ## stop them
	$(BIN)/python -m flows down

status: setup  ## what is running
	$(BIN)/python -m flows status

clean:  ## remove the environment and caches (not data or workspaces)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
