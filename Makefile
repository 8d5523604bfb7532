# `make help` lists what is here. Everything runs from .venv, which each target makes for itself.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PYTHON ?=                       # the interpreter of .venv; empty: the newest of 3.11 to 3.13 on PATH
WORKERS ?= auto                 # processes that run the tests
TESTS ?= tests --ignore=tests/cluster --ignore=tests/chart/test_api_server.py   # what `make test` runs
EXTRAS ?= $(shell sed -n 's/^ARG EXTRAS=//p' services/Dockerfile)   # what of envmesh the image has
ARGUMENTS ?=                    # more arguments for pytest, the demo or the benchmark

bin := $(VENV)/bin
baseline := proto/baseline.binpb
product := clients/python services
python_code := $(product) tests tools benchmarks

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: TESTS=tests/unit  WORKERS=4  ARGUMENTS='-k name'  VENV=.venv  PYTHON=python3.12"

# ---- what a user needs

.PHONY: demo
demo: $(VENV)/.installed-demo ## A mesh of real environments here, 2,000 concurrent episodes for half a minute
	$(bin)/python -m envmesh_cli.demo $(ARGUMENTS)

.PHONY: setup
setup: $(VENV)/.installed-dev ## The virtual environment with everything needed to work on envmesh

# A full installation is also one for the demo, so the demo after `make setup` installs nothing.
$(VENV)/.installed-demo: pyproject.toml
	@tools/create_venv.sh $(VENV) $(PYTHON)
	@if [ $(VENV)/.installed-dev -nt pyproject.toml ]; then :; else \
	    echo "Installing envmesh with its environments into $(VENV) (about a minute, once)"; \
	    tools/install.sh $(VENV) '.[mesh,environments]'; fi
	@touch $@

$(VENV)/.installed-dev: pyproject.toml
	@tools/create_venv.sh $(VENV) $(PYTHON)
	@echo "Installing envmesh and its tools into $(VENV) (about a minute, once)"
	@tools/install.sh $(VENV) '.[dev]'
	@touch $@

# ---- checks

.PHONY: test
test: setup ## All tests, in parallel, but those that want a Kubernetes (make test-cluster)
	$(bin)/pytest -n $(WORKERS) $(TESTS) $(ARGUMENTS)

.PHONY: test-cluster
test-cluster: setup ## The tests that want a Kubernetes of their own, one after the other; the slow ones are for make cluster
	$(bin)/pytest -n 1 --timeout 300 tests/cluster tests/chart/test_api_server.py $(ARGUMENTS)

.PHONY: test-pythons
test-pythons: ## The unit tests on Python 3.11, 3.12 and 3.13, each in its own virtual environment
	tools/test_pythons.sh $(ARGUMENTS)

.PHONY: coverage
coverage: setup ## All tests with coverage, child processes included: a table here, pages in build/coverage
	$(bin)/pytest -n $(WORKERS) --cov --cov-report=term:skip-covered --cov-report=html:build/coverage \
	    --cov-report=xml:build/coverage.xml $(TESTS) $(ARGUMENTS)

.PHONY: lint
lint: setup ## ruff, mypy, the import contracts and the protocol's rules
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports --no-logo
	$(bin)/buf lint
	$(bin)/buf format --diff --exit-code

.PHONY: format
format: setup ## Formats the code and fixes what ruff can fix
	$(bin)/ruff format
	$(bin)/ruff check --fix
	$(bin)/buf format --write

# ---- the protocol

.PHONY: proto
proto: setup ## The Python code of the protocol, from proto/ into clients/python/envmesh/v1
	$(bin)/python tools/generate_protos.py

.PHONY: proto-check
proto-check: setup ## Fails when the committed code differs from proto/, or a change breaks the protocol for those who speak it
	$(bin)/python tools/generate_protos.py --check
	$(bin)/buf breaking --against $(baseline)

# A file, for a shallow clone has neither tags nor main. It holds what later changes may not break.
.PHONY: proto-baseline
proto-baseline: setup ## At a release: makes the protocol as it is now the one that later changes may not break
	$(bin)/buf build --exclude-source-info --output $(baseline)

# ---- the image

.PHONY: image
image: ## The image that every service runs, by docker, podman or buildah; EXTRAS=mesh,kubernetes: smaller
	tools/image.sh build --build-arg EXTRAS=$(strip $(EXTRAS)) $(ARGUMENTS)

.PHONY: base-image
base-image: ## Where no registry of images can be reached: a base of Debian's packages (root, debootstrap), for make image
	tools/image.sh base

.PHONY: wheels
wheels: $(VENV)/.installed-demo ## What the image needs of Python's packages, into build/wheels, for a build without an index
	rm -rf build/wheels
	$(bin)/python -m pip wheel --quiet --wheel-dir build/wheels '.[$(strip $(EXTRAS))]' 'hatchling>=1.27'
	rm -f build/wheels/envmesh-*

# ---- Kubernetes

.PHONY: chart-reference
chart-reference: setup ## The chart's values.schema.json and README.md, from values.yaml and the settings classes
	$(bin)/python -m tools.chart_reference

.PHONY: control-plane
control-plane: ## A Kubernetes for the cluster tests, built from pinned Go modules into build/control-plane (Go 1.26)
	tests/cluster/control_plane/build.sh build/control-plane

.PHONY: cluster-short
cluster-short: setup ## The short form of the cluster tests, which CI runs: one cluster, a few minutes
	$(bin)/pytest -n 0 --timeout 240 tests/cluster/test_short_form.py $(ARGUMENTS)

.PHONY: cluster
cluster: setup ## The chart on a real control plane: all of tests/cluster, the slow ones too
	ENVMESH_CLUSTER=all $(bin)/pytest -n 1 tests/cluster $(ARGUMENTS)

# ---- monitoring

.PHONY: monitor
monitor: setup ## A local mesh with a real Prometheus beside it (and Grafana, where it is installed), on this machine
	$(bin)/python -m tools.monitor $(ARGUMENTS)

.PHONY: dashboards
dashboards: setup ## The Grafana dashboards, from tools/dashboards into helm/envmesh/dashboards
	$(bin)/python -m tools.generate_dashboards

.PHONY: dashboards-check
dashboards-check: setup ## Fails when the committed dashboards differ from tools/dashboards
	$(bin)/python -m tools.generate_dashboards --check

# ---- measuring

.PHONY: bench
bench: setup ## The benchmark: envmesh and its peers side by side, JSON under benchmarks/results
	$(bin)/python -m benchmarks $(ARGUMENTS)

.PHONY: chaos
chaos: setup ## Accidents of every kind for MINUTES=5 to a mesh with 1,000 episodes; SEED=... repeats a schedule
	$(bin)/python -m tests.chaos --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) $(ARGUMENTS)

.PHONY: screenshots
screenshots: setup ## The documentation's pictures of the pages, in light and dark (needs chromium and chromium-driver)
	$(bin)/python tools/take_screenshots.py

.PHONY: clean
clean: ## Removes what was made here, the virtual environments included
	rm -rf $(VENV) .venv-3.* build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
	find $(python_code) -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
