"""The schema: every table and index, for every SQL database, and the migrations that make them.

Instants are integers (micros), states and queues are plain text, so that a person with a SQL prompt can
read it. Texts are compared byte by byte everywhere: a name is no word of a language.

A migration only goes forward. Releases roll: each migration says which schema the oldest code knows that
still works on the new one, and the code says which is the oldest schema that it still works on. So servers of
a release and of the one before can share a storage, before the migration and after it.
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
from firelock_sql.schema.names import PREFIX

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
_FOR = "firelock: dialects"  # in an index's `info`: those that have it, where not all do

_Columns = ColumnElement[Any] | Column[Any]


def make_index(
    name: str,
    *columns: _Columns,
    where: ColumnElement[bool] | None = None,
    whole: Sequence[_Columns] | None = None,
    ordered: Sequence[_Columns] | None = None,
) -> None:
    """Make an index.

    Args:
        where: the rows that are in it, where a database has partial ones; every row for None.
        whole: MySQL's, which has none, and sorts only by all that an index ends with; it has no such index
            where this is empty.
        ordered: PostgreSQL's, where rows have no number that ends every index.
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
    """Tell whether a database of this dialect has the index."""
    return _FOR not in index.info or dialect in index.info[_FOR]


METADATA = MetaData()
ZERO: ColumnElement[int] = literal_column("0")
ONE: ColumnElement[int] = literal_column("1")
# SQLite gives out row numbers only to a column whose type is exactly INTEGER.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")
_EXACT = {"mysql": "utf8mb4_0900_bin", "mariadb": "utf8mb4_nopad_bin"}  # no blank at an end is passed over
_NAME_LENGTH = 255  # characters; keys of MySQL need a length, and the longest name of the core has 200


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
_LANE = _exactly(mysql.VARCHAR, 520)  # four keys, 512 characters together, and what is between them
# With these `ready` stays below the 3,072 bytes that an index of MySQL may have, four for each character.
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
    _count("marks"),  # what must be looked at when it ends: see `marks.py`
    Column("waits_for", _NAME),  # the memo that it waits for; read only while it is awaiting or scheduled
    # written once, but for what a later call of a unique job replaces
    Column("held_by", _LANE),  # its lane: the limits' keys that it asks for, a line each
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
    Column("admission_json", _TEXT),  # all that it asks before it starts
    Column(
        "relations_json", _TEXT
    ),  # its batch, its caller, where its inputs come from; of a batch its rules
    Column("parents", _TEXT),  # JSON list of [parent, on], or [parent, on, 1] where it carries
    Column(
        "creation", _TEXT
    ),  # the first line of history, where it is not plainly "enqueued, without a reason"
    # written when an attempt ends
    Column("result", _TEXT),
    Column("result_absent", _NAME),
    Column("error_type", _TEXT),
    Column("error_message", _TEXT),
    Column("error_fingerprint", _NAME),
    Column("history", _TEXT, nullable=False, server_default=_EMPTY),  # one JSON list a line: see `job_row`
    _count("history_lines"),
    _count("is_plain_end"),  # 1: the last step is not in `history`, it is what the other columns say
    postgresql_with=VACUUMED_EARLY,
)

is_waiting = (jobs.c.state == literal_column("'enqueued'")) & jobs.c.session.is_(None)
is_ready = is_waiting & jobs.c.held_by.is_(None)
is_in_lane = is_waiting & jobs.c.held_by.is_not(None)
is_scheduled = jobs.c.state == literal_column("'scheduled'")
is_retrying = is_scheduled & (jobs.c.retries > ZERO)


