"""Batches: which there are and how far each is, newest first, by state and by name."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import attrs

from firelock import StorageError
from firelock.storage import BatchCounts, State
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.actions import refusing
from firelock_dashboard.web.fields import Choice, Cursor, Text
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from starlette.responses import Response

    from firelock import Batch
    from firelock.storage import JobRecord
    from firelock_dashboard.web.request import Visit

_PAGE = 50
_LOOKED = 2_000  # batches whose names one page is looked for among
_STATES = {
    "open": State.AWAITING,
    "succeeded": State.SUCCEEDED,
    "failed": State.FAILED,
    "deleted": State.DELETED,
}
_STATE, _Q = Choice("state", choices=_STATES), Text("q", default="")
_CURSOR = Cursor("cursor", limit=600)


@attrs.frozen
class _BatchRow:
    name: str
    record: JobRecord
    counts: BatchCounts
    outer: JobRecord | None  # the batch in which it is


@attrs.frozen
class _FoundBatches:
    batches: list[Batch]
    looked: int  # how many were looked at
    cursor: str | None  # what lies behind those


@attrs.define(slots=False)
class BatchList:
    """A page of batches as it is asked for."""

    visit: Visit
    state: str  # one of `open`, `succeeded`, `failed`, `deleted`, or empty for all
    wanted: str  # what the names hold; empty for all
    cursor: str | None

    @classmethod
    def read(cls, visit: Visit) -> BatchList:
        """Return the page that a query asks for.

        Raises:
            BadRequest: a field is wrong.
        """
        query = visit.query
        return cls(visit, query.maybe(_STATE) or "", query.value(_Q), query.maybe(_CURSOR))

    @cached_property
    def found(self) -> _FoundBatches:
        """Those of the page: where a name is looked for, a page of matches or what was found among many."""
        found: list[Batch] = []
        looked, cursor, wanted = 0, self.cursor, self.wanted.casefold()
        while True:
            page = self.visit.fire.batches.list(state=_STATES.get(self.state), limit=_PAGE, cursor=cursor)
            found += [batch for batch in page.batches if wanted in batch.name.casefold()]
            looked, cursor = looked + len(page.batches), page.cursor
            if cursor is None or not wanted or len(found) >= _PAGE or looked >= _LOOKED:
                return _FoundBatches(found, looked, cursor)

    @cached_property
    def rows(self) -> list[_BatchRow]:
        """The batches with how far they are; those that were pruned meanwhile are left out."""
        batches = self.found.batches
        storage = self.visit.fire.storage
        all_counts = storage.batch_counts([batch.id for batch in batches]) if batches else []
        outer = {batch.id: batch.batch_id for batch in batches}
        wanted = sorted({id for id in outer.values() if id is not None})
        found = dict(zip(wanted, storage.get(wanted), strict=True)) if wanted else {}
        return [
            _BatchRow(batch.name, batch.record(), counts, found.get(outer[batch.id] or ""))
            for batch, counts in zip(batches, all_counts, strict=True)
            if counts is not None
        ]

    def tabs(self) -> list[tuple[str, str, bool]]:
        """Return states, empty for all, with their addresses and whether they are shown."""
        return [
            (name, self.visit.url("/batches", state=name, q=self.wanted), name == self.state)
            for name in ("", *_STATES)
        ]

    @property
    def older(self) -> str | None:
        """The address of what lies behind this page."""
        cursor = self.found.cursor
        if cursor is None:
            return None
        return self.visit.url("/batches", state=self.state, q=self.wanted, cursor=cursor)

    @property
    def newest(self) -> str | None:
        """The address of the first page; None on that."""
        if self.cursor is None:
            return None
        return self.visit.url("/batches", state=self.state, q=self.wanted)


def show_batches(visit: Visit) -> Response:
    """Every batch, or those in a state, or of a name."""
    listed = BatchList.read(visit)
    with refusing(StorageError, field=_CURSOR.name):
        return visit.page("batches.html", list=listed)


ROUTES = (Route("GET", "/batches", Permission.READ, show_batches, (_STATE, _Q, _CURSOR)),)
