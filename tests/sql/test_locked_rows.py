"""Across modules: the cost of calls that encounter locked rows, and locks on rows other than jobs."""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from firelock.model.limit import UniqueUse
from firelock.model.state import State
from firelock.storage import Applied, Moved
from firelock.testing.conformance.flow_scene import FlowScene, suspends
from firelock.testing.conformance.race import until_none_is_left
from firelock.testing.conformance.scene import Handles, asks, deletes, fails, opener, succeeds
from tests.faults.proxy import FaultProxy
from tests.sql.databases import PostgresqlDatabase
from tests.sql.transactions import lock_jobs

# of a repeated call on MariaDB: the try, its rollback, reads of the free and of all rows, the ends
MORE_TRIPS = 5


@pytest.fixture
def proxy(server_database):
    """A counting proxy in front of the server."""
    with FaultProxy(server_database.server.address) as proxy:
        yield proxy


@pytest.fixture
def flow(server_database, proxy):
    """An empty storage that is connected through the proxy, with prepared statements."""
    is_postgresql = isinstance(server_database, PostgresqlDatabase)
    handles = Handles(opener(server_database.url("listen=off" if is_postgresql else "", port=proxy.port)))
    with closing(handles):
        flow = FlowScene(handles)
        for number in range(9):
            holder = flow.begin(str(number))
            flow.exchange(holder, [succeeds(flow.run(holder))])
            flow.settle(succeeds(flow.run(holder)))
        yield flow


@pytest.fixture
def lock_job(server_database):
    """A function that locks the row of a job within a block."""
    with lock_jobs(server_database.engine_url()) as lock:
        yield lock


@pytest.fixture
def lock_rows(server_database):
    """A function that locks rows of any table within a block."""
    engine = create_engine(server_database.engine_url(), poolclass=NullPool)

    @contextmanager
    def lock(table, key):
        with engine.connect() as connection:
            columns = {"limit_keys": "key", "unique_keys": "key", "batches": "id"}
            name = engine.dialect.identifier_preparer.quote(columns[table])
            statement = f"SELECT 1 FROM firelock_{table} WHERE {name} = :key FOR UPDATE"
            assert connection.execute(text(statement), {"key": key}).fetchall()
            yield
            connection.rollback()

    yield lock
    engine.dispose()


def trips_of(proxy, call):
    """Return how many round trips the call takes, and its result."""
    before = proxy.traffic
    answer = call()
    return (proxy.traffic - before).trips, answer


def test_locked_end_adds_no_round_trip_on_postgresql(flow, proxy, lock_job, server_database):
    """The statement that settles jobs also returns the locked ones. On MariaDB, the call is repeated once."""
    holder, ids = flow.begin(), flow.add_many(20)
    ends = [succeeds(one) for one in flow.take(holder, 10)]
    more = [succeeds(one) for one in flow.take(holder, 10)]
    usual, _ = trips_of(proxy, lambda: flow.exchange(holder, ends))

    with ExitStack() as locks:
        for job_id in ids[10:16]:
            locks.enter_context(lock_job(job_id))
        trips, exchange = trips_of(proxy, lambda: flow.exchange(holder, more))

    assert [Applied.BUSY] * 6 + [Applied.APPLIED] * 4 == exchange.results
    assert trips <= usual + (0 if isinstance(server_database, PostgresqlDatabase) else MORE_TRIPS)


def test_busy_end_is_repeated_without_a_read(flow, proxy, lock_job):
    """The storage still remembers the claim, so the job is settled without a read the second time too."""
    holder, ids = flow.begin(), flow.add_many(2)
    first, second = flow.running(holder, *ids)
    usual, _ = trips_of(proxy, lambda: flow.storage.apply([succeeds(first)]))
    with lock_job(second.id):
        assert [Applied.BUSY] == flow.storage.apply([succeeds(second)])

    trips, results = trips_of(proxy, lambda: flow.storage.apply([succeeds(second)]))

    assert ([Applied.APPLIED], usual) == (results, trips)


