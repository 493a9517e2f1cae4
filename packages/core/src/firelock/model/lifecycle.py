"""The life of a job as pure functions: (job, event, now) → `Transition`.

A storage applies a transition only if its guards still hold and decides nothing itself. What a storage has to
decide alone, because only it sees the row at that instant, stands here as data: `continuation_target` and the
reasons of `Moved`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import attrs

from firelock.model.dependencies import Edge, On
from firelock.model.job import ClaimedJob, ErrorInfo, HistoryEntry, Move, Transition
from firelock.model.memo import MemoKind
from firelock.model.session import ClaimHolder
from firelock.model.state import State
from firelock.model.text import clock_time

CRASH_LIMIT = 3
MAX_HOST_LOSSES = 10  # of a task that does not set another bound
JOB_PROCESS_DIED = "its process died: {how}"
HISTORY_LIMIT = 100
_HISTORY_HEAD = HISTORY_LIMIT // 2
_SECOND = 1_000_000
_UNKNOWN_FIRST, _UNKNOWN_LONGEST = 15 * _SECOND, 300 * _SECOND

_OF_A_BATCH = (State.AWAITING, State.SUCCEEDED, State.FAILED)  # its hold is moved on; it ends

# Where each state may go, as an undirected check on everything below and on every storage's history.
ALLOWED: dict[State, frozenset[State]] = {
    before: frozenset(after)
    for before, after in {
        State.AWAITING: (State.ENQUEUED, State.DELETED, State.SCHEDULED, *_OF_A_BATCH),
        State.SCHEDULED: (State.SCHEDULED, State.ENQUEUED, State.DELETED),
        State.ENQUEUED: (State.PROCESSING, State.DELETED),
        State.PROCESSING: (
            State.SUCCEEDED,
            State.FAILED,
            State.DELETED,
            State.SCHEDULED,
            State.ENQUEUED,
            State.AWAITING,
        ),
        State.SUCCEEDED: (State.ENQUEUED, State.DELETED, State.AWAITING),  # the last: a batch is open again
        State.FAILED: (State.ENQUEUED, State.DELETED, State.AWAITING),
        State.DELETED: (State.ENQUEUED, State.SCHEDULED, State.FAILED),
    }.items()
}

HELD = frozenset({State.PROCESSING})
RESTORABLE = frozenset({State.SCHEDULED, State.ENQUEUED, State.FAILED})
"""What a deleted job can be again: nothing of these is lost with the delete."""
WAITING = frozenset({State.AWAITING, State.SCHEDULED, State.ENQUEUED})
"""The states in which a job can be moved to another queue: no worker has it, and one will."""
_WAITING_FOR_TIME = frozenset({State.SCHEDULED})
_DELETED = frozenset({State.DELETED})
_DELETABLE = frozenset(State) - _DELETED
_REQUEUABLE = frozenset(State) - {State.ENQUEUED, State.PROCESSING}


class Moved(StrEnum):
    """The reasons a storage writes when it moves a job by itself."""

    DUE = "due"
    PARENT_ENDED = "parent {state}"
    PARENT_GONE = "parent removed before it ended as wanted"
    SESSION_LOST = "server lost while the job was running"
    WORKER_DIED = "its worker process died: {how}"
    WORKER_DIED_ALONE = "its worker process died while it ran only this job: {how}"
    NOT_STARTED = "server lost before the job started"
    DUPLICATES = "{count} duplicate calls"
    SIGNALLED = "signal {name}"
    LET_IN = "its batch has opened"
    SHUT_OUT = "runs when its batch opens"
    SWEPT = "its batch was cancelled"
    STOPPED = "another member of its batch failed"
    REOPENED = "a member runs again"
    HOLD_OVER = "whoever filled it was gone"
    TO_QUEUE = "moved from queue {before}, priority {priority_before}, to queue {after}, priority {priority}"
    BATCH_ENDED = "{failed:,} of {total:,} members failed"
    BATCH_STUCK = "{failed:,} of {total:,} members failed, {waiting:,} cannot start"


def batch_failure_reason(*, failed: int, total: int, waiting: int) -> str:
    """Return the reason with which a batch fails, from the counts of its counts.

    Members that wait can never start: the jobs for which they wait have ended otherwise than they need.
    """
    reason = Moved.BATCH_STUCK if waiting else Moved.BATCH_ENDED
    return reason.format(failed=failed, total=total, waiting=waiting)


@attrs.frozen
class Retention:
    """How long ended jobs stay, in micros, by their state; None keeps them."""

    succeeded: int | None
    failed: int | None
    deleted: int | None

    def until(self, state: State, at: int) -> int | None:
        """Return when a job that ended at this instant may be pruned; None for never."""
        span: int | None = getattr(self, state, None)
        return None if span is None else at + span


# ---- how an attempt ends ---------------------------------------------------------------------------------


def succeeded(
    job: ClaimedJob,
    holder: ClaimHolder,
    *,
    at: int,
    started_at: int,
    result: str | None,
    result_absent: str | None,
    expires_at: int | None,
) -> Transition:
    """The task returned: the job is succeeded and keeps its result, or the reason why there is none."""
    return _end(
        job, holder, State.SUCCEEDED, at, started_at, result=result, result_absent=result_absent,
        expires_at=expires_at,
    )  # fmt: skip


def retried(
    job: ClaimedJob,
    holder: ClaimHolder,
    *,
    at: int,
    started_at: int | None,
    wait: int,
    reason: str,
    error: ErrorInfo,
) -> Transition:
    """The task raised and has retries left: it waits in `scheduled`, or is `enqueued` at once for no wait."""
    to, due_at = (State.SCHEDULED, at + wait) if wait > 0 else (State.ENQUEUED, None)
    return _end(
        job, holder, to, at, started_at, reason=reason, retries=job.retries + 1, due_at=due_at, error=error
    )


def failed(
    job: ClaimedJob,
    holder: ClaimHolder,
    *,
    at: int,
    started_at: int | None,
    reason: str,
    error: ErrorInfo,
    expires_at: int | None,
) -> Transition:
    """The task raised and nothing is left to try: the job is failed."""
    return _end(job, holder, State.FAILED, at, started_at, reason=reason, error=error, expires_at=expires_at)


def deleted_by_policy(
    job: ClaimedJob,
    holder: ClaimHolder,
    *,
    at: int,
    started_at: int | None,
    reason: str,
    error: ErrorInfo,
    expires_at: int | None,
) -> Transition:
    """The task raised for the last time and its policy prefers to delete it."""
    return _end(job, holder, State.DELETED, at, started_at, reason=reason, error=error, expires_at=expires_at)


def undecodable(
    job: ClaimedJob,
    holder: ClaimHolder,
    *,
    at: int,
    error: ErrorInfo,
    expires_at: int | None,
    what: str = "arguments",
) -> Transition:
    """No release can read this part of the job: the job is failed, never retried, its stored string kept."""
    reason = f"{what} cannot be read: {error.message}"
    return _end(job, holder, State.FAILED, at, None, reason=reason, error=error, expires_at=expires_at)


def snoozed(
    job: ClaimedJob, holder: ClaimHolder, *, at: int, started_at: int, wait: int, reason: str
) -> Transition:
    """The task asked to be run later: it is scheduled and the attempt is given back.

    Also for no wait at all: what goes straight back keeps its place, ahead of all that waited meanwhile.
    """
    return _end(
        job, holder, State.SCHEDULED, at, started_at, reason=reason, gives_back=True, due_at=at + wait
    )


def suspended(
    job: ClaimedJob,
    holder: ClaimHolder,
    *,
    at: int,
    started_at: int,
    waits_for: str,
    reason: str,
    parents: tuple[Edge, ...] = (),
    due_at: int | None = None,
) -> Transition:
    """The task waits without a worker for a signal or for other jobs; the attempt is given back.

    `due_at` is when it goes on all the same. Where what it waits for is there, it is enqueued at once.
    """
    return _end(
        job, holder, State.AWAITING, at, started_at, reason=reason, gives_back=True, due_at=due_at,
        waits_for=waits_for, parents=parents,
    )  # fmt: skip


def slept(
    job: ClaimedJob,
    holder: ClaimHolder,
    *,
    at: int,
    started_at: int,
    waits_for: str,
    reason: str,
    due_at: int,
) -> Transition:
    """The task sleeps without a worker until an instant; the attempt is given back."""
    return _end(
        job, holder, State.SCHEDULED, at, started_at, reason=reason, gives_back=True, due_at=due_at,
        waits_for=waits_for,
    )  # fmt: skip


def stopped(
    job: ClaimedJob, holder: ClaimHolder, *, at: int, reason: str, expires_at: int | None
) -> Transition:
    """The job's batch was cancelled, or its caller has ended: it is deleted, and was never run."""
    return _end(job, holder, State.DELETED, at, None, reason=reason, expires_at=expires_at)


