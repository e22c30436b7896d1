# Every target makes .venv from requirements.lock on first use, and again when the lock changes.
PYTHON ?= python3
BIN := .venv/bin
# The stamp's name is keyed on lock and project file, so a change of either installs again.
KEY := $(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)
STAMP := .venv/.installed-$(KEY)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup align test test-unit test-slow lint format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "rosepo_ray needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing);" \
		"run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || { echo "making .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv; }
	@echo "installing requirements.lock into .venv (about 2 GB and 3 minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -e .
	@rm -f .venv/.installed-*
	@touch $@

setup: $(STAMP)  ## make .venv from requirements.lock

align: $(STAMP)  ## the whole job; settings through ARGS="--recipe NAME --align.beta 0.2"
	$(BIN)/python jobs/align.py $(ARGS)

test: $(STAMP)  ## unit and integration tests (about 15 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-unit: $(STAMP)  ## unit tests only (under a minute)
	$(BIN)/python -m pytest tests/unit -m "not slow" $(ARGS)

test-slow: $(STAMP)  ## jobs as a user starts them, faults, long runs
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMP)  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
