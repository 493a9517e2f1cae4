"""Pages of jobs in order of time, and the cursors between them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from zlib import crc32

from firelock.errors import StorageError
from firelock.job import JobRecord
from firelock.memory.order import Entry, Order
from firelock.memory.table import Table
from firelock.storage import JobFilter, Page


def find(table: Table, where: JobFilter, *, limit: int, cursor: str | None, oldest_first: bool) -> Page:
    """See `Storage.find`."""
    seal = (
        f"{crc32(repr((where, oldest_first)).encode()):08x}"  # a cursor belongs to one filter and direction
    )
    start = None if cursor is None else _read_cursor(cursor, seal)
    entries = _in_order(table, where, start, oldest_first=oldest_first)
    matching = (entry for entry in entries if _matches(table.rows[entry[1]].record, where))
    found = list(islice(matching, limit + 1))
    shown = found[:limit]
    following = f"{seal}.{shown[-1][0][0]}.{shown[-1][1]}" if shown and len(found) > limit else None
    return Page([table.rows[id].record for _, id in shown], following)


def _read_cursor(cursor: str, seal: str) -> Entry:
    owner, _, place = cursor.partition(".")
    time, _, id = place.partition(".")
    if owner != seal or not time.lstrip("-").isdecimal():
        message = (
            f"Cursor {cursor!r} belongs to no page of this filter and direction. Start without a cursor."
        )
        raise StorageError(message)
    return ((int(time),), id)


def _in_order(table: Table, where: JobFilter, start: Entry | None, *, oldest_first: bool) -> Iterator[Entry]:
    """Yield the entries of the filter's time window behind `start`; its other fields are not read."""
    order = _order_of(table, where)
    since, until = where.since, where.until
    if oldest_first:
        begin = start if start or since is None else ((since,), "")
        for entry in order.after(begin):
            if until is not None and entry[0][0] >= until:
                return
            yield entry
    else:
        begin = start if start or until is None else ((until,), "")
        for entry in order.before(begin):
            if since is not None and entry[0][0] < since:
                return
            yield entry


def _order_of(table: Table, where: JobFilter) -> Order:
    if where.parent_id is None:
        return table.by_time if where.state is None else table.by_state[where.state]
    order = Order()
    for id in table.children.get(where.parent_id, ()):
        child = table.rows[id].record
        order.put(id, child.created_at if where.state is None else child.changed_at)
    return order


def _matches(job: JobRecord, where: JobFilter) -> bool:
    return (
        where.state in (None, job.state)
        and where.task in (None, job.task)
        and where.queue in (None, job.queue)
        and (where.tag is None or where.tag in job.tags)
        and where.server in (None, job.server)
        and (where.fingerprint is None or where.fingerprint == (job.error and job.error.fingerprint))
        and where.recurring_id in (None, job.recurring_id)
        and (where.id_prefix is None or job.id.startswith(where.id_prefix))
        and where.is_retrying in (None, job.is_retrying)
    )
