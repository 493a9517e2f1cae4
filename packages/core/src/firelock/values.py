"""The values that travel between client, storage and server, and the text of what one asks; no I/O.

In this order: the job, what the end of an attempt changes, the verbs' answers, sessions, queries, records.
Instants are micros (see `clock`). Values built for every job (`NewJob`, `Inserted`, `ClaimedJob`,
`Transition`) are plain slotted classes built by position, since a frozen one costs five times as much; only
the client changes one, a `NewJob` before it is stored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeVar

import attrs

from firelock.errors import StorageError, StorageUnavailable
from firelock.meta import read_meta


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
    carries: bool = False  # the parent's result is among its arguments: see `Ties.inputs`


# ---- what ties jobs together -----------------------------------------------------------------------------


@attrs.frozen
class Input:
    """A place in a job's arguments that the result of another one fills; null stands there in the text."""

    job_id: str
    path: tuple[str | int, ...]  # the parameter's name, then keys and places within its JSON value


@attrs.frozen
class BatchRules:
    """What makes a job a batch: it has no task, is never run, and ends when no member of it can go on."""

    name: str  # for people
    fails_fast: bool = False  # the first failure stops the rest
    keeps: tuple[int | None, int | None, int | None] = (None, None, None)
    """How long it stays in micros, once it has succeeded, failed or is deleted; None for ever."""

    def expiry(self, state: State, at: int) -> int | None:
        """Return when it may be pruned if it ends so at this instant."""
        keep = self.keeps[_ENDS.index(state)]
        return None if keep is None else at + keep


_ENDS = (State.SUCCEEDED, State.FAILED, State.DELETED)


@attrs.frozen
class Ties:
    """What a job is to others beside waiting for them; most are nothing."""

    batch_id: str | None = None  # of which it is a member; fixed
    caller_id: str | None = None  # the job that made it within a step and waits for its result
    inputs: tuple[Input, ...] = ()  # from parents whose edges carry
    batch: BatchRules | None = None  # set for a batch itself
    unread: str | None = None  # the stored string, if this release cannot read all of it: see `read_ties`


BATCH_TASK = "firelock:batch"
"""What stands where a batch, which has no task, would have its name."""


@attrs.frozen
class Tally:
    """How far a batch is, all of one instant."""

    total: int = 0  # members; an inner batch is one
    active: int = 0  # that may still move by themselves, or that run although they were deleted
    waiting: int = 0  # that wait for another member
    succeeded: int = 0
    failed: int = 0
    deleted: int = 0
    is_held: bool = False  # while it is filled
    is_shut: bool = False  # what it is after has not ended
    is_cancelled: bool = False  # for good
    is_stopping: bool = False  # a member has failed, and the rest is stopped therefore

    @property
    def ended(self) -> int:
        """How many members have succeeded, failed or were deleted."""
        return self.succeeded + self.failed + self.deleted

    @property
    def progress(self) -> float:
        """How much of it has ended, from 0 to 1; falls by adding and by requeue alone."""
        return self.ended / self.total if self.total else 1.0


# ---- what lets a job start -------------------------------------------------------------------------------


@attrs.frozen
class LimitUse:
    """A key that a job holds while a server has it, and what its start costs there."""

    key: str
    cost: int = 1  # units of the key's rate, at least 0
    is_strict: bool = False  # it keeps the key from its first start to its end, retries included
    more: str | None = None  # fields of a newer release, as JSON; kept as they are


class Until(StrEnum):
    """How long a job keeps its unique key; the text is what is stored."""

    STARTED = "started"  # until it is claimed
    ENDED = "ended"  # until it has succeeded, failed or was deleted, and nothing runs it any more
    SUCCEEDED = "succeeded"  # as above, but a failed job keeps it
    DUE = "due"  # while it is scheduled and was never claimed: a debounced one


@attrs.frozen
class UniqueUse:
    """A key that one job has at a time, and what becomes of a call while another has it."""

    key: str  # as stored: the task's lasting name, a blank, the key
    until: Until = Until.ENDED
    at_least: int = 0  # micros from when it was taken
    keeps_last: bool = False  # the call's arguments, tags, priority and limits replace those of the job
    raises: bool = False  # the call is refused; else it is answered by the job
    wait: int | None = None  # micros that a call puts the job off: it is debounced
    max_wait: int | None = None  # micros from the first call at which it is due at the latest
    more: str | None = None  # fields of a newer release, as JSON; kept as they are


