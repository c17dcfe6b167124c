# The first target of a bare machine is `make quickstart`; of a developer, `make test`.
# Everything runs in $(VENV), which is made once and reused until pyproject.toml changes.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
# Left empty, the newest of these that is new enough and complete is taken.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3 python)
# Further arguments for pytest, e.g. PYTEST_ARGS="-x -k path"; -n 0 runs the tests in one process.
PYTEST_ARGS ?=
PYTEST = -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

PY := $(VENV)/bin/python
USER_READY := $(VENV)/.ready-user
DEV_READY := $(VENV)/.ready-dev
PIP_INSTALL = install --quiet --no-input --disable-pip-version-check
SOURCES := $(wildcard leap_rl supervised zoo tests benchmarks examples docs/conf.py)

.PHONY: help quickstart test test-slow test-lowest benchmarks score-parity evidence docs format lint type check commit-checks clean

help:
	@echo "make quickstart     meta-train on flavours of an Atari game, then learn one never seen from the result and from the zoo (4 to 10 minutes)"
	@echo "make test           the fast tests"
	@echo "make test-slow      the other tests"
	@echo "make test-lowest    the fast tests on the oldest supported versions of all dependencies"
	@echo "make benchmarks     throughput, rivals, observation, memory and scaling, into docs/benchmarks.md (four hours; installs the rivals)"
	@echo "make score-parity   whether LeapA2C scores what A2C does (hours; goes on where it stopped)"
	@echo "make evidence       the runs of the newest plans in docs/evidence, at the lowest priority (days; goes on where it stopped)"
	@echo "make docs           the site, into build/site; a warning is an error"
	@echo "make commit-checks  format, lint, type, test: before a commit"
	@echo "make check          format, lint and type checks that change nothing"
	@echo "make clean          remove what builds and tools left, the environment too"

quickstart: $(USER_READY)
	@folder="runs/quickstart_$$(date +%Y%m%d-%H%M%S)"; \
	echo "1 of 2: meta-train on flavours (modes) of the game Berzerk. leap-rl is $(VENV)/bin/leap-rl." && \
	$(VENV)/bin/leap-rl meta-train --preset flavours --run-dir "$$folder/meta-train" && \
	echo && echo "2 of 2: learn Berzerk-m6, a flavour never seen, from this initialization, from the zoo's, and from random weights." && \
	$(VENV)/bin/leap-rl compare --preset flavours --starts "Leap=$$folder/meta-train/initialization" flavours-Berzerk-leap random --run-dir "$$folder/compare" && \
	echo "Look at $$folder/compare/figure.png: do both starts rise above random weights, which are grey? Two seeds are a demonstration."

test: $(DEV_READY)
	@$(PY) $(PYTEST)

test-slow: $(DEV_READY)
	@$(PY) $(PYTEST) -m slow

MEASURED := runs/benchmarks

benchmarks: $(DEV_READY)
	@mkdir -p $(MEASURED)
	@set -e; for name in throughput observation memory; do \
		echo "== $$name"; $(PY) "benchmarks/$$name.py" --json "$(MEASURED)/$$name.json"; \
	done
	@echo "== peers"; $(PY) benchmarks/peers.py --json $(MEASURED)/peers.json --table $(MEASURED)/peers.md
	@echo "== scaling"; $(PY) benchmarks/scaling.py --json $(MEASURED)/scaling.json --table $(MEASURED)/scaling.md \
		--figure docs/benchmarks.png
	@$(PY) benchmarks/document.py $(MEASURED)/peers.md $(MEASURED)/scaling.md $(MEASURED)/*.json

score-parity: $(DEV_READY)
	@$(PY) benchmarks/score_parity.py --fast

evidence: $(DEV_READY)
	@$(PY) benchmarks/evidence.py

docs: $(DEV_READY)
	@$(PY) -m sphinx --fail-on-warning --keep-going --quiet --jobs 2 docs build/site
	@echo "build/site/index.html"

format: $(DEV_READY)
	@$(PY) -m ruff check --select I --fix $(SOURCES)
	@$(PY) -m ruff format $(SOURCES)

lint: $(DEV_READY)
	@$(PY) -m ruff check $(SOURCES)

type: $(DEV_READY)
	@$(PY) -m mypy

check: $(DEV_READY)
	@$(PY) -m ruff format --check $(SOURCES)
	@$(PY) -m ruff check $(SOURCES)
	@$(PY) -m mypy

# One after the other, also under `make -j`: formatting first, the longest last.
commit-checks:
	@$(MAKE) --no-print-directory format
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory type
	@$(MAKE) --no-print-directory test

# `runs` stays: it holds results.
clean:
	rm -rf $(VENV) $(VENV)-lowest build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(filter-out %.py,$(SOURCES)) -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ---------------------------------------------------------------------------------------------

# An environment whose Python works and is new enough is kept, whoever made it.
$(VENV)/.created:
	@set -e; \
	ok='import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))'; \
	if ! "$(PY)" -c "$$ok; import pip" >/dev/null 2>&1; then \
		for python in $(PYTHONS); do \
			if "$$python" -c "$$ok" >/dev/null 2>&1; then found="$$python"; break; fi; \
		done; \
		if [ -z "$${found:-}" ]; then \
			echo "leap_rl needs Python 3.11 or newer with its venv module; tried: $(PYTHONS)." >&2; \
			for python in $(PYTHONS); do \
				if version="$$("$$python" --version 2>/dev/null)"; then \
					echo "  $$python is $$version$$("$$python" -c 'import ensurepip, venv' 2>/dev/null || echo ', without venv or ensurepip (Debian: the package python3-venv)')" >&2; \
				fi; \
			done; \
			echo "Name another one with: make PYTHON=/path/to/python3" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$found" --version) ($$found)"; \
		"$$found" -m venv --clear "$(VENV)"; \
	fi; \
	touch $@

$(USER_READY): pyproject.toml | $(VENV)/.created
	@echo "Installing leap_rl and what it needs into $(VENV) (PyTorch is large: some minutes the first time)"
	@$(PY) -m pip $(PIP_INSTALL) -e '.[evaluation,video]'
	@touch $@

# Holds all that a user needs, too.
$(DEV_READY): pyproject.toml | $(VENV)/.created
	@echo "Installing leap_rl, all extras and the development tools into $(VENV) (PyTorch is large: some minutes the first time)"
	@$(PY) -m pip $(PIP_INSTALL) -e '.[dev]'
	@touch $(USER_READY) $@

# --- the lower bounds of pyproject.toml --------------------------------------------------------------------------

define LOWEST
import re, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
print("\n".join(f"{name}=={bound}" for group in groups for name, bound in re.findall(r"^([\w-]+)>=([\w.]+)(?:[,;].*)?$$", "\n".join(group), re.M)))
endef
export LOWEST

test-lowest:
	@$(MAKE) --no-print-directory VENV=$(VENV)-lowest PYTHON=$(or $(PYTHON),python3.11) $(VENV)-lowest/.ready-lowest
	@$(VENV)-lowest/bin/python $(PYTEST)

$(VENV)/.ready-lowest: pyproject.toml | $(VENV)/.created
	@echo "Installing the oldest supported versions into $(VENV)"
	@$(PY) -c "$$LOWEST" > $(VENV)/lowest.txt
	@$(PY) -m pip $(PIP_INSTALL) -e '.[dev]' --constraint $(VENV)/lowest.txt
	@touch $@
