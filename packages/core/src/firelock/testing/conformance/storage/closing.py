"""Tests of sessions that end while other transactions have locked rows of their jobs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial

import pytest

from firelock.model.clock import SECOND
from firelock.model.job import Transition
from firelock.model.lifecycle import Moved
from firelock.model.state import State
from firelock.storage import Applied, Renewal
from firelock.testing.conformance.race import race
from firelock.testing.conformance.scene import (
    DAY,
    Running,
    Scene,
    deletes,
    fails,
    hands_back,
    requeues,
    retries,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

_HOURS = 3_600.0
_ENDS = (succeeds, fails, retries, hands_back)

LockJob = Callable[[str], AbstractContextManager[object]]
End = Callable[[Running], Transition]


class ClosingTests(StorageFixtures):
    """Tests of `end_session` and `orphans` for jobs with locked rows; they need the fixture `lock_job`."""

    verbs = "end_session orphans list_sessions"

    def test_locked_job_delays_only_its_own_return(self, scene: Scene, lock_job: LockJob) -> None:
        """A locked job delays only its own return: the session has ended, and its other jobs have returned.

        The session is closing until the locked job has returned too.

        If this fails: one row that an application keeps locked delays all jobs of a dead server, or the job
        of that row stays processing forever.
        """
        holder = scene.begin()
        ids = scene.add_many(3)
        before = scene.record(ids[1])
        scene.claim(holder)

        with lock_job(ids[1]):
            taken = scene.lose(holder, running=ids, reason="killed by signal 9")
            at_once = scene.orphans()
            closing = _dead_sessions(scene)
            states = scene.states(*ids)
        later = scene.orphans()

        assert (holder.server, sorted([ids[0], ids[2]]), [], 1) == (
            taken.server, sorted(taken.crashed), taken.returned, taken.left,
        )  # fmt: skip
        assert [] == at_once
        assert {holder.session: True} == closing
        assert [State.ENQUEUED, State.PROCESSING, State.ENQUEUED] == states
        assert [(holder.session, holder.server, [ids[1]], [], 0)] == [
            (one.session, one.server, one.crashed, one.returned, one.left) for one in later
        ]
        assert {holder.session: False} == _dead_sessions(scene)
        record, entry = scene.record(ids[1]), scene.last_entry(ids[1])
        assert (State.ENQUEUED, 1, 0, None, before.enqueued_at) == (
            record.state, record.crashes, record.attempt, record.session, record.enqueued_at,
        )  # fmt: skip
        assert (State.ENQUEUED, "killed by signal 9", 1) == (entry.state, entry.reason, entry.attempt)
        assert ids == scene.claim_ids(scene.begin("heir"))

    @pytest.mark.parametrize("how", ["a sweep", "another end"])
    def test_continued_end_uses_running_jobs_and_reason_of_the_first(
        self, scene: Scene, lock_job: LockJob, how: str
    ) -> None:
        """A continued `end_session`, on any handle, uses the running jobs and the reason of the first call.

        If this fails: because the row of a job was locked, no crash is counted although its run killed its
        process, or a crash is counted although the job never started.
        """
        other, holder = scene.handles.open(), scene.begin()
        ran, waited = scene.add_many(2)
        scene.claim(holder)
        with lock_job(ran), lock_job(waited):
            first = scene.lose(holder, running=[ran], reason="killed by signal 9")

        if how == "a sweep":
            (taken,) = other.orphans(10)
        else:
            taken = other.end_session(holder.session, [waited], reason="another reason")

        assert ([], [], 2) == (first.crashed, first.returned, first.left)
        assert (holder.server, [ran], [waited], 0) == (
            taken.server, taken.crashed, taken.returned, taken.left,
        )  # fmt: skip
        assert [1, 0] == [scene.record(job_id).crashes for job_id in (ran, waited)]
        assert ["killed by signal 9", Moved.NOT_STARTED] == [
            scene.record(job_id).reason for job_id in (ran, waited)
        ]
        assert [2, 1] == [len(scene.history(job_id)) for job_id in (ran, waited)]

    def test_locked_job_of_an_expired_session_gets_its_crash_later(
        self, scene: Scene, lock_job: LockJob
    ) -> None:
        """The crash of an expired session's locked job is counted by a later sweep; the session ends once.

        If this fails: a job that kills its host is never found as long as its row is locked at that moment.
        """
        holder = scene.begin("a", _HOURS)
        locked, free = scene.add_many(2)
        scene.claim(holder)
        scene.advance(2 * _HOURS)

        with lock_job(locked):
            (first,) = scene.orphans()
            none = scene.orphans()
        (second,) = scene.orphans()

        assert ([free], 1, [], [locked], 0) == (
            first.crashed, first.left, none, second.crashed, second.left,
        )  # fmt: skip
        assert [Moved.SESSION_LOST] * 2 == [scene.last_entry(job_id).reason for job_id in (locked, free)]
        assert [1, 1] == [scene.record(job_id).crashes for job_id in (locked, free)]

    def test_repeated_end_of_a_closing_session_takes_each_job_once(
        self, scene: Scene, lock_job: LockJob
    ) -> None:
        """A second `end_session` returns the number of jobs that are still locked, and takes no job twice.

        If this fails: a supervisor assumes that all jobs of a dead worker process have returned, or two
        crashes are counted for a job.
        """
        holder = scene.begin()
        locked, free = scene.add_many(2)
        scene.claim(holder)

        with lock_job(locked):
            takes = [scene.lose(holder, reason="killed"), scene.lose(holder, reason="killed")]
        takes += [scene.lose(holder, reason="killed"), scene.lose(holder, reason="killed")]

        assert [([free], 1), ([], 1), ([locked], 0), ([], 0)] == [(one.crashed, one.left) for one in takes]
        assert [1, 1] == [scene.record(job_id).crashes for job_id in (locked, free)]

    def test_closing_session_cannot_claim_or_be_renewed(self, scene: Scene, lock_job: LockJob) -> None:
        """A closing session claims nothing, cannot be renewed or begun again, and is reported as lost.

        If this fails: a worker process that is considered dead starts jobs that nothing supervises.
        """
        holder = scene.begin()
        running = scene.run(holder)
        with lock_job(running.id):
            scene.lose(holder)
        waiting = scene.add()

        claim = scene.storage.claim(scene.request(holder))
        exchange = scene.exchange(holder, [])
        renewed = scene.storage.renew([Renewal(holder.session)])
        scene.begin()

        assert ([], True) == (claim.jobs, claim.is_session_lost)
        assert ([], True) == (exchange.claim.jobs, exchange.claim.is_session_lost)
        assert [False] == renewed
        assert scene.reconcile(holder, []).is_session_lost
        assert {holder.session: True} == _dead_sessions(scene)
        assert State.ENQUEUED == scene.state(waiting)

    @pytest.mark.parametrize("end", _ENDS, ids=lambda end: end.__name__)
    @pytest.mark.parametrize("verb", ["apply", "exchange", "another handle"])
    def test_late_end_is_stored_while_the_session_is_closing(
        self, scene: Scene, lock_job: LockJob, end: End, verb: str
    ) -> None:
        """The result of a closing session's last job is stored, after which the session is no longer closing.

        If this fails: a job that has ended runs again, although it had not been taken from its session yet.
        """
        other, holder = scene.handles.open(), scene.begin()
        running = scene.run(holder)
        with lock_job(running.id):
            scene.lose(holder)
        transition = end(running)

        if verb == "exchange":
            answer = scene.exchange(holder, [transition]).results
        else:
            storage = other if verb == "another handle" else scene.storage
            answer = storage.apply([transition])
        after = scene.record(running.id)

        assert [Applied.APPLIED] == answer
        assert [] == scene.orphans()
        assert {holder.session: False} == _dead_sessions(scene)
        assert after == scene.record(running.id)
        assert (None, 0) == (after.session, after.crashes)

    def test_late_end_is_refused_after_the_job_was_returned(self, scene: Scene, lock_job: LockJob) -> None:
        """Jobs that were taken from a closing session no longer belong to it, so their results are refused.

        If this fails: a job that already runs elsewhere is ended by its previous holder.
        """
        holder = scene.begin()
        one, other = scene.add_many(2)
        taken, locked = scene.take(holder)
        with lock_job(other):
            scene.lose(holder)

        answers = [scene.apply(succeeds(run)) for run in (taken, locked)]

        assert (one, other) == (taken.id, locked.id)
        assert [Applied.REFUSED, Applied.APPLIED] == answers

    @pytest.mark.parametrize("is_requeued", [False, True])
    def test_tail_of_a_locked_job_is_cleared_later(
        self, scene: Scene, lock_job: LockJob, is_requeued: bool
    ) -> None:
        """The tail of a deleted job is cleared after its row is unlocked; a requeued job can then be claimed.

        If this fails: a requeued job waits forever for a run that died, or starts while the old run
        continues.
        """
        holder, heir = scene.begin(), scene.begin("heir")
        running = scene.run(holder)
        scene.settle(deletes(running.id))
        if is_requeued:
            scene.settle(requeues(running.id))

        with lock_job(running.id):
            taken = scene.lose(holder)
            closing, early = _dead_sessions(scene), scene.claim_ids(heir)
        (later,) = scene.orphans()

        assert ([], [], 1) == (taken.crashed, taken.returned, taken.left)
        assert ({holder.session: True}, []) == (closing, early)
        assert ([], [], 0) == (later.crashed, later.returned, later.left)
        assert {holder.session: False} == _dead_sessions(scene)
        scene.check(running.id, session=None, crashes=0)
        assert ([running.id] if is_requeued else []) == scene.claim_ids(heir)

    def test_sweep_clears_the_tail_of_a_job_deleted_while_closing(
        self, scene: Scene, lock_job: LockJob
    ) -> None:
        """The deletion of a closing session's job is stored, and the next sweep clears the tail of the job.

        If this fails: a deleted job runs again, or is shown as stopping forever.
        """
        holder = scene.begin()
        running = scene.run(holder)
        with lock_job(running.id):
            scene.lose(holder)

        scene.settle(deletes(running.id))
        (later,) = scene.orphans()

        assert ([], [], 0) == (later.crashed, later.returned, later.left)
        scene.check(running.id, state=State.DELETED, session=None, crashes=0)
        assert {holder.session: False} == _dead_sessions(scene)

    def test_closing_session_is_not_pruned(self, scene: Scene, lock_job: LockJob) -> None:
        """A closing session is not pruned while it holds jobs, even if it ended more than a day ago.

        If this fails: a job whose row is locked for a day stays processing forever.
        """
        holder, ended = scene.begin(), scene.begin("ended")
        running = scene.run(holder)
        with lock_job(running.id):
            scene.lose(holder)
            scene.lose(ended)
        scene.advance(DAY // SECOND + _HOURS)

        scene.prune(100)
        closing = _dead_sessions(scene)
        (taken,) = scene.orphans()
        scene.prune(100)

        assert {holder.session: True} == closing
        assert [running.id] == taken.crashed
        assert {} == _dead_sessions(scene)

    def test_limited_sweeps_continue_with_each_closing_session(self, scene: Scene, lock_job: LockJob) -> None:
        """Sweeps with a limit continue with each closing session in turn, and also end expired sessions.

        If this fails: one job that is locked for hours delays the jobs of other dead servers.
        """
        holders = [scene.begin(name) for name in "abc"]
        runs = [scene.run(holder) for holder in holders]
        expiring = scene.begin("d", _HOURS)
        lost = scene.run(expiring)
        with ExitStack() as locks:
            for run in runs:
                locks.enter_context(lock_job(run.id))
            for holder in holders:
                scene.lose(holder)
        scene.advance(2 * _HOURS)

        with lock_job(runs[0].id):
            sweeps = [scene.orphans(1) for _ in range(3)]

        assert lost.id in [job_id for one in sweeps[0] for job_id in one.crashed]
        assert sorted([lost.id, runs[1].id, runs[2].id]) == sorted(
            job_id for sweep in sweeps for one in sweep for job_id in one.crashed
        )

    def test_concurrent_sweeps_take_each_unlocked_job_once(self, scene: Scene, lock_job: LockJob) -> None:
        """If several servers continue with a closing session concurrently, each job is taken once.

        If this fails: one death counts as two crashes, or no server takes the job.
        """
        handles = scene.open(4)
        for number in range(6):
            holder = scene.begin(str(number))
            ids = scene.add_many(5)
            scene.claim(holder)
            with ExitStack() as locks:
                for job_id in ids:
                    locks.enter_context(lock_job(job_id))
                scene.lose(holder)

            found = race([partial(one.orphans, 10) for one in handles])
            found.append(scene.orphans())

            taken = [job_id for sweep in found for one in sweep for job_id in one.crashed]
            assert sorted(ids) == sorted(taken)
            assert [(State.ENQUEUED, 1, 2)] * 5 == [
                (scene.state(job_id), scene.record(job_id).crashes, len(scene.history(job_id)))
                for job_id in ids
            ]
            assert not _dead_sessions(scene)[holder.session]
            scene.storage.apply([deletes(job_id) for job_id in ids])


def _dead_sessions(scene: Scene) -> dict[str, bool]:
    """Return whether each ended session is closing; a living session never is."""
    listed = scene.storage.list_sessions()
    assert not any(one.is_alive and one.is_closing for one in listed)
    return {one.session.id: one.is_closing for one in listed if not one.is_alive}