def handed_back(
    job: ClaimedJob, holder: ClaimHolder, *, at: int, started_at: int | None, reason: str
) -> Transition:
    """The server gives the job back: it is enqueued at its old place and the attempt is given back.

    A job that never started leaves no trace of it in its history.
    """
    is_silent = started_at is None
    return _end(
        job, holder, State.ENQUEUED, at, started_at, reason=reason, gives_back=True, is_silent=is_silent
    )


def not_started(
    job: ClaimedJob, holder: ClaimHolder, *, at: int, before: int, expires_at: int | None
) -> Transition:
    """The instant is over before which the job was to start: it is deleted, and was never run."""
    reason = f"not started before {clock_time(before)}"
    return _end(job, holder, State.DELETED, at, None, reason=reason, expires_at=expires_at)


def unknown_task(job: ClaimedJob, holder: ClaimHolder, *, at: int) -> Transition:
    """No task of that name is known here: it waits for a server that knows it; the attempt is given back.

    The wait grows with the job's age, from 15 s to 5 min. Only the first wait is written to the history; of a
    job that has run before each one is, unless the caller knows of a former one and makes it silent.
    """
    reason = f"task {job.task!r} is not registered on server {holder.server}; waiting for one that knows it"
    return _put_off(job, holder, at, reason)


