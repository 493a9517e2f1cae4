"""Queries over all jobs: pages in order of time, and counts.

A page without a state filter is merged from the parts of one index, one part per queue and task. One
statement lists the parts with the time of each part's first job. Then only the parts whose jobs can be on the
page are read, several in one round trip. Every other page is read along one index, up to a maximum number of
jobs.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import attrs
from typing_extensions import override

from firelock.storage import (
    Counts,
    FailureGroup,
    FoundJobs,
    JobFilter,
    JobRecord,
    State,
    rules,
)
from firelock_sql.connections.counting import counted
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Parameter, Text, Transaction, Value
from firelock_sql.rows.job_row import get_jobs, read_state

SCANNED = 20_000
RARE = 5_000
"""If at most this many jobs meet a condition, they are all read and sorted."""

_CHUNK = 2_000
_SMALLEST_CHUNK = 8
_HOPEFUL = 8  # rows to read first for each requested row, if each row must be tested
_RETRYING = "state = 'scheduled' AND retries > 0 AND waits_for IS NULL"
_LAST_CHARACTER = "\U0010ffff"

_Found = tuple[int, str, int]
"""Time and id of a job, and whether it meets all conditions."""

# All conditions of a filter except the time window; each parameter is named after its field.
_CONDITIONS = {
    "state": "state = :state",
    "task": "task = :task",
    "queue": "queue = :queue",
    "server": "server = :server",
    "fingerprint": "error_fingerprint IS NOT NULL AND error_fingerprint = :fingerprint",
    "recurring_id": "recurring_id IS NOT NULL AND recurring_id = :recurring_id",
    "id_prefix": "id >= :id_prefix AND id < :id_end AND substr(id, 1, :id_length) = :id_prefix",
    "tag": "id IN (SELECT job_id FROM firelock_job_tags WHERE tag = :tag)",
    "batch_id": "id IN (SELECT job_id FROM firelock_members WHERE batch_id = :batch_id)",
    "parent_id": "id IN (SELECT child_id FROM firelock_edges WHERE parent_id = :parent_id AND is_wait = 0)",
    # the due time of retrying jobs is never NULL, but some indexes do not contain the state
    "retrying": f"{_RETRYING} AND due_at IS NOT NULL",
    "not_retrying": f"NOT ({_RETRYING})",
}
# The same conditions for testing single jobs; they read one row instead of all jobs with the tag.
_TESTS = {
    **_CONDITIONS,
    "tag": "EXISTS (SELECT 1 FROM firelock_job_tags AS tagged WHERE tagged.tag = :tag"
    " AND tagged.created_at = firelock_jobs.created_at AND tagged.job_id = firelock_jobs.id)",
    "batch_id": "EXISTS (SELECT 1 FROM firelock_members AS listed WHERE listed.batch_id = :batch_id"
    " AND listed.created_at = firelock_jobs.created_at AND listed.job_id = firelock_jobs.id)",
}
# Conditions that few jobs may meet, usually the rarest first, and the index that finds these jobs.
_RARE_INDEXES: dict[str, str | None] = {
    "parent_id": None,
    "tag": None,
    "batch_id": None,
    "recurring_id": "by_recurring",
    "fingerprint": "by_fingerprint",
    "retrying": "retrying",
    "id_prefix": None,
}
# Conditions for which a separate table lists the jobs in order of creation.
_LISTS = {"tag": "firelock_job_tags", "batch_id": "firelock_members"}
# Additional conditions that all rows of an index meet.
_ALONG = {
    "by_task": ("queue = :part_queue", "task = :part_task"),
    "listed": ("state <> 'processing'",),
    "due": ("state = 'scheduled'", "due_at IS NOT NULL"),
    "holder": ("session IS NOT NULL",),
}


@attrs.frozen
class _Walk:
    """A scan of jobs: its index, its conditions and its order."""

    index: str | None
    led_by: frozenset[str]  # conditions that every row of the scan meets
    tested: frozenset[str]  # conditions that are tested on each row
    time: str  # the column that determines the order
    is_oldest_first: bool
    has_since: bool
    has_until: bool
    has_cursor: bool
    is_of_queues: bool = False  # whether a scan of "by_task" reads the listed or named queues, not one part


@attrs.frozen
class _Query:
    """A search: the conditions and parameters of a filter, and the position to continue from."""

    conditions: frozenset[str]
    parameters: Mapping[str, Value]
    state: State | None
    time: str
    limit: int
    is_oldest_first: bool
    place: rules.Place | None  # the cursor

    def walk(self, index: str | None, led_by: frozenset[str]) -> _Walk:
        """Return the scan along an index whose rows all meet the conditions `led_by`."""
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


class SqlReadingVerbs(SqlVerbs):
    """The verbs that search and count jobs."""

    @override
    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> FoundJobs:
        conditions, parameters = _read_filter(where)
        state = where.state
        if where.by_due:
            if state not in {None, State.SCHEDULED}:
                return FoundJobs([], None)
            state = State.SCHEDULED
        place = None if cursor is None else rules.read_cursor(cursor, where, oldest_first=oldest_first)
        order = "due_at" if where.by_due else "created_at" if state is None else "changed_at"
        query = _Query(conditions, parameters, state, order, limit, oldest_first, place)
        records, following = self._database.read(lambda tx: _find(tx, query))
        return FoundJobs(
            records,
            None if following is None else rules.write_cursor(following, where, oldest_first=oldest_first),
        )

    @override
    def counts(self) -> Counts:
        by_state: dict[State, int] = {}
        by_queue: dict[str, dict[State, int]] = {}
        for queue, name, number in self._database.read(counted):
            state = read_state(name)
            by_state[state] = by_state.get(state, 0) + number
            by_queue.setdefault(queue, {})[state] = number
        return Counts(by_state, by_queue)

    @override
    def failure_groups(self, limit: int) -> list[FailureGroup]:
        groups: dict[str, list[_Failed]] = {}
        for row in itertools.starmap(_Failed, self._database.read(lambda tx: tx.all(_FAILED))):
            if row.error_fingerprint is not None:
                groups.setdefault(row.error_fingerprint, []).append(row)
        largest = sorted(groups, key=lambda fingerprint: (-len(groups[fingerprint]), fingerprint))
        return [_group_of(groups[fingerprint]) for fingerprint in largest[:limit]]


class _Failed(NamedTuple):
    error_fingerprint: str | None
    error_type: str
    error_message: str
    task: str
    changed_at: int
    id: str


_FAILED = Text(f"""
SELECT {", ".join(_Failed._fields)}
FROM firelock_jobs INDEXED BY firelock_listed
WHERE state = 'failed' AND state <> 'processing' ORDER BY changed_at DESC, id DESC LIMIT 10000
""")  # noqa: S608 - names of columns


def _group_of(failed: Sequence[_Failed]) -> FailureGroup:
    """Return the jobs of one fingerprint, newest first, as a group."""
    newest = failed[0]
    return FailureGroup(
        fingerprint=newest.error_fingerprint or "",
        type=newest.error_type,
        message=newest.error_message,
        task=newest.task,
        count=len(failed),
        newest_at=newest.changed_at,
        sample_id=newest.id,
    )


def _find(tx: Transaction, query: _Query) -> tuple[list[JobRecord], rules.Place | None]:
    """Return a page, and the position after which the next page begins."""
    rows, most = _rows(tx, query)
    found: list[rules.Place] = []
    checked, last = 0, (0, "")
    for time, id, is_match in rows:
        checked, last = checked + 1, (time, id)
        if is_match:
            found.append(last)
        if len(found) > query.limit or checked == most:
            break
    records = get_jobs(tx, [id for _, id in found[: query.limit]])
    following = None
    if len(found) > query.limit > 0:
        following = found[query.limit - 1]
    elif checked == most:
        following = last
    return [one for one in records if one is not None], following


def _read_filter(where: JobFilter) -> tuple[frozenset[str], dict[str, Value]]:
    """Return the names of the filter's conditions, and all parameters."""
    names = (
        "task",
        "queue",
        "tag",
        "server",
        "fingerprint",
        "recurring_id",
        "parent_id",
        "batch_id",
        "since",
        "until",
    )
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
        parameters["id_prefix"] = where.id_prefix
        parameters["id_end"] = where.id_prefix + _LAST_CHARACTER
        parameters["id_length"] = len(where.id_prefix)
    if where.is_retrying is not None:
        conditions.add("retrying" if where.is_retrying else "not_retrying")
    return frozenset(conditions), parameters