# serves claims; MySQL's that of lanes too
make_index(
    "ready",
    jobs.c.queue,
    jobs.c.priority.desc(),
    jobs.c.enqueued_at,
    where=is_ready,
    whole=(jobs.c.state, jobs.c.queue, jobs.c.held_by, jobs.c.priority.desc(), jobs.c.enqueued_at),
    ordered=(jobs.c.queue, jobs.c.priority.desc(), jobs.c.enqueued_at, jobs.c.seq),
)
# serves claims of jobs with limits, which are in none of the other's entries
make_index(
    "lanes",
    jobs.c.queue,
    jobs.c.held_by,
    jobs.c.priority.desc(),
    jobs.c.enqueued_at,
    where=is_in_lane,
    whole=(),
    ordered=(jobs.c.queue, jobs.c.held_by, jobs.c.priority.desc(), jobs.c.enqueued_at, jobs.c.seq),
)
# serves promote, the next due instant and lists by due; scheduled jobs have one, waits and batches may
make_index("due", jobs.c.due_at, jobs.c.id, where=jobs.c.due_at.is_not(None))
# serves reconcile, the end of a session, and lists of processing jobs, which are never many
make_index("holder", jobs.c.session, where=jobs.c.session.is_not(None))
# serves lists of every other state; to leave processing out saves 0.5 µs of a job's 9
make_index(
    "listed",
    jobs.c.state,
    jobs.c.changed_at,
    where=jobs.c.state != literal_column("'processing'"),
    whole=(jobs.c.state, jobs.c.changed_at, jobs.c.id),
)
# serves prune
make_index("expires", jobs.c.expires_at, jobs.c.seq, where=jobs.c.expires_at.is_not(None))
# serves lists without a state, merged from its parts; an index for each filter costs an insert 0.5 µs
make_index(
    "by_task",
    jobs.c.queue,
    jobs.c.task,
    jobs.c.created_at,
    whole=(jobs.c.queue, jobs.c.task, jobs.c.created_at, jobs.c.id),
)
# serves the runs of a recurring job
make_index("by_recurring", jobs.c.recurring_id, jobs.c.created_at, where=jobs.c.recurring_id.is_not(None))
# serves the jobs of a failure group
make_index("by_fingerprint", jobs.c.error_fingerprint, where=jobs.c.error_fingerprint.is_not(None))
# serves lists of retrying jobs among any number of scheduled ones
make_index("retrying", jobs.c.changed_at, where=is_retrying, whole=(jobs.c.retries, jobs.c.due_at))

# Written only for jobs with tags; serves lists by tag.
job_tags = Table(
    PREFIX + "job_tags",
    METADATA,
    Column("tag", _NAME, primary_key=True),
    Column("created_at", BigInteger, primary_key=True),
    Column("job_id", _NAME, primary_key=True),
    sqlite_with_rowid=False,
)

# The tie of a child to a parent; decided once, kept while the child is.
edges = Table(
    PREFIX + "edges",
    METADATA,
    Column("seq", _NUMBER, primary_key=True),
    Column("parent_id", _NAME, nullable=False),
    Column("child_id", _NAME, nullable=False),
    Column("awaited", _WORD, nullable=False),  # the end of the parent that the child waits for
    _count("is_decided"),
    _count("carries"),  # 1: the parent's result is among the child's arguments
    _count("is_wait"),  # 1: of a suspension, and no continuation: the child was there before, and ran
)
Index(PREFIX + "edges_of_parent", edges.c.parent_id, edges.c.is_decided, edges.c.seq)  # release, lists
Index(PREFIX + "edges_of_child", edges.c.child_id)  # what a child still waits for, prune

