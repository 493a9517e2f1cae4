"""The floor on SQLite: the same durable work per job as in Firelock, and nothing else.

It uses `sqlite3` and ten threads, without a framework, hooks or validation. So its cost per job is that of
the storage, and the figures of frameworks are compared with it. The work per job: a row is inserted as ready,
claimed (state, attempt, session, fence, time) in queue order, and settled (state, times, result, history,
expiry) only if state, session and fence are unchanged. Two indexes and the counter rows are kept up to date,
and every transaction is synced to the disk.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from benchmarks import floor, growth, wal
from benchmarks.entry import Figures, Load, run, timed
from benchmarks.floor import SESSION, Claimed, Ended, job_ids, micros, work

SCHEMA = """
create table jobs (
    id text primary key not null, task text not null, arguments text not null, state text not null,
    queue text not null, priority integer not null, created_at integer not null,
    changed_at integer not null, due_at integer, attempt integer not null, session text,
    fence integer not null, claimed_at integer, started_at integer, ended_at integer, result text,
    error_type text, error_message text, error_traceback text, history text not null, expires_at integer
);
-- serves the claim
create index ready on jobs (queue, priority desc, id) where state = 'enqueued';
-- serves the lists of one state in order of time
create index listed on jobs (state, changed_at);
create table counts (
    state text not null, queue text not null, jobs integer not null, primary key (state, queue)
) without rowid;
insert into counts
    values ('enqueued', 'default', 0), ('processing', 'default', 0), ('succeeded', 'default', 0);
"""

INSERT = """
insert into jobs
    (id, task, arguments, state, queue, priority, created_at, changed_at, attempt, fence, history)
values (?1, 'benchmarks.noop', ?2, 'enqueued', 'default', 0, ?3, ?3, 0, 0, '')
"""

CLAIM = """
update jobs set state = 'processing', attempt = attempt + 1, session = ?1, fence = fence + 1,
    claimed_at = ?2, changed_at = ?2
where rowid in (
    select rowid from jobs where state = 'enqueued' and queue = 'default' order by priority desc, id limit ?3
)
returning id, task, arguments, attempt, fence, claimed_at
"""

SETTLE = """
update jobs set state = 'succeeded', session = null, started_at = ?1, ended_at = ?2, changed_at = ?2,
    result = ?3, history = history || ?4, expires_at = ?5
where id = ?6 and state = 'processing' and session = ?7 and fence = ?8
"""

COUNT = "update counts set jobs = jobs + ? where state = ? and queue = 'default'"


def open_database(path: Path) -> sqlite3.Connection:
    """Return a connection with the settings of a durable queue: WAL, and a sync at each commit."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    connection.execute("pragma busy_timeout = 5000")
    connection.execute("pragma foreign_keys = on")
    return connection


def create_database(path: Path) -> closing[sqlite3.Connection]:
    """Open an empty queue, and close it after the block."""
    connection = open_database(path)
    connection.executescript(SCHEMA)
    return closing(connection)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Cursor]:
    """Commit all changes of the block durably when it ends; roll them back after an error."""
    cursor = connection.cursor()
    cursor.execute("begin immediate")
    try:
        yield cursor
    except BaseException:
        cursor.execute("rollback")
        raise
    cursor.execute("commit")


def enqueue(connection: sqlite3.Connection, *, jobs: int, batch: int) -> None:
    """Store additional ready jobs, in transactions of `batch`."""
    ids = job_ids()
    numbers = iter(range(jobs))
    while numbered := list(islice(numbers, batch)):
        now = micros()
        rows = [(next(ids), f"[{number}]", now) for number in numbered]
        with transaction(connection) as cursor:
            cursor.executemany(INSERT, rows)
            cursor.execute(COUNT, (len(rows), "enqueued"))


def exchange(connection: sqlite3.Connection, ended: Sequence[Ended], limit: int) -> list[Claimed]:
    """Settle the ended jobs and claim up to `limit` ready ones, in one transaction."""
    with transaction(connection) as cursor:
        if ended:
            settled = cursor.executemany(SETTLE, ended).rowcount
            if settled != len(ended):
                message = f"{len(ended) - settled} of {len(ended)} settles were refused"
                raise RuntimeError(message)
        claimed: list[Claimed] = cursor.execute(CLAIM, (SESSION, micros(), limit)).fetchall()
        in_hand = len(claimed) - len(ended)
        moves = [(-len(claimed), "enqueued"), (in_hand, "processing"), (len(ended), "succeeded")]
        cursor.executemany(COUNT, moves)
    return claimed


