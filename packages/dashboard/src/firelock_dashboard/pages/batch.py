"""The page of a batch: its progress, its members as a graph and as a list, and a requeue of failed ones."""

from __future__ import annotations

import re
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from firelock import Batch, DeepBatchCounts, JobConflict
from firelock.storage import BatchCounts, JobFilter, JobRecord, MemoKind, Moved, State
from firelock_dashboard.pages.flow_graph import FlowGraph, draw_flow
from firelock_dashboard.pages.job import JobView, Phase
from firelock_dashboard.problems import NotHere
from firelock_dashboard.security.permissions import Permission
from firelock_dashboard.web.actions import (
    change_jobs,
    operation_address,
    refusing,
    start_operation,
)
from firelock_dashboard.web.fields import Choice, Text
from firelock_dashboard.web.formatting import instant, task_name
from firelock_dashboard.web.payloads import IN_LISTS, literal, summary
from firelock_dashboard.web.routes import Route

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from starlette.responses import Response

    from firelock import JsonValue
    from firelock_dashboard.web.request import Visit

_ONE = Text("one", is_required=True)
_DRAWN = 2_000  # the maximum number of members in the graph
_PAGE = 500  # the maximum number of members per read, for example of failed members that are grouped by error
_LISTED = 20
_MOST_PAGES = 5  # the maximum number of pages that are read for one list
_WITHIN = 100  # the maximum number of nested batches whose counts are read
_TASKS = 12  # the maximum number of tasks whose docstrings are shown
_LINE, _MESSAGE = 240, 300  # characters
_TABS = ("all", "failed", "active", "waiting", "succeeded", "deleted")
_OUTPUT = re.compile(r"<output of ([0-9a-f-]{36})>")  # the format that `with_outputs` writes
_TAB = Choice("show", "The members to list.", choices=_TABS)
_STATE_OF_TAB = {
    "failed": "failed", "waiting": "awaiting", "succeeded": "succeeded", "deleted": "deleted",
}  # fmt: skip


@attrs.frozen
class MemberTab:
    """A tab with a group of members: those in one state, those that can still progress, or all."""

    name: str
    count: int
    address: str
    is_current: bool


@attrs.frozen
class MemberRow:
    """A member with the data that is shown next to it."""

    job: JobRecord
    state: str  # the displayed state, which may be "retrying"
    call: str  # the arguments on one line; empty if the visitor may not see them
    counts: BatchCounts | None  # the counts if the member is a batch

    @property
    def waits_for(self) -> tuple[str, str] | None:
        """The signal or step that a suspended member waits for, as a key of `jobs.toml` and a name."""
        kind, _, name = (self.job.waits_for or "").partition(" ")
        is_known = self.job.state is State.AWAITING and kind in {MemoKind.SIGNAL, MemoKind.CALL}
        return (f"waits_{kind}", name) if is_known else None


@attrs.frozen
class MemberCause:
    """Failed members with the same error."""

    type: str
    message: str
    task: str
    count: int
    address: str  # the URL of the list of these members
    cause: str  # the URL of the page of the cause, with the jobs of all batches


