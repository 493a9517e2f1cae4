"""The fast path of plain jobs on PostgreSQL: its results equal those of the slow path, its fallback."""

from __future__ import annotations

import pytest
from psycopg import sql
from sqlalchemy import create_engine

from firelock.storage import Applied, Chunk, ClaimRequest, HeldClaim, State
from firelock.testing import Handles, Scene
from firelock.testing.conformance.scene import Running, deletes, fails, succeeds
from firelock_sql.postgresql.connect import text_array
from firelock_sql.postgresql.storage import open_engine
from tests.scenes import scene_at
from tests.sql.servers.postgresql import end_connections

WRITERS = "SELECT pg_current_xact_id()::text::bigint"


@pytest.fixture
def scene(postgresql):
    """A storage with helpers for jobs."""
    with scene_at(postgresql.url("listen=off")) as scene:
        yield scene


def running(scene, number):
    """Return this number of jobs, claimed by one session."""
    scene.add_many(number)
    holder = scene.begin()
    return [Running(job, holder) for job in scene.claim(holder)]


def exchange(scene, ends, limit=10):
    """Settle the ends and claim jobs; return the result of both."""
    session = ends[0].session
    assert session is not None
    return scene.storage.exchange(ends, ClaimRequest(["default"], limit, session, scene.stamp()))


# ---- storing ---------------------------------------------------------------------------------------------


def test_mixed_jobs_are_stored_and_counted(scene):
    """The jobs have different priorities and tasks. The counts of both of their queues are correct."""
    batch = [scene.new_job(queue=f"q{n % 2}", priority=n, task=f"t{n}") for n in range(4)]

    assert [True] * 4 == scene.storage.insert(batch).is_new

    jobs = scene.claim(scene.begin(), queues=["q1", "q0"])
    assert [("q1", 3, "t3"), ("q1", 1, "t1"), ("q0", 2, "t2"), ("q0", 0, "t0")] == [
        (job.queue, job.priority, job.task) for job in jobs
    ]
    assert {"q0": {State.PROCESSING: 2}, "q1": {State.PROCESSING: 2}} == scene.storage.counts().by_queue


# ---- ends ------------------------------------------------------------------------------------------------


ENDS = {
    "a parent": lambda scene, job: scene.continuation(job.id),
    "deleted": lambda scene, job: scene.handles.open().apply([deletes(job.id)]),
    "settled": lambda scene, job: scene.handles.open().apply([succeeds(job)]),
}


@pytest.mark.parametrize("has_other", [False, True], ids=["plain ends alone", "beside another end"])
@pytest.mark.parametrize("what", ENDS)
def test_end_on_the_slow_path_causes_no_database_error(scene, postgresql, what, has_other):
    """The other jobs are settled by the same statement, and the server's log contains no error."""
    jobs = running(scene, 5)
    waiting = scene.add()
    ENDS[what](scene, jobs[1])
    before = len(postgresql.server.read_log())
    ends = [succeeds(one) for one in jobs[:4]] + [(fails if has_other else succeeds)(jobs[4])]

    answer = exchange(scene, ends)

    logged = postgresql.server.read_log()[before:]
    expected = {"a parent": Applied.RELEASE_NEEDED, "deleted": Applied.REFUSED, "settled": Applied.ALREADY}[
        what
    ]
    assert [Applied.APPLIED, expected, *[Applied.APPLIED] * 3] == answer.results
    assert [waiting] == [job.id for job in answer.claim.jobs]
    assert [] == [line for line in logged.splitlines() if "ERROR" in line]


# ---- claims ----------------------------------------------------------------------------------------------


def test_claim_that_finds_nothing_does_not_write(scene, admin):
    """An idle server reads again and again.

    None of these reads causes a transaction that must be written to disk.
    """
    holder = scene.begin()
    scene.claim(holder)
    before = admin.execute(WRITERS).fetchone()[0]

    scene.claim(holder)
    scene.claim(holder, queues=None)

    assert before + 1 == admin.execute(WRITERS).fetchone()[0]


# ---- connections -----------------------------------------------------------------------------------------


def test_dead_connections_of_the_pool_are_replaced(scene, admin):
    """If the server was restarted or its processes have ended, the next call uses a new connection."""
    jobs = running(scene, 2)
    end_connections(admin)

    assert [Applied.APPLIED] * 2 == exchange(scene, [succeeds(job) for job in jobs]).results
    end_connections(admin)
    assert 1 == len(scene.add_many(1))


