"""Batches and memos on MariaDB: few round trips, and open transactions do no harm."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import attrs
import pymysql
import pytest

from firelock import State
from firelock.errors import BatchFinished
from firelock.model.batch import BATCH_TASK, BatchRules
from firelock.model.dependencies import Relations, write_relations
from firelock.model.memo import Memo, MemoKind, NewMemo
from firelock.storage import Applied, Edge, JobFilter, On, StorageUnavailable
from firelock.testing.conformance.flow_scene import recount, suspends
from firelock.testing.conformance.race import race, until_none_is_left
from firelock.testing.conformance.scene import Running, fails, requeues, succeeds
from tests.faults.proxy import FaultProxy
from tests.scenes import scene_at
from tests.sql.servers.processes import PASSWORD, USER

MOST = 100


@pytest.fixture
def proxy(mariadb):
    """A counting proxy in front of the server."""
    with FaultProxy(mariadb.server.address) as proxy:
        yield proxy


@pytest.fixture
def scene(mariadb, proxy):
    """An empty storage that is connected through the proxy."""
    with scene_at(mariadb.url(port=proxy.port)) as scene:
        yield scene


@pytest.fixture
def holder(scene):
    """A session that claims jobs."""
    return scene.begin()


@pytest.fixture
def open_transaction(mariadb):
    """A function that begins a caller's transaction at MariaDB's default isolation level."""

    @contextmanager
    def begin():
        connection = pymysql.connect(
            host=mariadb.server.address[0], port=mariadb.server.port, user=USER, password=PASSWORD,
            database=mariadb.name,
        )  # fmt: skip
        with connection:
            connection.begin()
            yield connection
            connection.rollback()

    return begin


def new_batch(scene, **rules):
    """Return a new batch that does not wait for anything."""
    within = rules.pop("within", None)
    relations = Relations(batch_id=within, batch=BatchRules("night", **rules))
    return scene.new_job(
        task=BATCH_TASK,
        state=State.AWAITING,
        arguments="{}",
        relations_json=write_relations(relations),
        created_at=1,
    )


def new_members(scene, batch_id, number=1, **fields):
    """Return new jobs that are members of the batch."""
    relations = write_relations(Relations(batch_id))
    return [scene.new_job(relations_json=relations, created_at=1, **fields) for _ in range(number)]


def store_batch(scene, number=1, **rules):
    """Store a batch with this number of members; return the ids of the batch and of its members."""
    batch = new_batch(scene, **rules)
    members = new_members(scene, batch.id, number)
    scene.storage.insert([batch, *members])
    return batch.id, [member.id for member in members]


def settle_all(scene):
    """Call `release` until it has nothing left to do."""
    return until_none_is_left(lambda: scene.release(1_000))


def batch_counts(scene, batch_id):
    """Return the counts of the batch."""
    [found] = scene.storage.batch_counts([batch_id])
    return found


def ends(holder, claimed):
    """Return the successful ends of claimed jobs."""
    return [succeeds(Running(job, holder)) for job in claimed]


# ---- round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 500])
def test_batch_and_members_are_stored_in_few_round_trips(scene, holder, proxy, number):
    """The number of round trips does not depend on the number of members.

    The round trips check for known ids, read the time, and store the batch with everything that belongs to
    it.
    """
    batch = new_batch(scene)
    members = new_members(scene, batch.id, number)
    before = proxy.traffic

    scene.storage.insert([batch, *members])

    assert (proxy.traffic - before).trips <= 3
    assert (batch_counts(scene, batch.id).total, batch_counts(scene, batch.id).active) == (number, number)
    claimed = scene.claim(holder, number)
    assert {one.id for one in claimed} == {one.id for one in members}
    assert {one.relations_json for one in claimed} == {members[0].relations_json}


def test_members_are_added_in_two_round_trips(scene, proxy):
    """The first round trip reads and locks the batch, and the second one stores the members."""
    batch_id, _ = store_batch(scene)
    more = new_members(scene, batch_id, MOST)
    before = proxy.traffic

    scene.storage.insert(more)

    assert (proxy.traffic - before).trips <= 2
    assert batch_counts(scene, batch_id).total == 1 + MOST


@pytest.mark.parametrize("queues", [["default"], None], ids=["one queue", "every queue"])
def test_exchange_of_members_takes_as_few_round_trips_as_of_plain_jobs(scene, holder, proxy, queues):
    """Members are settled without being read first."""
    batch_id, _ = store_batch(scene, 3 * MOST)
    claimed = ends(holder, scene.claim(holder, MOST))
    scene.exchange(holder, [claimed.pop()], 1, queues)
    before = proxy.traffic

    exchange = scene.exchange(holder, claimed, MOST, queues)

    assert {result.is_applied for result in exchange.results} == {True}
    assert len(exchange.claim.jobs) == MOST
    assert (proxy.traffic - before).trips == 2
    assert (batch_counts(scene, batch_id).succeeded, batch_counts(scene, batch_id).active) == (MOST, 2 * MOST)


def test_members_and_plain_jobs_are_settled_together(scene, holder):
    """Each kind is settled in its own way. The results are in the order of the jobs in the call."""
    batch_id, members = store_batch(scene, 3)
    plain = scene.add_many(3)
    claimed = {one.id: one for one in scene.claim(holder)}
    order = [one for pair in zip(members, plain, strict=True) for one in pair]

    results = scene.storage.apply(ends(holder, [claimed[one] for one in order]))

    assert results[1::2] == [Applied.APPLIED] * 3
    assert {one.is_applied for one in results} == {True}
    assert scene.by_state() == {State.SUCCEEDED: 6, State.AWAITING: 1}
    settle_all(scene)
    assert scene.state(batch_id) is State.SUCCEEDED


def test_member_end_without_a_read_equals_one_after_a_read(scene, holder):
    """Only the process that has claimed a job can settle it without reading it first.

    The stored outcomes are equal.
    """
    store_batch(scene, 2)
    first, second = ends(holder, scene.claim(holder))
    second = attrs.evolve(second, at=first.at, started_at=first.started_at)

    scene.storage.apply([first])
    scene.handles.open().apply([second])

    one, other = scene.storage.get([first.job_id, second.job_id])
    assert attrs.evolve(one, id=other.id) == other
    assert scene.history(one.id) == scene.history(other.id)


INSERT_DELTAS = "INSERT INTO firelock_batch_deltas (batch_id, total, succeeded) VALUES "


def add_deltas(connection, batch_id, number):
    """Add this number of succeeded members to the batch's counts, one row each, with consecutive numbers."""
    with connection.cursor() as cursor:
        cursor.execute(INSERT_DELTAS + ", ".join(["(%s, 1, 1)"] * number), [batch_id] * number)


