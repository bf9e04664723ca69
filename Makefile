# Every target sets itself up; nothing needs an activated environment. `make setup` by hand is never necessary.
# The exact versions are those of 3.11, so it goes before whatever python3 is.
PYTHON ?= $(or $(shell for name in python3.11 python3; do $$name -c "" 2>/dev/null && echo $$name && break; done),python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# What else pip needs for torch alone, for example the --index-url of its CPU wheels.
TORCH_ARGS ?=
TESTS ?= tests
# Processes that share the test files; JOBS=0 runs them all in one.
JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile
BENCH ?= rerouting
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-all check format bench build clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## create .venv with exact versions; does nothing when nothing changed

# torch first and alone: with its pin in place, nothing later can ask for another build of it.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "kvembed needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV) (some minutes the first time)" >&2
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_ARGS) torch
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## index the standard library's documentation and ask it questions
	$(BIN)/kvembed demo $(ARGS)

test: $(STAMP) ## the default tests: CPU, offline
	$(PYTEST) $(ARGS) $(TESTS)

test-all: $(STAMP) ## the slow tests too
	$(PYTEST) -m "not gpu and not network and not qdrant" $(ARGS) $(TESTS)

check: $(STAMP) ## format, lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --quiet tests/test_imports.py

format: $(STAMP) ## mend what check would complain about
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## ratios side by side; BENCH names one of benchmarks/
	$(BIN)/python -m benchmarks.$(BENCH) $(ARGS)

build: $(STAMP) ## wheel and source distribution in dist/
	$(BIN)/python -m build --no-isolation --outdir dist

clean: ## remove what the targets made, the environment included
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
