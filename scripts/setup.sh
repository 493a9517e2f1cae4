#!/bin/sh
# Install the versions in requirements.lock and the workspace's packages (editable) in .venv, and the npm packages of
# tests/dashboard; then write .venv/ready. Only locked versions are installed, and no dependencies are resolved.
# PYTHON is the interpreter; by default, the first suitable one.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }
fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || fail "PYTHON must be Python 3.11 or newer, got $PYTHON."
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if fits "$name"; then printf '%s\n' "$name"; return; fi
    done
    fail "Python 3.11 or newer was not found. Install it, or pass its path: make PYTHON=/path/to/python3"
}

wants_environment() {
    fits .venv/bin/python || return 0
    [ -n "${PYTHON:-}" ] && [ "$(version "$python")" != "$(version .venv/bin/python)" ]
}

create_environment() {
    say "Creating .venv with Python $(version "$python") ($python)"
    if "$python" -c 'import ensurepip' >/dev/null 2>&1; then
        "$python" -m venv --clear .venv
    elif "$python" -m pip --version >/dev/null 2>&1; then
        # Debian can have Python without ensurepip; its own pip can install packages in the environment.
        "$python" -m venv --clear --without-pip .venv
    else
        fail "$python has neither ensurepip nor pip. Install pip for it (on Debian: python3-pip)."
    fi
}

install_uv() {
    say "Installing uv in .venv"
    # The lock file also contains the hashes of uv; extract its entry.
    awk '/^[^ #]/ { inside = /^uv==/ } inside && !/^ *#/' requirements.lock >.venv/uv.txt
    set -- install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement .venv/uv.txt
    if .venv/bin/python -m pip --version >/dev/null 2>&1; then
        .venv/bin/python -m pip "$@"
    else
        "$python" -m pip --python .venv/bin/python "$@"
    fi
}

install_all() {
    say "Installing the locked dependencies"
    ./scripts/uv.sh pip install --quiet --require-hashes --no-build --requirement requirements.lock
    set --
    for package in packages/*/; do
        set -- "$@" --editable "$package"
    done
    # Build without isolation, because hatchling is locked too. The dashboard's build downloads its scripts with npm.
    ./scripts/uv.sh pip install --quiet --no-deps --no-build-isolation "$@"
}

# The browser tests load scripts in addition to the dashboard's, which are not part of any package.
install_for_browser_tests() {
    cmp -s tests/dashboard/package-lock.json tests/dashboard/node_modules/.installed && return
    say "Installing scripts for the browser tests"
    (cd tests/dashboard && ../../scripts/npm.sh ci --silent --ignore-scripts --no-audit --no-fund) ||
        fail "npm could not install tests/dashboard/package-lock.json. Run: cd tests/dashboard && npm ci"
    cp tests/dashboard/package-lock.json tests/dashboard/node_modules/.installed
}

python=$(find_python)
if wants_environment; then create_environment; fi
if [ ! -x .venv/bin/uv ]; then install_uv; fi
install_all
install_for_browser_tests
printf '%s' "$(pwd -P)|${PYTHON:-}" >.venv/ready
