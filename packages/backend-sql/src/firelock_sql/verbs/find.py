"""What people read of all jobs: pages in order of time, numbers.

A page without a state is merged from the parts of one index, one for each queue and task; every other one
walks along one index, and looks at so many jobs and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from heapq import merge
from typing import Any

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
from firelock_sql.connections.counting import counted, known_queues
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction, Value
from firelock_sql.rows.job_row import get_jobs, read_state

Part = tuple[str, str]
"""A queue and a task."""

_NEXT_TASK = Text("""
SELECT task FROM firelock_jobs INDEXED BY firelock_by_task
WHERE queue = :part_queue AND task > :former ORDER BY task LIMIT 1
""")
_SIZE = Text("""
SELECT count(*) FROM (
    SELECT 1 FROM firelock_jobs INDEXED BY firelock_by_task
    WHERE queue = :part_queue AND task = :part_task LIMIT :most
) AS few
""")


def _find_parts(tx: Transaction, queue: str | None, task: str | None) -> list[Part]:
    """Return the parts that may hold jobs of this queue and task, of all of them where none is given."""
    queues = [queue] if queue is not None else known_queues(tx)
    if task is not None:
        return [(name, task) for name in queues]
    return [(name, found) for name in queues for found in _tasks(tx, name)]


def _tasks(tx: Transaction, queue: str) -> list[str]:
    """Return the tasks of a queue, by one short step along the index for each."""
    tasks: list[str] = []
    while found := tx.one(_NEXT_TASK, part_queue=queue, former=tasks[-1] if tasks else ""):
        if not isinstance(found[0], str):  # bytes that somebody put there come behind every text, for ever
            break
        tasks.append(found[0])
    return tasks


def _size_of(tx: Transaction, parts: list[Part], most: int) -> int:
    """Return how many jobs the parts hold, at most about `most`."""
    size = 0
    for queue, task in parts:
        size += int(tx.one(_SIZE, part_queue=queue, part_task=task, most=most)[0])
        if size >= most:
            break
    return size


SCANNED = 20_000
RARE = 5_000
"""A condition that at most so many jobs meet is looked up, and its jobs sorted."""

_CHUNK = 2_000
_SMALLEST_CHUNK = 8
_HOPEFUL = 8  # so many rows a wanted one are looked at first, where each has to be tested
_RETRYING = "state = 'scheduled' AND retries > 0 AND waits_for IS NULL"
_LAST_CHARACTER = "\U0010ffff"

_Found = tuple[int, str, int]
"""Time and id of a job, and whether it meets every condition."""

# Every condition of a filter but the time window; parameters are named after the field.
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
    "retrying": f"{_RETRYING} AND due_at IS NOT NULL",  # always so; some indexes know no state
    "not_retrying": f"NOT ({_RETRYING})",
}
# The same where each job on the way is tested: a look at one row, not at all that have the tag.
_TESTS = {
    **_CONDITIONS,
    "tag": "EXISTS (SELECT 1 FROM firelock_job_tags AS tagged WHERE tagged.tag = :tag"
    " AND tagged.created_at = firelock_jobs.created_at AND tagged.job_id = firelock_jobs.id)",
    "batch_id": "EXISTS (SELECT 1 FROM firelock_members AS listed WHERE listed.batch_id = :batch_id"
    " AND listed.created_at = firelock_jobs.created_at AND listed.job_id = firelock_jobs.id)",
}
# What may be rare, the rarest as a rule first, and the index that finds it.
_RARE_INDEXES: dict[str, str | None] = {
    "parent_id": None,
    "tag": None,
    "batch_id": None,
    "recurring_id": "by_recurring",
    "fingerprint": "by_fingerprint",
    "retrying": "retrying",
    "id_prefix": None,
}
# What is listed in a table of its own, in order of creation.
_LISTS = {"tag": "firelock_job_tags", "batch_id": "firelock_members"}
# What holds for the rows of an index, beside the conditions that lead along it.
_ALONG = {
    "by_task": ("queue = :part_queue", "task = :part_task"),
    "listed": ("state <> 'processing'",),
    "due": ("state = 'scheduled'", "due_at IS NOT NULL"),
    "holder": ("session IS NOT NULL",),
}


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


class SqlReadingVerbs(SqlVerbs):
    """What people read of the jobs."""

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
        groups: dict[str, list[Any]] = {}
        for row in self._database.read(lambda tx: tx.all(_FAILED)):
            if row[0] is not None:
                groups.setdefault(str(row[0]), []).append(row)
        largest = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
        return [
            FailureGroup(fingerprint, rows[0][1], rows[0][2], rows[0][3], len(rows), rows[0][4], rows[0][5])
            for fingerprint, rows in largest[:limit]
        ]


_FAILED = Text("""
SELECT error_fingerprint, error_type, error_message, task, changed_at, id
FROM firelock_jobs INDEXED BY firelock_listed
WHERE state = 'failed' AND state <> 'processing' ORDER BY changed_at DESC, id DESC LIMIT 10000
""")


def _find(tx: Transaction, query: _Query) -> tuple[list[JobRecord], rules.Place | None]:
    """Return a page, and the place behind which the next one begins."""
    rows, most = _rows(tx, query)
    found: list[rules.Place] = []
    looked_at, last = 0, (0, "")
    for time, id, is_match in rows:
        looked_at, last = looked_at + 1, (time, id)
        if is_match:
            found.append(last)
        if len(found) > query.limit or looked_at == most:
            break
    records = get_jobs(tx, [id for _, id in found[: query.limit]])
    following = None
    if len(found) > query.limit > 0:
        following = found[query.limit - 1]
    elif looked_at == most:
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


# ---- the way ---------------------------------------------------------------------------------------------


def _rows(tx: Transaction, query: _Query) -> tuple[Iterator[_Found], int | None]:
    """Return rows in the order of the page, and how many of them may be looked at where that is bounded."""
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
    if query.state is None or queue is not None or task is not None:
        parts = _find_parts(tx, queue, task)  # type: ignore[arg-type]  # both are texts
        if query.state is None:
            walk = query.walk("by_task", frozenset({"queue", "task"}) & everything)
            return _merged(tx, query, walk, parts), SCANNED if walk.tested else None
        if _size_of(tx, parts, RARE + 1) <= RARE:
            return _merged(tx, query, query.walk("by_task", everything), parts), None
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
        # A table has the jobs of a tag, or of a batch, in the order of creation; each is tested by its id.
        time, id, source = "created_at", "job_id", _LISTS[walk.index]
        conditions = [f"{walk.index} = :{walk.index}"]
        if tests:
            job = " AND ".join(["firelock_jobs.id = job_id", *tests])
            tests = [f"EXISTS (SELECT 1 FROM firelock_jobs WHERE {job})"]  # noqa: S608 - conditions of ours
    else:
        time, id, source = walk.time, "id", "firelock_jobs"
        if walk.index is not None:
            source += f" INDEXED BY firelock_{walk.index}"
        conditions = [_CONDITIONS[name] for name in sorted(walk.led_by)]
        conditions += _ALONG.get(walk.index or "", ())
    is_match = f"CASE WHEN {' AND '.join(tests)} THEN 1 ELSE 0 END" if tests else "1"
    conditions += _window(walk, time, id)
    order = f"{time}, {id}" if walk.is_oldest_first else f"{time} DESC, {id} DESC"
    return Text(
        f"SELECT {time}, {id}, {is_match} FROM {source}"  # noqa: S608 - columns and conditions of ours
        f" WHERE {' AND '.join(conditions or ['1 = 1'])} ORDER BY {order} LIMIT :most"
    )


def _window(walk: _Walk, time: str, id: str) -> Iterator[str]:
    """Yield what holds for the rows of the window behind the cursor; an index can begin at its bound."""
    if walk.has_since:
        yield f"{time} >= :since"
    if walk.has_until:
        yield f"{time} < :until"
    if walk.has_cursor:
        sign = ">" if walk.is_oldest_first else "<"
        yield f"{time} {sign}= :cursor_time AND ({time} {sign} :cursor_time OR {id} {sign} :cursor_id)"