@pytest.mark.parametrize("end", [succeeds, fails, suspends])
def test_locked_limit_key_does_not_delay_ends_or_other_claims(flow, lock_rows, end):
    """Jobs with the locked key can end, and other jobs are claimed.

    When the lock has been released, jobs with this key are claimed too.
    """
    flow.set_limit("a", concurrent=1)
    flow.set_limit("b", concurrent=1)
    flow.add_limited(2, "a")
    holder = flow.begin()
    (running,) = flow.take(holder)
    (keyed,), (plain,) = flow.add_limited(1, "b"), flow.add_many(1)

    with lock_rows("limit_keys", "a"):
        exchange = flow.exchange(holder, [end(running)])
        claimed = [job.id for job in exchange.claim.jobs]
        for _ in range(40):  # also claims that now wait for locked keys
            claimed += flow.claim_ids(holder)

    assert ([Applied.APPLIED], {keyed, plain}) == (exchange.results, set(claimed))
    assert 1 == len(flow.claim_ids(holder))


def test_locked_batch_row_does_not_delay_ends_or_other_batches(flow, lock_rows):
    """Members end and another batch is released. The locked batch ends after the lock has been released."""
    (locked, ids), (other, others) = flow.batch_of(2), flow.batch_of(1)
    runs = flow.running(flow.begin(), *ids, *others)

    with lock_rows("batches", locked):
        results = flow.storage.apply([succeeds(runs[0]), fails(runs[1]), succeeds(runs[2])])
        until_none_is_left(lambda: flow.storage.release(100))
        states = flow.states(locked, other)

    assert ([Applied.RELEASE_NEEDED] * 3, [State.AWAITING, State.SUCCEEDED]) == (results, states)
    flow.settle_all()
    assert State.FAILED is flow.state(locked)


def test_locked_inner_batch_does_not_delay_members_of_the_outer_one(flow, lock_rows):
    """The members of a cancelled batch are deleted.

    The inner batch is cancelled as soon as its row is unlocked.
    """
    outer = flow.batch("outer")
    inner, member = flow.batch("inner", within=outer), flow.member(outer)
    inside = flow.member(inner)
    flow.settle(deletes(outer))

    with lock_rows("batches", inner):
        flow.settle_all()
        states = flow.states(member, inside)

    assert [State.DELETED, State.ENQUEUED] == states
    flow.settle_all()
    assert [State.DELETED] * 4 == flow.states(outer, inner, member, inside)


def test_child_in_a_locked_batch_is_released_later(flow, lock_rows):
    """If a child is a member of a locked batch, it waits.

    The other child of the same parent does not wait.
    """
    first = flow.add()
    batch = flow.batch("unopened", after=[flow.add(state=State.SCHEDULED, due_at=flow.now() + 10**12)])
    running = flow.run(flow.begin(), first)
    inside, outside = flow.member(batch, first), flow.continuation(first)
    flow.settle(succeeds(running))

    with lock_rows("batches", batch):
        until_none_is_left(lambda: flow.storage.release(100))
        states = flow.states(inside, outside)

    assert [State.AWAITING, State.ENQUEUED] == states
    assert until_none_is_left(lambda: flow.storage.release(100))
    assert (State.AWAITING, Moved.WAITS_FOR_BATCH) == (flow.state(inside), flow.record(inside).reason)


def test_locked_unique_key_does_not_delay_ends(flow, lock_rows):
    """Settling a job does not write unique keys, not even the locked key of this job."""
    admission = asks(unique=UniqueUse("kit:key"))
    holder = flow.begin()
    running = flow.run(holder, flow.add(admission=admission))
    other = flow.run(holder)

    with lock_rows("unique_keys", "kit:key"):
        results = flow.exchange(holder, [succeeds(running), fails(other)]).results

    assert [Applied.APPLIED] * 2 == results


def test_locked_due_job_is_checked_again_after_a_second(flow, lock_job):
    """Without this pause, upkeep would check the job all the time, or delay jobs that are due soon."""
    locked, soon = flow.schedule(1), flow.schedule(3_600 + 100)
    flow.advance(3_600)

    with lock_job(locked):
        promotion = flow.promote()

    assert (0, True) == (promotion.promoted, flow.now() < promotion.next_due_at + 60_000_000)
    assert flow.record(locked).due_at < promotion.next_due_at < flow.record(soon).due_at
