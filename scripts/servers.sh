#!/bin/sh
# After this the servers and the browser that the tests start for themselves are installed, as far as this machine
# lets us: Debian's packages, as root. No service of theirs is started. What cannot be had is said, and the tests go on
# without it.
set -u

say() { printf '%s\n' "$*" >&2; }

is_here() { PATH="$PATH:/usr/sbin" command -v "$1" >/dev/null 2>&1; }

missing=
for program in redis-server valkey-server pgbouncer chromium; do
    is_here "$program" || missing="$missing $program"
done
# Debian keeps a PostgreSQL of each version off the path; postgresql-common knows them, and comes before the first one.
[ -n "$(find /usr/lib/postgresql/*/bin/postgres 2>/dev/null | head -n 1)" ] ||
    missing="$missing postgresql-common postgresql"
# The server alone, without the service around it; my_print_defaults, which its set-up asks, is among the clients.
is_here mariadbd || missing="$missing mariadb-server-core"
is_here my_print_defaults || missing="$missing mariadb-client-core"
# A browser without a font draws boxes, and measures them.
[ -n "$(find /usr/share/fonts /usr/local/share/fonts -name '*.[ot]tf' 2>/dev/null | head -n 1)" ] ||
    missing="$missing fonts-dejavu-core"
# Its promtool reads the alerts of deploy/.
is_here promtool || missing="$missing prometheus"
# It sets the wall clock of the servers under test.
[ -n "$(find /usr/lib -name libfaketime.so.1 2>/dev/null | head -n 1)" ] || missing="$missing libfaketime"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "Not installed, and to be had by root and apt-get alone:$missing. The tests go on without."
    exit 0
fi

# While packages are set up, this is asked whether their services may start; 101 says no.
policy=/usr/sbin/policy-rc.d
clusters=/etc/postgresql-common/createcluster.conf
undo() {
    [ -z "${made_policy:-}" ] || rm -f "$policy"
    [ ! -e "$clusters.before-firelock" ] || mv "$clusters.before-firelock" "$clusters"
}
trap undo EXIT
trap 'exit 1' HUP INT TERM
if [ ! -e "$policy" ]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
elif "$policy" redis-server start >/dev/null 2>&1; then
    say "$policy lets services start. The tests go on without:$missing."
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq </dev/null >/dev/null 2>&1 || say "apt-get update failed; the lists that are here have to do."
for package in $missing; do
    if [ "$package" = postgresql ] && cp -p "$clusters" "$clusters.before-firelock"; then
        # Else a cluster would be created, and started with the machine.
        printf '\ncreate_main_cluster = false\n' >>"$clusters"
    fi
    say "Installing $package"
    apt-get install -qq --no-install-recommends -o DPkg::Lock::Timeout=60 "$package" </dev/null >/dev/null 2>&1 ||
        say "$package cannot be installed. The tests go on without."
done