# ---- scans -----------------------------------------------------------------------------------------------


def _rows(tx: Transaction, query: _Query) -> tuple[Iterator[_Found], int | None]:
    """Return rows in the order of the page, and the maximum number of rows to read; None if unlimited."""
    everything = query.conditions
    if query.state is State.PROCESSING:
        return _along(tx, query, query.walk("holder", everything)), None
    for name, index in _RARE_INDEXES.items():
        if name in everything and _is_rare(tx, name, index, query.parameters):
            return _along(tx, query, query.walk(index, everything)), None
    for name in _LISTS:
        if query.state is None and name in everything:
            walk = query.walk(name, frozenset({name}))
            return _along(tx, query, walk), SCANNED if walk.tested else None
    queue, task = (query.parameters.get(name) for name in ("queue", "task"))
    if query.state is None:
        walk = query.walk("by_task", frozenset({"queue", "task"}) & everything)
        return _merged(tx, query, walk), SCANNED if walk.tested else None
    if queue is not None or task is not None:
        walk = attrs.evolve(query.walk("by_task", everything), is_of_queues=True)
        listed = {} if queue is not None else {"ids": _queues_of(tx)}
        size = tx.one(_size(walk, tx.dialect.name), **query.parameters, **listed, most=RARE + 1)
        if size[0] <= RARE:
            return _along(tx, query, walk, more=listed), None
    walk = query.walk("due" if query.time == "due_at" else "listed", frozenset({"state"}))
    return _along(tx, query, walk), SCANNED if walk.tested else None