def test_settings_of_a_callers_connection_are_kept(postgresql):
    """On a caller's connection, each transaction of this work sets its own limits."""
    engine = create_engine(postgresql.engine_url())
    handles = Handles(lambda: open_engine(engine))
    scene = Scene(handles)
    handles.first.clear()

    jobs = running(scene, 2)
    answer = exchange(scene, [succeeds(job) for job in jobs])

    assert [Applied.APPLIED] * 2 == answer.results
    with engine.connect() as connection:
        assert "0" == connection.exec_driver_sql("SHOW lock_timeout").scalar()
    handles.close()
    engine.dispose()


# ---- plans -----------------------------------------------------------------------------------------------


def test_plans_use_indexes_for_any_table_size(scene, admin):
    """The plan is created only once, with the statistics of an empty table, but also suits a full one."""
    admin.execute("VACUUM ANALYZE")
    job = running(scene, 1)[0]
    exchange(scene, [succeeds(job)])

    (plan,) = plans_of(scene.storage._database)  # noqa: SLF001 - its connection keeps it
    assert "Seq Scan on firelock_jobs" not in plan
    assert "Bitmap" not in plan
    assert "Sort Key: firelock_jobs" not in plan
    assert "firelock_ready" in plan


def test_lookup_of_one_job_does_not_read_all_jobs_of_its_session(scene, admin):
    """The job is found by its id, even if the session had few jobs when the plan was created."""
    scene.add_many(1_000, queue="other")
    scene.add_many(8)
    admin.execute("VACUUM ANALYZE")
    holder = scene.begin()
    for job in scene.claim(holder):
        scene.reconcile(holder, [HeldClaim(job.id, job.fence, scene.stamp())])
        scene.storage.append_stream(job.id, [Chunk("out", 0, "a")], session=holder.session, fence=job.fence)
        scene.storage.recall(job.id, session=holder.session, fence=job.fence)

    for begin in (
        "UPDATE firelock_jobs SET started_at%",
        "SELECT 1 FROM firelock_jobs%",
        "SELECT memo.kind%",
    ):
        (plan,) = plans_of(scene.storage._database, begin)  # noqa: SLF001 - its connection keeps it
        assert "Index Scan using firelock_jobs_id_key" in plan, begin
        assert "firelock_holder" not in plan, begin


def plans_of(database, begin="WITH open%"):
    """Return the plans of a connection's prepared claims, or of other statements by their beginning."""

    def explain(cursor):
        kept = "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements WHERE statement LIKE %s"
        names = cursor.execute(kept, [begin]).fetchall()
        return ["\n".join(line for (line,) in explained(cursor, *one)) for one in names]

    return database.in_one_round_trip(explain)


def explained(cursor, name, number):
    """Return one plan, which is the same for all parameters."""
    values = sql.SQL(", ").join([sql.NULL] * number)
    return cursor.execute(sql.SQL("EXPLAIN EXECUTE {}({})").format(sql.Identifier(name), values)).fetchall()


def test_other_statements_use_the_planner_settings_of_the_server(scene, admin):
    """The special planner settings do not apply to other statements on the same connection."""
    admin.execute("ALTER ROLE firelock SET enable_sort = off")
    end_connections(admin)
    try:
        database = scene.storage._database  # noqa: SLF001 - only the connection itself has its settings
        names = ("plan_cache_mode", "enable_seqscan", "enable_bitmapscan", "enable_sort", "lock_timeout")
        hot = [database.in_one_round_trip(lambda cursor, name=name: show(cursor, name)) for name in names]
        usual = [database.read(lambda tx, name=name: show(tx.cursor, name)) for name in names]
    finally:
        admin.execute("ALTER ROLE firelock RESET enable_sort")

    assert ["force_generic_plan", "off", "off", "off", "2s"] == hot
    assert ["auto", "on", "on", "off"] == usual[:-1]


def show(cursor, name):
    """Return the current value of a setting."""
    return cursor.execute(f"SHOW {name}").fetchone()[0]


# ---- arrays ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [""],
        ["a"],
        ["a", None, ""],
        ['","', "b"],
        ['a"', '"b', "c"],
        ["\\", "a,b", "{}", "NULL", " ", "ş\n"],
        ["a\\", 'b"'],
        [None, None],
    ],
)
def test_strings_of_an_array_are_read_back_unchanged(admin, texts):
    """Some characters in the strings must be escaped, and others need no escape."""
    (found,) = admin.execute("SELECT %s::text[]", [text_array(texts)]).fetchone()

    assert texts == found
