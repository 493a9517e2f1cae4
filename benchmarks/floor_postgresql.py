"""The floor on PostgreSQL: the same durable work per job as Firelock does, and nothing else.

No framework, no hook, no validation: psycopg and ten threads. The work per job is that of the floor on
SQLite: one row inserted ready; claimed (state, attempt, session, fence, instant) in its place in the queue,
past rows that others hold; settled (state, instants, result, history, expiry) only where state, session and
fence still hold; two indexes beside the key; rows of differences for the counts. One transaction settles the
former batch and claims the next.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from contextlib import closing
from itertools import islice

import psycopg

from benchmarks import postgresql_server
from benchmarks.entry import Figures, Load, run, timed
from benchmarks.floor_sqlite import Claimed, Ended, job_ids, micros, work
from benchmarks.postgresql_server import PostgresqlServer

BATCH = 100
WORKERS = 10
SESSION = "floor-session"

SCHEMA = """
create table jobs (
    id text collate "C" primary key, task text not null, arguments text not null, state text not null,
    queue text not null, priority integer not null, created_at bigint not null,
    changed_at bigint not null, due_at bigint, attempt integer not null default 0, session text,
    fence integer not null default 0, claimed_at bigint, started_at bigint, ended_at bigint, result text,
    error_type text, error_message text, error_traceback text, history text not null default '',
    expires_at bigint
);
-- serves the claim
create index ready on jobs (queue, priority desc, id) where state = 'enqueued';
-- serves the lists of one state in order of time
create index listed on jobs (state, changed_at);
create table count_deltas (state text not null, queue text not null, jobs bigint not null);
"""

INSERT = """
with stored as (
    insert into jobs (id, task, arguments, state, queue, priority, created_at, changed_at)
    select id, 'benchmarks.noop', arguments, 'enqueued', 'default', 0, %s, %s
    from unnest(%s::text[], %s::text[]) as job (id, arguments)
)
insert into count_deltas values ('enqueued', 'default', %s)
"""

CLAIM = """
with ready as materialized (
    select ctid from jobs where state = 'enqueued' and queue = 'default'
    order by priority desc, id limit %s for no key update skip locked
)
update jobs set state = 'processing', attempt = attempt + 1, session = %s, fence = fence + 1,
    claimed_at = %s, changed_at = %s
where ctid = any (array (select ctid from ready))
returning id, task, arguments, attempt, fence, claimed_at
"""

# The key is looked up for each: a join that the planner orders by what it believes may read the whole table.
SETTLE = """
with ended as materialized (
    select job.*, place.ctid as place
    from unnest(
        %s::bigint[], %s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::integer[]
    ) as job (started_at, ended_at, result, entry, expires_at, id, fence)
    cross join lateral (
        select ctid from jobs
        where id = job.id and state = 'processing' and session = %s and fence = job.fence
        for no key update
    ) as place
)
update jobs set state = 'succeeded', session = null, started_at = ended.started_at,
    ended_at = ended.ended_at, changed_at = ended.ended_at, result = ended.result,
    history = history || ended.entry, expires_at = ended.expires_at