@attrs.define(slots=False)
class BatchView(JobView):
    """The data of a batch's page; each value is read when it is first shown."""

    @property
    def name(self) -> str:
        """The batch's name."""
        relations = self.job.relations
        return "" if relations is None or relations.batch is None else relations.batch.name

    @property
    def stops_at_failure(self) -> bool:
        """Whether the first failure cancels the other members."""
        relations = self.job.relations
        return relations is not None and relations.batch is not None and relations.batch.fails_fast

    @property
    def phases(self) -> list[Phase]:
        """An empty list, because a batch waits and runs at the same time, so it has no separate phases."""
        return []

    @cached_property
    def counts(self) -> BatchCounts:
        """The numbers of the batch's own members, by state."""
        return self.visit.fire.storage.batch_counts([self.job.id])[0] or BatchCounts()

    @property
    def bars(self) -> list[tuple[str, int]]:
        """The states with the numbers of the batch's own members; active members count as "processing"."""
        return _bars(self.counts)

    @property
    def held_until(self) -> datetime | None:
        """The time when the batch is cancelled unless its creator adds jobs; None if it is complete."""
        return instant(self.job.due_at) if self.job.state is State.AWAITING else None

    @cached_property
    def within(self) -> DeepBatchCounts | None:
        """The numbers of jobs in the batch and all nested batches; None if there are no nested batches."""
        if not self.counts.batches or not isinstance(self.handle, Batch):
            return None
        return self.handle.counts(deep=True, limit=_WITHIN)

    @property
    def within_bars(self) -> list[tuple[str, int]]:
        """The bars, as in `bars`, for the jobs of the batch and of all nested batches."""
        return _bars(self.within) if self.within is not None else []

    @property
    def may_cancel(self) -> bool:
        """Whether the batch can be cancelled, which requires that it is open and not cancelled."""
        return self.job.state is State.AWAITING and not self.counts.is_cancelled

    # ---- members -------------------------------------------------------------------------------------------

    @cached_property
    def tab(self) -> str:
        """The shown group of members: the requested group, or else the failed members if there are any."""
        return self.visit.query.maybe(_TAB) or ("failed" if self.counts.failed else "all")

    def tabs(self) -> list[MemberTab]:
        """Return the tabs with the sizes of their groups."""
        counts = self.counts
        members = {
            "all": counts.total, "failed": counts.failed, "active": _active(counts),
            "waiting": counts.waiting, "succeeded": counts.succeeded, "deleted": counts.deleted,
        }  # fmt: skip
        path = f"/batches/{self.job.id}"
        return [
            MemberTab(name, members[name], self.visit.url(path, show=name), name == self.tab)
            for name in _TABS
        ]

    @property
    def shown_count(self) -> int:
        """The number of members in the shown group."""
        return next(tab.count for tab in self.tabs() if tab.is_current)

    @cached_property
    def members(self) -> list[MemberRow]:
        """The first members of the shown group."""
        jobs = self._shown[:_LISTED]
        inner = [job.id for job in jobs if job.is_batch]
        all_counts = (
            dict(zip(inner, self.visit.fire.storage.batch_counts(inner), strict=True)) if inner else {}
        )
        return [
            MemberRow(
                job,
                "retrying" if job.is_retrying else job.state.value,
                self._call(job),
                all_counts.get(job.id),
            )
            for job in jobs
        ]

    @property
    def list_address(self) -> str:
        """The URL of the job list with the whole group; for active members, the list contains all members."""
        state = _STATE_OF_TAB.get(self.tab)
        return self.visit.url("/jobs", batch=self.job.id, state=state)

    @cached_property
    def _shown(self) -> list[JobRecord]:
        match self.tab:
            case "failed":
                return self._failed
            case "active":
                return self._active
            case "waiting":
                return [job for job, waits in self._awaiting if waits]
            case _:
                state = _STATE_OF_TAB.get(self.tab)
                return self._first(None if state is None else State(state), _LISTED)

    @cached_property
    def _failed(self) -> list[JobRecord]:
        return self._first(State.FAILED, _PAGE) if self.counts.failed else []

    @cached_property
    def _active(self) -> list[JobRecord]:
        jobs: list[JobRecord] = []
        for state in (State.PROCESSING, State.SCHEDULED, State.ENQUEUED):
            if len(jobs) < _LISTED:
                jobs += self._first(state, _LISTED)
        return jobs if len(jobs) >= _LISTED else [*jobs, *(job for job, waits in self._awaiting if not waits)]

    @cached_property
    def _awaiting(self) -> list[tuple[JobRecord, bool]]:
        """The awaiting members, each with a flag that is true if it waits for another member.

        A member that does not wait for another member can progress by itself.
        """
        jobs = self._first(State.AWAITING, _PAGE)
        inner = [job.id for job in jobs if job.is_batch]
        all_counts = (
            dict(zip(inner, self.visit.fire.storage.batch_counts(inner), strict=True)) if inner else {}
        )
        return [(job, _waits(job, all_counts.get(job.id))) for job in jobs]

    def _first(self, state: State | None, limit: int) -> list[JobRecord]:
        """Return the newest members in a state.

        Up to five pages are read, because a page of the storage can be empty although later pages are not.
        """
        jobs: list[JobRecord] = []
        cursor = None
        for _ in range(_MOST_PAGES):
            where = JobFilter(state=state, batch_id=self.job.id)
            page = self.visit.fire.storage.find(where, limit=limit - len(jobs), cursor=cursor)
            jobs += page.jobs
            cursor = page.cursor
            if cursor is None or len(jobs) >= limit:
                break
        return jobs

    def _call(self, job: JobRecord) -> str:
        given = self.visit.arguments(job, limit=IN_LISTS)
        if isinstance(given.value, dict):
            return summary(given.value)
        return "" if given.is_hidden else given.line[:_LINE]

    # ---- why members failed --------------------------------------------------------------------------------

    @cached_property
    def causes(self) -> list[MemberCause]:
        """The causes of failed members, the most frequent first; members that are batches have no cause."""
        alike: dict[str, list[JobRecord]] = {}
        for job in self._failed:
            if job.error is not None:
                alike.setdefault(job.error.fingerprint, []).append(job)
        causes = [self._cause(fingerprint, jobs) for fingerprint, jobs in alike.items()]
        return sorted(causes, key=lambda cause: -cause.count)

    def _cause(self, fingerprint: str, jobs: list[JobRecord]) -> MemberCause:
        newest = jobs[0]
        error = newest.error
        url = self.visit.url
        return MemberCause(
            "" if error is None else error.type,
            "" if error is None else self.visit.redacted(error.message)[:_MESSAGE], newest.task, len(jobs),
            url("/jobs", batch=self.job.id, state="failed", fingerprint=fingerprint),
            url(f"/failures/{fingerprint}"),
        )  # fmt: skip

    @property
    def grouped(self) -> int:
        """The number of failed members that the page groups by their errors."""
        return len(self._failed)

    @property
    def without_error(self) -> int:
        """The number of failed members without a recorded error, not counting batches."""
        return sum(job.error is None and not job.is_batch for job in self._failed)

    @property
    def failed_batches(self) -> int:
        """The number of failed members that are batches, whose own pages show why they failed."""
        return sum(job.is_batch for job in self._failed)

    # ---- flow ----------------------------------------------------------------------------------------------

    @cached_property
    def graph(self) -> FlowGraph:
        """The graph of the members, of which it contains at most 2,000."""
        return draw_flow(self._drawn, digest=self._digest)

    @cached_property
    def summaries(self) -> Mapping[str, str]:
        """The first paragraphs of the docstrings of the drawn tasks, in drawing order; at most twelve."""
        names = dict.fromkeys(node.task for node in self.graph.nodes)
        known = {entry.name: entry.summary for entry in self.visit.fire.catalogue.list()}
        return dict(islice(((name, known[name]) for name in names if known.get(name)), _TASKS))

    def _digest(self, job: JobRecord) -> str:
        """Return the values of a member's arguments, as far as this visitor may see them."""
        value = self.visit.arguments(job, limit=IN_LISTS).value
        digest = ", ".join(map(_plain, value.values())) if isinstance(value, dict) else ""
        return _OUTPUT.sub(self._output, digest)

    def _output(self, found: re.Match[str]) -> str:
        """Return a reference to a member's output with the member's task instead of its id."""
        name = self._drawn_names.get(found[1])
        return found[0] if name is None else self.visit.text("batch.output", task=name)

    @cached_property
    def _drawn_names(self) -> dict[str, str]:
        return {job.id: task_name(job.task) for job in self._drawn}

    @property
    def is_graph_cut(self) -> bool:
        """Whether the graph leaves out members."""
        return self.counts.total > len(self._drawn)

    @property
    def drawn(self) -> int:
        """The number of members in the graph."""
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


