"""Claims of jobs with limits on PostgreSQL: their statements, their locks, and the changes that they see."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from firelock.testing import eventually
from firelock.testing.conformance.scene import Running, fails, succeeds
from firelock_sql.postgresql.database import PostgresqlDatabase
from tests.faults.proxy import FaultProxy
from tests.scenes import scene_at
from tests.sql.postgresql.test_storage_hot_path import explained, running
from tests.sql.servers.postgresql import end_connections

WARM = 9  # jobs that run before anything is counted
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'firelock'"


@pytest.fixture
def scene(postgresql):
    """A storage with helpers for jobs."""
    with scene_at(postgresql.url("listen=off")) as scene:
        yield scene


def test_holders_of_a_key_are_counted_after_its_lock(scene, admin):
    """A claim that waited for the key counts the jobs that another claim took in the meantime.

    The limit is therefore never exceeded.
    """
    scene.set_limit("smtp", concurrent=2)
    first, *_ = scene.add_limited(3, "smtp")
    holder = scene.begin()
    assert [first] == scene.claim_ids(holder, 1)  # now the key has a row
    scene.storage._cursors.patient_walks = 9  # noqa: SLF001 - as after a read that found all keys locked

    with ThreadPoolExecutor(1) as pool:
        with admin.transaction():
            admin.execute("SELECT FROM firelock_limit_keys FOR UPDATE")
            claimed = pool.submit(scene.claim, holder, 3)
            eventually(lambda: admin.execute(WAITING).fetchone() == (1,))
            (seq,) = admin.execute(
                "UPDATE firelock_jobs SET state = 'processing', session = 'another', attempt = 1, fence = 1"
                " WHERE seq = (SELECT min(seq) FROM firelock_jobs WHERE session IS NULL) RETURNING seq"
            ).fetchone()
            admin.execute("UPDATE firelock_limit_keys SET holders = holders || ' ' || %s", [str(seq)])
        jobs = claimed.result(30)

    assert [] == jobs


def test_claims_ignore_the_isolation_level_of_a_role(scene, admin):
    """At the level `repeatable read`, a claim would count the running jobs of an earlier time."""
    admin.execute("ALTER ROLE firelock SET default_transaction_isolation = 'repeatable read'")
    end_connections(admin)
    try:
        scene.set_limit("smtp", concurrent=1)
        ids = scene.add_limited(2, "smtp")
        holder = scene.begin()
        levels: list[str] = []
        take = scene.storage._take_with_lanes  # noqa: SLF001

        def watched(tx, *values):
            tx.cursor.execute("SHOW transaction_isolation")
            levels.append(tx.cursor.fetchone()[0])
            return take(tx, *values)

        scene.storage._take_with_lanes = watched  # noqa: SLF001
        claimed = scene.claim_ids(holder, 2)
    finally:
        admin.execute("ALTER ROLE firelock RESET default_transaction_isolation")

    assert ids[:1] == claimed
    assert ["read committed"] == levels


def test_one_statement_checks_that_no_lane_has_jobs(scene, monkeypatch):
    """Jobs without limits are claimed as usual, with this statement and without another transaction."""
    scene.set_limit("smtp", concurrent=1)
    jobs = running(scene, 3)
    monkeypatch.setattr(PostgresqlDatabase, "write_planned", None)

    assert [] == scene.exchange(jobs[0].holder, [succeeds(job) for job in jobs], 5).claim.jobs


def test_empty_lanes_are_forgotten(scene):
    """After that, a claim needs only one statement again."""
    scene.add_limited(1, "smtp")
    holder = scene.begin()
    assert 1 == len(scene.claim(holder, 5))
    assert [] == scene.claim(holder, 5)

    assert set() == scene.storage._laned  # noqa: SLF001


def test_plans_for_lanes_use_indexes_for_any_table_size(scene, admin):
    """The plans are created only once, with the statistics of an empty table, but also suit a full one."""
    admin.execute("VACUUM ANALYZE")
    scene.set_limit("smtp", concurrent=5)
    scene.add_limited(9, "smtp")
    holder = scene.begin()
    for _ in range(7):  # a connection prepares a statement after five executions
        for job in scene.take(holder, 1):
            scene.settle(succeeds(job))

    plans = "\n".join(plans_of(scene.storage._database))  # noqa: SLF001 - its connection keeps them
    assert "Seq Scan on firelock" not in plans
    assert "Bitmap" not in plans
    assert "Sort Key" not in plans
    assert "firelock_lanes" in plans


def plans_of(database):
    """Return the plans of the statements for claims with lanes that a connection of the pool has prepared."""

    def explain(cursor):
        kept = "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements WHERE statement ~ %s"
        names = cursor.execute(kept, ["^(WITH RECURSIVE walk|WITH claimed|SELECT job|INSERT)"]).fetchall()
        return ["\n".join(line for (line,) in explained(cursor, *one)) for one in names]

    return database.in_one_round_trip(explain)


def test_restored_limit_counts_jobs_that_started_without_it(scene):
    """While a key has no limit, the list of its running jobs is not updated.

    When the limit is restored, the list is created again.
    """
    scene.set_limit("smtp", concurrent=2)
    scene.add_limited(9, "smtp")
    holder = scene.begin()
    assert 1 == len(scene.claim(holder, 1))
    scene.storage.delete_record("limit", "smtp")
    assert 2 == len(scene.claim(holder, 2))

    scene.set_limit("smtp", concurrent=2)

    assert [] == scene.claim(holder, 5)


def test_failed_job_without_limits_causes_no_limit_query(postgresql):
    """A failed job is settled by the general code. Even after that, the next claim does not query limits."""
    with FaultProxy(postgresql.server.address) as proxy, scene_at(postgresql.url(port=proxy.port)) as scene:
        holder = scene.begin()
        scene.add_many(3 * WARM)
        [job] = scene.claim(holder, 1)
        for _ in range(WARM):
            [job] = scene.exchange(holder, [fails(Running(job, holder))], 1).claim.jobs
        before = proxy.traffic

        exchange = scene.exchange(holder, [fails(Running(job, holder))], 1)

        assert 1 == len(exchange.claim.jobs)
        assert (proxy.traffic - before).trips <= 14  # one more would be the query for limits
