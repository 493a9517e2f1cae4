"""Across modules: a wrong URL or an unusable PostgreSQL is reported in one line with reason and fix."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import sql

from firelock import StorageError, StorageUnavailable
from firelock_sql.connections.server_database import Meaning
from firelock_sql.postgresql.connect import read_failure, require_usable
from tests.ports import HOST, free_port
from tests.refusals import SECRET, http_server, refusal
from tests.sql.servers.postgresql import Postgresql
from tests.sql.servers.processes import PASSWORD, USER

# ---- access ----------------------------------------------------------------------------------------------


def test_wrong_password_is_reported_without_showing_it(postgresql):
    """The error and its causes do not contain the password. Repeating the call would not help."""
    line = refusal(postgresql.url().replace(f":{PASSWORD}@", f":{SECRET}@"), StorageError)

    assert line == (
        f"postgresql://{USER}:***@{HOST}:{postgresql.server.port}/{postgresql.name}: password authentication "
        f'failed for user "{USER}"; check the user name and password.'
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda one: one.url().replace(f":{PASSWORD}@", "@"),
            "no password supplied; add one to the URL or to a password file.",
        ),
        (
            lambda one: one.url().replace(f"{USER}:", "stranger:"),
            'authentication failed for user "stranger"; check the user name',
        ),
        (
            lambda one: one.server.url("nowhere"),
            'database "nowhere" does not exist; create the database, or use another one.',
        ),
        (
            lambda one: one.url("sslmode=require"),
            "server does not support SSL, but SSL was required; install a certificate on the server",
        ),
        (
            lambda one: one.url("sslmode=perhaps"),
            'invalid sslmode value: "perhaps"; check the options of the URL.',
        ),
    ],
    ids=["no password", "user", "database", "TLS", "option"],
)
def test_invalid_url_is_refused_with_a_fix(postgresql, spoil, message):
    """The message comes from the component that has the best information, and includes a fix.

    Repeating the call would not help.
    """
    assert message in refusal(spoil(postgresql), StorageError)


def test_error_of_a_pooler_is_reported(pgbouncer):
    """In this test, PgBouncer refuses an unknown user."""
    line = refusal(pgbouncer.url().replace(f"{USER}:", "stranger:"), StorageError)

    assert "check the user name" in line


def test_role_without_create_privilege_is_refused_with_a_fix(postgresql):
    """Creating the schema requires this privilege."""
    with psycopg.connect(postgresql.socket_url(), autocommit=True) as owner:
        owner.execute("CREATE ROLE reader LOGIN PASSWORD 'secret'")
        try:
            owner.execute("REVOKE CREATE ON SCHEMA public FROM public")
            line = refusal(postgresql.url().replace(f"{USER}:", "reader:"), StorageError)
        finally:
            owner.execute("DROP ROLE reader")

    assert "permission denied for schema public" in line
    assert "docs/sql.md" in line


# ---- availability ----------------------------------------------------------------------------------------


def test_unreachable_server_error_names_the_address(tmp_path):
    """The error names the port, the socket or the host.

    The server might be started later, so repeating the call may succeed.
    """
    port = free_port()
    messages = {
        f"{HOST}:{port}/jobs": [
            f'server at "{HOST}", port {port}',
            "Connection refused; check whether the server runs and listens at this address.",
        ],
        f"/jobs?host={tmp_path}": [f'"{tmp_path}/.s.PGSQL.5432"', "check whether the server runs"],
        "nowhere.invalid/jobs": ["nowhere.invalid", "check the host name"],
    }  # fmt: skip

    for address, words in messages.items():
        line = refusal(f"postgresql://{USER}:{SECRET}@{address}", StorageUnavailable)
        assert [] == [word for word in words if word not in line]


def test_too_many_connections_are_reported(postgresql):
    """Some connections might be closed later, so repeating the call may succeed."""
    name = sql.Identifier(postgresql.name)
    with (
        psycopg.connect(postgresql.url()),
        psycopg.connect(postgresql.socket_url(), autocommit=True) as owner,
    ):
        owner.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 1").format(name))
        try:
            line = refusal(postgresql.url(), StorageUnavailable)
        finally:
            owner.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(name))

    assert "too many connections for database" in line
    assert "decrease ?pool_size=, or increase max_connections" in line


def test_standby_is_refused(postgresql_program):
    """A standby might be promoted at any time, so repeating the call may succeed."""
    with Postgresql(postgresql_program) as server:
        server.create_database("jobs")
        server.stop()
        (server.folder / "data" / "standby.signal").touch()
        server.start()

        line = refusal(server.url("jobs"), StorageUnavailable)

    assert "the server does not accept writes: it is a standby, or is becoming one." in line


def test_different_protocol_is_reported():
    """The error distinguishes a port with a different kind of server from a port without a server."""
    with http_server() as port:
        line = refusal(f"postgresql://{USER}:{SECRET}@{HOST}:{port}/jobs", StorageError)

    assert "check the host and port, because this is not a PostgreSQL server." in line


# ---- product and version ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "number", "name"),
    [
        ("PostgreSQL 12.22 on x86_64-pc-linux-gnu, compiled by gcc, 64-bit", 120_022, "PostgreSQL 12.22."),
        ("PostgreSQL 9.6.24, compiled by Visual C++ build 1800, 64-bit", 90_624, "PostgreSQL 9.6.24."),
        ("CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu, built 2024)", 130_000, "CockroachDB,"),
        ("PostgreSQL 15.2-YB-2.25.0.0-b0 on x86_64-pc-linux-gnu", 150_002, "YugabyteDB,"),
        ("PostgreSQL 8.0.2 on i686-pc-linux-gnu, Redshift 1.0.12103", 80_002, "Redshift,"),
        ("", 0, "an unknown database,"),
    ],
)
def test_old_server_and_other_product_are_refused_by_name(version, number, name):
    """The error is one line that contains the product and a fix."""
    with pytest.raises(
        StorageError, match=rf"^here: .*(is|got) {name}.*([Uu]se PostgreSQL|Upgrade the server)"
    ):
        require_usable("here", version, number)


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("PostgreSQL 13.0 (Debian 13.0-1) on x86_64-pc-linux-gnu", 130_000),
        ("PostgreSQL 18.1 (EnterpriseDB Advanced Server 18.1.0) on x86_64-pc-linux-gnu", 180_001),
        ("PostgreSQL 19beta1 on aarch64-apple-darwin", 190_000),
    ],
)
def test_supported_versions_are_accepted(version, number):
    """Builds of PostgreSQL by other vendors are accepted too."""
    require_usable("here", version, number)


# ---- the driver's messages -------------------------------------------------------------------------------


FATAL = 'connection failed: connection to server at "db" failed: FATAL:  '


@pytest.mark.parametrize(
    ("message", "meaning"),
    [
        (FATAL + "sorry, too many clients already", Meaning.PASSING),
        (FATAL + "the database system is starting up", Meaning.PASSING),
        (FATAL + "Passwort falsch", Meaning.PASSING),
        (FATAL + 'no pg_hba.conf entry for host "::1"', Meaning.LASTING),
        (FATAL + 'role "ada" is not permitted to log in', Meaning.LASTING),
        ("connection is bad: certificate verify failed", Meaning.LASTING),
        ("connection timeout expired", Meaning.PASSING),
        ("consuming input failed: server closed the connection unexpectedly", Meaning.LOST),
        ("the connection is closed", Meaning.LOST),
    ],
)
def test_connection_failure_is_permanent_temporary_or_a_loss(message, meaning):
    """A failed connection has no error code, so the message is examined.

    An unknown message counts as temporary.
    """
    failure = read_failure(psycopg.OperationalError(message))

    assert meaning is failure.meaning
    assert "FATAL" not in failure.text


def test_error_of_the_last_tried_host_decides():
    """The errors of the hosts that were tried before are ignored."""
    message = (
        'connection failed: connection to server at "127.0.0.1" failed: FATAL:  database "x" does not exist\n'
        'Multiple connection attempts failed. All failures were:\n- host: "::1": Connection refused'
    )

    failure = read_failure(psycopg.OperationalError(message))

    assert Meaning.LASTING is failure.meaning
    assert 'database "x" does not exist; create the database, or use another one.' == failure.text