def test_fold_deletes_only_the_rows_that_it_has_summed(scene, open_transaction):
    """Rows of other transactions between or after these rows are kept, whether they are committed or not.

    The fold does not wait for any other transaction.
    """
    batch_id, _ = store_batch(scene)
    other, _ = store_batch(scene)
    settle_all(scene)
    with open_transaction() as ended, open_transaction() as late:
        for connection, of, number in (
            (ended, batch_id, 200), (late, batch_id, 1), (ended, batch_id, 200), (ended, other, 1),
            (ended, batch_id, 61), (late, batch_id, 200),
        ):  # fmt: skip
            add_deltas(connection, of, number)
        ended.commit()

        settle_all(scene)

        assert [1 + 461, 1 + 1] == [batch_counts(scene, one).total for one in (batch_id, other)]
        late.commit()
    assert 1 + 461 + 201 == batch_counts(scene, batch_id).total
    settle_all(scene)
    assert 1 + 461 + 201 == batch_counts(scene, batch_id).total


def test_member_that_became_a_parent_is_read_before_its_end(scene, holder):
    """The job that waits for the member was added after the member was claimed.

    The member stays active until this job is released.
    """
    batch_id, _ = store_batch(scene)
    [end] = ends(holder, scene.claim(holder))
    [child] = new_members(scene, batch_id, state=State.AWAITING, parents=(Edge(end.job_id, On.SUCCEEDED),))
    scene.storage.insert([child])

    assert scene.storage.apply([end]) == [Applied.RELEASE_NEEDED]

    assert (batch_counts(scene, batch_id).active, batch_counts(scene, batch_id).waiting) == (1, 1)
    settle_all(scene)
    assert scene.state(child.id) is State.ENQUEUED
    assert scene.state(batch_id) is State.AWAITING


