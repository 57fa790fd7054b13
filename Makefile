# Every target makes what it needs by itself: `git clone`, `make serve`.
#
#   make serve     runtime only, then the server in the foreground (PORT=…, HOST=… override)
#   make test      the default tests: no network, no GPU, no downloaded weights
#   make test-all  the default tests, then the slow ones and those that ask the hub
#   make check     format, lint, types
#   make site      the documentation as pages, in site/
#   make look      start time and rates of the embedded model on this machine
#   make bench     this service beside its limit and its peers (QUICK=1: about five minutes)
#   make soak      a server under damage and kills for SECONDS (900)
#   make scaling   what docs/scaling.md counts with, measured on this machine
#   make clean     the environment and every cache

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip --disable-pip-version-check install --quiet --no-compile
PIP := $(BIN)/python $(INSTALL)
# One file's tests stay together: they share servers and converted models.
PARALLEL := --numprocesses 2 --dist loadfile
CODE := src tests scripts benchmarks
BENCH := benchmarks/.envs/bench

# HOST counts on the command line only: some toolchains export a HOST that is no address.
ifeq ($(origin HOST),command line)
  ADDRESS += --host $(HOST)
endif
ifdef PORT
  ADDRESS += --port $(PORT)
endif

# Where this is set, every process would compile the packages that it imports anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: serve test test-all check format look bench scaling docs site soak clean
.DELETE_ON_ERROR:

serve: $(VENV)/.serve
	@exec $(BIN)/mmes serve $(ADDRESS)

test: $(VENV)/.dev
	$(BIN)/pytest $(PARALLEL)

test-all: test $(VENV)/.dev-all
	$(BIN)/pytest $(PARALLEL) -m "slow or hub"

check: $(VENV)/.dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)

format: $(VENV)/.dev
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

look: $(VENV)/.serve
	$(BIN)/python benchmarks/first_look.py

bench: $(BENCH)/.made
	$(BENCH)/bin/python -m benchmarks.run $(if $(QUICK),--quick)

scaling: $(BENCH)/.made
	$(BENCH)/bin/python -m benchmarks.scaling

docs: $(VENV)/.dev
	$(BIN)/python -m scripts.generate_docs

soak: $(VENV)/.dev
	$(BIN)/python -m tests.safety.soak --seconds $(or $(SECONDS),900)

site: $(VENV)/.dev
	$(BIN)/mkdocs build

clean:
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf benchmarks/.envs benchmarks/.cache
	find src tests scripts benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The stamps: one for the environment, one for each set of dependencies.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	         "Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.serve: pyproject.toml $(VENV)/.made
	@echo "Installing the runtime"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.made
	@echo "Installing the runtime and what the tests need"
	@$(PIP) --editable ".[dev]"
	@touch $@ $(VENV)/.serve

$(VENV)/.dev-all: pyproject.toml $(VENV)/.dev
	@echo "Installing what the slow tests need besides"
	@$(PIP) --editable ".[dev,dev-all]"
	@touch $@

# The benchmark's own tools; the systems that it measures have environments of their own.
# open_clip_torch is there for CLIP's list of words.
$(BENCH)/.made: pyproject.toml
	@echo "Making the environment of the benchmark"
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python $(INSTALL) --editable ".[bulk]" "matplotlib>=3.10,<4" "py-spy>=0.4,<1"
	@$(BENCH)/bin/python $(INSTALL) --no-deps "open_clip_torch>=3,<4"
	@touch $@
