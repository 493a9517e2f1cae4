"""A scene with batches, members and memos, and an independent count of a batch's members."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import attrs

from firelock.model import lifecycle
from firelock.model.batch import BATCH_TASK, BatchCounts, BatchRules
from firelock.model.clock import SECOND
from firelock.model.dependencies import Edge, On, Relations, write_relations
from firelock.model.job import JobRecord, NewJob, Transition
from firelock.model.lifecycle import Moved
from firelock.model.memo import (
    Chunk,
    Memo,
    MemoKind,
    NewMemo,
    Remembered,
    chunk_offset,
    memo_words,
)
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.storage import Applied, Storage
from firelock.testing.conformance.race import until_none_is_left
from firelock.testing.conformance.scene import STAMP, Running, Scene


class FlowScene(Scene):
    """A scene with batches, members and memos."""

    # ---- batches -----------------------------------------------------------------------------------------

    def new_batch(
        self, name: str = "nightly", *, within: str | None = None, after: Iterable[str] = (),
        on: On = On.SUCCEEDED, fails_fast: bool = False,
        keeps: tuple[int | None, int | None, int | None] = (None, None, None), **fields: object,
    ) -> NewJob:  # fmt: skip
        """Return a batch without a hold, with these fields changed.

        If given, `within` is the batch to which it belongs, and `after` are the jobs for which it waits.
        """
        relations = Relations(within, batch=BatchRules(name, fails_fast, keeps))
        parents = tuple(Edge(one, on) for one in after)
        defaults = {"task": BATCH_TASK, "arguments": "{}", "state": State.AWAITING, "parents": parents}
        return self.new_tied(relations, {**defaults, **fields})

    def new_tied(self, relations: Relations, fields: Mapping[str, object] | None = None) -> NewJob:
        """Return a job with these relations, and with these fields changed."""
        colocate_with = relations.batch_id or relations.caller_id
        return self.new_job(
            **{"colocate_with": colocate_with, "relations_json": write_relations(relations), **(fields or {})}
        )

    def new_member(self, batch: str, *parents: str, on: On = On.SUCCEEDED, **fields: object) -> NewJob:
        """Return a member of the batch, which waits for the parents if there are any."""
        edges = tuple(Edge(one, on) for one in parents)
        waits = {"state": State.AWAITING, "parents": edges} if parents else {}
        return self.new_tied(Relations(batch), {**waits, **fields})

    def batch(self, name: str = "nightly", **fields: object) -> str:
        """Store a batch; return its id."""
        job = self.new_batch(name, **fields)  # type: ignore[arg-type]  # as in `new_batch`
        self.storage.insert([job])
        return job.id

    def member(self, batch: str, *parents: str, on: On = On.SUCCEEDED, **fields: object) -> str:
        """Store a member of the batch; return its id."""
        job = self.new_member(batch, *parents, on=on, **fields)
        self.storage.insert([job])
        return job.id

    def batch_of(self, number: int, **fields: object) -> tuple[str, list[str]]:
        """Store a batch and this number of members in one call; return the ids of batch and members."""
        batch = self.new_batch(**fields)  # type: ignore[arg-type]  # as in `new_batch`
        members = [self.new_member(batch.id) for _ in range(number)]
        self.storage.insert([batch, *members])
        return batch.id, [one.id for one in members]

    def hold(self, batch: str, until: int | None) -> Applied:
        """Hold the batch until this time, or end its hold if the time is None; return the result."""
        return self.apply(lifecycle.hold(batch, at=self.stamp(), until=until))

    def batch_counts(self, batch: str) -> BatchCounts:
        """Return the counts of the batch, which must exist."""
        (counts,) = self.storage.batch_counts([batch])
        assert counts is not None, f"job {batch} is not a batch"
        return counts

    def counts(self, batch: str) -> tuple[int, int, int, int, int, int]:
        """Return the numbers of total, active, waiting, succeeded, failed and deleted members."""
        one = self.batch_counts(batch)
        return one.total, one.active, one.waiting, one.succeeded, one.failed, one.deleted

    def settle_all(self, limit: int = 100) -> int:
        """Call `release` until nothing is left to do; return the sum of its results."""
        return until_none_is_left(lambda: self.storage.release(limit))

    def running(self, holder: ClaimHolder, *job_ids: str) -> list[Running]:
        """Claim exactly these jobs for the holder; return the claims in this order."""
        taken = {one.id: one for one in self.take(holder)}
        assert sorted(job_ids) == sorted(taken), f"claimed {sorted(taken)}, expected {sorted(job_ids)}"
        return [taken[one] for one in job_ids]

    # ---- memos -------------------------------------------------------------------------------------------

    def keep(
        self, running: Running, name: str, value: str | None = '"kept"', *, kind: MemoKind = MemoKind.STEP,
        is_done: bool = True, replaces: bool = True,
    ) -> Remembered:  # fmt: skip
        """Store a memo for the run; return the result."""
        memo = Memo(kind, name, value, is_done, self.stamp(), STAMP, running.job.attempt)
        return self.remember(
            NewMemo(running.id, memo, running.holder.session, running.job.fence, replaces=replaces)
        )

    def begin_wait(self, running: Running, name: str, until: int | None = None) -> Remembered:
        """Store the beginning of the run's wait for a signal."""
        value = None if until is None else str(until)
        return self.keep(running, name, value, kind=MemoKind.SIGNAL, is_done=False)

    def time_out(self, running: Running, name: str) -> Remembered:
        """Store the time-out of the run's wait for a signal."""
        memo = Memo(MemoKind.SIGNAL, name, None, True, self.stamp(), None, running.job.attempt, "timeout")
        return self.remember(NewMemo(running.id, memo, running.holder.session, running.job.fence))

    def send(self, job_id: str, name: str, value: str = '"yes"', author: str = "ada") -> Applied:
        """Send the job a signal from outside; return the result."""
        return self.remember(signal(job_id, name, value, author)).answer

    def remember(self, memo: NewMemo) -> Remembered:
        """Store this one memo; return the result."""
        (result,) = self.storage.remember([memo])
        return result

    def recalled(self, job_id: str) -> dict[tuple[MemoKind, str], str | None]:
        """Return the values of the job's memos, ordered by place."""
        memos = self.storage.recall(job_id)
        assert memos is not None, f"job {job_id} is not stored"
        places = [memo.place for memo in memos]
        assert sorted(set(places)) == places, f"places do not ascend: {places}"
        return {(memo.kind, memo.name): memo.value for memo in memos}

    def recall_of(self, running: Running) -> list[Memo] | None:
        """Return the memos that the run can read."""
        return self.storage.recall(running.id, session=running.holder.session, fence=running.job.fence)

    def append(self, running: Running, stream: str, *pieces: str, first: int = 0) -> int | None:
        """Emit these pieces from the run, numbered from `first`; return the storage's result."""
        chunks = [
            Chunk(stream, chunk_offset(running.job.fence, number), piece)
            for number, piece in enumerate(pieces, first)
        ]
        return self.storage.append_stream(
            running.id, chunks, session=running.holder.session, fence=running.job.fence
        )


