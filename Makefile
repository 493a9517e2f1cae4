# All paths are relative or quoted, because the name of the checkout's folder can contain a space.
# PYTHON is the interpreter for .venv; by default, the first suitable one on the path.
PYTHON ?=
ARGS ?=
export PYTHON
# Tests start Python several hundred times, and without bytecode each start would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE
# Users buffer standard output, so the tests do too.
unexport PYTHONUNBUFFERED

BIN := .venv/bin
SOURCES := $(wildcard packages/*/src)
TYPED := $(SOURCES) tests/repository/typing $(sort $(dir $(wildcard scripts/*/*.py benchmarks/*.py examples/*.py)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all cover check format lint types imports site docs wheels bench path sizes lock clean FORCE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  PYTHON=python3.13 selects the interpreter; ARGS='-k name' is passed to the tool."

# Setup runs again if a lock file or the build of a package has changed, if the files created by a build are missing,
# if the checkout was moved, or if PYTHON is another interpreter.
READY := .venv/ready
MADE := packages/dashboard/src/firelock_dashboard/static/vendor/.made
ifneq ($(shell cat .venv/ready 2>/dev/null)|$(wildcard $(MADE)),$(shell pwd -P)|$(PYTHON)|$(MADE))
$(READY): FORCE
endif
$(READY): requirements.lock $(wildcard scripts/*.sh) $(wildcard packages/*/pyproject.toml) \
    $(wildcard packages/*/hatch_build.py packages/*/package-lock.json tests/*/package-lock.json)
	@./scripts/setup.sh

setup: $(READY) ## create .venv with everything that the other targets need
	@echo '.venv is ready.'

demo: $(READY) ## run Firelock's demonstration
	@$(BIN)/firelock demo $(ARGS)

test: $(READY) ## run the tests that need only Python, in a few minutes
	@$(BIN)/python -m pytest -q -n auto -m 'not heavy' $(ARGS)

test-all: $(READY) ## run all tests, with every installed server and browser
	@$(BIN)/python -m pytest -q -n auto $(ARGS)

# The result leaves out the kit, because its checks are tests themselves. The minimum applies to a run of all tests.
cover: $(READY) ## run the tests and show uncovered lines and branches, and the coverage of the core
	@$(BIN)/python -m pytest -q -n auto --cov --cov-report=term $(ARGS)
	@echo 'Coverage of lines and branches of the core without firelock/testing, in percent (minimum: 95):'
	@$(BIN)/coverage report --include='packages/core/src/firelock/*' --omit='packages/core/src/firelock/testing/*' \
	    --precision=1 --format=total $(if $(ARGS),,--fail-under=95)

check: lint types imports docs ## run all checks except the tests: format, lint, types, imports, documentation

format: $(READY) ## format the code and fix lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY) ## check the format and lint of the code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

types: $(READY) ## check the types with mypy and pyright, including the expected errors
	$(BIN)/mypy $(TYPED)
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

imports: $(READY) ## check that each module imports only allowed layers
	$(BIN)/lint-imports

site: $(READY) ## build the documentation site in build/documents/site, and check it
	@$(BIN)/python -m scripts.site

docs: site ## build the site; check the documentation's code, links and headings of hooks
	$(BIN)/python -m pytest -q tests/repository/docs

wheels: $(READY) ## build the four wheels in dist
	@rm -f dist/firelock*.whl
	@for package in packages/*/; do \
	    ./scripts/uv.sh build --quiet --wheel --no-build-isolation --out-dir dist "$$package" || exit 1; done
	@ls dist/*.whl

bench: $(READY) ## compare Firelock with its peers and with the minimum work (the floor)
	@$(BIN)/python -m benchmarks $(ARGS)

path: $(READY) ## list the files that one job passes through (ARGS='sqlite redis')
	@$(BIN)/python -m benchmarks.reading_path $(ARGS)

sizes: $(READY) ## count tokens (ARGS='packages --since COMMIT --files')
	@$(BIN)/python -m benchmarks.sizes $(ARGS)

# The lock file contains versions and hashes, but no download addresses: see CONTRIBUTING.md.
# UPGRADE=--upgrade selects the newest versions.
lock: $(READY) ## update requirements.lock from the packages' dependencies
	./scripts/uv.sh pip compile packages/*/pyproject.toml --all-extras --group pyproject.toml:dev \
	    --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet $(UPGRADE) \
	    $(addprefix --no-emit-package ,firelock firelock-sql firelock-redis firelock-dashboard) \
	    --output-file requirements.lock

clean: ## remove .venv and the files that the tools have created
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
