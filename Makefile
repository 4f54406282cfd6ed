# Everything a person needs: make setup | test | lint | demo | help.
# Needs python3.11 (or PYTHON=...) and make; a C++ compiler makes some things faster. The rest goes into .venv.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
NATIVE := native/CMakeLists.txt $(wildcard native/*/*.cpp native/*/*.hpp)

.DEFAULT_GOAL := help
.PHONY: help setup setup-demo lint format test demo clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(VENV)/stamp-dev ## create .venv with everything needed to develop and test

setup-demo: $(VENV)/stamp-demo ## create .venv with everything needed to run recipes

# torch goes first and alone: the resolver must not look for it among the other requirements.
$(VENV)/stamp-torch:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install torch==2.13.0
	touch $@

$(VENV)/stamp-dev: $(VENV)/stamp-torch pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install -e '.[dev]'
	touch $(VENV)/stamp-demo $@

$(VENV)/stamp-demo: $(VENV)/stamp-torch pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install -e '.[onnx,data]'
	touch $@

lint: setup ## ruff (rules and format) and mypy --strict
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup ## rewrite files in the house format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# One thread per worker: results do not depend on it, and two workers fill two cores.
test: lint ## lint, types and all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --durations=15

demo: setup-demo ## the digits recipe from training to report, in runs/digits/
	$(BIN)/dyadiq run recipes/digits.toml

clean: ## remove caches and build outputs (keeps .venv and runs)
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
