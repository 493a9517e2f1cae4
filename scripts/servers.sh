#!/bin/sh
# After this the servers and the browser that the tests start for themselves are installed, as far as this machine
# lets us: Debian's packages, as root. No service of theirs is started. What cannot be had is said, and the tests go on
# without it.
set -u

say() { printf '%s\n' "$*" >&2; }

missing=
for program in redis-server valkey-server chromium; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
# A browser without a font draws boxes, and measures them.
[ -n "$(find /usr/share/fonts /usr/local/share/fonts -name '*.[ot]tf' 2>/dev/null | head -n 1)" ] ||
    missing="$missing fonts-dejavu-core"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "Not installed, and to be had by root and apt-get alone:$missing. The tests go on without."
    exit 0
fi

# While packages are set up, this is asked whether their services may start; 101 says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
elif "$policy" redis-server start >/dev/null 2>&1; then
    say "$policy lets services start. The tests go on without:$missing."
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq </dev/null >/dev/null 2>&1 || say "apt-get update failed; the lists that are here have to do."
for package in $missing; do
    say "Installing $package"
    apt-get install -qq --no-install-recommends -o DPkg::Lock::Timeout=60 "$package" </dev/null >/dev/null 2>&1 ||
        say "$package cannot be installed. The tests go on without."
done