def remembers(running, name, value="1"):
    """Return the memo of a step, as the job's holder sends it."""
    memo = Memo(MemoKind.STEP, name, value, is_done=True, at=1, attempt=1)
    return NewMemo(running.id, memo, running.holder.session, running.job.fence)


def test_step_takes_one_round_trip(scene, holder, proxy):
    """The first step of a job, a later step, and several steps together each take one round trip."""
    running = scene.run(holder)
    for names in (["a"], ["b"], ["c", "d"]):
        before = proxy.traffic

        found = scene.storage.remember([remembers(running, name) for name in names])

        assert [one.answer for one in found] == [Applied.APPLIED] * len(names)
        assert (proxy.traffic - before).trips == 1
    assert [one.name for one in scene.storage.recall(running.id)] == list("abcd")


def test_jobs_with_memos_end_without_a_read(scene, holder, proxy):
    """Jobs with memos are settled without being read first, even if an earlier run has stored the memos."""
    _, members = store_batch(scene, 2)
    scene.add_many(2)
    claimed = [Running(job, holder) for job in scene.claim(holder)]
    scene.storage.remember([remembers(running, "a") for running in claimed])
    before = proxy.traffic

    results = scene.storage.apply([succeeds(running) for running in claimed])

    assert {result.is_applied for result in results} == {True}
    assert (proxy.traffic - before).trips == 2
    assert scene.states(*members) == [State.SUCCEEDED] * 2


def test_recall_takes_one_round_trip(scene, holder, proxy):
    """The round trip checks the session and the fence, and reads all memos in one snapshot."""
    running = scene.run(holder)
    scene.storage.remember([remembers(running, name) for name in "ba"])
    before = proxy.traffic

    found = scene.storage.recall(running.id, session=holder.session, fence=running.job.fence)

    assert [one.name for one in found] == ["b", "a"]
    assert (proxy.traffic - before).trips == 1
    assert scene.storage.recall(running.id, session=holder.session, fence=running.job.fence + 1) is None
    assert scene.storage.recall("nobody") is None


# ---- transactions that stay open -------------------------------------------------------------------------


def test_fold_skips_an_uncommitted_end(scene, holder, open_transaction):
    """The next fold after the commit counts this outcome."""
    batch_id, _ = store_batch(scene, 2)
    first, second = ends(holder, scene.claim(holder))
    with open_transaction() as connection:
        scene.storage.apply([first], within=connection)
        scene.storage.apply([second])

        settle_all(scene)

        assert scene.state(batch_id) is State.AWAITING
        assert (batch_counts(scene, batch_id).active, batch_counts(scene, batch_id).succeeded) == (1, 1)
        connection.commit()
    settle_all(scene)
    assert scene.state(batch_id) is State.SUCCEEDED
    assert batch_counts(scene, batch_id).succeeded == 2


def test_batch_does_not_end_before_a_transaction_that_adds_members(scene, holder, open_transaction):
    """Until they commit, transactions that add members hold a shared lock on the batch."""
    batch_id, _ = store_batch(scene)
    first, second = (new_members(scene, batch_id) for _ in range(2))
    with open_transaction() as connection, open_transaction() as other:
        scene.storage.insert(first, within=connection)
        scene.storage.insert(second, within=other)  # it does not wait
        scene.storage.apply(ends(holder, scene.claim(holder)))
        settle_all(scene)
        assert scene.state(batch_id) is State.AWAITING
        other.rollback()
        connection.commit()

    settle_all(scene)

    assert scene.state(batch_id) is State.AWAITING
    scene.storage.apply(ends(holder, scene.claim(holder)))
    settle_all(scene)
    assert scene.state(batch_id) is State.SUCCEEDED
    assert batch_counts(scene, batch_id).total == 2


