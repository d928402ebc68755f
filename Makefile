# make env | demo | test | check | docs | lock | env-gpu | clean      (docs/environments.md)
#
#   VENV=.venv       where the environment is
#   PYTHON=3.11      version or path of the interpreter it is made from
#   CONFIG=...       sweep file of `make demo`
#   ARGS=...         passed on to pytest or to the resolver
#   WORKERS=2        processes that run tests, each whole files
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PYTHON ?= 3.11
CONFIG ?= configs/demo.yaml
ARGS ?=
WORKERS ?= 2
bin := $(abspath $(VENV))/bin

export PYTHON
export PYTHONUNBUFFERED := 1
# Nothing here reports its use to anybody unless the caller wants it.
export MLFLOW_DISABLE_TELEMETRY ?= true
export VLLM_NO_USAGE_STATS ?= 1

.PHONY: help env env-cpu env-gpu demo test check check-code check-docs check-pins docs lock format clean clean-env

help:
	@sed -n '/^# make/,/^SHELL/{/^#/s/^#  \{0,1\}//p}' $(firstword $(MAKEFILE_LIST))

env:            # The environment, CPU unless it was made with env-gpu; nothing to do when the pins have not changed.
	@scripts/env.sh "$(VENV)" keep

env-cpu:
	@scripts/env.sh "$(VENV)" cpu

env-gpu:
	@scripts/env.sh "$(VENV)" gpu

demo: env       # The sweep of configs/demo.yaml; what is finished already is reused.
	@PATH="$(bin):$$PATH" MLFLOW_TRACKING_URI="$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}" \
	  mlflow run . -e sweep --env-manager local --experiment-name slim -P config="$(CONFIG)"

test: env
	@"$(bin)/python" -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

check: check-code check-docs check-pins

check-code: env
	@"$(bin)/ruff" format --check .
	@"$(bin)/ruff" check .
	@"$(bin)/mypy"

check-docs: env
	@"$(bin)/python" scripts/docs.py --check

check-pins:     # Resolves the pins again, for each Python that they serve: needs a package index.
	@scripts/uv run --quiet --no-project --python 3.11 python scripts/pins.py check

docs: env
	@"$(bin)/python" scripts/docs.py

lock:           # Writes the pins; ARGS=--upgrade for the newest versions that the .in files allow.
	@scripts/uv run --quiet --no-project --python 3.11 python scripts/pins.py lock $(ARGS)

format: env
	@"$(bin)/ruff" format .
	@"$(bin)/ruff" check --fix .

clean:          # What tools leave behind; neither environment nor results.
	@rm -rf build *.egg-info .mypy_cache .ruff_cache .hypothesis
	@find slim analysis entrypoints benchmarks scripts tests -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

clean-env:
	@rm -rf "$(VENV)" .venv-uv
