"""Every table, for every SQL database. Columns marked reserved are written by nothing yet.

Instants are integers (micros), states and queues are plain text, so that a person with a SQL prompt can
read it.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    literal_column,
)
from sqlalchemy.sql.elements import ColumnElement

__all__ = ["METADATA", "ONE", "ZERO", "pinned", "text_literal"]

METADATA = MetaData()
ZERO: ColumnElement[int] = literal_column("0")
ONE: ColumnElement[int] = literal_column("1")
_PREFIX = "firelock_"
# SQLite gives out row numbers only to a column whose type is exactly INTEGER.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")


def text_literal(value: str) -> ColumnElement[str]:
    """Return a constant that stands in the statement itself, as the condition of a partial index has to."""
    return literal_column(repr(str(value)))


def pinned(statement: Select[Any], index: str) -> Select[Any]:
    """Return the query, tied to an index of the jobs where the database takes such an order."""
    return statement.with_hint(jobs, INDEXED_BY[index], "sqlite")


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


jobs = Table(
    _PREFIX + "jobs",
    METADATA,
    Column("seq", _NUMBER, primary_key=True),  # order of insertion
    Column("id", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("enqueued_at", BigInteger),
    Column("changed_at", BigInteger, nullable=False),
    _count("attempt"),
    _count("retries"),
    _count("crashes"),
    _count("fence"),
    Column("session", Text),
    Column("server", Text),
    Column("claimed_at", BigInteger),
    Column("started_at", BigInteger),
    Column("due_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("reason", Text),
    _count("is_parent"),  # 1: edges of children that nothing was decided for may exist
    Column("held_by", Text),  # reserved: what keeps an enqueued job from being ready, such as a limit
    # written once
    Column("task", Text, nullable=False),
    Column("arguments", Text, nullable=False),
    Column("serializer", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("nominal_at", BigInteger),
    Column("tags", Text),  # JSON list
    Column("timeout_seconds", Float),
    Column("retry", Text),
    Column("recurring_id", Text),
    Column("parents", Text),  # JSON list of [parent, on]
    Column(
        "creation", Text
    ),  # the first line of history, where it is not plainly "enqueued, without a reason"
    # written when an attempt ends
    Column("result", Text),
    Column("result_absent", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("error_fingerprint", Text),
    Column("history", Text, nullable=False, server_default=""),  # one JSON list a line: see `history`
    _count("history_lines"),
    _count("is_plain_end"),  # 1: the last step is not in `history`, it is what the other columns say
)

_ENQUEUED, _SCHEDULED = text_literal("enqueued"), text_literal("scheduled")
is_ready = (jobs.c.state == _ENQUEUED) & jobs.c.session.is_(None) & jobs.c.held_by.is_(None)
is_scheduled = jobs.c.state == _SCHEDULED
is_retrying = is_scheduled & (jobs.c.retries > ZERO)


def _index(name: str, *columns: ColumnElement[object] | Column[object], where: ColumnElement[bool]) -> Index:
    return Index(_PREFIX + name, *columns, sqlite_where=where, postgresql_where=where)


_ = [
    # serves claim
    _index("ready", jobs.c.queue, jobs.c.priority.desc(), jobs.c.enqueued_at, where=is_ready),
    # serves promote and the next due instant
    _index("due", jobs.c.due_at, where=is_scheduled),
    # serves reconcile, the end of a session, and lists of processing jobs, which are never many
    _index("holder", jobs.c.session, where=jobs.c.session.is_not(None)),
    # serves lists of every other state; to leave processing out saves 0.5 µs of a job's 9
    _index("listed", jobs.c.state, jobs.c.changed_at, where=jobs.c.state != text_literal("processing")),
    # serves prune
    _index("expires", jobs.c.expires_at, where=jobs.c.expires_at.is_not(None)),
    # serves lists without a state, merged from its parts; an index for each filter costs an insert 0.5 µs
    Index(_PREFIX + "by_task", jobs.c.queue, jobs.c.task, jobs.c.created_at),
    # serves the runs of a recurring job
    _index(
        "by_recurring",
        jobs.c.recurring_id,
        jobs.c.created_at,
        where=jobs.c.recurring_id.is_not(None),
    ),
    # serves the jobs of a failure group
    _index("by_fingerprint", jobs.c.error_fingerprint, where=jobs.c.error_fingerprint.is_not(None)),
    # serves lists of retrying jobs among any number of scheduled ones
    _index("retrying", jobs.c.changed_at, where=is_retrying),
]

INDEXED_BY = {
    name.removeprefix(_PREFIX): f"INDEXED BY {name}" for name in (str(index.name) for index in jobs.indexes)
}

# Reserved: what few jobs will have. On the jobs' own rows these columns cost every job 0.4 µs.
job_ties = Table(
    _PREFIX + "job_ties",
    METADATA,
    Column("job_id", Text, primary_key=True),
    Column("pending", Integer),  # members of a batch that have not ended
    Column("batch_id", Text),
    Column("waits_for", Text),  # what an awaiting job waits for, if not for parents: its kind and key
    Column("waits_for_key", Text),
    Column("limit_key", Text),
    Column("unique_key", Text),
    Column("unique_until", Text),  # the point at which the key is free again
    Column("start_before", BigInteger),
    sqlite_with_rowid=False,
)

# Written only for jobs with tags; serves lists by tag.
job_tags = Table(
    _PREFIX + "job_tags",
    METADATA,
    Column("tag", Text, primary_key=True),
    Column("created_at", BigInteger, primary_key=True),
    Column("job_id", Text, primary_key=True),
    sqlite_with_rowid=False,
)

# The tie of a child to a parent; decided once, kept while the child is.
edges = Table(
    _PREFIX + "edges",
    METADATA,
    Column("seq", _NUMBER, primary_key=True),
    Column("parent_id", Text, nullable=False),
    Column("child_id", Text, nullable=False),
    Column("awaited", Text, nullable=False),  # the end of the parent that the child waits for
    _count("is_decided"),
)
Index(_PREFIX + "edges_of_parent", edges.c.parent_id, edges.c.is_decided, edges.c.seq)  # release, lists
Index(_PREFIX + "edges_of_child", edges.c.child_id)  # what a child still waits for, prune

# Ended parents whose children are still to be looked at, and the last edge that was.
releasing = Table(
    _PREFIX + "releasing",
    METADATA,
    Column("parent_id", Text, primary_key=True),
    Column("after", BigInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

attempt_errors = Table(
    _PREFIX + "attempt_errors",
    METADATA,
    Column("seq", _NUMBER, primary_key=True),
    Column("job_id", Text, nullable=False, index=True),
    Column("attempt", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("traceback", Text),
)

# How many jobs of each queue are in each state. On SQLite one row each, changed in place.
counts = Table(
    _PREFIX + "counts",
    METADATA,
    Column("state", Text, primary_key=True),
    Column("queue", Text, primary_key=True),
    Column("jobs", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

sessions = Table(
    _PREFIX + "sessions",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("server_id", Text, nullable=False),
    Column("server", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("timeout_seconds", Float, nullable=False),
    Column("workers", Integer, nullable=False),
    Column("queues", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("died_at", BigInteger),  # set for ever once the session is dead
    _count("busy"),
    Column("reported", Text, nullable=False, server_default="running"),
    Column("rss_bytes", BigInteger, nullable=False, server_default="0"),
    Column("cpu_percent", Float, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

recurring = Table(
    _PREFIX + "recurring",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("version", Integer, nullable=False),
    Column("next_at", BigInteger),
    _count("is_paused"),
    Column("definition", Text, nullable=False),  # JSON of a RecurringRecord
    sqlite_with_rowid=False,
)
is_firing = (recurring.c.is_paused == ZERO) & recurring.c.next_at.is_not(None)
_index("recurring_due", recurring.c.next_at, where=is_firing)  # serves firing and the next due instant

locks = Table(
    _PREFIX + "locks",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("owner", Text),  # empty: free; the row stays, so that its fence never falls
    Column("fence", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

records = Table(
    _PREFIX + "records",
    METADATA,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text),  # empty: deleted; the row stays, so that its version never falls
    Column("version", Integer, nullable=False),
    _count("is_paused"),  # 1: the settings of a queue that claims pass over
    sqlite_with_rowid=False,
)
is_paused_queue = records.c.is_paused == ONE
_index("paused_queues", records.c.key, where=is_paused_queue)  # serves claim; empty as a rule

rollups = Table(
    _PREFIX + "rollups",
    METADATA,
    Column("minute", BigInteger, primary_key=True),
    Column("task", Text, primary_key=True),
    Column("queue", Text, primary_key=True),
    Column("outcome", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("duration", BigInteger, nullable=False),
    Column("histogram", Text, nullable=False),  # JSON list
    sqlite_with_rowid=False,
)

log_lines = Table(
    _PREFIX + "log_lines",
    METADATA,
    Column("job_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("level", Text, nullable=False),
    Column("line", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    sqlite_with_rowid=False,
)

progress = Table(
    _PREFIX + "progress",
    METADATA,
    Column("job_id", Text, primary_key=True),
    Column("done", Float, nullable=False),
    Column("total", Float, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("message", Text),
    sqlite_with_rowid=False,
)

schema_version = Table(
    _PREFIX + "schema",
    METADATA,
    Column("version", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
)
