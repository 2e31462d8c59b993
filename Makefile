# Everything a person or a machine does with this repository. `make help` lists it.
# What each target needs is set up first, once; what takes long is kept outside the checkout, in ~/.cache/tortie.

.DEFAULT_GOAL := help
.PHONY: help lab test check unit functional bench wheel lock clean setup _user _root _lint
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

export PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.tortie-stamp
PYTEST := $(BIN)/pytest

help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

lab: setup ## a whole fabric on this machine, with pods; shows that it works and leaves it running
	@$(BIN)/tortie-lab demo

test: setup ## every check and every test; needs root; what .ci/run runs
	@# What lint has to say comes first and fails the run, but a long line does not keep the tests from running.
	@lint=0; $(MAKE) _lint || lint=1; $(PYTEST) && exit $$lint

check: _user _lint unit ## format, lint, types, imports, unit tests: under 20 s, no root

unit: _user ## tests that need neither root nor an API server
	@$(PYTEST) -q -n auto -m "not root and not cluster_api and not lab"

functional: setup ## tests on network namespaces and a real API server, without the fabric
	@$(PYTEST) -m "(root or cluster_api) and not lab"

bench: setup ## speed beside others': a table, and build/bench.jsonl; `make bench ONLY=name` for one
	@mkdir -p build
	@$(BIN)/python -m tests.bench $(ONLY)

wheel: _user ## the distribution, in dist/
	@$(BIN)/hatchling build -t wheel

lock: _user ## resolve the dependencies of pyproject.toml anew into requirements.lock
	@$(PYTHON) -m venv build/uv && build/uv/bin/pip install --quiet uv
	@build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
	    --custom-compile-command "make lock" --upgrade --output-file requirements.lock pyproject.toml

clean: ## remove what was made in the checkout; the cache outside it stays
	@rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup: _root ## only the set-up: packages, Python environment, control plane binaries, CNI program
	@$(BIN)/python -m lab.packages
	@$(BIN)/python -m lab.binaries
	@$(BIN)/python -m cni.build >/dev/null

_root:
	@sh lab/preflight.sh root $(firstword $(MAKECMDGOALS))
	@$(MAKE) --silent $(STAMP)

_user:
	@[ -e $(STAMP) ] || sh lab/preflight.sh user
	@$(MAKE) --silent $(STAMP)

_lint:
	@$(BIN)/ruff format --check --quiet . || { echo "tortie: not formatted; run $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

# The environment, from hashes; made anew only when what it is made of changes.
$(STAMP): requirements.lock pyproject.toml
	@echo "  setting up the Python environment in .venv"
	@# Not whether python is there, for that comes first: an interrupted venv has it and no pip.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)
