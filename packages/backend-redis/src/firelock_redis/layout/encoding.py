"""How a job stands in Redis: two texts, and what they mean.

Its payload is written once, its record anew at each step. Each format is declared here and nowhere else, for
Python and for the scripts, which read and write both too: `PAYLOAD` and `RECORD` with what their fields hold.
Texts in a record are JSON, so that none holds a tab or the end of a line.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from operator import attrgetter
from string import ascii_letters
from typing import Any, NamedTuple

from firelock.storage import (
    Applied,
    ClaimedJob,
    Edge,
    ErrorInfo,
    HistoryEntry,
    JobRecord,
    NewJob,
    On,
    State,
    Transition,
    bounded_history,
)
from firelock_redis.layout.wire import Array, Field, Text, encode

LETTERS = dict(zip(State, "WCEPSFD", strict=True))
_STATES = {letter: state for state, letter in LETTERS.items()}
_NAMES = {state.value: state for state in State}
_ON = {on.value: on for on in On}
_PLACE_BITS = 45  # of a place in a queue: the order of coming; the priority is above them
_DIGITS = "0123456789"
_DIGIT = re.compile("[0-9]")
_NO_DIGITS = ascii_letters + "+"  # the state and the flags of a record, in front of its attempt
_ASKS = "[["  # how that begins in this release, as no error and no step does

# What scripts answer for a change. A script runs alone, so none is ever busy.
APPLIED_BY_DIGIT = {
    "0": Applied.APPLIED,
    "1": Applied.RELEASING,
    "2": Applied.ALREADY,
    "3": Applied.REFUSED,
    "4": Applied.MISSING,
    "5": Applied.TAKEN,
}

quoted = json.encoder.encode_basestring  # a text as JSON, other languages' letters as they are


def number_word(number: int | None) -> int | str:
    """Return a number as scripts read it; nothing for none."""
    return "" if number is None else number


def text_word(text: str | None) -> str:
    """Return a text as scripts read it, JSON; nothing for none."""
    return "" if text is None else quoted(text)


def state_of(letter: str) -> State:
    """Return the state of that letter."""
    return _STATES[letter]


def text_of(quoted_text: str) -> str | None:
    """Return the text that stands in a record as JSON; None for nothing."""
    return json.loads(quoted_text) if quoted_text else None


def lowest_place(priority: int) -> int:
    """Return the place in its queue before all others of this priority."""
    return -priority << _PLACE_BITS


# ---- payload ---------------------------------------------------------------------------------------------

PAYLOAD = Text(
    (
        Field("task", "[^\t\n]*", "\t"),  # this, and the next one, with \\t, \\n and \\\\ for such characters
        Field("serializer", "[^\t\n]*", "\t"),
        Field("created", "[^\t\n]*", "\t"),
        Field("rarer", "[^\n]*", "\n"),  # JSON, see `RARER`; nothing of most jobs
        Field("arguments", ".*", ""),
    )
)
"""What is written of a job once."""


class Rarer(NamedTuple):
    """The fields that most jobs do without."""

    nominal_at: int | None = None
    tags: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retry: str | None = None
    recurring_id: str | None = None
    parents: Any = ()  # each an `EDGE`
    meta_json: str | None = None
    relations_json: str | None = None  # left out where it is nothing


RARER = Array(*Rarer._fields, nothing=encode(Rarer()[:-1]))
EDGE = Array("parent_id", "on", "carries")  # carries is left out where it does not


def _on_one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


@lru_cache(1_000)
def _from_one_line(text: str) -> str:
    if "\\" not in text:
        return text
    parts = (part.replace("\\t", "\t").replace("\\n", "\n") for part in text.split("\\\\"))
    return "\\".join(parts)


def task_head(task: str) -> str:
    """Return how the payload of every job of that task begins, and of no other job."""
    return f"{_on_one_line(task)}\t"


@lru_cache(1_000)
def _head(task: str, serializer: str) -> str:
    return f"{task_head(task)}{_on_one_line(serializer)}\t"


def payload_of(job: NewJob, rare: str = "") -> str:
    """Return what is written of a job once; a plain one has none of the rarer fields."""
    return f"{_head(job.task, job.serializer)}{job.created_at}\t{rare}\n{job.arguments}"


_rarer = attrgetter(*Rarer._fields)
_beside_ties = attrgetter(*Rarer._fields[:-1])
_NOTHING_BESIDE_TIES = Rarer()[:-1]


def rare_of(job: NewJob) -> str:
    """Return the fields that most jobs do without, as JSON without a line's end; nothing for none."""
    if _beside_ties(job) == _NOTHING_BESIDE_TIES:
        return "" if job.relations_json is None else _rare_of_ties(job.relations_json)
    rarer = Rarer(*_rarer(job))
    return _on_a_line(rarer._replace(parents=[_edge(edge) for edge in rarer.parents]))