def _is_rare(tx: Transaction, name: str, index: str | None, parameters: Mapping[str, Value]) -> bool:
    return bool(tx.one(_count_up_to(name, index), **parameters, rare=RARE + 1)[0] <= RARE)


@cache
def _count_up_to(name: str, index: str | None) -> Text:
    hint = f" INDEXED BY firelock_{index}" if index else ""
    source = {
        "tag": "firelock_job_tags WHERE tag = :tag",
        "batch_id": "firelock_members WHERE batch_id = :batch_id",
        "parent_id": "firelock_edges WHERE parent_id = :parent_id AND is_wait = 0",
    }.get(name, f"firelock_jobs{hint} WHERE {_CONDITIONS[name]}")
    return Text(f"SELECT count(*) FROM (SELECT 1 FROM {source} LIMIT :rare) AS few")  # noqa: S608 - ours


# ---- rows ------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Part:
    """The jobs of one queue and task, some of which have been read."""

    queue: str
    task: str
    first: int  # the time of its first job, or of an earlier job that the cursor excludes
    most: int = 0  # maximum number of jobs for the next read
    last: rules.Place | None = None  # the last row that was read
    is_over: bool = False


_PartRow = tuple[_Found, _Part]


def _merged(tx: Transaction, query: _Query, walk: _Walk) -> Iterator[_Found]:
    """Yield the rows of all parts in the order of the page.

    A row is yielded as soon as no earlier row can follow, either from an opened part or from a part that has
    not been opened yet.
    """
    waiting = deque(_list_parts(tx, query, walk))
    batch = query.limit + 1  # a page cannot contain rows from more parts
    chunk = max(_SMALLEST_CHUNK, 2 * batch // max(1, min(len(waiting), batch)))
    chunk = min(chunk, batch * (_HOPEFUL if walk.tested else 1))
    opened: list[_Part] = []  # parts that may have more rows
    rows: list[_PartRow] = []  # rows that were read, but not yielded yet
    while waiting or opened:
        left = Counter(part for _, part in rows)
        wanted = [part for part in opened if left[part] <= part.most // 8]
        if waiting and not _is_behind(query, waiting[0].first, _nearest_end(query, opened)):
            new = [waiting.popleft() for _ in range(min(batch, len(waiting)))]
            for part in new:
                part.most, part.last = chunk, query.place
            opened, wanted, batch = [*opened, *new], [*wanted, *new], 2 * batch
        rows += _read_parts(tx, query, walk, wanted)
        rows.sort(key=lambda row: _order(row[0][:2]), reverse=not query.is_oldest_first)
        opened = [part for part in opened if not part.is_over]
        number = _count_ready(query, rows, opened, waiting[0].first if waiting else None)
        yield from (found for found, _ in rows[:number])
        del rows[:number]
    yield from (found for found, _ in rows)


def _is_behind(query: _Query, time: int, place: rules.Place | None) -> bool:
    """Return whether all jobs from this time on come after the position; False if there is no position."""
    if place is None:
        return False
    mine, other = _order((time, ""))[:3], _order(place)[:3]
    return mine > other if query.is_oldest_first else mine < other


def _order(place: rules.Place) -> tuple[bool, int, str, str]:
    """Return a sort key with the database's order; a damaged time is a string and comes after all numbers."""
    time, id = place
    return (False, time, "", id) if isinstance(time, int) else (True, 0, str(time), id)


def _nearest_end(query: _Query, opened: Sequence[_Part]) -> rules.Place | None:
    """Return the first position after which unread rows may exist; None if all parts were read."""
    ends = (part.last for part in opened if part.last is not None)
    return (min if query.is_oldest_first else max)(ends, key=_order, default=None)


def _count_ready(
    query: _Query, rows: Sequence[_PartRow], opened: Sequence[_Part], first_waiting: int | None
) -> int:
    """Return the number of rows that come before all unread rows."""
    end = _nearest_end(query, opened)
    for number, ((time, id, _), _) in enumerate(rows):
        mine, nearest = _order((time, id)), None if end is None else _order(end)
        if nearest is not None and (mine > nearest if query.is_oldest_first else mine < nearest):
            return number
        if first_waiting is not None and not _is_behind(query, first_waiting, (time, id)):
            return number
    return len(rows)


def _read_parts(tx: Transaction, query: _Query, walk: _Walk, parts: Sequence[_Part]) -> Iterator[_PartRow]:
    """Read the next rows of some parts, in one round trip if the driver supports it."""
    asked = []
    for part in parts:
        values = {**query.parameters, "part_queue": part.queue, "part_task": part.task, "most": part.most}
        if part.last is not None:
            at, id = part.last
            values |= {"cursor_time": at, "cursor_id": id}
        asked.append((_statement(attrs.evolve(walk, has_cursor=part.last is not None)), values))
    for part, found in zip(parts, tx.each(asked), strict=True):
        part.is_over = len(found) < part.most
        if found:
            part.last = found[-1][:2]
        part.most = min(2 * part.most, _CHUNK)
        yield from ((row, part) for row in found)


def _list_parts(tx: Transaction, query: _Query, walk: _Walk) -> list[_Part]:
    """Return the parts that may have jobs on the page, in the order of their first jobs."""
    queue, task = query.parameters.get("queue"), query.parameters.get("task")
    if isinstance(queue, str) and isinstance(task, str):
        return [_Part(queue, task, 0)]
    values = dict(query.parameters)
    if query.place is not None:
        values["cursor_time"] = query.place[0]
    rows = tx.all(_parts_statement(walk, is_grouping=tx.dialect.name in _GROUPING), **values)
    named = ((queue, of_row if task is None else task, first) for queue, of_row, first in rows)
    parts = [
        _Part(queue, task, first)
        for queue, task, first in named
        # skips binary values that another program stored
        if first is not None and isinstance(queue, str) and isinstance(task, str)
    ]
    return sorted(parts, key=lambda part: _order((part.first, "")), reverse=not query.is_oldest_first)


def _queues_of(tx: Transaction) -> list[str]:
    """Return every queue that has jobs."""
    statement = _GROUPED_QUEUES if tx.dialect.name in _GROUPING else _QUEUES
    return [row[0] for row in tx.all(statement) if isinstance(row[0], str)]


# MySQL and MariaDB can skip from group to group of an index, but limit recursive queries to 1,000 rows.
_GROUPING = frozenset({"mysql", "mariadb"})
_BY_TASK = "firelock_jobs INDEXED BY firelock_by_task"
# One index lookup for each queue, and for each task of a queue.
_TURN = f"""turn (queue) AS (
    SELECT queue FROM (SELECT queue FROM {_BY_TASK} ORDER BY queue LIMIT 1) AS first
    UNION ALL
    SELECT (SELECT queue FROM {_BY_TASK} WHERE queue > turn.queue ORDER BY queue LIMIT 1)
    FROM turn WHERE turn.queue IS NOT NULL
)"""  # noqa: RUF100, S608 - our own names
_QUEUES = Text(f"WITH RECURSIVE {_TURN} SELECT queue FROM turn WHERE queue IS NOT NULL")  # noqa: S608 - ours
_GROUPED_QUEUES = Text(f"SELECT queue FROM {_BY_TASK} GROUP BY queue")  # noqa: S608 - ours
_FIRST_TASK = f"SELECT task FROM {_BY_TASK} WHERE queue = turn.queue ORDER BY task LIMIT 1"  # noqa: S608 - ours
_NEXT_TASK = f"""
    SELECT task FROM {_BY_TASK} WHERE queue = part.queue AND task > part.task ORDER BY task LIMIT 1
"""  # noqa: S608 - ours
_PARTS_OF_ALL = f"""{_TURN}, part (queue, task) AS (
    SELECT queue, ({_FIRST_TASK}) FROM turn WHERE queue IS NOT NULL
    UNION ALL SELECT part.queue, ({_NEXT_TASK}) FROM part WHERE part.task IS NOT NULL
)"""  # noqa: S608 - ours
_PARTS_OF_QUEUE = f"""part (queue, task) AS (
    SELECT queue, task FROM (
        SELECT queue, task FROM {_BY_TASK} WHERE queue = :queue ORDER BY task LIMIT 1
    ) AS first
    UNION ALL SELECT part.queue, ({_NEXT_TASK}) FROM part WHERE part.task IS NOT NULL
)"""  # noqa: S608 - ours


@lru_cache(maxsize=64)
def _parts_statement(walk: _Walk, *, is_grouping: bool) -> Text:
    """Return the statement that lists the parts, each with the time of its first job."""
    window = list(_window(walk, "created_at", None))
    if is_grouping:
        conditions = [_CONDITIONS[name] for name in sorted(walk.led_by)] + window
        first = "min" if walk.is_oldest_first else "max"
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return Text(f"SELECT queue, task, {first}(created_at) FROM {_BY_TASK}{where} GROUP BY queue, task")  # noqa: S608
    parts, of, condition = _PARTS_OF_ALL, "part", "task = part.task"
    if "queue" in walk.led_by:
        parts = _PARTS_OF_QUEUE
    elif "task" in walk.led_by:
        parts, of, condition = _TURN, "turn", "task = :task"
    conditions = [f"queue = {of}.queue", condition, *window]
    order = "created_at" if walk.is_oldest_first else "created_at DESC"
    first = f"SELECT created_at FROM {_BY_TASK} WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT 1"  # noqa: S608 - ours
    shown = "queue, task" if of == "part" else "queue, NULL"
    return Text(f"WITH RECURSIVE {parts} SELECT {shown}, ({first}) FROM {of} WHERE queue IS NOT NULL")  # noqa: S608


@lru_cache(maxsize=16)
def _size(walk: _Walk, dialect: str) -> Text:
    """Return the statement that counts the jobs of queues in the index, up to a maximum."""
    conditions = _along_conditions(walk, [name for name in ("queue", "task") if name in walk.led_by])
    jobs = f"SELECT 1 FROM {_BY_TASK} WHERE {' AND '.join(conditions)}"  # noqa: S608 - ours
    if "queue" in walk.led_by:
        jobs += " ORDER BY created_at" if "task" in walk.led_by else " ORDER BY task, created_at"
    elif dialect == "postgresql":  # otherwise the planner may use a bitmap, and read all jobs for it
        jobs = f"""
            SELECT 1 FROM unnest(:ids::text[]) AS named (queue), LATERAL (
                SELECT 1 FROM {_BY_TASK} WHERE queue = named.queue AND task = :task
                ORDER BY created_at LIMIT :most
            ) AS job
        """  # noqa: S608 - ours
    return Text(f"SELECT count(*) FROM ({jobs} LIMIT :most) AS few")  # noqa: S608 - ours


def _along(
    tx: Transaction,
    query: _Query,
    walk: _Walk,
    more: Mapping[str, Parameter] | None = None,
) -> Iterator[_Found]:
    """Yield the rows of one scan, which are fetched in chunks."""
    parameters = {**query.parameters, **(more or {})}
    most = min(_CHUNK, (query.limit + 1) * (_HOPEFUL if walk.tested else 1))
    place = query.place
    while True:
        if place is not None:
            parameters["cursor_time"], parameters["cursor_id"] = place
        rows = tx.all(_statement(walk), **parameters, most=most)
        yield from rows
        if len(rows) < most:
            return
        place = rows[-1][:2]
        walk = attrs.evolve(walk, has_cursor=True)
        most = min(2 * most, _CHUNK)


@lru_cache(maxsize=512)
def _statement(walk: _Walk) -> Text:
    tests = [_TESTS[name] for name in sorted(walk.tested)]
    if walk.index in _LISTS:
        # The table lists the jobs of a tag or a batch in order of creation; each job is found by its id.
        time, id, source = "created_at", "job_id", _LISTS[walk.index]
        conditions = [f"{walk.index} = :{walk.index}"]
        if tests:
            job = " AND ".join(["firelock_jobs.id = job_id", *tests])
            tests = [f"EXISTS (SELECT 1 FROM firelock_jobs WHERE {job})"]  # noqa: S608 - our own conditions
    else:
        time, id, source = walk.time, "id", "firelock_jobs"
        if walk.index is not None:
            source += f" INDEXED BY firelock_{walk.index}"
        conditions = _along_conditions(walk, sorted(walk.led_by))
    is_match = f"CASE WHEN {' AND '.join(tests)} THEN 1 ELSE 0 END" if tests else "1"
    conditions += _window(walk, time, id)
    order = f"{time}, {id}" if walk.is_oldest_first else f"{time} DESC, {id} DESC"
    return Text(
        f"SELECT {time}, {id}, {is_match} FROM {source}"  # noqa: S608 - our own columns and conditions
        f" WHERE {' AND '.join(conditions or ['1 = 1'])} ORDER BY {order} LIMIT :most"
    )


def _along_conditions(walk: _Walk, names: Sequence[str]) -> list[str]:
    """Return the conditions with these names, and the additional ones of the index."""
    conditions = [_CONDITIONS[name] for name in names]
    if not walk.is_of_queues:
        return [*conditions, *_ALONG.get(walk.index or "", ())]
    return conditions if "queue" in walk.led_by else [*conditions, "queue IN :ids"]


def _window(walk: _Walk, time: str, id: str | None) -> Iterator[str]:
    """Yield the conditions of the time window and the cursor, at whose bounds an index scan can start.

    If `id` is None, rows with the same time as the cursor are included.
    """
    if walk.has_since:
        yield f"{time} >= :since"
    if walk.has_until:
        yield f"{time} < :until"
    if walk.has_cursor:
        sign = ">" if walk.is_oldest_first else "<"
        yield f"{time} {sign}= :cursor_time"
        if id is not None:
            yield f"({time} {sign} :cursor_time OR {id} {sign} :cursor_id)"
