"""What people read of the jobs: pages in order of time, single ones, numbers over all.

A page without a state is merged from the parts of one index, one for each queue and task; every other one
walks along one index, and looks at so many jobs and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from heapq import merge
from typing import Any

import attrs
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    or_,
    select,
)

from firelock.storage import (
    Attempt,
    Counts,
    ErrorInfo,
    FailureGroup,
    FoundJobs,
    HistoryEntry,
    JobFilter,
    JobRecord,
    Progress,
    State,
    bounded_history,
    rules,
)
from firelock_sql.counting import counted, known_queues
from firelock_sql.history import read_edges, read_history, read_list, read_state
from firelock_sql.statements import Statement, Value, among
from firelock_sql.tables import (
    ONE,
    ZERO,
    attempt_errors,
    edges,
    is_retrying,
    is_scheduled,
    job_tags,
    jobs,
    pinned,
    progress,
    text_literal,
)
from firelock_sql.transaction import Database, Transaction

__all__ = [
    "RECORD_COLUMNS",
    "SCANNED",
    "Part",
    "count_jobs",
    "find_jobs",
    "find_parts",
    "get_errors",
    "get_history",
    "get_jobs",
    "group_failures",
    "read_record",
    "size_of",
]

Part = tuple[str, str]
"""A queue and a task."""

_NEXT_TASK = Statement(
    pinned(select(jobs.c.task), "by_task")
    .where(jobs.c.queue == bindparam("part_queue"), jobs.c.task > bindparam("former"))
    .order_by(jobs.c.task)
    .limit(ONE)
)
_SIZE = Statement(
    select(func.count()).select_from(
        pinned(select(ONE).select_from(jobs), "by_task")
        .where(jobs.c.queue == bindparam("part_queue"), jobs.c.task == bindparam("part_task"))
        .limit(bindparam("most"))
        .subquery()
    )
)


def find_parts(tx: Transaction, queue: str | None, task: str | None) -> list[Part]:
    """Return the parts that may hold jobs of this queue and task, of all of them where none is given."""
    queues = [queue] if queue is not None else known_queues(tx)
    if task is not None:
        return [(name, task) for name in queues]
    return [(name, found) for name in queues for found in _tasks(tx, name)]


def _tasks(tx: Transaction, queue: str) -> list[str]:
    """Return the tasks of a queue, by one short step along the index for each."""
    tasks: list[str] = []
    while found := tx.one(_NEXT_TASK, {"part_queue": queue, "former": tasks[-1] if tasks else ""}):
        if not isinstance(found[0], str):  # bytes that somebody put there come behind every text, for ever
            break
        tasks.append(found[0])
    return tasks


def size_of(tx: Transaction, parts: list[Part], most: int) -> int:
    """Return how many jobs the parts hold, at most about `most`."""
    size = 0
    for queue, task in parts:
        found: Any = tx.one(_SIZE, {"part_queue": queue, "part_task": task, "most": most})
        size += int(found[0])
        if size >= most:
            break
    return size


SCANNED = 20_000
RARE = 5_000
"""A condition that at most so many jobs meet is looked up, and its jobs sorted."""

_CHUNK = 2_000
_SMALLEST_CHUNK = 8
_HOPEFUL = 8  # so many rows a wanted one are looked at first, where each has to be tested
_LAST_CHARACTER = "\U0010ffff"

_Found = tuple[int, str, int]
"""Time and id of a job, and whether it meets every condition."""

_TAG = job_tags.c.tag == bindparam("tag")
# Every condition of a filter but the time window; parameters are named after the field.
_CONDITIONS: dict[str, ColumnElement[bool]] = {
    "state": jobs.c.state == bindparam("state"),
    "task": jobs.c.task == bindparam("task"),
    "queue": jobs.c.queue == bindparam("queue"),
    "server": jobs.c.server == bindparam("server"),
    "fingerprint": and_(
        jobs.c.error_fingerprint.is_not(None), jobs.c.error_fingerprint == bindparam("fingerprint")
    ),
    "recurring_id": and_(jobs.c.recurring_id.is_not(None), jobs.c.recurring_id == bindparam("recurring_id")),
    "id_prefix": and_(
        jobs.c.id >= bindparam("id_prefix"),
        jobs.c.id < bindparam("id_end"),
        func.substr(jobs.c.id, ONE, bindparam("id_length")) == bindparam("id_prefix_again"),
    ),
    "tag": jobs.c.id.in_(select(job_tags.c.job_id).where(_TAG)),
    "parent_id": jobs.c.id.in_(select(edges.c.child_id).where(edges.c.parent_id == bindparam("parent_id"))),
    "retrying": is_retrying & jobs.c.due_at.is_not(None),  # always so; some indexes know no state
    "not_retrying": ~is_retrying,
}
# The same where each job on the way is tested: a look at one row, not at all that have the tag.
_TESTS: dict[str, ColumnElement[bool]] = {
    **_CONDITIONS,
    "tag": exists(
        select(ONE)
        .select_from(job_tags)
        .where(
            _TAG,
            job_tags.c.created_at == jobs.c.created_at,
            job_tags.c.job_id == jobs.c.id,
        )
        .correlate(jobs)
    ),
}
# What may be rare, the rarest as a rule first, and the index that finds it.
_RARE_INDEXES: dict[str, str | None] = {
    "parent_id": None,
    "tag": None,
    "recurring_id": "by_recurring",
    "fingerprint": "by_fingerprint",
    "retrying": "retrying",
    "id_prefix": None,
}
_PART = (jobs.c.queue == bindparam("part_queue"), jobs.c.task == bindparam("part_task"))


@attrs.frozen
class _Walk:
    """A way through the jobs: what leads, what is tested, in which order."""

    index: str | None
    led_by: frozenset[str]  # conditions that hold for every row of the walk
    tested: frozenset[str]  # conditions that each row is tested for
    time: str  # the column of the order
    is_oldest_first: bool
    has_since: bool
    has_until: bool
    has_cursor: bool


@attrs.frozen
class _Query:
    """What is asked: a filter, as conditions and parameters, and where to go on."""

    conditions: frozenset[str]
    parameters: Mapping[str, Value]
    state: State | None
    time: str
    limit: int
    is_oldest_first: bool
    place: rules.Place | None  # of the cursor

    def walk(self, index: str | None, led_by: frozenset[str]) -> _Walk:
        """Return the walk along an index that answers some of the conditions."""
        return _Walk(
            index,
            led_by,
            self.conditions - led_by,
            self.time,
            self.is_oldest_first,
            "since" in self.parameters,
            "until" in self.parameters,
            self.place is not None,
        )


def find_jobs(
    tx: Transaction,
    database: Database,
    where: JobFilter,
    *,
    limit: int,
    cursor: str | None,
    oldest_first: bool,
) -> FoundJobs:
    """See `Storage.find`."""
    conditions, parameters = _read_filter(where)
    state = where.state
    if where.by_due:
        if state not in {None, State.SCHEDULED}:
            return FoundJobs([], None)
        state = State.SCHEDULED
    place = None if cursor is None else rules.read_cursor(cursor, where, oldest_first=oldest_first)
    order = "due_at" if where.by_due else "created_at" if state is None else "changed_at"
    query = _Query(conditions, parameters, state, order, limit, oldest_first, place)
    rows, most = _rows(tx, query)
    found: list[rules.Place] = []
    looked_at, last = 0, (0, "")
    for time, id, is_match in rows:
        looked_at, last = looked_at + 1, (time, id)
        if is_match:
            found.append(last)
        if len(found) > limit or looked_at == most:
            break
    records = get_jobs(tx, database, [id for _, id in found[:limit]])
    following = None
    if len(found) > limit > 0:
        following = found[limit - 1]
    elif looked_at == most:
        following = last
    return FoundJobs(
        [one for one in records if one is not None],
        None if following is None else rules.write_cursor(following, where, oldest_first=oldest_first),
    )


def _read_filter(where: JobFilter) -> tuple[frozenset[str], dict[str, Value]]:
    """Return the names of the filter's conditions, and all parameters."""
    names = ("task", "queue", "tag", "server", "fingerprint", "recurring_id", "parent_id", "since", "until")
    parameters: dict[str, Value] = {
        name: value for name in names if (value := getattr(where, name)) is not None
    }
    if where.state is not None:
        parameters["state"] = where.state.value
    if where.by_due:
        parameters["state"] = State.SCHEDULED.value
    conditions = {*parameters} - {"since", "until"}
    if where.id_prefix:
        conditions.add("id_prefix")
        parameters["id_prefix"] = parameters["id_prefix_again"] = where.id_prefix
        parameters["id_end"] = where.id_prefix + _LAST_CHARACTER
        parameters["id_length"] = len(where.id_prefix)
    if where.is_retrying is not None:
        conditions.add("retrying" if where.is_retrying else "not_retrying")
    return frozenset(conditions), parameters