@lru_cache(1_000)
def _rare_of_ties(relations_json: str) -> str:
    """Return the rarer fields of a job that has ties alone, which all members of a batch have alike."""
    return _on_a_line(Rarer(relations_json=relations_json))


def _on_a_line(rarer: Rarer) -> str:
    return encode(rarer[:-1] if rarer.relations_json is None else rarer)


@lru_cache(1_000)
def _read_rare(rare: str) -> Rarer:
    """Return the rarer fields.

    Raises:
        ValueError: they are not what was written.
    """
    fields = json.loads(rare)
    if type(fields) is not list or len(fields) < len(_NOTHING_BESIDE_TIES):
        raise ValueError(rare)
    rarer = Rarer(*fields[: len(Rarer._fields)])
    return rarer._replace(tags=tuple(rarer.tags))


@lru_cache(1_000)
def _read_claimed(rare: str) -> tuple[Any, ...]:
    """Return those of the rarer fields that a claimed job has, to be unpacked in this order."""
    of = _read_rare(rare)
    return (
        of.nominal_at, of.tags, of.timeout_seconds, of.retry, of.recurring_id, of.meta_json, of.relations_json
    )  # fmt: skip


def _edge(edge: Edge) -> list[str | int]:
    return [edge.parent_id, edge.on.value, 1] if edge.carries else [edge.parent_id, edge.on.value]


def _read_edge(parent_id: str, on: str, carries: int = 0, *_: object) -> Edge:
    return Edge(parent_id=parent_id, on=_ON[on], carries=bool(carries))


# ---- record ----------------------------------------------------------------------------------------------

RECORD = Text(
    (
        Field("state", "%u", ""),
        Field("flags", "%D*", ""),  # letters that functions/jobs.lua names; most jobs have none
        Field("attempt", "%d+", " "),
        Field("fence", "%d+", " "),
        Field("place", "%-?%d+", " "),  # in its queue; the priority is in the upper digits
        Field("queue", "%S+", " "),
        Field("session", "%S*", "\n"),
        Field("retries", "%d+", " "),
        Field("crashes", "%d+", " "),
        Field("enqueued", "%d+", " "),
        # Other than - it stands for a first step that is not written out: the job came in this state.
        Field("origin", ".", ""),
        # Of the few that ask for something before they start a blank, and what `write_admission` gives.
        Field("asks", "[^\n]*", "\n"),
        Field("error", "[^\n]*", "\n"),  # the last one, an `ERROR`; often nothing
        Field("rest", ".*", "$"),  # an `ENTRY` in a line of its own for each step, mostly none; then `LAST`
    )
)
"""What is written of a job at each step: P1 1 42 default 0193…, then 0 0 1764045000000000 E, and so on."""

