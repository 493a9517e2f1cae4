"""How a job stands in Redis: two texts, and what they mean.

Its payload is written once: a line of task, serializer, created_at and the rarer fields as JSON, between
tabs; then the arguments. Its record is written anew at each step; jobs.lua draws it.
Texts in a record are JSON, so that none holds a tab or the end of a line.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from operator import attrgetter
from string import ascii_letters
from typing import Any

import attrs

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
    bounded_history,
)

LETTERS = dict(zip(State, "WCEPSFD", strict=True))
_STATES = {letter: state for state, letter in LETTERS.items()}
_NAMES = {state.value: state for state in State}
_ON = {on.value: on for on in On}
_PLACE_BITS = 45  # of a place in a queue: the order of coming; the priority is above them
_DIGITS = "0123456789"
_DIGIT = re.compile("[0-9]")
_NO_DIGITS = ascii_letters + "+"  # the state and the flags of a record, in front of its attempt
_WORDS = 9  # of the first two lines of a record; then what the job asks before it starts, if it does
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


def rare_of(job: NewJob) -> str:
    """Return the fields that most jobs do without, as JSON without a line's end; nothing for none."""
    if _rarer(job) == _NOTHING_RARER:
        return "" if job.ties_json is None else _rare_of_ties(job.ties_json)
    parents = [_edge(edge) for edge in job.parents]
    fields = [
        job.nominal_at,
        job.tags,
        job.timeout_seconds,
        job.retry,
        job.recurring_id,
        parents,
        job.meta_json,
    ]
    if job.ties_json is not None:
        fields.append(job.ties_json)
    return _on_a_line(fields)


_rarer = attrgetter("nominal_at", "tags", "timeout_seconds", "retry", "recurring_id", "parents", "meta_json")
_NOTHING_RARER = (None, (), None, None, None, (), None)


@lru_cache(1_000)
def _rare_of_ties(ties_json: str) -> str:
    """Return the rarer fields of a job that has ties alone, which all members of a batch have alike."""
    return _on_a_line([None, (), None, None, None, [], None, ties_json])


def _on_a_line(fields: object) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


@lru_cache(1_000)
def _read_rare(rare: str) -> tuple[Any, ...]:
    """Return the rarer fields, with what ties the job to others, None for nothing.

    Raises:
        ValueError: they are not what was written.
    """
    nominal, tags, timeout, retry, recurring, parents, meta, *ties = json.loads(rare)
    return nominal, tuple(tags), timeout, retry, recurring, parents, meta, ties[0] if ties else None


def _edge(edge: Edge) -> list[str | int]:
    return [edge.parent_id, edge.on.value, 1] if edge.carries else [edge.parent_id, edge.on.value]


def flags_of(record: str) -> str:
    """Return the flags of a record, letters that functions/jobs.lua names; most have none."""
    return "" if record[1] in _DIGITS else _DIGIT.split(record, 1)[0][1:]


def claimed_job(id: str, record: str, payload: str, now: int) -> ClaimedJob:
    """Return a job as its session receives it: the record's first two lines are read.

    Raises:
        ValueError: record or payload are not what was written.
    """
    # No word of the first two lines is empty or holds white space, so one split takes both apart.
    words = record.split(None, 9)
    letter, fence, place, queue, _, retries, crashes, enqueued, _ = words[:9]
    task, serializer, created, rest = payload.split("\t", 3)
    rare, arguments = rest.split("\n", 1)
    job = ClaimedJob(
        id,
        task if "\\" not in task else _from_one_line(task),
        arguments,
        serializer if "\\" not in serializer else _from_one_line(serializer),
        queue,
        -(int(place) >> _PLACE_BITS),
        int(letter[1:] if letter[1] in _DIGITS else letter.lstrip(_NO_DIGITS)),
        int(retries),
        int(crashes),
        int(fence),
        int(created),
        int(enqueued),
        now,
    )
    if rare:
        (
            job.nominal_at, job.tags, job.timeout_seconds, job.retry, job.recurring_id, _, job.meta_json,
            job.ties_json,
        ) = _read_rare(rare)  # fmt: skip
    if letter[1] not in _DIGITS:
        job.has_memos = "r" in letter
    if (
        len(words) > _WORDS and (rest := words[_WORDS])[0] not in _DIGITS
    ):  # else the last line, as of most jobs
        if rest.startswith(_ASKS):
            job.admission_json = rest.split("\n", 1)[0]
        else:  # an error or a step, or what a newer release has a job ask
            _, _, _, _, *asks = record.split("\n", 2)[1].split(" ", 4)
            job.admission_json = asks[0] if asks else None
    return job


