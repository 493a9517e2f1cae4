"""The records of a job when it is created, claimed, stored and changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter

import attrs

from firelock.model.dependencies import Edge, Relations, read_relations
from firelock.model.limit import Admission, read_admission
from firelock.model.memo import MemoKind
from firelock.model.meta import read_meta
from firelock.model.state import FINAL_STATES, State


@attrs.define
class NewJob:
    """A job that a client wants to store; `insert` changes its state if a parent has already ended."""

    id: str
    task: str
    arguments: str
    serializer: str
    queue: str
    priority: int
    state: State  # the initial state: awaiting, scheduled or enqueued
    created_at: int
    due_at: int | None = None  # time at which a scheduled job becomes enqueued
    nominal_at: int | None = None  # the time for which a recurring or delayed job was created; never changes
    reason: str | None = None
    tags: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retry: str | None = None  # a `Retry` passed with this call, as JSON
    recurring_id: str | None = None
    # The metadata stored with the job, as `meta.write_meta` returns it; storages do not interpret it.
    meta_json: str | None = None
    admission_json: str | None = None  # the result of `write_admission`; None for most jobs
    parents: tuple[Edge, ...] = ()
    relations_json: str | None = None  # the result of `write_relations`; None for most jobs

    @property
    def meta(self) -> Mapping[str, str]:
        """The job's metadata, read-only; empty if there is none."""
        return read_meta(self.meta_json)

    @property
    def admission(self) -> Admission | None:
        """The job's limits, unique key and start deadline; None if it has none."""
        return None if self.admission_json is None else read_admission(self.admission_json)

    @property
    def relations(self) -> Relations | None:
        """The job's relations to other jobs; None if it has none."""
        return None if self.relations_json is None else read_relations(self.relations_json)

    @property
    def is_plain(self) -> bool:
        """Whether the job needs nothing except a queue and a priority, like most jobs."""
        return _further(self) == _NO_FURTHER


PLAIN_FIELDS = ("id", "task", "arguments", "serializer", "queue", "priority", "created_at")
"""The fields that a plain job sets. Each other field has the same value in every plain job."""

_PLAIN_JOB = NewJob("", "", "", "", "", 0, State.ENQUEUED, 0)


def further_fields(*stored: str) -> tuple[Callable[[NewJob], tuple[object, ...]], tuple[object, ...]]:
    """Return a function that returns the additional fields of a new job, and its result for a plain job.

    The additional fields are all fields except `PLAIN_FIELDS` and `stored`. If the additional fields of all
    jobs are those of a plain job, a storage may use a fast path that does not store these fields. A field
    that is added to `NewJob` later is an additional field, so a fast path never drops it.

    Raises:
        ValueError: If a new job has no such field.
    """
    names = [field.name for field in attrs.fields(NewJob)]
    if unknown := {*stored}.difference(names):
        raise ValueError(f"A new job has no field {', '.join(sorted(unknown))}.")
    read = attrgetter(*(name for name in names if name not in {*PLAIN_FIELDS, *stored}))
    return read, read(_PLAIN_JOB)


_further, _NO_FURTHER = further_fields()


@attrs.define
class ClaimedJob:
    """A job as its session receives it, with only the fields that are necessary to run it."""

    id: str
    task: str
    arguments: str
    serializer: str
    queue: str
    priority: int
    attempt: int  # the number of this attempt, from 1; grows with each claim unless the attempt is given back
    retries: int  # retries scheduled since the creation or the last requeue
    crashes: int  # runs that ended because their process died
    fence: int  # a number that grows with each claim of this job
    created_at: int
    enqueued_at: int  # time at which it last became enqueued, by the storage's clock
    claimed_at: int
    nominal_at: int | None = None
    tags: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retry: str | None = None
    recurring_id: str | None = None
    meta_json: str | None = None
    admission_json: str | None = None
    relations_json: str | None = None
    # Whether the job has memos: see `Storage.recall`. Only this field is not a column, so jobs can be created
    # from the columns by position.
    has_memos: bool = attrs.field(default=False, kw_only=True)

    @property
    def meta(self) -> Mapping[str, str]:
        """The job's metadata, read-only; empty if there is none."""
        return read_meta(self.meta_json)

    @property
    def admission(self) -> Admission | None:
        """The job's limits, unique key and start deadline; None if it has none."""
        return None if self.admission_json is None else read_admission(self.admission_json)

    @property
    def relations(self) -> Relations | None:
        """The job's relations to other jobs; None if it has none."""
        return None if self.relations_json is None else read_relations(self.relations_json)


