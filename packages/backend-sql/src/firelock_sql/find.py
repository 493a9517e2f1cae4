"""Pages of jobs in order of time.

Two ways lead to a page. Where something in the filter is rare (a tag, a parent, a task with few jobs), all
jobs that have it are read and sorted. Otherwise an index is walked in the order of the page and the rest of
the filter is tested on the way, at most `SCANNED` rows far: a page answers in bounded time at any size, and
may therefore be short, or empty, and still have a cursor. Indexes are named in the statements, so no
statistics can change the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any
from zlib import crc32

import attrs
from sqlalchemy import BindParameter, ColumnElement, Select, and_, bindparam, case, func, or_, select

from firelock.storage import JobFilter, Page, State, StorageError
from firelock_sql.database import Database, Transaction
from firelock_sql.reads import get_jobs
from firelock_sql.statements import Statement, Value
from firelock_sql.tables import ONE, ZERO, edges, is_retrying, job_tags, jobs, pinned, text_literal

__all__ = ["SCANNED", "find_jobs"]

SCANNED = 20_000
RARE = 5_000
"""A condition that at most so many jobs meet is looked up, and its jobs sorted."""

_LAST_CHARACTER = "\U0010ffff"

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
    "tag": jobs.c.id.in_(select(job_tags.c.job_id).where(job_tags.c.tag == bindparam("tag"))),
    "parent_id": jobs.c.id.in_(select(edges.c.child_id).where(edges.c.parent_id == bindparam("parent_id"))),
    "retrying": is_retrying,
    "not_retrying": ~is_retrying,
}
# What may be rare, the rarest as a rule first, and the index that finds it.
_RARE_INDEXES: dict[str, str | None] = {
    "parent_id": None,
    "tag": None,
    "recurring_id": "by_recurring",
    "fingerprint": "by_fingerprint",
    "retrying": "retrying",
    "id_prefix": None,
    "task": "by_task",
    "queue": "by_queue",
}


@attrs.frozen
class _Walk:
    """A way through the jobs: what leads, what is tested, in which order."""

    tested: frozenset[str]  # conditions
    is_by_change: bool  # time is changed_at, else created_at
    is_oldest_first: bool
    index: str | None
    led_by: frozenset[str]  # conditions the index answers; in `tested` they are not
    has_since: bool
    has_until: bool
    has_cursor: bool


def find_jobs(
    tx: Transaction,
    database: Database,
    where: JobFilter,
    *,
    limit: int,
    cursor: str | None,
    oldest_first: bool,
) -> Page:
    """See `Storage.find`."""
    seal = f"{crc32(repr((where, oldest_first)).encode()):08x}"
    parameters, conditions = _parameters(where)
    if cursor is not None:
        parameters["cursor_time"], parameters["cursor_id"] = _read_cursor(cursor, seal)
        parameters["cursor_time_again"] = parameters["cursor_time"]
    walk, most = _choose(tx, where, conditions, parameters, cursor is not None, oldest_first=oldest_first)
    parameters["most"] = most or limit + 1
    found: list[tuple[int, str]] = []
    looked_at, last = 0, (0, "")
    for time, id, is_match in _each(tx, _statement(walk), parameters):
        looked_at, last = looked_at + 1, (time, id)
        if is_match:
            found.append(last)
            if len(found) > limit:
                break
    records = get_jobs(tx, database, [id for _, id in found[:limit]])
    following = None
    if len(found) > limit > 0:
        following = found[limit - 1]
    elif most and looked_at >= most:
        following = last
    return Page(
        [one for one in records if one is not None],
        None if following is None else f"{seal}.{following[0]}.{following[1]}",
    )


def _read_cursor(cursor: str, seal: str) -> tuple[int, str]:
    owner, _, place = cursor.partition(".")
    time, _, id = place.partition(".")
    if owner != seal or not time.removeprefix("-").isdecimal() or not id:
        message = (
            f"Cursor {cursor!r} belongs to no page of this filter and direction. Start without a cursor."
        )
        raise StorageError(message)
    return int(time), id


def _parameters(where: JobFilter) -> tuple[dict[str, Value], frozenset[str]]:
    """Return the filter's parameters and the names of its conditions."""
    parameters: dict[str, Value] = {}
    names = ("task", "queue", "tag", "server", "fingerprint", "recurring_id", "parent_id", "since", "until")
    for name in names:
        if (value := getattr(where, name)) is not None:
            parameters[name] = value
    if where.state is not None:
        parameters["state"] = where.state.value
    conditions = {*parameters} - {"since", "until"}
    if where.id_prefix:
        conditions.add("id_prefix")
        parameters["id_prefix"] = parameters["id_prefix_again"] = where.id_prefix
        parameters["id_end"] = where.id_prefix + _LAST_CHARACTER
        parameters["id_length"] = len(where.id_prefix)
    if where.is_retrying is not None:
        conditions.add("retrying" if where.is_retrying else "not_retrying")
    return parameters, frozenset(conditions)


