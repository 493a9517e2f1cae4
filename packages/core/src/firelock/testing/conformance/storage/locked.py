"""Tests of locked rows: another transaction delays the job whose row it has locked, and no other job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial

import pytest

from firelock.model.dependencies import On
from firelock.model.job import JobFilter, JobRecord, LogLine, Progress, Transition
from firelock.model.limit import UniqueUse
from firelock.model.state import State
from firelock.storage import Applied, Duplicate, Feature, HeldClaim, Moved
from firelock.testing.conformance.flow_scene import FlowScene, sleeps, suspends
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.race import sent, until_none_is_left
from firelock.testing.conformance.scene import (
    BASE,
    ENDS,
    HOUR,
    Running,
    Scene,
    asks,
    deletes,
    fails,
    hands_back,
    requeues,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

LockJob = Callable[[str], AbstractContextManager[object]]

_DELETED_LATER = BASE - HOUR  # an expiry time that has passed
_ANSWER = 1.0  # a call that does not wait for a lock returns within this many seconds


def _whole(scene: Scene, job_id: str) -> tuple[JobRecord, object, object]:
    """Return everything that is stored about a job."""
    return scene.record(job_id), scene.storage.history(job_id), scene.storage.read_log(job_id)


class LockedRowTests(StorageFixtures):
    """Tests of calls while other transactions have locked rows of jobs; they need the fixture `lock_job`."""

    verbs = "apply exchange reconcile append_logs release promote prune"

    # ---- ends --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("end", sorted(ENDS))
    def test_end_of_a_locked_job_is_busy(self, scene: Scene, lock_job: LockJob, end: str) -> None:
        """Settling a locked job returns `BUSY` and stores nothing, later `APPLIED`, and finally `ALREADY`.

        If this fails: a locked job is treated as missing and never ends; or the thread that stores all
        results waits for the lock; or the result is stored twice.
        """
        running = scene.run()
        transition, unknown = ENDS[end](running), ENDS[end](running)
        unknown.job_id = scene.new_id()
        before = _whole(scene, running.id)

        with lock_job(running.id):
            results = scene.storage.apply([unknown, transition])
            seen = _whole(scene, running.id)

        assert ([Applied.MISSING, Applied.BUSY], before) == (results, seen)
        again = [scene.apply(transition) for _ in range(2)]
        assert [Applied.APPLIED, Applied.ALREADY] == again
        assert len(scene.history(running.id)) <= 2

    @pytest.mark.parametrize("end", sorted(ENDS))
    def test_other_ends_are_stored_when_one_job_is_locked(
        self, scene: Scene, lock_job: LockJob, end: str
    ) -> None:
        """Of several results of all kinds, only that of the locked job is `BUSY`, and the claim succeeds.

        If this fails: one locked row stops a server.
        """
        holder, ids = scene.begin(), scene.add_many(2 + len(ENDS))
        runs = {one.id: one for one in scene.take(holder)}
        locked, *others = (runs[job_id] for job_id in ids)
        waiting = scene.add_many(3)
        endings = [ENDS[name](one) for name, one in zip([*sorted(ENDS), "succeeds"], others, strict=True)]
        endings.insert(3, ENDS[end](locked))

        with lock_job(locked.id):
            exchange = scene.exchange(holder, endings, limit=100)

        expected = [Applied.APPLIED] * len(endings)
        expected[3] = Applied.BUSY
        assert expected == exchange.results
        assert set(waiting) <= {job.id for job in exchange.claim.jobs}
        assert Applied.APPLIED is scene.apply(endings[3])

    @pytest.mark.parametrize("is_exchange", [True, False], ids=["exchange", "apply"])
    @pytest.mark.parametrize("others", [[succeeds], [succeeds, fails]], ids=["successes", "mixed"])
    def test_many_locked_jobs_are_busy(
        self, scene: Scene, lock_job: LockJob, others: list[Callable[..., Transition]], is_exchange: bool
    ) -> None:
        """Each locked job is `BUSY`, and the results of all the other jobs are stored.

        If this fails: the result of a job depends on the number of other locked rows.
        """
        holder, ids = scene.begin(), scene.add_many(12)
        runs = {one.id: one for one in scene.take(holder)}
        endings = [others[place // 2 % len(others)](runs[job_id]) for place, job_id in enumerate(ids)]

        with ExitStack() as locks:
            for job_id in ids[::2]:
                locks.enter_context(lock_job(job_id))
            results = scene.exchange(holder, endings).results if is_exchange else scene.storage.apply(endings)

        assert [Applied.BUSY, Applied.APPLIED] * 6 == results
        assert [Applied.APPLIED, Applied.ALREADY] * 6 == scene.storage.apply(endings)

    def test_another_handle_also_returns_busy(self, scene: Scene, lock_job: LockJob) -> None:
        """A handle that has not claimed the locked job returns `BUSY`, and so does a second result in a call.

        If this fails: whether a locked job is reported as missing depends on the claims that the handle
        remembers.
        """
        (other,), running = scene.open(1), scene.run()

        with lock_job(running.id):
            results = [
                *other.apply([succeeds(running)]),
                *scene.storage.apply([fails(running), fails(running)]),
            ]

        assert [Applied.BUSY] * 3 == results
        assert [Applied.APPLIED] == other.apply([succeeds(running)])

    def test_busy_job_still_belongs_to_its_session(self, scene: Scene, lock_job: LockJob) -> None:
        """A `BUSY` job still belongs to its session, and is not reported as lost.

        If this fails: a job that has ended runs again.
        """
        running = scene.run()

        with lock_job(running.id):
            scene.apply(succeeds(running))
            held = scene.reconcile(running.holder, [HeldClaim(running.id, running.job.fence)])
            claimed = scene.claim_ids(scene.begin("b"))

        assert ([], [], [], []) == (held.lost, held.unknown, held.busy, claimed)
        scene.check(running.id, state=State.PROCESSING, session=running.holder.session)

    @requires(Feature.LIMITS)
    def test_busy_job_keeps_its_limit_key(self, scene: Scene, lock_job: LockJob) -> None:
        """The key of a busy job stays taken until its result is stored; a job with another key is claimed.

        If this fails: more jobs of a key run than its limit allows.
        """
        scene.set_limit("a", concurrent=1)
        first, second = scene.add_limited(2, "a")
        (running,) = scene.take(holder := scene.begin())
        (other,) = scene.add_limited(1, "b")

        with lock_job(running.id):
            exchange = scene.exchange(holder, [succeeds(running)])

        assert (first, [Applied.BUSY]) == (running.id, exchange.results)
        assert [other] == [job.id for job in exchange.claim.jobs]
        exchange = scene.exchange(holder, [succeeds(running)])
        assert ([Applied.APPLIED], [second]) == (exchange.results, [job.id for job in exchange.claim.jobs])

    @requires(Feature.UNIQUE)
    def test_busy_job_keeps_its_unique_key(self, scene: Scene, lock_job: LockJob) -> None:
        """A call with the unique key of a busy job is a duplicate of that job.

        If this fails: two jobs with the same key run at the same time.
        """
        admission = asks(unique=UniqueUse("kit:key"))
        running = scene.run(job_id=scene.add(admission=admission))
        again = scene.new_job(admission=admission)

        with lock_job(running.id):
            result = scene.apply(succeeds(running))
            (answer,) = scene.storage.insert([again]).is_new

        assert (Applied.BUSY, Duplicate(running.id)) == (result, answer)

    @pytest.mark.parametrize("change", [deletes, requeues])
    def test_change_by_an_operator_waits_for_the_lock(
        self, scene: Scene, lock_job: LockJob, change: Callable[..., object]
    ) -> None:
        """An operator's change of a locked job is never `BUSY`: it is applied when the lock is released.

        If this fails: a person who deletes a job gets an error, and must try again.
        """
        (other,), job_id = scene.open(1), scene.settle(fails(scene.run()))
        results: list[Applied] = []
        lock = lock_job(job_id)
        lock.__enter__()
        thread = threading.Thread(target=lambda: results.extend(other.apply([change(job_id)])))  # type: ignore[list-item]  # a transition
        thread.start()
        neighbour = scene.apply(succeeds(scene.run(scene.begin("b"))))
        thread.join(_ANSWER)
        lock.__exit__(None, None, None)
        thread.join(self.hang_timeout)

        assert ([Applied.APPLIED], Applied.APPLIED) == (results, neighbour)

    # ---- parents, members, waits -------------------------------------------------------------------------

    def test_end_of_a_locked_parent_is_busy(self, scene: Scene, lock_job: LockJob) -> None:
        """A locked parent ends only after it is unlocked, and its children do not start before that.

        If this fails: a continuation is lost, or starts before its parent has ended.
        """
        running = scene.run()
        child = scene.continuation(running.id)

        with lock_job(running.id):
            result, released = scene.apply(succeeds(running)), scene.release()

        assert (Applied.BUSY, 0, State.AWAITING) == (result, released, scene.state(child))
        assert Applied.RELEASE_NEEDED is scene.apply(succeeds(running))
        assert (1, State.ENQUEUED) == (scene.release(), scene.state(child))

    @pytest.mark.parametrize("end", [succeeds, fails])
    def test_end_of_a_locked_member_is_busy(
        self, flow: FlowScene, lock_job: LockJob, end: Callable[[Running], object]
    ) -> None:
        """A busy member stays active; other results are counted, but the batch ends only with this member.

        If this fails: a batch ends too early, or never.
        """
        batch, ids = flow.batch_of(2)
        one, two = flow.running(flow.begin(), *ids)

        with lock_job(one.id):
            results = flow.storage.apply([end(one), end(two)])  # type: ignore[list-item]  # transitions
            flow.settle_all()
            counts = flow.counts(batch)[:2]

        assert [Applied.BUSY, Applied.RELEASE_NEEDED] == results
        assert ((2, 1), State.AWAITING) == (counts, flow.state(batch))
        assert Applied.RELEASE_NEEDED is flow.apply(end(one))  # type: ignore[arg-type]  # a transition
        flow.settle_all()
        assert flow.state(batch) is (State.SUCCEEDED if end is succeeds else State.FAILED)

    def test_suspension_of_a_locked_job_is_busy(self, flow: FlowScene, lock_job: LockJob) -> None:
        """Of several suspensions, only that of a locked job is `BUSY`.

        When this suspension is repeated, it finds the signal that has arrived earlier.

        If this fails: a run waits for a signal that has arrived, or all suspensions of a server are blocked.
        """
        holder, ids = flow.begin(), flow.add_many(3)
        one, two, three = flow.running(holder, *ids)
        waits = [suspends(one), suspends(two), sleeps(three, "nap", due_at=flow.now() + HOUR)]
        waiting = flow.add()

        with lock_job(one.id):
            exchange = flow.exchange(holder, waits)

        assert [Applied.BUSY, Applied.APPLIED, Applied.APPLIED] == exchange.results
        assert [waiting] == [job.id for job in exchange.claim.jobs]
        flow.check(one.id, state=State.PROCESSING, session=holder.session, waits_for=None)
        assert Applied.APPLIED is flow.send(one.id, "approval")
        assert Applied.APPLIED is flow.apply(waits[0])
        assert [State.ENQUEUED, State.AWAITING, State.SCHEDULED] == flow.states(*ids)

    def test_suspension_that_waits_for_a_locked_job_is_busy(self, flow: FlowScene, lock_job: LockJob) -> None:
        """A suspension that waits for a locked job is `BUSY` and applied later; other results are stored.

        If this fails: a run continues before the job that it has called, or never.
        """
        holder, ids = flow.begin(), flow.add_many(2)
        one, other = flow.running(holder, *ids)
        called = flow.add()

        with lock_job(called):
            results = flow.storage.apply([suspends(one, children=[called]), succeeds(other)])

        assert ([Applied.BUSY, Applied.APPLIED], State.PROCESSING) == (results, flow.state(one.id))
        assert Applied.APPLIED is flow.apply(suspends(one, children=[called]))
        flow.settle(succeeds(flow.run(holder, called)))
        flow.settle_all()
        assert State.ENQUEUED is flow.state(one.id)

    # ---- starts and logs of running jobs -------------------------------------------------------------------

    def test_start_of_a_locked_job_is_stored_later(self, scene: Scene, lock_job: LockJob) -> None:
        """`reconcile` returns a locked job as busy, not as lost, and stores the starts of the others.

        If this fails: the dispatcher waits for the lock; or a start is considered stored, and a job that
        kills its process is not counted.
        """
        holder, ids = scene.begin(), scene.add_many(3)
        scene.take(holder)
        held = [HeldClaim(job_id, scene.record(job_id).fence, BASE - HOUR) for job_id in ids]

        with lock_job(ids[1]):
            found = scene.reconcile(holder, held)

        assert ([ids[1]], [], []) == (found.busy, found.lost, found.unknown)
        assert [BASE - HOUR, None, BASE - HOUR] == [scene.record(job_id).started_at for job_id in ids]
        assert [] == scene.reconcile(holder, held[1:2]).busy
        assert BASE - HOUR == scene.record(ids[1]).started_at

    def test_append_logs_returns_the_ids_of_locked_jobs(self, scene: Scene, lock_job: LockJob) -> None:
        """`append_logs` returns the id of a locked job, stores nothing for it, and stores all other lines.

        If this fails: lines are lost or stored twice, or the dispatcher waits, because it flushes the log
        first.
        """
        one, other, unknown = scene.add(), scene.add(), scene.new_id()
        lines = [LogLine(0, BASE, "info", "said")]
        progress = Progress(1, 2, BASE)
        everything = dict.fromkeys((one, other, unknown), lines), dict.fromkeys((one, other), progress)

        with lock_job(one):
            busy = scene.storage.append_logs(*everything)
            seen = [len(scene.storage.read_log(job_id)) for job_id in (one, other)]

        assert ([one], [0, 1], None) == (list(busy), seen, scene.record(one).progress)
        assert [] == list(scene.storage.append_logs({one: lines}, {one: progress}))
        assert ["said"] == [line.text for line in scene.storage.read_log(one)]
        assert progress == scene.record(one).progress == scene.record(other).progress

    # ---- upkeep ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("limit", [1, 3, 100])
    def test_locked_child_is_released_later(self, scene: Scene, lock_job: LockJob, limit: int) -> None:
        """A locked child is released and counted only after it is unlocked; the others are not delayed.

        If this fails: a continuation waits forever, or a caller that repeats `release` until nothing is left
        never stops.
        """
        running = scene.run()
        children = [scene.continuation(running.id) for _ in range(5)]
        scene.settle(succeeds(running, expires_at=_DELETED_LATER))

        with lock_job(children[2]):
            moved = until_none_is_left(lambda: scene.release(limit))
            again = scene.release(limit), scene.prune()

        assert (4, (0, 0)) == (moved, again)
        assert State.AWAITING is scene.state(children[2])
        assert 1 == until_none_is_left(lambda: scene.release(limit))
        assert [State.ENQUEUED] * 5 == scene.states(*children)
        assert {2} == {len(scene.history(child)) for child in children}
        assert 1 == scene.prune()

    def test_locked_row_does_not_delay_children_of_other_parents(
        self, scene: Scene, lock_job: LockJob
    ) -> None:
        """A locked child or parent does not delay the children of other parents.

        If this fails: one locked row stops all continuations.
        """
        holder, ids = scene.begin(), scene.add_many(4)
        runs = {one.id: one for one in scene.take(holder)}
        children = [scene.continuation(parent) for parent in ids]
        scene.storage.apply([succeeds(runs[parent]) for parent in ids])

        with lock_job(ids[0]), lock_job(children[1]):
            moved = until_none_is_left(lambda: scene.release(100))
            states = scene.states(*children)

        assert (2, [State.AWAITING] * 2 + [State.ENQUEUED] * 2) == (moved, states)
        assert 2 == until_none_is_left(lambda: scene.release(100))
        assert [State.ENQUEUED] * 4 == scene.states(*children)

    def test_locked_child_of_a_deleted_parent_is_deleted_later(self, scene: Scene, lock_job: LockJob) -> None:
        """A locked child is handled once, after it is unlocked, according to the state of its parent.

        If this fails: a continuation of a failed job runs.
        """
        parent = scene.run()
        child = scene.continuation(parent.id, on=On.SUCCEEDED)
        later = scene.continuation(child)
        scene.settle(deletes(parent.id))

        with lock_job(child):
            until_none_is_left(lambda: scene.release(100))

        assert [State.AWAITING] * 2 == scene.states(child, later)
        until_none_is_left(lambda: scene.release(100))
        assert [State.DELETED] * 2 == scene.states(child, later)

    def test_skipped_child_of_a_requeued_parent_waits_again(self, scene: Scene, lock_job: LockJob) -> None:
        """If a parent is requeued, a child that was skipped waits again until the parent has ended again.

        If this fails: a continuation starts while its parent runs.
        """
        parent = scene.run()
        child = scene.continuation(parent.id)
        scene.settle(succeeds(parent))
        with lock_job(child):
            scene.release()

        scene.settle(requeues(parent.id))

        assert (0, State.AWAITING) == (scene.release(), scene.state(child))
        scene.settle(succeeds(scene.run(parent.holder, parent.id)))
        assert (1, State.ENQUEUED) == (scene.release(), scene.state(child))

    def test_batch_ends_although_a_skipped_child_of_its_member_is_deleted(
        self, flow: FlowScene, lock_job: LockJob
    ) -> None:
        """A batch ends although one of two skipped children of its member is deleted and locked again.

        If this fails: the member counts as active forever, so its batch never ends.
        """
        batch, (parent_id,) = flow.batch_of(1)
        (parent,) = flow.running(flow.begin(), parent_id)
        gone, other = flow.continuation(parent_id), flow.continuation(parent_id)
        flow.settle(succeeds(parent))
        with lock_job(gone), lock_job(other):
            flow.settle_all()

        flow.settle(deletes(gone))
        with lock_job(gone):
            flow.settle_all()
        flow.settle_all()

        assert State.ENQUEUED is flow.state(other)
        assert ((1, 0), State.SUCCEEDED) == (flow.counts(batch)[:2], flow.state(batch))

    def test_batch_ends_although_a_skipped_child_of_its_member_is_pruned(
        self, flow: FlowScene, lock_job: LockJob
    ) -> None:
        """A batch ends although a child of its member is skipped due to a lock, then deleted and pruned.

        If this fails: the member counts as active forever, so its batch never ends.
        """
        batch, (parent_id,) = flow.batch_of(1)
        (parent,) = flow.running(flow.begin(), parent_id)
        child = flow.continuation(parent_id)
        flow.settle(succeeds(parent))
        with lock_job(child):
            flow.settle_all()

        flow.settle(deletes(child, expires_at=_DELETED_LATER))
        pruned = flow.prune(100)
        flow.settle_all()

        assert (1, [None]) == (pruned, flow.storage.get([child]))
        assert ((1, 0), State.SUCCEEDED) == (flow.counts(batch)[:2], flow.state(batch))

    def test_locked_member_of_a_cancelled_batch_is_deleted_later(
        self, flow: FlowScene, lock_job: LockJob
    ) -> None:
        """The members of a cancelled batch are deleted; a locked member is deleted after it is unlocked.

        If this fails: members of a cancelled batch run, or a server is blocked.
        """
        batch, ids = flow.batch_of(4)
        flow.settle(deletes(batch))

        with lock_job(ids[1]):
            flow.settle_all()
            states = flow.states(*ids)

        assert [State.ENQUEUED if place == 1 else State.DELETED for place in range(4)] == states
        flow.settle_all()
        assert [State.DELETED] * 5 == flow.states(batch, *ids)

    def test_locked_batch_ends_later(self, flow: FlowScene, lock_job: LockJob) -> None:
        """A locked batch ends after it is unlocked; another batch ends in the meantime.

        If this fails: one batch blocks all others, or never ends.
        """
        locked, other = flow.batch_of(1), flow.batch_of(1)
        runs = flow.running(flow.begin(), *locked[1], *other[1])

        with lock_job(locked[0]):
            results = flow.storage.apply([succeeds(one) for one in runs])
            flow.settle_all()
            states = flow.states(locked[0], other[0])

        assert ([Applied.RELEASE_NEEDED] * 2, [State.AWAITING, State.SUCCEEDED]) == (results, states)
        flow.settle_all()
        assert State.SUCCEEDED is flow.state(locked[0])

    def test_locked_due_job_is_promoted_later(self, flow: FlowScene, lock_job: LockJob) -> None:
        """Due jobs, including those whose wait is due, are enqueued; a later call enqueues the locked ones.

        If this fails: one locked row keeps every delayed job out of its queue.
        """
        ids = [flow.schedule(number) for number in (1, 2, 3)]
        waiting = flow.run()
        flow.settle(suspends(waiting, due_at=flow.now() + 4_000_000))
        ids.append(waiting.id)
        flow.advance(3_600)

        with lock_job(ids[0]), lock_job(ids[3]):
            promoted = flow.promote().promoted, flow.promote().promoted
            states = flow.states(*ids)

        assert (2, 0) == promoted
        assert [State.SCHEDULED, State.ENQUEUED, State.ENQUEUED, State.AWAITING] == states
        assert 2 == flow.promote().promoted
        assert (Moved.DUE, Moved.DUE) == (flow.record(ids[0]).reason, flow.record(ids[3]).reason)

    def test_locked_expired_job_is_pruned_later(self, flow: FlowScene, lock_job: LockJob) -> None:
        """Expired jobs are pruned, except locked ones, whether plain jobs, parents, members or batches.

        If this fails: one locked row prevents the pruning of all expired jobs.
        """
        batch, (member,) = flow.batch_of(1)
        plain, parent, other = flow.add_many(3)
        runs = flow.running(flow.begin(), member, plain, parent, other)
        flow.continuation(parent)
        for one in runs:
            flow.settle(succeeds(one, expires_at=_DELETED_LATER))
        flow.settle_all()

        with lock_job(plain), lock_job(parent), lock_job(member), lock_job(batch):
            pruned = flow.prune(100)
            left = {job.id for job in flow.storage.find(JobFilter(), limit=100).jobs}

        assert (1, True) == (pruned, {plain, parent, member, batch} <= left and other not in left)
        assert 2 <= flow.prune(100)

    # ---- combinations ------------------------------------------------------------------------------------

    def test_each_job_ends_once_while_rows_are_locked(self, scene: Scene, lock_job: LockJob) -> None:
        """Jobs of several kinds end in rounds, some of them while rows are locked; each ends exactly once.

        If this fails: find the job whose state differs from that of the other jobs of its kind.
        """
        holder, ids = scene.begin(), scene.add_many(30)
        children = [scene.continuation(parent, on=On.FINISHED) for parent in ids[::5]]
        runs = {one.id: one for one in scene.take(holder)}
        endings = [(succeeds, fails, hands_back)[place % 3](runs[job_id]) for place, job_id in enumerate(ids)]

        for number in range(0, 30, 10):
            with ExitStack() as locks:
                for job_id in ids[number : number + 10 : 3]:
                    locks.enter_context(lock_job(job_id))
                results = scene.exchange(holder, endings[: number + 10], limit=0).results
            assert {Applied.BUSY} == set(results[number::3])
            assert Applied.BUSY not in set(results[number + 1 :: 3])
        assert all(result.is_applied for result in sent(scene.storage, endings))

        until_none_is_left(partial(scene.release, 7))
        states = [(State.SUCCEEDED, State.FAILED, State.ENQUEUED)[place % 3] for place in range(30)]
        assert states == scene.states(*ids)
        ended = [place for place in range(0, 30, 5) if place % 3 != 2]
        moved = [child for place, child in zip(range(0, 30, 5), children, strict=True) if place in ended]
        assert [State.ENQUEUED] * len(moved) == scene.states(*moved)