@attrs.frozen
class ErrorInfo:
    """The failure of an attempt, as strings; exceptions are never rebuilt from it."""

    type: str  # the class of the exception, as module.Qualname
    message: str  # the message, at most 1,000 characters
    fingerprint: str  # equal for failures of the same kind at the same place in the code
    traceback: str | None = None  # limited in size; lines of the application's own frames begin with "→ "


@attrs.frozen
class HistoryEntry:
    """One entry of a job's history, for display."""

    state: State
    at: int
    reason: str | None = None
    attempt: int | None = None  # set if the entry ends an attempt, as are the next three fields
    claimed_at: int | None = None
    started_at: int | None = None  # None if the attempt had not started, or its start was not stored
    server: str | None = None
    elided: int = 0  # number of omitted entries that this entry replaces
    due_at: int | None = None  # the previous due time, if an operator changed a scheduled job


@attrs.frozen
class FailedAttempt:
    """A failed attempt with its traceback."""

    attempt: int
    at: int
    error: ErrorInfo


@attrs.frozen
class JobHistory:
    """The history and errors of a job; both lists are empty for an unknown job."""

    entries: list[HistoryEntry]  # the creation, then each transition that was not silent
    errors: list[FailedAttempt]  # the last failed attempts, at most 20, oldest first


@attrs.frozen
class Progress:
    """The progress that a running job last reported."""

    done: float
    total: float
    at: int
    message: str | None = None


@attrs.frozen
class LogLine:
    """One line that a job logged."""

    number: int  # a number that increases within the job; used as the cursor of a page
    at: int
    level: str
    text: str
    attempt: int = 0


class Standing:
    """The properties of a job that follow from its state and its session."""

    __slots__ = ()

    state: State
    session: str | None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state in FINAL_STATES

    @property
    def is_stopping(self) -> bool:
        """Whether a session that lost the job, for example to a delete, may still be running it."""
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
    # The due time of a scheduled job. For an awaiting job, the timeout of its wait or the end of a batch's
    # hold.
    due_at: int | None = None
    nominal_at: int | None = None
    reason: str | None = None  # the explanation of its state, for display
    enqueued_at: int | None = None
    attempt: int = 0
    retries: int = 0
    crashes: int = 0
    fence: int = 0
    # The session that holds the job; outside `processing` it marks a tail (see `is_stopping`).
    session: str | None = None
    server: str | None = None  # name of the server that holds the job or held it last
    claimed_at: int | None = None
    started_at: int | None = None  # None while the job is claimed and has not started
    ended_at: int | None = None  # time at which the job ended; set only in a final state
    changed_at: int = 0  # time at which it entered its state; lists are ordered by this time
    expires_at: int | None = None  # time from which it may be pruned; set only in a final state
    timeout_seconds: float | None = None
    retry: str | None = None
    recurring_id: str | None = None
    meta_json: str | None = None
    error: ErrorInfo | None = None  # the last failure, without its traceback
    result: str | None = None  # the serialized result; None until the job has succeeded
    result_absent: str | None = None  # the reason why a succeeded job has no result
    parents: tuple[Edge, ...] = ()
    progress: Progress | None = None  # the last report; stored separately, so `find` may omit it
    admission_json: str | None = None
    relations_json: str | None = None
    # The kind and name of the memo for which a suspended job waits; see `memo_words`.
    waits_for: str | None = None

    @property
    def meta(self) -> Mapping[str, str]:
        """The job's metadata, read-only; empty if there is none."""
        return read_meta(self.meta_json)

    @property
    def admission(self) -> Admission | None:
        """The job's limits, unique key and start deadline; None if it has none."""
        return None if self.admission_json is None else read_admission(self.admission_json)

    @property
    def relations(self) -> Relations | None:
        """The job's relations to other jobs; None if it has none."""
        return None if self.relations_json is None else read_relations(self.relations_json)

    @property
    def is_batch(self) -> bool:
        """Whether the job is a batch, which has no task."""
        return self.relations_json is not None and read_relations(self.relations_json).batch is not None

    @property
    def is_retrying(self) -> bool:
        """Whether the job waits for a retry; False for a sleep after a retry."""
        return self.state is State.SCHEDULED and self.retries > 0 and self.waits_for is None


