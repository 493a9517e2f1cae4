"""Reports about a PostgreSQL server: at a server's start, by `doctor`, and for a limited role."""

from __future__ import annotations

import io
import json
import re
from contextlib import closing, redirect_stdout

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import create_engine

from firelock.cli import main
from firelock.testing import eventually
from firelock_sql.connections.pool import EnginePool
from firelock_sql.postgresql import health
from firelock_sql.postgresql.database import PostgresqlDatabase
from firelock_sql.postgresql.storage import open_url
from firelock_sql.schema.names import Names
from tests.sql.servers.postgresql import Postgresql
from tests.sql.servers.processes import PASSWORD, USER

SAFE = {
    "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "synchronous_standby_names": "",
}  # fmt: skip


@pytest.fixture
def storage(postgresql):
    """A storage with its tables, opened as the superuser, who can see everything."""
    with closing(open_url(postgresql.url())) as owner:
        owner.migrate()
    storage = open_url(postgresql.socket_url())
    yield storage
    storage.close()


def found(storage, word):
    """Return the findings that contain this word: whether each is an error, the problem, and the fix."""
    return [(one.is_error, one.what, one.advice) for one in storage.diagnose() if word in one.what]


def found_at_once(url, word, **limits):
    """Return the findings that contain this word, with limits other than the default ones."""
    with closing(EnginePool("here", lambda: create_engine(url), is_own=True)) as connections:
        findings = health.diagnose(
            PostgresqlDatabase("here", connections, Names()), health.HealthBounds(**limits)
        )
    return [(one.is_error, one.what, one.advice) for one in findings if word in one.what]


@pytest.fixture
def engine_url(postgresql, storage):
    """SQLAlchemy's URL of the database for the superuser; the tables exist."""
    return postgresql.socket_url().replace("postgresql:", "postgresql+psycopg:")


# ---- description -----------------------------------------------------------------------------------------


def test_description_of_a_real_server_is_complete(storage, postgresql_program):
    """The description contains the version, the durability, the size and the number of connections."""
    description = storage.describe()

    assert f"PostgreSQL {'.'.join(map(str, postgresql_program.version))}" == description["server"]
    assert "fsync off: a power failure may destroy the database" == description["durability"]
    assert description["size"].endswith(" MiB")
    assert description["connections"].endswith(" of 200")
    assert "none" == description["pooler"]
    assert "NOTIFY, one connection per process" == description["wake"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "acknowledged data is on disk"),
        ({"fsync": "off"}, "may destroy the database"),
        ({"full_page_writes": "off"}, "may damage the database"),
        ({"synchronous_commit": "off"}, "may lose data acknowledged in the last second"),
        ({"synchronous_commit": "local"}, "acknowledged data is on disk"),
        ({"synchronous_commit": "local", "synchronous_standby_names": "b"}, "a failover may lose"),
        (
            {"synchronous_commit": "remote_write", "synchronous_standby_names": "b"},
            "in the memory of a standby",
        ),
        ({"synchronous_standby_names": "b"}, "on the disks of this server and of a standby"),
    ],
)
def test_durability_describes_the_settings(settings, expected):
    """The description is one line that states what a crash would lose."""
    assert expected in health.durability({**SAFE, **settings})


# ---- findings --------------------------------------------------------------------------------------------


def test_settings_that_lose_data_are_found(storage, postgresql, admin):
    """The settings of this database are checked, because they apply to Firelock's connections."""
    name = sql.Identifier(postgresql.name)
    admin.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
    another = open_url(postgresql.socket_url())
    try:
        findings = found(another, "synchronous_commit")
    finally:
        another.close()
        admin.execute(sql.SQL("ALTER DATABASE {} RESET synchronous_commit").format(name))

    assert [
        (
            False,
            "synchronous_commit off: a crash may lose data acknowledged in the last second.",
            "Set synchronous_commit to on, unless this is intended.",
        )
    ] == findings
    assert [] == found(storage, "synchronous_commit")
    assert [False] == [is_error for is_error, _, _ in found(storage, "fsync")]


def test_missing_index_is_found_with_its_statement(storage, admin):
    """Without this index, claims would read the whole table."""
    admin.execute("DROP INDEX firelock_ready")

    ((is_error, what, fix),) = found(storage, "Index")
    admin.execute(fix)

    assert is_error
    assert "Index firelock_ready is missing, so queries read whole tables." == what
    assert [] == found(storage, "Index")


def test_invalid_index_is_found(storage, admin):
    """An invalid index exists and is kept up to date, but is never used."""
    admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'firelock_due'::regclass")

    ((is_error, what, fix),) = found(storage, "Index")
    admin.execute(fix.rstrip("."))

    assert (True, "Index firelock_due is invalid, so the server does not use it.") == (is_error, what)
    assert [] == found(storage, "Index")


def test_index_findings_use_the_prefix_and_schema(postgresql, admin):
    """The statement that creates the index contains the actual name of the table."""
    storage = open_url(postgresql.socket_url() + "&schema=other&prefix=jobs_")
    storage.migrate()
    admin.execute("DROP INDEX other.jobs_due")

    ((_, what, fix),) = found(storage, "Index")
    admin.execute(fix)
    findings = found(storage, "Index")
    storage.close()

    assert "Index jobs_due is missing, so queries read whole tables." == what
    assert [] == findings


