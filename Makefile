# Everything runs in .venv, which each target makes and keeps up to date by itself. Needed beforehand: Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo dev test test-spark end-to-end faults lint docs audit bench clean

help:
	@echo 'make demo       aggregate four weeks of made-up logs on the embedded PostgreSQL and print the result'
	@echo 'make dev        open the Dagster UI on http://127.0.0.1:3000, or other ports: make dev PORT=3001 PAGE_PORT=8001'
	@echo 'make test       run the test suite on a real (embedded) PostgreSQL'
	@echo 'make test-spark run the tests that start Spark, which needs Java 17 and 500 MB for the package pyspark'
	@echo 'make end-to-end run the tests that start commands, Dagster and browsers as processes'
	@echo 'make faults     kill, cut and stop everything with SEEDS=10 seeds of each scenario, or with SEED=7 only'
	@echo 'make lint       ruff, mypy, the layers of the house plan, and biome for the page'
	@echo 'make docs       write the parts of docs/ that come from the code'
	@echo 'make audit      look the exact versions of the dependencies up among the known vulnerabilities'
	@echo 'make bench      measure the aggregation of a day against its alternatives; options: make bench BENCH_ARGUMENTS=--help'

demo: $(VENV)/.installed
	@$(BIN)/metrics-pipeline demo

PORT ?= 3000
PAGE_PORT ?= 8000
dev: $(VENV)/.installed
	@$(BIN)/metrics-pipeline dev --port $(PORT) --page-port $(PAGE_PORT)

test: $(VENV)/.installed-test
	@$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -m 'not end_to_end and not spark' $(PYTEST_ARGUMENTS)

# In one process: a second Spark would take another gigabyte.
SPARK_TESTS = $(wildcard metrics_pipeline_tests/logs/test_spark*.py)
test-spark: $(VENV)/.installed-test $(VENV)/.installed-spark
	@$(BIN)/python -m pytest $(SPARK_TESTS) $(PYTEST_ARGUMENTS)

# Collecting all the others as well takes each worker ten seconds.
END_TO_END = $(shell grep --recursive --files-with-matches --include='*.py' mark.end_to_end metrics_pipeline_tests)
end-to-end: $(VENV)/.installed-test
	@$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -m end_to_end $(END_TO_END) $(PYTEST_ARGUMENTS)

SEEDS ?= 10
faults: $(VENV)/.installed-test
	@$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal metrics_pipeline_tests/faults $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(PYTEST_ARGUMENTS)

lint: $(VENV)/.installed-lint
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/biome check --error-on-warnings --indent-style=space --line-width=120 metrics_pipeline/api/pages/files

docs: $(VENV)/.installed
	@$(BIN)/python -m metrics_pipeline_tests.documents

audit: $(VENV)/.installed-audit
	@$(BIN)/python -m metrics_pipeline_tests.audit

bench: $(VENV)/.installed-bench
	@$(BIN)/python -m metrics_pipeline_tests.benchmarks $(BENCH_ARGUMENTS)

clean:
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metrics_pipeline needs Python 3.11 or newer, and $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo 'Making $(VENV)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo 'Installing metrics_pipeline into $(VENV) (the first time takes a minute)'
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test $(VENV)/.installed-spark $(VENV)/.installed-lint $(VENV)/.installed-audit $(VENV)/.installed-bench: $(VENV)/.installed-%: $(VENV)/.installed
	@echo 'Installing what $* needs'
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@
