# Each target first installs .venv from requirements.lock, unless it is up to date.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed-from-lock
UV_VERSION := $(shell sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock)
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Fast tests of every room, for the loop of work.
QUICK := tests/networks --ignore=tests/networks/test_backbones.py tests/plane tests/test_repository.py \
	tests/data/test_decode.py tests/data/test_sets.py tests/data/test_sources.py tests/evaluation/test_consistency.py \
	tests/evaluation/test_parallel.py tests/export/test_bundle.py tests/registry/test_serving.py tests/export/test_weights.py \
	tests/infra/test_compose.py tests/pipelines/test_deploy.py tests/pipelines/test_graph.py tests/pipelines/test_train.py \
	tests/synthesis/test_edit.py tests/training/test_seam.py tests/training/test_losses.py tests/viewer/test_scheduler.py

.PHONY: help install run test test-quick bench lint lock clean push pull deploy deps cluster cluster-test

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/make \1\t/p' $(MAKEFILE_LIST) | expand -t 19

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'make: Python 3.11 or newer is needed; set PYTHON=/path/to/python3'; exit 2; }
	@echo "make: installing the environment from requirements.lock into .venv (about 6 GB with the CUDA build of torch)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --compile-bytecode --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

install: $(STAMP)  ## install the environment in .venv

run: $(STAMP)  ## run the stages that are out of date: ingest, prepare, train, evaluate, export
	@python -m pipelines.flow

# A file stays on one worker, what it shares is made once; tests/conftest.py says which files come first.
test: $(STAMP) lint  ## run all tests and lint
	@python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/cluster

test-quick: $(STAMP)  ## fast tests of every room, without lint: less than a minute
	@python -m pytest -n 2 --dist loadfile $(QUICK)

lint: $(STAMP)  ## check style, types and imports between packages
	@ruff check . && ruff format --check . && lint-imports && basedpyright --level error

push: $(STAMP)  ## send outputs to DVC's remote
	@python -m pipelines.services.dvc_remote push

pull: $(STAMP)  ## fetch outputs from DVC's remote
	@python -m pipelines.services.dvc_remote pull

deploy: $(STAMP)  ## create or update pools, limits, automations and deployments on PREFECT_API_URL
	@python -m pipelines.deployment.deploy

cluster: $(STAMP)  ## run PostgreSQL, S3, Prefect, MLflow and two workers on this machine, until Ctrl-C
	@python tests/cluster/servers.py

cluster-test: $(STAMP)  ## test the pipeline on such a cluster: concurrent runs, kills, unreachable servers
	@python -m pytest tests/cluster

bench: $(STAMP)  ## measure training, rendering, reading and tiles; write the table of docs/performance.md
	@python benchmarks/bench.py

lock: $(STAMP)  ## update requirements.lock from pyproject.toml
	@uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras --group services --no-header --quiet -o requirements.lock pyproject.toml

deps: $(STAMP)  ## update the deps of dvc.yaml from the imports of each stage
	@python -m pipelines.dependencies

clean:  ## remove the outputs of runs; keep the environment and downloads
	rm -rf data out mlflow.db mlartifacts .anyres/locks .anyres/prefect