# Ended parents whose children are still to be looked at, and the last edge that was; beside them each edge
# whose child others had locked then.
releasing = Table(
    PREFIX + "releasing",
    METADATA,
    Column("parent_id", _NAME, primary_key=True),
    Column("skipped", BigInteger, primary_key=True, autoincrement=False, server_default="0"),  # an edge, or 0
    Column("after", BigInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
    postgresql_with=VACUUMED_AT_ONCE,
)

# How far a batch is. On SQLite changed in place, elsewhere the sum of what was folded: see `batch_deltas`.
batches = Table(
    PREFIX + "batches",
    METADATA,
    Column("id", _NAME, primary_key=True),  # of its job
    _count("total"),
    _count("active"),
    _count("waiting"),
    _count("succeeded"),
    _count("failed"),
    _count("deleted"),
    _count("batches"),
    _count("failures"),  # that were new since the last look, where they are not among the deltas
    _count("is_shut"),
    _count("is_cancelled"),
    _count("is_stopping"),
    _count("is_changed"),  # 1: `release` has to look at it
    Column("walk", _WORD),  # what `release` does to its members one after another: sweep or admit
    Column("walked_at", BigInteger, nullable=False, server_default="0"),  # the last member it came to:
    Column("walked_id", _NAME, nullable=False, server_default=""),  # its created_at and id
    sqlite_with_rowid=False,
    postgresql_with=CHANGED_IN_PLACE,
)
make_index(
    "changed_batches",
    batches.c.id,
    where=batches.c.is_changed == ONE,
    whole=(batches.c.is_changed, batches.c.id),
)  # serves release; nearly empty as a rule

# What ends and others have changed of a batch whose row they do not lock; `release` folds them into it.
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
    _count("failures"),  # that were new: see `batches.Share`
    postgresql_with=VACUUMED_AT_ONCE,
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

# What a job remembers: see `Memo`.
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
    Column("bytes", Integer, nullable=False),  # of the value, in UTF-8
)