@attrs.frozen
class Admission:
    """What a job asks before it is stored, or before it starts; most ask nothing."""

    limits: tuple[LimitUse, ...] = ()  # its lane, in this order
    unique: UniqueUse | None = None
    start_before: int | None = None  # an instant; a job not claimed by then is deleted unrun
    start_within: int | None = None  # micros from when it first became enqueued, likewise
    more: str | None = None  # fields of a newer release, as JSON; kept as they are
    unread: str | None = None  # the stored string, if this release cannot read all: see `read_admission`


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
    ties_json: str | None = None  # as `write_ties` gives it; None for most jobs

    @property
    def meta(self) -> Mapping[str, str]:
        """What travels with it, read only; empty for nothing."""
        return read_meta(self.meta_json)

    @property
    def admission(self) -> Admission | None:
        """What it asks before it starts; None for nothing."""
        return None if self.admission_json is None else read_admission(self.admission_json)

    @property
    def ties(self) -> Ties | None:
        """What it is to other jobs; None for nothing."""
        return None if self.ties_json is None else read_ties(self.ties_json)

    @property
    def is_plain(self) -> bool:
        """Tell whether it asks for nothing but a queue and a priority, as most jobs do."""
        return _asked(self) == _NOTHING_ASKED


_asked = attrgetter(
    "state", "due_at", "nominal_at", "reason", "tags", "timeout_seconds", "retry", "recurring_id",
    "meta_json", "admission_json", "parents", "ties_json",
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
    ties_json: str | None = None
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
    def ties(self) -> Ties | None:
        """What it is to other jobs; None for nothing."""
        return None if self.ties_json is None else read_ties(self.ties_json)


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
    ties_json: str | None = None
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
    def ties(self) -> Ties | None:
        """What it is to other jobs; None for nothing."""
        return None if self.ties_json is None else read_ties(self.ties_json)

    @property
    def is_batch(self) -> bool:
        """Tell whether it is a batch, which has no task."""
        return self.ties_json is not None and read_ties(self.ties_json).batch is not None

    @property
    def is_retrying(self) -> bool:
        """Tell whether the job waits for a retry; one that sleeps after a retry does not."""
        return self.state is State.SCHEDULED and self.retries > 0 and self.waits_for is None


# ---- how an attempt ends ---------------------------------------------------------------------------------


@attrs.frozen
class Holder:
    """Who runs a job: its session and the name of its server."""

    session: str
    server: str


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
            self.to,
            self.at,
            self.reason,
            self.attempt,
            self.claimed_at,
            self.started_at,
            self.server,
        )


_odd = attrgetter(
    "to", "from_states", "reason", "error", "retries", "crashes", "due_at", "gives_back", "is_silent"
)
_NOTHING_ODD = (State.SUCCEEDED, frozenset({State.PROCESSING}), None, None, None, None, None, False, False)


@attrs.frozen
class Settled:
    """A job whose attempt ended and whose end was accepted by the storage."""

    job: ClaimedJob
    transition: Transition
    duration: int  # of the run, in micros; 0 where it never started


# ---- what storages answer --------------------------------------------------------------------------------


# Upper bounds of the duration histogram's buckets, in seconds; a last bucket holds what is longer.
DURATION_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Feature(StrEnum):
    """The six things a storage need not offer; what is not offered is refused with `UnsupportedFeature`."""

    NOTIFY = "notify"  # `wait` returns as soon as there is work; others let it time out
    TRANSACTIONAL_ENQUEUE = "transactional enqueue"  # `insert(within=…)` joins the caller's transaction
    SHARED = "shared"  # several processes may open it at once
    DURABLE = "durable"  # what was stored is there after everything was closed
    LIMITS = "limits"  # jobs with limits: how many at once, how often, whose turn
    UNIQUE = "unique"  # jobs with a unique key, debounced ones too


