"""The rules of unique keys, which decide whether a call stores a job.

The row of a key contains the id of a job. Whether the job still has the key is computed from the job itself.
Therefore a job does not have to release its key when it ends, and a key cannot remain taken by mistake. Every
storage in Python runs this code; the Redis storage implements the same rules in Lua.
"""

from __future__ import annotations

import attrs

from firelock.errors import DuplicateJob
from firelock.limits.admission import is_late
from firelock.model.job import NewJob
from firelock.model.limit import Admission, UniqueUse, Until
from firelock.model.state import FINAL_STATES, State


@attrs.frozen
class UniqueRow:
    """The stored row of a unique key."""

    job_id: str
    mark: int  # the job's `starts_of` when it took the key
    free_at: int = 0  # time until which the key is taken, regardless of the job


@attrs.frozen
class JobFacts:
    """The relevant fields of the job in a unique key's row."""

    state: State
    attempt: int
    crashes: int
    is_held: bool  # whether a session holds the job, running or as a tail
    enqueued_at: int | None
    admission: Admission


def starts_of(attempt: int, crashes: int) -> int:
    """Return the number of a job's starts; a hand-back subtracts a start, but a crash or a retry does not."""
    return attempt + crashes


def unique_is_taken(row: UniqueRow, job: JobFacts | None, now: int) -> bool:
    """Return whether the job in the key's row still has the key; pass None for a deleted job."""
    if now < row.free_at:
        return True
    if job is None or job.admission.unique is None:
        return False
    is_unstarted = starts_of(job.attempt, job.crashes) == row.mark
    if is_unstarted and job.state is not State.PROCESSING and job.enqueued_at is not None:
        at, first = job.enqueued_at, starts_of(job.attempt, job.crashes)
        if is_late(job.admission, enqueued_at=at, attempt=first, crashes=0, now=now):
            return False
    match job.admission.unique.until:
        case Until.DUE:
            return job.state is State.SCHEDULED and is_unstarted
        case Until.STARTED:
            return job.state not in (*FINAL_STATES, State.PROCESSING) and is_unstarted
        case Until.SUCCEEDED:
            return job.state not in (State.SUCCEEDED, State.DELETED) or job.is_held
        case _:
            return job.state not in FINAL_STATES or job.is_held


def refuse_duplicate(use: UniqueUse, row: UniqueRow, job: JobFacts | None) -> None:
    """Reject a call whose key is taken, unless the call can return the job that has the key.

    Raises:
        DuplicateJob: The call must not return another job (`raises`), or the job was deleted and still runs,
            so that no job would run for the call.
    """
    owner, _, key = use.key.partition(" ")
    shown = f"unique key {key!r} of task {owner!r}"
    if job is not None and job.state is State.DELETED and job.is_held:
        raise DuplicateJob(
            f"Job {row.job_id} has the {shown}, and still runs although it was deleted. Nothing was stored. "
            "Repeat the call after that job has stopped.",
            row.job_id,
        )
    if use.raises:
        raise DuplicateJob(f"Job {row.job_id} has the {shown}. Nothing was stored.", row.job_id)


def replaces(use: UniqueUse, row: UniqueRow, job: JobFacts | None) -> bool:
    """Return whether the call's arguments, tags, priority and limits replace those of the existing job."""
    return use.keeps_last and job is not None and _is_changeable(row, job)


def debounced_due(
    use: UniqueUse, row: UniqueRow, job: JobFacts | None, *, created_at: int, now: int
) -> int | None:
    """Return the new due time of the job that has the key, after this call; None if it does not change."""
    if use.wait is None or job is None or job.state is not State.SCHEDULED or not _is_changeable(row, job):
        return None
    due_at = now + use.wait
    return due_at if use.max_wait is None else min(due_at, created_at + use.max_wait)


def _is_changeable(row: UniqueRow, job: JobFacts) -> bool:
    if job.admission.unread is not None:
        return False  # only a newer release can read all fields of the job and change it safely
    is_waiting = job.state in (State.AWAITING, State.SCHEDULED, State.ENQUEUED)
    return is_waiting and not job.is_held and starts_of(job.attempt, job.crashes) == row.mark


def taken_by(job: NewJob, now: int) -> UniqueRow:
    """Return the row of the unique key of a new job."""
    use = job.admission.unique if job.admission is not None else None
    return UniqueRow(job.id, 0, now + use.at_least if use is not None and use.at_least else 0)
