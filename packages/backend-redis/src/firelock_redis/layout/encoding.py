"""The format of a job in Redis: its two strings, the payload and the record, and the meaning of their fields.

The payload is written once; the record is written again at each change. Python and the scripts read and write
both, so each format is declared only here: see `PAYLOAD` and `RECORD`. Strings within a record are written as
JSON, so they do not contain tabs or line ends.
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
_PLACE_BITS = 45  # lower bits of a place: the order of arrival; the higher bits contain the priority
_DIGITS = "0123456789"
_DIGIT = re.compile("[0-9]")
_NO_DIGITS = ascii_letters + "+"  # the characters of the state and flags, which precede the attempt
_ADMISSION = "[["  # the start of `admission` as this release writes it; other lines never start with it

# The results of changes, as scripts return them. A script runs alone, so no change is ever busy.
APPLIED_BY_DIGIT = {
    "0": Applied.APPLIED,
    "1": Applied.RELEASE_NEEDED,
    "2": Applied.ALREADY,
    "3": Applied.REFUSED,
    "4": Applied.MISSING,
    "5": Applied.TAKEN,
}

quoted = json.encoder.encode_basestring  # encodes a string as JSON and does not escape non-ASCII characters


def number_word(number: int | None) -> int | str:
    """Return a number in the form that scripts read; an empty string for None."""
    return "" if number is None else number


def text_word(text: str | None) -> str:
    """Return a string as JSON, the form that scripts read; an empty string for None."""
    return "" if text is None else quoted(text)


def state_of(letter: str) -> State:
    """Return the state for which this letter stands."""
    return _STATES[letter]


def text_of(quoted_text: str) -> str | None:
    """Return the string that a record contains as JSON; None if it is empty."""
    return json.loads(quoted_text) if quoted_text else None


def lowest_place(priority: int) -> int:
    """Return the lowest place in a queue for jobs of this priority."""
    return -priority << _PLACE_BITS


# ---- payload ---------------------------------------------------------------------------------------------

PAYLOAD = Text(
    (
        # In this field and the next one, tabs, line ends and backslashes are escaped.
        Field("task", "[^\t\n]*", "\t"),
        Field("serializer", "[^\t\n]*", "\t"),
        Field("created", "[^\t\n]*", "\t"),
        Field("optional", "[^\n]*", "\n"),  # the JSON of `OPTIONAL`; empty for most jobs
        Field("arguments", ".*", ""),
    )
)
"""The part of a job that is written once."""


class OptionalFields(NamedTuple):
    """The payload fields that most jobs do not use."""

    nominal_at: int | None = None
    tags: tuple[str, ...] = ()
    timeout_seconds: float | None = None
    retry: str | None = None
    recurring_id: str | None = None
    parents: Any = ()  # each an `EDGE`
    meta_json: str | None = None
    # From here on, a field is omitted if it and all later ones are None.
    relations_json: str | None = None


_ALWAYS = OptionalFields._fields.index("relations_json")  # the number of fields that are always written
OPTIONAL = Array(*OptionalFields._fields, nothing=encode(OptionalFields()[:_ALWAYS]))
EDGE = Array("parent_id", "on", "carries")  # `carries` is omitted if it is false


def _on_one_line(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


@lru_cache(1_000)
def _from_one_line(text: str) -> str:
    if "\\" not in text:
        return text
    parts = (part.replace("\\t", "\t").replace("\\n", "\n") for part in text.split("\\\\"))
    return "\\".join(parts)


def task_head(task: str) -> str:
    """Return the prefix that the payloads of all jobs of this task have, and no other payloads."""
    return f"{_on_one_line(task)}\t"


@lru_cache(1_000)
def _head(task: str, serializer: str) -> str:
    return f"{task_head(task)}{_on_one_line(serializer)}\t"


def payload_of(job: NewJob, optional: str = "") -> str:
    """Return the payload of a job; `optional` is empty if the job does not use any of the optional fields."""
    return f"{_head(job.task, job.serializer)}{job.created_at}\t{optional}\n{job.arguments}"


_optional_fields = attrgetter(*OptionalFields._fields)
_WITHOUT_RELATIONS = [name for name in OptionalFields._fields if name != "relations_json"]
_without_relations = attrgetter(*_WITHOUT_RELATIONS)
_NOTHING_BUT_RELATIONS = tuple(OptionalFields._field_defaults[name] for name in _WITHOUT_RELATIONS)


def optional_of(job: NewJob) -> str:
    """Return the optional fields of a job as one line of JSON; an empty string if all are empty."""
    if _without_relations(job) == _NOTHING_BUT_RELATIONS:
        return "" if job.relations_json is None else _optional_of_relations(job.relations_json)
    fields = OptionalFields(*_optional_fields(job))
    return _encoded(fields._replace(parents=[_edge(edge) for edge in fields.parents]))


@lru_cache(1_000)
def _optional_of_relations(relations_json: str) -> str:
    """Return the optional fields of a job that uses only relations.

    The result is cached, because all members of a batch have equal relations.
    """
    return _encoded(OptionalFields(relations_json=relations_json))


def _encoded(fields: OptionalFields) -> str:
    values = [*fields]
    while len(values) > _ALWAYS and values[-1] is None:
        values.pop()
    return encode(values)


@lru_cache(1_000)
def _read_optional(optional: str) -> OptionalFields:
    """Return the optional fields that the JSON contains.

    Raises:
        ValueError: If the string does not have the expected format.
    """
    values = json.loads(optional)
    if type(values) is not list or len(values) < _ALWAYS:
        raise ValueError(optional)
    fields = OptionalFields(*values[: len(OptionalFields._fields)])
    return fields._replace(tags=tuple(fields.tags))


@lru_cache(1_000)
def _read_claimed(optional: str) -> tuple[Any, ...]:
    """Return the optional fields of a claimed job, in the order in which `claimed_job` unpacks them."""
    of = _read_optional(optional)
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
        Field("flags", "%D*", ""),  # letters that functions/jobs.lua explains; most jobs have none
        Field("attempt", "%d+", " "),
        Field("fence", "%d+", " "),
        Field("place", "%-?%d+", " "),  # the place in the queue; its upper bits contain the priority
        Field("queue", "%S+", " "),
        Field("session", "%S*", "\n"),
        Field("retries", "%d+", " "),
        Field("crashes", "%d+", " "),
        Field("enqueued", "%d+", " "),
        # The state in which the job was created if the history omits this first entry; otherwise -.
        Field("origin", ".", ""),
        # For the few jobs with limits, a unique key or a latest start: a blank and the string of
        # `write_admission`.
        Field("admission", "[^\n]*", "\n"),
        Field("error", "[^\n]*", "\n"),  # the last error as an `ERROR`; often empty
        Field("rest", ".*", "$"),  # a line for each `ENTRY` of the history, usually none; then `LAST`
    )
)
"""The part of a job that is written again at each change.

