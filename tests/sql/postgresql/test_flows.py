"""Across modules: batches, steps and waits on PostgreSQL.

The tests concern the fast path of members, locks, and notifications.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg
import pytest

from firelock.errors import BatchFinished
from firelock.model.lifecycle import Moved
from firelock.model.memo import Memo, MemoKind
from firelock.storage import Applied, ClaimRequest, NewMemo, State
from firelock.testing import Handles, eventually
from firelock.testing.conformance.flow_scene import FlowScene, signal, suspends
from firelock.testing.conformance.scene import HOUR, deletes, fails, opener, succeeds
from tests.faults.proxy import FaultProxy
from tests.scenes import listening
from tests.sql.postgresql.test_storage_hot_path import plans_of

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'firelock'"
DELTAS = "SELECT count(*) FROM firelock_batch_deltas"


@pytest.fixture
def flow(postgresql):
    """A storage with helpers for batches and memos."""
    with closing(Handles(opener(postgresql.url("listen=off")))) as handles:
        yield FlowScene(handles)


@pytest.fixture
def callers(postgresql):
    """A caller's connection within a transaction."""
    with psycopg.connect(postgresql.url()) as connection:
        yield connection
        connection.rollback()


def deltas(admin):
    """Return the number of batch changes that are not folded."""
    return admin.execute(DELTAS).fetchone()[0]


def is_blocked(admin):
    """Return whether a transaction waits for a lock."""
    return admin.execute(WAITING).fetchone() == (1,)


# ---- the fast path ---------------------------------------------------------------------------------------


def test_ends_of_one_exchange_add_one_row_per_batch(flow, admin):
    """Members of two batches and other jobs end in one transaction, which adds one row for each batch."""
    one, members = flow.batch_of(3)
    other, more = flow.batch_of(2)
    alone = flow.add()
    holder = flow.begin()
    jobs = flow.running(holder, *members, *more, alone)
    flow.settle_all()
    before = deltas(admin)

    results = flow.exchange(holder, [succeeds(job) for job in jobs]).results

    assert [Applied.RELEASE_NEEDED] * 5 + [Applied.APPLIED] == results
    assert before + 2 == deltas(admin)
    assert [(3, 0, 0, 3, 0, 0), (2, 0, 0, 2, 0, 0)] == [flow.counts(one), flow.counts(other)]
    flow.settle_all()
    assert 0 == deltas(admin)
    assert [State.SUCCEEDED] * 2 == flow.states(one, other)


SLOW_PATHS = {
    "a parent": lambda flow, batch, job: flow.member(batch, job.id),
    "deleted": lambda flow, batch, job: flow.handles.open().apply([deletes(job.id)]),
    "settled": lambda flow, batch, job: flow.handles.open().apply([succeeds(job)]),
    "with a step": lambda flow, batch, job: flow.keep(job, "paid"),
}


@pytest.mark.parametrize("has_other", [False, True], ids=["plain ends alone", "beside another end"])
@pytest.mark.parametrize("what", SLOW_PATHS)
def test_member_end_on_the_slow_path_is_counted(flow, what, has_other):
    """Some members are settled on the slow path. The counts always match the members."""
    batch, members = flow.batch_of(4)
    holder = flow.begin()
    jobs = flow.running(holder, *members)
    SLOW_PATHS[what](flow, batch, jobs[1])
    ends = [succeeds(job) for job in jobs[:3]] + [(fails if has_other else succeeds)(jobs[3])]

    results = flow.exchange(holder, ends).results
    flow.settle_all()

    expected = {"deleted": Applied.REFUSED, "settled": Applied.ALREADY}.get(what, Applied.RELEASE_NEEDED)
    assert expected is results[1]
    assert all(result.is_applied for place, result in enumerate(results) if place != 1)
    is_deleted, failed = int(what == "deleted"), int(has_other)
    more = int(what == "a parent")  # its child is now enqueued
    assert (4 + more, more, 0, 4 - failed - is_deleted, failed, is_deleted) == flow.counts(batch)


def test_many_members_add_one_row_of_counts(flow, admin):
    """The members can be claimed in their order.

    If a repeated call contains some of them, they are counted once.
    """
    batch = flow.batch()
    jobs = [flow.new_member(batch) for _ in range(50)]
    before = deltas(admin)

    assert [True] * 50 == list(flow.storage.insert(jobs).is_new)
    assert before + 1 == deltas(admin)
    again = [*jobs[:2], flow.new_member(batch)]
    assert [False, False, True] == list(flow.storage.insert(again).is_new)

    assert (51, 51, 0, 0, 0, 0) == flow.counts(batch)
    assert [job.id for job in jobs] + [again[2].id] == flow.claim_ids()


