"""A job as a row: reading columns, changing a row in memory, and writing it back.

An unreadable value is treated as a missing one. Therefore, a value that was changed by hand does not prevent
the job from being displayed or other jobs from being claimed.

No other transaction can change a row between the read and the write, because the transaction has locked the
row (on SQLite, the whole database). Rows are locked in the order of their ids. Two transactions with the same
jobs may therefore wait for each other, but they never deadlock.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import attrs

from firelock.storage import (
    HISTORY_LIMIT,
    Admission,
    ClaimedJob,
    Edge,
    ErrorInfo,
    FailedAttempt,
    HistoryEntry,
    JobHistory,
    JobRecord,
    On,
    Progress,
    Relations,
    Standing,
    State,
    StorageError,
    add_duplicate,
    bounded_history,
    is_damaged,
    read_admission,
    read_relations,
)
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.rows.marks import HAS_CHILDREN, HAS_MEMOS, IS_MEMBER

COMPACT_FROM = 2 * HISTORY_LIMIT
"""The number of history lines from which the stored history is rewritten without its middle.

Reads leave out the middle of a long history in any case.
"""

# `coalesce` keeps the planner from using the index of sessions. Otherwise, the planner expects that a session
# holds few jobs, and reads all of them to find one.
IS_HELD = "id = :id AND state = 'processing' AND coalesce(session, '') = :session AND fence = :fence"

# ---- columns ---------------------------------------------------------------------------------------------


def list_text(values: Sequence[str]) -> str | None:
    """Return the strings as JSON for a column; None if the sequence is empty."""
    return json.dumps(values, ensure_ascii=False) if values else None


def read_list(text: str | None) -> tuple[str, ...]:
    """Return the strings that `list_text` has written; an unreadable value counts as empty."""
    try:
        return tuple(map(str, json.loads(text))) if text else ()
    except (TypeError, ValueError):
        return ()


_NOTHING = Admission()


def admission_in(text: str | None) -> Admission:
    """Return the admission of a job."""
    return _NOTHING if text is None else read_admission(text)


def readable_admission(text: str) -> str:
    """Return the string of a stored admission if a server of this or a newer release can read it.

    Raises:
        StorageError: If the value is damaged; the job might otherwise start without its limits.
    """
    if read_admission(text).unread is not None and is_damaged(text):
        raise StorageError("The limits of a job must be JSON.")
    return text


_NO_TIES = Relations()


def relations_in(text: str | None) -> Relations:
    """Return the relations of a job."""
    return _NO_TIES if text is None else read_relations(text)


def edges_text(parents: Sequence[Edge]) -> str | None:
    """Return a job's edges to its parents as JSON for a column; None if there are no edges."""
    relations = [[edge.parent_id, edge.on.value, *([1] if edge.carries else [])] for edge in parents]
    return json.dumps(relations) if relations else None


def _read_edges(text: str | None) -> tuple[Edge, ...]:
    try:
        relations = json.loads(text) if text else ()
        return tuple(Edge(parent_id, On(on), bool(more and more[0])) for parent_id, on, *more in relations)
    except (TypeError, ValueError):
        return ()


_STATES = {state.value: state for state in State}


def read_state(text: str) -> State:
    """Return the state with this name; an unknown state counts as failed."""
    return _STATES.get(text, State.FAILED)


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_in_order = attrgetter(*(field.name for field in attrs.fields(HistoryEntry)))
_DEFAULTS = [field.default for field in attrs.fields(HistoryEntry)][1:]  # after the state


def entry_line(entry: HistoryEntry) -> str:
    """Return one history entry as a line."""
    state, *fields = _in_order(entry)
    while fields[-1] == _DEFAULTS[len(fields) - 1]:
        fields.pop()
    return _encode([state.value, *fields]) + "\n"


_ENTRY_FIELDS = len(_DEFAULTS)


def _read_line(line: str) -> HistoryEntry | None:
    try:
        state, *rest = json.loads(line)
        return HistoryEntry(_STATES[state], *rest[:_ENTRY_FIELDS])
    except (KeyError, TypeError, ValueError):
        return None


_Stored = dict[int, tuple[HistoryEntry, str]]
"""The line of each entry that was read, by the entry's identity.

The entry is kept, so that no other object gets the same identity.
"""


