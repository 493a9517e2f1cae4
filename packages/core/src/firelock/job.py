"""The frozen values that travel between client, storage and server; no behaviour, no I/O.

Instants are micros (see `clock`). Values built for every job (`NewJob`, `ClaimedJob`, `Transition` in
`lifecycle`) are plain slotted classes built by position, since a frozen one costs five times as much; nobody
changes one after it was built.
"""

from __future__ import annotations

from enum import StrEnum

import attrs

__all__ = [
    "FINAL_STATES",
    "Attempt",
    "ClaimedJob",
    "Edge",
    "ErrorInfo",
    "HistoryEntry",
    "JobRecord",
    "LogLine",
    "NewJob",
    "On",
    "Progress",
    "State",
]


class State(StrEnum):
    """The seven states of a job; the text is what is stored."""

    AWAITING = "awaiting"
    SCHEDULED = "scheduled"
    ENQUEUED = "enqueued"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DELETED = "deleted"


FINAL_STATES = frozenset({State.SUCCEEDED, State.FAILED, State.DELETED})


class On(StrEnum):
    """The end of a parent that a continuation waits for."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DELETED = "deleted"
    FINISHED = "finished"


@attrs.frozen
class Edge:
    """A continuation's tie to its parent."""

    parent_id: str
    on: On = On.SUCCEEDED


@attrs.define
class NewJob:
    """What a client asks a storage to store; `insert` turns its state where the parent has already ended."""

    id: str
    task: str
    arguments: str
    serializer: str
    queue: str
    priority: int
    state: State  # awaiting, scheduled or enqueued
    created_at: int
    due_at: int | None = None  # when a scheduled job becomes enqueued
    nominal_at: int | None = None  # the instant the job was made for: recurring or delayed; never changes
    reason: str | None = None
    tags: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retry: str | None = None  # a `Retry` given for this call, as its JSON
    recurring_id: str | None = None
    parents: tuple[Edge, ...] = ()


@attrs.define
class ClaimedJob:
    """A job as its session received it: what running it needs and no more."""

    id: str
    task: str
    arguments: str
    serializer: str
    queue: str
    priority: int
    attempt: int  # the number of this run, from 1; grows with each claim unless given back
    retries: int  # retries already scheduled since creation or the last requeue
    crashes: int  # runs that ended with their process
    fence: int  # grows with every claim of this job
    created_at: int
    enqueued_at: int  # when it last became enqueued, by the storage's clock
    claimed_at: int
    nominal_at: int | None = None
    tags: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retry: str | None = None
    recurring_id: str | None = None


@attrs.frozen
class ErrorInfo:
    """How an attempt failed, as text; an exception is never rebuilt from it."""

    type: str  # module.Qualname of the exception
    message: str  # at most 1,000 characters
    fingerprint: str  # equal for failures of the same kind at the same place
    traceback: str | None = None  # bounded; lines of the application's own frames begin with "→ "


@attrs.frozen
class HistoryEntry:
    """One step of a job's life, as people read it."""

    state: State
    at: int
    reason: str | None = None
    attempt: int | None = None  # set where the entry ends an attempt, with the three below
    claimed_at: int | None = None
    started_at: int | None = None  # empty where the attempt had not started, or nobody had said so yet
    server: str | None = None
    elided: int = 0  # above 0: this entry stands for that many left out here
    due_at: int | None = None  # where somebody took a scheduled job away: when it would have been due


@attrs.frozen
class Attempt:
    """A failed attempt with its traceback."""

    attempt: int
    at: int
    error: ErrorInfo


@attrs.frozen
class Progress:
    """How far a running job says it is."""

    done: float
    total: float
    at: int
    message: str | None = None


@attrs.frozen
class LogLine:
    """One line that a job logged."""

    number: int  # ascends within the job; the page cursor
    at: int
    level: str
    text: str
    attempt: int = 0


@attrs.frozen
class JobRecord:
    """A job as it is stored, without its history, tracebacks, log lines and progress."""

    id: str
    task: str
    arguments: str
    serializer: str
    state: State
    queue: str
    priority: int
    created_at: int
    tags: tuple[str, ...] = ()
    due_at: int | None = None  # set while scheduled
    nominal_at: int | None = None
    reason: str | None = None  # why it is in this state, for people
    enqueued_at: int | None = None
    attempt: int = 0
    retries: int = 0
    crashes: int = 0
    fence: int = 0
    session: str | None = None  # the holder; outside `processing` it marks a tail (see `is_stopping`)
    server: str | None = None  # name of the server that holds it or held it last
    claimed_at: int | None = None
    started_at: int | None = None  # empty while claimed and not started
    ended_at: int | None = None  # set in a final state
    changed_at: int = 0  # when it came into its state; lists are in this order
    expires_at: int | None = None  # when it may be pruned; set in a final state
    timeout_seconds: float | None = None
    retry: str | None = None
    recurring_id: str | None = None
    error: ErrorInfo | None = None  # the last failure, without its traceback
    result: str | None = None  # serialized; None until succeeded
    result_absent: str | None = None  # why a succeeded job has no result
    parents: tuple[Edge, ...] = ()

    @property
    def is_final(self) -> bool:
        """Tell whether the job has ended."""
        return self.state in FINAL_STATES

    @property
    def is_stopping(self) -> bool:
        """Tell whether a holder that lost the job by delete may still be running it."""
        return self.session is not None and self.state is not State.PROCESSING

    @property
    def is_retrying(self) -> bool:
        """Tell whether the job waits for a retry."""
        return self.state is State.SCHEDULED and self.retries > 0
