"""Retention removes expired jobs, keeps pace, and does not delay due jobs."""

from __future__ import annotations

import threading
from contextlib import closing
from datetime import timedelta

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from firelock import Firelock, Settings, Unique
from firelock.storage import JobFilter
from firelock.storage.memory import MemoryStorage
from firelock.testing import eventually
from tests.faults.meters import SqliteMeter, WatchedStorage, arranging
from tests.faults.proxy import FaultProxy

CHUNK_SECONDS = 0.3  # duration of removing a chunk, unless the other routine begins
LONG = 30.0  # seconds until a condition counts as never met


class EndlessBacklog(WatchedStorage):
    """A storage in memory whose retention always finds as many expired jobs as it may remove."""

    def __init__(self):
        super().__init__(MemoryStorage())
        self.is_over = False

    def pass_on(self, verb, *args, **kwargs):
        """Return a full chunk from `prune`, and the result of the wrapped storage from every other method."""
        answer = super().pass_on(verb, *args, **kwargs)
        return args[0] if verb == "prune" and not self.is_over else answer


@pytest.fixture
def backlog():
    """Yield a storage with an endless backlog of expired jobs."""
    storage = EndlessBacklog()
    yield storage
    storage.is_over = True


def app_on(storage, **settings):
    """Return an application with one task on the storage."""
    fire = Firelock(storage, settings=Settings(poll=0.05, heartbeat=0.2, session_timeout=30, **settings))
    fire.noop = fire.task(name="noop")(lambda: None)
    return fire


@pytest.mark.parametrize(
    ("verb", "sweep"), [("promote", 60), ("orphans", 0.1)], ids=["due-jobs", "lost-servers"]
)
def test_long_retention_delays_other_routines_by_at_most_two_chunks(backlog, verb, sweep):
    """In this test, the other routine becomes due while the first chunk is removed."""
    begun, checks = threading.Event(), []

    def remove_a_chunk(limit):
        if not backlog.begun(verb):
            return  # the server has just started and does not run the other routine yet
        if not checks:
            fire.noop.schedule(timedelta(milliseconds=1))
            begun.clear()
        is_same_thread = threading.get_ident() in {call.thread for call in backlog.begun(verb)}
        begun.wait(CHUNK_SECONDS if is_same_thread else LONG)
        checks.append(begun.is_set())
        backlog.is_over = len(checks) >= 3

    backlog.before(verb, lambda *_: begun.set())
    backlog.before("prune", remove_a_chunk)
    with closing(app_on(backlog, sweep=sweep)) as fire, fire.server(workers=1), arranging():
        eventually(lambda: backlog.is_over, within=LONG)

    assert checks[2]


@pytest.mark.heavy("waits some seconds for a second round of retention")
def test_retention_with_a_backlog_continues_before_the_next_sweep(backlog):
    """The sweep interval must not limit the number of jobs that are removed per second."""
    with closing(app_on(backlog, sweep=300)) as fire, fire.server(workers=1):
        with arranging():
            eventually(lambda: len(backlog.begun("prune")) >= 20, within=LONG)

        eventually(lambda: len(backlog.begun("prune")) > 60, within=4)


# ---- cost of a chunk -------------------------------------------------------------------------------------


@pytest.fixture
def proxy(server_database):
    """Yield a counting proxy in front of the database server."""
    with FaultProxy(server_database.server.address) as proxy:
        yield proxy


@pytest.fixture
def expired(server_database, proxy):
    """Yield a function that stores expired jobs with these options; its `fire` is behind the proxy."""
    with closing(app_on(server_database.url(port=proxy.port), keep_deleted=0)) as fire:
        fire.storage.clear()

        def store(number, **options):
            jobs = fire.noop.using(**options).enqueue_many([()] * number)
            fire.jobs.delete([job.id for job in jobs])
            return [job.id for job in jobs]

        store.fire = fire
        yield store
        fire.storage.clear()


def test_pruning_tagged_jobs_needs_no_more_round_trips(expired, proxy):
    """All statements of a chunk are sent in the same round trips."""
    trips = []
    for tags in ([], [], ["a", "b"]):  # the first time, statements are prepared
        expired(100, tags=tags)
        before = proxy.traffic
        with arranging():
            assert expired.fire.storage.prune(1_000) == 100
        trips.append((proxy.traffic - before).trips)

    assert trips[2] <= trips[1] + 30  # a few more if a busy server replies before all statements are sent


def test_pruning_tagged_jobs_on_mariadb_needs_few_more_statements(mariadb):
    """The server parses and plans each statement separately. For the jobs of a day, this took minutes."""
    statements = []
    with closing(app_on(mariadb.url(), keep_deleted=0)) as fire:
        fire.storage.clear()
        for tags in ([], ["a", "b"]):
            jobs = fire.noop.using(tags=tags).enqueue_many([()] * 100)
            fire.jobs.delete([job.id for job in jobs])
            before = deletes(mariadb)
            with arranging():
                assert fire.storage.prune(1_000) == 100
            statements.append(deletes(mariadb) - before)

    assert statements[1] <= statements[0] + 5


def deletes(mariadb):
    """Return the number of statements that delete rows and that the server has run."""
    with mariadb.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_delete', 'Com_delete_multi')")
        return sum(int(number) for _, number in cursor.fetchall())


def test_pruning_continues_past_jobs_locked_by_another_server(expired, server_database):
    """The other server has locked the 500 jobs that expired first. The remaining 300 jobs are removed."""
    storage = expired.fire.storage
    first = expired(500)
    last = expired(300)
    engine = create_engine(server_database.engine_url(), poolclass=NullPool)
    with engine.connect() as other:
        locked = text(
            "SELECT id FROM firelock_jobs WHERE expires_at IS NOT NULL ORDER BY expires_at LIMIT 500 "
            "FOR UPDATE"  # in index order, because MariaDB also locks rows that it only sorts
        )
        with arranging():
            assert set(first) == {row[0] for row in other.execute(locked)}
        pruned = storage.prune(1_000)
        other.rollback()

    left = len(storage.find(JobFilter(), limit=500).jobs)
    assert (len(last), len(first)) == (pruned, left)


# ---- checks ----------------------------------------------------------------------------------------------


def test_unique_keys_in_use_are_checked_once_an_hour(tmp_path, monkeypatch):
    """All other calls of `prune` cost no more than in a storage without unique keys."""
    meter = SqliteMeter(monkeypatch)
    costs = []
    for number in (0, 2_000):
        with closing(app_on(f"sqlite:///{tmp_path}/{number}.db?synchronous=normal")) as fire:
            fire.unique = fire.task(name="unique", unique=Unique())(lambda place: None)
            fire.unique.enqueue_many([(place,) for place in range(number)])
            first = meter.instructions(lambda: fire.storage.prune(1_000), times=1)
            costs.append(meter.instructions(lambda: fire.storage.prune(1_000)))

    assert first > 10 * costs[1]
    assert costs[1] <= costs[0] + 100