LAST = Text(
    (
        Field("changed", "[^\t\n]*", "\t"),
        Field("claimed", "[^\t\n]*", "\t"),
        Field("started", "[^\t\n]*", "\t"),
        # A succeeded job without it ended when it changed, and its last step is not written out.
        Field("ended", "[^\t\n]*", "\t"),
        Field("expires", "[^\t\n]*", "\t"),
        Field("due", "[^\t\n]*", "\t"),
        Field("server", "[^\t\n]*", "\t"),
        Field("reason", "[^\t\n]*", "\t"),
        Field("result", "[^\t\n]*", "\t"),
        Field("absent", "[^\t\n]*", "\t?"),  # why a succeeded job has no result
        Field("waits", ".*", "$"),  # the memo that a suspended job waits for; behind a tab of its own
    ),
    begins="^.*\n",
)
"""The last line of a record; instants as numbers, texts as JSON, nothing for none."""

ERROR = Array("type", "message", "fingerprint")  # this one last: scripts find it by the end of the line
ENTRY = Array(
    "state", "at", "reason", "attempt", "claimed_at", "started_at", "server", "elided", "due_at"
)  # of a step that ends no attempt the first three alone


_WORDS = 9  # of the first two lines up to `origin`: the state, flags and attempt are one of them


def flags_of(record: str) -> str:
    """Return the flags of a record; most have none."""
    return "" if record[1] in _DIGITS else _DIGIT.split(record, 1)[0][1:]


# Hot: in the order of `RECORD` and `PAYLOAD`, each field between blanks or ends of lines.
def claimed_job(id: str, record: str, payload: str, now: int) -> ClaimedJob:
    """Return a job as its session receives it: the record's first two lines are read.

    Raises:
        ValueError: record or payload are not what was written.
    """
    # No word of the first two lines is empty or holds white space, so one split takes both apart.
    words = record.split(None, _WORDS)
    letter, fence, place, queue, _, retries, crashes, enqueued, _ = words[:_WORDS]
    task, serializer, created, rest = payload.split("\t", 3)
    rare, arguments = rest.split("\n", 1)
    is_flagged = letter[1] not in _DIGITS
    job = ClaimedJob(  # by place, which by name takes a fifth of it all; these are all that have no default
        id,
        task if "\\" not in task else _from_one_line(task),
        arguments,
        serializer if "\\" not in serializer else _from_one_line(serializer),
        queue,
        -(int(place) >> _PLACE_BITS),
        int(letter.lstrip(_NO_DIGITS) if is_flagged else letter[1:]),
        int(retries),
        int(crashes),
        int(fence),
        int(created),
        int(enqueued),
        now,
    )
    if rare:
        (
            job.nominal_at, job.tags, job.timeout_seconds, job.retry, job.recurring_id, job.meta_json,
            job.relations_json,
        ) = _read_claimed(rare)  # fmt: skip
    if is_flagged:
        job.has_memos = "r" in letter
    if len(words) > _WORDS and (rest := words[_WORDS])[0] not in _DIGITS:  # else the last line, as of most
        if rest.startswith(_ASKS):
            job.admission_json = rest.split("\n", 1)[0]
        else:  # an error or a step, or what a newer release has a job ask
            (asks,) = RECORD.read(record, "asks")
            job.admission_json = asks[1:] or None
    return job


def claim_of(record: str) -> tuple[int, int]:
    """Return attempt and fence of a record, of which the rest may be garbage.

    Raises:
        ValueError: these are garbage too.
    """
    attempt, fence = RECORD.read(record, "attempt", "fence")
    return int(attempt), int(fence)


def claimed_at_of(record: str) -> int:
    """Return when the job was claimed that a session has.

    Raises:
        ValueError: the last line is not what was written.
    """
    (claimed,) = LAST.read(record.rpartition("\n")[2], "claimed")
    return int(claimed)


_READ = tuple(field.name for field in RECORD.fields)
_READ_LAST = tuple(field.name for field in LAST.fields)


