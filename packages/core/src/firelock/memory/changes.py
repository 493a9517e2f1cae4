"""What changes a job: transitions, claims, the loss of a session, the end of a parent."""

from __future__ import annotations

import attrs

from firelock.job import FINAL_STATES, Attempt, Edge, HistoryEntry, JobRecord, NewJob, State
from firelock.lifecycle import Transition, Upkeep, continuation_target, waiting_reason
from firelock.memory.table import Row, Table
from firelock.storage import Applied

_ERRORS_LIMIT = 20


def insert(table: Table, job: NewJob, now: int) -> None:
    """The job is stored in the state that its parents leave it."""
    row = table.add(
        JobRecord(
            job.id, job.task, job.arguments, job.serializer, job.state, job.queue, job.priority,
            job.created_at, job.tags, job.due_at, job.nominal_at, job.reason,
            enqueued_at=now if job.state is State.ENQUEUED else None, changed_at=job.created_at,
            timeout_seconds=job.timeout_seconds, retry=job.retry, recurring_id=job.recurring_id,
            parents=job.parents,
        )
    )  # fmt: skip
    for parent_id in dict.fromkeys(edge.parent_id for edge in job.parents):
        look_at_parent(table, row, parent_id, at=job.created_at, now=now)
    if not row.history:
        row.note(HistoryEntry(row.record.state, job.created_at, row.record.reason))


# ---- continuations ---------------------------------------------------------------------------------------


def look_at_parent(table: Table, row: Row, parent_id: str, *, at: int, now: int) -> None:
    """The job's edges to this parent are decided as its end asks; `at` stamps what that does to the job."""
    parent = table.rows[parent_id].record
    for edge in [edge for edge in row.pending if edge.parent_id == parent_id]:
        target = continuation_target(edge.on, parent.state)
        if target is State.DELETED:
            end_with_parent(table, row, parent, reason=_parent_ended(parent), at=at)
            return
        if target is State.ENQUEUED:
            _decide(table, row, edge, parent, at=at, now=now)
        elif parent.is_final:
            table.change(row, reason=waiting_reason(edge.on, parent.state))


def _decide(table: Table, row: Row, edge: Edge, parent: JobRecord, *, at: int, now: int) -> None:
    table.decide(row, edge)
    if row.pending:
        return
    reason = _parent_ended(parent)
    table.change(row, state=State.ENQUEUED, reason=reason, changed_at=at, enqueued_at=now)
    row.note(HistoryEntry(State.ENQUEUED, at, reason))


def end_with_parent(table: Table, row: Row, parent: JobRecord, *, reason: str, at: int) -> None:
    """The waiting job is deleted, and kept as long after its end as the parent after its own."""
    expires_at = None
    if parent.expires_at is not None and parent.ended_at is not None:
        expires_at = at + parent.expires_at - parent.ended_at
    table.change(row, state=State.DELETED, reason=reason, changed_at=at, ended_at=at, expires_at=expires_at)
    row.note(HistoryEntry(State.DELETED, at, reason))


def release(table: Table, limit: int, now: int) -> int:
    """Up to `limit` children of ended parents were looked at; return how many."""
    looked_at = 0
    while table.releasing and looked_at < limit:
        parent_id = next(iter(table.releasing))
        children = table.releasing[parent_id]
        while children and looked_at < limit:
            child = table.rows.get(children.pop())
            looked_at += 1
            if child is not None:  # deleted and pruned in the meantime
                look_at_parent(table, child, parent_id, at=now, now=now)
        if not children:
            del table.releasing[parent_id]
    return looked_at


def prune(table: Table, row: Row, now: int) -> None:
    """The job is gone; children that waited for another end of it are deleted."""
    parent = row.record
    for id in list(table.waiting.get(parent.id, ())):
        end_with_parent(table, table.rows[id], parent, reason=Upkeep.PARENT_GONE.value, at=now)
    table.remove(row)


