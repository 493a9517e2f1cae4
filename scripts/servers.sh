#!/bin/sh
# Install the servers and the browser that the tests start, as Debian packages. This needs root and apt-get. It does
# not start any service. Missing programs are reported, and the tests run without them.
set -u

say() { printf '%s\n' "$*" >&2; }

is_installed() { PATH="$PATH:/usr/sbin" command -v "$1" >/dev/null 2>&1; }

missing=
for program in redis-server valkey-server pgbouncer chromium; do
    is_installed "$program" || missing="$missing $program"
done
# Debian does not put PostgreSQL on the path. postgresql-common comes first, because its configuration, changed below,
# decides whether installing postgresql creates a cluster.
[ -n "$(find /usr/lib/postgresql/*/bin/postgres 2>/dev/null | head -n 1)" ] ||
    missing="$missing postgresql-common postgresql"
# Install only the server, not its service; the server's setup needs my_print_defaults from the client package.
is_installed mariadbd || missing="$missing mariadb-server-core"
is_installed my_print_defaults || missing="$missing mariadb-client-core"
# Without a font, a browser draws boxes, which have other sizes than text.
[ -n "$(find /usr/share/fonts /usr/local/share/fonts -name '*.[ot]tf' 2>/dev/null | head -n 1)" ] ||
    missing="$missing fonts-dejavu-core"
# The package contains promtool, which tests the alerts in deploy/.
is_installed promtool || missing="$missing prometheus"
# The library sets the wall clock of the tested servers.
[ -n "$(find /usr/lib -name libfaketime.so.1 2>/dev/null | head -n 1)" ] || missing="$missing libfaketime"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "Not installed, because root and apt-get are needed:$missing. The tests run without them."
    exit 0
fi

# Packages run this program during their setup to find out whether their services may start; 101 means no.
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
    say "Not installed, because $policy lets services start:$missing. The tests run without them."
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq </dev/null >/dev/null 2>&1 || say "apt-get update failed; using the existing package lists."
for package in $missing; do
    if [ "$package" = postgresql ] && cp -p "$clusters" "$clusters.before-firelock"; then
        # Otherwise a cluster would be created that starts with the machine.
        printf '\ncreate_main_cluster = false\n' >>"$clusters"
    fi
    say "Installing $package"
    apt-get install -qq --no-install-recommends -o DPkg::Lock::Timeout=60 "$package" </dev/null >/dev/null 2>&1 ||
        say "$package cannot be installed. The tests run without it."
done