@attrs.frozen
class OpenTransaction:
    """A transaction of the caller's on a driver's own connection, of whose commit somebody knows."""

    connection: object  # the driver's, as `within=` takes it; the transaction has begun or begins by itself
    on_commit: Callable[[Callable[[], None]], object]  # calls what it is given, after the commit alone
    is_open: Callable[[], bool] | None = None  # whether it has not ended yet; called by `Tester` alone


class Applied(StrEnum):
    """What became of one transition."""

    APPLIED = "applied"
    RELEASING = "releasing"  # applied, and continuations now wait for `release`
    ALREADY = "already"  # the job is in the target state with this very fence: a repeat of what was applied
    REFUSED = "refused"  # a guard no longer holds; nothing was written
    MISSING = "missing"  # no job of that id
    TAKEN = "taken"  # another job has its unique key now; nothing was written

    @property
    def is_applied(self) -> bool:
        """Tell whether the change is in the storage, now or already before."""
        return self in _IN_STORAGE


class PartlyApplied(StorageError):
    """The storage refused, or went away, when it had answered for some of many changes; `__cause__` is why.

    `results` has one entry an id, in the order of the ids: the answer, or None where there is none. Such a
    change is not written, or its answer was lost with the connection.
    """

    def __init__(self, message: str, results: Sequence[Applied | None]) -> None:
        super().__init__(message)
        self.results = tuple(results)


class PartlyUnavailable(PartlyApplied, StorageUnavailable):
    """A `PartlyApplied` of an outage: trying again for the others may help."""


_IN_STORAGE = frozenset({Applied.APPLIED, Applied.RELEASING, Applied.ALREADY})


# ---- claiming --------------------------------------------------------------------------------------------


@attrs.frozen
class ClaimRequest:
    """What a session asks for when it claims."""

    queues: Sequence[str] | None  # in the order in which they are taken; None: all, each getting its share
    limit: int  # jobs at most
    session: str
    now: int  # stamp of what is claimed


@attrs.frozen
class Claim:
    """What a claim took, and when to look again at the latest."""

    jobs: list[ClaimedJob]
    next_due_at: int | None = (
        None  # earliest instant of a scheduled or recurring job; None where none is known
    )
    is_session_lost: bool = False  # the session is dead: nothing was taken, nothing ever will be
    look_again_at: int | None = None  # when a rate opens for what waits; now where more lanes are to be seen


@attrs.frozen
class Exchange:
    """What an exchange did: one result a transition, in order, and the claim."""

    results: list[Applied]
    claim: Claim


@attrs.frozen
class Promotion:
    """How many due jobs were moved to their queues, and the next due instant."""

    promoted: int
    next_due_at: int | None


# ---- sessions --------------------------------------------------------------------------------------------


@attrs.frozen
class NewSession:
    """A child's lease as it begins; the id is made by the supervisor, so that a repeat is harmless."""

    id: str
    server_id: str
    server: str  # name for people: host:pid, or as given
    host: str
    pid: int
    started_at: int
    timeout_seconds: float
    workers: int = 0
    queues: str = "*"  # for people, as given to the server
    version: str = ""


@attrs.frozen
class Renewal:
    """One session's wish to live on, with what its child reports."""

    session: str
    busy: int = 0
    state: str = "running"  # running, quiet, overdue (silent) or stopping, which is its last word
    rss_bytes: int = 0
    cpu_percent: float = 0.0


@attrs.frozen
class SessionRecord:
    """A session as stored."""

    session: NewSession
    expires_at: int  # by the storage's clock
    is_alive: bool  # False for ever once marked dead
    renewal: Renewal


@attrs.frozen
class Held:
    """One claim that a child believes it holds."""

    job_id: str
    fence: int
    started_at: int | None = None  # set once the job has run for a while: it is written to the job


@attrs.frozen
class LostClaim:
    """A claim that a child believed it held, and what is stored of its job."""

    held: Held  # as the child named it
    state: State | None = None  # None: no such job is stored
    fence: int = 0  # of the job's latest claim
    has_tail: bool = False  # a holder may still be running it: see `Standing.is_stopping`

    @property
    def is_gone(self) -> bool:
        """Whether no such job is stored."""
        return self.state is None

    @property
    def has_ended(self) -> bool:
        """Whether the job is final, was not claimed again, and nobody took it from its holder."""
        return self.state in FINAL_STATES and self.fence == self.held.fence and not self.has_tail