from ended where jobs.ctid = ended.place
"""

COUNT = "insert into count_deltas select * from unnest(%s::text[], %s::text[], %s::bigint[])"

Connection = psycopg.Connection[tuple[object, ...]]


def create_database(url: str) -> closing[Connection]:
    """Open an empty queue, closed when its block ends."""
    connection = psycopg.connect(url, autocommit=True)
    connection.execute(SCHEMA)
    return closing(connection)


def enqueue(connection: Connection, *, jobs: int, batch: int) -> None:
    """Store so many ready jobs more, `batch` in a statement, which is a transaction."""
    ids = job_ids()
    numbers = iter(range(jobs))
    cursor = connection.cursor()
    while numbered := list(islice(numbers, batch)):
        now = micros()
        arguments = [f"[{number}]" for number in numbered]
        stored = [next(ids) for _ in numbered]
        cursor.execute(INSERT, (now, now, stored, arguments, len(stored)))


def exchange(connection: Connection, ended: Sequence[Ended], limit: int) -> list[Claimed]:
    """Settle the ended jobs and claim up to `limit` ready ones, in one transaction."""
    cursor = connection.cursor()
    cursor.execute("begin")
    if ended:
        starts, ends, results, entries, expiries, ids, _, fences = map(list, zip(*ended, strict=True))
        cursor.execute(
            SETTLE, (starts, ends, results, entries, expiries, ids, fences, SESSION), prepare=False
        )
        if cursor.rowcount != len(ended):
            message = f"{len(ended) - cursor.rowcount} of {len(ended)} settles were refused"
            raise RuntimeError(message)
    now = micros()
    cursor.execute(CLAIM, (limit, SESSION, now, now), prepare=False)
    claimed: list[Claimed] = cursor.fetchall()  # type: ignore[assignment]
    moves = [-len(claimed), len(claimed) - len(ended), len(ended)]
    cursor.execute(COUNT, (["enqueued", "processing", "succeeded"], ["default"] * 3, moves))
    cursor.execute("commit")
    return claimed


def drain(connection: Connection) -> None:
    """Run all ready jobs on ten threads, in batches that settle the former one and claim the next."""
    inbox: queue.SimpleQueue[Claimed | None] = queue.SimpleQueue()
    outbox: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    threads = [threading.Thread(target=work, args=(inbox, outbox)) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    claimed = exchange(connection, [], BATCH)
    while claimed:
        for job in claimed:
            inbox.put(job)
        ended = sorted((outbox.get() for _ in claimed), key=lambda end: end[5])
        claimed = exchange(connection, ended, BATCH)
    for _ in threads:
        inbox.put(None)
    for thread in threads:
        thread.join()


def assert_counts(connection: Connection, **expected: int) -> None:
    """Raise unless the differences and the rows themselves both say so many jobs a state."""
    summed = connection.execute(
        "select state, sum(jobs)::bigint from count_deltas group by state having sum(jobs) <> 0"
    ).fetchall()
    rows = connection.execute("select state, count(*) from jobs group by state").fetchall()
    if not dict(summed) == dict(rows) == expected:  # type: ignore[arg-type]
        message = f"expected {expected}, the counts say {summed} and the rows {rows}"
        raise RuntimeError(message)


def enqueued(load: Load, *, jobs: int, batch: int) -> Figures:
    """Measure storing so many jobs in batches of one size."""
    with postgresql_server.running(load.directory) as server, create_database(server.url) as connection:
        cpu = server.cpu_seconds()
        figures = timed(lambda: enqueue(connection, jobs=jobs, batch=batch), jobs=jobs)
        figures = postgresql_server.with_storage(figures, server.cpu_seconds() - cpu, jobs=jobs)
        assert_counts(connection, enqueued=jobs)
        return figures


def enqueue_bulk_100(load: Load) -> Figures:
    """Measure storing jobs in transactions of 100."""
    return enqueued(load, jobs=load.jobs, batch=100)


def enqueue_bulk(load: Load) -> Figures:
    """Measure storing jobs in transactions of 500."""
    return enqueued(load, jobs=load.jobs, batch=500)


def enqueue_one(load: Load) -> Figures:
    """Measure storing jobs with a commit each."""
    return enqueued(load, jobs=load.singles, batch=1)


def drained(server: PostgresqlServer, connection: Connection, *, jobs: int) -> Figures:
    """Measure running the ready jobs; the rate is taken between the first and the last end of one."""
    before, cpu = micros(), server.cpu_seconds()
    figures = timed(lambda: drain(connection), jobs=jobs)
    figures = postgresql_server.with_storage(figures, server.cpu_seconds() - cpu, jobs=jobs)
    window = "select min(ended_at), max(ended_at) from jobs where state = 'succeeded' and changed_at > %s"
    first, last = connection.execute(window, (before,)).fetchone() or (0, 0)
    return {**figures, "jobs_per_s": (jobs - 1) / (int(str(last)) - int(str(first))) * 1e6}


def process(load: Load) -> Figures:
    """Measure running jobs that were all stored before."""
    with postgresql_server.running(load.directory) as server, create_database(server.url) as connection:
        enqueue(connection, jobs=load.jobs, batch=500)
        figures = drained(server, connection, jobs=load.jobs)
        assert_counts(connection, succeeded=load.jobs)
        return figures


SCENARIOS = {
    "enqueue_bulk_100": enqueue_bulk_100,
    "enqueue_bulk": enqueue_bulk,
    "enqueue_one": enqueue_one,
    "process": process,
}

if __name__ == "__main__":
    run(SCENARIOS)
