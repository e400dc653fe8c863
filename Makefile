# `make` alone prints what there is. Every target sets itself up: a fresh clone with Python 3.11 or newer is enough.

.DEFAULT_GOAL := help
VENV := .venv
READY := $(VENV)/.ready

.PHONY: help setup run demo proto check test unit seeds simulate fairness replay texts bite chaos soak bench http-fuzz interop clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## a virtual environment in .venv, from requirements.lock, hashes checked

$(READY): requirements.lock pyproject.toml scripts/setup
	@scripts/setup $(VENV)
	@touch $@

run: setup ## the server on a simulated market: nothing costs money
	@$(VENV)/bin/gpuproxy serve --sandbox

demo: setup ## rent four GPUs on a simulated market, look at them, give them back
	@$(VENV)/bin/python scripts/demo.py

proto: setup ## regenerate gpuproxy/v1 from proto/
	@$(VENV)/bin/python scripts/proto

check: setup ## style, types, layers, sizes, generated files: everything but the tests
	@scripts/check

test: setup ## all tests, on two cores; ARGS="--shuffle" for another order, ARGS=tests/rental for some
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

unit: setup ## the tests without processes and long stories, in less than a minute
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal --unit $(ARGS)

seeds: setup ## tests that repeat one rule over random seeds, at their full size
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal --all-seeds -m seeds $(ARGS)

simulate: setup ## 10,000 random stories of faults and crashes in virtual time; SEEDS=N or FROM-TO, SEED=N replays one
	@PYTHONHASHSEED=0 $(VENV)/bin/python -m scripts.simulate

replay: setup ## 300 recorded schedules of the simulation must end as recorded: no change of behaviour by accident
	@PYTHONHASHSEED=0 $(VENV)/bin/python -m scripts.replay

chaos: setup ## the real server killed with kill -9 at random moments under load, 200 times; KILLS=N
	@$(VENV)/bin/python -m scripts.chaos

soak: setup ## 48 hours of a market's time under random callers and faults, in 12 minutes; HOURS=N, SCALE=N
	@$(VENV)/bin/python -m scripts.soak

fairness: setup ## one project floods an account; another's reserve and destroy must hardly notice; SEEDS=N
	@PYTHONHASHSEED=0 $(VENV)/bin/python -m scripts.fairness

bite: setup ## do the tests bite? known mistakes are planted in a copy, one by one, and each must be caught
	@$(VENV)/bin/python -m scripts.bite

texts: setup ## twenty texts of the project for a reader who does not know it; SEED=N, COUNT=N
	@$(VENV)/bin/python -m scripts.texts

bench: setup ## speed and memory, as ratios measured in one run
	@$(VENV)/bin/python -m scripts.bench

http-fuzz: setup ## thousands of generated HTTP requests against the server's own OpenAPI description
	@$(VENV)/bin/python -m scripts.http_fuzz

interop: setup ## other people's clients against the real server: Go, Node, grpcurl; needs Go, Node and npm
	@$(VENV)/bin/python -m scripts.interop

clean: ## remove the virtual environment and caches; never a database
	@rm -rf $(VENV) .venv-vastai .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .interop build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
