"""The values of the storage contract: what goes into a storage's verbs and what comes out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import attrs

from firelock.errors import StorageError, StorageUnavailable
from firelock.job import ClaimedJob, JobRecord, State

__all__ = [
    "DURATION_BUCKETS",
    "Applied",
    "Claim",
    "Counts",
    "Exchange",
    "FailureGroup",
    "Feature",
    "Finding",
    "Held",
    "JobFilter",
    "NewSession",
    "Page",
    "PartlyApplied",
    "PartlyUnavailable",
    "Promotion",
    "Reconciliation",
    "Record",
    "RecurringRecord",
    "Renewal",
    "Rollup",
    "SchemaState",
    "SessionRecord",
    "Taken",
]

# Upper bounds of the duration histogram's buckets, in seconds; a last bucket holds what is longer.
DURATION_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Feature(StrEnum):
    """The four things a storage need not offer; what is not offered is refused with `UnsupportedFeature`."""

    NOTIFY = "notify"  # `wait` returns as soon as there is work; others let it time out
    TRANSACTIONAL_ENQUEUE = "transactional enqueue"  # `insert(within=…)` joins the caller's transaction
    SHARED = "shared"  # several processes may open it at once
    DURABLE = "durable"  # what was stored is there after everything was closed


class Applied(StrEnum):
    """What became of one transition."""

    APPLIED = "applied"
    RELEASING = "releasing"  # applied, and continuations now wait for `release`
    ALREADY = "already"  # the job is in the target state with this very fence: a repeat of what was applied
    REFUSED = "refused"  # a guard no longer holds; nothing was written
    MISSING = "missing"  # no job of that id

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
class Claim:
    """What a claim took, and when to look again at the latest."""

    jobs: list[ClaimedJob]
    next_due_at: int | None = (
        None  # earliest instant of a scheduled or recurring job; None where none is known
    )
    is_session_lost: bool = False  # the session is dead: nothing was taken, nothing ever will be


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
class Reconciliation:
    """How a child's belief differs from the storage's."""

    is_session_lost: bool
    lost: list[Held]  # held, says the child; not so, says the storage: stop them
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


@attrs.frozen
class Page:
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


@attrs.frozen
class SchemaState:
    """The stored schema's version and the one this code needs; 0 where nothing is stored yet."""

    found: int
    wanted: int


# ---- small things ----------------------------------------------------------------------------------------


@attrs.frozen
class Record:
    """A small versioned value: queue settings, audit entries, task catalogue and the like."""

    kind: str
    key: str
    value: str  # JSON text
    version: int  # 1 at first, grows by one with each change, never falls, not even after delete and put


@attrs.frozen
class RecurringRecord:
    """A recurring definition and how far it has come."""

    id: str
    task: str
    arguments: str
    serializer: str
    schedule: str  # JSON of a Cron or Every
    queue: str
    priority: int = 0
    tags: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retry: str | None = None
    is_paused: bool = False
    origin: str = "call"  # call: by recur(); code: declared; operator: edited by hand
    code_digest: str | None = None  # of the definition in code, as last seen by a server
    is_gone: bool = False  # declared once, no longer in code
    created_at: int = 0
    updated_at: int = 0
    version: int = 0  # of the definition; 0 for not stored yet
    timed_at: int = 0  # since when the instants of its schedule are what they are: earlier ones are not its
    # progress: written by firing, kept by an update of the definition
    next_at: int | None = None  # None: never again
    last_at: int | None = None  # the last instant fired, nominal
    last_job_id: str | None = None
    dropped: int = 0  # missed instants given up, in all
    error: str | None = None  # why the last firing failed
    owed_at: int | None = None  # the nominal instant still to be fired, where `next_at` is another try for it
    # set by the storage that reads it: the whole as JSON, where there is something that this version does not
    # know, or cannot read; it stays stored whatever else is written
    newer: str | None = None
