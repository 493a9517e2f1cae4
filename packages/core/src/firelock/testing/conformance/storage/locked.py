"""Locked rows: a transaction of somebody else delays the job that it has locked, and no other."""

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

_DELETED_LATER = BASE - HOUR  # an expiry that has passed
_ANSWER = 1.0  # seconds in which a storage that does not wait for a lock has answered


def _whole(scene: Scene, job_id: str) -> tuple[JobRecord, object, object]:
    """Return all that is stored of a job."""
    return scene.record(job_id), scene.storage.history(job_id), scene.storage.read_log(job_id)


class LockedRowDuty(StorageFixtures):
    """What the storage promises while others have locked rows of jobs; needs the fixture `lock_job`."""

    verbs = "apply exchange reconcile append_logs release promote prune"

    # ---- ends --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("end", sorted(ENDS))
    def test_an_end_of_a_locked_job_is_busy(self, scene: Scene, lock_job: LockJob, end: str) -> None:
        """While the row is locked the end is BUSY and nothing is written; later it is APPLIED, then ALREADY.

        If this fails: a locked job is taken for one that is gone and is never ended; or the thread that
        stores all ends waits for the lock; or the end is stored twice.
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
    def test_ends_beside_a_locked_job_are_stored(self, scene: Scene, lock_job: LockJob, end: str) -> None:
        """Of several ends of all kinds only that of the locked job is BUSY, and the claim is made as well.

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
        """Each locked job of many is BUSY, and each other one's end is stored.

        If this fails: the number of locked rows decides what becomes of the others.
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

    def test_another_handle_is_told_as_well(self, scene: Scene, lock_job: LockJob) -> None:
        """A handle that has not claimed the job tells BUSY too, and of a second end of the job as well.

        If this fails: what a storage remembers of its claims decides whether a locked job is missing.
        """
        (other,), running = scene.open(1), scene.run()

        with lock_job(running.id):
            results = [
                *other.apply([succeeds(running)]),
                *scene.storage.apply([fails(running), fails(running)]),
            ]

        assert [Applied.BUSY] * 3 == results
        assert [Applied.APPLIED] == other.apply([succeeds(running)])

    def test_a_busy_job_is_still_held(self, scene: Scene, lock_job: LockJob) -> None:
        """After a BUSY end the job runs for its session, which is not told that it lost the job.

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
    def test_a_busy_job_keeps_its_slot(self, scene: Scene, lock_job: LockJob) -> None:
        """The key of a busy job stays taken until the end is stored; a job of another key is claimed.

        If this fails: more jobs run under a limit than may.
        """
        scene.put_numbers("a", concurrent=1)
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
    def test_a_busy_job_keeps_its_unique_key(self, scene: Scene, lock_job: LockJob) -> None:
        """A call with the key of a busy job is its duplicate.

        If this fails: what must not run twice at once does.
        """
        admission = asks(unique=UniqueUse("kit:key"))
        running = scene.run(job_id=scene.add(admission=admission))
        again = scene.new_job(admission=admission)

        with lock_job(running.id):
            result = scene.apply(succeeds(running))
            (answer,) = scene.storage.insert([again]).is_new

        assert (Applied.BUSY, Duplicate(running.id)) == (result, answer)

    @pytest.mark.parametrize("change", [deletes, requeues])
    def test_an_operator_waits(self, scene: Scene, lock_job: LockJob, change: Callable[..., object]) -> None:
        """An operator's change of a locked job is never BUSY: it is made when the lock is gone.

        If this fails: who deletes a job is told that it cannot be done, and has to try again.
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
        thread.join(self.patience)

        assert ([Applied.APPLIED], Applied.APPLIED) == (results, neighbour)

    # ---- parents, members, waits -------------------------------------------------------------------------

    def test_the_end_of_a_locked_parent_is_busy(self, scene: Scene, lock_job: LockJob) -> None:
        """A parent whose row is locked ends later, and only then its children start.

        If this fails: a continuation is lost, or starts before its parent has ended.
        """
        running = scene.run()
        child = scene.continuation(running.id)

        with lock_job(running.id):
            result, released = scene.apply(succeeds(running)), scene.release()

        assert (Applied.BUSY, 0, State.AWAITING) == (result, released, scene.state(child))
        assert Applied.RELEASING is scene.apply(succeeds(running))
        assert (1, State.ENQUEUED) == (scene.release(), scene.state(child))

    @pytest.mark.parametrize("end", [succeeds, fails])
    def test_the_end_of_a_locked_member_is_busy(
        self, flow: FlowScene, lock_job: LockJob, end: Callable[[Running], object]
    ) -> None:
        """A busy member is active in its batch; its fellow's end is counted, and the batch ends with its own.

        If this fails: a batch ends too early, or never.
        """
        batch, ids = flow.batch_of(2)
        one, two = flow.running(flow.begin(), *ids)

        with lock_job(one.id):
            results = flow.storage.apply([end(one), end(two)])  # type: ignore[list-item]  # transitions
            flow.settle_all()
            counts = flow.counts(batch)[:2]

        assert [Applied.BUSY, Applied.RELEASING] == results
        assert ((2, 1), State.AWAITING) == (counts, flow.state(batch))
        assert Applied.RELEASING is flow.apply(end(one))  # type: ignore[arg-type]  # a transition
        flow.settle_all()
        assert flow.state(batch) is (State.SUCCEEDED if end is succeeds else State.FAILED)

    def test_a_locked_job_is_suspended_later(self, flow: FlowScene, lock_job: LockJob) -> None:
        """A suspension of a locked job is BUSY, those beside it are stored; a signal that came first is seen.

        If this fails: a run waits for a signal that has come, or every wait of a server stands still.
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

    def test_a_job_waits_for_a_locked_one_later(self, flow: FlowScene, lock_job: LockJob) -> None:
        """A suspension that waits for a locked job is BUSY, and its neighbours are stored; then it waits.

        If this fails: a run goes on before the job that it has called, or never.
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

    # ---- what is said of running jobs ----------------------------------------------------------------------

    def test_the_start_of_a_locked_job_is_written_later(self, scene: Scene, lock_job: LockJob) -> None:
        """`reconcile` names the locked job as busy, not as lost, and writes the starts of the others.

        If this fails: the dispatcher waits for the lock; or a start is taken for written, and a job that
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

    def test_lines_of_a_locked_job_are_sent_again(self, scene: Scene, lock_job: LockJob) -> None:
        """`append_logs` names the locked job, stores nothing of it and all of the others.

        If this fails: lines are lost or doubled, or the dispatcher, which flushes first, waits.
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
    def test_a_locked_child_is_released_later(self, scene: Scene, lock_job: LockJob, limit: int) -> None:
        """The other children go on, the locked one does when the lock is gone; no call counts it before.

        If this fails: a continuation waits for ever, or whoever calls until nothing is left never ends.
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

    def test_children_of_other_parents_go_on(self, scene: Scene, lock_job: LockJob) -> None:
        """A child, a parent that are locked keep no child of another parent waiting.

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

    def test_a_locked_child_that_misses_its_parent_is_deleted_later(
        self, scene: Scene, lock_job: LockJob
    ) -> None:
        """What becomes of the child is decided when the lock is gone, as its parent ended, and once.

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

    def test_a_parent_that_is_requeued_forgets_who_was_skipped(self, scene: Scene, lock_job: LockJob) -> None:
        """A child that was skipped waits again where its parent runs again, and goes on with its next end.

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

    def test_a_locked_member_is_swept_later(self, flow: FlowScene, lock_job: LockJob) -> None:
        """A cancelled batch deletes its members but the locked one, and that one when the lock is gone.

        If this fails: a cancelled batch runs, or its server stands still.
        """
        batch, ids = flow.batch_of(4)
        flow.settle(deletes(batch))

        with lock_job(ids[1]):
            flow.settle_all()
            states = flow.states(*ids)

        assert [State.ENQUEUED if place == 1 else State.DELETED for place in range(4)] == states
        flow.settle_all()
        assert [State.DELETED] * 5 == flow.states(batch, *ids)

    def test_a_locked_batch_ends_later(self, flow: FlowScene, lock_job: LockJob) -> None:
        """A batch whose row is locked ends when the lock is gone; another batch ends meanwhile.

        If this fails: one batch stops all others, or never ends.
        """
        locked, other = flow.batch_of(1), flow.batch_of(1)
        runs = flow.running(flow.begin(), *locked[1], *other[1])

        with lock_job(locked[0]):
            results = flow.storage.apply([succeeds(one) for one in runs])
            flow.settle_all()
            states = flow.states(locked[0], other[0])

        assert ([Applied.RELEASING] * 2, [State.AWAITING, State.SUCCEEDED]) == (results, states)
        flow.settle_all()
        assert State.SUCCEEDED is flow.state(locked[0])

    def test_a_locked_due_job_is_promoted_later(self, flow: FlowScene, lock_job: LockJob) -> None:
        """Due jobs are enqueued but the locked one, which is with a later call; so it is with waits.

        If this fails: one locked row keeps every delayed job from its queue.
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

    def test_a_locked_expired_job_is_pruned_later(self, flow: FlowScene, lock_job: LockJob) -> None:
        """Expired jobs go but the locked ones, be they plain, parents or members.

        If this fails: one locked row keeps everything that has expired.
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

    # ---- all at once -------------------------------------------------------------------------------------

    def test_a_crowd_of_ends_beside_locked_rows(self, scene: Scene, lock_job: LockJob) -> None:
        """Jobs of several kinds end in turns of which some meet locked rows; each is ended exactly once.

        If this fails: read which job has another history than the others.
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