@attrs.frozen
class Reconciliation:
    """How a child's belief differs from the storage's."""

    is_session_lost: bool
    lost: list[LostClaim]  # claims that the session does not hold, in the order in which they were named
    unknown: list[ClaimedJob]  # the session's, says the storage; the child did not name them


@attrs.frozen
class Taken:
    """What was taken back from one dead session."""

    session: str
    server: str
    crashed: list[str]  # ids of jobs that got a crash
    returned: list[str]  # ids of jobs that had not started


# ---- what people read ------------------------------------------------------------------------------------


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


@attrs.frozen
class Counts:
    """How many jobs are in each state; states and queues without jobs may be left out."""

    by_state: Mapping[State, int]
    by_queue: Mapping[str, Mapping[State, int]]


@attrs.frozen
class Rollup:
    """What ended within one minute, for one task, queue and outcome."""

    minute: int  # micros of the minute's start
    task: str
    queue: str
    outcome: str  # succeeded, failed, deleted, retried, crashed
    count: int
    duration: int  # sum, in micros
    histogram: tuple[int, ...]  # one count a bucket of DURATION_BUCKETS, and one for what is longer


@attrs.frozen
class FailureGroup:
    """Failed jobs that failed alike."""

    fingerprint: str
    type: str
    message: str  # of the newest of them
    task: str
    count: int
    newest_at: int
    sample_id: str


@attrs.frozen
class Finding:
    """Something `doctor` found: what is wrong and how to mend it."""

    is_error: bool
    what: str
    mend: str
    code: str = "storage"  # which rule found it, for programs and for who words it otherwise
    values: Mapping[str, object] = attrs.Factory(dict)  # what the words are about: names and numbers
    since: int | None = None  # micros


@attrs.frozen
class SchemaState:
    """The stored schema's version and the one this code needs; 0 where nothing is stored yet."""

    found: int
    wanted: int


@attrs.frozen
class KeyState:
    """Who holds a limit's key, and who waits for it."""

    key: str
    holders: tuple[str, ...]  # ids of jobs, 100 at most, oldest first
    running: int  # how many hold it, strict ones between two attempts too
    waiting: int  # enqueued jobs that ask for it, 10,000 at most
    free_at: int  # up to which its rate has been used, or it was shut; see `LimitNumbers.opens_at`


@attrs.frozen
class UniqueState:
    """Which job a unique key points at; whether it has it still, the job says."""

    key: str
    job_id: str
    free_at: int  # before it is taken whatever became of the job; 0 where it was taken for no time


# ---- what is remembered ----------------------------------------------------------------------------------


class MemoKind(StrEnum):
    """What a memo is of; the text is what is stored."""

    STEP = "step"
    SIGNAL = "signal"  # written by whoever sends it, or by the job for its time-out
    SLEEP = "sleep"
    CALL = "call"  # of another job


MEMOS_LIMIT = 1_000  # of one job
MEMO_BYTES = 256 * 1_024  # of one value, in UTF-8
MEMOS_BYTES = 4 * 1_024 * 1_024  # of one job's values
CHUNK_BYTES = 16 * 1_024  # of one chunk of a stream
STREAM_BYTES = 4 * 1_024 * 1_024  # of one stream

_FENCE_STEP = 1 << 32


@attrs.frozen
class Memo:
    """What a job remembers under one name of one kind."""

    kind: MemoKind
    name: str  # 1 to 200 characters
    value: str | None  # text: of a done one its value; of one that is begun whatever its writer noted
    is_done: bool  # a done one stands for ever, unless it is forgotten
    at: int  # when it was written
    started_at: int | None = None  # when its function began
    attempt: int = 0  # that wrote it; 0 for one from outside
    author: str = ""  # who wrote it from outside, for people
    place: int = 0  # ascends in the order in which names were first recorded; given by the storage


@attrs.frozen
class NewMemo:
    """What somebody asks to be remembered; it is put where nothing is, or over one that is begun.

    Guard: with `session` that holds the job with exactly this fence, and runs it. Without, it comes from
    outside: the job must neither have succeeded nor be deleted.
    """

    job_id: str
    memo: Memo  # its place is not read
    session: str | None = None
    fence: int | None = None
    replaces: bool = True  # one that is begun; else that stands as a done one does