# ---- memos and waits -------------------------------------------------------------------------------------


def signal(job_id: str, name: str, value: str = '"yes"', author: str = "ada", at: int = STAMP) -> NewMemo:
    """Return the memo of a signal that is sent from outside the job."""
    return NewMemo(job_id, Memo(MemoKind.SIGNAL, name, value, True, at, author=author))


def suspends(
    running: Running, name: str = "approval", *, kind: MemoKind = MemoKind.SIGNAL,
    children: Iterable[str] = (), due_at: int | None = None,
) -> Transition:  # fmt: skip
    """Return the transition of a run that frees its worker and waits for this memo."""
    claimed_at = running.job.claimed_at
    return lifecycle.suspended(
        running.job, running.holder, at=claimed_at + 2 * SECOND, started_at=claimed_at + SECOND,
        waits_for=memo_words(kind, name), reason=f"waits for {name}", due_at=due_at,
        parents=tuple(Edge(child, On.FINISHED) for child in children),
    )  # fmt: skip


def sleeps(running: Running, name: str, *, due_at: int) -> Transition:
    """Return the transition of a run that frees its worker and sleeps until the due time."""
    claimed_at = running.job.claimed_at
    return lifecycle.slept(
        running.job, running.holder, at=claimed_at + 2 * SECOND, started_at=claimed_at + SECOND,
        waits_for=memo_words(MemoKind.SLEEP, name), reason=f"sleeps {name}", due_at=due_at,
    )  # fmt: skip


def forgets(job_id: str, kind: MemoKind, name: str, *, at: int = STAMP) -> Transition:
    """Return an operator's requeue of the job, which deletes this memo and all later ones."""
    return lifecycle.requeue(job_id, at=at, reason="again by ada", forget_from=(kind, name))


def call_memo(running: Running, name: str, *children: str) -> NewMemo:
    """Return the memo that a run stores before it calls these jobs."""
    value = json.dumps({"ids": list(children), "attempt": running.job.attempt})
    memo = Memo(MemoKind.CALL, name, value, False, STAMP, STAMP, running.job.attempt)
    return NewMemo(running.id, memo, running.holder.session, running.job.fence)


# ---- independent counts ----------------------------------------------------------------------------------


def recount(storage: Storage, batch_id: str, records: Iterable[JobRecord]) -> BatchCounts:
    """Return the counts of a batch, computed from all jobs when nothing is left to release.

    This does not use the code that maintains the counts, so that they are not checked against themselves.
    """
    jobs = {job.id: job for job in records}
    members = [
        job for job in jobs.values() if job.relations is not None and job.relations.batch_id == batch_id
    ]
    (stored,) = storage.batch_counts([batch_id])
    assert stored is not None, f"job {batch_id} is not a batch"
    inner = {job.id: counts for job in members if job.is_batch for counts in storage.batch_counts([job.id])}
    waiting = [job.id for job in members if _waits(job, inner)]
    ended = {state: [job for job in members if job.state is state] for state in _ENDS}
    active = [job for job in members if (not job.is_final and job.id not in waiting) or job.is_stopping]
    return attrs.evolve(
        stored, total=len(members), active=len(active), waiting=len(waiting),
        succeeded=len(ended[State.SUCCEEDED]), failed=len(ended[State.FAILED]),
        deleted=len(ended[State.DELETED]), batches=len(inner),
    )  # fmt: skip


_ENDS = (State.SUCCEEDED, State.FAILED, State.DELETED)


def _waits(job: JobRecord, inner: dict[str, BatchCounts | None]) -> bool:
    """Return whether the member waits only for another member."""
    if job.state is not State.AWAITING or job.waits_for is not None:
        return False
    if job.is_batch:
        counts = inner[job.id]
        assert counts is not None
        return bool(job.parents) and counts.is_unopened and not counts.is_cancelled
    has_open_parents = job.reason != Moved.WAITS_FOR_BATCH
    return bool(job.parents) and has_open_parents
