"""Descriptions and checks of a PostgreSQL server: the durability of jobs, and findings about problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from firelock.storage import Finding, Severity, StorageError, StorageUnavailable
from firelock_sql.schema.names import TABLES, table_name

if TYPE_CHECKING:
    from firelock_sql.connections.server_database import ServerDatabase


@attrs.frozen
class HealthBounds:
    """The thresholds above which findings are reported."""

    old_seconds: int = 300  # age of a transaction; upkeep's own transactions take a few seconds
    idle_seconds: int = 60
    dead_rows: int = 50_000
    dead_share: float = 0.2  # dead rows, as a share of the live rows
    crowded: float = 0.8  # share of max_connections
    full_queue: float = 0.1  # used share of the server's queue of unread notifications


_SETTINGS = (
    "SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY(ARRAY['server_version',"
    " 'synchronous_commit', 'synchronous_standby_names', 'fsync', 'full_page_writes', 'max_connections',"
    " 'superuser_reserved_connections', 'autovacuum'])"
)
_SIZE = (
    "SELECT coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)::bigint FROM unnest(%s::text[]) name"
)
_CONNECTIONS = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'"
_ROLE = "SELECT current_user, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'), pg_is_in_recovery()"
_DEAD = (
    "SELECT relname, n_live_tup, n_dead_tup,"
    " extract(epoch FROM clock_timestamp() - greatest(last_autovacuum, last_vacuum))::bigint"
    " FROM pg_catalog.pg_stat_user_tables"
    " WHERE relid = ANY(SELECT to_regclass(name) FROM unnest(%s::text[]) name) ORDER BY relname"
)
_SNAPSHOTS = (
    "SELECT pid, coalesce(nullif(application_name, ''), 'no application name'), coalesce(usename, '?'),"
    " extract(epoch FROM clock_timestamp() - xact_start)::bigint"
    " FROM pg_catalog.pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_xmin IS NOT NULL"
    " AND backend_type = 'client backend' AND datname = current_database()"
    " ORDER BY age(backend_xmin) DESC, xact_start LIMIT 1"
)
_IDLE = (
    "SELECT pid, coalesce(nullif(application_name, ''), 'no application name'), coalesce(usename, '?'),"
    " extract(epoch FROM clock_timestamp() - state_change)::bigint"
    " FROM pg_catalog.pg_stat_activity WHERE left(state, 19) = 'idle in transaction'"
    " AND datname = current_database() ORDER BY state_change"
)
_PREPARED = (
    "SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::bigint FROM pg_catalog.pg_prepared_xacts"
    " WHERE database = current_database() ORDER BY prepared"
)
_SLOTS = (
    "SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE NOT active AND xmin IS NOT NULL"
    " ORDER BY slot_name"
)
_INDEXES = (
    "SELECT c.relname, i.indisvalid FROM pg_catalog.pg_index i"
    " JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid"
    " WHERE i.indrelid = ANY(SELECT to_regclass(name) FROM unnest(%s::text[]) name)"
)
_NOTIFICATIONS = "SELECT pg_notification_queue_usage()"


def _ask(database: ServerDatabase, query: str, *values: object) -> list[tuple[Any, ...]]:
    def ask(tx: Any) -> list[tuple[Any, ...]]:  # noqa: ANN401 - a Transaction, whose rows hold anything here
        tx.cursor.execute(query, list(values))
        rows: list[tuple[Any, ...]] = tx.cursor.fetchall()
        return rows

    return database.transact(ask, is_writing=False)


def _names(database: ServerDatabase) -> list[str]:
    return [table_name(database.dialect, name) for name in sorted(TABLES)]


def _settings(database: ServerDatabase) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in _ask(database, _SETTINGS)}


# ---- descriptions ----------------------------------------------------------------------------------------


def describe(database: ServerDatabase) -> Mapping[str, str]:
    """Return a description of the server, including the durability of jobs."""
    settings = _settings(database)
    ((size,),) = _ask(database, _SIZE, _names(database))
    ((connections,),) = _ask(database, _CONNECTIONS)
    return {
        "storage": database.name,
        "server": f"PostgreSQL {settings['server_version'].split()[0]}",
        "durability": durability(settings),
        "size": f"{size / 1024 / 1024:.1f} MiB",
        "connections": f"{connections} of {settings['max_connections']}",
    }


def durability(settings: Mapping[str, str]) -> str:
    """Return a description of the data that a crash can lose with the settings of this connection."""
    if settings["fsync"] == "off":
        return "fsync off: a power failure may destroy the database"
    if settings["full_page_writes"] == "off":
        return "full_page_writes off: a power failure may damage the database"
    commit, standbys = settings["synchronous_commit"], settings["synchronous_standby_names"]
    if commit == "off":
        return "synchronous_commit off: a crash may lose data acknowledged in the last second"
    if not standbys:
        return "acknowledged data is on disk"
    return {
        "local": "acknowledged data is on this server's disk; a failover may lose data, because "
        "synchronous_commit local does not wait for a standby",
        "remote_write": "acknowledged data is on this server's disk and in the memory of a standby",
    }.get(commit, "acknowledged data is on the disks of this server and of a standby")


# ---- checks ----------------------------------------------------------------------------------------------


def diagnose(database: ServerDatabase, limits: HealthBounds = HealthBounds()) -> list[Finding]:
    """Return a finding for each problem of this server, with its fix.

    A check that this role may not run is also reported as a finding.
    """
    findings: list[Finding] = []
    for what, check in _CHECKS.items():
        try:
            findings += check(database, limits)
        except StorageUnavailable:
            raise
        except StorageError as error:
            findings.append(
                Finding(
                    Severity.NOTE,
                    "postgresql_hidden",
                    f"This role is not allowed to check {what}: {error}",
                    "Grant pg_read_all_stats to the role.",
                )
            )
    return findings


def _about_the_role(database: ServerDatabase, _: HealthBounds) -> Iterator[Finding]:
    ((role, sees_all, is_standby),) = _ask(database, _ROLE)
    if is_standby:
        yield Finding(
            Severity.ERROR, "postgresql_standby", "The server is a standby, which does not accept writes.",
            "Use the address of the primary; with several hosts, add target_session_attrs=read-write.",
        )  # fmt: skip
    if not sees_all:
        yield Finding(
            Severity.NOTE, "postgresql_hidden",
            f"Role {role} cannot see the sessions of other roles, so transactions that keep old rows may not "
            "be found.",
            f"Run GRANT pg_read_all_stats TO {role}, or run doctor as another role.",
        )  # fmt: skip


def _about_durability(database: ServerDatabase, _: HealthBounds) -> Iterator[Finding]:
    settings = _settings(database)
    losses = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
    for name, value in losses.items():
        if settings[name] == value:
            said = durability({**settings, **{other: "on" for other in losses if other != name}})
            yield Finding(
                Severity.NOTE,
                "postgresql_durability",
                f"{said}.",
                f"Set {name} to on, unless this is intended.",
            )
    if settings["synchronous_commit"] == "local" and settings["synchronous_standby_names"]:
        yield Finding(
            Severity.NOTE, "postgresql_durability",
            "synchronous_commit is local: a failover may lose acknowledged data.",
            "Set synchronous_commit to on.",
        )  # fmt: skip
    if settings["autovacuum"] == "off":
        yield Finding(
            Severity.ERROR,
            "postgresql_autovacuum",
            "autovacuum is off: tables grow, and claims slow down.",
            "Set autovacuum to on.",
        )


def _about_dead_rows(database: ServerDatabase, limits: HealthBounds) -> Iterator[Finding]:
    for name, live, dead, seconds in _ask(database, _DEAD, _names(database)):
        if dead > max(limits.dead_rows, live * limits.dead_share):
            last = (
                "it was never vacuumed"
                if seconds is None
                else f"the last vacuum was {_duration(seconds)} ago"
            )
            yield Finding(
                Severity.WARNING, "postgresql_dead_rows",
                f"{name} has {dead:,} dead rows and {live:,} live rows; {last}.",
                "Find transactions that hold an old snapshot. If there are none, make autovacuum faster: "
                "decrease autovacuum_vacuum_cost_delay.",
            )  # fmt: skip


def _about_snapshots(database: ServerDatabase, limits: HealthBounds) -> Iterator[Finding]:
    for pid, application, role, seconds in _ask(database, _SNAPSHOTS):
        if seconds is not None and seconds >= limits.old_seconds:
            yield Finding(
                Severity.WARNING,
                "long_transaction",
                f"The transaction of pid {pid} ({application}, role {role}) has been open for "
                f"{_duration(seconds)}; dead rows are not removed until it ends.",
                f"End the transaction, or run SELECT pg_terminate_backend({pid}).",
            )
    for (slot,) in _ask(database, _SLOTS):
        yield Finding(
            Severity.WARNING, "postgresql_replication_slot",
            f"Replication slot {slot} is not in use and holds an old snapshot.",
            "Connect its standby, or drop the slot.",
        )  # fmt: skip


def _about_idle_transactions(database: ServerDatabase, limits: HealthBounds) -> Iterator[Finding]:
    idle = [
        (pid, application, role, seconds)
        for pid, application, role, seconds in _ask(database, _IDLE)
        if seconds is not None and seconds >= limits.idle_seconds
    ]
    if idle:
        pid, application, role, seconds = idle[0]
        sessions = "1 session is" if len(idle) == 1 else f"{len(idle)} sessions are"
        yield Finding(
            Severity.WARNING,
            "idle_transaction",
            f"{sessions} idle in transaction, pid {pid} ({application}, role {role}) for "
            f"{_duration(seconds)}. Other transactions wait for its locks.",
            "End such transactions, or set idle_in_transaction_session_timeout to end them automatically.",
        )


def _about_prepared(database: ServerDatabase, limits: HealthBounds) -> Iterator[Finding]:
    for gid, seconds in _ask(database, _PREPARED):
        if seconds >= limits.old_seconds:
            yield Finding(
                Severity.WARNING, "prepared_transaction",
                f"The prepared transaction {gid!r} is {_duration(seconds)} old and holds locks.",
                "Run COMMIT PREPARED or ROLLBACK PREPARED.",
            )  # fmt: skip


def _about_indexes(database: ServerDatabase, _: HealthBounds) -> Iterator[Finding]:
    from sqlalchemy.schema import CreateIndex  # noqa: PLC0415 - with the tables, which load every dialect

    from firelock_sql.schema.tables import METADATA, is_of  # noqa: PLC0415 - loads every dialect

    found = {str(name): bool(is_valid) for name, is_valid in _ask(database, _INDEXES, _names(database))}
    for table in METADATA.sorted_tables:
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            name = database.names.of(str(index.name))
            if not is_of(index, database.dialect.name) or found.get(name):
                continue
            make = " ".join(str(CreateIndex(index).compile(dialect=database.dialect)).split())
            if name in found:
                yield Finding(
                    Severity.ERROR,
                    "postgresql_index_invalid",
                    f"Index {name} is invalid, so the server does not use it.",
                    f"REINDEX INDEX {name}.",
                )
            else:
                yield Finding(
                    Severity.ERROR,
                    "postgresql_index_missing",
                    f"Index {name} is missing, so queries read whole tables.",
                    f"{make};",
                )


def _about_connections(database: ServerDatabase, limits: HealthBounds) -> Iterator[Finding]:
    settings = _settings(database)
    most = int(settings["max_connections"]) - int(settings["superuser_reserved_connections"])
    ((number,),) = _ask(database, _CONNECTIONS)
    if number >= most * limits.crowded:
        yield Finding(
            Severity.WARNING, "connections",
            f"{number} of {most} connections are in use; the server refuses more than that.",
            "Decrease ?pool_size=, use a connection pooler, or increase max_connections.",
        )  # fmt: skip


def _about_notifications(database: ServerDatabase, limits: HealthBounds) -> Iterator[Finding]:
    ((usage,),) = _ask(database, _NOTIFICATIONS)
    if usage >= limits.full_queue:
        yield Finding(
            Severity.WARNING, "postgresql_notifications",
            f"The server's notification queue is {usage:.0%} full, because a listener does not read it.",
            "Find a session that has run LISTEN and has an open transaction, and end the transaction.",
        )  # fmt: skip


_Check = Callable[["ServerDatabase", HealthBounds], "Iterator[Finding]"]
_CHECKS: Mapping[str, _Check] = {
    "roles": _about_the_role,
    "settings": _about_durability,
    "dead rows": _about_dead_rows,
    "snapshots": _about_snapshots,
    "idle transactions": _about_idle_transactions,
    "prepared transactions": _about_prepared,
    "indexes": _about_indexes,
    "connections": _about_connections,
    "notifications": _about_notifications,
}


def _duration(seconds: int) -> str:
    """Return a duration in words."""
    for length, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= length:
            number = seconds // length
            return f"{number} {unit}{'' if number == 1 else 's'}"
    return f"{seconds} seconds"