@pytest.mark.parametrize("number", [1, 500])
def test_members_take_one_round_trip(postgresql, number):
    """Like plain jobs, members need one round trip.

    It locks and reads the batch, counts the members and stores them.
    """
    with (
        FaultProxy(postgresql.server.address) as proxy,
        closing(Handles(opener(postgresql.url("listen=off", port=proxy.port)))) as handles,
    ):
        flow = FlowScene(handles)
        batch = flow.batch()
        flow.storage.insert([flow.new_member(batch)])  # this prepares the statement
        jobs = [flow.new_member(batch) for _ in range(number)]
        before = proxy.traffic

        flow.storage.insert(jobs)

        assert 1 == (proxy.traffic - before).trips
        assert 1 + number == flow.batch_counts(batch).active


@pytest.mark.parametrize("is_member", [False, True])
def test_end_of_a_job_with_memos_takes_one_round_trip(postgresql, is_member):
    """It does not matter whether the memos were stored before or after the claim."""
    with (
        FaultProxy(postgresql.server.address) as proxy,
        closing(Handles(opener(postgresql.url("listen=off", port=proxy.port)))) as handles,
    ):
        flow = FlowScene(handles)
        batch = flow.batch() if is_member else None
        warm, before, since, waiting = [
            flow.member(batch) if batch is not None else flow.add() for _ in range(4)
        ]
        first = flow.begin("first")
        runs = {one.id: one for one in flow.take(first)}
        flow.keep(runs[before], "charge")
        flow.begin_wait(runs[waiting], "approval")
        flow.settle(suspends(runs[waiting]))
        flow.send(waiting, "approval")
        flow.lose(first)
        again = {one.id: one for one in flow.take(flow.begin("second"))}
        flow.keep(again[since], "charge")
        holder = again[warm].holder
        flow.exchange(holder, [succeeds(again[warm])], limit=0)  # this prepares the statement
        seen = proxy.traffic

        flow.exchange(holder, [succeeds(again[one]) for one in (before, since, waiting)], limit=0)

        assert 1 == (proxy.traffic - seen).trips
        records = flow.storage.get([before, since, waiting])
        assert {(State.SUCCEEDED, None)} == {(one.state, one.waits_for) for one in records if one}
        assert batch is None or (4, 0, 0, 4, 0, 0) == flow.counts(batch)


def test_batch_stored_with_members_equals_one_stored_alone(postgresql):
    """Plain members that directly follow their batch use the fast path, and later jobs use the slow path.

    The number of members does not change the number of round trips.
    """
    trips = {}
    for number in (1, 300):
        with (
            FaultProxy(postgresql.server.address) as proxy,
            closing(Handles(opener(postgresql.url("listen=off", port=proxy.port)))) as handles,
        ):
            flow = FlowScene(handles)
            flow.storage.insert([batch := flow.new_batch(), flow.new_member(batch.id)])
            flow.settle(deletes(batch.id))
            flow.settle_all()
            batch = flow.new_batch()
            queues = [("default", "other")[one % 2] for one in range(number)]
            members = [flow.new_member(batch.id, queue=queue) for queue in queues]
            everything = [batch, *members, flow.new_member(batch.id, members[0].id)]
            before = proxy.traffic

            first = flow.storage.insert(everything).is_new
            trips[number] = (proxy.traffic - before).trips
            again = flow.storage.insert(everything).is_new

            assert ({True}, {False}) == (set(first), set(again))
            assert (number + 1, number, 1, 0, 0, 0) == flow.counts(batch.id)
            assert (number + 1) // 2 == flow.storage.counts().by_queue["default"][State.ENQUEUED]
    assert trips[300] <= trips[1] + 1, trips  # one statement for each queue


@pytest.mark.parametrize("how", ["ended", "cancelled"])
def test_members_of_a_closed_batch_are_refused(flow, how):
    """The fast path and the slow path behave in the same way. No part of the call is stored."""
    batch = flow.batch()
    if how == "cancelled":
        flow.member(batch)
        flow.settle(deletes(batch))
    flow.settle_all()
    before = flow.by_state()

    with pytest.raises(BatchFinished, match=batch):
        flow.storage.insert([flow.new_member(batch) for _ in range(3)])

    assert before == flow.by_state()


def test_fast_path_of_members_uses_indexes(flow, admin):
    """The plan is good even if the tables were small when it was created."""
    admin.execute("VACUUM ANALYZE")
    holder = flow.begin()
    _, (member,) = flow.batch_of(1)
    flow.exchange(holder, [succeeds(flow.running(holder, member)[0])])

    # the pool's connection keeps its prepared statements
    plans = [plan for plan in plans_of(flow.storage._database) if "batch_deltas" in plan]  # noqa: SLF001
    assert len(plans) == 1
    assert "Seq Scan on firelock_jobs" not in plans[0]
    assert "Sort Key: firelock_jobs" not in plans[0]


