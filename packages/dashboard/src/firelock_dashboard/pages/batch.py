"""A batch: how far it is, its members as a graph and as a list, and running again what failed."""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from firelock import Batch, JobConflict
from firelock.storage import BATCH_TASK, JobFilter, JobRecord, State, Tally
from firelock_dashboard.pages.flow_graph import ORDER, FlowGraph, draw_flow
from firelock_dashboard.pages.job import JobView, Phase
from firelock_dashboard.problems import NotHere
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.actions import (
    change_jobs,
    operation_address,
    refusing,
    start_operation,
)
from firelock_dashboard.web.fields import Text
from firelock_dashboard.web.formatting import instant
from firelock_dashboard.web.payloads import IN_LISTS, literal
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from datetime import datetime

    from starlette.responses import Response

    from firelock import JsonValue
    from firelock_dashboard.web.request import Visit

_ONE = Text("one", is_required=True)
_DRAWN = 2_000  # members that are read for the graph
_PAGE = 500
_LISTED = 20
_TREE = 100  # inner batches that are summed up


@attrs.frozen
class TreeSum:
    """What a batch and those within it come to; batches themselves are not counted."""

    total: int
    ended: int
    batches: int
    is_cut: bool


@attrs.define(slots=False)
class BatchView(JobView):
    """What the page of a batch shows; each value is read when it is first shown."""

    @property
    def name(self) -> str:
        """The name that its maker gave it."""
        ties = self.job.ties
        return "" if ties is None or ties.batch is None else ties.batch.name

    @property
    def stops_at_failure(self) -> bool:
        """Tell whether the first failure stops the rest."""
        ties = self.job.ties
        return ties is not None and ties.batch is not None and ties.batch.fails_fast

    @property
    def phases(self) -> list[Phase]:
        """A batch waits and runs at once, so its time was spent on nothing that could be told apart."""
        return []

    @cached_property
    def tally(self) -> Tally:
        """How far it is."""
        return self.visit.fire.storage.tally([self.job.id])[0] or Tally()

    @property
    def bars(self) -> list[tuple[str, int]]:
        """Pairs of a state and how many members are in it; whatever may go on by itself is "processing"."""
        tally = self.tally
        return [
            ("succeeded", tally.succeeded), ("failed", tally.failed), ("deleted", tally.deleted),
            ("processing", max(0, tally.total - tally.ended - tally.waiting)), ("awaiting", tally.waiting),
        ]  # fmt: skip

    @property
    def held_until(self) -> datetime | None:
        """When it is cancelled unless whoever fills it has gone on by then; None where nobody fills it."""
        return instant(self.job.due_at) if self.job.state is State.AWAITING else None

    @cached_property
    def tree(self) -> TreeSum | None:
        """The sum of it and of those within it; None where there are none."""
        storage, seen, level = self.visit.fire.storage, 0, [self.job.id]
        total = ended = 0
        is_cut = False
        while level:
            tallies = [tally for tally in storage.tally(level) if tally is not None]
            inner: list[JobRecord] = []
            for batch_id in level:
                found = storage.find(JobFilter(batch_id=batch_id, task=BATCH_TASK), limit=_TREE - seen + 1)
                is_cut = is_cut or seen + len(found.jobs) > _TREE
                inner += found.jobs[: _TREE - seen]
                seen += len(found.jobs[: _TREE - seen])
            total += sum(tally.total for tally in tallies) - len(inner)
            ended += sum(tally.ended for tally in tallies) - sum(job.is_final for job in inner)
            level = [job.id for job in inner]
        return TreeSum(total, ended, seen, is_cut) if seen else None

    @cached_property
    def members(self) -> list[JobRecord]:
        """The newest of its members."""
        return self.visit.fire.storage.find(JobFilter(batch_id=self.job.id), limit=_LISTED).jobs

    @cached_property
    def graph(self) -> FlowGraph:
        """Its members as a graph: the first of them, where there are very many."""
        return draw_flow(self._drawn, digest=self._digest)

    def _digest(self, job: JobRecord) -> str:
        """Return the values that a member was called with, as this visitor may see them."""
        value = self.visit.arguments(job, limit=IN_LISTS).value
        return ", ".join(map(_plain, value.values())) if isinstance(value, dict) else ""

    @property
    def is_graph_cut(self) -> bool:
        """Tell whether members are missing in the graph."""
        return self.tally.total > len(self._drawn)

    @property
    def drawn(self) -> int:
        """How many members the graph is made of."""
        return len(self._drawn)

    @cached_property
    def _drawn(self) -> list[JobRecord]:
        storage, where, cursor = self.visit.fire.storage, JobFilter(batch_id=self.job.id), None
        members: list[JobRecord] = []
        while len(members) < _DRAWN:
            page = storage.find(where, limit=_PAGE, cursor=cursor, oldest_first=True)
            members += page.jobs
            cursor = page.cursor
            if cursor is None:
                break
        return list(islice(members, _DRAWN))

    def state_links(self) -> list[tuple[str, str]]:
        """Return the states with the address of the list of the members in it."""
        return [
            (state, self.visit.url("/jobs", batch=self.job.id, state=state))
            for state in ORDER
            if state != "retrying"
        ]


def _plain(value: JsonValue) -> str:
    return value if isinstance(value, str) else literal(value)


def show_batch(visit: Visit) -> Response:
    """One batch."""
    page = BatchView(visit, visit.fire.jobs.get(visit.places["id"]))
    if not page.job.is_batch:
        raise NotHere(visit.text("batch.none", id=page.job.id))
    return visit.page("batch.html", title=page.name, section="batches", page=page, job=page.job)


def requeue_failed(visit: Visit) -> Response:
    """The members that failed run again; the batch is open until they have ended, from now on.

    Of many the first one opens it, and an operation goes on with the rest.
    """
    batch_id = visit.form.value(_ONE)
    batch = visit.fire.jobs.get(batch_id)
    if not isinstance(batch, Batch):
        raise NotHere(visit.text("batch.none", id=batch_id))
    failed = batch.members(state=State.FAILED, limit=_PAGE)
    if failed.cursor is None:
        with refusing(JobConflict):
            batch.requeue()
        visit.audit("jobs.requeue", f"batch {batch_id}")
        return visit.done(visit.text("batch.requeued"), to=f"/batches/{batch_id}")
    change_jobs(visit, "requeue", [failed.jobs[0].id])
    where = JobFilter(state=State.FAILED, batch_id=batch_id)
    operation = start_operation(visit, "requeue", where, target=f"batch {batch_id}")
    return visit.done(
        visit.text("batch.requeued"), to=f"/batches/{batch_id}",
        link=operation_address(visit, operation),
    )  # fmt: skip


ROUTES = (
    Route("GET", "/batches/{id}", Permission.READ, show_batch),
    Route("POST", "/batches/requeue", Permission.REQUEUE, requeue_failed, form=(_ONE,)),
)