# ---- the way ---------------------------------------------------------------------------------------------


def _rows(tx: Transaction, query: _Query) -> tuple[Iterator[_Found], int | None]:
    """Return rows in the order of the page, and how many of them may be looked at where that is bounded."""
    everything = query.conditions
    if query.state is State.PROCESSING:
        return _along(tx, query, query.walk("holder", everything)), None
    for name, index in _RARE_INDEXES.items():
        if name in everything and _is_rare(tx, name, index, query.parameters):
            return _along(tx, query, query.walk(index, everything)), None
    if query.state is None and "tag" in everything:
        walk = query.walk("tagged", frozenset({"tag"}))
        return _along(tx, query, walk), SCANNED if walk.tested else None
    queue, task = (query.parameters.get(name) for name in ("queue", "task"))
    if query.state is None or queue is not None or task is not None:
        parts = find_parts(tx, queue, task)  # type: ignore[arg-type]  # both are texts
        if query.state is None:
            walk = query.walk("by_task", frozenset({"queue", "task"}) & everything)
            return _merged(tx, query, walk, parts), SCANNED if walk.tested else None
        if size_of(tx, parts, RARE + 1) <= RARE:
            return _merged(tx, query, query.walk("by_task", everything), parts), None
    walk = query.walk("due" if query.time == "due_at" else "listed", frozenset({"state"}))
    return _along(tx, query, walk), SCANNED if walk.tested else None


