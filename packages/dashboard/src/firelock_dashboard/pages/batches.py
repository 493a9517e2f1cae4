"""The list of batches with their progress, newest first, which can be filtered by state and name."""

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
_SEARCHED = 2_000  # the maximum number of batches that one page searches for a name
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
    outer: JobRecord | None  # the batch that contains this batch


@attrs.frozen
class _FoundBatches:
    batches: list[Batch]
    examined: int  # the number of batches checked for this page
    cursor: str | None  # the start of the next page


@attrs.define(slots=False)
class BatchList:
    """A page of batches, as requested."""

    visit: Visit
    state: str  # one of `open`, `succeeded`, `failed`, `deleted`, or empty for all
    wanted: str  # part of the batch's name; empty for all
    cursor: str | None

    @classmethod
    def read(cls, visit: Visit) -> BatchList:
        """Return the page that a query requests.

        Raises:
            BadRequest: If a field is invalid.
        """
        query = visit.query
        return cls(visit, query.maybe(_STATE) or "", query.value(_Q), query.maybe(_CURSOR))

    @cached_property
    def found(self) -> _FoundBatches:
        """The batches of the page; a search by name checks at most 2,000 batches to fill it."""
        found: list[Batch] = []
        examined, cursor, wanted = 0, self.cursor, self.wanted.casefold()
        while True:
            page = self.visit.fire.batches.list(state=_STATES.get(self.state), limit=_PAGE, cursor=cursor)
            found += [batch for batch in page.batches if wanted in batch.name.casefold()]
            examined, cursor = examined + len(page.batches), page.cursor
            if cursor is None or not wanted or len(found) >= _PAGE or examined >= _SEARCHED:
                return _FoundBatches(found, examined, cursor)

    @cached_property
    def rows(self) -> list[_BatchRow]:
        """The batches with their counts; batches that were pruned in the meantime are left out."""
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
        """Return each tab's state (empty for all batches), its URL, and whether it is the current tab."""
        return [
            (name, self.visit.url("/batches", state=name, q=self.wanted), name == self.state)
            for name in ("", *_STATES)
        ]

    @property
    def older(self) -> str | None:
        """The URL of the next page, with older batches."""
        cursor = self.found.cursor
        if cursor is None:
            return None
        return self.visit.url("/batches", state=self.state, q=self.wanted, cursor=cursor)

    @property
    def newest(self) -> str | None:
        """The URL of the first page; None on the first page."""
        if self.cursor is None:
            return None
        return self.visit.url("/batches", state=self.state, q=self.wanted)


def show_batches(visit: Visit) -> Response:
    """Show all batches, or those with a given state or name."""
    listed = BatchList.read(visit)
    with refusing(StorageError, field=_CURSOR.name):
        return visit.page("batches.html", list=listed)


ROUTES = (Route("GET", "/batches", Permission.READ, show_batches, (_STATE, _Q, _CURSOR)),)
