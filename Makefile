# Every command of the project; `make help` lists them. The environment is made on first use.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SOURCE ?= simulated
LOG ?=
HOME_DIR ?= .longreel/$(SOURCE)
ARGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: help run test test-slow ui status setup lint types check lock pipeline-yaml clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: $(READY) java ## run the main job: SOURCE=simulated|kuairand|generic LOG=FOLDER [HOME_DIR=...]
	@$(BIN)/longreel run --source $(SOURCE) --home $(HOME_DIR) $(if $(LOG),--log "$(LOG)") $(ARGS)

test: $(READY) java ## lint, types and the default test suite
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q -m "not slow" $(ARGS)

test-slow: $(READY) java ## the tests that run real schedulers and whole pipelines
	$(BIN)/pytest -q -m slow $(ARGS)

ui: $(READY) ## open Airflow and MLflow on 127.0.0.1
	@$(BIN)/longreel ui --home $(HOME_DIR)

status: $(READY) ## partitions, freshness, champion, last decisions
	@$(BIN)/longreel status --home $(HOME_DIR)

setup: $(READY) java ## make the environment and nothing else

lint: $(READY) ## format and lint
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

types: $(READY) ## type-check
	$(BIN)/mypy

pipeline-yaml: $(READY) ## compile the KFP pipeline
	$(BIN)/python -m components.pipeline

lock: ## resolve pyproject's packages anew into requirements.lock
	$(PYTHON) .ci/lock.py

clean: ## remove the environment and the embedded homes
	rm -rf $(VENV) .longreel

.PHONY: java
java:
	@bash .ci/java.sh

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"error: Python 3.11 is needed, {sys.executable} is {v[0]}.{v[1]}; set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV) (about 3 minutes, 3 GB)"
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)
