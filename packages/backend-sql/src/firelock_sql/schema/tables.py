"""The schema: every table and index, for every SQL database, and the migrations that create them.

Times are integers, in microseconds since 1970. States and queues are stored as plain strings, so that they
are readable at an SQL prompt. Strings are compared byte by byte, without the collation rules of a language.

A change to a table needs its new definition here, for new databases, and a migration for existing ones.
Migrations only go forward. For rolling upgrades, each migration declares the oldest schema version whose code
still works with the new schema, and the code declares the oldest schema version with which it works. This
allows servers of a release and of the previous one to share a storage before and after the migration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import attrs
from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    insert,
    literal_column,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from firelock import __version__
from firelock_sql.schema.names import PREFIX, table_name

VACUUMED_EARLY: Mapping[str, float] = {
    "autovacuum_vacuum_scale_factor": 0.02,
    "autovacuum_vacuum_threshold": 1_000,
    "autovacuum_analyze_scale_factor": 0.05,
}
VACUUMED_AT_ONCE: Mapping[str, float] = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 1_000,
}
CHANGED_IN_PLACE: Mapping[str, float] = {"fillfactor": 50, **VACUUMED_AT_ONCE}


_MYSQL = frozenset({"mysql", "mariadb"})
_POSTGRESQL = frozenset({"postgresql"})
# Keys in `info`: the dialects that have an index if not all have it, and a table's storage parameters on
# PostgreSQL.
_FOR, _STORED = "firelock: dialects", "firelock: storage parameters"

_Columns = ColumnElement[Any] | Column[Any]


def make_index(
    name: str,
    *columns: _Columns,
    where: ColumnElement[bool] | None = None,
    whole: Sequence[_Columns] | None = None,
    ordered: Sequence[_Columns] | None = None,
) -> None:
    """Define an index.

    Args:
        name: the name of the index without the prefix.
        where: the condition of a partial index, on databases that support partial indexes; None: all rows.
        whole: the columns for MySQL, which has no partial indexes and can sort only by the columns at the end
            of an index; empty if MySQL must not have the index.
        ordered: the columns for PostgreSQL, whose indexes do not implicitly end with the row number.
    """
    partial = [Index(PREFIX + name, *columns, sqlite_where=where, postgresql_where=where)]
    if ordered is not None:
        partial[0].info[_FOR] = frozenset({"sqlite"})
        own = Index(PREFIX + name, *ordered, sqlite_where=where, postgresql_where=where)
        own.info[_FOR] = _POSTGRESQL
        partial.append(own)
    elif whole is not None:
        partial[0].info[_FOR] = frozenset({"sqlite", "postgresql"})
    if whole:
        partial.append(Index(PREFIX + name, *whole, info={_FOR: _MYSQL}))
    for index in partial:
        if _FOR in index.info:
            index.ddl_if(callable_=cast("Any", _is_for))


def _is_for(_ddl: object, index: Any, _bind: object, *, dialect: Dialect, **_: object) -> bool:  # noqa: ANN401 - an Index
    return is_of(index, dialect.name)


def is_of(index: Index, dialect: str) -> bool:
    """Return whether a database of this dialect has the index."""
    return _FOR not in index.info or dialect in index.info[_FOR]


METADATA = MetaData()
ZERO: ColumnElement[int] = literal_column("0")
ONE: ColumnElement[int] = literal_column("1")
# SQLite assigns row numbers only to a column whose type is exactly INTEGER.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")
_EXACT = {"mysql": "utf8mb4_0900_bin", "mariadb": "utf8mb4_nopad_bin"}  # with significant trailing blanks
_NAME_LENGTH = 255  # characters; MySQL requires a length for keys; Firelock allows 200 characters in names


def _exactly(lengthy: type[mysql.VARCHAR | mysql.MEDIUMTEXT], *length: int) -> TypeEngine[str]:
    kind: TypeEngine[str] = Text().with_variant(Text(collation="C"), "postgresql")
    for dialect, collation in _EXACT.items():
        kind = kind.with_variant(lengthy(*length, charset="utf8mb4", collation=collation), dialect)
    return kind


_WORD, _NAME, _KEY, _TEXT = (
    _exactly(mysql.VARCHAR, 32),
    _exactly(mysql.VARCHAR, _NAME_LENGTH),
    _exactly(mysql.VARCHAR, 512),
    _exactly(mysql.MEDIUMTEXT),
)
_LANE = _exactly(mysql.VARCHAR, 520)  # four keys with 512 characters in total, and their separators
# These lengths keep `ready` below 3,072 bytes, MySQL's limit for an index; each character counts as four
# bytes.
_STATE, _QUEUE = _exactly(mysql.VARCHAR, 16), _exactly(mysql.VARCHAR, 200)
_EMPTY = text("('')")


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


jobs = Table(
    PREFIX + "jobs",
    METADATA,
    Column("seq", _NUMBER, primary_key=True),  # order of insertion
    Column("id", _NAME, nullable=False, unique=True),
    Column("state", _STATE, nullable=False),
    Column("queue", _QUEUE, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("enqueued_at", BigInteger),
    Column("changed_at", BigInteger, nullable=False),
    _count("attempt"),
    _count("retries"),
    _count("crashes"),
    _count("fence"),
    Column("session", _NAME),
    Column("server", _NAME),
    Column("claimed_at", BigInteger),
    Column("started_at", BigInteger),
    Column("due_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("reason", _TEXT),
    _count("marks"),  # bits for the checks when the job ends: see `marks.py`
    Column("waits_for", _NAME),  # the memo for which the job waits; read only if it is awaiting or scheduled
    # These columns are written only once, except for those that a later call of a unique job replaces.
    Column("lane", _LANE),  # the limit keys that the job needs, one per line; NULL: none
    Column("task", _NAME, nullable=False),
    Column("arguments", _TEXT, nullable=False),
    Column("serializer", _NAME, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("nominal_at", BigInteger),
    Column("tags", _TEXT),  # JSON list
    Column("timeout_seconds", Double),
    Column("retry", _TEXT),
    Column("recurring_id", _NAME),
    Column("meta_json", _TEXT),
    Column("admission_json", _TEXT),  # the job's limits, unique key and start deadline
    Column("relations_json", _TEXT),  # the job's batch, caller and sources of inputs; for a batch, its rules
    Column("parents", _TEXT),  # JSON list of [parent, on], or [parent, on, 1] if the result is passed on
    Column("creation", _TEXT),  # the first line of history, unless it is "enqueued, without a reason"
    # These columns are written when an attempt ends.
    Column("result", _TEXT),
    Column("result_absent", _NAME),
    Column("error_type", _TEXT),
    Column("error_message", _TEXT),
    Column("error_fingerprint", _NAME),
    Column("history", _TEXT, nullable=False, server_default=_EMPTY),  # one JSON list per line: see `job_row`
    _count("history_lines"),
    _count("is_plain_end"),  # 1: the last entry is not in `history`, because other columns contain its values
    info={_STORED: VACUUMED_EARLY},
)

is_waiting = (jobs.c.state == literal_column("'enqueued'")) & jobs.c.session.is_(None)
is_ready = is_waiting & jobs.c.lane.is_(None)
is_in_lane = is_waiting & jobs.c.lane.is_not(None)
is_scheduled = jobs.c.state == literal_column("'scheduled'")
is_retrying = is_scheduled & (jobs.c.retries > ZERO)


# This index is for claims; on MySQL, it is also for claims of jobs in lanes.
make_index(
    "ready",
    jobs.c.queue,
    jobs.c.priority.desc(),
    jobs.c.enqueued_at,
    where=is_ready,
    whole=(jobs.c.state, jobs.c.queue, jobs.c.lane, jobs.c.priority.desc(), jobs.c.enqueued_at),
    ordered=(jobs.c.queue, jobs.c.priority.desc(), jobs.c.enqueued_at, jobs.c.seq),
)
# This index is for claims of jobs with limits, which are not in the index above.
make_index(
    "lanes",
    jobs.c.queue,
    jobs.c.lane,
    jobs.c.priority.desc(),
    jobs.c.enqueued_at,
    where=is_in_lane,
    whole=(),
    ordered=(jobs.c.queue, jobs.c.lane, jobs.c.priority.desc(), jobs.c.enqueued_at, jobs.c.seq),
)
# This index is for promote, the next due time and lists by due time. Scheduled jobs have a due time; waiting
# jobs and batches may have one.
make_index("due", jobs.c.due_at, jobs.c.id, where=jobs.c.due_at.is_not(None))
# This index is for reconcile, the end of a session and lists of processing jobs. It always has few entries.
make_index("holder", jobs.c.session, where=jobs.c.session.is_not(None))
# This index is for lists by any other state. It does not contain processing jobs, which saves 0.5 of 9 µs per
# job.
make_index(
    "listed",
    jobs.c.state,
    jobs.c.changed_at,
    where=jobs.c.state != literal_column("'processing'"),
    whole=(jobs.c.state, jobs.c.changed_at, jobs.c.id),
)
# For prune.
make_index("expires", jobs.c.expires_at, jobs.c.seq, where=jobs.c.expires_at.is_not(None))
# This index is for lists without a state, which are merged from parts of the index. One index per filter
# would add 0.5 µs to each insert.
make_index(
    "by_task",
    jobs.c.queue,
    jobs.c.task,
    jobs.c.created_at,
    whole=(jobs.c.queue, jobs.c.task, jobs.c.created_at, jobs.c.id),
)
# This index is for the runs of a recurring job.
make_index("by_recurring", jobs.c.recurring_id, jobs.c.created_at, where=jobs.c.recurring_id.is_not(None))
# This index is for the jobs in a failure group.
make_index("by_fingerprint", jobs.c.error_fingerprint, where=jobs.c.error_fingerprint.is_not(None))
# This index is for lists of retrying jobs. The cost of these lists must not depend on the number of scheduled
# jobs.
make_index("retrying", jobs.c.changed_at, where=is_retrying, whole=(jobs.c.retries, jobs.c.due_at))

# This table is for lists by tag; it contains only jobs with tags.
job_tags = Table(
    PREFIX + "job_tags",
    METADATA,
    Column("tag", _NAME, primary_key=True),
    Column("created_at", BigInteger, primary_key=True),
    Column("job_id", _NAME, primary_key=True),
    sqlite_with_rowid=False,
)

# The dependency of a child on its parent. The dependency is decided once and is kept as long as the child
# exists.
edges = Table(
    PREFIX + "edges",
    METADATA,
    Column("seq", _NUMBER, primary_key=True),
    Column("parent_id", _NAME, nullable=False),
    Column("child_id", _NAME, nullable=False),
    Column("awaited", _WORD, nullable=False),  # the final state of the parent for which the child waits
    _count("is_decided"),
    _count("carries"),  # 1: the parent's result is passed to the child as an argument
    _count("is_wait"),  # 1: created when a running child was suspended; 0: created with a continuation
)
Index(PREFIX + "edges_of_parent", edges.c.parent_id, edges.c.is_decided, edges.c.seq)  # for release and lists
Index(PREFIX + "edges_of_child", edges.c.child_id)  # used by prune, and to find the open edges of a child

# Ended parents that may have unchecked children, with the last edge that was checked. Edges that were skipped
# because another transaction had locked the child have their own rows.
releasing = Table(
    PREFIX + "releasing",
    METADATA,
    Column("parent_id", _NAME, primary_key=True),
    Column("skipped", BigInteger, primary_key=True, autoincrement=False, server_default="0"),  # an edge, or 0
    Column("after", BigInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
    info={_STORED: VACUUMED_AT_ONCE},
)

# The counts of a batch. On SQLite, these are changed in place. On other databases, they are the sum of the
# folded deltas: see `batch_deltas`.
batches = Table(
    PREFIX + "batches",
    METADATA,
    Column("id", _NAME, primary_key=True),  # the id of the batch's job
    _count("total"),
    _count("active"),
    _count("waiting"),
    _count("succeeded"),
    _count("failed"),
    _count("deleted"),
    _count("batches"),
    _count("failures"),  # new failures since the last check if they are not stored as deltas
    _count("is_unopened"),
    _count("is_cancelled"),
    _count("is_stopping"),
    _count("is_changed"),  # 1: `release` must check the batch
    Column("walk", _WORD),  # action that `release` applies to one member after another: sweep or resume
    # created_at and id of the last member that was handled
    Column("walked_at", BigInteger, nullable=False, server_default="0"),
    Column("walked_id", _NAME, nullable=False, server_default=""),
    sqlite_with_rowid=False,
    info={_STORED: CHANGED_IN_PLACE},
)
make_index(
    "changed_batches",
    batches.c.id,
    where=batches.c.is_changed == ONE,
    whole=(batches.c.is_changed, batches.c.id),
)  # used by release; usually almost empty

# Changes to a batch by transactions that do not lock its row, for example when a member ends. `release` folds
# these changes into the row.
batch_deltas = Table(
    PREFIX + "batch_deltas",
    METADATA,
    Column("seq", _NUMBER, primary_key=True),
    Column("batch_id", _NAME, nullable=False, index=True),
    _count("total"),
    _count("active"),
    _count("waiting"),
    _count("succeeded"),
    _count("failed"),
    _count("deleted"),
    _count("batches"),
    _count("failures"),  # new failures: see `batches.Share`
    info={_STORED: VACUUMED_AT_ONCE},
)

# The members of a batch, in their order.
members = Table(
    PREFIX + "members",
    METADATA,
    Column("batch_id", _NAME, primary_key=True),
    Column("created_at", BigInteger, primary_key=True),
    Column("job_id", _NAME, primary_key=True),
    sqlite_with_rowid=False,
)

# The memos of a job: see `Memo`.
memos = Table(
    PREFIX + "memos",
    METADATA,
    Column("job_id", _NAME, primary_key=True),
    Column("kind", _WORD, primary_key=True),
    Column("name", _NAME, primary_key=True),
    Column("place", Integer, nullable=False),
    Column("value", _TEXT),
    Column("is_done", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("attempt", Integer, nullable=False),
    Column("author", _TEXT, nullable=False),
    Column("bytes", Integer, nullable=False),  # size of the value in bytes of UTF-8
)

# The output of a job: see `Chunk`.
stream_chunks = Table(
    PREFIX + "stream_chunks",
    METADATA,
    Column("job_id", _NAME, primary_key=True),
    Column("stream", _NAME, primary_key=True),
    Column("place", BigInteger, primary_key=True),  # the chunk's offset; -1 for the row that counts the bytes
    Column("data", _TEXT, nullable=False),
    Column("bytes", Integer, nullable=False),  # size of the data in bytes of UTF-8
)

attempt_errors = Table(
    PREFIX + "attempt_errors",
    METADATA,
    Column("seq", _NUMBER, primary_key=True),
    Column("job_id", _NAME, nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("type", _TEXT, nullable=False),
    Column("message", _TEXT, nullable=False),
    Column("fingerprint", _NAME, nullable=False),
    Column("traceback", _TEXT),
)

# The number of jobs per queue and state. On SQLite, each pair has one row, which is changed in place.
counts = Table(
    PREFIX + "counts",
    METADATA,
    Column("state", _WORD, primary_key=True),
    Column("queue", _NAME, primary_key=True),
    Column("jobs", BigInteger, nullable=False),
    sqlite_with_rowid=False,
    info={_STORED: CHANGED_IN_PLACE},
)

# A shared row that every transaction changes would serialize concurrent transactions. So transactions insert
# rows here, and upkeep folds these rows into `counts`.
count_deltas = Table(
    PREFIX + "count_deltas",
    METADATA,
    Column("seq", _NUMBER, primary_key=True),
    Column("state", _WORD, nullable=False),
    Column("queue", _NAME, nullable=False),
    Column("jobs", BigInteger, nullable=False),
    info={_STORED: VACUUMED_AT_ONCE},
)

sessions = Table(
    PREFIX + "sessions",
    METADATA,
    Column("id", _NAME, primary_key=True),
    Column("server_id", _NAME, nullable=False),
    Column("server", _NAME, nullable=False),
    Column("host", _NAME, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("timeout_seconds", Double, nullable=False),
    Column("workers", Integer, nullable=False),
    Column("queues", _TEXT, nullable=False),
    Column("version", _NAME, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("died_at", BigInteger),  # set permanently when the session is dead
    Column("forget_at", BigInteger),  # time from which the dead session may be deleted
    _count("is_followed"),  # 1 if another session of the server has started after the death of this one
    Column("closing_since", BigInteger),  # equal to died_at while the session may hold jobs
    Column("blame", _TEXT),  # JSON, set only while closing: the jobs for which a crash counts, and the reason
    _count("busy"),
    Column("reported", _WORD, nullable=False, server_default="running"),
    Column("rss_bytes", BigInteger, nullable=False, server_default="0"),
    Column("cpu_percent", Double, nullable=False, server_default="0"),
    _count("stuck_threads"),
    _count("stuck_coroutines"),
    _count("parked"),
    sqlite_with_rowid=False,
    info={_STORED: CHANGED_IN_PLACE},
)

make_index(  # used by `oldest_session` and `orphans`
    "living_sessions",
    sessions.c.started_at,
    sessions.c.id,
    where=sessions.c.died_at.is_(None),
    whole=[sessions.c.died_at, sessions.c.started_at, sessions.c.id],
)
make_index(  # used by `begin_session`, which finds the dead sessions of its server
    "unfollowed_sessions",
    sessions.c.server_id,
    where=sessions.c.died_at.is_not(None) & (sessions.c.is_followed == ZERO),
    whole=[sessions.c.server_id, sessions.c.is_followed],
)
# For `prune`.
make_index("forgettable_sessions", sessions.c.forget_at, where=sessions.c.forget_at.is_not(None))
# For `orphans`.
make_index("closing", sessions.c.closing_since, where=sessions.c.closing_since.is_not(None))


def _records(name: str, *more: Column[Any]) -> Table:
    table = Table(
        PREFIX + name,
        METADATA,
        # if this is empty, the key is a kind, and the version is the highest one of its deleted records
        Column("kind", _NAME, primary_key=True),
        Column("key", _NAME, primary_key=True),
        Column("value", _TEXT, nullable=False),
        Column("version", Integer, nullable=False),
        Column("due_at", BigInteger),
        *more,
        sqlite_with_rowid=False,
    )
    # This index is for firing and the next due time.
    make_index(f"due_{name}", table.c.kind, table.c.due_at, where=table.c.due_at.is_not(None))
    return table


records = _records("records", _count("is_paused"))  # 1: settings of a queue that claims must skip
recurring = _records("recurring")  # separate from the records that claims read; each firing changes it
is_paused_queue = records.c.is_paused == ONE
make_index(
    "paused_queues", records.c.key, where=is_paused_queue, whole=(records.c.is_paused, records.c.key)
)  # used by claims; usually empty

locks = Table(
    PREFIX + "locks",
    METADATA,
    Column("name", _NAME, primary_key=True),
    Column("owner", _NAME),  # NULL: the lock has been free since `expires_at`
    Column("fence", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
    info={_STORED: CHANGED_IN_PLACE},
)

# The holders of a limit key, as a list of claimed jobs. The row of a job determines whether the job still
# holds the key.
limit_keys = Table(
    PREFIX + "limit_keys",
    METADATA,
    Column("key", _KEY, primary_key=True),
    Column("holders", _TEXT),  # numbers of jobs, with a "!" after strict holders; NULL: no list yet
    # the time up to which the key's rate has been used, or until which the key is blocked
    Column("next_arrival_at", BigInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
    info={_STORED: CHANGED_IN_PLACE},
)

# The job that took a unique key last. The row of the job determines whether the job still has the key.
unique_keys = Table(
    PREFIX + "unique_keys",
    METADATA,
    Column("key", _KEY, primary_key=True),
    Column("job_id", _NAME, nullable=False),
    Column("mark", Integer, nullable=False),  # the number of times the job had started when it took the key
    # the key stays taken until this time, even if the job ends or is deleted
    Column("free_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
    info={_STORED: CHANGED_IN_PLACE},
)

rollups = Table(
    PREFIX + "rollups",
    METADATA,
    Column("minute", BigInteger, primary_key=True),
    Column("task", _NAME, primary_key=True),
    Column("queue", _NAME, primary_key=True),
    Column("outcome", _WORD, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("duration", BigInteger, nullable=False),
    Column("histogram", _TEXT, nullable=False),  # JSON list
    sqlite_with_rowid=False,
)

log_lines = Table(
    PREFIX + "log_lines",
    METADATA,
    Column("job_id", _NAME, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("level", _NAME, nullable=False),
    Column("line", _TEXT, nullable=False),
    Column("attempt", Integer, nullable=False),
    sqlite_with_rowid=False,
)

progress = Table(
    PREFIX + "progress",
    METADATA,
    Column("job_id", _NAME, primary_key=True),
    Column("done", Double, nullable=False),
    Column("total", Double, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("message", _TEXT),
    sqlite_with_rowid=False,
)

schema_version = Table(
    PREFIX + "schema",
    METADATA,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("works_with", Integer, nullable=False),  # the oldest schema version whose code works with this one
    Column("made_by", _WORD, nullable=False),  # the release that created this version
)


@attrs.frozen
class Migration:
    """One version of the schema."""

    version: int  # the version of the schema after this migration
    sentence: str  # a description for users
    statements: Callable[[Dialect], Iterator[str]]
    works_with: int  # the oldest schema version whose code works with this one


def _tables(dialect: Dialect) -> Iterator[str]:
    """Yield statements that create missing tables and indexes, even after an interrupted migration."""
    for table in METADATA.sorted_tables:
        yield str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)).strip()
        if table.info and dialect.name == "postgresql":  # SQLAlchemy 2.0 cannot set parameters at creation
            parameters = ", ".join(f"{name} = {value}" for name, value in table.info[_STORED].items())
            yield f"ALTER TABLE {table_name(dialect, table.name)} SET ({parameters})"
        if getattr(dialect, "makes_indexes_with_tables", False):
            continue
        indexes = [index for index in table.indexes if is_of(index, dialect.name)]
        for index in sorted(indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect)).strip()


MIGRATIONS = [Migration(2, "Created the tables.", _tables, works_with=2)]


def migrations_after(found: int) -> list[Migration]:
    """Return the migrations that a schema of this version needs; 0 stands for a database without tables.

    The first migration creates the tables as `METADATA` defines them now, including the changes of all later
    migrations. So a new database needs only this migration, and gets the newest version.
    """
    if found:
        return [migration for migration in MIGRATIONS if migration.version > found]
    first, newest = MIGRATIONS[0], MIGRATIONS[-1]
    return [attrs.evolve(newest, sentence=first.sentence, statements=first.statements)]


def script(dialect: Dialect, found: int, now: int) -> Iterator[list[str]]:
    """Yield the statements of each migration after `found`; the last one inserts the row of its version.

    `found` is 0 for a database without tables.
    """
    for migration in migrations_after(found):
        row = insert(schema_version).values(
            version=migration.version, at=now, works_with=migration.works_with, made_by=__version__
        )
        recorded = row.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        yield [*migration.statements(dialect), str(recorded)]