def _read_history(
    created_at: int, creation: str | None, lines: str, stored: _Stored | None = None
) -> list[HistoryEntry]:
    """Return a job's history, without its middle if it is long; `stored` receives the lines."""
    first = None if creation is None else _read_line(creation)
    history = [first or HistoryEntry(State.ENQUEUED, created_at)]
    for line in lines.split("\n")[:-1]:  # not splitlines(): a reason may contain other line separators
        if (entry := _read_line(line)) is not None:
            history = bounded_history(history, entry)
            if stored is not None:
                stored[id(entry)] = entry, f"{line}\n"
    return history


def _written_history(history: Iterable[HistoryEntry], stored: _Stored) -> str:
    """Return a history as lines; lines that were read stay unchanged, including fields of a newer release."""
    return "".join(stored[id(entry)][1] if id(entry) in stored else entry_line(entry) for entry in history)


# ---- reading ---------------------------------------------------------------------------------------------

_OF_MARKS = "has_memos"  # the only field of a ClaimedJob that has no separate column
CLAIMED = tuple(field.name for field in attrs.fields(ClaimedJob) if field.name != _OF_MARKS)
"""The columns of a claimed job, in the order of the fields of `ClaimedJob`; `tags` is still a string."""
CLAIMED_COLUMNS = ", ".join(CLAIMED)
CLAIMABLE_WITHOUT_LIMITS = (*CLAIMED, "seq", "marks")
CLAIMABLE = (*CLAIMABLE_WITHOUT_LIMITS, "lane")
"""The columns of a claimable job; `lane` is read only for jobs with limits, so it is the last one."""
_TAGS = CLAIMED.index("tags")

# Fields of a JobRecord that are built from other columns, and these columns.
_MADE = ("error", "progress")
_OF_ERROR = ("error_type", "error_message", "error_fingerprint")
_OF_PROGRESS = ("done", "total", "at", "message")
_PLAIN = tuple(field.name for field in attrs.fields(JobRecord) if field.name not in _MADE)
_RECORD = (*_PLAIN, *_OF_ERROR, *_OF_PROGRESS)
_SUSPENDED = frozenset({State.AWAITING, State.SCHEDULED})

_GET = Text(
    f"SELECT {', '.join(f'job.{name}' for name in (*_PLAIN, *_OF_ERROR))},"  # noqa: S608 - names of columns
    f" {', '.join(_OF_PROGRESS)}"
    " FROM firelock_jobs AS job LEFT JOIN firelock_progress AS progress"
    " ON progress.job_id = job.id WHERE id IN :ids"
)
_HISTORY = Text("""
SELECT created_at, creation, history, is_plain_end, state, changed_at, attempt, claimed_at, started_at, server
FROM firelock_jobs WHERE id = :id
""")
_ERRORS = Text("""
SELECT attempt, at, type, message, fingerprint, traceback FROM firelock_attempt_errors
WHERE job_id = :id ORDER BY seq DESC LIMIT 20
""")


def claimed_job(row: Sequence[Any], marks: int) -> ClaimedJob:
    """Return the claimed job that a row of the columns `CLAIMED` contains."""
    job = ClaimedJob(*row)
    job.tags, job.has_memos = read_list(row[_TAGS]), bool(marks & HAS_MEMOS)
    return job


def get_jobs(tx: Transaction, ids: Sequence[str]) -> list[JobRecord | None]:
    """See `Storage.get`."""
    found = map(_read_record, tx.all(_GET, ids=list(ids)))
    by_id = {record.id: record for record in found}
    return [by_id.get(id) for id in ids]


def _read_record(row: Sequence[Any]) -> JobRecord:
    """Return the job that a row of the columns `_RECORD` contains."""
    fields: dict[str, Any] = dict(zip(_RECORD, row, strict=True))
    type_, message, fingerprint = (fields.pop(name) for name in _OF_ERROR)
    done, total, at, note = (fields.pop(name) for name in _OF_PROGRESS)
    fields["error"] = None if type_ is None else ErrorInfo(type_, message, fingerprint)
    fields["progress"] = None if done is None else Progress(done=done, total=total, at=at, message=note)
    fields["state"], fields["tags"] = read_state(fields["state"]), read_list(fields["tags"])
    fields["parents"] = _read_edges(fields["parents"])
    if fields["state"] not in _SUSPENDED:
        fields["waits_for"] = None
    return JobRecord(**fields)