@attrs.frozen
class Remembered:
    """What became of a new memo, and what stands under its name now."""

    answer: Applied
    """APPLIED: it was put. ALREADY: it stands as it was given, but for its place. TAKEN: another one stands.
    REFUSED: the guard does not hold, or the job remembers as much as it may. MISSING: no such job."""
    memo: Memo | None = None  # None where nothing stands


@attrs.frozen
class Chunk:
    """A piece of a stream that a job emits."""

    stream: str
    offset: int  # ascends within the stream: the run's fence times 2³², and the number of the chunk in it
    data: str

    @property
    def run(self) -> int:
        """The fence of the run that emitted it; one behind a wait is higher as well.

        A higher one emits nothing of the steps that are remembered, and all of one that was cut off.
        """
        return self.offset // _FENCE_STEP


def chunk_offset(fence: int, number: int) -> int:
    """Return the offset of a run's chunk, numbered from 0."""
    return fence * _FENCE_STEP + number


def memo_words(kind: MemoKind, name: str) -> str:
    """Return what stands in `waits_for`: "signal approval"."""
    return f"{kind} {name}"


# ---- strings of another release --------------------------------------------------------------------------

_UNREADABLE = (TypeError, ValueError, LookupError, RecursionError)
_TEXT = frozenset({str, type(None)})
_NUMBER = frozenset({int, type(None)})
_STEP = frozenset({str, int})
_T = TypeVar("_T")


def _tried(read: Callable[[Any], _T], said: object) -> _T | None:
    """Return what `read` makes of a part; None if it cannot be read."""
    try:
        return read(said)
    except _UNREADABLE:
        return None


def _list_in(text: str) -> list[Any]:
    said = _tried(json.loads, text)
    return said if isinstance(said, list) else []


def is_damaged(text: object) -> bool:
    """Return whether a stored string is not JSON, so that no release can read it.

    JSON that this release cannot read may be a newer one's: a server puts its job off instead of failing it.
    """
    if not isinstance(text, str):
        return True
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


# ---- ties as text ----------------------------------------------------------------------------------------


def write_ties(ties: Ties) -> str | None:
    """Return what is stored of them, None for nothing."""
    if ties == _NO_TIES:
        return None
    batch = ties.batch
    said = [
        ties.batch_id,
        ties.caller_id,
        [[one.job_id, *one.path] for one in ties.inputs],
        None if batch is None else [batch.name, int(batch.fails_fast), *batch.keeps],
    ]
    return _encode(said)


@lru_cache(maxsize=4_096)
def read_ties(text: str) -> Ties:
    """Return the ties that `write_ties` wrote; fields that a newer release appended are ignored.

    Never raises: a string that this release cannot read must not stop the jobs next to this one. `unread` is
    set then, and the other fields hold the parts that can be read. No server runs such a job.
    """
    try:
        batch_id, caller_id, inputs, batch, *_ = json.loads(text)
        if type(batch_id) not in _TEXT or type(caller_id) not in _TEXT:
            return _read_known_ties(text)
        return Ties(
            batch_id,
            caller_id,
            tuple([_read_input(one) for one in inputs]) if inputs else (),
            None if batch is None else _read_rules(batch),
        )
    except _UNREADABLE:
        return _read_known_ties(text)


def _read_known_ties(text: str) -> Ties:
    said = _list_in(text)
    batch_id, caller_id, inputs, batch, *_ = *said, None, None, None, None
    return Ties(
        batch_id if isinstance(batch_id, str) else None,
        caller_id if isinstance(caller_id, str) else None,
        tuple(one for each in inputs if (one := _tried(_read_input, each)) is not None)
        if isinstance(inputs, list)
        else (),
        _tried(_read_rules, batch),
        unread=text,
    )


def _read_input(said: Any) -> Input:  # noqa: ANN401 - JSON
    job_id, *path = said
    if type(said) is not list or type(job_id) is not str or not {*map(type, path)} <= _STEP:
        raise ValueError(said)
    return Input(job_id, tuple(path))


