"""The cost of a call does not grow with the stored data, counted in rows, round trips and bytes."""

from __future__ import annotations

import sqlite3
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import psycopg
import pytest

from firelock import Firelock, Settings
from firelock.errors import ResultTimeout, StorageError
from firelock.model.memo import chunk_offset
from firelock.plugins.loader import open_storage
from firelock.storage import Chunk, ClaimRequest, HeldClaim, JobFilter, NewSession
from firelock.storage.memory import MemoryStorage
from firelock.testing import eventually
from firelock_sql.connections import full_reads
from firelock_sql.postgresql import storage as postgresql_storage
from tests.faults.meters import SqliteMeter, WatchedStorage, arranging, lines_run
from tests.faults.proxy import FaultProxy
from tests.sql.servers.processes import USER

LONG = 30.0  # seconds until a condition counts as never met
SETTINGS = Settings(poll=0.05, heartbeat=0.2, session_timeout=30, sweep=0.1, argument_warning=32 * 1024)


def app_at(storage, **settings):
    """Return an application with one task on the storage."""
    fire = Firelock(storage, settings=Settings(**settings) if settings else SETTINGS)
    fire.noop = fire.task(name="noop")(lambda text="": None)
    return fire


def begin_session(storage, name="session", **options):
    """Begin a session that outlasts the test without renewal; return its id."""
    session = NewSession(name, "server", "host:1", "host", 1, storage.clock(), 3_600.0, **options)
    storage.begin_session(session)
    return name


def claim(storage, session, limit):
    """Return the jobs of one claim."""
    return storage.claim(ClaimRequest(None, limit, session, storage.clock())).jobs


@pytest.fixture
def proxy(server_database):
    """Yield a counting proxy in front of the database server."""
    with FaultProxy(server_database.server.address) as proxy:
        yield proxy


@pytest.fixture
def behind_proxy(server_database, proxy):
    """Yield an application on an empty database behind the proxy."""
    with closing(app_at(server_database.url(port=proxy.port))) as fire:
        fire.storage.clear()
        yield fire
        fire.storage.clear()


# ---- sessions --------------------------------------------------------------------------------------------

DEAD = 200  # number of sessions left by a day of restarts


def test_sweep_reads_no_dead_sessions():
    """A server searches for lost servers every few seconds, and does not need sessions that have ended."""
    storage = WatchedStorage(MemoryStorage())
    for number in range(DEAD):
        storage.end_session(begin_session(storage, f"dead-{number}"), (), reason="stopped")

    with closing(app_at(storage)) as fire, fire.server(workers=1), arranging():
        eventually(lambda: len(storage.answered("orphans")) >= 3, within=LONG)

    read = [record for call in storage.answered("list_sessions") for record in call.answer]
    assert not [record for record in read if not record.is_alive]


def test_sweep_on_redis_receives_no_dead_sessions(server):
    """If the list contained them, Redis would build a long reply for every sweep of every server process."""
    with FaultProxy(server.address) as proxy:
        alone, with_dead = (bytes_of_a_sweep(server, proxy, number) for number in (0, DEAD))

    assert with_dead <= alone + 5_000


def bytes_of_a_sweep(server, proxy, dead):
    """Return how many bytes an idle server receives from Redis per sweep."""
    storage = WatchedStorage(open_storage(server.url(port=proxy.port)))
    storage.clear()
    for number in range(dead):
        storage.end_session(begin_session(storage, f"dead-{number}"), (), reason="stopped")

    with closing(app_at(storage)) as fire, fire.server(workers=1), arranging():
        begun, before = len(storage.answered("orphans")), proxy.traffic
        eventually(lambda: len(storage.answered("orphans")) >= begun + 4, within=LONG)
        return (proxy.traffic - before).received / (len(storage.answered("orphans")) - begun)


# ---- streams ---------------------------------------------------------------------------------------------


def test_cost_of_an_append_does_not_grow_with_the_stream(tmp_path, monkeypatch):
    """The cost is measured in SQLite instructions. All other writers wait while these are executed."""
    meter = SqliteMeter(monkeypatch)
    with closing(app_at(f"sqlite:///{tmp_path}/jobs.db?synchronous=normal")) as fire:
        fire.noop.enqueue()
        (job,) = claim(fire.storage, begin_session(fire.storage), 1)
        places = iter(range(1_000_000))

        def append(number=1):
            chunks = [Chunk("out", chunk_offset(job.fence, next(places)), "x" * 20) for _ in range(number)]
            fire.storage.append_stream(job.id, chunks, session="session", fence=job.fence)

        append(100)
        short = meter.instructions(append)
        append(5_000)
        long = meter.instructions(append)

    assert long <= 2 * short


