# `make` alone prints what there is. Every target sets itself up: a fresh clone with Python 3.11 or newer is enough.

.DEFAULT_GOAL := help
VENV := .venv
export LOOP ?= asyncio
export TEST_STORE ?= $(or $(STORE),sqlite)
# Without its cache of compiled modules, Python would compile everything anew in each of hundreds of processes.
unexport PYTHONDONTWRITEBYTECODE
READY := $(VENV)/.ready

.PHONY: help setup run demo proto check test unit seeds simulate markets pools drill ledger fairness limits replicas replay texts bite chaos soak cluster bench http-fuzz assets browser screenshots interop dist clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## a virtual environment in .venv, from requirements.lock, hashes checked

$(READY): requirements.lock pyproject.toml scripts/setup
	@scripts/setup $(VENV)
	@touch $@

run: setup ## the server on a simulated market: nothing costs money
	@$(VENV)/bin/gpuproxy serve --sandbox

demo: setup ## rent four GPUs on a simulated market, show them, release them
	@$(VENV)/bin/python scripts/demo.py

proto: setup ## regenerate gpuproxy/v1 from proto/
	@$(VENV)/bin/python scripts/proto

check: setup ## style, types, layers, sizes, generated files: everything except the tests
	@scripts/check

test: setup ## all tests, a sample of the cases of some (make seeds has all); ARGS="--shuffle" for another order, ARGS=tests/rental for some; LOOP=uvloop; STORE=postgres
	@$(VENV)/bin/python -m pytest -n 5 --dist worksteal $(ARGS)

unit: setup ## the fast tests: no processes, no long runs
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal --unit $(ARGS)

seeds: setup ## tests that repeat one rule over seeds or cases: all of those of which make test runs a fixed sample
	@$(VENV)/bin/python -m pytest -n 3 --dist worksteal --all-seeds -m "seeds or sampled" $(ARGS)

simulate: setup ## 10,000 random runs with faults and crashes, in virtual time; SEEDS=N or FROM-TO, SEED=N replays one
	@PYTHONHASHSEED=0 $(VENV)/bin/python -m scripts.simulate

markets: setup ## 2,000 random runs with two marketplaces and several accounts each; SEEDS=N or FROM-TO, SEED=N
	@PYTHONHASHSEED=0 $(VENV)/bin/python -m scripts.markets

pools: setup ## 10,000 incidents of warm pools with faults and crashes, in virtual time; INCIDENTS=N, SEEDS=FROM-TO, SEED=N
	@PYTHONHASHSEED=0 $(VENV)/bin/python -m scripts.pools

drill: setup ## 1,000 failovers at vast.ai's boot times, in virtual time, with the time of each phase; COUNT=N
	@PYTHONHASHSEED=0 $(VENV)/bin/python -m scripts.drill

limits: setup ## 100,000 random operations on holds and limits: spent + held <= limit at every commit; OPS=N, SEED=N
	@$(VENV)/bin/python -m scripts.limits

replicas: setup ## 10,000 random runs of two and three servers on one database; SEEDS=N or FROM-TO, SEED=N replays one
	@PYTHONHASHSEED=0 $(VENV)/bin/python -m scripts.replicas

replay: setup ## repeats 300 recorded runs of the simulation; each must end as recorded
	@PYTHONHASHSEED=0 $(VENV)/bin/python -m scripts.replay

chaos: setup ## kills the real server under load, 200 times with kill -9 at random moments; KILLS=N
	@$(VENV)/bin/python -m scripts.chaos

cluster: setup ## three servers on one PostgreSQL with a standby: 200 incidents under load, the history checked by Porcupine; INCIDENTS=N, SEED=N; needs PostgreSQL and Go
	@$(VENV)/bin/python -m scripts.cluster

soak: setup ## 48 hours of market time with random callers and faults, in 12 minutes; HOURS=N, SCALE=N
	@$(VENV)/bin/python -m scripts.soak

ledger: setup ## 1,000,000 random units of work on the ledger; after each, debits equal credits
	@STORIES=10 $(VENV)/bin/python -m pytest -n 2 --all-seeds tests/store/test_ledger.py -k debits

fairness: setup ## one project floods an account, and another one must be served as fast as before; SEEDS=N
	@PYTHONHASHSEED=0 $(VENV)/bin/python -m scripts.fairness

bite: setup ## plants known mistakes in a copy, one by one; the tests must catch each
	@$(VENV)/bin/python -m scripts.bite

texts: setup ## prints twenty random texts of the project, to be judged by a new reader; SEED=N, COUNT=N
	@$(VENV)/bin/python -m scripts.texts

bench: setup ## speed and memory, as ratios measured in one run
	@$(VENV)/bin/python -m scripts.bench

http-fuzz: setup ## thousands of generated HTTP requests against the server's own OpenAPI description
	@$(VENV)/bin/python -m scripts.http_fuzz

assets: setup ## fetch the dashboard's scripts again, pinned by hash; needs npm
	@$(VENV)/bin/python scripts/web_assets.py

browser: setup ## the dashboard in a real browser: clicks, axe-core, no foreign request; needs Chromium and npm
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/browser/requirements.lock
	@$(VENV)/bin/python scripts/web_assets.py --tests
	@$(VENV)/bin/python scripts/web_assets.py --check
	@BROWSER=1 $(VENV)/bin/python -m pytest --all-seeds tests/browser $(ARGS)

screenshots: setup ## pictures of the dashboard on a simulated market, into docs/dashboard/; needs what make browser needs
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/browser/requirements.lock
	@$(VENV)/bin/python -m scripts.screenshots

interop: setup ## clients in other languages against the real server: Go, Node, grpcurl; needs Go, Node and npm
	@$(VENV)/bin/python -m scripts.interop

dist: setup ## the wheel and the sdist in dist/, tried in empty environments; ARGS=--build-only installs nothing
	@$(VENV)/bin/python -m scripts.packages $(ARGS)

clean: ## remove the virtual environment and caches; never a database
	@rm -rf $(VENV) .venv-vastai .venv-ionet .venv-deploy .browser .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .interop build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