def _is_rare(tx: Transaction, name: str, index: str | None, parameters: Mapping[str, Value]) -> bool:
    found: Any = tx.one(_count_up_to(name, index), {**parameters, "rare": RARE + 1})
    return bool(found[0] <= RARE)


@cache
def _count_up_to(name: str, index: str | None) -> Statement:
    if name == "tag":
        source = select(ONE).select_from(job_tags).where(_TAG)
    elif name == "parent_id":
        source = select(ONE).select_from(edges).where(edges.c.parent_id == bindparam("parent_id"))
    else:
        source = select(ONE).select_from(jobs).where(_CONDITIONS[name])
        if index is not None:
            source = pinned(source, index)
    return Statement(select(func.count()).select_from(source.limit(bindparam("rare")).subquery()))


# ---- rows ------------------------------------------------------------------------------------------------


def _merged(tx: Transaction, query: _Query, walk: _Walk, parts: Sequence[Part]) -> Iterator[_Found]:
    """Yield the rows of every part in the order of the page."""
    chunk = max(_SMALLEST_CHUNK, 2 * (query.limit + 1) // max(1, len(parts)))
    sources = [
        _along(tx, query, walk, chunk, {"part_queue": queue, "part_task": task}) for queue, task in parts
    ]
    return merge(*sources, key=lambda row: row[:2], reverse=not query.is_oldest_first)


def _along(
    tx: Transaction,
    query: _Query,
    walk: _Walk,
    chunk: int = _CHUNK,
    part: Mapping[str, Value] | None = None,
) -> Iterator[_Found]:
    """Yield the rows of one walk, fetched some at a time."""
    parameters = {**query.parameters, **(part or {})}
    most = min(chunk, (query.limit + 1) * (_HOPEFUL if walk.tested else 1))
    place = query.place
    while True:
        if place is not None:
            parameters["cursor_time"] = parameters["cursor_time_again"] = place[0]
            parameters["cursor_id"] = place[1]
        rows: list[Any] = tx.all(_statement(walk), {**parameters, "most": most})
        yield from rows
        if len(rows) < most:
            return
        place = rows[-1][:2]
        walk = attrs.evolve(walk, has_cursor=True)
        most = min(2 * most, _CHUNK)


@lru_cache(maxsize=512)
def _statement(walk: _Walk) -> Statement:
    if walk.index == "tagged":
        return Statement(_paged(_tagged(walk), walk, job_tags.c.created_at, job_tags.c.job_id))
    time = jobs.c[walk.time]
    statement: Select[Any] = select(
        time, jobs.c.id, _is_match([_TESTS[name] for name in sorted(walk.tested)])
    )
    statement = statement.where(*(_CONDITIONS[name] for name in sorted(walk.led_by)))
    if walk.index == "by_task":
        statement = statement.where(*_PART)
    if walk.index == "listed":
        statement = statement.where(jobs.c.state != text_literal(State.PROCESSING))
    if walk.index == "due":
        statement = statement.where(is_scheduled, jobs.c.due_at.is_not(None))
    if walk.index == "holder":
        statement = statement.where(jobs.c.session.is_not(None))
    if walk.index is not None:
        statement = pinned(statement, walk.index)
    return Statement(_paged(statement, walk, time, jobs.c.id))


def _tagged(walk: _Walk) -> Select[Any]:
    """Return the jobs of a tag, which its table has in the order of creation; each is tested by its id."""
    tests = [_TESTS[name] for name in sorted(walk.tested)]
    job = select(ONE).select_from(jobs).where(jobs.c.id == job_tags.c.job_id, *tests).correlate(job_tags)
    is_match = _is_match([exists(job)] if tests else [])
    return select(job_tags.c.created_at, job_tags.c.job_id, is_match).where(_TAG)


def _is_match(tests: Sequence[ColumnElement[bool]]) -> ColumnElement[int]:
    return case((and_(*tests), ONE), else_=ZERO) if tests else ONE


def _paged(
    statement: Select[Any], walk: _Walk, time: ColumnElement[int], id: ColumnElement[str]
) -> Select[Any]:
    """Return the rows of the window that lie behind the cursor, so many of them, in order."""
    if walk.has_since:
        statement = statement.where(time >= bindparam("since"))
    if walk.has_until:
        statement = statement.where(time < bindparam("until"))
    if walk.has_cursor:
        statement = statement.where(*_behind(time, id, is_oldest_first=walk.is_oldest_first))
    order = (time, id) if walk.is_oldest_first else (time.desc(), id.desc())
    return statement.order_by(*order).limit(bindparam("most"))


def _behind(
    time: ColumnElement[int], id: ColumnElement[str], *, is_oldest_first: bool
) -> list[ColumnElement[bool]]:
    """Return what holds for the rows behind the cursor, with a bound that an index can begin at."""
    at: BindParameter[int] = bindparam("cursor_time")
    again: BindParameter[int] = bindparam("cursor_time_again")
    behind: BindParameter[str] = bindparam("cursor_id")
    if is_oldest_first:
        return [time >= at, or_(time > again, id > behind)]
    return [time <= at, or_(time < again, id < behind)]


_ERRORS_LIMIT = 20
_GROUPED_LIMIT = 10_000

RECORD_COLUMNS = (
    jobs.c.id, jobs.c.task, jobs.c.arguments, jobs.c.serializer, jobs.c.state, jobs.c.queue, jobs.c.priority,
    jobs.c.created_at, jobs.c.tags, jobs.c.due_at, jobs.c.nominal_at, jobs.c.reason, jobs.c.enqueued_at,
    jobs.c.attempt, jobs.c.retries, jobs.c.crashes, jobs.c.fence, jobs.c.session, jobs.c.server,
    jobs.c.claimed_at, jobs.c.started_at, jobs.c.ended_at, jobs.c.changed_at, jobs.c.expires_at,
    jobs.c.timeout_seconds, jobs.c.retry, jobs.c.recurring_id, jobs.c.error_type, jobs.c.error_message,
    jobs.c.error_fingerprint, jobs.c.result, jobs.c.result_absent, jobs.c.parents,
)  # fmt: skip
_STATE, _TAGS, _ERROR = 4, 8, 27

_GET = Statement(
    select(*RECORD_COLUMNS, progress.c.done, progress.c.total, progress.c.at, progress.c.message)
    .select_from(jobs.outerjoin(progress, progress.c.job_id == jobs.c.id))
    .where(among(jobs.c.id, "ids"))
)
_HISTORY = Statement(
    select(
        jobs.c.created_at, jobs.c.creation, jobs.c.history, jobs.c.is_plain_end, jobs.c.state,
        jobs.c.changed_at, jobs.c.attempt, jobs.c.claimed_at, jobs.c.started_at, jobs.c.server,
    ).where(jobs.c.id == bindparam("job_id"))
)  # fmt: skip
_ERRORS = Statement(
    select(
        attempt_errors.c.attempt, attempt_errors.c.at, attempt_errors.c.type, attempt_errors.c.message,
        attempt_errors.c.fingerprint, attempt_errors.c.traceback,
    )
    .where(attempt_errors.c.job_id == bindparam("owner"))
    .order_by(attempt_errors.c.seq.desc())
    .limit(literal_column(str(_ERRORS_LIMIT)))
)  # fmt: skip
_FAILED = Statement(
    pinned(
        select(
            jobs.c.error_fingerprint, jobs.c.error_type, jobs.c.error_message, jobs.c.task, jobs.c.changed_at,
            jobs.c.id,
        ),
        "listed",
    )
    .where(jobs.c.state == text_literal(State.FAILED), jobs.c.state != text_literal(State.PROCESSING))
    .order_by(jobs.c.changed_at.desc(), jobs.c.id.desc())
    .limit(literal_column(str(_GROUPED_LIMIT)))
)  # fmt: skip


def read_record(row: Sequence[Any]) -> JobRecord:
    """Return a row of `RECORD_COLUMNS` and the progress behind them as people see it."""
    type_, message, fingerprint, result, absent, parents, done, *said = row[_ERROR:]
    fields: list[Any] = list(row[:_ERROR])
    fields[_STATE], fields[_TAGS] = read_state(fields[_STATE]), read_list(fields[_TAGS])
    error = None if type_ is None else ErrorInfo(type_, message, fingerprint)
    told = None if done is None else Progress(done, *said)
    fields += [error, result, absent, read_edges(parents), told]
    return JobRecord(*fields)


def get_jobs(tx: Transaction, database: Database, ids: Sequence[str]) -> list[JobRecord | None]:
    """See `Storage.get`."""
    found = {row[0]: read_record(row) for row in tx.all(_GET, {"ids": database.among(ids)})}
    return [found.get(id) for id in ids]


def get_history(tx: Transaction, job_id: str) -> list[HistoryEntry]:
    """See `Storage.history`."""
    found: Any = tx.one(_HISTORY, {"job_id": job_id})
    if found is None:
        return []
    created_at, creation, lines, is_plain_end, state, changed_at, *attempt = found
    history = read_history(created_at, creation, lines)
    if is_plain_end:
        history = bounded_history(history, HistoryEntry(read_state(state), changed_at, None, *attempt))
    return history


def get_errors(tx: Transaction, job_id: str) -> list[Attempt]:
    """See `Storage.errors`."""
    rows: Sequence[Any] = tx.all(_ERRORS, {"owner": job_id})
    return [Attempt(row[0], row[1], ErrorInfo(*row[2:])) for row in reversed(rows)]


def count_jobs(tx: Transaction) -> Counts:
    """See `Storage.counts`."""
    by_state: dict[State, int] = {}
    by_queue: dict[str, dict[State, int]] = {}
    for queue, name, number in counted(tx):
        state = read_state(name)
        by_state[state] = by_state.get(state, 0) + number
        by_queue.setdefault(queue, {})[state] = number
    return Counts(by_state, by_queue)


def group_failures(tx: Transaction, limit: int) -> list[FailureGroup]:
    """See `Storage.failure_groups`."""
    groups: dict[str, list[Any]] = {}
    for row in tx.all(_FAILED):
        if row[0] is not None:
            groups.setdefault(str(row[0]), []).append(row)
    largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return [
        FailureGroup(fingerprint, rows[0][1], rows[0][2], rows[0][3], len(rows), rows[0][4], rows[0][5])
        for fingerprint, rows in largest[:limit]
    ]
