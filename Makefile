# Everything runs in .venv, which the first target creates. You need Python 3.11 or later with its venv module, and make.
#   make demo    the todo example (PORT=8000 make demo for another port)
#   make test    ruff, mypy --strict and the tests; ARGS="-k floors" is passed to pytest, ARGS=-n0 uses one process
#   make test-long     the long tests, which `make test` leaves out: soak, kills, many workers, benchmarks; ARGS as for test
#   make test-lowest   the tests with the lowest versions that pyproject.toml declares, in .venv-lowest; ARGS as for test
#   make lint    ruff and mypy alone
#   make bench   the benchmarks
#   make docs    run every snippet of the documentation
#   make clean   remove the environment, the caches and the builds
# PYTHON=... names the interpreter that .venv is created with.

# The first interpreter that is new enough, python3 preferred.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=

# Several processes run the tests, one file at a time, because the tests of a file share servers. The files keep their
# order, because browser tests come last. tests/conftest.py says how many processes there are, and
# tests/browser/conftest.py why the order matters.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-long test-lowest lint bench docs clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found; name one with PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: $(PYTHON) lacks venv or ensurepip (Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

# The stamps make a second run quick: they are older than pyproject.toml only when something must be installed.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(PIP) install -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[test,dev]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	@echo "FastState demo: http://localhost:$${PORT:-5001} (Ctrl-C ends it)"
	@# Without a network, a copy of Datastar in the cache of the browser tests serves as well.
	@copy=$$(ls "$$HOME"/.cache/faststate/datastar-1.0.*.js 2>/dev/null | tail -n 1); \
	[ -z "$$copy" ] || export FASTSTATE_DATASTAR_SRC="$${FASTSTATE_DATASTAR_SRC:-$$copy}"; \
	cd examples && exec ../$(BIN)/python todo.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	@# Keep bytecode, whatever the environment says: otherwise each of the hundreds of servers compiles all modules.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(PARALLEL) -m "not long" $(ARGS)

# One process: they measure memory and time.
test-long: $(VENV)/.dev
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m long $(ARGS)

# A separate environment, with each dependency at its lower bound. A dependency without one has its newest version.
LOWEST := .venv-lowest
$(LOWEST)/.test: pyproject.toml .ci/lowest.py | $(BIN)/python
	rm -rf $(LOWEST)
	"$(PYTHON)" -m venv $(LOWEST)
	"$(PYTHON)" .ci/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip --disable-pip-version-check --quiet install -e '.[test]' -c $(LOWEST)/constraints.txt
	@touch $@

test-lowest: $(LOWEST)/.test
	PYTHONDONTWRITEBYTECODE= $(LOWEST)/bin/python -m pytest $(PARALLEL) -m "not long" $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.run $(ARGS)

docs: $(VENV)/.dev
	$(BIN)/python -m pytest tests/docs/test_docs.py $(ARGS)

clean:
	rm -rf $(VENV) $(LOWEST) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
