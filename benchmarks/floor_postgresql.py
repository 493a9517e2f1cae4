"""The floor on PostgreSQL: the same durable work per job as in Firelock, and nothing else.

It uses psycopg and ten threads, without a framework, hooks or validation. The work per job is that of the
floor on SQLite. A row is inserted as ready. It is claimed (state, attempt, session, fence, time) in queue
order, skipping locked rows, and settled (state, times, result, history, expiry) only if state, session and
fence are unchanged. There are two indexes besides the key, and rows of differences for the counts. One
transaction settles the previous batch and claims the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from operator import itemgetter

import psycopg
from typing_extensions import override

from benchmarks import churn, floor_served, floor_sql, growth, growth_postgresql, postgresql_server
from benchmarks.entry import Figures, Load, ScenarioFunction, run
from benchmarks.floor import BATCH, SESSION, Claimed, Ended, job_ids, micros

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
    select id, 'benchmarks.noop', arguments, 'enqueued', %s, 0, %s, %s
    from unnest(%s::text[], %s::text[]) as job (id, arguments)
)
insert into count_deltas values ('enqueued', %s, %s)
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

# The lateral join looks up each key. With a plain join, a wrong estimate could cause a scan of all rows.
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


class Floor(floor_sql.Floor):
    """A queue with one connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ids = job_ids()

    @override
    def enqueue(self, *, jobs: int, batch: int, queue: str = "default") -> None:
        """Store additional ready jobs, `batch` per statement, which is a transaction."""
        numbers = iter(range(jobs))
        cursor = self._connection.cursor()
        while numbered := list(islice(numbers, batch)):
            now = micros()
            arguments = [f"[{number}]" for number in numbered]
            stored = [next(self._ids) for _ in numbered]
            cursor.execute(INSERT, (queue, now, now, stored, arguments, queue, len(stored)))

    @override
    def exchange(self, ended: Sequence[Ended], limit: int) -> list[Claimed]:
        cursor = self._connection.cursor()
        cursor.execute("begin")
        if ended:
            in_order = sorted(ended, key=itemgetter(5))
            starts, ends, results, entries, expiries, ids, _, fences = map(list, zip(*in_order, strict=True))
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

    @override
    def query(self, statement: str) -> list[tuple[object, ...]]:
        return self._connection.execute(statement.encode()).fetchall()


@contextmanager
def opened(url: str) -> Iterator[Floor]:
    """Open an empty queue, and close it after the block."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield Floor(connection)


def grown(load: Load) -> Figures:
    """Compare enqueueing and running with many finished and waiting jobs in the storage to those with few."""
    with postgresql_server.running(load.directory) as server, opened(server.url) as floor:
        floor.enqueue(jobs=growth.SOURCES, batch=500)
        floor.drain()
        growth_postgresql.settle(server)
        empty = floor_served.verbs(server, floor, load)
        floor.enqueue(jobs=growth.SOURCES, batch=500, queue=growth.WAITING)
        growth_postgresql.fill(server, prefix="", stored=load.stored, waiting=load.waiting)
        floor.assert_counts(succeeded=load.stored, enqueued=load.waiting)
        return growth.shares(empty, floor_served.verbs(server, floor, load))


def churned(load: Load, *, keeps_old_state: bool) -> Figures:
    """Compare the last tenth of an hour's jobs with the first."""
    with churn.watched(load) as watch, opened(watch.server.url) as floor:
        kept = churn.old_state_kept(watch.server.url) if keeps_old_state else nullcontext()

        def pace(ended: int) -> int:
            floor.enqueue(jobs=churn.CHUNK if ended % churn.CHUNK == 0 else 0, batch=churn.CHUNK)
            return BATCH if not watch.is_due() or watch.goes_on(ended) else 0

        with kept:
            floor.enqueue(jobs=churn.BACKLOG - churn.CHUNK, batch=churn.CHUNK)
            floor.drain(pace=pace)
            return watch.figures()


SCENARIOS: dict[str, ScenarioFunction] = {
    **floor_served.scenarios(postgresql_server.running, opened),
    "growth": grown,
    "churn": partial(churned, keeps_old_state=False),
    "churn_kept": partial(churned, keeps_old_state=True),
}

if __name__ == "__main__":
    run(SCENARIOS)