def _choose(
    tx: Transaction,
    where: JobFilter,
    conditions: frozenset[str],
    parameters: dict[str, Value],
    has_cursor: bool,
    *,
    oldest_first: bool,
) -> tuple[_Walk, int | None]:
    """Return the way to take, and how many rows it may look at where it is bounded."""
    has_since, has_until = where.since is not None, where.until is not None
    by_change = where.state is not None

    def walk(index: str | None, led_by: frozenset[str], tested: frozenset[str]) -> _Walk:
        return _Walk(tested, by_change, oldest_first, index, led_by, has_since, has_until, has_cursor)

    if where.state is State.PROCESSING:
        return walk("holder", conditions, frozenset()), None
    for name, index in _RARE_INDEXES.items():
        if name in conditions and _is_rare(tx, name, index, parameters):
            return walk(index, conditions, frozenset()), None
    if by_change:
        index, led_by = "listed", frozenset({"state"})
    elif "task" in conditions:
        index, led_by = "by_task", frozenset({"task"})
    elif "queue" in conditions:
        index, led_by = "by_queue", frozenset({"queue"})
    else:
        index, led_by = "created", frozenset()
    tested = conditions - led_by
    return walk(index, led_by, tested), SCANNED if tested else None


def _is_rare(tx: Transaction, name: str, index: str | None, parameters: dict[str, Value]) -> bool:
    found: Any = tx.one(_count_up_to(name, index), {**parameters, "rare": RARE + 1})
    return bool(found[0] <= RARE)


@cache
def _count_up_to(name: str, index: str | None) -> Statement:
    if name == "tag":
        source = select(ONE).select_from(job_tags).where(job_tags.c.tag == bindparam("tag"))
    elif name == "parent_id":
        source = select(ONE).select_from(edges).where(edges.c.parent_id == bindparam("parent_id"))
    else:
        source = select(ONE).select_from(jobs).where(_CONDITIONS[name])
        if index is not None:
            source = pinned(source, index)
    return Statement(select(func.count()).select_from(source.limit(bindparam("rare")).subquery()))


@lru_cache(maxsize=512)
def _statement(walk: _Walk) -> Statement:
    time = jobs.c.changed_at if walk.is_by_change else jobs.c.created_at
    tests = [_CONDITIONS[name] for name in sorted(walk.tested)]
    is_match = case((and_(*tests), ONE), else_=ZERO) if tests else ONE
    statement: Select[Any] = select(time, jobs.c.id, is_match)
    statement = statement.where(*(_CONDITIONS[name] for name in sorted(walk.led_by)))
    if walk.index == "listed":
        statement = statement.where(jobs.c.state != text_literal(State.PROCESSING))
    if walk.index == "holder":
        statement = statement.where(jobs.c.session.is_not(None))
    if walk.index is not None:
        statement = pinned(statement, walk.index)
    if walk.has_since:
        statement = statement.where(time >= bindparam("since"))
    if walk.has_until:
        statement = statement.where(time < bindparam("until"))
    if walk.has_cursor:
        statement = statement.where(*_behind(time, is_oldest_first=walk.is_oldest_first))
    order = (time, jobs.c.id) if walk.is_oldest_first else (time.desc(), jobs.c.id.desc())
    return Statement(statement.order_by(*order).limit(bindparam("most")))


def _behind(time: ColumnElement[int], *, is_oldest_first: bool) -> list[ColumnElement[bool]]:
    """Return what holds for the rows behind the cursor, with a bound that an index can begin at."""
    at: BindParameter[int] = bindparam("cursor_time")
    again: BindParameter[int] = bindparam("cursor_time_again")
    id: BindParameter[str] = bindparam("cursor_id")
    if is_oldest_first:
        return [time >= at, or_(time > again, jobs.c.id > id)]
    return [time <= at, or_(time < again, jobs.c.id < id)]


def _each(tx: Transaction, statement: Statement, parameters: dict[str, Value]) -> Iterator[Any]:
    """Yield the rows of a query as they come."""
    text, values = statement.bind(tx.dialect, parameters)
    tx.cursor.execute(text, values)
    while (row := tx.cursor.fetchone()) is not None:
        yield row