def _read_whole(record: str) -> tuple[dict[str, str], list[str]]:
    """Return the fields of a record and of its last line, and the lines of its history.

    Raises:
        ValueError: it is not what was written.
    """
    found = dict(zip(_READ, RECORD.read(record, *_READ), strict=True))
    *lines, last = found["rest"].split("\n")
    return found | dict(zip(_READ_LAST, LAST.read(last, *_READ_LAST), strict=True)), lines


def record_of(id: str, record: str, payload: str) -> JobRecord:
    """Return a job as people read it.

    Raises:
        ValueError: record or payload are not what was written.
    """
    of, _ = _read_whole(record)
    task, serializer, created, rare, arguments = PAYLOAD.read(payload, *(one.name for one in PAYLOAD.fields))
    rarer = _read_rare(rare) if rare else _NO_RARER
    state = _STATES[of["state"]]
    ended = of["ended"]
    if state is State.SUCCEEDED and not ended:
        ended = of["changed"]
    return JobRecord(
        id=id,
        task=_from_one_line(task),
        arguments=arguments,
        serializer=_from_one_line(serializer),
        state=state,
        queue=of["queue"],
        priority=-(int(of["place"]) >> _PLACE_BITS),
        created_at=int(created),
        tags=rarer.tags,
        due_at=_int(of["due"]),
        nominal_at=rarer.nominal_at,
        reason=text_of(of["reason"]),
        enqueued_at=_int(of["enqueued"]),
        attempt=int(of["attempt"]),
        retries=int(of["retries"]),
        crashes=int(of["crashes"]),
        fence=int(of["fence"]),
        session=of["session"] or None,
        server=text_of(of["server"]),
        claimed_at=_int(of["claimed"]),
        started_at=_int(of["started"]),
        ended_at=_int(ended),
        changed_at=int(of["changed"]),
        expires_at=_int(of["expires"]),
        timeout_seconds=rarer.timeout_seconds,
        retry=rarer.retry,
        recurring_id=rarer.recurring_id,
        meta_json=rarer.meta_json,
        error=ErrorInfo(**ERROR.read(of["error"])) if of["error"] else None,
        result=text_of(of["result"]),
        result_absent=text_of(of["absent"]),
        parents=tuple(_read_edge(*edge) for edge in rarer.parents),
        admission_json=of["asks"][1:] or None,
        relations_json=rarer.relations_json,
        waits_for=text_of(of["waits"].partition("\t")[0]),
    )


_NO_RARER = Rarer()


def _int(text: str) -> int | None:
    return int(text) if text not in {"", "0"} else None


# ---- a plain end -----------------------------------------------------------------------------------------


class PlainEnd(NamedTuple):
    """What scripts are told of a job whose task has returned: whoever has its first line holds it."""

    id: str
    first_line: str  # as it was claimed
    at: int
    record: str  # as it is to be


_ENDS_PLAINLY = frozenset("mcrfs")  # flags of functions/jobs.lua that ask for nothing more at an end


# Hot: words in the order of `PlainEnd`, and a line in that of `LAST`.
def plain_end(
    transition: Transition, record: str, job: ClaimedJob
) -> tuple[str, tuple[str, str, int, str], str] | None:
    """Return a plain end: the queue, a `PlainEnd`, and the batch, nothing for none; None for another end."""
    if transition.started_at is None or not transition.is_plain_success:
        return None
    if (transition.fence, transition.attempt, transition.claimed_at) != (
        job.fence, job.attempt, job.claimed_at
    ):  # fmt: skip
        return None
    batch = ""
    if not record[1].isdigit():
        if not _ENDS_PLAINLY.issuperset(flags_of(record)):
            return None  # others wait for its end, which is announced on the long way
        relations = job.relations
        batch = (relations and relations.batch_id) or ""
    head, rest = record.split("\n", 1)
    at, expires, server = transition.at, transition.expires_at, transition.server
    result, absent = transition.result, transition.result_absent
    fresh = (
        f"S{head[1 : -len(transition.session or '')]}\n{rest}{at}\t{job.claimed_at}\t"
        f"{transition.started_at}\t\t{'' if expires is None else expires}\t\t"
        f"{'' if server is None else quoted(server)}\t\t"
        f"{'' if result is None else quoted(result)}\t{'' if absent is None else quoted(absent)}"
    )
    return job.queue, (transition.job_id, head + "\n", at, fresh), batch


