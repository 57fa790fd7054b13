# Every target makes what it needs by itself: `git clone`, `make serve`.
#
#   make serve     runtime only, then the server in the foreground (PORT=…, HOST=… override)
#   make test      the default tests: no network, no GPU, no downloaded weights
#   make test-all  the default tests, then the slow ones and those that ask the hub
#   make check     format, lint, types: in a small environment of its own, without torch
#   make site      the documentation as pages, in site/
#   make look      start time and rates of the embedded model on this machine
#   make bench     this service beside its limit and its peers (QUICK=1: about five minutes)
#   make soak      a server under damage and kills for SECONDS (3600)
#   make clean     the environment and every cache

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LINT := .venv-lint
NODE := .node
INSTALL := -m pip --disable-pip-version-check install --quiet --no-compile
PIP := $(BIN)/python $(INSTALL)
# Dependency groups need pip 25.1; `python -m venv` may bring an older one.
NEW_PIP := "pip>=25.1"
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

.PHONY: serve test test-all check format look bench docs site soak clean
.DELETE_ON_ERROR:

serve: $(VENV)/.serve
	@exec $(BIN)/mmes serve $(ADDRESS)

test: $(VENV)/.test
	$(BIN)/pytest $(PARALLEL)

test-all: test $(VENV)/.test-all $(NODE)/.made
	$(BIN)/pytest $(PARALLEL) -m "slow or hub"

check: $(LINT)/.made
	$(LINT)/bin/ruff format --check $(CODE)
	$(LINT)/bin/ruff check $(CODE)
	$(LINT)/bin/mypy $(CODE)

format: $(LINT)/.made
	$(LINT)/bin/ruff format $(CODE)
	$(LINT)/bin/ruff check --fix $(CODE)

look: $(VENV)/.serve
	$(BIN)/python benchmarks/first_look.py

bench: $(BENCH)/.made
	$(BENCH)/bin/python -m benchmarks.run $(if $(QUICK),--quick)

docs: $(VENV)/.serve
	$(BIN)/python -m scripts.generate_docs

soak: $(VENV)/.test
	$(BIN)/python -m tests.safety.soak --seconds $(or $(SECONDS),3600) $(if $(FAIR),--fair)

site: $(VENV)/.docs
	$(BIN)/mkdocs build

clean:
	rm -rf $(VENV) $(LINT) $(NODE) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf benchmarks/.envs benchmarks/.cache
	find src tests scripts benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The stamps: one for each environment, one for each set of dependencies.
define make-environment
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	         "Name another: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "Making $(1) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(1)
	@$(1)/bin/python $(INSTALL) $(NEW_PIP)
endef

$(VENV)/.made:
	$(call make-environment,$(VENV))
	@touch $@

$(VENV)/.serve: pyproject.toml $(VENV)/.made
	@echo "Installing the runtime"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/.serve
	@echo "Installing what builds the pages"
	@$(PIP) --group docs
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.made
	@echo "Installing the runtime and what the tests need"
	@$(PIP) --editable ".[bulk,otel,tiktoken]" --group test
	@touch $@ $(VENV)/.serve $(VENV)/.docs

$(VENV)/.test-all: pyproject.toml $(VENV)/.test
	@echo "Installing what the slow tests need besides"
	@$(PIP) --editable ".[bulk,lancedb,otel,qdrant,quantize,ray,tiktoken]" --group test
	@touch $@

# Clients of npm that the slow tests run; those skip, with their reason, where this fails.
$(NODE)/.made: tests/api/clients/package-lock.json
	@mkdir -p $(NODE)
	@cp tests/api/clients/package.json $< $(NODE)
	@echo "Installing clients of npm"
	@if npm ci --prefix $(NODE) --ignore-scripts --no-audit --no-fund --silent; then touch $@; \
	  else echo "could not install the clients of npm: their tests skip"; fi

$(LINT)/.made: pyproject.toml
	$(call make-environment,$(LINT))
	@$(LINT)/bin/python $(INSTALL) --group lint
	@touch $@

# The benchmark's own tools; the systems that it measures have environments of their own.
# open_clip_torch is there for CLIP's list of words.
$(BENCH)/.made: pyproject.toml
	@echo "Making the environment of the benchmark"
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python $(INSTALL) --editable ".[bulk]" "matplotlib>=3.10,<4" "py-spy>=0.4,<1"
	@$(BENCH)/bin/python $(INSTALL) --no-deps "open_clip_torch>=3,<4"
	@touch $@