# ---- lists and counts ------------------------------------------------------------------------------------


def test_round_trips_of_a_page_do_not_grow_with_the_queues(behind_proxy, proxy):
    """In the dashboard, the list of all jobs begins with such a page."""
    trips = []
    for number in (2, 30):
        for place in range(number):
            behind_proxy.noop.using(queue=f"queue-{place}").enqueue()
        behind_proxy.storage.find(JobFilter(), limit=20)  # so that statements are prepared
        before = proxy.traffic
        behind_proxy.storage.find(JobFilter(), limit=20)
        trips.append((proxy.traffic - before).trips)

    assert trips[1] <= trips[0] + 10


def test_queue_without_jobs_is_removed(tmp_path):
    """For example, an application may use a new queue every day."""
    path = tmp_path / "jobs.db"
    with closing(app_at(f"sqlite:///{path}?synchronous=normal", keep_deleted=0)) as fire:
        jobs = [fire.noop.using(queue=f"day-{place}").enqueue() for place in range(20)]
        fire.jobs.delete([job.id for job in jobs])
        with arranging():
            assert fire.storage.prune(1_000) == 20
        fire.storage.promote(1_000)  # upkeep folds the counts here if they are stored as differences
        fire.storage.prune(1_000)

    with closing(sqlite3.connect(path)) as connection:
        ((rows,),) = connection.execute("SELECT count(*) FROM firelock_counts").fetchall()
    assert rows <= 5


def test_promote_folds_a_limited_number_of_differences(postgresql, admin):
    """Each job that was enqueued while no server was running has left a difference.

    Due jobs wait until the call returns.
    """
    trips = []
    with (
        FaultProxy(postgresql.server.address) as proxy,
        closing(app_at(postgresql.url(port=proxy.port))) as fire,
    ):
        for number in (0, 50_000, 200_000):
            fire.storage.clear()
            admin.execute(
                "INSERT INTO firelock_count_deltas (state, queue, jobs)"
                " SELECT 'enqueued', 'default', 1 FROM generate_series(1, %s)",
                (number,),
            )
            before = proxy.traffic
            fire.storage.promote(1_000)
            trips.append((proxy.traffic - before).trips)
        fire.storage.clear()

    assert trips[2] < 2 * trips[1]


# ---- jobs held by a server -------------------------------------------------------------------------------

SIZE, NUMBER = 20_000, 40  # bytes of a job's arguments; jobs


def held_jobs(fire):
    """Store jobs with large arguments, claim them, and return them as arguments for `reconcile`."""
    fire.noop.enqueue_many([("x" * SIZE,)] * NUMBER)
    jobs = claim(fire.storage, begin_session(fire.storage), NUMBER)
    with arranging():
        assert len(jobs) == NUMBER
    return [HeldClaim(job.id, job.fence, None) for job in jobs]


def test_reconciliation_on_sqlite_reads_no_arguments(tmp_path):
    """A server process compares its jobs with those in the storage once per second."""
    with closing(app_at(f"sqlite:///{tmp_path}/jobs.db?synchronous=normal")) as fire:
        held = held_jobs(fire)
        tracemalloc.start()
        reply = fire.storage.reconcile("session", held)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    with arranging():
        assert [] == [*reply.lost, *reply.unknown]
    assert peak < SIZE * NUMBER / 4


def test_reconciliation_receives_no_arguments(behind_proxy, proxy):
    """Otherwise, the arguments would be sent over the network once per second."""
    held = held_jobs(behind_proxy)
    before = proxy.traffic
    reply = behind_proxy.storage.reconcile("session", held)
    received = (proxy.traffic - before).received

    with arranging():
        assert [] == [*reply.lost, *reply.unknown]
    assert received < SIZE * NUMBER / 4


# ---- old versions of rows --------------------------------------------------------------------------------

OLD, CALLS = 1_500, 20


def entries_read(url, admin, work):
    """Return how many index entries of the jobs table one call of the function with a new handle reads."""

    def read():
        query = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'firelock_jobs'"
        return int(admin.execute(query).fetchone()[0])

    def connections():
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND datname = current_database()"
        return admin.execute(query, (USER,)).fetchone()[0]

    before = read()
    with closing(open_storage(url)) as storage:
        for _ in range(CALLS):
            work(storage)
    with arranging():
        eventually(lambda: connections() == 0, within=LONG)  # their counters are added when they end
    return (read() - before) / CALLS


