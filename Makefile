# `make demo` and `make test` need nothing but Python >= 3.11 and a package index.
# make <target> ARGS="…" hands arguments on; PYTHON=… and VENV=… choose another interpreter or folder.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: help demo test up lint types catalog openapi migrate bench
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## distil, measure and serve a student on the example data (ARGS=--exit: stop at the end)
	$(BIN)/python examples/support_intents/demo.py $(ARGS)

test: $(VENV)/.dev ## every test that needs no accelerator (ARGS: pytest's)
	$(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

up: $(VENV)/.demo ## the whole service on one port (ARGS="--port 8000 --data .retort")
	$(BIN)/retort up $(ARGS)

lint: $(VENV)/.dev ## ruff and the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

catalog: $(VENV)/.dev ## app/domain/catalog.json from the plug-ins
	$(BIN)/python -m worker.catalog_export

openapi: $(VENV)/.dev ## the OpenAPI document that the contract test compares with
	$(BIN)/python -m app.api.openapi

migrate: $(VENV)/.demo ## bring the database of DATABASE_URL (or RETORT_DATA_DIR) to the newest schema
	$(BIN)/retort migrate $(ARGS)

bench: $(VENV)/.demo ## the figures of README.md on BANKING77 (ARGS="--size small")
	$(BIN)/python -m bench.banking77 $(ARGS)

# The stamps: installed once, again when the lists change. The `dev` extra holds all of `demo`.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes on a new machine) …"
	@$(INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes on a new machine) …"
	@$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.demo $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Retort needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
