# Each target does its own set-up: .venv from requirements.lock, reused while the lock is unchanged.
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

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*##/make \1\t/p' $(MAKEFILE_LIST) | expand -t 19

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'make: Python 3.11 or newer is needed; say PYTHON=/path/to/python3'; exit 2; }
	@echo "make: installing the environment from requirements.lock into .venv (about 6 GB with the CUDA build of torch)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --compile-bytecode --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

install: $(STAMP)  ## the environment alone, in .venv

run: $(STAMP)  ## ingest, prepare, train, evaluate, export: whatever is out of date
	@python -m pipelines.flow

# A file stays on one worker, what it shares is made once; tests/conftest.py says which files come first.
test: $(STAMP) lint  ## all tests
	@python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/cluster

test-quick: $(STAMP)  ## fast tests of every room, without lint: less than a minute
	@python -m pytest -n 2 --dist loadfile $(QUICK)

lint: $(STAMP)  ## style, types and who may import whom
	@ruff check . && ruff format --check . && lint-imports && basedpyright --level error

push: $(STAMP)  ## send outputs to DVC's remote
	@python -m pipelines.services.dvc_remote push

pull: $(STAMP)  ## bring outputs from DVC's remote
	@python -m pipelines.services.dvc_remote pull

deploy: $(STAMP)  ## pools, limits, automations and deployments on the server of PREFECT_API_URL
	@python -m pipelines.deployment.deploy

cluster: $(STAMP)  ## PostgreSQL, S3, Prefect, MLflow and two workers on this machine, until Ctrl-C
	@python tests/cluster/servers.py

cluster-test: $(STAMP)  ## the pipeline on such a cluster: twice at once, killed, with servers away
	@python -m pytest tests/cluster

bench: $(STAMP)  ## how fast training, rendering, reading and tiles are; writes the table of docs/performance.md
	@python benchmarks/bench.py

lock: $(STAMP)  ## write requirements.lock anew from pyproject.toml
	@uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras --group services --no-header --quiet -o requirements.lock pyproject.toml

deps: $(STAMP)  ## write the deps of dvc.yaml anew, from what each stage imports
	@python -m pipelines.dependencies

clean:  ## remove what runs have made; the environment and downloads stay
	rm -rf data out mlflow.db mlartifacts .anyres/locks .anyres/prefect
