# One environment for every target, with no more than the targets need that were made; `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
# A CPU wheel is enough for the demo and the tests. For a GPU: make setup TORCH="torch>=2.9,<2.14"
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed-runtime
STAMP := $(VENV)/.installed
DEMO_FLAGS ?=
# A directory: each benchmark writes its figures there.
BENCH_RESULTS ?=
# One thread a process: with two, processes wait for each other where there are as many of them as cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal
results = $(if $(BENCH_RESULTS),--json $(BENCH_RESULTS)/$(1).json)

.DEFAULT_GOAL := help
.PHONY: help setup browser demo demo-full test test-slow coverage docs pictures bench gpu-hour lint type check clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

$(RUNTIME): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tabom needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(STAMP): $(RUNTIME)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

setup: $(STAMP) ## Create the environment in .venv with all tools, or bring it up to date

demo: $(RUNTIME) ## Base model, trajectories, trainings, tables and figures under runs/demo (about 4 minutes; resumes)
	$(BIN)/tabom demo $(DEMO_FLAGS)

demo-full: $(RUNTIME) ## All methods at several learning rates, compared at equal forgetting, under runs/demo-full (resumes)
	$(BIN)/tabom demo --full $(DEMO_FLAGS)

browser: ## Install Chromium for the tests of pages, where there is none (Debian and Ubuntu, as root)
	command -v chromium || command -v google-chrome || { apt-get update --quiet && apt-get install --yes --quiet chromium; }

test: $(STAMP) $(if $(CI),browser) ## Run the tests, without the slow ones
	$(PYTEST)

coverage: $(STAMP) ## The same with the share of lines that they run, at least 90 % (takes more than twice as long)
	$(PYTEST) --cov=tabom --cov-fail-under=90

test-slow: $(STAMP) ## Run the slow tests that need no GPU, and the property tests with many more examples
	$(PYTEST) --hypothesis-profile=slow -m "(slow or hypothesis) and not gpu and not network"

docs: $(STAMP) ## Build the documentation site into site/, with warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

pictures: $(STAMP) ## Take the pictures in the README of runs/demo: docs/viewer.gif and docs/report.png
	$(BIN)/python docs/pictures.py

bench: export OMP_NUM_THREADS = 1
bench: $(STAMP) ## Training step, token statistics, loader, decoding, growth, peers, start and side by side, as ratios, on this CPU (about an hour)
	$(BIN)/python benchmarks/token_statistics.py $(call results,token_statistics)
	$(BIN)/python benchmarks/train_step.py $(call results,train_step)
	$(BIN)/python benchmarks/data.py $(call results,data)
	$(BIN)/python benchmarks/scaling.py $(call results,scaling)
	$(BIN)/python benchmarks/distill.py --batch 16 $(call results,distill-blocks)
	$(BIN)/python benchmarks/distill.py --batch 16 --block 48 $(call results,distill-no_blocks)
	$(BIN)/python benchmarks/peers.py $(call results,peers)
	$(BIN)/python benchmarks/block_cache.py $(call results,block_cache)
	$(BIN)/python benchmarks/start.py $(call results,start)
	$(BIN)/python benchmarks/side_by_side.py $(call results,side_by_side)

gpu-hour: $(STAMP) ## Everything to be known about one GPU of 80 GB or more, in 25 minutes (DRY=1: tiny, on a CPU)
	$(BIN)/python benchmarks/gpu_hour.py $(if $(DRY),--dry) \
		--output_dir $(or $(BENCH_RESULTS),$(if $(DRY),runs/gpu-hour-dry,benchmarks/results/gpu-$(shell date +%Y-%m-%d)))

lint: $(STAMP) ## Check style and format
	$(BIN)/ruff check && $(BIN)/ruff format --check

type: $(STAMP) ## Check types
	$(BIN)/pyright

check: lint type test ## Everything that must be green before a commit

clean: ## Remove caches (keeps .venv and runs)
	rm -rf .pytest_cache .ruff_cache .hypothesis .coverage
