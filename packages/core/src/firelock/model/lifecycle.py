"""The life of a job as pure functions: (job, event, now) → `Transition`.

A storage applies a transition only if its guards still hold, and does not make decisions itself. A few
decisions must be made by the storage, because only it reads the row in the same operation. These decisions
are defined here as data: `continuation_target` and the reasons in `Moved`.
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
MAX_HOST_LOSSES = 10  # the default for tasks
JOB_PROCESS_DIED = "its process died: {how}"
HISTORY_LIMIT = 100
_HISTORY_HEAD = HISTORY_LIMIT // 2
_SECOND = 1_000_000
_UNKNOWN_FIRST, _UNKNOWN_LONGEST = 15 * _SECOND, 300 * _SECOND

_OF_A_BATCH = (State.AWAITING, State.SUCCEEDED, State.FAILED)  # when a batch's hold changes or the batch ends

# The permitted next states of each state. They are an independent check of the functions below and of the
# histories that storages write.
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
        State.SUCCEEDED: (State.ENQUEUED, State.DELETED, State.AWAITING),  # AWAITING: a batch reopens
        State.FAILED: (State.ENQUEUED, State.DELETED, State.AWAITING),
        State.DELETED: (State.ENQUEUED, State.SCHEDULED, State.FAILED),
    }.items()
}

HELD = frozenset({State.PROCESSING})
RESTORABLE = frozenset({State.SCHEDULED, State.ENQUEUED, State.FAILED})
"""The states to which a deleted job can be restored, because the delete did not remove any data they need."""
WAITING = frozenset({State.AWAITING, State.SCHEDULED, State.ENQUEUED})
"""The states in which a job can be moved to another queue: no worker holds it yet, but one will run it."""
_WAITING_FOR_TIME = frozenset({State.SCHEDULED})
_DELETED = frozenset({State.DELETED})
_DELETABLE = frozenset(State) - _DELETED
_REQUEUABLE = frozenset(State) - {State.ENQUEUED, State.PROCESSING}


class Moved(StrEnum):
    """The reasons that a storage writes when it changes the state of a job on its own."""

    DUE = "due"
    PARENT_ENDED = "parent {state}"
    PARENT_GONE = "parent removed before it ended as required"
    SESSION_LOST = "server lost while the job was running"
    WORKER_DIED = "its worker process died: {how}"
    WORKER_DIED_ALONE = "its worker process died while it ran only this job: {how}"
    NOT_STARTED = "server lost before the job started"
    DUPLICATES = "{count} duplicate calls"
    SIGNALLED = "signal {name}"
    BATCH_OPENED = "its batch has opened"
    WAITS_FOR_BATCH = "runs when its batch opens"
    SWEPT = "its batch was cancelled"
    STOPPED = "another member of its batch failed"
    REOPENED = "a member runs again"
    HOLD_EXPIRED = "its creator stopped before adding all members"
    TO_QUEUE = "moved from queue {before}, priority {priority_before}, to queue {after}, priority {priority}"
    BATCH_ENDED = "{failed:,} of {total:,} members failed"
    BATCH_STUCK = "{failed:,} of {total:,} members failed, {waiting:,} cannot start"
    ONLY_MEMBER_FAILED = "its only member failed"


def batch_failure_reason(*, failed: int, total: int, waiting: int) -> str:
    """Return the reason for the failure of a batch with these counts.

    The waiting members can never start, because the jobs for which they wait have not ended as required.
    """
    if failed == total == 1:
        return str(Moved.ONLY_MEMBER_FAILED)
    reason = Moved.BATCH_STUCK if waiting else Moved.BATCH_ENDED
    return reason.format(failed=failed, total=total, waiting=waiting)


@attrs.frozen
class Retention:
    """How long ended jobs are kept, by state, in microseconds; None keeps them forever."""

    succeeded: int | None
    failed: int | None
    deleted: int | None

    def until(self, state: State, at: int) -> int | None:
        """Return the time when a job that ended at `at` may be pruned; None for never."""
        span: int | None = getattr(self, state, None)
        return None if span is None else at + span


# ---- the end of an attempt -------------------------------------------------------------------------------


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
    """Return the success of a job whose task returned, with its result or the reason why it has none."""
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
    """Return the retry of a job whose task raised an exception: `scheduled`, or `enqueued` without a wait."""
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
    """Return the failure of a job whose task raised an exception and that has no retries left."""
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
    """Return the deletion of a job whose retries are used up, if its policy deletes such jobs."""
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
    """Return the failure of a job with a part that no release can read.

    The job is not retried, and the stored string is kept.
    """
    reason = f"{what} cannot be read: {error.message}"
    return _end(job, holder, State.FAILED, at, None, reason=reason, error=error, expires_at=expires_at)


def snoozed(
    job: ClaimedJob, holder: ClaimHolder, *, at: int, started_at: int, wait: int, reason: str
) -> Transition:
    """Return the snooze of a job: the job is scheduled to run again later, and its attempt is given back.

    The job is scheduled even if the wait is zero. If it were enqueued directly, it would keep its position
    ahead of all jobs that have waited in the meantime.
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
    """Return the suspension of a job that waits, without a worker, for a signal or for other jobs.

    The attempt is given back. `due_at` is the timeout, after which the job continues in any case. If the
    signal has already arrived or the jobs have already ended, the storage enqueues the job immediately.
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
    """Return the suspension of a job that sleeps without a worker until a time; its attempt is given back."""
    return _end(
        job, holder, State.SCHEDULED, at, started_at, reason=reason, gives_back=True, due_at=due_at,
        waits_for=waits_for,
    )  # fmt: skip


def stopped(
    job: ClaimedJob, holder: ClaimHolder, *, at: int, reason: str, expires_at: int | None
) -> Transition:
    """Return the deletion of a claimed job that does not start, because its batch or its caller has ended."""
    return _end(job, holder, State.DELETED, at, None, reason=reason, expires_at=expires_at)


def handed_back(
    job: ClaimedJob, holder: ClaimHolder, *, at: int, started_at: int | None, reason: str
) -> Transition:
    """Return the hand-back of a job: it returns to its old place in the queue, and its attempt is given back.

    If the job never started, no history entry is written.
    """
    is_silent = started_at is None
    return _end(
        job, holder, State.ENQUEUED, at, started_at, reason=reason, gives_back=True, is_silent=is_silent
    )


def not_started(
    job: ClaimedJob, holder: ClaimHolder, *, at: int, before: int, expires_at: int | None
) -> Transition:
    """Return the deletion of a job that never ran, because its start deadline has passed."""
    reason = f"not started before {clock_time(before)}"
    return _end(job, holder, State.DELETED, at, None, reason=reason, expires_at=expires_at)


def unknown_task(job: ClaimedJob, holder: ClaimHolder, *, at: int) -> Transition:
    """Return the postponement of a job whose task is not registered here, until another server can run it.

    The attempt is given back. The wait grows with the job's age, from 15 s to 5 min. Only the first wait is
    written to the history. If the job has run before, each wait is written, unless the caller makes the
    transition silent because of an earlier wait.
    """
    reason = (
        f"task {job.task!r} is not registered on server {holder.server}; waiting for a server that has it"
    )
    return _postponed(job, holder, at, reason)


def unknown_serializer(job: ClaimedJob, holder: ClaimHolder, *, at: int) -> Transition:
    """Return the postponement of a job whose serializer is not installed here; see `unknown_task`."""
    missing = f"serializer {job.serializer!r} is not installed on server {holder.server}"
    return _postponed(job, holder, at, f"{missing}; waiting for a server that has it")


def unread_part(job: ClaimedJob, holder: ClaimHolder, *, at: int, what: str) -> Transition:
    """Return the postponement of a job with a part that only a newer release can read; see `unknown_task`."""
    reason = f"{what} cannot be read on server {holder.server}; waiting for a server of a newer release"
    return _postponed(job, holder, at, reason)


def unprepared(job: ClaimedJob, holder: ClaimHolder, *, at: int, why: str) -> Transition:
    """Return the postponement of a job that failed to start with an unexpected error; see `unknown_task`."""
    reason = f"could not be started on server {holder.server}: {why}; trying again later"
    return _postponed(job, holder, at, reason)


def _postponed(job: ClaimedJob, holder: ClaimHolder, at: int, reason: str) -> Transition:
    age = max(0, at - job.created_at)
    due_at = at + min(_UNKNOWN_LONGEST, max(_UNKNOWN_FIRST, age // 2))
    # If the job was postponed before, it became enqueued at least 15 s after the time for which it was
    # created, no matter how long it then waited in the queue. The same is true of a job that has run and was
    # enqueued again by a retry, requeue or crash. The waits of such a job are never silent, because a wait
    # that is written twice is better than a missing one.
    nominal_at = job.created_at if job.nominal_at is None else job.nominal_at
    has_run = (job.attempt, job.retries, job.crashes) != (1, 0, 0)
    is_silent = job.enqueued_at - nominal_at >= _UNKNOWN_FIRST and not has_run
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
    """Return the transition of a job whose job process died.

    Unlike any other crash, this crash was certainly caused by the job. With the third crash, the job fails.
    Until then, the job is enqueued and the attempt does not count.
    """
    crashes = job.crashes + 1
    is_over = crashes >= CRASH_LIMIT
    return _end(
        job, holder, State.FAILED if is_over else State.ENQUEUED, at, started_at, reason=reason,
        gives_back=not is_over, crashes=crashes, error=error, expires_at=expires_at if is_over else None,
    )  # fmt: skip


@attrs.frozen
class Crashes:
    """The crashes of a job since it was last requeued, according to its history."""

    losses: int  # crashes in which it was running when its worker process died or its server was lost
    alone: str | None  # the reason for the last crash if the worker process ran only this job; otherwise None


def crashes_of(history: Sequence[HistoryEntry], count: int) -> Crashes:
    """Return the last `count` crashes of a job.

    When a worker process dies, its running jobs are known. If a whole server is lost, only jobs whose start
    was stored count as running. Entries that a long history has omitted are not counted.
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
    """Return the end of the attempt that the holder has claimed, guarded by the fence of that claim."""
    return Transition(
        job.id, HELD, holder.session, job.fence, to, at, attempt=job.attempt, claimed_at=job.claimed_at,
        started_at=started_at, server=holder.server, **written,
    )  # fmt: skip