Example: the first line is `P1 1 42 default 0193…`, and the second line starts with `0 0 1764045000000000 E`.
"""

LAST = Text(
    (
        Field("changed", "[^\t\n]*", "\t"),
        Field("claimed", "[^\t\n]*", "\t"),
        Field("started", "[^\t\n]*", "\t"),
        # If this field is empty in a succeeded job, the job ended at `changed`, and the history does not
        # contain its last entry.
        Field("ended", "[^\t\n]*", "\t"),
        Field("expires", "[^\t\n]*", "\t"),
        Field("due", "[^\t\n]*", "\t"),
        Field("server", "[^\t\n]*", "\t"),
        Field("reason", "[^\t\n]*", "\t"),
        Field("result", "[^\t\n]*", "\t"),
        Field("absent", "[^\t\n]*", "\t?"),  # the reason why a succeeded job has no result
        # The memo for which a suspended job waits. If there is none, the tab before it is missing too.
        Field("waits", ".*", "$"),
    ),
    begins="^.*\n",
)
"""The last line of a record; times are numbers, strings are JSON, and an empty field stands for None."""

ERROR = Array(
    "type", "message", "fingerprint"
)  # the last field must stay last: scripts find it by the line end
ENTRY = Array(
    "state", "at", "reason", "attempt", "claimed_at", "started_at", "server", "elided", "due_at"
)  # an entry that does not end an attempt has only the first three fields


_WORDS = 9  # number of words in the first two lines up to `origin`; state, flags and attempt are one word


def flags_of(record: str) -> str:
    """Return the flags of a record; most have none."""
    return "" if record[1] in _DIGITS else _DIGIT.split(record, 1)[0][1:]


# Hot path: relies on the order of `RECORD` and `PAYLOAD`, whose fields end at blanks, tabs or line ends.
def claimed_job(id: str, record: str, payload: str, now: int) -> ClaimedJob:
    """Return the claimed job for its session; only the first two lines of the record are read.

    Raises:
        ValueError: If the record or the payload does not have the expected format.
    """
    # The words of the first two lines are not empty and do not contain white space, so one split is enough.
    words = record.split(None, _WORDS)
    letter, fence, place, queue, _, retries, crashes, enqueued, _ = words[:_WORDS]
    task, serializer, created, rest = payload.split("\t", 3)
    optional, arguments = rest.split("\n", 1)
    is_flagged = letter[1] not in _DIGITS
    # The fields without a default are passed by position: keywords would take a fifth of the total time.
    job = ClaimedJob(
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
    if optional:
        (
            job.nominal_at, job.tags, job.timeout_seconds, job.retry, job.recurring_id, job.meta_json,
            job.relations_json,
        ) = _read_claimed(optional)  # fmt: skip
    if is_flagged:
        job.has_memos = "r" in letter
    # The last line of a record starts with a digit. In most records, no other words follow `origin`.
    if len(words) > _WORDS and (rest := words[_WORDS])[0] not in _DIGITS:
        if rest.startswith(_ADMISSION):
            job.admission_json = rest.split("\n", 1)[0]
        else:  # an error, a history entry, or an admission written by a newer release
            (admission,) = RECORD.read(record, "admission")
            job.admission_json = admission[1:] or None
    return job


def claim_of(record: str) -> tuple[int, int]:
    """Return the attempt and the fence of a record, even if the rest of the record is not valid.

    Raises:
        ValueError: If the attempt or the fence is not valid.
    """
    attempt, fence = RECORD.read(record, "attempt", "fence")
    return int(attempt), int(fence)


def claimed_at_of(record: str) -> int:
    """Return the time of the job's current claim.

    Raises:
        ValueError: If the last line does not have the expected format.
    """
    (claimed,) = LAST.read(record.rpartition("\n")[2], "claimed")
    return int(claimed)


_READ = tuple(field.name for field in RECORD.fields)
_READ_LAST = tuple(field.name for field in LAST.fields)


def _read_whole(record: str) -> tuple[dict[str, str], list[str]]:
    """Return the fields of a record and of its last line, and the lines of its history.

    Raises:
        ValueError: If the record does not have the expected format.
    """
    found = dict(zip(_READ, RECORD.read(record, *_READ), strict=True))
    *lines, last = found["rest"].split("\n")
    return found | dict(zip(_READ_LAST, LAST.read(last, *_READ_LAST), strict=True)), lines


def record_of(id: str, record: str, payload: str) -> JobRecord:
    """Return a job with all its fields, for display.

    Raises:
        ValueError: If the record or the payload does not have the expected format.
    """
    of, _ = _read_whole(record)
    names = [field.name for field in PAYLOAD.fields]
    task, serializer, created, optional, arguments = PAYLOAD.read(payload, *names)
    fields = _read_optional(optional) if optional else _NO_OPTIONAL_FIELDS
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
        tags=fields.tags,
        due_at=_int(of["due"]),
        nominal_at=fields.nominal_at,
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
        timeout_seconds=fields.timeout_seconds,
        retry=fields.retry,
        recurring_id=fields.recurring_id,
        meta_json=fields.meta_json,
        error=ErrorInfo(**ERROR.read(of["error"])) if of["error"] else None,
        result=text_of(of["result"]),
        result_absent=text_of(of["absent"]),
        parents=tuple(_read_edge(*edge) for edge in fields.parents),
        admission_json=of["admission"][1:] or None,
        relations_json=fields.relations_json,
        waits_for=text_of(of["waits"].partition("\t")[0]),
    )


_NO_OPTIONAL_FIELDS = OptionalFields()


def _int(text: str) -> int | None:
    return int(text) if text not in {"", "0"} else None


# ---- plain outcomes --------------------------------------------------------------------------------------


class PlainEnd(NamedTuple):
    """The success of a job whose task has returned, as an argument of a script.

    The claim is still valid if the stored record starts with `first_line`.
    """

    id: str
    first_line: str  # the first line of the record as written by the claim
    at: int
    record: str  # the new record


_ENDS_PLAINLY = frozenset("mcrfs")  # flags that do not matter when a job ends (see functions/jobs.lua)


# Hot path: the values are in the order of `PlainEnd`, and the line is in the order of `LAST`.
def plain_end(
    transition: Transition, record: str, job: ClaimedJob
) -> tuple[str, tuple[str, str, int, str], str] | None:
    """Return the queue, the `PlainEnd` and the batch of a plain success; None for any other outcome.

    The batch is an empty string if the job is not a member of one.
    """
    if transition.started_at is None or not transition.is_plain_success:
        return None
    if (transition.fence, transition.attempt, transition.claimed_at) != (
        job.fence, job.attempt, job.claimed_at
    ):  # fmt: skip
        return None
    batch = ""
    if not record[1].isdigit():
        if not _ENDS_PLAINLY.issuperset(flags_of(record)):
            return None  # only a change that is sent field by field releases the jobs that wait for this one
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
    """Return an entry of a job's history as a line of its record, including the line end."""
    return ENTRY.write_of(entry, "reason" if entry.attempt is None else "server") + "\n"


