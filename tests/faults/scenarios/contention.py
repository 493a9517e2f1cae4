"""F24, F27, F28: concurrent access to the same rows of a database, and other programs that lock them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager

import attrs
from sqlalchemy import text

from firelock import Firelock
from firelock.model.job import NewJob, Transition
from firelock.model.lifecycle import HELD
from firelock.model.state import State
from firelock.storage import ClaimRequest, NewSession
from firelock_sql.connections.server_database import Meaning, ServerDatabase
from firelock_sql.storage import SqlStorage
from tests.faults.effects import database as engine_of
from tests.faults.scenarios.base import Size, scenario, stage
from tests.faults.scenarios.databases import SQL

# ---- concurrent access -----------------------------------------------------------------------------------

_CLAIMERS, _OPERATORS = 16, 3
_POOL = _CLAIMERS + _OPERATORS + 5


@attrs.define(eq=False)
class _Storm:
    """Concurrent operations on one storage from many threads, and their results."""

    fire: Firelock
    seconds: float
    until: float = 0.0
    done: Counter[str] = attrs.field(factory=Counter)
    conflicts: Counter[str] = attrs.field(factory=Counter)
    errors: list[BaseException] = attrs.field(factory=list)
    ids: list[str] = attrs.field(factory=list)

    def threads(self):
        """Return the threads that take part."""
        works = [self.claim] * _CLAIMERS + [self.operate] * _OPERATORS
        works += [self.insert, self.insert, self.prune, self.promote, self.release]
        start = threading.Barrier(len(works), self._begin)
        return [
            threading.Thread(target=self._run, args=(work, random.Random(number), start))
            for number, work in enumerate(works)
        ]

    def _begin(self):
        self.until = time.monotonic() + self.seconds

    def _run(self, work, chance, start):
        try:
            self.fire.storage.promote(1)  # waiting for the connection took four seconds on a busy machine
            start.wait(60)
            while time.monotonic() < self.until:
                work(chance)
        except BaseException as error:  # noqa: BLE001 - the scenario reports it
            self.errors.append(error)

    def insert(self, chance):
        """Store jobs, unless many exist already."""
        storage = self.fire.storage
        if self.fire.jobs.counts().by_state.get(State.ENQUEUED, 0) > 2_000:
            time.sleep(0.02)
            return
        jobs = [
            NewJob(storage.new_ids(1)[0], "work", "{}", "json", chance.choice("abc"), 0, State.ENQUEUED,
                   storage.clock())
            for _ in range(chance.randint(1, 100))
        ]  # fmt: skip
        self.done["inserted"] += sum(storage.insert(jobs).is_new)
        self.ids = [*self.ids[-2_000:], *(job.id for job in jobs)]

    def claim(self, chance):
        """Claim jobs in a session, end some of them, and end the session with the others."""
        storage = self.fire.storage
        session = f"session-{threading.get_ident()}-{chance.random()}"
        storage.begin_session(NewSession(session, "server", "server", "host", 1, 0, 3_600))
        for _ in range(5):
            jobs = list(storage.claim(ClaimRequest(None, chance.randint(1, 30), session, 1)).jobs)
            chance.shuffle(jobs)  # the ends in one batch have no order
            ends = [
                Transition(job.id, HELD, session, job.fence, State.SUCCEEDED, 1, attempt=job.attempt,
                           expires_at=storage.clock() + 200_000)
                for job in jobs[: chance.randint(0, len(jobs))]
            ]  # fmt: skip
            self.done["ended"] += len(ends)
            storage.apply(ends)
        storage.end_session(session, [], reason="ended")

    def operate(self, chance):
        """Delete or requeue a page of jobs in any state."""
        if not self.ids:  # a busy loop would slow down the threads that store them
            time.sleep(0.02)
            return
        page = chance.sample(self.ids, min(len(self.ids), 60))
        act = chance.choice([self.fire.jobs.delete, self.fire.jobs.requeue])
        self.done["actions"] += sum(result.is_applied for result in act(page))

    def prune(self, chance):
        """Run retention."""
        self.done["pruned"] += self.fire.storage.prune(chance.randint(1, 500))

    def promote(self, chance):
        """Promote due jobs, which also folds the counts."""
        self.fire.storage.promote(chance.randint(1, 500))
        self.done["promotions"] += 1

    def release(self, chance):
        """Release continuations of ended jobs."""
        self.fire.storage.release(chance.randint(1, 500))


@scenario("deadlock-storm", "F27", full=Size(0, 60), short=Size(0, 4), schemes=SQL)
def deadlock_storm(place, size):
    """Sixteen claimers, operators, retention and the scheduler use the same rows. No caller sees an error.

    The scenario takes `rounds` seconds. At the end, the counts match the rows.
    """
    with Firelock(f"{place.storage}?pool_size={_POOL}") as fire:
        fire.storage.migrate()
        storm = _Storm(fire, size.rounds)
        _count_conflicts(fire, storm.conflicts)
        threads = storm.threads()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(size.rounds + 120)
        assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
        assert storm.errors == [], storm.errors[:3]
        assert storm.done["ended"] > 0, storm.done
        counted = {state: count for state, count in fire.jobs.counts().by_state.items() if count}
        deadlocks = _deadlocks(place)
        stored = _stored(place.storage)
    assert counted == stored, (counted, stored)
    results = dict(sorted(storm.done.items()))
    return [
        f"{size.rounds} s, {len(threads)} threads: {results}; errors that reached a caller 0, wrong counts 0",
        f"retried {dict(storm.conflicts)}; deadlocks that the server detected {deadlocks}",
    ]


def _count_conflicts(fire, found):
    assert isinstance(fire.storage, SqlStorage)
    database = fire.storage._database  # noqa: SLF001 - no public method reports conflicts
    assert isinstance(database, ServerDatabase)
    read = database.read_failure

    def read_failure(error):
        failure = read(error)
        if failure is not None and failure.meaning is Meaning.CONFLICT:
            number = next(iter(error.args), None)
            found[str(number if isinstance(number, int) else getattr(error, "sqlstate", None))] += 1
        return failure

    database.read_failure = read_failure


def _deadlocks(place):
    with engine_of(place.storage).connect() as connection:
        if place.storage.startswith("postgresql"):
            query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
            return int(connection.execute(text(query)).scalar_one())
        row = connection.execute(text("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")).fetchone()
        return int(row[1]) if row else 0


def _stored(url):
    with engine_of(url).connect() as connection:
        query = "SELECT state, count(*) FROM firelock_jobs GROUP BY state"
        return {State(state): count for state, count in connection.execute(text(query))}


# ---- other programs ----------------------------------------------------------------------------------------

_HELD = 3.0  # seconds for which another program locks rows: longer than any wait for a lock
_LOCK = "SELECT id FROM firelock_jobs WHERE state IN (:processing, :enqueued) LIMIT 40 FOR UPDATE"


@scenario("external-locks", "F28", full=Size(300, 10), short=Size(150, 1), schemes=SQL)
def external_locks(place, size):
    """Another program locks rows of waiting and running jobs for longer than any wait. No job is repeated.

    There are at least `jobs` jobs. The rows are locked `rounds` times for three seconds.
    """
    locked = 0
    with stage(place) as on:
        on.serve(2)
        for _ in range(size.rounds):
            on.enqueue(size.jobs, 0.05)
            with engine_of(place.storage).connect() as connection:
                states = {"processing": State.PROCESSING, "enqueued": State.ENQUEUED}
                locked += len(connection.execute(text(_LOCK), states).fetchall())
                time.sleep(_HELD)
                connection.rollback()
        report = on.finish(repeats="none")
    assert locked > 0
    return [
        f"{report.brief}, sessions lost 0",
        f"rows locked {locked}, {size.rounds} times for {_HELD:.0f} s",
    ]


_READERS = 4


@scenario("held-snapshots", "F24", full=Size(6_000, 2), short=Size(300, 1), schemes=["postgresql"])
def held_snapshots(place, size):
    """Transactions stay open for the whole run: one that has written, and readers with their snapshots.

    The scenario runs `jobs` jobs without them, and `rounds` times as many with them.
    """
    with stage(place) as on:
        on.serve(2, workers=8)
        _rate(on, size.jobs)  # so that all processes have connected
        base = _rate(on, size.jobs)
        with _held_open(place.storage):
            held = [_rate(on, size.jobs) for _ in range(size.rounds)]
        report = on.finish(repeats="none")
    shares = ", ".join(f"{rate / base * 100:.0f} %" for rate in held)
    return [
        f"{report.brief}, sessions lost 0",
        f"at {shares} of the rate without ({base:.0f}/s)",
    ]


def _rate(on, jobs):
    began = time.monotonic()
    for _ in range(jobs // 100):
        on.enqueue(100, 0.0)
    on.await_end(240)
    return jobs / (time.monotonic() - began)


@contextmanager
def _held_open(url):
    engine = engine_of(url)
    with ExitStack() as stack:
        writer = stack.enter_context(closing(engine.connect()))
        writer.execute(text("CREATE TABLE other_rows (at int)"))
        for _ in range(_READERS):
            reader = stack.enter_context(closing(engine.connect()))
            reader = reader.execution_options(isolation_level="REPEATABLE READ")
            reader.execute(text("SELECT count(*) FROM firelock_jobs"))
        yield