# ---- history ---------------------------------------------------------------------------------------------


def entry_line(entry: HistoryEntry) -> str:
    """Return one step of a job's life as a line of its record, the line's end included."""
    return ENTRY.write_of(entry, "reason" if entry.attempt is None else "server") + "\n"


def _read_entry(line: str) -> HistoryEntry | None:
    try:
        fields = ENTRY.read(line)
        return HistoryEntry(_NAMES[fields.pop("state")], **fields)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def read_history(record: str, created_at: int) -> list[HistoryEntry]:
    """Return the steps of a job's life, those not written out among them; see `RECORD`.

    A line that cannot be read is passed over.

    Raises:
        ValueError: the record is not what was written.
    """
    of, lines = _read_whole(record)
    entries = [] if of["origin"] == "-" else [HistoryEntry(_STATES[of["origin"]], created_at)]
    for line in lines:
        if (entry := _read_entry(line)) is not None:
            entries = bounded_history(entries, entry)
    if of["state"] == "S" and not of["ended"]:
        last = HistoryEntry(
            state=State.SUCCEEDED,
            at=int(of["changed"]),
            attempt=int(of["attempt"]),
            claimed_at=_int(of["claimed"]),
            started_at=_int(of["started"]),
            server=text_of(of["server"]),
        )
        entries = bounded_history(entries, last)
    return entries


# ---- beside jobs -----------------------------------------------------------------------------------------

FAILURE = Array("at", "type", "message", "fingerprint", "traceback")  # an attempt that failed
MEMO = Array("at", "started_at", "attempt", "author", "value")
SESSION = Array(
    "id",
    "server_id",
    "server",
    "host",
    "pid",
    "started_at",
    "timeout_seconds",
    "workers",
    "queues",
    "version",
)
RENEWAL = Array(
    "busy", "state", "rss_bytes", "cpu_percent", "stuck_threads", "stuck_coroutines", "parked"
)  # beside the session
PROGRESS = Array("done", "total", "at", "message")
LOG_LINE = Array("at", "level", "text", "attempt")

MEMO_TEXT = Text(
    (
        Field("place", "%d+", " "),  # in the order in which names came
        Field("bytes", "%d+", " "),  # of the value
        Field("done", "%d", " "),  # 1 where it is done, 0 where it is begun
        Field("said", ".*", "$"),  # a `MEMO`
    )
)
"""A memo as it stands under its name; under none are the place of the next name and the sum of the bytes."""

UNIQUE_ROW = Text(
    (
        Field("mark", "%d+", " "),  # how often the job had been started when it took the key
        Field("free_at", "%d+", " "),  # before it the key is taken, whatever became of the job
        Field("id", ".*", "$"),
    )
)
"""What stands under a unique key."""

NUMBERS = Text(
    (
        Field("concurrent", "%S+", " "),
        Field("rate", "%S+", " "),
        Field("per", "%S+", " "),
        Field("burst", "%S+", " "),
        Field("paused", "%S+", "$"),
    )
)
"""The numbers of a limit, - for none."""

# ---- as firelock.model writes them, for scripts ----------------------------------------------------------

ASKS = Array("uses", "unique", "before", "within")  # `write_admission`
USE = Array("key", "cost", "strict")  # of a limit
UNIQUE = Array("key", "kept_until", "at_least", "keeps_last", "raises", "wait", "max_wait")
TIES = Array("batch", "caller", "inputs", "rules")  # `write_relations`
INPUT = Array("job")  # and behind it the path
RULES = Array("name", "fast", "succeeded", "failed", "deleted")  # of a batch: by its end how long it stays