# ---- changes by operators --------------------------------------------------------------------------------


def delete(job_id: str, *, at: int, reason: str, expires_at: int | None) -> Transition:
    """Return an operator's deletion of a job in any state.

    A running job is cancelled and leaves a tail.
    """
    return Transition(job_id, _DELETABLE, None, None, State.DELETED, at, reason, expires_at=expires_at)


def requeue(
    job_id: str, *, at: int, reason: str, forget_from: tuple[MemoKind, str] | None = None
) -> Transition:
    """Return an operator's requeue of a job: the job is enqueued, and its retries and crashes are reset.

    Its memos are kept, except `forget_from` and all later memos.
    """
    return Transition(
        job_id, _REQUEUABLE, None, None, State.ENQUEUED, at, reason, retries=0, crashes=0,
        forget_from=forget_from,
    )  # fmt: skip


_AWAITING = frozenset({State.AWAITING})


def hold(batch_id: str, *, at: int, until: int | None) -> Transition:
    """Return the change that holds a batch until this time, when it is cancelled; None ends the hold."""
    return Transition(batch_id, _AWAITING, None, None, State.AWAITING, at, due_at=until, is_silent=True)


def reschedule(job_id: str, *, at: int, due_at: int, reason: str) -> Transition:
    """Return an operator's change of a scheduled job's due time; the number of retries does not change."""
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
    """Return an operator's move of a waiting job to another queue or priority."""
    return Move(job_id=job_id, from_states=from_states, at=at, reason=reason, queue=queue, priority=priority)