def _read_entry(line: str) -> HistoryEntry | None:
    try:
        fields = ENTRY.read(line)
        return HistoryEntry(_NAMES[fields.pop("state")], **fields)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def read_history(record: str, created_at: int) -> list[HistoryEntry]:
    """Return a job's history, including the first and last entry if only other fields imply them.

    See `RECORD.origin` and `LAST.ended`. A line that cannot be read is skipped.

    Raises:
        ValueError: If the record does not have the expected format.
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


# ---- data stored next to jobs ----------------------------------------------------------------------------

FAILURE = Array("at", "type", "message", "fingerprint", "traceback")  # a failed attempt
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
)  # a renewal without the id of its session
PROGRESS = Array("done", "total", "at", "message")
LOG_LINE = Array("at", "level", "text", "attempt")

STORED_MEMO = Text(
    (
        Field("place", "%d+", " "),  # the position in the order in which the names were first used
        Field("bytes", "%d+", " "),  # the size of the value
        Field("done", "%d", " "),  # 1 if the memo is complete, 0 if it has only been begun
        Field("memo", ".*", "$"),  # a `MEMO`
    )
)
"""A memo, stored under its name.

Under the empty name, the place of the next name and the total number of bytes are stored.
"""

UNIQUE_OWNER = Text(
    (
        Field("mark", "%d+", " "),  # the number of times the job had started when it took the key
        Field("free_at", "%d+", " "),  # the key is not free before this time, even if the job ends earlier
        Field("id", ".*", "$"),
    )
)
"""The value that is stored under a unique key."""

LIMIT_SETTINGS = Text(
    (
        Field("concurrent", "%S+", " "),
        Field("rate", "%S+", " "),
        Field("per", "%S+", " "),
        Field("burst", "%S+", " "),
        Field("paused", "%S+", "$"),
    )
)
"""The settings of a limit; a missing one is written as -."""

# ---- JSON of firelock.model, which scripts read ----------------------------------------------------------

ADMISSION = Array("uses", "unique", "before", "within")  # see `write_admission`
USE = Array("key", "cost", "strict")  # the use of a limit by a job
UNIQUE = Array("key", "kept_until", "at_least", "keeps_last", "raises", "wait", "max_wait")
RELATIONS = Array("batch", "caller", "inputs", "rules")  # see `write_relations`
INPUT = Array("job")  # the rest of the array is the path
# The rules of a batch; the last three fields are its retention per final state.
RULES = Array("name", "fast", "succeeded", "failed", "deleted")
