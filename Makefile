# make run     a real task definition on this machine, through the whole agent
# make test    everything from a fresh clone to green
# make test-vm    what needs another kernel, in a guest
# make deb, make rpm    a package in build/packages, see docs/operations.md
VENV   := .venv
PYTHON ?= packaging/python
BIN    := $(VENV)/bin
# A proxy's or test server's certificate bundle must not leak into the agent under test.
unexport AWS_CA_BUNDLE

.PHONY: install install-test run test lint types unit process quick row others system bench docs clean \
        deb rpm third-party test-packages wheels deb-again debian-tree built-offline packages-to-test

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
	$(BIN)/ruff check common services tests bench packaging
	$(BIN)/ruff format --check common services tests bench packaging
	$(BIN)/lint-imports
	$(BIN)/python -m common.config.manual --check

types: install-test
	$(BIN)/mypy
	MYPYPATH=packaging $(BIN)/mypy packaging/*.py packaging/pause/image.py tests/packages/debian_tree.py

unit: install-test
	$(BIN)/pytest tests/unit

process: install-test
	$(BIN)/pytest tests/process

system: install-test
	$(BIN)/pytest tests/system

# Most process tests wait more than they work, so they run beside each other and beside lint, types and units: those that
# run or clean up tasks on the machine's Docker in one row, all others in another. Last and alone: what holds ECS's fixed
# ports or is timed.
ALONE  := tests/process/endpoint
ROW    := $(patsubst %,tests/process/%,engine engine_docker engine_resources images)
OTHERS := $(filter-out $(ALONE) $(ROW) %/__pycache__,$(patsubst %/,%,$(wildcard tests/process/*/)))

quick: lint types unit

row: install-test
	$(BIN)/pytest $(ROW)

others: install-test
	$(BIN)/pytest $(OTHERS)

test: install-test
	@packaging/dev/bootstrap docker
	@$(MAKE) --no-print-directory --jobs=3 --output-sync=target row others quick
	$(BIN)/pytest $(ALONE) tests/system

# What this machine's kernel may lack: cgroup v2, with both cgroup drivers of Docker, and sch_netem. See tests/vm/guest.py.
test-vm: install-test
	tests/vm/guest.py --docker cgroupfs $(BIN)/pytest -p no:cacheprovider tests/vm tests/process/endpoint/test_endpoint_netem.py \
		tests/process/telemetry/test_telemetry_parity.py tests/process/engine_docker/test_resource_effects.py
	tests/vm/guest.py --docker systemd --systemd --apparmor $(BIN)/pytest -p no:cacheprovider tests/vm \
		tests/process/telemetry/test_telemetry_parity.py tests/process/engine_docker/test_resource_effects.py

bench: install-test
	$(BIN)/python bench/run.py

deb rpm wheels:
	@packaging/build $@

deb-again:
	@RELEASE=$$(packaging/changelog.py release).1 packaging/build deb

debian-tree:
	@tests/packages/debian_tree.py build/tree-bookworm

# Packages are built without a network: their wheels are all there.
built-offline: wheels
	@OFFLINE=1 unshare --net $(MAKE) --no-print-directory deb deb-again rpm

packages-to-test: debian-tree built-offline

test-packages: install-test
	@packaging/dev/bootstrap test-packages
	@$(MAKE) --no-print-directory -j2 packages-to-test
	$(BIN)/pytest --timeout=600 tests/packages

# What the packages contain, and under which licences; for a clone. A package has its own, made from what is in it.
third-party: install
	@$(PYTHON) packaging/thirdparty.py $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') > THIRD-PARTY

docs: install-test
	$(BIN)/python -m common.config.manual > docs/configuration.md

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
