"""Tests of moves: a waiting job gets another queue or priority, and nothing else changes."""

from __future__ import annotations

import threading

import attrs
import pytest

from firelock.model.job import HistoryEntry, Move
from firelock.model.limit import UniqueUse
from firelock.model.state import State
from firelock.storage import HISTORY_LIMIT, Applied, Feature, JobFilter
from firelock.testing.conformance.flow_scene import FlowScene, suspends
from firelock.testing.conformance.kit import requires
from firelock.testing.conformance.scene import (
    BASE,
    HOUR,
    Scene,
    asks,
    deletes,
    fails,
    moves,
    requeues,
    retries,
    succeeds,
)
from firelock.testing.conformance.storage.subject import StorageFixtures

A = "kit/a"


def _move(scene: Scene, *moves: Move) -> list[Applied]:
    return scene.storage.move(moves)


class MoveTests(StorageFixtures):
    """Tests of `move`."""

    verbs = "move"

    def test_moved_job_is_claimed_from_its_new_queue(self, scene: Scene) -> None:
        """A moved job is in the new queue with the new priority, for claims, counts, lists and `get`.

        If this fails: a moved job runs in its previous queue, in both queues or never, or the counts of the
        two queues are wrong.
        """
        moved, stays = scene.add_many(2)

        results = _move(scene, moves(moved, queue="bulk", priority=7))

        assert [Applied.APPLIED] == results
        scene.check(moved, queue="bulk", priority=7, state=State.ENQUEUED)
        counts = scene.storage.counts()
        assert {"default": 1, "bulk": 1} == {
            queue: states[State.ENQUEUED] for queue, states in counts.by_queue.items() if any(states.values())
        }
        assert {State.ENQUEUED: 2} == scene.by_state()
        assert [moved] == scene.found(JobFilter(queue="bulk"))
        assert [moved] == scene.found(JobFilter(queue="bulk", state=State.ENQUEUED))
        assert [stays] == scene.found(JobFilter(queue="default", state=State.ENQUEUED))
        holder = scene.begin()
        assert [stays] == scene.claim_ids(holder)
        (claimed,) = scene.claim(holder, queues=["bulk"])
        assert (moved, "bulk", 7) == (claimed.id, claimed.queue, claimed.priority)

    def test_moved_job_is_claimed_by_a_claim_of_every_queue(self, scene: Scene) -> None:
        """A claim without a list of queues also finds a queue whose first job was moved to it.

        If this fails: a job that was moved to a new queue waits until another job is enqueued there.
        """
        moved = scene.add()

        _move(scene, moves(moved, queue="bulk"))

        assert [moved] == scene.claim_ids(queues=None)
        assert [] == scene.claim_ids(queues=None)

    def test_move_changes_only_queue_priority_and_history(self, scene: Scene) -> None:
        """A move changes only the queue and priority of a job, and adds one entry to its history.

        The entry names both queues and both priorities.

        If this fails: a move loses retries, the time of the job's creation or its arguments, or changes the
        position of the job in lists; or people cannot see that it was moved.
        """
        job_id = scene.add(
            arguments='{"n":1}', tags=("eu",), priority=-3, timeout_seconds=5.0, meta_json='{"a":"b"}'
        )
        before, (creation,) = scene.record(job_id), scene.history(job_id)
        move = moves(job_id, queue="bulk", priority=4, at=scene.stamp())

        _move(scene, move)

        assert attrs.evolve(before, queue="bulk", priority=4) == scene.record(job_id)
        reason = "moved from queue default, priority -3, to queue bulk, priority 4: moved by ada"
        assert [creation, HistoryEntry(State.ENQUEUED, move.at, reason)] == scene.history(job_id)
        assert [job_id] == scene.found(JobFilter(tag="eu"))

    def test_moved_jobs_keep_their_order(self, scene: Scene) -> None:
        """Moved jobs are claimed oldest first, together with the other jobs of the new queue.

        If this fails: a move of a backlog reverses it, or puts its oldest jobs at the end.
        """
        first = scene.add()
        second = scene.add(queue="bulk")
        third, fourth = scene.add_many(2)

        _move(scene, *[moves(one, queue="bulk") for one in (fourth, first, third)])

        assert [first, second, third, fourth] == scene.claim_ids(queues=["bulk"])

    def test_new_priority_changes_the_place_in_the_queue(self, scene: Scene) -> None:
        """A job with a new priority is claimed before jobs of a lower one and after jobs of a higher one.

        If this fails: raising the priority of one customer's jobs has no effect.
        """
        ids = scene.add_many(4)

        results = _move(
            scene,
            moves(ids[2], priority=5),
            moves(ids[3], priority=100),
            moves(ids[0], priority=-100),
        )

        assert [Applied.APPLIED] * 3 == results
        assert [ids[3], ids[2], ids[1], ids[0]] == scene.claim_ids()

    def test_move_changes_only_the_given_queue_or_priority(self, scene: Scene) -> None:
        """A move to another queue keeps the priority, and a new priority keeps the queue.

        If this fails: urgent jobs lose their priority with a move.
        """
        one, other = scene.add(priority=9), scene.add(priority=-9)

        _move(scene, moves(one, queue="bulk"), moves(other, priority=0))

        scene.check(one, queue="bulk", priority=9)
        scene.check(other, queue="default", priority=0)

    def test_move_to_the_current_queue_and_priority_writes_nothing(self, scene: Scene) -> None:
        """A move to the queue and priority that a job already has returns `ALREADY` and writes nothing.

        If this fails: a repeated move fills histories, or a lost reply looks like a failure.
        """
        job_id = scene.add(priority=3)
        before = scene.record(job_id)

        results = _move(scene, moves(job_id, queue="default", priority=3), moves(job_id, queue="default"))

        assert [Applied.ALREADY] * 2 == results
        assert before == scene.record(job_id)
        assert 1 == len(scene.history(job_id))

    def test_scheduled_job_runs_in_its_new_queue_when_it_is_due(self, scene: Scene) -> None:
        """A moved scheduled job keeps its due time and its retries, and is promoted to the new queue.

        If this fails: a retry that was moved runs in its previous queue, immediately or never, or counts its
        retries from zero.
        """
        scheduled = scene.add(state=State.SCHEDULED, due_at=BASE + HOUR, nominal_at=BASE + HOUR)
        retrying = scene.settle(retries(scene.run(), due_at=BASE + 2 * HOUR))
        before = scene.storage.get([scheduled, retrying])

        results = _move(scene, *[moves(one, queue="bulk", priority=2) for one in (scheduled, retrying)])

        assert [Applied.APPLIED] * 2 == results
        after = scene.storage.get([scheduled, retrying])
        assert [attrs.evolve(one, queue="bulk", priority=2) for one in before if one is not None] == after
        assert [scheduled, retrying] == scene.found(JobFilter(queue="bulk", by_due=True), oldest_first=True)
        scene.advance(3 * 3_600)
        assert 2 == scene.promote().promoted
        assert [scheduled, retrying] == scene.claim_ids(queues=["bulk"])

    def test_moved_continuation_still_follows_its_parent(self, scene: Scene) -> None:
        """A moved awaiting job keeps its parents, and is enqueued in the new queue when they end.

        If this fails: a moved continuation never runs, or runs in its previous queue.
        """
        holder = scene.begin()
        parent = scene.run(holder)
        child = scene.continuation(parent.id)

        results = _move(scene, moves(child, queue="bulk", priority=1))
        scene.settle(succeeds(parent))
        scene.release()

        assert [Applied.APPLIED] == results
        scene.check(child, state=State.ENQUEUED, queue="bulk", priority=1)
        assert ([], [child]) == (scene.claim_ids(holder), scene.claim_ids(holder, queues=["bulk"]))

    def test_continuations_of_a_moved_job_still_follow_it(self, scene: Scene) -> None:
        """The jobs that wait for a moved job are enqueued when it succeeds.

        If this fails: a flow stops at a job that was moved.
        """
        parent = scene.add()
        child = scene.continuation(parent)

        _move(scene, moves(parent, queue="bulk"))
        holder = scene.begin()
        (running,) = scene.take(holder, queues=["bulk"])
        scene.settle(succeeds(running))
        scene.release()

        assert [State.SUCCEEDED, State.ENQUEUED] == scene.states(parent, child)

    def test_suspended_job_is_moved_and_resumed(self, flow: FlowScene) -> None:
        """A job that waits for a signal can be moved; the signal enqueues it in the new queue.

        If this fails: a move loses the wait or the memos of a job.
        """
        running = flow.run()
        flow.begin_wait(running, "approval")
        flow.settle(suspends(running))

        results = _move(flow, moves(running.id, queue="bulk"))
        flow.send(running.id, "approval")

        assert [Applied.APPLIED] == results
        flow.check(running.id, state=State.ENQUEUED, queue="bulk")
        assert [running.id] == flow.claim_ids(running.holder, queues=["bulk"])

    def test_only_waiting_jobs_are_moved(self, scene: Scene) -> None:
        """Moving a processing, succeeded, failed or deleted job is refused; an unknown job is `MISSING`.

        If this fails: a job changes its queue while it runs, or counts are wrong forever.
        """
        holder = scene.begin()
        deleted = scene.settle(deletes(scene.add()))
        succeeded = scene.settle(succeeds(scene.run(holder)))
        failed = scene.settle(fails(scene.run(holder)))
        processing = scene.run(holder).id
        ids = [deleted, succeeded, failed, processing]
        before, counts = scene.storage.get(ids), scene.storage.counts()

        results = _move(scene, *[moves(one, queue="bulk") for one in (*ids, scene.new_id())])

        assert [Applied.REFUSED] * 4 + [Applied.MISSING] == results
        assert before == scene.storage.get(ids)
        assert counts == scene.storage.counts()

    def test_move_of_a_job_in_another_state_is_refused(self, scene: Scene) -> None:
        """A move is written only if the job is in one of the states that the move names.

        If this fails: a bulk move of scheduled jobs also moves jobs that were enqueued in the meantime.
        """
        job_id = scene.add()
        guarded = attrs.evolve(moves(job_id, queue="bulk"), from_states=frozenset({State.SCHEDULED}))

        results = _move(scene, guarded)

        assert [Applied.REFUSED] == results
        scene.check(job_id, queue="default")

    def test_refused_move_does_not_affect_other_moves(self, scene: Scene) -> None:
        """Several moves of one job are applied in order, even if another move between them is refused.

        If this fails: one job that has started prevents the move of a whole backlog.
        """
        processing = scene.run().id
        job_id = scene.add()

        results = _move(
            scene,
            moves(job_id, queue="bulk"),
            moves(processing, queue="bulk"),
            moves(job_id, queue="mail", priority=1),
            moves(job_id, priority=2),
        )

        assert [Applied.APPLIED, Applied.REFUSED, Applied.APPLIED, Applied.APPLIED] == results
        scene.check(job_id, queue="mail", priority=2)
        assert 4 == len(scene.history(job_id))
        queues = scene.storage.counts().by_queue
        assert {"mail": 1} == {name: n for name, of in queues.items() if (n := of.get(State.ENQUEUED, 0))}
        assert [job_id] == scene.claim_ids(queues=["bulk", "mail"])

    def test_move_of_a_batch_is_refused_but_members_can_be_moved(self, flow: FlowScene) -> None:
        """A batch is in no queue, so its move is refused; its members can be moved, and stay its members.

        If this fails: a batch loses a moved member and never ends, or a batch gets a worker.
        """
        batch, (member, other) = flow.batch_of(2)

        results = _move(flow, moves(batch, queue="bulk"), moves(member, queue="bulk"))

        assert [Applied.REFUSED, Applied.APPLIED] == results
        flow.check(batch, queue="default")
        assert (2, 2, 0, 0, 0, 0) == flow.counts(batch)
        holder = flow.begin()
        for queue, job_id in (("bulk", member), ("default", other)):
            (running,) = flow.take(holder, queues=[queue])
            assert job_id == running.id
            flow.settle(succeeds(running))
        flow.settle_all()
        assert State.SUCCEEDED == flow.state(batch)

    def test_member_of_an_unopened_batch_can_be_moved(self, flow: FlowScene) -> None:
        """A moved member of a batch that has not opened is enqueued in its new queue when the batch opens.

        If this fails: a moved member starts before its batch opens, or never.
        """
        holder = flow.begin()
        before = flow.run(holder)
        batch = flow.batch(after=[before.id])
        member = flow.member(batch)

        results = _move(flow, moves(member, queue="bulk"))
        is_claimed_early = flow.claim_ids(holder, queues=["bulk"])
        flow.settle(succeeds(before))
        flow.settle_all()

        assert ([Applied.APPLIED], []) == (results, is_claimed_early)
        assert [member] == flow.claim_ids(holder, queues=["bulk"])

    def test_moved_job_waits_for_the_end_of_its_tail(self, scene: Scene) -> None:
        """A job that was requeued while it had a tail can be moved, and claimed when its tail is removed.

        If this fails: a moved job runs twice at the same time, or never again.
        """
        running = scene.run()
        scene.storage.apply([deletes(running.id), requeues(running.id)])

        results = _move(scene, moves(running.id, queue="bulk"))
        is_claimed_early = scene.claim_ids(running.holder, queues=["bulk"])
        scene.apply(succeeds(running))

        assert ([Applied.APPLIED], []) == (results, is_claimed_early)
        assert [running.id] == scene.claim_ids(running.holder, queues=["bulk", "default"])

    @requires(Feature.LIMITS)
    def test_job_held_by_a_limit_is_moved_with_its_keys(self, scene: Scene) -> None:
        """A job that waits for a limit can be moved, and waits for the same key in the new queue.

        If this fails: after a move more jobs of a key run than the limit allows, or a moved job is never
        started.
        """
        scene.set_limit(A, concurrent=1)
        first, second, third = scene.add_limited(3, A)
        holder = scene.begin()
        (running,) = scene.take(holder)

        results = _move(scene, moves(second, queue="bulk"), moves(third, queue="bulk", priority=1))
        is_claimed_early = scene.claim_ids(holder, queues=["bulk", "default"])
        (key,) = scene.storage.find_keys(A)
        scene.settle(succeeds(running))
        (after,) = scene.take(holder, queues=["bulk", "default"])
        scene.settle(succeeds(after))

        assert ([Applied.APPLIED] * 2, []) == (results, is_claimed_early)
        assert (1, 2) == (key.running, key.waiting)
        assert (first, third) == (running.id, after.id)
        assert [second] == scene.claim_ids(holder, queues=["default", "bulk"])

    @requires(Feature.LIMITS)
    def test_claim_of_every_queue_finds_moved_limited_jobs(self, scene: Scene) -> None:
        """A claim without a list of queues finds the lane of a job with a limit in its new queue.

        If this fails: a moved job with a limit waits until another one is enqueued in the same queue.
        """
        scene.set_limit(A, concurrent=5)
        (moved,) = scene.add_limited(1, A)

        _move(scene, moves(moved, queue="bulk"))

        assert [] == scene.claim_ids()
        assert [moved] == scene.claim_ids(queues=None)

    @requires(Feature.UNIQUE)
    def test_moved_job_keeps_its_unique_key(self, scene: Scene) -> None:
        """A call with the unique key of a moved job is a duplicate, as before the move.

        If this fails: a moved job is created a second time.
        """
        admission = asks(unique=UniqueUse("tasks.run kit/a"))
        job_id = scene.add(admission=admission)

        _move(scene, moves(job_id, queue="bulk"))
        (answer,) = scene.storage.insert([scene.new_job(admission=admission)]).is_new

        assert not answer
        assert job_id == scene.storage.find_unique()[0].job_id

    def test_long_history_of_moves_keeps_its_first_and_last_entries(self, scene: Scene) -> None:
        """A job that was moved very often has a bounded history with its creation and its last moves.

        If this fails: a program that moves jobs back and forth fills the storage.
        """
        job_id = scene.add()

        for number in range(3 * HISTORY_LIMIT):
            _move(scene, moves(job_id, queue=("bulk", "default")[number % 2], at=scene.stamp()))

        history = scene.history(job_id)
        assert len(history) == HISTORY_LIMIT
        assert sum(entry.elided or 1 for entry in history) == 3 * HISTORY_LIMIT + 1
        assert scene.record(job_id).created_at == history[0].at

    def test_other_handle_moves_and_claims(self, scene: Scene) -> None:
        """A job that one handle has moved is claimed from the new queue by another handle.

        If this fails: servers do not see a move that was made on the dashboard.
        """
        other, third = scene.open()
        job_id = scene.add()
        scene.claim_ids(queues=["bulk"])

        assert [Applied.APPLIED] == other.move([moves(job_id, queue="bulk")])

        holder = scene.begin()
        assert [job_id] == [job.id for job in third.claim(scene.request(holder, queues=["bulk"])).jobs]

    @requires(Feature.NOTIFY)
    def test_move_ends_a_wait_for_the_new_queue(self, scene: Scene) -> None:
        """A wait for a queue returns True as soon as a job is moved to it.

        If this fails: an idle server finds a moved job only at its next poll.
        """
        waiter, answers = scene.handles.open(), list[bool]()
        waiter.promote(1)
        thread = threading.Thread(target=lambda: answers.append(waiter.wait(["bulk"], 600.0)), daemon=True)
        thread.start()

        # repeat the call, because the thread may not have begun to wait yet
        for _ in range(int(self.hang_timeout / 0.05)):
            _move(scene, moves(scene.add(), queue="bulk"))
            thread.join(0.05)
            if answers:
                break
            scene.claim_ids(queues=["bulk"])

        assert [True] == answers

    def test_move_without_jobs_returns_an_empty_list(self, scene: Scene) -> None:
        """A call without moves returns an empty list.

        If this fails: an empty list is an error, or changes every job.
        """
        job_id = scene.add()

        assert [] == scene.storage.move([])
        scene.check(job_id, queue="default")

    @pytest.mark.parametrize("number", [1, 600])
    def test_each_move_has_its_own_result(self, scene: Scene, number: int) -> None:
        """Each move has its own result, in order, however many there are.

        If this fails: a bulk move reports wrong counts.
        """
        ids = scene.add_many(number)

        results = _move(scene, *[moves(one, queue="bulk") for one in ids], moves(scene.new_id(), priority=1))

        assert [Applied.APPLIED] * number + [Applied.MISSING] == results
        assert number == scene.storage.counts().by_queue["bulk"][State.ENQUEUED]
        # A partitioned storage guarantees no order between partitions, and this many jobs are in two of them.
        assert sorted(ids) == sorted(scene.claim_ids(limit=1_000, queues=["bulk"]))