def test_transaction_with_an_old_snapshot_cannot_add_to_an_ended_batch(scene, holder, open_transaction):
    """A transaction that began earlier reads the old state of the batch, but must not add members to it."""
    batch_id, _ = store_batch(scene)
    with open_transaction() as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT state FROM firelock_jobs")
        scene.storage.apply(ends(holder, scene.claim(holder)))
        settle_all(scene)

        with pytest.raises(BatchFinished):
            scene.storage.insert(new_members(scene, batch_id), within=connection)
        connection.commit()

    assert batch_counts(scene, batch_id).total == 1


def test_step_in_a_callers_transaction_follows_its_commit(scene, holder, open_transaction):
    """Until the commit, no other transaction can change the job.

    After a rollback, the memo does not exist.
    """
    running = scene.run(holder)
    for is_kept in (False, True):
        with open_transaction() as connection:
            [found] = scene.storage.remember([remembers(running, "pay")], within=connection)
            assert found.answer is Applied.APPLIED
            assert scene.storage.recall(running.id) == []
            if is_kept:
                connection.commit()
    assert [one.name for one in scene.storage.recall(running.id)] == ["pay"]


def test_steps_of_an_old_transaction_follow_newer_ones(scene, holder, open_transaction):
    """The call takes later memos of other transactions into account.

    Places ascend, and an existing memo is kept.
    """
    running = scene.run(holder)
    with open_transaction() as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT id FROM firelock_jobs")
        scene.storage.remember([remembers(running, "load")])
        found = scene.storage.remember(
            [remembers(running, "pay"), remembers(running, "load", "2")], within=connection
        )
        connection.commit()

    assert [one.answer for one in found] == [Applied.APPLIED, Applied.TAKEN]
    assert [(one.name, one.value, one.place) for one in scene.storage.recall(running.id)] == [
        ("load", "1", 0), ("pay", "1", 1),
    ]  # fmt: skip


def test_first_steps_in_callers_transactions_do_not_deadlock(scene, holder, open_transaction):
    """The gap between the memos of two jobs is not locked.

    Otherwise, each transaction would wait for the other.
    """
    scene.add_many(2)
    first, second = (Running(job, holder) for job in scene.claim(holder))
    with open_transaction() as one, open_transaction() as other:
        scene.storage.remember([remembers(first, "a")], within=one)
        scene.storage.remember([remembers(second, "a")], within=other)
        scene.storage.remember([remembers(first, "b")], within=one)
        scene.storage.remember([remembers(second, "b")], within=other)
        other.commit()
        one.commit()

    assert [len(scene.storage.recall(running.id)) for running in (first, second)] == [2, 2]


@pytest.mark.parametrize("is_folded", [True, False], ids=["folded", "not yet"])
def test_requeue_in_a_callers_transaction_clears_earlier_failures(scene, holder, open_transaction, is_folded):
    """The requeue takes into account all failures until then.

    This includes failures that were counted after the transaction's snapshot and have been folded since.
    """
    batch_id, _ = store_batch(scene, 4, fails_fast=True)
    claimed = [Running(job, holder) for job in scene.claim(holder)]
    scene.settle(fails(claimed[0]))
    scene.settle(fails(claimed[2]))
    with open_transaction() as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT batch_id FROM firelock_batch_deltas")
        scene.settle(succeeds(claimed[1]))
        if is_folded:
            scene.release(1)

        for place in (0, 2):
            assert scene.storage.apply([requeues(claimed[place].id)], within=connection) == [
                Applied.RELEASE_NEEDED
            ]
        connection.commit()

    settle_all(scene)
    counts = batch_counts(scene, batch_id)
    members = scene.storage.find(JobFilter(batch_id=batch_id), limit=10).jobs
    assert recount(scene.storage, batch_id, members) == counts
    assert (counts.is_stopping, counts.deleted) == (False, 0)
    scene.settle(fails(claimed[3]))
    settle_all(scene)
    assert batch_counts(scene, batch_id).deleted == 2  # a later failure still stops the rest


# ---- concurrent transactions -----------------------------------------------------------------------------