def unknown_serializer(job: ClaimedJob, holder: ClaimHolder, *, at: int) -> Transition:
    """What wrote the arguments is not installed here: as for a task that is not known."""
    missing = f"serializer {job.serializer!r} is not installed on server {holder.server}"
    return _put_off(job, holder, at, f"{missing}; waiting for one that has it")


def unread_part(job: ClaimedJob, holder: ClaimHolder, *, at: int, what: str) -> Transition:
    """This release cannot read a part of the job, but a newer one might: as for a task that is not known."""
    reason = f"{what} cannot be read on server {holder.server}; waiting for one of a newer release"
    return _put_off(job, holder, at, reason)


def unprepared(job: ClaimedJob, holder: ClaimHolder, *, at: int, why: str) -> Transition:
    """An unexpected error kept the job from starting: as for a task that is not known."""
    reason = f"could not be started on server {holder.server}: {why}; trying again later"
    return _put_off(job, holder, at, reason)


def _put_off(job: ClaimedJob, holder: ClaimHolder, at: int, reason: str) -> Transition:
    age = max(0, at - job.created_at)
    due_at = at + min(_UNKNOWN_LONGEST, max(_UNKNOWN_FIRST, age // 2))
    # Who was put off before became enqueued again later than it was made for, however long it waited then.
    # One that has run did as well, by its retry, requeue or crash: rather a wait told twice than never.
    made_for = job.created_at if job.nominal_at is None else job.nominal_at
    has_run = (job.attempt, job.retries, job.crashes) != (1, 0, 0)
    is_silent = job.enqueued_at - made_for >= _UNKNOWN_FIRST and not has_run
    return _end(
        job,
        holder,
        State.SCHEDULED,
        at,
        None,
        reason=reason,
        gives_back=True,
        due_at=due_at,
        is_silent=is_silent,
    )


def crashed_alone(
    job: ClaimedJob,
    holder: ClaimHolder,
    *,
    at: int,
    started_at: int,
    reason: str,
    error: ErrorInfo,
    expires_at: int | None,
) -> Transition:
    """The job's own process died with it: the only crash that is surely its own.

    Failed from the third crash on, else enqueued with the attempt given back.
    """
    crashes = job.crashes + 1
    is_over = crashes >= CRASH_LIMIT
    return _end(
        job, holder, State.FAILED if is_over else State.ENQUEUED, at, started_at, reason=reason,
        gives_back=not is_over, crashes=crashes, error=error, expires_at=expires_at if is_over else None,
    )  # fmt: skip


@attrs.frozen
class Crashes:
    """The crashes of a job since it was last requeued, as its history shows them."""

    losses: int  # it was running when its worker process died or its server was lost
    alone: str | None  # the reason of the last one if its worker process ran only this job; otherwise None


def crashes_of(history: Sequence[HistoryEntry], count: int) -> Crashes:
    """Return the crashes of a job that has so many.

    The running jobs of a worker process are known when it dies. Of a server that is lost as a whole only the
    jobs with a stored start count as running. Entries that a long history has left out are not counted.
    """
    crashed = [entry for entry in history if entry.attempt is not None and _is_crash(entry)]
    crashed = crashed[-count:] if count else []
    alone = crashed[-1].reason if crashed and _says(crashed[-1], Moved.WORKER_DIED_ALONE) else None
    return Crashes(sum(map(_is_loss, crashed)), alone)


def _is_crash(entry: HistoryEntry) -> bool:
    return _says(entry, Moved.SESSION_LOST, Moved.WORKER_DIED, Moved.WORKER_DIED_ALONE, JOB_PROCESS_DIED)


def _is_loss(crash: HistoryEntry) -> bool:
    if _says(crash, Moved.SESSION_LOST):
        return crash.started_at is not None
    return not _says(crash, JOB_PROCESS_DIED)


def _says(entry: HistoryEntry, *reasons: str) -> bool:
    beginnings = tuple(reason.partition("{")[0] for reason in reasons)
    return (entry.reason or "").startswith(beginnings)


def _end(
    job: ClaimedJob,
    holder: ClaimHolder,
    to: State,
    at: int,
    started_at: int | None,
    **written: Any,  # noqa: ANN401 - fields of the transition
) -> Transition:
    """Return the end of the attempt that the holder was given, under its fence."""
    return Transition(
        job.id, HELD, holder.session, job.fence, to, at, attempt=job.attempt, claimed_at=job.claimed_at,
        started_at=started_at, server=holder.server, **written,
    )  # fmt: skip


# ---- what people ask for ---------------------------------------------------------------------------------


def delete(job_id: str, *, at: int, reason: str, expires_at: int | None) -> Transition:
    """An operator deletes the job, whatever its state; a running one is told to stop and leaves a tail."""
    return Transition(job_id, _DELETABLE, None, None, State.DELETED, at, reason, expires_at=expires_at)


def requeue(
    job_id: str, *, at: int, reason: str, forget_from: tuple[MemoKind, str] | None = None
) -> Transition:
    """An operator runs the job again: it is enqueued with its retries and crashes given back.

    What it remembers stays, but for this memo and all that were recorded since.
    """
    return Transition(
        job_id, _REQUEUABLE, None, None, State.ENQUEUED, at, reason, retries=0, crashes=0,
        forget_from=forget_from,
    )  # fmt: skip


_AWAITING = frozenset({State.AWAITING})


def hold(batch_id: str, *, at: int, until: int | None) -> Transition:
    """Whoever fills the batch holds it until then, when it is cancelled; for None it holds it no more."""
    return Transition(batch_id, _AWAITING, None, None, State.AWAITING, at, due_at=until, is_silent=True)


def reschedule(job_id: str, *, at: int, due_at: int, reason: str) -> Transition:
    """An operator moves a scheduled job to another instant; its retries stay counted."""
    return Transition(job_id, _WAITING_FOR_TIME, None, None, State.SCHEDULED, at, reason, due_at=due_at)


def move(
    job_id: str,
    *,
    at: int,
    queue: str | None,
    priority: int | None,
    reason: str,
    from_states: frozenset[State] = WAITING,
) -> Move:
    """An operator moves a waiting job to another queue, or gives it another priority."""
    return Move(job_id=job_id, from_states=from_states, at=at, reason=reason, queue=queue, priority=priority)


def restore(job_id: str, former: Former, *, at: int, reason: str, expires_at: int | None) -> Transition:
    """An operator takes a delete back: the job is what it was before, at the end of its queue.

    Retries and crashes stay counted. `expires_at` is that of a failed job.

    Raises:
        ValueError: the former state is none of `RESTORABLE`; see `Former.refusal`.
    """
    if former.state not in RESTORABLE:
        raise ValueError(f"Job {job_id} cannot be {former.state} again: {former.refusal}.")
    return Transition(
        job_id, _DELETED, None, None, former.state, at, reason,
        due_at=former.due_at if former.state is State.SCHEDULED else None,
        expires_at=expires_at if former.state is State.FAILED else None,
    )  # fmt: skip


_LOST = {
    State.PROCESSING: "it was running when it was deleted, and may have done part of its work",
    State.SUCCEEDED: "it had succeeded, and its result went with the delete",
    State.AWAITING: "it waited for another job, a signal or its batch, and that went with the delete",
}


@attrs.frozen
class Former:
    """What a deleted job was when it was deleted."""

    state: State
    due_at: int | None = None  # of a scheduled job

    @property
    def refusal(self) -> str | None:
        """Why the job cannot be that again, as the rest of a sentence; None where it can."""
        return _LOST.get(self.state)


def former(history: Sequence[HistoryEntry]) -> Former | None:
    """Return what a deleted job was, told by its whole history; None where its last step is no delete."""
    if len(history) < 2 or history[-1].state is not State.DELETED:  # noqa: PLR2004 - a creation and a delete
        return None
    last = history[-1]
    if last.attempt is None and last.due_at is not None:
        return Former(State.SCHEDULED, last.due_at)
    return Former(State.PROCESSING if last.attempt is not None else history[-2].state)


# ---- what a storage decides, as data ---------------------------------------------------------------------

_TARGETS: dict[tuple[On, State], State] = {
    (On.SUCCEEDED, State.SUCCEEDED): State.ENQUEUED,
    (On.SUCCEEDED, State.DELETED): State.DELETED,
    (On.FAILED, State.FAILED): State.ENQUEUED,
    (On.FAILED, State.SUCCEEDED): State.DELETED,
    (On.FAILED, State.DELETED): State.DELETED,
    (On.DELETED, State.DELETED): State.ENQUEUED,
    (On.DELETED, State.SUCCEEDED): State.DELETED,
    (On.FINISHED, State.SUCCEEDED): State.ENQUEUED,
    (On.FINISHED, State.FAILED): State.ENQUEUED,
    (On.FINISHED, State.DELETED): State.ENQUEUED,
}

_WISHES = {
    On.SUCCEEDED: "has succeeded",
    On.FAILED: "has failed",
    On.DELETED: "is deleted",
    On.FINISHED: "has ended",
}


def continuation_target(on: On, parent: State) -> State | None:
    """Return where a continuation goes when its parent is in this state; None while it goes on waiting.

    A failed parent may be requeued, so a child that waits for another end than failure goes on waiting.
    """
    return _TARGETS.get((on, parent))


def batch_end(
    *, active: int, waiting: int, failed: int, is_cancelled: bool, is_stopping: bool
) -> State | None:
    """Return the state in which a batch ends by its counts; None while it is open.

    Not asked of a batch that is held, nor of one whose `after` is not met unless it is cancelled.

    Args:
        active: members that may still move by themselves.
        waiting: members that wait for another member.
        failed: members that have failed.
        is_cancelled: somebody has deleted it, or what it is after was deleted.
        is_stopping: a member has failed since, and that stops the rest; over when the batch ends or a member
            is requeued.
    """
    if active > 0 or (waiting > 0 and (is_cancelled or is_stopping)):
        return None
    if is_cancelled:
        return State.DELETED
    return State.FAILED if failed or waiting else State.SUCCEEDED


def awaiting_reason(on: On, parent_id: str) -> str:
    """Return what a continuation waits for, for people."""
    return f"runs when {parent_id} {_WISHES[on]}"


def waiting_reason(on: On, parent: State) -> str:
    """Return why a continuation still waits although its parent has ended, for people."""
    return f"parent {parent}; runs when it {_WISHES[on]}"


def is_legal(before: State, after: State) -> bool:
    """Tell whether a job may go from one state to the other."""
    return after in ALLOWED[before]


def add_duplicate(entries: Sequence[HistoryEntry], state: State, at: int) -> list[HistoryEntry]:
    """Return the history with one call more that changed the waiting job; such calls share an entry."""
    last = entries[-1] if entries else None
    count = re.fullmatch(r"([0-9]+) duplicate calls?", (last.reason or "") if last is not None else "")
    number = int(count[1]) + 1 if count else 1
    reason = Moved.DUPLICATES.format(count=number) if number > 1 else "1 duplicate call"
    entry = HistoryEntry(state, at, reason)
    return [*entries[:-1], entry] if count else bounded_history(entries, entry)


def bounded_history(entries: Sequence[HistoryEntry], entry: HistoryEntry) -> list[HistoryEntry]:
    """Return the history with one entry more, at most `HISTORY_LIMIT` long.

    Past the limit the first half stays, the newest entries stay, and between them stands one entry with the
    number of those left out, the state and instant of the last of them.
    """
    history = [*entries, entry]
    excess = len(history) - HISTORY_LIMIT
    if excess <= 0:
        return history
    rest = _HISTORY_HEAD + excess + 1
    middle = history[_HISTORY_HEAD:rest]
    elided = sum(one.elided or 1 for one in middle)
    mark = HistoryEntry(middle[-1].state, middle[-1].at, elided=elided)
    return [*history[:_HISTORY_HEAD], mark, *history[rest:]]
