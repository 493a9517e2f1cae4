"""Measure whether a queue becomes slower with the number of processed jobs, also with an old snapshot open.

As long as a transaction can still see old row versions, PostgreSQL does not remove them. Queues in tables are
known to collapse in this case. The jobs of an hour are enqueued and run as fast as possible, behind a backlog
of constant size, and the last tenth of the jobs is compared with the first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import psycopg

from benchmarks import postgresql_server
from benchmarks.entry import Figures, Load
from benchmarks.postgresql_server import STATEMENT_TIMES, PostgresqlServer, has_statement_times

BACKLOG = 20_000
"""The maximum number of waiting jobs."""
CHUNK = 500
READING_SECONDS = 0.5
LONGEST_SECONDS = 3_600.0
"""The time limit. The jobs are those of an hour, so a contender that needs more time has fallen behind."""

KEPT = """
select coalesce(max(age(backend_xmin)), 0) from pg_stat_activity
where backend_type = 'client backend' and state = 'idle in transaction'
"""
DEAD = "select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables"
CLAIMS = """
select coalesce(sum(calls), 0)::bigint, coalesce(sum(total_exec_time), 0) from pg_stat_statements
where query ilike '%skip locked%' and query ilike '%claimed_at%'
"""

Connection = psycopg.Connection[tuple[float, ...]]


@attrs.frozen
class Reading:
    """A reading at one time."""

    at: float
    ended: int
    storage_seconds: float
    """Processor time of the database's server."""
    worker_seconds: float
    """Processor time of the processes that run the jobs."""
    claims: int
    claim_ms: float
    """The total time of all claiming statements."""


class Watch:
    """Readings of a queue, twice per second while its jobs run."""

    def __init__(self, server: PostgresqlServer, *, jobs: int, times_claims: bool) -> None:
        self.server = server
        self.jobs = jobs
        self.worker_seconds: Callable[[], float] = time.process_time
        """Returns the processor time of the process that runs the jobs: this process, or a server."""
        self._connection: Connection = psycopg.connect(server.url, autocommit=True)
        self._times_claims = times_claims
        self._begun = time.monotonic()
        self._readings: list[Reading] = []
        if times_claims:
            self._connection.execute("create extension pg_stat_statements")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def is_due(self) -> bool:
        """Return whether half a second has passed since the last reading."""
        return not self._readings or time.monotonic() - self._readings[-1].at >= READING_SECONDS

    def goes_on(self, ended: int) -> bool:
        """Take a reading; return whether jobs and time are left."""
        [(claims, claim_ms)] = self.query(CLAIMS) if self._times_claims else [(0, 0.0)]
        worker_seconds = self.worker_seconds()
        now = time.monotonic()
        reading = Reading(now, ended, self.server.cpu_seconds(), worker_seconds, int(claims), float(claim_ms))
        self._readings.append(reading)
        return ended < self.jobs and now - self._begun < LONGEST_SECONDS

    def query(self, statement: str) -> list[tuple[float, ...]]:
        """Return the rows of a query for numbers."""
        return self._connection.execute(statement).fetchall()

    def figures(self) -> Figures:
        """Return the figures of the first and the last tenth, and the last as a share of the first.

        Raises:
            RuntimeError: If too few jobs have run to compare them.
        """
        total = self._readings[-1].ended
        early = [reading for reading in self._readings if reading.ended > 0]
        until = next(reading for reading in early if reading.ended >= total / 10)
        since = [reading for reading in early if reading.ended <= total * 9 / 10][-1:]
        if until is early[0] or not since:
            message = f"{total} jobs ran in {len(early)} readings, which is too few for a comparison"
            raise RuntimeError(message)
        first, last = tenth(early[0], until), tenth(since[0], self._readings[-1])
        return {
            **{f"{name}_share": last[name] / first[name] for name in first},
            **{f"first_{name}": figure for name, figure in first.items()},
            **{f"last_{name}": figure for name, figure in last.items()},
            "kept_transactions": float(self.query(KEPT)[0][0]),
            "dead_rows": float(self.query(DEAD)[0][0]),
            "done_share": min(1.0, total / self.jobs),
        }


def tenth(begin: Reading, end: Reading) -> Figures:
    """Return the difference of two readings, per second or per job."""
    jobs = end.ended - begin.ended
    figures = {
        "jobs_per_s": jobs / (end.at - begin.at),
        "storage_us_per_job": (end.storage_seconds - begin.storage_seconds) / jobs * 1e6,
        "worker_us_per_job": (end.worker_seconds - begin.worker_seconds) / jobs * 1e6,
    }
    if claims := end.claims - begin.claims:
        figures["claim_ms"] = (end.claim_ms - begin.claim_ms) / claims
    return figures


@contextmanager
def watched(load: Load) -> Iterator[Watch]:
    """Take readings of the run's own database within the block."""
    times_claims = has_statement_times()
    settings = STATEMENT_TIMES if times_claims else {}
    with postgresql_server.running(load.directory, settings) as server:
        watch = Watch(server, jobs=load.churned, times_claims=times_claims)
        try:
            yield watch
        finally:
            watch.close()


@contextmanager
def old_state_kept(url: str) -> Iterator[None]:
    """Keep a transaction open that sees the current state of the database, until the block ends."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("begin isolation level repeatable read read only")
        connection.execute("select count(*) from pg_class")
        yield
        connection.execute("rollback")
