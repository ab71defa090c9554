# make run     a real task definition on this machine, through the whole agent
# make test    everything from a fresh clone to green
VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
# A proxy's or test server's certificate bundle must not leak into the agent under test.
unexport AWS_CA_BUNDLE

.PHONY: install install-test run test lint types unit process system bench docs clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.py requirements.txt packaging/dev/bootstrap
	@packaging/dev/bootstrap run
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Python packages into $(VENV)"
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --config-settings editable_mode=compat -e .
	@touch $@

install-test: install $(VENV)/.installed-test

$(VENV)/.installed-test: requirements-test.txt $(VENV)/.installed
	@packaging/dev/bootstrap test
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements-test.txt
	@touch $@

run: install
	@packaging/dev/bootstrap run
	@exec $(BIN)/ecs-local demo examples/hello.json

lint: install-test
	$(BIN)/ruff check common services tests bench
	$(BIN)/ruff format --check common services tests bench
	$(BIN)/lint-imports
	$(BIN)/python -m common.config.manual --check

types: install-test
	$(BIN)/mypy

unit: install-test
	$(BIN)/pytest tests/unit

process: install-test
	$(BIN)/pytest tests/process

system: install-test
	$(BIN)/pytest tests/system

test: lint types
	$(BIN)/pytest tests/unit tests/process tests/system

bench: install-test
	$(BIN)/python bench/run.py

docs: install-test
	$(BIN)/python -m common.config.manual > docs/configuration.md

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