def _read_rules(said: Any) -> BatchRules:  # noqa: ANN401 - JSON
    name, fails_fast, *keeps = said[:5]
    succeeded, failed, deleted = keeps
    if type(said) is not list or type(name) is not str or not {*map(type, keeps)} <= _NUMBER:
        raise ValueError(said)
    return BatchRules(name, bool(fails_fast), (succeeded, failed, deleted))


_NO_TIES = Ties()


# ---- admission as text -----------------------------------------------------------------------------------


def write_admission(admission: Admission) -> str | None:
    """Return what is stored of it, None where it asks nothing."""
    if admission == _NO_ADMISSION:
        return None
    if admission.unread is not None:
        return admission.unread
    unique = admission.unique
    said = [
        [[use.key, use.cost, int(use.is_strict), *_kept(use.more)] for use in admission.limits],
        None if unique is None else [*_unique_fields(unique), *_kept(unique.more)],
        admission.start_before,
        admission.start_within,
        *_kept(admission.more),
    ]
    return _encode(said)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_unique_fields = attrgetter(*[field.name for field in attrs.fields(UniqueUse)][:-1])
_UNIQUE_FIELDS = len(attrs.fields(UniqueUse)) - 1
_UNTIL = {until.value: until for until in Until}


def _kept(more: str | None) -> list[Any]:
    """Return the fields of a newer release that are to be written back."""
    fields: list[Any] = json.loads(more) if more else []
    return fields


@lru_cache(maxsize=4_096)
def read_admission(text: str) -> Admission:
    """Return the admission that `write_admission` wrote; fields that a newer release appended are kept.

    Never raises: a string that this release cannot read must not stop the jobs next to this one. `unread` is
    set then. Of a unique key with an unknown `until` the rest is read, and the job keeps its key until it has
    ended; otherwise nothing of such a string is used. No server runs such a job.
    """
    try:
        limits, unique, before, within, *more = json.loads(text)
        if type(before) not in _NUMBER or type(within) not in _NUMBER:
            return Admission(unread=text)
        uses = tuple([_limit_use(*one) for one in limits]) if limits else ()
        if unique is None:
            return Admission(uses, None, before, within, _encode(more) if more else None)
        key, until, at_least = unique[:3]
        if type(key) is not str or type(until) is not str or type(at_least) is not int:
            return Admission(unread=text)
        known, kept = unique[3:_UNIQUE_FIELDS], unique[_UNIQUE_FIELDS:]
        is_known = until in _UNTIL
        use = UniqueUse(  # type: ignore[misc]  # `known` ends before `more`
            key,
            _UNTIL[until] if is_known else Until.ENDED,
            at_least,
            *known,
            more=_encode(kept) if kept else None,
        )
        return Admission(
            uses, use, before, within, _encode(more) if more else None, None if is_known else text
        )
    except _UNREADABLE:
        return Admission(unread=text)


def _limit_use(key: str, cost: int, is_strict: int, *more: Any) -> LimitUse:  # noqa: ANN401 - JSON
    if type(key) is not str or type(cost) is not int:
        raise ValueError(key)
    return LimitUse(key, cost, bool(is_strict), _encode([*more]) if more else None)


_NO_ADMISSION = Admission()


# ---- small things ----------------------------------------------------------------------------------------


@attrs.frozen
class Record:
    """A small versioned value: queue settings, audit entries, task catalogue and the like."""

    kind: str
    key: str
    value: str  # JSON text
    version: int  # 1 at first, grows by one with each change, never falls, not even after delete and put
    due_at: int | None = None  # when `due_records` gives it; None for never


@attrs.frozen
class RecordChange:
    """A record that is replaced together with an insert, if it has the expected version."""

    kind: str
    key: str
    value: str
    expected_version: int  # 0: none is stored
    due_at: int | None = None


@attrs.frozen
class Duplicate:
    """The answer for a job that was not stored, as another one has its unique key: false, it is not new."""

    job_id: str  # of that one

    def __bool__(self) -> bool:
        """Return False."""
        return False


@attrs.define
class Inserted:
    """What became of an insert: of each job, and of the record that it depended on."""

    is_new: Sequence[bool | Duplicate]  # per job; False: it was there before, or nothing was stored
    record: Applied = Applied.APPLIED  # ALREADY: it holds the new value at the next version. Or REFUSED