# ---- record ----------------------------------------------------------------------------------------------


def record_of(id: str, record: str, payload: str) -> JobRecord:
    """Return a job as people read it.

    Raises:
        ValueError: record or payload are not what was written.
    """
    first, second, error, rest = record.split("\n", 3)
    *_, fields = rest.rsplit("\n", 1)
    state = _STATES[first[0]]
    attempt, fence, place, queue, session = first.lstrip(_NO_DIGITS).split(" ")
    retries, crashes, enqueued, _, *asks = second.split(" ", 4)
    head, arguments = payload.split("\n", 1)
    task, serializer, created, rare = head.split("\t")
    nominal, tags, timeout, retry, recurring, parents, meta, *ties = (
        json.loads(rare) if rare else _NOTHING_RARE
    )
    columns = fields.split("\t")
    changed, claimed, started, ended, expires, due, server, reason, result, absent, *waits = columns
    if state is State.SUCCEEDED and not ended:
        ended = changed
    return JobRecord(
        id=id,
        task=_from_one_line(task),
        arguments=arguments,
        serializer=_from_one_line(serializer),
        state=state,
        queue=queue,
        priority=-(int(place) >> _PLACE_BITS),
        created_at=int(created),
        tags=tuple(tags),
        due_at=_int(due),
        nominal_at=nominal,
        reason=text_of(reason),
        enqueued_at=_int(enqueued),
        attempt=int(attempt),
        retries=int(retries),
        crashes=int(crashes),
        fence=int(fence),
        session=session or None,
        server=text_of(server),
        claimed_at=_int(claimed),
        started_at=_int(started),
        ended_at=_int(ended),
        changed_at=int(changed),
        expires_at=_int(expires),
        timeout_seconds=timeout,
        retry=retry,
        recurring_id=recurring,
        meta_json=meta,
        error=_error(error),
        result=text_of(result),
        result_absent=text_of(absent),
        parents=tuple(Edge(parent, _ON[on], bool(more and more[0])) for parent, on, *more in parents),
        admission_json=asks[0] if asks else None,
        ties_json=ties[0] if ties else None,
        waits_for=text_of(waits[0]) if waits else None,
    )


_NOTHING_RARE: Any = (None, (), None, None, None, (), None)


def _int(text: str) -> int | None:
    return int(text) if text not in {"", "0"} else None


def error_line(error: ErrorInfo) -> str:
    """Return the last failure as a record's line: no traceback."""
    return json.dumps([error.type, error.message, error.fingerprint], ensure_ascii=False)


def _error(line: str) -> ErrorInfo | None:
    return ErrorInfo(*json.loads(line)[:3]) if line else None


# ---- history ---------------------------------------------------------------------------------------------


def entry_line(entry: HistoryEntry) -> str:
    """Return one step of a job's life as a line of its record, the line's end included."""
    fields: list[object] = [entry.state.value, entry.at, entry.reason]
    if entry.attempt is not None:
        fields += [entry.attempt, entry.claimed_at, entry.started_at, entry.server]
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"


_ENTRY_FIELDS = len(attrs.fields(HistoryEntry)) - 1  # behind the state


def _read_entry(line: str) -> HistoryEntry | None:
    try:
        state, *others = json.loads(line)
        return HistoryEntry(_NAMES[state], *others[:_ENTRY_FIELDS])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def read_history(record: str, created_at: int) -> list[HistoryEntry]:
    """Return the steps of a job's life, those not written out among them; see functions/jobs.lua.

    A line that cannot be read is passed over.

    Raises:
        ValueError: the record is not what was written.
    """
    first, second, _, rest = record.split("\n", 3)
    *lines, fields = rest.split("\n")
    origin = second.split(" ", 4)[3]
    entries = [] if origin == "-" else [HistoryEntry(_STATES[origin], created_at)]
    for line in lines:
        if (entry := _read_entry(line)) is not None:
            entries = bounded_history(entries, entry)
    changed, claimed, started, ended, *_ = columns = fields.split("\t")
    if first[0] == "S" and not ended:
        attempt = int(first.lstrip(_NO_DIGITS).split(" ", 1)[0])
        last = HistoryEntry(
            State.SUCCEEDED, int(changed), None, attempt, _int(claimed), _int(started), text_of(columns[6])
        )
        entries = bounded_history(entries, last)
    return entries
