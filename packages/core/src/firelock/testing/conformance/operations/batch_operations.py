"""Random operations on nested batches: members are counted independently, and each batch must end correctly.

At any time the counts match the members, and no job runs in a deleted batch. A batch ends when nothing in it
can continue, and it has succeeded only if no member failed and none waits. An outer batch is open while an
inner one can continue. Nothing is added to a batch that has ended. Each callback runs once.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from firelock.errors import BatchFinished
from firelock.model.batch import BatchCounts
from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, On
from firelock.model.job import JobRecord, NewJob
from firelock.model.lifecycle import Moved
from firelock.model.session import ClaimHolder
from firelock.model.state import FINAL_STATES, State
from firelock.storage import Applied, Storage
from firelock.testing.conformance import scene as ends
from firelock.testing.conformance.flow_scene import FlowScene, recount, suspends
from firelock.testing.conformance.operations.seeded import SeededOperations
from firelock.testing.conformance.race import until_none_is_left
from firelock.testing.conformance.scene import HOUR, Running

_MOST_BATCHES, _MOST_JOBS = 7, 40
_HOW = (*["succeeds"] * 3, *["fails"] * 2, "gives up", "hands back", "waits", "retries at once")
_STARTS = {(State.ENQUEUED, Moved.PARENT_ENDED.format(state=end)) for end in FINAL_STATES}
_CALLBACKS = (On.SUCCEEDED, On.FINISHED, On.DELETED)


class BatchGround(SeededOperations):
    """The stored state of some batches, and the rules that hold for it after any operation."""

    def __init__(self, open_handle: Callable[[], Storage], seed: int, handles: int = 2) -> None:
        super().__init__(open_handle, seed, handles)
        self.flow = FlowScene(self.handles)
        self.jobs: list[str] = []  # members, and jobs for which batches wait
        self.batches: list[str] = []
        self.callbacks: dict[str, list[str]] = {}
        self.held: list[Running] = []
        self.begun = 0
        self.child = self.begin()

    def begin(self) -> ClaimHolder:
        """Begin the session of another worker process."""
        self.begun += 1
        return self.flow.begin(str(self.begun))

    @property
    def storage(self) -> Storage:
        """One of the handles, chosen at random."""
        return self.random.choice(self.storages)

    def new_callbacks(self, batch: str) -> list[NewJob]:
        """Return the callbacks of the batch: one job for each final state."""
        return [self.flow.new_job(state=State.AWAITING, parents=(Edge(batch, on),)) for on in _CALLBACKS]

    def end(self) -> None:
        """Run all jobs that can run, without any new failures.

        Afterwards, every batch must have ended, or must be waiting because of an earlier failure.
        """
        for batch in self.batches:
            self.flow.hold(batch, None)
        for _ in range(_MOST_JOBS * 4):
            self.settle()
            for record in self.stored().values():
                if record.waits_for is not None:
                    self.flow.send(record.id, "approval")
            self.flow.advance(HOUR / SECOND)
            self.flow.promote(100)
            self.held += self.flow.take(self.child, queues=None)
            if not self.held and not self.storage.release(100):
                break
            for running in self.held:
                self.flow.apply(ends.succeeds(running))
            self.held.clear()
        for batch in self.batches:
            counts = self.flow.batch_counts(batch)
            is_over = self.flow.state(batch) in FINAL_STATES or counts.is_unopened
            assert is_over, f"batch {batch[-4:]} never ends: {counts}"

    # ---- stored jobs -------------------------------------------------------------------------------------

    def stored(self) -> dict[str, JobRecord]:
        """Return all stored jobs, by id."""
        ids = [*self.jobs, *self.batches, *(one for some in self.callbacks.values() for one in some)]
        return {job.id: job for job in self.flow.storage.get(ids) if job is not None}

    def members(self, batch: str, records: dict[str, JobRecord]) -> list[JobRecord]:
        """Return the members of a batch."""
        return [
            job for job in records.values() if job.relations is not None and job.relations.batch_id == batch
        ]

    # ---- upkeep ------------------------------------------------------------------------------------------

    def release(self, limit: int | None = None) -> None:
        """Release some of the waiting jobs, and check the batches that end."""
        before = self.stored()
        limit = limit or self.random.choice((1, 2, 3, 100))
        number = self.storage.release(limit)
        self.record(f"release {limit}: {number}")
        after = self.stored()
        for batch in self.batches:
            if after[batch].state in FINAL_STATES and before[batch].state is State.AWAITING:
                self._judge_end(batch, after)

    def settle(self) -> None:
        """Release until nothing is left, then check every batch against its members."""
        number = until_none_is_left(lambda: self.storage.release(self.random.choice((1, 3, 100))))
        self.record(f"release all: {number}")
        records = self.stored()
        for batch in self.batches:
            self._judge_settled(batch, records)

    # ---- checks ------------------------------------------------------------------------------------------

    def judge(self, records: dict[str, JobRecord]) -> None:
        """Check the rules that hold at any time."""
        for batch in self.batches:
            counts, counted = (
                self.flow.batch_counts(batch),
                recount(self.flow.storage, batch, records.values()),
            )
            releasing = counts.active - counted.active
            assert attrs.evolve(counts, active=counted.active) == counted, (
                f"batch {batch[-4:]} has {counts}, expected {counted}"
            )
            assert 0 <= releasing <= self._may_release(batch, records), (
                f"batch {batch[-4:]} has {counts}, expected {counted}"
            )
            self._judge_callbacks(batch)
            if records[batch].state is State.DELETED:
                assert counts.is_cancelled
                running = [job.id[-4:] for job in self.members(batch, records) if job.session is not None]
                assert not running, f"batch {batch[-4:]} is deleted, but its jobs {running} run"

    def _may_release(self, batch: str, records: dict[str, JobRecord]) -> int:
        """Return the number of ended members whose continuations may not have been released yet."""
        parents = {edge.parent_id for job in records.values() for edge in job.parents}
        return sum(job.is_final and job.id in parents for job in self.members(batch, records))

    def _judge_callbacks(self, batch: str) -> None:
        for callback in self.callbacks[batch]:
            entries = self.flow.history(callback)
            starts = [one for one in entries if (one.state, one.reason) in _STARTS]
            assert len(starts) <= 1, f"a callback of batch {batch[-4:]} started {len(starts)} times"

    def _judge_end(self, batch: str, records: dict[str, JobRecord]) -> None:
        """Check that nothing in a batch that has just ended could continue."""
        counted = recount(self.flow.storage, batch, records.values())
        state = records[batch].state
        assert counted.active == 0, f"batch {batch[-4:]} is {state}, but a member can continue: {counted}"
        assert state is _end_of(counted), (
            f"batch {batch[-4:]} is {state}, expected {_end_of(counted)}: {counted}"
        )
        assert not counted.is_held
        assert counted.is_cancelled or not counted.is_unopened

    def _judge_settled(self, batch: str, records: dict[str, JobRecord]) -> None:
        """Check the counts, state and callbacks of a batch when nothing is left to release."""
        counted, record = recount(self.flow.storage, batch, records.values()), records[batch]
        assert counted == self.flow.batch_counts(batch), (
            f"batch {batch[-4:]} has {self.flow.batch_counts(batch)}, expected {counted}"
        )
        if counted.active or ((counted.is_held or counted.is_unopened) and not counted.is_cancelled):
            assert record.state is State.AWAITING, (
                f"batch {batch[-4:]} ended too early as {record.state}: {counted}"
            )
            return
        assert record.state is _end_of(counted), f"batch {batch[-4:]} is {record.state}: {counted}"
        assert not counted.is_stopping, "the end of the batch did not end its stop"
        callbacks = [records[one] for one in self.callbacks[batch]]
        decided = [one.state is not State.AWAITING or one.waits_for is not None for one in callbacks]
        expected = {State.SUCCEEDED: (True, True, True), State.FAILED: (False, True, False)}
        for is_decided, is_due in zip(decided, expected.get(record.state, (True, True, True)), strict=True):
            assert is_decided or not is_due, (
                f"batch {batch[-4:]} is {record.state}, but a callback still waits for it"
            )


def _end_of(counts: BatchCounts) -> State:
    """Return the final state of a batch in which nothing can continue."""
    if counts.is_cancelled:
        assert not counts.waiting, f"the batch is cancelled, but members still wait: {counts}"
        return State.DELETED
    return State.FAILED if counts.failed or counts.waiting else State.SUCCEEDED


class BatchOperations(BatchGround):
    """Operations that fill a tree of batches, run, fail and requeue its jobs, and stop or cancel batches."""

    def __init__(self, open_handle: Callable[[], Storage], seed: int, handles: int = 2) -> None:
        super().__init__(open_handle, seed, handles)
        self.lost: list[Running] = []  # lost runs, which may still send their results
        self._open()

    def perform(self) -> None:
        """Perform one operation, then check the rules."""
        chosen = self.random.choices(list(self._OPERATIONS), weights=list(self._OPERATIONS.values()))[0]
        chosen(self)
        self.judge(self.stored())

    # ---- operations --------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Store a batch, perhaps within another one, with some members and its callbacks."""
        if len(self.batches) >= _MOST_BATCHES:
            return
        random, flow = self.random, self.flow
        outer = self.some(self.batches) if random.random() < 0.7 else None
        source, new = self._source(outer)
        batch = flow.new_batch(
            within=outer, after=[source] if source else (), fails_fast=random.random() < 0.4,
            due_at=flow.now() + 3 * HOUR if random.random() < 0.3 else None,
            colocate_with=outer or self._colocated_with,
        )  # fmt: skip
        members = self._new_members(batch.id, random.randint(0, 3))
        callbacks = [flow.new_job(state=State.AWAITING, parents=(Edge(batch.id, on),)) for on in _CALLBACKS]
        if self._stored([*new, batch, *members, *callbacks], outer):
            self.record(
                f"open {batch.id[-4:]} in {outer and outer[-4:]}, after {source and source[-4:]}, "
                f"held {batch.due_at}, {batch.relations}: {[one.id[-4:] for one in members]}"
            )
            self.batches.append(batch.id)
            self.jobs += [job.id for job in (*new, *members)]
            self.callbacks[batch.id] = [job.id for job in callbacks]

    @property
    def _colocated_with(self) -> str | None:
        """The first batch; all jobs are in its partition, because nested batches share a partition."""
        return self.batches[0] if self.batches else None

    def _source(self, outer: str | None) -> tuple[str | None, list[NewJob]]:
        """Return the id of the job for which a batch waits, and this job if it is new."""
        if self.random.random() < 0.7 or (outer is not None and self.flow.batch_counts(outer).is_unopened):
            return None, []
        job = self.flow.new_member(outer) if outer else self.flow.new_job(colocate_with=self._colocated_with)
        return job.id, [job]

    def _new_members(self, batch: str, number: int) -> list[NewJob]:
        members: list[NewJob] = []
        for _ in range(number):
            parent = self.some(members)
            waits = parent is not None and self.random.random() < 0.5
            on = self.random.choice([On.SUCCEEDED, On.SUCCEEDED, On.FAILED, On.FINISHED])
            members.append(self.flow.new_member(batch, *([parent.id] if parent and waits else []), on=on))
        return members

    def _stored(self, jobs: list[NewJob], *batches: str | None) -> bool:
        """Store all of the jobs, unless a batch that they join has ended; return whether they were stored."""
        all_counts = self.flow.storage.batch_counts([one for one in batches if one])
        is_over = any(counts.is_cancelled for counts in all_counts if counts) or any(
            self.flow.state(one) in FINAL_STATES for one in batches if one
        )
        try:
            self.storage.insert(jobs)
        except BatchFinished:
            assert is_over, "an open batch refused new members"
            assert not any(self.flow.storage.get([job.id for job in jobs])), (
                "jobs of a refused call were stored"
            )
            return False
        assert not is_over, "members were added to an ended batch"
        return True

    def _add(self) -> None:
        """Add members to a batch, whether it is open or not."""
        batch = self.some(self.batches)
        if batch is None or len(self.jobs) >= _MOST_JOBS:
            return
        members = self._new_members(batch, self.random.randint(1, 2))
        was_stored = self._stored(members, batch)
        self.record(f"add {[one.id[-4:] for one in members]} to {batch[-4:]}: {was_stored}")
        if was_stored:
            self.jobs += [job.id for job in members]

    def _claim(self) -> None:
        """Claim some jobs, which are never batches."""
        taken = self.flow.take(self.child, self.random.choice((1, 2, 3)), queues=None)
        self.record(f"claimed {[one.id[-4:] for one in taken]}")
        assert not {one.id for one in taken} & set(self.batches), "a batch was claimed"
        self.held += taken

    def _end_one(self) -> None:
        """End a run in a random way; its result is refused if the run was lost."""
        running = self.some(self.held)
        if running is None:
            return
        self.held.remove(running)
        how = self.random.choice(_HOW)
        changes = {**ends.ENDS, "waits": suspends}
        result = self.flow.apply(changes[how](running))
        self.record(f"{how} {running.id[-4:]}: {result}")

    def _signal(self) -> None:
        """Send a signal to a job, whether it waits or not."""
        job_id = self.some(self.jobs)
        if job_id is not None:
            self.record(f"signal {job_id[-4:]}: {self.flow.send(job_id, 'approval')}")

    def _settle_late(self) -> None:
        """Send the result of a lost run, which must be refused."""
        running = self.some(self.lost)
        if running is not None:
            result = self.flow.apply(ends.succeeds(running))
            self.record(f"late end of {running.id[-4:]}: {result}")
            assert result is Applied.REFUSED

    def _lose(self) -> None:
        """End the session."""
        self.record("the session ends")
        self.flow.lose(self.child, running=None if self.random.random() < 0.7 else [])
        self.lost += self.held
        self.held, self.child = [], self.begin()

    def _delete(self) -> None:
        """Delete a job, usually one that is running or waiting."""
        job_id = self.some(self.jobs)
        if job_id is not None:
            self.record(f"delete {job_id[-4:]}: {self.flow.apply(ends.deletes(job_id))}")

    def _cancel(self) -> None:
        """Cancel a batch, open or not."""
        batch = self.some(self.batches)
        if batch is None:
            return
        was_deleted = self.flow.state(batch) is State.DELETED
        result = self.flow.apply(ends.deletes(batch))
        self.record(f"cancel {batch[-4:]}: {result}")
        assert result.is_applied != was_deleted
        assert was_deleted or (
            self.flow.batch_counts(batch).is_cancelled and not self.flow.batch_counts(batch).is_held
        )

    def _requeue(self) -> None:
        """Requeue a job, usually one that failed."""
        records = self.stored()
        failed = [job.id for job in records.values() if job.state is State.FAILED and job.id in self.jobs]
        job_id = self.some(failed or self.jobs)
        if job_id is None:
            return
        before = records[job_id]
        result = self.flow.apply(ends.requeues(job_id))
        self.record(f"requeue {job_id[-4:]}: {result}")
        around = self._around(before, records)
        all_counts = [self.flow.batch_counts(batch) for batch in around]
        cancelled = [counts.is_cancelled for counts in all_counts]
        if cancelled and cancelled[0]:
            assert result is Applied.REFUSED, "a member of a cancelled batch was requeued"
        elif before.state in FINAL_STATES and not any(cancelled):
            assert result.is_applied
            # If a job for which an unopened batch waits has been deleted, the batch is cancelled.
            is_open = not any(counts.is_unopened for counts in all_counts)
            if is_open and not self._has_branches(around, records):
                self.settle()
                assert self.flow.state(job_id) is State.ENQUEUED, (
                    "a requeued job is stopped by an earlier failure"
                )

    def _around(self, job: JobRecord, records: dict[str, JobRecord]) -> list[str]:
        """Return the batches around a job, from the innermost to the outermost."""
        found = []
        while job.relations is not None and job.relations.batch_id is not None:
            found.append(job.relations.batch_id)
            job = records[job.relations.batch_id]
        return found

    def _has_branches(self, around: list[str], records: dict[str, JobRecord]) -> bool:
        """Return whether these batches contain another batch, which may end and fail after a requeue."""
        inner = [job.id for batch in around for job in self.members(batch, records) if job.is_batch]
        return not set(inner) <= set(around)

    def _requeue_a_batch(self) -> None:
        batch = self.some(self.batches)
        if batch is not None:
            assert self.flow.apply(ends.requeues(batch)) is Applied.REFUSED, "a batch was requeued"

    def _hold(self) -> None:
        """Extend or end the hold of a batch, as its creator does."""
        batch = self.some(self.batches)
        if batch is not None and not self.flow.batch_counts(batch).is_cancelled:
            until = None if self.random.random() < 0.7 else self.flow.now() + 2 * HOUR
            before = self.flow.state(batch)
            result = self.flow.hold(batch, until)
            self.record(f"hold {batch[-4:]} until {until}: {result}")
            assert result.is_applied == (before is State.AWAITING)

    def _upkeep(self) -> None:
        """Move the clock forward, enqueue due jobs, and cancel batches whose creators have disappeared."""
        self.flow.advance(self.random.choice((0, 3_000, 8_000)))
        self.record(f"promote {self.storage.promote(self.random.choice((1, 20))).promoted}")

    _OPERATIONS: dict[Callable[[BatchOperations], None], int] = {  # noqa: RUF012 - never changed
        _open: 6, _add: 6, _claim: 18, _end_one: 22, _signal: 3, _settle_late: 2, _lose: 2, _delete: 4,
        _cancel: 2, _requeue: 8, _requeue_a_batch: 1, _hold: 4, _upkeep: 3,
        BatchGround.release: 16, BatchGround.settle: 5,
    }  # fmt: skip