def _active(counts: BatchCounts | DeepBatchCounts) -> int:
    """Return the number of members that have not ended and do not wait for another member."""
    return max(0, counts.total - counts.ended - counts.waiting)


def _bars(counts: BatchCounts | DeepBatchCounts) -> list[tuple[str, int]]:
    return [
        ("succeeded", counts.succeeded), ("failed", counts.failed), ("deleted", counts.deleted),
        ("processing", _active(counts)), ("awaiting", counts.waiting),
    ]  # fmt: skip


def _waits(job: JobRecord, counts: BatchCounts | None) -> bool:
    """Return whether an awaiting member waits for another one, according to its record.

    Args:
        job: the member.
        counts: the member's counts if it is a batch; a batch whose members run is also awaiting.
    """
    if not job.parents or job.waits_for is not None:
        return False
    if job.is_batch:
        return counts is not None and counts.is_unopened and not counts.is_cancelled
    return job.reason != Moved.WAITS_FOR_BATCH


def _plain(value: JsonValue) -> str:
    return value if isinstance(value, str) else literal(value)


def show_batch(visit: Visit) -> Response:
    """Show one batch."""
    page = BatchView(visit, visit.fire.jobs.get(visit.places["id"]))
    if not page.job.is_batch:
        raise NotHere(visit.text("batch.none", id=page.job.id))
    return visit.page("batch.html", title=page.name, section="batches", page=page, job=page.job)


def requeue_failed(visit: Visit) -> Response:
    """Requeue the failed members, which opens the batch again until they have ended.

    If there are many failed members, only the first is requeued immediately, which opens the batch, and an
    operation requeues the others.
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
    Route("GET", "/batches/{id}", Permission.READ, show_batch, (_TAB,)),
    Route("POST", "/batches/requeue", Permission.REQUEUE, requeue_failed, form=(_ONE,)),
)
