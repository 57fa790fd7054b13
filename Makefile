# Every target makes what it needs by itself: `git clone`, `make serve`.
#
#   make serve     runtime only, then the server in the foreground (PORT=…, HOST=… override)
#   make test      the default tests: no network, no GPU, no downloaded weights
#   make test-all  the default tests, then the slow ones and those that ask the hub
#   make check     format, lint, types: in a small environment of its own, without torch
#   make site      the documentation as pages, in site/: in a small environment of its own
#   make docs      the generated parts of docs/; make notebooks: what the notebooks show
#   make look      start time and rates of the embedded model on this machine
#   make bench     this service beside its limit and its peers (QUICK=1: about five minutes)
#   make soak      a server under damage and kills for SECONDS (3600)
#   make greedy    honest clients beside greedy and hostile ones, SECONDS (20) for each attack
#   make lock      requirements.lock, requirements-build.lock and sbom.cdx.json, from pyproject.toml
#   make audit     known vulnerabilities of the locked packages
#   make wheels    whether each locked package has wheels for Python 3.12, 3.13 and 3.14
#   make release   a checked wheel of HEAD in dist/ (TAG=1: and a tag)
#   make clean     the environment and every cache

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LINT := .venv-lint
SITE := .venv-site
RELEASE := .venv-release
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

.PHONY: serve test test-all check format look bench docs notebooks site soak greedy
.PHONY: lock audit wheels release clean
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

notebooks: $(VENV)/.test
	"$$($(BIN)/python -c 'from tests.environments import environment as e; print(e("notebook"))')" \
	  -m scripts.run_notebooks

soak: $(VENV)/.test
	$(BIN)/python -m tests.safety.soak --seconds $(or $(SECONDS),3600) $(if $(FAIR),--fair)

greedy: $(VENV)/.test
	$(BIN)/python -m tests.safety.greedy --seconds $(or $(SECONDS),20)

site: $(SITE)/.made
	NO_MKDOCS_2_WARNING=1 $(SITE)/bin/mkdocs build --strict

# For all platforms and Python versions, with the hashes of every file, and no index's name.
COMPILE := $(RELEASE)/bin/uv pip compile pyproject.toml --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --upgrade

lock: $(RELEASE)/.made
	$(COMPILE) --output-file requirements.lock
	$(subst pyproject.toml,--group build,$(COMPILE)) --output-file requirements-build.lock
	$(RELEASE)/bin/python -m scripts.make_sbom sbom.cdx.json

# --strict: a package of which the database says nothing is an error, as when it can't be reached.
audit: $(RELEASE)/.made
	$(RELEASE)/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	  --requirement requirements.lock --requirement requirements-build.lock

wheels: $(RELEASE)/.made
	$(RELEASE)/bin/python -m scripts.check_wheels 3.12 3.13 3.14

release: $(RELEASE)/.made
	$(RELEASE)/bin/python -m scripts.release $(if $(TAG),--tag)

clean:
	rm -rf $(VENV) $(LINT) $(SITE) $(RELEASE) $(NODE) .environments dist site
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
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
	@echo "Installing the runtime, about 460 MB; this takes a minute or two:"
	@$(BIN)/python -m scripts.install_progress --editable .
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/.made
	@echo "Installing the runtime and what the tests need"
	@$(PIP) --editable ".[bulk,otel,tiktoken]" --group test
	@touch $@ $(VENV)/.serve

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

$(SITE)/.made: pyproject.toml
	$(call make-environment,$(SITE))
	@$(SITE)/bin/python $(INSTALL) --group docs
	@touch $@

$(RELEASE)/.made: pyproject.toml
	$(call make-environment,$(RELEASE))
	@$(RELEASE)/bin/python $(INSTALL) --group release
	@touch $@

# The benchmark's own tools; the systems that it measures have environments of their own.
# open_clip_torch is there for CLIP's list of words.
$(BENCH)/.made: pyproject.toml
	@echo "Making the environment of the benchmark"
	@$(PYTHON) -m venv $(BENCH)
	@$(BENCH)/bin/python $(INSTALL) --editable ".[bulk]" "matplotlib>=3.10,<4" "py-spy>=0.4,<1"
	@$(BENCH)/bin/python $(INSTALL) --no-deps "open_clip_torch>=3,<4"
	@touch $@