def restore(
    job_id: str, previous: PreviousState, *, at: int, reason: str, expires_at: int | None
) -> Transition:
    """Return the restoration of a deleted job to its earlier state, at the end of its queue.

    The numbers of retries and crashes do not change. `expires_at` is used only if the previous state was
    `failed`.

    Raises:
        ValueError: The earlier state is not in `RESTORABLE`; see `PreviousState.refusal`.
    """
    if previous.state not in RESTORABLE:
        raise ValueError(f"Job {job_id} cannot be {previous.state} again: {previous.refusal}.")
    return Transition(
        job_id, _DELETED, None, None, previous.state, at, reason,
        due_at=previous.due_at if previous.state is State.SCHEDULED else None,
        expires_at=expires_at if previous.state is State.FAILED else None,
    )  # fmt: skip


_LOST = {
    State.PROCESSING: "it was running when it was deleted, and may have done part of its work",
    State.SUCCEEDED: "it had succeeded, and the delete removed its result",
    State.AWAITING: "it waited for another job, a signal or its batch, and the delete ended this wait",
}


@attrs.frozen
class PreviousState:
    """The state of a deleted job before it was deleted."""

    state: State
    due_at: int | None = None  # set only for a scheduled job

    @property
    def refusal(self) -> str | None:
        """Why the job cannot be restored to this state, as part of a sentence; None if it can be restored."""
        return _LOST.get(self.state)