def claim_a_job(storage):
    """Search for due and enqueued jobs in a storage that has neither."""
    with arranging():
        assert storage.promote(10).promoted == 0
        assert claim(storage, "session", 10) == []


def reconcile_nothing(storage):
    """Reconcile a session that holds no jobs."""
    with arranging():
        assert not storage.reconcile("session", []).unknown


@pytest.fixture
def few_full_reads(monkeypatch):
    """Make every full read of the entries count as a long one, so that later calls avoid full reads."""
    monkeypatch.setattr(postgresql_storage, "LONG_SECONDS", -1)
    monkeypatch.setattr(full_reads, "_IN_A_ROW", 1)
    for rest in ("_REST", "_REST_OF_HELD"):
        monkeypatch.setattr(full_reads, rest, 1e9)


@pytest.mark.usefixtures("few_full_reads")
@pytest.mark.parametrize(
    ("work", "column", "value"),
    [(claim_a_job, "due_at", "1"), (reconcile_nothing, "session", "'session'")],
    ids=["claim-and-due-jobs", "reconcile-and-held-jobs"],
)
def test_held_snapshot_makes_few_calls_read_old_row_versions(postgresql, admin, work, column, value):
    """While a report or a backup holds a snapshot, old versions of rows and of their index entries remain."""
    url = postgresql.url("listen=off")
    state = "scheduled" if column == "due_at" else "processing"
    with closing(open_storage(url)) as storage:
        storage.migrate()
        storage.clear()
        begin_session(storage)
    admin.execute("VACUUM ANALYZE firelock_jobs")
    with psycopg.connect(postgresql.socket_url()) as report:
        report.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT count(*) FROM firelock_jobs")
        before = entries_read(url, admin, work)
        admin.execute(
            f"INSERT INTO firelock_jobs (id, state, queue, priority, changed_at, {column}, fence, attempt,"
            " task, arguments, serializer, created_at)"
            f" SELECT 'job-' || number, '{state}', 'default', 0, 1, {value}, 1, 1, 'noop', '{{}}', 'json', 1"
            f" FROM generate_series(1, {OLD}) AS number"
        )
        admin.execute(f"UPDATE firelock_jobs SET {column} = NULL, state = 'succeeded'")
        after = entries_read(url, admin, work)
        report.rollback()

    assert after <= before + OLD / 10


# ---- waits for results -----------------------------------------------------------------------------------


def test_new_wait_for_a_result_does_not_make_earlier_ones_poll():
    """In this test, another wait starts at each poll, as in a web process with many requests."""
    storage = WatchedStorage(MemoryStorage())
    with closing(app_at(storage)) as fire:
        jobs = fire.noop.using(delay=3_600).enqueue_many([()] * 150)
        waits, polls = ThreadPoolExecutor(len(jobs)), []

        def wait_for(job):
            with suppress(ResultTimeout, StorageError):
                job.result(timeout=LONG)

        def count_polls(ids):
            polls.append(jobs[0].id in ids)
            if len(polls) <= 100:
                waits.submit(wait_for, jobs[len(polls)])

        storage.before("get", count_polls)
        waits.submit(wait_for, jobs[0])
        with arranging():
            eventually(lambda: len(polls) > 100, within=LONG)
        fire.close()  # ends the waits
        waits.shutdown()

    assert sum(polls) <= len(polls) * 3 / 4


# ---- memory ----------------------------------------------------------------------------------------------


def test_cost_of_an_urgent_job_does_not_grow_with_earlier_claims():
    """The cost is measured in executed lines of Python code."""
    lines = []
    for number in (100, 2_000):
        with closing(app_at("memory://")) as fire:
            storage, urgent = fire.storage, fire.noop.using(priority=5)
            fire.noop.enqueue_many([()] * (2 * number))
            session = begin_session(storage)
            for _ in range(number // 100):
                claim(storage, session, 100)

            def claim_urgent(urgent=urgent, storage=storage):
                urgent.enqueue()
                claim(storage, "session", 1)
                claim(storage, "session", 1)

            claim_urgent()
            lines.append(lines_run(claim_urgent))

    assert lines[1] <= 2 * lines[0]