def drain(connection: sqlite3.Connection) -> None:
    """Run all ready jobs on ten threads; each batch settles the previous one and claims the next."""
    floor.drain(partial(exchange, connection), work)


def assert_counts(connection: sqlite3.Connection, **expected: int) -> None:
    """Raise an error unless the counter rows and the jobs' rows match the expected number per state."""
    counters = dict(connection.execute("select state, jobs from counts where jobs <> 0").fetchall())
    rows = dict(connection.execute("select state, count(*) from jobs group by state").fetchall())
    if not counters == rows == expected:
        message = f"expected {expected}, found counters {counters} and rows {rows}"
        raise RuntimeError(message)


def enqueued(load: Load, *, jobs: int, batch: int) -> Figures:
    """Measure storing jobs in batches of one size."""
    with create_database(load.database) as connection:
        figures = timed(lambda: enqueue(connection, jobs=jobs, batch=batch), jobs=jobs)
        assert_counts(connection, enqueued=jobs)
    return figures


def enqueue_bulk_100(load: Load) -> Figures:
    """Measure storing jobs in transactions of 100."""
    return enqueued(load, jobs=load.jobs, batch=100)


def enqueue_bulk(load: Load) -> Figures:
    """Measure storing jobs in transactions of 500."""
    return enqueued(load, jobs=load.jobs, batch=500)


def enqueue_one(load: Load) -> Figures:
    """Measure storing jobs with one commit per job."""
    return enqueued(load, jobs=load.singles, batch=1)


def drained(connection: sqlite3.Connection, *, jobs: int) -> Figures:
    """Measure running the ready jobs; the rate is that between the first and the last end of a job."""
    before = micros()
    figures = timed(lambda: drain(connection), jobs=jobs)
    window = "select min(ended_at), max(ended_at) from jobs where state = 'succeeded' and changed_at > ?"
    first, last = connection.execute(window, (before,)).fetchone()
    return {**figures, "jobs_per_s": (jobs - 1) / (last - first) * 1e6}


def process(load: Load) -> Figures:
    """Measure running jobs that were all stored before."""
    with create_database(load.database) as connection:
        enqueue(connection, jobs=load.jobs, batch=500)
        connection.execute("pragma wal_checkpoint(truncate)")
        figures = drained(connection, jobs=load.jobs)
        assert_counts(connection, succeeded=load.jobs)
    return figures


def commits(load: Load) -> Figures:
    """Count the commits per job in the write-ahead log."""
    with create_database(load.database) as connection, wal.kept(load.database):
        enqueue(connection, jobs=load.singles, batch=1)
        single = wal.count_commits(load.database)
        enqueue(connection, jobs=load.jobs, batch=500)
        bulk = wal.count_commits(load.database)
        drain(connection)
        processed = wal.count_commits(load.database)
    return {
        "enqueue_one": single / load.singles,
        "enqueue_bulk": (bulk - single) / load.jobs,
        "process": (processed - bulk) / (load.jobs + load.singles),
    }


def growth_of(path: Path, load: Load, *, stored: int) -> Figures:
    """Measure bulk enqueueing, running and single enqueueing with this number of finished jobs."""
    with create_database(path) as connection:
        if stored:
            enqueue(connection, jobs=growth.SOURCES, batch=500)
            drain(connection)
            growth.multiply(path, stored=stored)
            assert_counts(connection, succeeded=stored)
        connection.execute("pragma wal_checkpoint(truncate)")
        bulk = timed(lambda: enqueue(connection, jobs=load.jobs, batch=500), jobs=load.jobs)
        processed = drained(connection, jobs=load.jobs)
        single = timed(lambda: enqueue(connection, jobs=load.singles, batch=1), jobs=load.singles)
    return {
        "bulk_jobs_per_s": bulk["jobs_per_s"],
        "process_jobs_per_s": processed["jobs_per_s"],
        "one_jobs_per_s": single["jobs_per_s"],
    }


def grown(load: Load) -> Figures:
    """Compare enqueueing and running in a database with many finished jobs to those in an empty one."""
    empty = growth_of(load.directory / "empty.db", load, stored=0)
    return growth.shares(empty, growth_of(load.database, load, stored=load.stored))


SCENARIOS = {
    "enqueue_bulk_100": enqueue_bulk_100,
    "enqueue_bulk": enqueue_bulk,
    "enqueue_one": enqueue_one,
    "process": process,
    "commits": commits,
    "growth": grown,
}

if __name__ == "__main__":
    run(SCENARIOS)
