"""What scripts are told and reply, beside what is stored: words that stand one behind the other.

Each NamedTuple is the only list of its words; scripts name them as `FORMATS` says. Nothing stands for None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from firelock_redis.layout.encoding import (
    ASKS,
    EDGE,
    ENTRY,
    ERROR,
    INPUT,
    LAST,
    MEMO_TEXT,
    NUMBERS,
    PAYLOAD,
    RARER,
    RECORD,
    RULES,
    TIES,
    UNIQUE,
    UNIQUE_ROW,
    USE,
    PlainEnd,
)
from firelock_redis.layout.wire import Text, Words

Word: TypeAlias = int | str

# ---- jobs that are stored --------------------------------------------------------------------------------


class Run(NamedTuple):
    """Jobs of one queue and priority, which stand behind it: for scripts/insert_plain and insert_keyed."""

    queue: str
    lowest: int  # the place before all others of this priority
    size: int


class PlainJob(NamedTuple):
    """A job of a run that asks for nothing beside what its payload holds."""

    id: str
    payload: str


class KeyedJob(NamedTuple):
    """A job of a run that has limits or a unique key."""

    id: str
    payload: str
    asks: str  # as `write_admission` gives it
    lane: str
    # A line end where it is odd; where it has a unique key a blank, for how many micros that is taken at
    # least, a blank, and the key.
    said: str


class NewBatch(NamedTuple):
    """A batch that is stored with its first members; its tags stand behind it."""

    queue: str
    lowest: int
    due: Word  # until when it is held
    reason: str  # JSON
    fast: str  # 1 where it fails fast
    keeps: str  # for how many micros it stays by its end, - for ever, between blanks
    tags: int


class NewJobWords(NamedTuple):
    """A job of any kind; behind it its tags, the number of its parents, and a `NewRelations` of each."""

    id: str
    payload: str
    state: str  # a letter
    queue: str
    lowest: int
    created: int
    due: Word
    reason: str  # JSON
    recurring: str
    asks: str
    relations: str
    tags: int


class NewRelations(NamedTuple):
    """A parent of a new job."""

    on: str  # a letter
    id: str


# ---- changes and claims ----------------------------------------------------------------------------------


class ExchangeWords(NamedTuple):
    """What scripts/exchange is told first; the names of the queues stand behind it, then groups."""

    session: str
    now: int
    limit: int  # -1 for no claim
    queues: int  # -1 for all of them


class Group(NamedTuple):
    """What those that stand behind it have in common, and how many they are.

    Without states they are lanes in which jobs with limits end, a `LaneEnds` each; where the states are -,
    tasks that a claim leaves out, each by how the payloads of its jobs begin; else changes. Where the expiry
    is -, each of these is a `Change`; where it is =, one with a `Further` behind it; else a `PlainEnd`. Those
    of members come first: behind the P of the states stand each batch and how many members of it there are.
    """

    states: str  # letters
    session: str
    to: str  # a letter
    expiry: Word  # of plain ends the minute, nothing for none
    queue: str
    size: int


class LaneEnds(NamedTuple):
    """A lane in which jobs with limits end; their ids stand behind it."""

    queue: str
    lane: str
    size: int


class Change(NamedTuple):
    """A change of a job, field by field; what is nothing leaves what is there."""

    id: str
    fence: Word
    at: int
    entry: str  # a line of the history
    reason: str  # JSON
    retries: Word
    crashes: Word
    started: Word
    server: str  # JSON
    gives_back: str  # 1 where the attempt does not count
    due: Word
    expires: Word
    result: str  # JSON
    absent: str  # JSON
    error: str  # an `ERROR`
    failure: str  # a `FAILURE`, for the list of failed attempts
    attempt: Word  # that failed


class Further(NamedTuple):
    """What a change says of a job that is suspended, or forgets; the ids of the parents stand behind it."""

    waits: str  # the memo that it waits for
    forgets: str  # the memo from which on it forgets
    elsewhere: int  # how many jobs it waits for that lie in other partitions
    look_at: Word  # when it looks at those again
    gone: str  # the reason where the last of them is gone
    parents: int  # of this partition


class ExchangeReply(NamedTuple):
    """What scripts/exchange replies; a `Claimed` of each job stands behind it."""

    results: str  # a digit a change; ? to look closer, and then nothing was claimed
    next_due: str
    # 1 where the session is lost; else the instant at which lanes are worth another look, and how many micros
    # that is from now.
    look: str


class Claimed(NamedTuple):
    """A claimed job."""

    id: str
    record: str  # without its last line
    payload: str


class MoveWords(NamedTuple):
    """A job that is to wait elsewhere."""

    id: str
    states: str  # letters
    queue: str
    priority: Word
    at: int
    reason: str  # JSON


# ---- beside jobs -----------------------------------------------------------------------------------------


class MemoWords(NamedTuple):
    """A memo that is to be kept."""

    job: str
    session: str
    fence: Word
    name: str  # JSON of kind, blank and name
    replaces: int  # 1 where it may stand in for one that is begun
    most: int  # memos that a job may have
    most_bytes: int  # of all of them
    bytes: int  # of this one
    is_done: int
    said: str  # a `MEMO`


class ChunkWords(NamedTuple):
    """A part of a stream."""

    stream: str
    offset: int
    bytes: int
    data: str


class BatchCountsReply(NamedTuple):
    """The numbers of a batch, and marks, nothing where they do not hold."""

    total: int
    active: int
    waiting: int
    succeeded: int
    failed: int
    deleted: int
    batches: int
    held: str
    shut: str
    cancelled: str
    stopping: str


class KeyReply(NamedTuple):
    """Who holds the key of a limit; the first holders stand behind it."""

    key: str
    running: int
    waiting: int
    free_at: str
    others: Sequence[str]


class Line(NamedTuple):
    """The lanes of a key, name and length of each behind it."""

    is_cut: int
    own: str  # the lane of the job that was asked for
    rank: int  # of that job


class LinePart(NamedTuple):
    """A part of a lane."""

    lane: str
    before: int  # jobs that are passed over
    size: int


class HeldJob(NamedTuple):
    """A job that a process believes to hold."""

    id: str
    fence: int
    started: Word


class LostJob(NamedTuple):
    """One of those that is not held; the first alone where no such job is stored."""

    number: int  # among those that were named, from 0
    state: str = ""  # a letter
    fence: str = "0"
    tail: int = 0  # 1 where the session has it still


class UnknownJob(NamedTuple):
    """One of the session that was not named."""

    id: str
    record: str
    payload: str


class RenewalWords(NamedTuple):
    """A session that wishes to live on."""

    session: str
    renewal: str  # a `RENEWAL`


class Ended(NamedTuple):
    """What the end of a session has done in the first partition."""

    server: str  # JSON
    more: int  # 1 where that is not all
    running: str  # as they were told at first, likewise the reason
    reason: str
    crashed: list[str]
    returned: list[str]


class SessionReply(NamedTuple):
    """A session as it is stored."""

    info: str  # a `SESSION`
    expires_at: str
    alive: str
    renewal: str  # a `RENEWAL`, nothing before the first one
    running: str | None = None  # while it ends


class LogPart(NamedTuple):
    """Lines of a job, which stand behind it, each a `LOG_LINE`."""

    id: str
    progress: str  # a `PROGRESS`
    skipped: int  # lines before these that are not sent, since they would not stay
    size: int


class RollupWords(NamedTuple):
    """What has ended within a minute."""

    minute: int
    field: str  # JSON of task, queue and outcome
    figures: str  # count, duration and a number for each bucket, between blanks


class Found(NamedTuple):
    """A job that is stored."""

    record: str | None
    payload: str | None
    progress: str | None


class Walk(NamedTuple):
    """What scripts/find looks for; behind it the lists that a job has to be in, then those to walk."""

    oldest_first: int
    since: Word
    before: Word
    place_score: Word  # of the place behind which to begin
    place_id: str
    wanted: int
    budget: int  # in about a microsecond
    told: str  # the time of the reply: score, created, or changed or due, as the record says
    prefix: str  # of the id
    state: str  # a letter
    queue: str
    task: str  # and a tab, as a payload begins
    server: str  # JSON
    fingerprint: str  # JSON
    retrying: Word  # 1 where the job waits for a retry, 0 where it does not
    sets: int


# ---- in scripts ------------------------------------------------------------------------------------------

FORMATS: dict[str, Text | Words] = {
    "PAYLOAD": PAYLOAD, "RECORD": RECORD, "LAST": LAST, "RARER": RARER, "EDGE": EDGE, "ERROR": ERROR,
    "ENTRY": ENTRY, "USE": USE, "UNIQUE": UNIQUE, "ASKS": ASKS, "TIES": TIES, "INPUT": INPUT, "RULES": RULES,
    "LIMIT": NUMBERS, "MEMO": MEMO_TEXT, "OWNED": UNIQUE_ROW,
    # Words of ARGV, behind the place of the first one.
    "RUN": Words(Run._fields), "PLAIN": Words(PlainJob._fields), "KEYED": Words(KeyedJob._fields),
    "BATCH": Words(NewBatch._fields), "JOB": Words(NewJobWords._fields), "TIE": Words(NewRelations._fields),
    "CLAIM": Words(ExchangeWords._fields), "GROUP": Words(Group._fields), "LANE": Words(LaneEnds._fields),
    "END": Words(PlainEnd._fields), "CHANGE": Words(Change._fields), "FURTHER": Words(Further._fields),
    "MOVING": Words(MoveWords._fields), "NEW_MEMO": Words(MemoWords._fields),
    "PART": Words(ChunkWords._fields), "PIECE": Words(LinePart._fields), "HELD": Words(HeldJob._fields),
    "LOG": Words(LogPart._fields), "RENEW": Words(RenewalWords._fields), "WALK": Words(Walk._fields),
    "ROLLUP": Words(RollupWords._fields),
    # Words of replies, behind the one before the first.
    "REPLY": Words(ExchangeReply._fields, 1), "CLAIMED": Words(Claimed._fields, 1),
    "BATCH_COUNTS": Words(BatchCountsReply._fields, 1), "KEY": Words(KeyReply._fields, 1),
    "LINE": Words(Line._fields, 1),
    "LOST": Words(LostJob._fields, 1), "UNKNOWN": Words(UnknownJob._fields, 1),
    "ENDED": Words(Ended._fields, 1), "SESSION": Words(SessionReply._fields, 1),
    "FOUND": Words(Found._fields, 1),
}  # fmt: skip
"""What the formats are called in scripts."""