def _parent_ended(parent: JobRecord) -> str:
    return Upkeep.PARENT_ENDED.format(state=parent.state)


# ---- due jobs, attempts ----------------------------------------------------------------------------------


def promote(table: Table, row: Row, now: int) -> None:
    """The due job is enqueued."""
    reason = Upkeep.DUE.value
    table.change(row, state=State.ENQUEUED, reason=reason, changed_at=now, due_at=None, enqueued_at=now)
    row.note(HistoryEntry(State.ENQUEUED, now, reason))


def claim(table: Table, row: Row, *, session: str, server: str, now: int) -> None:
    """The job is processing for this session."""
    job = row.record
    table.change(
        row, state=State.PROCESSING, reason=None, changed_at=now, attempt=job.attempt + 1,
        fence=job.fence + 1, session=session, server=server, claimed_at=now, started_at=None,
    )  # fmt: skip


def apply(table: Table, transition: Transition, now: int) -> Applied:
    """The transition is written if its guards hold; return what became of it."""
    row = table.rows.get(transition.job_id)
    if row is None:
        return Applied.MISSING
    job = row.record
    if job.state not in transition.from_states or not _is_holder(job, transition):
        return _refused(table, row, transition)
    if transition.error is not None:
        failure = Attempt(transition.attempt or job.attempt, transition.at, transition.error)
        row.attempts = [*row.attempts, failure][-_ERRORS_LIMIT:]
    table.change(row, **_written(job, transition, now))
    if not transition.is_silent:
        row.note(transition.entry())
    return Applied.RELEASING if job.id in table.releasing else Applied.APPLIED


def _is_holder(job: JobRecord, transition: Transition) -> bool:
    return transition.session is None or (transition.session, transition.fence) == (job.session, job.fence)


def _written(job: JobRecord, transition: Transition, now: int) -> dict[str, object]:
    """Return the fields that an applied transition gives the job."""
    is_success = transition.to is State.SUCCEEDED
    fields: dict[str, object] = {
        "state": transition.to,
        "reason": transition.reason,
        "changed_at": transition.at,
        "due_at": transition.due_at,
        "result": transition.result if is_success else None,
        "result_absent": transition.result_absent if is_success else None,
        "ended_at": None,
        "expires_at": None,
    }
    for name in ("retries", "crashes", "started_at", "server"):
        if (value := getattr(transition, name)) is not None:
            fields[name] = value
    if transition.to in FINAL_STATES:
        fields |= {"ended_at": transition.at, "expires_at": transition.expires_at}
    if transition.error is not None:
        fields["error"] = attrs.evolve(transition.error, traceback=None)
    if transition.session is not None:
        fields["session"] = None
    if transition.gives_back:
        fields["attempt"] = job.attempt - 1
    elif transition.to is State.ENQUEUED:
        fields["enqueued_at"] = now
    return fields


def _refused(table: Table, row: Row, transition: Transition) -> Applied:
    """The guards do not hold: tell a repeat from a stranger; the holder's late end takes its tail away."""
    job = row.record
    if transition.session is None or job.fence != transition.fence:
        return Applied.REFUSED
    if job.session is None:
        return Applied.ALREADY if job.state is transition.to else Applied.REFUSED
    if job.is_stopping and job.session == transition.session:
        table.change(row, session=None)
    return Applied.REFUSED


def take_back(table: Table, row: Row, *, crash: str | None, now: int) -> None:
    """The job is back at its old place and its session has lost it; with a crash where a reason is given."""
    job = row.record
    table.change(
        row, state=State.ENQUEUED, reason=crash or Upkeep.NOT_STARTED.value, changed_at=now, session=None,
        attempt=job.attempt - 1, crashes=job.crashes + (crash is not None),
    )  # fmt: skip
    if crash is not None:
        row.note(
            HistoryEntry(State.ENQUEUED, now, crash, job.attempt, job.claimed_at, job.started_at, job.server)
        )
