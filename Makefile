# Every target a newcomer needs; `make` alone lists them.
PYTHON ?= python3
VENV   := .venv/bin
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-crash test-deploy test-unit test-api test-kernels test-gpu test-security test-setup fuzz lint lock audit-packages format bench bench-gpu clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## build what a node needs: .venv, Docker engine, base image, one login as proof (root or sudo)
	$(PYTHON) main.py setup $(ARGS)

setup-dev: # the same with the tools of `make test` and `make lint`; shows only what it had to do
	@$(PYTHON) main.py setup --dev

demo: ## set-up, then the main job: miner, validator, renter (ARGS=--once ends by itself)
	@$(PYTHON) main.py setup
	$(VENV)/python main.py demo $(ARGS)

test: setup-dev ## set-up, then every test, several at once; without a Docker engine this fails (ARGS are pytest's)
	tests/run --require docker $(ARGS)

test-crash: $(VENV)/ruff ## kill -9 at each named step, at random moments, and in any order (root; CRASHES=100 LIVES=10; minutes)
	POLARISE_CRASHES=$(or $(CRASHES),100) POLARISE_LIVES=$(or $(LIVES),10) POLARISE_STEPS=12 tests/run --require docker,lab \
	  --timeout 7200 tests/e2e/test_crash.py tests/e2e/test_random_crash.py tests/lab/test_lives.py tests/lab/test_faults.py $(ARGS)

test-unit: $(VENV)/ruff ## the tests that need nothing but .venv (python main.py setup --dev --no-engine)
	@$(VENV)/python -c 'import xdist' 2>/dev/null || $(PYTHON) main.py setup --dev --no-engine
	tests/run tests/unit -m "not docker" $(ARGS)

test-api: $(VENV)/ruff ## requests of all kinds, made from the OpenAPI documents, at running daemons (Docker; API_EXAMPLES=50; minutes)
	API_EXAMPLES=$(or $(API_EXAMPLES),50) API_REPLAYS=1000 WORKERS=1 tests/run --require docker --timeout 3600 -rP tests/api $(ARGS)

test-deploy: setup-dev ## a provider, a validator and a ledger installed from deploy/, each in a network of its own (root; two minutes)
	POLARISE_DEPLOYED=1 tests/run --require docker,lab,installing tests/deploy $(ARGS)

test-kernels: $(VENV)/ruff ## the GPU kernels without a GPU: interpreted, compiled, compared (fetches Triton, 200 MB)
	@$(VENV)/python -c 'import triton' 2>/dev/null || \
		$(VENV)/python -m pip install --disable-pip-version-check -r requirements-kernels.txt
	tests/run tests/kernels -m kernels --require kernels $(ARGS)

test-gpu: $(VENV)/ruff ## the tests that need an NVIDIA GPU; without one it says so and fails (status 4 of pytest)
	tests/run -m gpu --require gpu,kernels $(ARGS)

test-security: setup-dev ## attacks from inside leases, in a lab; a table of what was stopped (root, gcc; ARGS=--write)
	$(VENV)/python -m tests.security $(ARGS)

test-setup: ## set-up in a fresh Debian root, until doctor exits 0 there (root, some minutes; ARGS=--working-tree)
	tests/fresh/run $(ARGS)

fuzz: $(VENV)/ruff ## feed every decoder what it should refuse (ARGS="--minutes 10", --target NAME, --seed N)
	$(VENV)/python -m tests.fuzz.long_run $(ARGS)

lint: $(VENV)/ruff ## ruff, mypy --strict, import rules, spelling
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports
	$(VENV)/codespell

$(VENV)/ruff:
	@$(PYTHON) main.py setup --dev --no-engine

lock: $(VENV)/ruff ## renew requirements*.lock and sbom.cdx.json after a change of a requirement file (ARGS=--upgrade)
	$(VENV)/python deploy/lock.py $(ARGS)
	$(VENV)/python deploy/sbom.py > sbom.cdx.json

audit-packages: $(VENV)/ruff ## look every locked version up in the feed of known vulnerabilities (needs the feed)
	$(VENV)/pip-audit --strict --disable-pip --require-hashes -r requirements.lock $(ARGS)

format: $(VENV)/ruff ## let ruff format and fix what it can
	$(VENV)/ruff format .
	$(VENV)/ruff check --fix .

bench: ## the benchmarks, side by side in one run
	@set -e; for script in $(filter-out benchmarks/gpu.py benchmarks/kernels.py,$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; \
	  case $$script in */hashcat.py) command -v hashcat >/dev/null || { echo "left out: hashcat is not installed"; continue; };; esac; \
	  $(VENV)/python $$script $(ARGS); done

bench-gpu: ## one GPU measured beside hashcat's rate and bare torch.mm; without one it says so (status 3)
	$(VENV)/python benchmarks/gpu.py $(ARGS)

clean: ## remove caches and build output; .venv, .polarise and Docker objects stay
	@echo "removing caches and build output; to start from nothing remove .venv and .polarise yourself"
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.* htmlcov build *.egg-info
	find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
