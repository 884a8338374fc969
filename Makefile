# Two commands do everything, set-up included:  make run   and   make test
# Safe to run twice; the second time is fast.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup run test chaos check lock bench clean

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

setup: $(READY) ## the virtual environment (.venv) with everything in it

# torch comes apart from the lock: a CPU build that is already there is kept. Last, everything is compiled once.
$(READY): pyproject.toml requirements-dev.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet 'torch>=2.4'
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m shoal.stream.kernels
	touch $@

run: setup ## the main job on simulated events, no broker: under a minute
	$(BIN)/shoal demo

test: setup ## all tests, a real Kafka and a real Prometheus included
	sh tests/parts.sh
	$(BIN)/python -m pytest -n 2 --dist loadscope

chaos: setup ## three engines on a real broker, 200 faults and an audit; SEED=n FAULTS=n CLIENT=confluent
	PYTHONPATH=tests $(BIN)/python -m chaos --faults $(or $(FAULTS),200) $(if $(SEED),--seed $(SEED)) \
	  --client $(or $(CLIENT),kafka-python)

check: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup ## the measurements that the README quotes
	$(BIN)/python tests/with_broker.py $(BIN)/shoal bench pipeline --kafka {}
	$(BIN)/python tests/with_broker.py $(BIN)/shoal bench guarantee --kafka {}
	$(BIN)/shoal bench recovery
	$(BIN)/shoal bench segmenter
	$(BIN)/shoal bench windows

# torch and what it brings are left out: whoever has a CPU build keeps it.
lock: setup ## write requirements*.lock anew (no registry addresses in them)
	$(BIN)/python -m pip install --quiet pip-tools
	mkdir -p build
	$(BIN)/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  run = [d for d in p['dependencies'] if not d.startswith('torch')]; \
	  open('build/run.in', 'w').write('\n'.join(run)); \
	  open('build/dev.in', 'w').write('\n'.join(run + p['optional-dependencies']['dev']))"
	$(BIN)/pip-compile $(LOCK) --output-file requirements.lock build/run.in
	$(BIN)/pip-compile $(LOCK) --output-file requirements-dev.lock build/dev.in

LOCK := --quiet --generate-hashes --strip-extras --allow-unsafe --no-annotate --no-header --no-emit-options \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

clean: ## remove what was built here, compiled kernels too
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis out
	find stream encoders -name '*.nb[ci]' -delete