def test_storing_members_reads_only_the_batch(flow, admin):
    """No other row is read, even if few jobs were waiting when the plan was created."""
    flow.settle_all()
    admin.execute("VACUUM ANALYZE")
    batch, _ = flow.batch_of(1)
    flow.storage.insert([flow.new_member(batch) for _ in range(3)])

    # the pool's connection keeps its prepared statements
    plans = plans_of(flow.storage._database, "%WITH clock%INSERT INTO firelock_members%")  # noqa: SLF001
    assert plans
    assert all("Index Scan using firelock_jobs_id_key" in plan for plan in plans)
    assert not any("firelock_listed" in plan for plan in plans)


def test_suspension_uses_indexes(flow, admin):
    """The plan is good even if the tables were small when it was created."""
    admin.execute("VACUUM ANALYZE")
    flow.settle(suspends(flow.run()))

    (plan,) = plans_of(flow.storage._database, "WITH asked%")  # noqa: SLF001 - its connection keeps it
    assert "Seq Scan on firelock" not in plan
    assert "Index Scan using firelock_holder" not in plan


# ---- steps -----------------------------------------------------------------------------------------------


def test_steps_of_several_threads_get_different_places(flow):
    """Each call locks the job before it reads the job's memos."""
    job = flow.run()
    handles = flow.open(4)

    def remember(number):
        memos = [
            Memo(MemoKind.STEP, f"{number}:{one}", "1", True, flow.stamp(), None, 1) for one in range(20)
        ]
        of_run = [NewMemo(job.id, memo, job.holder.session, job.job.fence) for memo in memos]
        return [handles[number].remember([one])[0].answer for one in of_run]

    with ThreadPoolExecutor(4) as pool:
        answers = [answer for some in pool.map(remember, range(4)) for answer in some]

    assert [Applied.APPLIED] * 80 == answers
    assert 80 == len(flow.recalled(job.id))


def test_steps_work_through_a_pooler(pgbouncer):
    """Through a pooler, statements are sent one after another, and none of them is prepared."""
    with closing(Handles(opener(pgbouncer.url("listen=off")))) as handles:
        flow = FlowScene(handles)
        job = flow.run()

        answers = [flow.keep(job, "paid", value).answer for value in ('"1"', '"2"')]

        assert [Applied.APPLIED, Applied.TAKEN] == answers
        assert {(MemoKind.STEP, "paid"): '"1"'} == flow.recalled(job.id)
        assert 1 == len(flow.recall_of(job))


# ---- waits for locks -------------------------------------------------------------------------------------


def test_transaction_that_adds_members_waits_for_a_fold(flow, admin, callers):
    """After the wait, the transaction reads the batch as the fold has left it."""
    batch = flow.batch()
    callers.execute("SELECT FROM firelock_batches WHERE id = %s FOR UPDATE", [batch])

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(flow.storage.insert, [flow.new_member(batch)])
        eventually(lambda: is_blocked(admin))
        callers.execute("UPDATE firelock_jobs SET state = 'succeeded' WHERE id = %s", [batch])
        callers.commit()

        with pytest.raises(BatchFinished):
            answer.result(30)


def test_transactions_that_add_members_do_not_wait_for_each_other(flow, callers):
    """Several transactions of callers that add members to the same batch can be open at the same time."""
    batch = flow.batch()
    flow.storage.insert([flow.new_member(batch)], within=callers)

    flow.storage.insert([flow.new_member(batch)])

    callers.commit()
    assert (2, 2, 0, 0, 0, 0) == flow.counts(batch)


def test_batch_does_not_end_during_a_transaction_that_adds_members(flow, callers):
    """Until the transaction has committed, the fold skips the batch.

    The fold never waits for the transaction.
    """
    batch, (first,) = flow.batch_of(1)
    flow.settle_all()
    late = flow.new_member(batch)
    flow.storage.insert([late], within=callers)

    flow.settle(succeeds(flow.run(job_id=first)))
    flow.settle_all()
    assert State.AWAITING is flow.state(batch)

    callers.commit()
    flow.settle(succeeds(flow.run(flow.begin("b"), late.id)))
    flow.settle_all()
    assert ((2, 0, 0, 2, 0, 0), State.SUCCEEDED) == (flow.counts(batch), flow.state(batch))


def test_batch_does_not_count_members_that_were_rolled_back(flow, callers):
    batch, (first,) = flow.batch_of(1)
    flow.storage.insert([flow.new_member(batch)], within=callers)
    flow.settle(succeeds(flow.run(job_id=first)))
    flow.settle_all()

    callers.rollback()
    flow.settle_all()

    assert ((1, 0, 0, 1, 0, 0), State.SUCCEEDED) == (flow.counts(batch), flow.state(batch))


