"""Pages of jobs in order of time, and the cursors between them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from firelock.memory.order import Entry, Order
from firelock.memory.table import Table
from firelock.storage import JobFilter, Page, selection


def find(table: Table, where: JobFilter, *, limit: int, cursor: str | None, oldest_first: bool) -> Page:
    """See `Storage.find`."""
    start = (
        None if cursor is None else _entry(selection.read_cursor(cursor, where, oldest_first=oldest_first))
    )
    entries = _in_order(table, where, start, oldest_first=oldest_first)
    matching = (entry for entry in entries if selection.matches(table.rows[entry[1]].record, where))
    found = list(islice(matching, limit + 1))
    shown = found[:limit]
    if not shown or len(found) <= limit:
        return Page([table.rows[id].record for _, id in shown], None)
    (time,), id = shown[-1]
    following = selection.write_cursor((time, id), where, oldest_first=oldest_first)
    return Page([table.rows[id].record for _, id in shown], following)


def _entry(place: selection.Place) -> Entry:
    return (place[0],), place[1]


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
    if where.by_due:
        return table.due
    if where.parent_id is None:
        return table.by_time if where.state is None else table.by_state[where.state]
    order = Order()
    for id in table.children.get(where.parent_id, ()):
        child = table.rows[id].record
        order.put(id, child.created_at if where.state is None else child.changed_at)
    return order