def previous_state(history: Sequence[HistoryEntry]) -> PreviousState | None:
    """Return the state of a deleted job before its delete; None if the last history entry is not a delete.

    The whole history of the job must be passed.
    """
    if len(history) < 2 or history[-1].state is not State.DELETED:  # noqa: PLR2004 - a creation and a delete
        return None
    last = history[-1]
    if last.attempt is None and last.due_at is not None:
        return PreviousState(State.SCHEDULED, last.due_at)
    return PreviousState(State.PROCESSING if last.attempt is not None else history[-2].state)


# ---- decisions of a storage, as data ---------------------------------------------------------------------

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
    """Return the next state of a continuation whose parent is in this state; None while it keeps waiting.

    A failed parent can be requeued, so a continuation that waits for its success or deletion keeps waiting.
    """
    return _TARGETS.get((on, parent))


def batch_end(
    *, active: int, waiting: int, failed: int, is_cancelled: bool, is_stopping: bool
) -> State | None:
    """Return the state in which a batch ends according to its counts; None while it is open.

    Call this function only for a batch that is cancelled, or that has opened and has no hold.

    Args:
        active: members that can still change state on their own.
        waiting: members that wait for another member.
        failed: members that have failed.
        is_cancelled: whether the batch, or a job that it waited for, was deleted.
        is_stopping: whether a member has failed, which stops the others. It is False again when the batch
            ends or a member is requeued.
    """
    if active > 0 or (waiting > 0 and (is_cancelled or is_stopping)):
        return None
    if is_cancelled:
        return State.DELETED
    return State.FAILED if failed or waiting else State.SUCCEEDED


def awaiting_reason(on: On, parent_id: str) -> str:
    """Return the explanation of a continuation's wait, for display."""
    return f"runs when {parent_id} {_WISHES[on]}"


def waiting_reason(on: On, parent: State) -> str:
    """Return the explanation of a continuation's wait after its parent has ended, for display."""
    return f"parent {parent}; runs when it {_WISHES[on]}"


def is_legal(before: State, after: State) -> bool:
    """Return whether a job may change from one state to the other."""
    return after in ALLOWED[before]


def add_duplicate(entries: Sequence[HistoryEntry], state: State, at: int) -> list[HistoryEntry]:
    """Return the history with one more duplicate call that changed the job; such calls share one entry."""
    last = entries[-1] if entries else None
    count = re.fullmatch(r"([0-9]+) duplicate calls?", (last.reason or "") if last is not None else "")
    number = int(count[1]) + 1 if count else 1
    reason = Moved.DUPLICATES.format(count=number) if number > 1 else "1 duplicate call"
    entry = HistoryEntry(state, at, reason)
    return [*entries[:-1], entry] if count else bounded_history(entries, entry)


def bounded_history(entries: Sequence[HistoryEntry], entry: HistoryEntry) -> list[HistoryEntry]:
    """Return the history with one more entry, at most `HISTORY_LIMIT` entries long.

    If it would be longer, the first half and the newest entries are kept. Between them is one entry with the
    number of omitted entries, and with the state and time of the last of them.
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
