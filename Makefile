# Every path is relative or quoted: a checkout may live in a folder whose name has a space in it.
# PYTHON chooses the interpreter that .venv is made with; else the newest fitting one on the path is taken.
PYTHON ?=
ARGS ?=
export PYTHON
# Tests start Python some hundred times; without bytecode each start compiles everything anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
SOURCES := $(wildcard packages/*/src)
TYPED := $(SOURCES) tests/repository/typing $(sort $(dir $(wildcard scripts/*/*.py benchmarks/*.py examples/*.py)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all cover check format lint types imports site docs wheels bench path sizes lock clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.13 chooses the interpreter, ARGS='-k name' goes to the tool."

# Set-up runs again when a lock or a package's build changes, what a build has made is gone, the folder has moved or
# another PYTHON is named.
READY := .venv/ready
MADE := packages/dashboard/src/firelock_dashboard/static/vendor/.made
ifneq ($(shell cat .venv/ready 2>/dev/null)|$(wildcard $(MADE)),$(shell pwd -P)|$(PYTHON)|$(MADE))
$(READY): FORCE
endif
$(READY): requirements.lock $(wildcard scripts/*.sh) $(wildcard packages/*/pyproject.toml) \
    $(wildcard packages/*/hatch_build.py packages/*/package-lock.json tests/*/package-lock.json)
	@./scripts/setup.sh

setup: $(READY) ## make .venv with everything the other targets need
	@echo '.venv is ready.'

demo: $(READY) ## see Firelock at work
	@$(BIN)/firelock demo $(ARGS)

test: $(READY) ## run what needs only Python: a few minutes, all day long
	@$(BIN)/python -m pytest -q -n auto -m 'not heavy' $(ARGS)

test-all: $(READY) ## run every test, with each server and browser that is here
	@$(BIN)/python -m pytest -q -n auto $(ARGS)

# The figure that counts leaves out the kit, whose checks are tests themselves; the bar is for a run of all tests.
cover: $(READY) ## run the tests, show which lines and branches they miss; at the end, the core's figure
	@$(BIN)/python -m pytest -q -n auto --cov --cov-report=term $(ARGS)
	@echo 'Lines and branches of the core without firelock/testing, in per cent (the bar is 95):'
	@$(BIN)/coverage report --include='packages/core/src/firelock/*' --omit='packages/core/src/firelock/testing/*' \
	    --precision=1 --format=total $(if $(ARGS),,--fail-under=95)

check: lint types imports docs ## everything but the tests: format, lint, types, imports, documentation

format: $(READY) ## write the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY) ## is the code in the house format and free of lint?
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

types: $(READY) ## do mypy and pyright agree with the types, also with the expected errors?
	$(BIN)/mypy $(TYPED)
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

imports: $(READY) ## does every module import only what its layer may?
	$(BIN)/lint-imports

site: $(READY) ## build the site of the documentation, in build/documents/site, and check it
	@$(BIN)/python -m scripts.site

docs: site ## build the site, run the documentation's code, follow its links, look for a heading of each hook
	$(BIN)/python -m pytest -q tests/repository/docs

wheels: $(READY) ## build the four wheels into dist
	@rm -f dist/firelock*.whl
	@for package in packages/*/; do \
	    ./scripts/uv.sh build --quiet --wheel --no-build-isolation --out-dir dist "$$package" || exit 1; done
	@ls dist/*.whl

bench: $(READY) ## measure Firelock against its peers and the floor
	@$(BIN)/python -m benchmarks $(ARGS)

path: $(READY) ## say which files one job crosses (ARGS='sqlite redis')
	@$(BIN)/python -m benchmarks.reading_path $(ARGS)

sizes: $(READY) ## count tokens (ARGS='packages --since COMMIT --files')
	@$(BIN)/python -m benchmarks.sizes $(ARGS)

# The lock names versions and hashes, no place to download from: see CONTRIBUTING.md.
# UPGRADE=--upgrade takes the newest of everything.
lock: $(READY) ## remake requirements.lock from the packages' dependencies
	./scripts/uv.sh pip compile packages/*/pyproject.toml --all-extras --group pyproject.toml:dev \
	    --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet $(UPGRADE) \
	    $(addprefix --no-emit-package ,firelock firelock-sql firelock-redis firelock-dashboard) \
	    --output-file requirements.lock

clean: ## remove .venv and what the tools have left behind
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
