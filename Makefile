# Everything a newcomer needs. `make PYTHON=/usr/bin/python3 test` chooses the interpreter.

.PHONY: help demo test coverage lint fmt bench clean
.DEFAULT_GOAL := help

# The first interpreter that is new enough; the stamp below keeps it from being asked twice.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
LOCKED := $(VENV)/.locked
READY := $(VENV)/.ready
COMPILED := $(VENV)/.compiled
PIP_INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps
# Where shells forbid keeping bytecode, each of hundreds of processes would compile all of it anew.
unexport PYTHONDONTWRITEBYTECODE
# more than cores: many tests wait for a process, a socket or a heartbeat
WORKERS ?= 6
SHARED = -n $(WORKERS) --maxschedchunk=1
ARGS ?=

help:
	@echo 'make demo  ARGS="--accounts 25 --seconds 30"   PostgreSQL, Valkey, sandbox and daemon, from nothing'
	@echo 'make test  ARGS="-k ledger"                    all tests, or those that ARGS choose'
	@echo 'make coverage                                  the tests of parts again, with the coverage gate'
	@echo 'make lint | fmt | bench | clean'

demo: $(READY)
	@$(BIN)/brokerd demo $(ARGS)

test: $(COMPILED)
	$(BIN)/python -m pytest $(or $(ARGS),-q $(SHARED))

# Measuring is slow. Whole nodes are processes of their own; scenarios run what other tests run.
coverage: $(COMPILED)
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -q $(SHARED) -m 'not e2e' --ignore=tests/scenarios
	@$(BIN)/coverage combine -q
	$(BIN)/coverage report

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(READY)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python bench/run.py $(ARGS)

clean:
	rm -rf $(VENV) .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist
	find brokerd tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Pytest compiles tests itself: here once, or every worker would, under coverage. What is wrong
# with them is for the tests to say.
$(COMPILED): $(READY)
	@$(BIN)/python -m pytest -q --collect-only >/dev/null 2>&1 || true
	@touch $@

# Two steps, the lock and then ourselves, because pip refuses an editable beside hashes.
$(READY): $(LOCKED) pyproject.toml
	$(PIP_INSTALL) --no-build-isolation -e .
	@touch $@

$(LOCKED): requirements.lock
	@test -n "$(PYTHON)" || { echo 'brokerd needs Python 3.11 or later: install one, or make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo '$(PYTHON) is older than Python 3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo '$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP_INSTALL) --require-hashes -r requirements.lock
	@touch $@
