"""The arguments and replies of scripts, except for stored formats.

Each is a sequence of values that one NamedTuple declares for both Python and the scripts. `FORMATS` contains
the names that scripts use for these formats. An empty string stands for None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from firelock_redis.layout.encoding import (
    ADMISSION,
    EDGE,
    ENTRY,
    ERROR,
    INPUT,
    LAST,
    LIMIT_SETTINGS,
    OPTIONAL,
    PAYLOAD,
    RECORD,
    RELATIONS,
    RULES,
    STORED_MEMO,
    UNIQUE,
    UNIQUE_OWNER,
    USE,
    PlainEnd,
)
from firelock_redis.layout.wire import Text, Words

Word: TypeAlias = int | str

# ---- stored jobs -----------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A series of jobs with equal queue and priority, for insert_plain and insert_keyed; the jobs follow."""

    queue: str
    lowest: int  # the lowest place in the queue for jobs of this priority
    size: int


class PlainJob(NamedTuple):
    """A job of a series; the job needs only its payload."""

    id: str
    payload: str


class KeyedJob(NamedTuple):
    """A job of a series; the job has limits or a unique key."""

    id: str
    payload: str
    admission: str  # the JSON of `write_admission`
    lane: str
    # A line end if a claim must check more than the job's lane (see `has_details` in functions/jobs.lua). If
    # the job has a unique key: a blank, the minimum duration in microseconds for which the key is taken, a
    # blank, and the key.
    details: str


class NewBatch(NamedTuple):
    """A batch that is stored together with its first members; its tags follow."""

    queue: str
    lowest: int
    due: Word  # the time at which its hold ends
    reason: str  # JSON
    fast: str  # 1 if the batch fails fast
    keeps: str  # retention in microseconds per final state, separated by blanks; - to keep the batch forever
    tags: int


class AnyJob(NamedTuple):
    """A job of any kind; its tags, the number of its parents and a `NewEdge` for each parent follow."""

    id: str
    payload: str
    state: str  # a letter
    queue: str
    lowest: int
    created: int
    due: Word
    reason: str  # JSON
    recurring: str
    admission: str
    relations: str
    tags: int


class NewEdge(NamedTuple):
    """A parent of a new job."""

    on: str  # a letter
    id: str


# ---- changes and claims ----------------------------------------------------------------------------------


class ExchangeClaim(NamedTuple):
    """The first arguments of scripts/exchange; the names of the queues and then the groups follow."""

    session: str
    now: int
    limit: int  # the maximum number of jobs to claim; -1 for no claim
    queues: int  # the number of queues; -1 for all queues


class Group(NamedTuple):
    """The kind and number of the items that follow, and their common values.

    The kind determines the type of each item. Values that a kind does not use are empty.

    - `lanes`: a `LaneEnds` for a lane whose jobs end.
    - `left_out`: the first characters in the payloads of a task's jobs, which the claim skips.
    - `ends`: a `PlainEnd`. Those of batch members come first: `batches` contains each batch and the number of
      its members in this group.
    - `changes`: a `Change`.
    - `further`: a `Change` and a `Further`.
    """

    kind: str
    size: int
    session: str = ""
    states: str = ""  # letters
    to: str = ""  # a letter
    queue: str = ""
    expiry: Word = ""  # the minute of expiry, empty if the jobs do not expire
    batches: str = ""


class LaneEnds(NamedTuple):
    """A lane whose jobs end; the ids of these jobs follow."""

    queue: str
    lane: str
    size: int


class Change(NamedTuple):
    """A change of a job, field by field; an empty value means that the stored one does not change."""

    id: str
    fence: Word
    at: int
    entry: str  # a line of the history
    reason: str  # JSON
    retries: Word
    crashes: Word
    started: Word
    server: str  # JSON
    gives_back: str  # 1 if the attempt does not count
    due: Word
    expires: Word
    result: str  # JSON
    absent: str  # JSON
    error: str  # an `ERROR`
    failure: str  # a `FAILURE`, for the list of failed attempts
    attempt: Word  # the failed attempt


class Further(NamedTuple):
    """The part of a change that suspends a job or deletes memos of it; the ids of the parents follow."""

    waits: str  # the memo for which the job waits
    forgets: str  # the first memo to delete; all later memos are deleted too
    elsewhere: int  # the number of jobs in other partitions for which the job waits
    check_at: Word  # the time of the next check of these jobs
    gone: str  # the reason with which the job continues if the last of these jobs does not exist
    parents: int  # the number of parents in this partition


class ExchangeReply(NamedTuple):
    """The reply of scripts/exchange; a `Claimed` for each claimed job follows."""

    # One digit per change, or ? if the change must be sent field by field. In the latter case, no jobs were
    # claimed.
    results: str
    next_due: str
    # 1 if the session is lost. Otherwise, the time of the next check of the lanes, and the microseconds until
    # then.
    next_claim: str


class Claimed(NamedTuple):
    """A claimed job."""

    id: str
    record: str  # the record without its last line
    payload: str


class MovedJob(NamedTuple):
    """A waiting job that is moved to another queue or priority."""

    id: str
    states: str  # letters
    queue: str
    priority: Word
    at: int
    reason: str  # JSON


# ---- other data ------------------------------------------------------------------------------------------


class AddedMemo(NamedTuple):
    """A memo to store."""

    job: str
    session: str
    fence: Word
    name: str  # JSON of the kind, a blank and the name
    replaces: int  # 1 if it may replace an incomplete memo
    most: int  # the maximum number of memos of a job
    most_bytes: int  # the maximum total number of bytes of a job's memos
    bytes: int  # the number of bytes of this memo
    is_done: int
    memo: str  # a `MEMO`