# What a job emits: see `Chunk`.
stream_chunks = Table(
    PREFIX + "stream_chunks",
    METADATA,
    Column("job_id", _NAME, primary_key=True),
    Column("stream", _NAME, primary_key=True),
    Column("place", BigInteger, primary_key=True),  # its offset; -1 for the row that counts the bytes
    Column("data", _TEXT, nullable=False),
    Column("bytes", Integer, nullable=False),  # of the data, in UTF-8
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

# How many jobs of each queue are in each state. On SQLite one row each, changed in place.
counts = Table(
    PREFIX + "counts",
    METADATA,
    Column("state", _WORD, primary_key=True),
    Column("queue", _NAME, primary_key=True),
    Column("jobs", BigInteger, nullable=False),
    sqlite_with_rowid=False,
    postgresql_with=CHANGED_IN_PLACE,
)

# Where transactions run side by side a row that each of them changes would line them up: they add rows here,
# and upkeep folds these into the ones above.
count_deltas = Table(
    PREFIX + "count_deltas",
    METADATA,
    Column("seq", _NUMBER, primary_key=True),
    Column("state", _WORD, nullable=False),
    Column("queue", _NAME, nullable=False),
    Column("jobs", BigInteger, nullable=False),
    postgresql_with=VACUUMED_AT_ONCE,
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
    Column("died_at", BigInteger),  # set for ever once the session is dead
    Column("forget_at", BigInteger),  # when a dead session is deleted
    _count("is_followed"),  # 1 if another session of its server began after its death
    Column("closing_since", BigInteger),  # equal to died_at while it may hold jobs
    Column("blame", _TEXT),  # JSON, likewise: which jobs get a crash, and its reason
    _count("busy"),
    Column("reported", _WORD, nullable=False, server_default="running"),
    Column("rss_bytes", BigInteger, nullable=False, server_default="0"),
    Column("cpu_percent", Double, nullable=False, server_default="0"),
    _count("stuck_threads"),
    _count("stuck_coroutines"),
    _count("parked"),
    sqlite_with_rowid=False,
    postgresql_with=CHANGED_IN_PLACE,
)

make_index(  # serves `oldest_session` and `orphans`
    "living_sessions",
    sessions.c.started_at,
    sessions.c.id,
    where=sessions.c.died_at.is_(None),
    whole=[sessions.c.died_at, sessions.c.started_at, sessions.c.id],
)
make_index(  # serves `begin_session`, which finds the dead sessions of its server
    "unfollowed_sessions",
    sessions.c.server_id,
    where=sessions.c.died_at.is_not(None) & (sessions.c.is_followed == ZERO),
    whole=[sessions.c.server_id, sessions.c.is_followed],
)
# serves `prune`
make_index("forgettable_sessions", sessions.c.forget_at, where=sessions.c.forget_at.is_not(None))
# serves `orphans`
make_index("closing", sessions.c.closing_since, where=sessions.c.closing_since.is_not(None))


def _records(name: str, *more: Column[Any]) -> Table:
    table = Table(
        PREFIX + name,
        METADATA,
        Column("kind", _NAME, primary_key=True),  # nothing: the key is a kind, with the last version gone
        Column("key", _NAME, primary_key=True),
        Column("value", _TEXT, nullable=False),
        Column("version", Integer, nullable=False),
        Column("due_at", BigInteger),
        *more,
        sqlite_with_rowid=False,
    )
    # serves firing and the next due instant
    make_index(f"due_{name}", table.c.kind, table.c.due_at, where=table.c.due_at.is_not(None))
    return table


records = _records("records", _count("is_paused"))  # 1: the settings of a queue that claims pass over
recurring = _records("recurring")  # what a firing changes, apart from what claims read
is_paused_queue = records.c.is_paused == ONE
make_index(
    "paused_queues", records.c.key, where=is_paused_queue, whole=(records.c.is_paused, records.c.key)
)  # serves claim; empty as a rule

locks = Table(
    PREFIX + "locks",
    METADATA,
    Column("name", _NAME, primary_key=True),
    Column("owner", _NAME),  # empty: free, since `expires_at`
    Column("fence", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
    postgresql_with=CHANGED_IN_PLACE,
)

# Who has a limit's key. A list of claims: whether one of them holds it still, its job says.
limit_keys = Table(
    PREFIX + "limit_keys",
    METADATA,
    Column("key", _KEY, primary_key=True),
    Column("holders", _TEXT),  # numbers of jobs, "!" behind strict ones; NULL: nobody is listed
    Column("free_at", BigInteger, nullable=False, server_default="0"),  # up to which its rate has been used
    sqlite_with_rowid=False,
    postgresql_with=CHANGED_IN_PLACE,
)

# The job that took a unique key last; whether it has it still, the job says.
unique_keys = Table(
    PREFIX + "unique_keys",
    METADATA,
    Column("key", _KEY, primary_key=True),
    Column("job_id", _NAME, nullable=False),
    Column("mark", Integer, nullable=False),  # its starts when it took the key
    Column("free_at", BigInteger, nullable=False),  # before it is taken, whatever became of the job
    sqlite_with_rowid=False,
    postgresql_with=CHANGED_IN_PLACE,
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
    Column("works_with", Integer, nullable=False),  # the schema that the oldest code knows which works on it
    Column("made_by", _WORD, nullable=False),  # the release that made it
)


@attrs.frozen
class Migration:
    """One version of the schema."""

    sentence: str  # what it did, for people
    statements: Callable[[Dialect], Iterator[str]]
    works_with: int  # the schema that the oldest code knows which works on this one


def _tables(dialect: Dialect) -> Iterator[str]:
    """Yield the statements that make what is not there yet: a step that was cut off is taken again."""
    for table in METADATA.sorted_tables:
        yield str(CreateTable(table, if_not_exists=True).compile(dialect=dialect)).strip()
        if getattr(dialect, "makes_indexes_with_tables", False):
            continue
        indexes = [index for index in table.indexes if is_of(index, dialect.name)]
        for index in sorted(indexes, key=lambda index: str(index.name)):
            yield str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect)).strip()


MIGRATIONS = [Migration("Created the tables of version 1.", _tables, works_with=1)]


def script(dialect: Dialect, found: int, now: int) -> Iterator[list[str]]:
    """Yield the statements of each migration that comes after a version, the row that records it last."""
    for version, migration in enumerate(MIGRATIONS[found:], start=found + 1):
        row = insert(schema_version).values(
            version=version, at=now, works_with=migration.works_with, made_by=__version__
        )
        recorded = row.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        yield [*migration.statements(dialect), str(recorded)]
