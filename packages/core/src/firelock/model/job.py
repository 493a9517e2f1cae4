"""A job: as it is created, claimed, stored and changed."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

import attrs

from firelock.model.dependencies import Edge, Relations, read_relations
from firelock.model.limit import Admission, read_admission
from firelock.model.memo import MemoKind
from firelock.model.meta import read_meta
from firelock.model.state import FINAL_STATES, State


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
    meta_json: str | None = None  # what travels with it, as `meta.write_meta` gives it; opaque to a storage
    admission_json: str | None = None  # as `write_admission` gives it; None for most jobs
    parents: tuple[Edge, ...] = ()
    relations_json: str | None = None  # as `write_relations` gives it; None for most jobs

    @property
    def meta(self) -> Mapping[str, str]:
        """What travels with it, read only; empty for nothing."""
        return read_meta(self.meta_json)

    @property
    def admission(self) -> Admission | None:
        """What it asks before it starts; None for nothing."""
        return None if self.admission_json is None else read_admission(self.admission_json)

    @property
    def relations(self) -> Relations | None:
        """What it is to other jobs; None for nothing."""
        return None if self.relations_json is None else read_relations(self.relations_json)

    @property
    def is_plain(self) -> bool:
        """Tell whether it asks for nothing but a queue and a priority, as most jobs do."""
        return _asked(self) == _NOTHING_ASKED


_asked = attrgetter(
    "state", "due_at", "nominal_at", "reason", "tags", "timeout_seconds", "retry", "recurring_id",
    "meta_json", "admission_json", "parents", "relations_json",
)  # fmt: skip
_NOTHING_ASKED = (State.ENQUEUED, None, None, None, (), None, None, None, None, None, (), None)


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
    meta_json: str | None = None
    admission_json: str | None = None
    relations_json: str | None = None
    has_memos: bool = False  # something is remembered of it: see `Storage.recall`

    @property
    def meta(self) -> Mapping[str, str]:
        """What travels with it, read only; empty for nothing."""
        return read_meta(self.meta_json)

    @property
    def admission(self) -> Admission | None:
        """What it asks before it starts; None for nothing."""
        return None if self.admission_json is None else read_admission(self.admission_json)

    @property
    def relations(self) -> Relations | None:
        """What it is to other jobs; None for nothing."""
        return None if self.relations_json is None else read_relations(self.relations_json)


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
class JobHistory:
    """What a job has been through; both are empty for an unknown one."""

    entries: list[HistoryEntry]  # its creation, then one step after another that was not silent
    errors: list[Attempt]  # oldest first, the last 20 at most


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


class Standing:
    """How a job stands, as its state and its holder tell."""

    __slots__ = ()

    state: State
    session: str | None

    @property
    def is_final(self) -> bool:
        """Tell whether the job has ended."""
        return self.state in FINAL_STATES

    @property
    def is_stopping(self) -> bool:
        """Tell whether a holder that lost the job by delete may still be running it."""
        return self.session is not None and self.state is not State.PROCESSING


@attrs.frozen
class JobRecord(Standing):
    """A job as it is stored, without its history, tracebacks and log lines."""

    id: str
    task: str
    arguments: str
    serializer: str
    state: State
    queue: str
    priority: int
    created_at: int
    tags: tuple[str, ...] = ()
    due_at: int | None = None  # set while scheduled; while awaiting: a wait's time-out, or a batch's hold
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
    meta_json: str | None = None
    error: ErrorInfo | None = None  # the last failure, without its traceback
    result: str | None = None  # serialized; None until succeeded
    result_absent: str | None = None  # why a succeeded job has no result
    parents: tuple[Edge, ...] = ()
    progress: Progress | None = None  # how far it last said it is; stored apart, so `find` may leave it out
    admission_json: str | None = None
    relations_json: str | None = None
    waits_for: str | None = None  # the memo that a suspended job waits for, kind and name; see `memo_words`

    @property
    def meta(self) -> Mapping[str, str]:
        """What travels with it, read only; empty for nothing."""
        return read_meta(self.meta_json)

    @property
    def admission(self) -> Admission | None:
        """What it asks before it starts; None for nothing."""
        return None if self.admission_json is None else read_admission(self.admission_json)

    @property
    def relations(self) -> Relations | None:
        """What it is to other jobs; None for nothing."""
        return None if self.relations_json is None else read_relations(self.relations_json)

    @property
    def is_batch(self) -> bool:
        """Tell whether it is a batch, which has no task."""
        return self.relations_json is not None and read_relations(self.relations_json).batch is not None

    @property
    def is_retrying(self) -> bool:
        """Tell whether the job waits for a retry; one that sleeps after a retry does not."""
        return self.state is State.SCHEDULED and self.retries > 0 and self.waits_for is None


@attrs.define
class Transition:
    """One guarded change of one job; every field after `fence` says what is written if the guards hold.

    Guards: the job is in one of `from_states`; and, where `session` is set, that session holds it with
    exactly this `fence`. Without a session the change is an operator's: if it takes a job out of
    `processing`, session and fence stay as its tail.

    A suspension has a session and the target `awaiting`, or `scheduled` for a sleep: it gives the attempt
    back and says in `waits_for` which memo the job waits for, and by `parents` which jobs.
    """

    job_id: str
    from_states: frozenset[State]
    session: str | None
    fence: int | None
    to: State
    at: int  # stamp for history and lists
    reason: str | None = None
    attempt: int | None = None  # the attempt that ends here; None for an operator's change
    claimed_at: int | None = None
    started_at: int | None = None
    server: str | None = None
    gives_back: bool = False  # the attempt does not count: attempt − 1
    retries: int | None = None  # new value; None leaves it
    crashes: int | None = None  # new value; None leaves it
    due_at: int | None = None  # for `scheduled`
    error: ErrorInfo | None = None  # replaces the last error; its traceback is kept under `attempt`
    result: str | None = None
    result_absent: str | None = None
    expires_at: int | None = None
    is_silent: bool = (
        False  # writes no history entry: a hand-back of a job that never started, a repeated wait
    )
    waits_for: str | None = None  # see `memo_words`; what a job waited for before is written over
    parents: tuple[Edge, ...] = ()  # that a suspended job waits for until all have ended
    forget_from: tuple[MemoKind, str] | None = None  # this memo and all recorded since are forgotten

    @property
    def is_plain_success(self) -> bool:
        """Tell whether it says no more than that the task has returned."""
        return _odd(self) == _NOTHING_ODD

    def entry(self) -> HistoryEntry:
        """Return what this transition adds to the job's history; see `Storage.apply` for an operator's."""
        return HistoryEntry(
            state=self.to,
            at=self.at,
            reason=self.reason,
            attempt=self.attempt,
            claimed_at=self.claimed_at,
            started_at=self.started_at,
            server=self.server,
        )


_odd = attrgetter(
    "to", "from_states", "reason", "error", "retries", "crashes", "due_at", "gives_back", "is_silent"
)
_NOTHING_ODD = (State.SUCCEEDED, frozenset({State.PROCESSING}), None, None, None, None, None, False, False)


@attrs.frozen
class Move:
    """One guarded change of a waiting job: it waits in another queue, or with another priority."""

    job_id: str
    from_states: frozenset[State]  # the job is in one of these, which are among `lifecycle.WAITING`
    at: int  # stamp for the history
    reason: str
    queue: str | None = None  # None leaves it
    priority: int | None = None  # None leaves it


@attrs.frozen
class Settled:
    """A job whose attempt ended and whose end was accepted by the storage."""

    job: ClaimedJob
    transition: Transition
    duration: int  # of the run, in micros; 0 where it never started


@attrs.frozen
class JobFilter:
    """Which jobs; every field that is set must match."""

    state: State | None = None
    task: str | None = None
    queue: str | None = None
    tag: str | None = None
    server: str | None = None
    fingerprint: str | None = None
    recurring_id: str | None = None
    id_prefix: str | None = None
    parent_id: str | None = None  # the continuations of a job
    since: int | None = None  # inclusive, by the order of the list: see `Storage.find`
    until: int | None = None  # exclusive
    is_retrying: bool | None = None
    by_due: bool | None = None  # True: scheduled jobs alone, and `due_at` is the time they are in order of
    batch_id: str | None = None  # the members of a batch


@attrs.frozen
class FoundJobs:
    """One page of jobs; `cursor` opens the next one, None after the last."""

    jobs: list[JobRecord]
    cursor: str | None