class AddedChunk(NamedTuple):
    """A part of a stream."""

    stream: str
    offset: int
    bytes: int
    data: str


class BatchReply(NamedTuple):
    """The counts of a batch, and its flags, which are empty if they are not set."""

    total: int
    active: int
    waiting: int
    succeeded: int
    failed: int
    deleted: int
    batches: int
    held: str
    unopened: str
    cancelled: str
    stopping: str


class KeyReply(NamedTuple):
    """The use of a limit key; its first holders follow."""

    key: str
    running: int
    waiting: int
    next_arrival_at: str
    others: Sequence[str]


class Line(NamedTuple):
    """The lanes of a key; the name and the length of each lane follow."""

    is_cut: int
    own: str  # the lane of the requested job
    rank: int  # the rank of that job


class LanePart(NamedTuple):
    """A part of a lane."""

    lane: str
    before: int  # number of jobs to skip
    size: int


class HeldJob(NamedTuple):
    """A job that a worker process believes it holds."""

    id: str
    fence: int
    started: Word


class LostJob(NamedTuple):
    """A job that the session does not hold.

    If no such job is stored, the reply contains only `number`.
    """

    number: int  # the position of the job among the requested jobs, from 0
    state: str = ""  # a letter
    fence: str = "0"
    tail: int = 0  # 1 if the job has a tail


class UnknownJob(NamedTuple):
    """A job of the session that the worker process does not hold."""

    id: str
    record: str
    payload: str


class RenewedSession(NamedTuple):
    """A session to renew."""

    session: str
    renewal: str  # a `RENEWAL`


class Ended(NamedTuple):
    """The result of ending a session in the first partition."""

    server: str  # JSON
    more: int  # 1 if the session has more jobs
    running: str  # value that was given when the session began to end
    reason: str  # reason that was given when the session began to end
    crashed: list[str]
    returned: list[str]


class SessionReply(NamedTuple):
    """A stored session."""

    info: str  # a `SESSION`
    expires_at: str
    alive: str
    renewal: str  # a `RENEWAL`, empty before the first one
    running: str | None = None  # set only while the session is closing


class LogPart(NamedTuple):
    """New log lines of a job; the lines follow, each a `LOG_LINE`."""

    id: str
    progress: str  # a `PROGRESS`
    skipped: int  # number of earlier lines that are not sent, because the script would delete them again
    size: int


class AddedRollup(NamedTuple):
    """Statistics of the jobs that ended within a minute."""

    minute: int
    field: str  # JSON of the task, the queue and the outcome
    figures: str  # the count, the duration and the count of each bucket, separated by blanks


class Found(NamedTuple):
    """A stored job."""

    record: str | None
    payload: str | None
    progress: str | None


class Walk(NamedTuple):
    """The search of scripts/find; the lists that must contain a job follow, and then the lists to read."""

    oldest_first: int
    since: Word
    before: Word
    place_score: Word  # the score of the place after which the search begins
    place_id: str
    wanted: int
    budget: int  # the maximum cost of the search, in units of about one microsecond
    time: str  # the kind of time to return: the score, or the record's creation, change or due time
    prefix: str  # the start of the id
    state: str  # a letter
    queue: str
    task: str  # the start of the payload: the task and a tab
    server: str  # JSON
    fingerprint: str  # JSON
    retrying: Word  # 1 if the job must wait for a retry, 0 if it must not
    sets: int


# ---- names in scripts ------------------------------------------------------------------------------------

_STORED: dict[str, Text | Words] = {
    "PAYLOAD": PAYLOAD, "RECORD": RECORD, "LAST": LAST, "OPTIONAL": OPTIONAL, "EDGE": EDGE, "ERROR": ERROR,
    "ENTRY": ENTRY, "USE": USE, "UNIQUE": UNIQUE, "ADMISSION": ADMISSION, "RELATIONS": RELATIONS,
    "INPUT": INPUT, "RULES": RULES, "LIMIT_SETTINGS": LIMIT_SETTINGS, "STORED_MEMO": STORED_MEMO,
    "UNIQUE_OWNER": UNIQUE_OWNER,
}  # fmt: skip
_ARGUMENTS: tuple[type[Any], ...] = (
    Run, PlainJob, KeyedJob, NewBatch, AnyJob, NewEdge, ExchangeClaim, Group, LaneEnds, PlainEnd, Change,
    Further, MovedJob, AddedMemo, AddedChunk, LanePart, HeldJob, LogPart, RenewedSession, Walk, AddedRollup,
)  # fmt: skip
_REPLIES: tuple[type[Any], ...] = (
    ExchangeReply, Claimed, BatchReply, KeyReply, Line, LostJob, UnknownJob, Ended, SessionReply, Found,
)  # fmt: skip


def _name_of(kind: type[object]) -> str:
    """Return the name of a class in scripts: `PLAIN_JOB` for `PlainJob`."""
    return re.sub("(?<=[a-z])(?=[A-Z])", "_", kind.__name__).upper()


# Places of arguments are counted from the first value, places of replies from the value before the first one.
FORMATS: dict[str, Text | Words] = (
    _STORED
    | {_name_of(kind): Words(kind._fields) for kind in _ARGUMENTS}
    | {_name_of(kind): Words(kind._fields, 1) for kind in _REPLIES}
)
"""The formats by their names in scripts, which are the same as in Python: `PLAIN_JOB` is `PlainJob`."""