def test_transaction_that_holds_old_rows_is_found(engine_url, postgresql):
    """The finding names the process, application and role of the transaction, so that a person can end it."""
    with psycopg.connect(postgresql.url(), application_name="report") as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")
        pid = reader.info.backend_pid

        ((is_error, what, fix),) = found_at_once(engine_url, "has been open for", old_seconds=0)

    assert not is_error
    message = (
        rf"The transaction of pid {pid} \(report, role {USER}\) has been open for \d+ seconds; dead rows"
    )
    assert re.match(message, what)
    assert f"SELECT pg_terminate_backend({pid})" in fix


def test_session_idle_in_a_transaction_is_found(engine_url, postgresql):
    """Other transactions would wait for the locks of this session."""
    with psycopg.connect(postgresql.url(), application_name="shell") as forgotten:
        forgotten.execute("SELECT 1")
        pid = forgotten.info.backend_pid

        ((_, what, _),) = found_at_once(engine_url, "idle in transaction", idle_seconds=0)

    assert f"1 session is idle in transaction, pid {pid} (shell, role {USER}) for 0 seconds" in what


def test_old_prepared_transaction_is_found(postgresql_program):
    """A prepared transaction remains after its session has ended, and even after the server was restarted."""
    with Postgresql(postgresql_program, {"max_prepared_transactions": "2"}) as server:
        server.create_database("jobs")
        with psycopg.connect(server.url("jobs"), autocommit=True) as connection:
            connection.execute("BEGIN")
            connection.execute("CREATE TABLE t ()")
            connection.execute("PREPARE TRANSACTION 'forgotten'")
        url = server.socket_url("jobs").replace("postgresql:", "postgresql+psycopg:")

        ((_, what, fix),) = found_at_once(url, "prepared transaction", old_seconds=0)

    assert "The prepared transaction 'forgotten' is 0 seconds old and holds locks." == what
    assert "ROLLBACK PREPARED" in fix


def test_dead_rows_are_found(engine_url, admin):
    """The time of the last vacuum shows whether the vacuum is slow or blocked."""
    admin.execute("ALTER TABLE firelock_records SET (autovacuum_enabled = false)")
    admin.execute("INSERT INTO firelock_records SELECT 'kind', n, '', 1 FROM generate_series(1, 100) n")
    admin.execute("DELETE FROM firelock_records")

    # the server updates its statistics when a statement ends at least a second after the last update
    def scan():
        admin.execute("SELECT 1")
        return found_at_once(engine_url, "dead rows", dead_rows=10)

    ((_, what, _),) = eventually(scan)
    admin.execute("VACUUM firelock_records")

    assert "firelock_records has 100 dead rows and 0 live rows; it was never vacuumed." == what
    assert eventually(lambda: not scan())


def test_server_with_few_free_connections_is_found(storage, engine_url):
    """The finding is shown before the server refuses connections."""
    ((_, what, _),) = found_at_once(engine_url, "connections are in use", crowded=0.0)

    assert "of 197 connections are in use" in what
    assert [] == found(storage, "connections are in use")


def test_role_without_monitoring_privileges_is_found(storage, postgresql):
    """Missing privileges cause a finding instead of an error.

    Everything that the role can read is checked.
    """
    limited = open_url(postgresql.url("application_name=limited"))
    try:
        findings = found(limited, "cannot see the sessions of other roles")
        others = found(limited, "fsync")
    finally:
        limited.close()

    assert [
        (
            False,
            (
                f"Role {USER} cannot see the sessions of other roles, so transactions that keep old rows may "
                "not be found."
            ),
            f"Run GRANT pg_read_all_stats TO {USER}, or run doctor as another role.",
        )
    ] == findings
    assert others
    assert [] == found(storage, "cannot see the sessions")


def test_unreadable_view_is_a_finding(storage, postgresql, admin):
    """If an administrator has revoked the access to a view, everything else is still checked."""
    admin.execute("REVOKE SELECT ON pg_catalog.pg_prepared_xacts FROM public")
    limited = open_url(postgresql.url())
    try:
        ((is_error, what, _),) = found(limited, "is not allowed to check prepared transactions")
    finally:
        limited.close()
        admin.execute("GRANT SELECT ON pg_catalog.pg_prepared_xacts TO public")

    assert not is_error
    assert "permission denied" in what
    assert PASSWORD not in what


def test_doctor_shows_all_findings(storage, postgresql):
    """If there are only warnings, the command exits with code 0, as monitoring systems expect."""
    out = io.StringIO()

    with redirect_stdout(out):
        code = main(["doctor", "--storage", postgresql.url(), "--json"])

    printed = json.loads(out.getvalue())
    assert (0, True) == (code, printed["is_well"]), printed
    assert printed["about"]["server"].startswith("PostgreSQL ")
    assert "fsync off: a power failure may destroy the database." in [
        finding["what"] for finding in printed["findings"]
    ]
