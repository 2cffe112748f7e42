# Every command of the project; `make help` lists them. The first use creates the environment.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
SOURCE ?= simulated
LOG ?=
HOME_DIR ?= .longreel/$(SOURCE)
ARGS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.installed
JAVA := JAVA_HOME=$$(bash .ci/java.sh) && export JAVA_HOME

.PHONY: help run test test-slow ui status setup lint types lock reference pipeline-yaml train-job-yaml lock audit sbom clean
.DEFAULT_GOAL := help

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: $(READY) ## run the main job: SOURCE=simulated|shop|kuairand|generic LOG=FOLDER [HOME_DIR=...]
	@$(JAVA) && $(BIN)/longreel run --source $(SOURCE) --home $(HOME_DIR) $(if $(LOG),--log "$(LOG)") $(ARGS)

test: $(READY) ## lint, types and the default test suite
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	@$(JAVA) && $(BIN)/pytest -q -m "not slow" -n 2 --dist loadfile $(ARGS)

test-slow: $(READY) ## the tests that run real schedulers and whole pipelines
	@$(JAVA) && $(BIN)/pytest -q -m slow -n 2 --dist loadfile $(ARGS)

ui: $(READY) ## open Airflow and MLflow on 127.0.0.1
	@$(JAVA) && $(BIN)/longreel ui --home $(HOME_DIR)

status: $(READY) ## show partitions, freshness, champion and the last decisions
	@$(BIN)/longreel ops status --home $(HOME_DIR)

setup: $(READY) ## create the environment and nothing else
	@$(JAVA)

lint: $(READY) ## format and lint
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

types: $(READY) ## type-check
	$(BIN)/mypy

reference: $(READY) ## write docs/reference from the parsers and the configuration
	$(BIN)/python -m longreel.reference

pipeline-yaml: $(READY) ## compile the KFP pipeline
	$(BIN)/python -m longreel.components.pipeline

train-job-yaml: ## render the TrainJobs that the training DAG creates on a cluster
	@for place in base:day overlays/dev:overlays/dev/day overlays/prod:overlays/prod/day; do \
	  kubectl kustomize manifests/$${place#*:} | awk -v RS='---\n' -v ORS= '/\nkind: TrainJob\n/' > manifests/$${place%:*}/train-job.yaml; \
	done

lock: ## resolve pyproject's packages into requirements.lock
	$(PYTHON) .ci/lock.py

audit: ## published vulnerabilities of the locked packages, where their database can be reached
	@$(PYTHON) .ci/audit.py

sbom: ## write sbom.json, the bill of materials (CycloneDX)
	@$(PYTHON) .ci/sbom.py sbom.json

clean: ## remove the environment and the embedded homes
	rm -rf $(VENV) .longreel

$(READY): requirements.lock pyproject.toml .ci/install.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) else f"error: Python 3.11 is needed, {sys.executable} is {v[0]}.{v[1]}; set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages into $(VENV) (about 3 minutes, 3 GB)"
	@$(BIN)/python .ci/install.py all
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)