def test_batch_does_not_end_before_its_last_member(scene, mariadb):
    """In this test, two threads fold while other threads add and end members."""
    batch_id, [last] = store_batch(scene)
    holder = scene.begin()
    [running] = scene.claim(holder)
    storages = scene.open(5)
    stop = threading.Event()

    def adds(storage, name):
        mine = attrs.evolve(scene.request(scene.begin(name), 10, [name]), now=1)
        while not stop.is_set():
            storage.insert(new_members(scene, batch_id, 2, queue=name))
            claim = storage.claim(mine)
            who = attrs.evolve(holder, session=mine.session, server=f"host:{name}")
            storage.apply(ends(who, claim.jobs))

    def folds(storage):
        ended = 0
        for _ in range(150):
            storage.release(100)
            [found] = storage.get([batch_id])
            ended += found.state is not State.AWAITING
        return ended

    with ThreadPoolExecutor() as pool:
        adding = [pool.submit(adds, storage, name) for storage, name in zip(storages, "xyz", strict=False)]
        folding = [pool.submit(folds, storage) for storage in storages[3:]]
        assert [one.result() for one in folding] == [0, 0]
        stop.set()
        for one in adding:
            one.result()

    settle_all(scene)
    assert batch_counts(scene, batch_id).active == 1
    scene.storage.apply(ends(holder, [running]))
    settle_all(scene)
    found = batch_counts(scene, batch_id)
    assert scene.state(batch_id) is State.SUCCEEDED
    assert (found.active, found.waiting, found.succeeded) == (0, 0, found.total)
    assert [entry.state for entry in scene.history(batch_id)] == [State.AWAITING, State.SUCCEEDED]
    assert scene.state(last) is State.SUCCEEDED


def test_first_of_many_concurrent_signals_is_stored(scene, holder):
    """Eight people send the same signal concurrently. The waiting job is resumed once."""
    running = scene.run(holder)
    scene.storage.apply([suspends(running)])

    def sends(storage, value):
        memo = Memo(MemoKind.SIGNAL, "approval", value, is_done=True, at=3, author="ada")
        return lambda: storage.remember([NewMemo(running.id, memo)])[0]

    found = race([sends(storage, str(number)) for number, storage in enumerate(scene.open(8))])

    answers = [one.answer for one in found]
    assert (answers.count(Applied.APPLIED), answers.count(Applied.TAKEN)) == (1, 7)
    assert len({one.memo.value for one in found}) == 1
    scene.check(running.id, state=State.ENQUEUED, reason="signal approval")


def test_suspension_with_a_lost_connection_is_atomic(mariadb):
    """A suspension is stored completely or not at all, even if its connection is lost.

    MariaDB continues to execute the statements of a lost connection, and for some of them it loses the row
    count. Therefore, no statement may depend on the number of rows that another statement has changed. In
    this test, each attempt is cut off later than the previous one.
    """
    was_sent = threading.Event()

    with (
        FaultProxy(mariadb.server.address, on_sent=lambda *_: was_sent.set()) as proxy,
        scene_at(mariadb.url(port=proxy.port)) as scene,
        ThreadPoolExecutor(1) as server,
    ):
        holder = scene.begin()
        for tenths in range(40):
            scene.add_many(8)
            runs = scene.take(holder)
            children = [scene.add(queue="children") for _ in runs]
            transitions = [
                suspends(run, "pay", kind=MemoKind.CALL, children=[child])
                for run, child in zip(runs, children, strict=True)
            ]
            was_sent.clear()
            answer = server.submit(scene.storage.apply, transitions)
            assert was_sent.wait(10)
            cut_at = time.perf_counter() + tenths / 10_000
            while time.perf_counter() < cut_at:
                pass
            proxy.reset()
            with suppress(StorageUnavailable):
                answer.result()

            # as a server that repeats the call, or another server that has taken over
            again = scene.storage.apply(transitions)
            while Applied.BUSY in again:  # an aborted transaction may still lock some rows for a moment
                again = scene.storage.apply(transitions)
            left = set(children)
            while left:  # an aborted transaction may still lock some rows for a moment
                taken = scene.take(holder, queues=["children"])
                scene.storage.apply([succeeds(one) for one in taken])
                left -= {one.id for one in taken}
            settle_all(scene)

            assert {Applied.APPLIED, Applied.ALREADY} >= set(again)
            assert [State.ENQUEUED] * 8 == scene.states(*(run.id for run in runs))
            scene.storage.apply([succeeds(one) for one in scene.take(holder)])