def test_suspension_waits_for_an_uncommitted_signal(flow, admin, callers):
    """After the commit, the job continues immediately, because the suspension checks again after its wait."""
    job = flow.run()
    flow.begin_wait(job, "approval")
    ((sent),) = flow.storage.remember([signal(job.id, "approval")], within=callers)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(flow.apply, suspends(job))
        eventually(lambda: is_blocked(admin))
        callers.commit()

        assert answer.result(30).is_applied
    assert Applied.APPLIED is sent.answer
    flow.check(job.id, state=State.ENQUEUED, reason=Moved.SIGNALLED.format(name="approval"))


@pytest.mark.parametrize("what", ["swept", "resumed"])
def test_release_skips_locked_members(flow, callers, what):
    """`release` does not wait.

    It handles the other members now, and the locked members after they are unlocked.
    """
    source = flow.run()
    batch = flow.batch(after=[source.id] if what == "resumed" else ())
    held, *others = [flow.member(batch) for _ in range(3)]
    callers.execute("SELECT FROM firelock_jobs WHERE id = %s FOR UPDATE", [held])
    flow.settle(succeeds(source) if what == "resumed" else deletes(batch))
    before, after = {
        "swept": (State.ENQUEUED, State.DELETED),
        "resumed": (State.AWAITING, State.ENQUEUED),
    }[what]

    flow.settle_all()
    assert [before, after, after] == flow.states(held, *others)
    callers.rollback()
    flow.settle_all()

    assert [after] * 3 == flow.states(held, *others)


def test_promote_skips_an_expired_hold_while_a_transaction_adds_members(flow, callers):
    """During the transaction, other jobs are enqueued.

    After the transaction has ended, the batch is cancelled.
    """
    batch = flow.batch(due_at=flow.now() + HOUR)
    late, other = flow.new_member(batch), flow.schedule(60)
    flow.storage.insert([late], within=callers)
    flow.advance(7_200)

    assert 1 == flow.promote().promoted
    assert [State.ENQUEUED, State.AWAITING] == flow.states(other, batch)
    callers.commit()
    assert 1 == flow.promote().promoted
    flow.settle_all()

    assert [State.DELETED] * 2 == flow.states(late.id, batch)


@pytest.mark.parametrize("is_committed", [True, False], ids=["commit", "rollback"])
def test_signal_follows_its_transaction(flow, callers, is_committed):
    """The job continues after a commit, but not after a rollback."""
    job = flow.run()
    flow.begin_wait(job, "approval")
    flow.settle(suspends(job))

    flow.storage.remember([signal(job.id, "approval")], within=callers)
    assert State.AWAITING is flow.state(job.id)
    callers.commit() if is_committed else callers.rollback()

    assert (State.ENQUEUED if is_committed else State.AWAITING) is flow.state(job.id)


# ---- notifications ---------------------------------------------------------------------------------------


@pytest.fixture
def listening_scene(postgresql):
    """A storage with helpers for batches and memos, and a way to open another handle, which listens."""
    with closing(Handles(opener(postgresql.url()))) as handles:
        flow = FlowScene(handles)
        yield flow, handles


def woken(handles, queues=("default",)):
    """Return a function that returns whether another process was notified of work after this call."""
    server = listening(handles.open(), list(queues))
    server.claim(ClaimRequest(list(queues), 0, "nobody", 0))
    return lambda: server.wait(list(queues), 30)


def test_servers_are_notified_of_a_job_that_a_signal_enqueues(listening_scene):
    """The signal may have been sent by any process."""
    flow, handles = listening_scene
    job = flow.run()
    flow.begin_wait(job, "approval")
    flow.settle(suspends(job))
    is_notified = woken(handles)

    flow.send(job.id, "approval")

    assert is_notified()


def test_servers_are_notified_of_an_immediately_resumed_suspension(listening_scene):
    """In this test, the signal was sent before the suspension."""
    flow, handles = listening_scene
    job = flow.run()
    flow.begin_wait(job, "approval")
    flow.send(job.id, "approval")
    is_notified = woken(handles)

    flow.settle(suspends(job))

    assert is_notified()


def test_servers_are_notified_of_members_of_an_opened_batch(listening_scene):
    """When the job for which the batch waits has ended, `release` enqueues the members."""
    flow, handles = listening_scene
    source = flow.run()
    batch = flow.batch(after=[source.id])
    flow.member(batch)
    is_notified = woken(handles)

    flow.settle(succeeds(source))
    flow.settle_all()

    assert is_notified()


def test_servers_are_notified_of_jobs_that_waited_for_a_batch(listening_scene):
    """The fold that ends the batch notifies the servers."""
    flow, handles = listening_scene
    batch, (member,) = flow.batch_of(1)
    flow.continuation(batch)
    one = flow.run(job_id=member)
    is_notified = woken(handles)

    flow.settle(succeeds(one))
    flow.settle_all()

    assert is_notified()
