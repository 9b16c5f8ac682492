# Everything runs from a fresh clone with python3 and make; what is missing is made.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
STAMP := $(VENV)/.installed

.PHONY: demo test lint format bench docs pins clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make demo    a whole simulated experiment: measured, processed live, served and replayed"
	@echo "make test    every test"
	@echo "make lint    style, types and the direction of imports"
	@echo "make bench   the figures that decide"
	@echo "make docs    the generated pages of the reference, and the pictures of the explanations"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "operandi needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) -V 2>&1). Name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# uv is fast and pip always there.
$(STAMP): requirements.txt pyproject.toml | $(BIN)/python
	@echo "Installing operandi and its pinned dependencies into $(VENV) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) || true
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt \
	  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	$(BIN)/operandi demo --folder demo

# Python keeps what it compiled, wherever the environment says that it should not: tests start a dozen processes, 8 s each otherwise.
test: export PYTHONDONTWRITEBYTECODE :=
test: export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/bytecode
# Two sessions of tests share the cores: threads that wait for work must sleep, not spin.
test: export OMP_WAIT_POLICY := passive
test: export OPENBLAS_NUM_THREADS := 1
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

docs: $(STAMP)
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_instants.py
	$(BIN)/python docs/make_unrolling.py

# New pins: plain name==version lines, whatever index they came from.
pins: $(STAMP)
	$(BIN)/uv pip compile --quiet --all-extras --group dev --upgrade --no-annotate --no-header --no-emit-index-url \
	  --no-emit-find-links --no-strip-extras --python-version 3.11 -o requirements.txt pyproject.toml

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
