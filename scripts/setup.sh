#!/bin/sh
# After this .venv holds what requirements.lock names and the workspace's packages in editable form, tests/dashboard
# what its own lock names, and .venv/ready says so. Only what is locked is installed; nothing is resolved. PYTHON names
# the interpreter, else a fitting one is found.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 2; }
fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of 3.11 or newer. Name another one."
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if fits "$name"; then printf '%s\n' "$name"; return; fi
    done
    fail "No Python of 3.11 or newer found. Install one, or name it: make PYTHON=/path/to/python3"
}

wants_environment() {
    fits .venv/bin/python || return 0
    [ -n "${PYTHON:-}" ] && [ "$(version "$python")" != "$(version .venv/bin/python)" ]
}

make_environment() {
    say "Making .venv with Python $(version "$python") ($python)"
    if "$python" -c 'import ensurepip' >/dev/null 2>&1; then
        "$python" -m venv --clear .venv
    elif "$python" -m pip --version >/dev/null 2>&1; then
        # Debian may have Python without ensurepip; the pip beside it installs into the environment just as well.
        "$python" -m venv --clear --without-pip .venv
    else
        fail "$python has neither ensurepip nor pip. Install pip for it (on Debian: python3-pip)."
    fi
}

install_uv() {
    say "Installing uv into .venv"
    # The hashes of the lock bind the installer too: its block is cut out of it.
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
    # Built without isolation: hatchling comes from the lock as well. The dashboard's build fetches its scripts by npm.
    ./scripts/uv.sh pip install --quiet --no-deps --no-build-isolation "$@"
}

# What the browser tests load beside the dashboard is no part of a package.
install_for_browser_tests() {
    cmp -s tests/dashboard/package-lock.json tests/dashboard/node_modules/.installed && return
    say "Installing what the browser tests load"
    (cd tests/dashboard && ../../scripts/npm.sh ci --silent --ignore-scripts --no-audit --no-fund) ||
        fail "npm could not install what tests/dashboard/package-lock.json names. Try: cd tests/dashboard && npm ci"
    cp tests/dashboard/package-lock.json tests/dashboard/node_modules/.installed
}

python=$(find_python)
if wants_environment; then make_environment; fi
if [ ! -x .venv/bin/uv ]; then install_uv; fi
install_all
install_for_browser_tests
printf '%s' "$(pwd -P)|${PYTHON:-}" >.venv/ready