def get_history(tx: Transaction, job_id: str) -> JobHistory:
    """See `Storage.history`."""
    found = tx.one(_HISTORY, id=job_id)
    if found is None:
        return JobHistory([], [])
    created_at, creation, lines, is_plain_end, state, changed_at, *attempt = found
    history = _read_history(created_at, creation, lines)
    if is_plain_end:
        history = bounded_history(history, HistoryEntry(read_state(state), changed_at, None, *attempt))
    errors = [
        FailedAttempt(
            attempt=attempt, at=at, error=ErrorInfo(kind, message, fingerprint=mark, traceback=traceback)
        )
        for attempt, at, kind, message, mark, traceback in tx.all(_ERRORS, id=job_id)
    ]
    return JobHistory(history, errors[::-1])


# ---- changing --------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class JobRow(Standing):
    """The columns of a job that can change, as this transaction sees and changes them."""

    seq: int
    id: str
    queue: str
    created_at: int
    nominal_at: int | None
    marks: int
    history_lines: int
    is_plain_end: int
    lane: str | None
    admission_json: str | None
    relations_json: str | None
    state: State
    reason: str | None
    changed_at: int
    enqueued_at: int | None
    attempt: int
    retries: int
    crashes: int
    fence: int
    session: str | None
    server: str | None
    claimed_at: int | None
    started_at: int | None
    due_at: int | None
    ended_at: int | None
    expires_at: int | None
    result: str | None
    result_absent: str | None
    waits_for: str | None
    error_type: str | None
    error_message: str | None
    error_fingerprint: str | None
    # These fields are not columns. A row is created from its columns by position.
    added: list[str] = attrs.field(factory=list, kw_only=True)  # lines of history that are not written yet
    is_changed: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        self.state = read_state(self.state)
        if self.is_plain_end:  # the next change writes the current outcome as a line of history
            self.note(self.state, self.changed_at, None, of_attempt=True)

    @property
    def is_member(self) -> bool:
        """Whether the job is a member of a batch."""
        return bool(self.marks & IS_MEMBER)

    @property
    def is_batch(self) -> bool:
        """Whether the job is itself a batch."""
        return self.relations_json is not None and self.relations.batch is not None

    @property
    def relations(self) -> Relations:
        """The relations of the job to other jobs."""
        return relations_in(self.relations_json)

    @property
    def has_children(self) -> bool:
        """Whether there may be undecided edges of the job's children."""
        return bool(self.marks & HAS_CHILDREN)

    def move(self, tx: Transaction, to: State, **fields: object) -> None:
        """Change the state and these fields, and update the counts of jobs per state."""
        if to is not self.state:
            tx.moved(self.queue, self.state.value, to.value)
        self.state = to
        self.change(fields)

    def change(self, fields: Mapping[str, object]) -> None:
        """Change these fields."""
        for name, value in fields.items():
            setattr(self, name, value)
        self.is_changed = True

    def notify_if_claimable(self, tx: Transaction) -> None:
        """Notify servers of the job after the commit if the job is claimable."""
        if self.session is None and self.state == State.ENQUEUED:
            tx.woken.add(self.queue)

    def note(self, state: State, at: int, reason: str | None, *, of_attempt: bool = False) -> None:
        """Add an entry to the history."""
        attempt = (self.attempt, self.claimed_at, self.started_at, self.server) if of_attempt else ()
        self.added.append(entry_line(HistoryEntry(state, at, reason, *attempt)))


_READ = [field.name for field in attrs.fields(JobRow) if not field.kw_only]
_WRITTEN = _READ[_READ.index("state") :]
_values_of = attrgetter(*_WRITTEN)
_LOOK = f"""
SELECT {", ".join(_READ)} FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY id FOR NO KEY UPDATE
"""  # noqa: S608 - names
KNOWN = Text("SELECT id FROM firelock_jobs WHERE id IN :ids")
_LOAD = Text(_LOOK)
_LOAD_FREE, _LOAD_BRIEFLY = Text(f"{_LOOK} SKIP LOCKED"), Text(f"{_LOOK} NOWAIT")
# This statement locks the jobs that are about to be settled, in the same order as all other statements.
_LOCK = "SELECT id FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY id FOR NO KEY UPDATE"
LOCK, _LOCK_FREE = Text(_LOCK), Text(f"{_LOCK} SKIP LOCKED")
_SAVE = Text(
    f"UPDATE firelock_jobs SET {', '.join(f'{name} = :{name}' for name in _WRITTEN)},"  # noqa: S608 - names
    " history = history || :lines, history_lines = history_lines + :number, is_plain_end = 0 WHERE seq = :seq"
)
_TEXT = Text("SELECT creation, history FROM firelock_jobs WHERE seq = :seq")
_REWRITE = Text("UPDATE firelock_jobs SET history = :history, history_lines = :number WHERE seq = :seq")


