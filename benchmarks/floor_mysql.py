"""The floor on MariaDB: the same durable work per job as in Firelock, and nothing else.

It uses PyMySQL and ten threads, without a framework, hooks or validation. The work per job is that of the
floor on PostgreSQL. A row is inserted as ready. It is claimed (state, attempt, session, fence, time) in queue
order, skipping locked rows, and settled (state, times, result, history, expiry) only if state, session and
fence are unchanged. There are two indexes besides the key, and rows of differences for the counts. One
transaction settles the previous batch and claims the next, in two round trips, because an UPDATE in MariaDB
does not return rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import chain, islice
from operator import itemgetter
from urllib.parse import urlsplit

import pymysql
from pymysql.constants import CLIENT
from typing_extensions import override

from benchmarks import floor_served, floor_sql, mariadb_server
from benchmarks.entry import run
from benchmarks.floor import SESSION, Claimed, Ended, job_ids, micros

SCHEMA = """
create table jobs (
    id varchar(36) character set ascii collate ascii_bin primary key, task varchar(255) not null,
    arguments mediumtext not null, state varchar(32) not null, queue varchar(255) not null,
    priority integer not null, created_at bigint not null, changed_at bigint not null, due_at bigint,
    attempt integer not null default 0, session varchar(255), fence integer not null default 0,
    claimed_at bigint, started_at bigint, ended_at bigint, result mediumtext, error_type mediumtext,
    error_message mediumtext, error_traceback mediumtext, history mediumtext not null default '',
    expires_at bigint,
    index ready (state, queue, priority desc, id),  -- serves the claim
    index listed (state, changed_at)  -- serves the lists of one state in order of time
) character set utf8mb4 collate utf8mb4_nopad_bin;
create table count_deltas (
    number bigint primary key auto_increment, state varchar(32) not null, queue varchar(255) not null,
    jobs bigint not null
) character set utf8mb4 collate utf8mb4_nopad_bin
"""

INSERT = "insert into jobs (id, task, arguments, state, queue, priority, created_at, changed_at) values "
ROW = "(%s, 'benchmarks.noop', %s, 'enqueued', %s, 0, %s, %s)"
COUNT = "insert into count_deltas (state, queue, jobs) values "
DELTA = "(%s, %s, %s)"

FIND = """
select id, task, arguments, attempt + 1, fence + 1, %s from jobs force index (ready)
where state = 'enqueued' and queue = 'default' order by priority desc, id limit %s for update skip locked
"""

# Without this index hint, a small table is read completely, and the statement waits for locked rows.
CLAIM = """
update jobs force index (primary) set state = 'processing', attempt = attempt + 1, session = %s,
    fence = fence + 1, claimed_at = %s, changed_at = %s
where id in ({ids})
"""

SETTLE = """
update ({ended}) as ended straight_join jobs
set jobs.state = 'succeeded', jobs.session = null, jobs.started_at = ended.started_at,
    jobs.ended_at = ended.ended_at, jobs.changed_at = ended.ended_at, jobs.result = ended.result,
    jobs.history = concat(jobs.history, ended.entry), jobs.expires_at = ended.expires_at
where jobs.id = ended.id and jobs.state = 'processing' and jobs.session = ended.session
    and jobs.fence = ended.fence
"""
NAMES = ("started_at", "ended_at", "result", "entry", "expires_at", "id", "session", "fence")


@lru_cache
def insert_text(jobs: int) -> str:
    """Return the statements of a transaction that stores this number of jobs."""
    return f"begin; {INSERT}{', '.join([ROW] * jobs)}; {COUNT}{DELTA}; commit"


@lru_cache
def settle_text(jobs: int) -> str:
    """Return the statement that settles this number of jobs; an empty first row names the columns."""
    names = ", ".join(f"null as {name}" for name in NAMES)
    row = f"({', '.join(['%s'] * len(NAMES))})"
    return SETTLE.format(ended=f"select {names} where false union all values {', '.join([row] * jobs)}")


@lru_cache
def claim_text(jobs: int) -> str:
    """Return the statement that claims this number of jobs."""
    return CLAIM.format(ids=", ".join(["%s"] * jobs))


class Floor(floor_sql.Floor):
    """A queue with one connection, which sends several statements in one round trip."""

    def __init__(self, connection: pymysql.Connection) -> None:
        self._connection = connection
        self._ids = job_ids()

    @override
    def enqueue(self, *, jobs: int, batch: int, queue: str = "default") -> None:
        numbers = iter(range(jobs))
        while numbered := list(islice(numbers, batch)):
            now = micros()
            rows = [(next(self._ids), f"[{number}]", queue, now, now) for number in numbered]
            values = (*chain.from_iterable(rows), "enqueued", queue, len(rows))
            self._run(insert_text(len(rows)), values)

    @override
    def exchange(self, ended: Sequence[Ended], limit: int) -> list[Claimed]:
        now = micros()
        claimed = self._settle_and_find(sorted(ended, key=itemgetter(5)), limit, now)
        moves = {"enqueued": -len(claimed), "processing": len(claimed) - len(ended), "succeeded": len(ended)}
        text = f"{COUNT}{', '.join([DELTA] * len(moves))}; commit"
        values: list[object] = [value for state, jobs in moves.items() for value in (state, "default", jobs)]
        if claimed:
            text = f"{claim_text(len(claimed))}; {text}"
            values = [SESSION, now, now, *(job[0] for job in claimed), *values]
        self._run(text, values)
        return claimed

    def _settle_and_find(self, ended: Sequence[Ended], limit: int, now: int) -> list[Claimed]:
        with self._connection.cursor() as cursor:
            if not ended:
                cursor.execute(f"begin; {FIND}", (now, limit))
            else:
                values = (*chain.from_iterable(ended), now, limit)
                cursor.execute(f"begin; {settle_text(len(ended))}; {FIND}", values)
                cursor.nextset()
                if cursor.rowcount != len(ended):
                    message = f"{len(ended) - cursor.rowcount} of {len(ended)} settles were refused"
                    raise RuntimeError(message)
            cursor.nextset()
            return list(cursor.fetchall())

    def _run(self, text: str, values: Sequence[object]) -> None:
        with self._connection.cursor() as cursor:  # its end reads the results of all statements
            cursor.execute(text, values)

    @override
    def query(self, statement: str) -> Sequence[tuple[object, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())


@contextmanager
def opened(url: str) -> Iterator[Floor]:
    """Open an empty queue, and close it after the block."""
    place = urlsplit(url)
    connection = pymysql.connect(
        host=place.hostname,
        port=place.port or 0,
        user=place.username,
        database=place.path[1:],
        autocommit=True,
        client_flag=CLIENT.MULTI_STATEMENTS,
        init_command="set session transaction isolation level read committed",
    )
    with closing(connection):
        floor = Floor(connection)
        for statement in SCHEMA.split(";"):
            floor.query(statement)
        yield floor


SCENARIOS = floor_served.scenarios(mariadb_server.running, opened)

if __name__ == "__main__":
    run(SCENARIOS)
