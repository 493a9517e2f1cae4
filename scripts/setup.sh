#!/bin/sh
# After this .venv holds what requirements.lock names and the workspace's packages in editable form, nothing else is
# looked up, and .venv/ready says so. PYTHON names the interpreter to use; else the newest fitting one is found.
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

make_environment() {
    if "$1" -c 'import ensurepip' >/dev/null 2>&1; then
        "$1" -m venv --clear .venv
    elif "$1" -m pip --version >/dev/null 2>&1; then
        # Debian ships Python without ensurepip; the pip beside it installs into the environment just as well.
        "$1" -m venv --clear --without-pip .venv
    else
        fail "$1 has neither ensurepip nor pip. Install pip for it (on Debian: python3-pip)."
    fi
}

install_uv() {
    # The hashes of the lock bind the installer too: its block is cut out, pip accepts no other file.
    awk '/^[^ #]/ { inside = /^uv==/ } inside && !/^ *#/' requirements.lock >.venv/uv.txt
    set -- install --quiet --disable-pip-version-check --require-hashes --no-deps --requirement .venv/uv.txt
    if .venv/bin/python -m pip --version >/dev/null 2>&1; then
        .venv/bin/python -m pip "$@"
    else
        "$python" -m pip --python .venv/bin/python "$@"
    fi
}

python=$(find_python)
if ! fits .venv/bin/python || { [ -n "${PYTHON:-}" ] && [ "$(version "$python")" != "$(version .venv/bin/python)" ]; }; then
    say "Making .venv with Python $(version "$python") ($python)"
    make_environment "$python"
fi
[ -x .venv/bin/uv ] || { say "Installing uv into .venv"; install_uv; }

say "Installing the locked dependencies"
export VIRTUAL_ENV="$PWD/.venv"
.venv/bin/uv pip install --quiet --require-hashes --no-build --requirement requirements.lock
set --
for package in packages/*/; do
    set -- "$@" --editable "$package"
done
.venv/bin/uv pip install --quiet --no-deps --no-build-isolation "$@"
printf '%s' "$(pwd -P)|${PYTHON:-}" >.venv/ready
