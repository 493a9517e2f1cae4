#!/bin/sh
# Run the uv in .venv with the machine's trusted certificates and the package index that is configured for pip.
set -eu
cd "$(dirname "$0")/.."

for store in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [ -s "$store" ]; then export UV_SYSTEM_CERTS=true; fi
done
index=${PIP_INDEX_URL:-}
for python in .venv/bin/python "${PYTHON:-python3}"; do
    [ -n "$index" ] || index=$("$python" -m pip config get global.index-url 2>/dev/null || true)
done
if [ -n "$index" ]; then export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"; fi

export VIRTUAL_ENV="$PWD/.venv"
exec .venv/bin/uv "$@"
