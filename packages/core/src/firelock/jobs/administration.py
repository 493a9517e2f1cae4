"""The work before and after a requeue, delete, restore or move of a stored job.

`Job` and `fire.jobs` call these functions. The functions explain why a job cannot be changed, build the
change that undoes a delete, and do the work that follows a change: they release continuations and update
batches. None of these functions creates a job.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.errors import ConfigurationError, StorageUnavailable
from firelock.model import lifecycle
from firelock.model.answers import Applied
from firelock.model.job import JobFilter, JobRecord
from firelock.model.state import State
from firelock.options import check_priority, check_queue
from firelock.storage import Storage
from firelock.storage.batches import end_of

if TYPE_CHECKING:
    from firelock.jobs.client import Client
    from firelock.model.job import Transition

log = logging.getLogger("firelock.client")  # not under firelock.jobs, which logs failed attempts

RELEASE_LIMIT = 1_000
_LONGEST_UPDATE, _PAUSE = 1.0, 0.01  # seconds
CHANGED = "it was changed meanwhile"


# ---- reasons for a refused change ------------------------------------------------------------------------


def why_refused(storage: Storage, record: JobRecord, done: str) -> str:
    """Return why the storage refused a change, as part of a sentence.

    `done` is the change as a participle, such as "requeued".
    """
    if done == "deleted":
        return "it is already deleted"
    why = why_not_requeued(storage, record) if done == "requeued" else None
    return why or CHANGED


def why_not_requeued(storage: Storage, record: JobRecord) -> str | None:
    """Return why a job cannot be requeued in its state, as part of a sentence; None if it can."""
    if record.is_batch:
        return "a batch itself does not run; requeue its members"
    if record.state in {State.ENQUEUED, State.PROCESSING}:
        return f"it is already {record.state}"
    if _is_in_cancelled_batch(storage, record):
        return "its batch was cancelled, which is permanent"
    if record.state is State.AWAITING and record.relations is not None and record.relations.inputs:
        return "it waits for the output of another job and cannot run without it"
    return None


def why_not_moved(record: JobRecord) -> str | None:
    """Return why a job cannot be moved to another queue, as part of a sentence; None if it can."""
    if record.is_batch:
        return "a batch is not in a queue; move its members"
    if record.state in lifecycle.WAITING:
        return None
    if record.state is State.PROCESSING:
        return "it is processing, so a server already has it; only waiting jobs can be moved"
    return f"it is {record.state}; only awaiting, scheduled and enqueued jobs can be moved"


@attrs.frozen
class MoveTarget:
    """The target of a move; None keeps the queue or the priority."""

    queue: str | None
    priority: int | None

    def __str__(self) -> str:
        """Return the target as part of a sentence: "to queue bulk and to priority 5"."""
        words = [] if self.queue is None else [f"to queue {self.queue}"]
        words += [] if self.priority is None else [f"to priority {self.priority}"]
        return " and ".join(words)


def to_move_target(queue: str | None, priority: int | None) -> MoveTarget:
    """Return the target of a move.

    Raises:
        ConfigurationError: If neither a queue nor a priority is given, or one of them is not valid.
    """
    if queue is None and priority is None:
        raise ConfigurationError('A move needs a target: pass queue="bulk", priority=10 or both.')
    return MoveTarget(
        None if queue is None else check_queue(queue), None if priority is None else check_priority(priority)
    )


def why_key_is_taken(storage: Storage, record: JobRecord) -> str:
    """Return which job has the unique key that this job needs to run again, and how to proceed."""
    admission = record.admission
    use = None if admission is None else admission.unique
    if use is None:  # the job has changed in the meantime
        return f"Job {record.id} cannot run again now, because another job has its unique key."
    found = storage.find_unique(use.key, limit=1)
    holder = found[0].job_id if found and found[0].key == use.key else "another"
    return (
        f"Job {record.id} cannot run again now, because job {holder} has the unique key "
        f"{use.key.partition(' ')[2]!r} of task {record.task}. Wait until that job has ended, or delete it."
    )


def _is_in_cancelled_batch(storage: Storage, record: JobRecord) -> bool:
    relations = record.relations
    if relations is None or relations.batch_id is None:
        return False
    counts = storage.batch_counts((relations.batch_id,))[0]
    return counts is not None and counts.is_cancelled


# ---- undoing a delete ------------------------------------------------------------------------------------


def restoration(client: Client, record: JobRecord, *, reason: str) -> Transition | str:
    """Return the change that undoes the job's delete, or why it is impossible, as part of a sentence.

    This function reads the job's history, and checks whether the job had continuations. The result might
    describe a later delete, so apply the change with `apply_unless_changed`.
    """
    storage = client.storage
    if record.state is not State.DELETED:
        return f"it is {record.state}, not deleted"
    if record.is_batch:
        return "it is a batch, and a cancelled batch cannot be restored"
    previous = lifecycle.previous_state(storage.history(record.id).entries)
    if previous is None:
        return "its history does not contain its previous state"
    if previous.refusal is not None:
        return previous.refusal
    if _is_in_cancelled_batch(storage, record):
        return "its batch was cancelled, which is permanent"
    if _had_continuations(storage, record.id):
        return "continuations waited for it, and its delete decided whether they run"
    now = client.clock.now()
    expires_at = client.retention.until(previous.state, now)
    return lifecycle.restore(record.id, previous, at=now, reason=reason, expires_at=expires_at)


def _had_continuations(storage: Storage, job_id: str) -> bool:
    page = storage.find(JobFilter(parent_id=job_id), limit=1)
    while not page.jobs and page.cursor is not None:  # a page can be empty even if it is not the last
        page = storage.find(JobFilter(parent_id=job_id), limit=1, cursor=page.cursor)
    return bool(page.jobs)


def apply_unless_changed(
    storage: Storage, changes: Sequence[Transition], seen: Sequence[JobRecord]
) -> list[Applied]:
    """Apply the changes, except to a job that differs from its record in `seen`; its result is REFUSED.

    A change that happens between the read and the write is not detected.
    """
    stored = storage.get([change.job_id for change in changes])
    is_as_seen = [one is None or one == before for one, before in zip(stored, seen, strict=True)]
    wanted = [change for change, is_same in zip(changes, is_as_seen, strict=True) if is_same]
    answers = iter(storage.apply(wanted) if wanted else ())
    return [next(answers) if is_same else Applied.REFUSED for is_same in is_as_seen]


# ---- work after a change ---------------------------------------------------------------------------------


def release_continuations(storage: Storage) -> None:
    """Release the continuations, and the members of cancelled batches, that no longer have to wait.

    This takes at most a second. Servers do the remaining work, or all of it if the storage is unavailable.
    """
    until = time.monotonic() + _LONGEST_UPDATE
    try:
        while storage.release(RELEASE_LIMIT) >= RELEASE_LIMIT and time.monotonic() < until:
            pass
    except StorageUnavailable as error:
        log.warning(
            "Continuations were not released; a server will release them in its next sweep: %s", error
        )


def update_batches(storage: Storage, batch_id: str | None) -> None:
    """Reopen or end a batch and its enclosing batches, depending on the current states of their members.

    This takes at most a second per batch. If another process locks a batch for longer, that process updates
    the batch.
    """
    try:
        while batch_id is not None:
            until = time.monotonic() + _LONGEST_UPDATE
            while True:
                record, counts = storage.get((batch_id,))[0], storage.batch_counts((batch_id,))[0]
                if record is None or counts is None:
                    return
                if record.state in {State.DELETED, end_of(counts)} or time.monotonic() > until:
                    break
                if not storage.release(RELEASE_LIMIT):
                    time.sleep(_PAUSE)  # another process has locked the batch
            batch_id = None if record.relations is None else record.relations.batch_id
    except StorageUnavailable as error:
        log.warning("Batches were not updated; a server will update them in its next sweep: %s", error)
