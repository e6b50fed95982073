.PHONY: help demo test lint fmt bench clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

help:
	@echo "make demo | test | lint | fmt | bench | clean"

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
