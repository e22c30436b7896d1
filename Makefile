# Every target makes .venv from requirements.lock on first use, and again when the lock changes.
PYTHON ?= python3
BIN := .venv/bin
# The stamp's name is keyed on lock and project file, so a change of either installs again.
KEY := $(shell cat requirements.lock pyproject.toml | cksum | cut -d ' ' -f 1)
STAMP := .venv/.installed-$(KEY)
ARGS ?=
# What the benchmarks measure against: the extra `bench` of pyproject.toml.
COMPETITORS := trl==1.16.0 datasets==5.2.0 polars==2.1.0

.DEFAULT_GOAL := help
.PHONY: help setup align test test-unit test-slow bench bench-full docs lint format clean

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

align: $(STAMP)  ## the whole job; settings through ARGS="--recipe NAME --align.objective.beta 0.2"
	$(BIN)/python jobs/align.py $(ARGS)

test: $(STAMP)  ## unit and integration tests (about 12 minutes on 2 cores)
	$(BIN)/python -m pytest tests/unit -m "not slow" -n 2
	$(BIN)/python -m pytest tests/integration -m "not slow"

test-unit: $(STAMP)  ## unit tests only (under a minute)
	$(BIN)/python -m pytest tests/unit -m "not slow" -n 2 $(ARGS)

test-slow: $(STAMP)  ## jobs as a user starts them, faults, long runs
	$(BIN)/python -m pytest -m slow $(ARGS)

# .venv-bench sees the packages of .venv and has the competitors beside them, so .venv stays as it is locked.
BENCH := .venv-bench/.installed-$(KEY)
SITE = import site; print(site.getsitepackages()[0])

$(BENCH): $(STAMP)
	@$(BIN)/python -m venv .venv-bench
	@printf '%s\n' $(CURDIR) "$$($(BIN)/python -c '$(SITE)')" > "$$(.venv-bench/bin/python -c '$(SITE)')/rosepo.pth"
	@.venv-bench/bin/python -m pip install -qq --disable-pip-version-check $(COMPETITORS)
	@rm -f .venv-bench/.installed-*
	@touch $@

bench: $(BENCH)  ## measure the language-model kernels (about 16 minutes, one idle core)
	.venv-bench/bin/python benchmarks/step.py
	.venv-bench/bin/python benchmarks/scoring.py
	.venv-bench/bin/python benchmarks/report.py

bench-full: $(BENCH)  ## every figure of docs/benchmarks.md (some hours)
	.venv-bench/bin/python benchmarks/step.py --full --model ISSUE LARGE QUICKSTART
	.venv-bench/bin/python benchmarks/scoring.py --full
	.venv-bench/bin/python benchmarks/catalogue_search.py
	.venv-bench/bin/python benchmarks/oracle_service.py
	.venv-bench/bin/python benchmarks/ray_overhead.py
	.venv-bench/bin/python benchmarks/ray_overhead.py --quick
	.venv-bench/bin/python benchmarks/data_vs_polars.py
	.venv-bench/bin/python benchmarks/report.py

# The site reads the sources without importing them, so .venv-docs holds the extra `docs` of pyproject.toml alone.
SITE_TOOLS := mkdocs==1.6.1 mkdocs-material==9.8.2 mkdocstrings==1.0.8 mkdocstrings-python==2.0.11
DOCS := .venv-docs/.installed-$(KEY)

$(DOCS):
	@test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install -qq --disable-pip-version-check $(SITE_TOOLS)
	@rm -f .venv-docs/.installed-*
	@touch $@

docs: $(DOCS)  ## the site in site/, which needs no server and no other host
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict

lint: $(STAMP)  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environments and caches; runs/ stays
	rm -rf .venv .venv-bench .venv-docs site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