@attrs.define
class Transition:
    """One guarded change of one job; the fields after `fence` are written if the guards hold.

    The guards require that the job is in one of `from_states` and, if `session` is set, that this session
    holds the job with exactly this `fence`. A change without a session comes from an operator. If such a
    change moves a job out of `processing`, the session and fence remain on the job as its tail.

    A suspension has a session. Its target is `awaiting`, or `scheduled` for a sleep. It does not count as an
    attempt. `waits_for` is the memo, and `parents` are the jobs, for which the job waits.
    """

    job_id: str
    from_states: frozenset[State]
    session: str | None
    fence: int | None
    to: State
    at: int  # timestamp for history and lists
    reason: str | None = None
    attempt: int | None = None  # the attempt that ends here; None for an operator's change
    claimed_at: int | None = None
    started_at: int | None = None
    server: str | None = None
    gives_back: bool = False  # whether the attempt does not count, so that 1 is subtracted
    retries: int | None = None  # the new value; None if it does not change
    crashes: int | None = None  # the new value; None if it does not change
    due_at: int | None = None  # due time of a scheduled job
    error: ErrorInfo | None = None  # the new last error; its traceback is kept under `attempt`
    result: str | None = None
    result_absent: str | None = None
    expires_at: int | None = None
    is_silent: bool = (
        False  # whether no history entry is written, as for a hand-back before the start or a repeated wait
    )
    waits_for: str | None = None  # the new description of the job's wait; see `memo_words`
    parents: tuple[Edge, ...] = ()  # jobs that must all end before a suspended job continues
    forget_from: tuple[MemoKind, str] | None = None  # this memo and all later memos are deleted

    @property
    def is_plain_success(self) -> bool:
        """Whether the transition is a success that sets only the fields that every success sets."""
        return _further_of_end(self) == _NO_FURTHER_OF_SUCCESS

    def entry(self) -> HistoryEntry:
        """Return the history entry of this transition; `Storage.apply` completes an operator's entry."""
        return HistoryEntry(
            state=self.to,
            at=self.at,
            reason=self.reason,
            attempt=self.attempt,
            claimed_at=self.claimed_at,
            started_at=self.started_at,
            server=self.server,
        )


# The fields that every success sets, and those that only a suspension or a requeue sets. A success is plain
# if no other field is set, including fields that are added later.
_OF_SUCCESS = (
    "job_id", "session", "fence", "at", "attempt", "claimed_at", "started_at", "server", "result",
    "result_absent", "expires_at",
)  # fmt: skip
_NEVER_OF_SUCCESS = ("waits_for", "parents", "forget_from")
_further_of_end = attrgetter(
    *(
        field.name
        for field in attrs.fields(Transition)
        if field.name not in {*_OF_SUCCESS, *_NEVER_OF_SUCCESS}
    )
)
_NO_FURTHER_OF_SUCCESS = _further_of_end(
    Transition("", frozenset({State.PROCESSING}), "", 0, State.SUCCEEDED, 0)
)


@attrs.frozen
class Move:
    """One guarded change of the queue or priority of a waiting job."""

    job_id: str
    from_states: frozenset[State]  # the job must be in one of these states; a subset of `lifecycle.WAITING`
    at: int  # timestamp for the history
    reason: str
    queue: str | None = None  # the new queue; None if it does not change
    priority: int | None = None  # the new priority; None if it does not change


@attrs.frozen
class Settled:
    """A job with an attempt whose outcome the storage has accepted."""

    job: ClaimedJob
    transition: Transition
    duration: int  # duration of the run, in microseconds; 0 if it never started


@attrs.frozen
class JobFilter:
    """A filter for jobs; a job must match every field that is set."""

    state: State | None = None
    task: str | None = None
    queue: str | None = None
    tag: str | None = None
    server: str | None = None
    fingerprint: str | None = None
    recurring_id: str | None = None
    id_prefix: str | None = None
    parent_id: str | None = None  # id of a job whose continuations match
    since: int | None = None  # inclusive bound for the time by which the list is ordered: see `Storage.find`
    until: int | None = None  # exclusive bound for the same time
    is_retrying: bool | None = None
    by_due: bool | None = None  # if True, the filter matches only scheduled jobs, ordered by `due_at`
    batch_id: str | None = None  # id of a batch whose members match


@attrs.frozen
class FoundJobs:
    """One page of jobs; `cursor` selects the next page, and is None on the last page."""

    jobs: list[JobRecord]
    cursor: str | None