def visible(tx: Transaction, ids: Iterable[str]) -> list[str]:
    """Return the ids in order, without jobs that other transactions have inserted but not committed.

    On MySQL, a caller's transaction that locks such a job would wait for the other transaction, which may be
    open in the same thread. On other databases, a locking query does not see uncommitted rows, so this
    function does not run a query.
    """
    wanted = sorted(set(ids))
    if tx.newer is None or not wanted:
        return wanted
    return sorted({row[0] for row in tx.all_known(KNOWN, ids=wanted)})


def load_rows(tx: Transaction, ids: Iterable[str], *, is_patient: bool = True) -> dict[str, JobRow]:
    """Return the stored jobs by id, locked in order of id if the database locks rows.

    Unless `is_patient`, return only those that no other transaction has locked.
    """
    found = tx.all(_LOAD if is_patient else _LOAD_FREE, ids=list(ids))
    return {row.id: row for row in itertools.starmap(JobRow, found)}


def load_briefly(tx: Transaction, ids: Iterable[str]) -> dict[str, JobRow]:
    """Do the same as `load_rows`, in a brief transaction that fails if a row stays locked."""
    return {row.id: row for row in itertools.starmap(JobRow, tx.all(_LOAD_BRIEFLY, ids=list(ids)))}


def lock_free(tx: Transaction, ids: Iterable[str]) -> set[str]:
    """Lock the jobs that no other transaction has locked; return their ids."""
    wanted = sorted(set(ids))
    return {str(row[0]) for row in tx.all(_LOCK_FREE, ids=wanted)} if wanted else set()


def stored_among(tx: Transaction, ids: Iterable[str]) -> set[str]:
    """Return the ids of the jobs that are stored.

    If a job is stored but could not be locked, another transaction has locked it.
    """
    wanted = sorted(set(ids))
    return {str(row[0]) for row in tx.all(KNOWN, ids=wanted)} if wanted else set()


def save_rows(tx: Transaction, rows: Iterable[JobRow]) -> None:
    """Write the rows that have changed."""
    changed = [row for row in rows if row.is_changed]
    tx.run_many(_SAVE, map(_saved, changed))
    for row in changed:
        row.is_changed = False
        row.history_lines += len(row.added)
        row.added.clear()
        if row.history_lines >= COMPACT_FROM:
            compact(tx, row)


def _saved(row: JobRow) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(_WRITTEN, _values_of(row), strict=True))
    values["state"] = row.state.value
    values["lines"], values["number"], values["seq"] = "".join(row.added), len(row.added), row.seq
    return values


def add_duplicates(tx: Transaction, row: JobRow, number: int, at: int) -> None:
    """Add duplicate calls, which have changed a waiting job, to the job's history."""
    creation, lines = tx.one(_TEXT, seq=row.seq)
    stored: _Stored = {}
    history = _read_history(row.created_at, creation, lines, stored)
    for _ in range(number):
        history = add_duplicate(history, row.state, at)
    row.history_lines = len(history) - 1
    written = _written_history(history[1:], stored)
    tx.run(_REWRITE, seq=row.seq, history=written, number=row.history_lines)


def compact(tx: Transaction, row: JobRow) -> None:
    """Rewrite the stored history without its middle; reads return the same history as before."""
    row.history_lines = compact_history(tx, row.seq, row.created_at)


def compact_history(tx: Transaction, seq: int, created_at: int) -> int:
    """Rewrite the stored history of a job without its middle; return its new number of lines."""
    creation, lines = tx.one(_TEXT, seq=seq)
    stored: _Stored = {}
    history = _written_history(_read_history(created_at, creation, lines, stored)[1:], stored)
    number = history.count("\n")
    tx.run(_REWRITE, seq=seq, history=history, number=number)
    return number
