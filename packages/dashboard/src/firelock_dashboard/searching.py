"""Pages of jobs where a storage's filter says less than is asked: a search bounded in rows and in time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs

from firelock import StorageError, StorageUnavailable
from firelock.storage import JobRecord
from firelock_dashboard.problems import BadRequest

if TYPE_CHECKING:
    from firelock import Firelock
    from firelock_dashboard.filters import Plan

__all__ = ["COUNTED", "ROWS", "SECONDS", "Found", "count_up_to", "every_match", "find_page"]

ROWS = 10_000
"""So many jobs are looked at for one page."""

SECONDS = 0.06
"""So long is searched for one page, a first look apart; the rest of the page needs its time as well."""

COUNTED = 10_000

_CHUNK = 500
_LOOK = 100  # jobs from one look at the clock to the next: what any page looks at, however slow the machine
_CURSOR_LIMIT = 600
_PLACE = re.compile(r"(?P<page>.*)\|(?P<at>-?\d{1,18})\|(?P<id>[^|]{1,200})", re.DOTALL)


@attrs.frozen
class Found:
    """A page of jobs as far as was searched."""

    jobs: list[JobRecord]
    cursor: str | None  # opens what lies behind; None where all has been seen
    looked_at: int  # jobs that were looked at; those of the page where each that was found is meant
    is_cut: bool  # the search ended at its bounds: there may be more though the page is not full
    last_at: int | None = None  # where in the list's order it ended, in micros


def find_page(
    fire: Firelock, plan: Plan, *, limit: int, cursor: str | None, oldest_first: bool = False,
    seconds: float = SECONDS, monotonic: Callable[[], float] = time.monotonic,
) -> Found:  # fmt: skip
    """Return up to `limit` jobs that the plan means, behind the cursor.

    Raises:
        BadRequest: no page of this filter gave the cursor.
    """
    if cursor is not None and len(cursor) > _CURSOR_LIMIT:
        raise BadRequest("cursor is none that a page gave; leave it out to start with the newest.")
    search = _Search(fire, plan, oldest_first=oldest_first)
    try:
        return search.page(limit, cursor, monotonic() + seconds, monotonic)
    except StorageUnavailable:
        raise
    except StorageError as error:
        message = "cursor belongs to no page of this filter; leave it out to start with the newest."
        raise BadRequest(message) from error


class _Search:
    """One walk along the storage's pages."""

    def __init__(self, fire: Firelock, plan: Plan, *, oldest_first: bool) -> None:
        self._fire = fire
        self._plan = plan
        self._oldest_first = oldest_first
        self._is_by_change = plan.where.state is not None
        self._is_by_due = bool(plan.where.by_due)

    def page(self, limit: int, cursor: str | None, until: float, monotonic: Callable[[], float]) -> Found:
        """Return a page; a cursor of ours names a page of the storage and the last job seen of it."""
        tests = bool(self._plan.tests)
        at, behind = _read_cursor(cursor) if tests else (cursor, None)
        found: list[JobRecord] = []
        looked_at, last = 0, None
        while True:
            began = monotonic()
            # Where every job that is found is meant, what is missing is asked for and no more.
            page = self._fire.jobs.page(
                self._plan.where, limit=_CHUNK if tests else limit - len(found), cursor=at,
                oldest_first=self._oldest_first,
            )  # fmt: skip
            for handle in page:
                record = handle.record()
                if behind is not None and not self._is_behind(record, behind):
                    continue
                looked_at, last = looked_at + 1, record
                if self._plan.accepts(record):
                    found.append(record)
                    if len(found) == limit and tests:
                        return self._found(
                            found, self._cursor_in(at, record), looked_at, record, is_cut=False
                        )
                if tests and looked_at % _LOOK == 0 and monotonic() >= until:
                    return self._found(found, self._cursor_in(at, record), looked_at, record, is_cut=True)
            is_rest_empty = (
                behind is not None and looked_at == 0
            )  # the former part ended at the page's last job
            at, behind = page.cursor, None
            if at is None or len(found) >= limit:
                return self._found(found, self._cursor_at(at), looked_at, last, is_cut=False)
            if looked_at >= ROWS or (_is_over(began, monotonic(), until) and not is_rest_empty):
                return self._found(found, self._cursor_at(at), looked_at, last, is_cut=True)

    def _found(
        self,
        jobs: list[JobRecord],
        cursor: str | None,
        looked_at: int,
        last: JobRecord | None,
        *,
        is_cut: bool,
    ) -> Found:
        return Found(jobs, cursor, looked_at, is_cut, None if last is None else self._time(last))

    def _time(self, record: JobRecord) -> int:
        if self._is_by_due:
            return record.due_at or 0
        return record.changed_at if self._is_by_change else record.created_at

    def _is_behind(self, record: JobRecord, place: tuple[int, str]) -> bool:
        here = (self._time(record), record.id)
        return here > place if self._oldest_first else here < place

    def _cursor_in(self, at: str | None, record: JobRecord) -> str:
        return f"{at or ''}|{self._time(record)}|{record.id}"

    def _cursor_at(self, at: str | None) -> str | None:
        return at if at is None or not self._plan.tests else f"{at}|0|-"


def _is_over(began: float, now: float, until: float) -> bool:
    """Tell whether a further look, that takes as long as the last ends too late: it may find nothing."""
    return now + (now - began) > until


def _read_cursor(cursor: str | None) -> tuple[str | None, tuple[int, str] | None]:
    if cursor is None:
        return None, None
    place = _PLACE.fullmatch(cursor)
    if place is None:
        raise BadRequest("cursor is none that a page gave; leave it out to start with the newest.")
    behind = None if place["id"] == "-" else (int(place["at"]), place["id"])
    return place["page"] or None, behind


def every_match(fire: Firelock, plan: Plan, limit: int, *, oldest_first: bool = False) -> Iterator[JobRecord]:
    """Yield up to `limit` jobs that the plan means, in the list's order, in pages as they are taken."""
    cursor, left = None, limit
    while left > 0:
        page = fire.jobs.page(plan.where, limit=_CHUNK, cursor=cursor, oldest_first=oldest_first)
        for handle in page:
            record = handle.record()
            if plan.accepts(record):
                yield record
                left -= 1
                if left == 0:
                    return
        cursor = page.cursor
        if cursor is None:
            return


def count_up_to(
    fire: Firelock, plan: Plan, *, seconds: float = SECONDS, monotonic: Callable[[], float] = time.monotonic
) -> tuple[int, bool]:
    """Return how many jobs the plan means, and whether that is all of them; looks at most at `COUNTED`."""
    until, counted, looked_at, cursor = monotonic() + seconds, 0, 0, None
    while True:
        began = monotonic()
        page = fire.jobs.page(plan.where, limit=_CHUNK, cursor=cursor)
        looked_at += len(page)
        counted += sum(plan.accepts(handle.record()) for handle in page) if plan.tests else len(page)
        cursor = page.cursor
        if cursor is None:
            return counted, True
        if looked_at >= COUNTED or _is_over(began, monotonic(), until):
            return counted, False
