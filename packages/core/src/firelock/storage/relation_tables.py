"""Batches, their members and memos on `Tables`: the code for them in each verb of `TableStorage`.

The transaction that changes a member also changes the counts of its batch. Later, `release` changes the batch
as the counts require.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

import attrs

from firelock.errors import BatchFinished, JobNotFound
from firelock.model import lifecycle
from firelock.model.answers import Applied
from firelock.model.batch import BatchCounts, BatchRules
from firelock.model.clock import SECOND
from firelock.model.dependencies import Relations
from firelock.model.job import JobRecord, NewJob, Transition
from firelock.model.lifecycle import Moved
from firelock.model.memo import (
    MEMOS_BYTES,
    MEMOS_LIMIT,
    Memo,
    MemoKind,
    NewMemo,
    Remembered,
    memo_words,
)
from firelock.model.state import FINAL_STATES, State
from firelock.storage import batches, rules
from firelock.storage.batches import NOTHING, Share
from firelock.storage.rules import StoredJob

if TYPE_CHECKING:
    from firelock.storage.tables import Tables

_HOUR = 3_600 * SECOND
_APPLIED = Applied.APPLIED
_ENDED_UNWATCHED = (State.SUCCEEDED, State.DELETED)  # in these states, a job accepts no memos from outside


# ---- counting --------------------------------------------------------------------------------------------


def put(tables: Tables, row: StoredJob) -> None:
    """Store the job, and update the counts of its batch."""
    if row.record.relations_json is None:
        tables.put(row)
        return
    before = tables.job(row.record.id)
    share = NOTHING if before is None else _share(tables, before)
    tables.put(row)
    _update_counts(tables, row, share)
    if row.record.is_batch:
        if before is None:
            tables.put_batch_counts(row.record.id, BatchCounts())
        elif before.is_unopened and not row.is_unopened:
            tables.note_changed(row.record.id)
        _note_if_changed(tables, row)


def _share(tables: Tables, row: StoredJob) -> Share:
    """Return the share of the member in the counts of its batch."""
    return batches.share_of(
        row.record,
        is_related=bool(row.pending),
        is_releasing=tables.is_releasing(row.record.id),
        is_cancelled=row.is_cancelled,
    )


def _update_counts(tables: Tables, row: StoredJob, before: Share) -> None:
    """Count the member in its batch with its new share instead of the old one."""
    batch = None if row.batch_id is None else tables.job(row.batch_id)
    counts = None if batch is None else tables.batch_counts(batch.record.id)
    change = batches.changed(before, _share(tables, row))
    if batch is None or counts is None or change == NOTHING:
        return
    counts = batches.folded(counts, change, fails_fast=_rules(batch).fails_fast)
    tables.put_batch_counts(batch.record.id, counts)
    _note_if_changed(tables, batch)


def _note_if_changed(tables: Tables, batch: StoredJob) -> None:
    """Put the batch on the list of changed batches if its counts might require a new state."""
    counts = counts_of(tables, batch)
    if counts.is_cancelled or counts.is_stopping or batches.end_of(counts) is not batch.record.state:
        tables.note_changed(batch.record.id)


def _rules(batch: StoredJob) -> BatchRules:
    return cast("BatchRules", cast("Relations", batch.record.relations).batch)


def counts_of(tables: Tables, batch: StoredJob) -> BatchCounts:
    """Return the counts of the batch."""
    counted = tables.batch_counts(batch.record.id) or BatchCounts()
    is_held = batch.record.state is State.AWAITING and batch.record.due_at is not None
    return BatchCounts(
        total=counted.total,
        active=counted.active,
        waiting=counted.waiting,
        succeeded=counted.succeeded,
        failed=counted.failed,
        deleted=counted.deleted,
        is_held=is_held,
        is_unopened=batch.is_unopened,
        is_cancelled=batch.is_cancelled,
        is_stopping=counted.is_stopping,
        batches=counted.batches,
    )


def find_counts(tables: Tables, id: str) -> BatchCounts | None:
    """Return the counts of a batch; None if the job is not a batch."""
    row = tables.job(id)
    return None if row is None or not row.record.is_batch else counts_of(tables, row)


def _around(tables: Tables, row: StoredJob) -> Iterator[StoredJob]:
    """Yield the batches that contain the job, from the innermost outwards."""
    while row.batch_id is not None and (batch := tables.job(row.batch_id)) is not None:
        yield batch
        row = batch


# ---- inserts ---------------------------------------------------------------------------------------------


def in_batch(tables: Tables, job: NewJob, row: StoredJob, new: Mapping[str, StoredJob]) -> StoredJob:
    """Return a new job in the state that its batch requires.

    The job's edges to its parents must already be decided. `new` contains the earlier jobs of the same call.

    Raises:
        JobNotFound: If the batch is not stored.
        BatchFinished: If the batch no longer accepts members. A batch of the same call that was cancelled
            because of its `after` still accepts members, which `release` deletes.
    """
    batch_id = job.relations.batch_id if job.relations is not None else None
    batch = None if batch_id is None else new.get(batch_id) or tables.job(batch_id)
    if batch_id is not None and (batch is None or not batch.record.is_batch):
        raise JobNotFound(
            f"Job {job.id} cannot be added to batch {batch_id}, because the batch is not stored. Nothing was "
            "stored."
        )
    if batch is not None and (batch.is_cancelled or batch.record.is_final) and batch_id not in new:
        how = "is cancelled" if batch.is_cancelled else f"has ended ({batch.record.state})"
        raise BatchFinished(
            f"Job {job.id} cannot be added to batch {batch_id}, because the batch {how}. Nothing was stored."
        )
    return _kept_out(row, batch)


def _kept_out(row: StoredJob, batch: StoredJob | None) -> StoredJob:
    """Return the member; if nothing else delays it, it waits until its batch opens."""
    is_free = not row.record.is_final and not row.pending and not row.is_cancelled
    return rules.waiting_for_batch(row) if batch is not None and batch.is_unopened and is_free else row


# ---- transitions -----------------------------------------------------------------------------------------


def changed(tables: Tables, row: StoredJob, transition: Transition, *, now: int) -> tuple[StoredJob, Applied]:
    """Apply a suspension or an operator's change like `rules.applied`, after checking related rows."""
    if transition.session is not None:
        return _suspended(tables, row, transition, now=now)
    if _is_refused(tables, row, transition):
        return row, Applied.REFUSED
    after, result = rules.applied(row, transition, now=now)
    if result is _APPLIED:
        if _is_requeue(row, transition):
            _clear_stopping(tables, row)
        if transition.forget_from is not None:
            after = _forget(tables, after, transition.forget_from)
    return after, result


def _is_refused(tables: Tables, row: StoredJob, transition: Transition) -> bool:
    """Return whether an operator's change of the job is refused because of related rows."""
    job = row.record
    if transition.to is State.AWAITING:
        return True  # the hold would change, but the job is not a batch
    if transition.forget_from is not None and (
        job.state is State.PROCESSING or tables.memo(job.id, *transition.forget_from) is None
    ):
        return True
    if not _is_requeue(row, transition):
        return False
    return any(batch.is_cancelled for batch in _around(tables, row)) or _misses_input(tables, row)


def _is_requeue(row: StoredJob, transition: Transition) -> bool:
    """Return whether an operator's change lets an ended or waiting job with relations run."""
    if row.record.relations_json is None:
        return False
    return transition.to is State.ENQUEUED or (transition.to is State.SCHEDULED and row.record.is_final)


def _misses_input(tables: Tables, row: StoredJob) -> bool:
    if row.record.state is not State.AWAITING or row.record.relations is None:
        return False
    found = [tables.job(one.job_id) for one in row.record.relations.inputs]
    return any(one is None or one.record.state is not State.SUCCEEDED for one in found)


def _clear_stopping(tables: Tables, member: StoredJob) -> None:
    """Clear `is_stopping` of the batches that contain the member, so that earlier failures do not stop it."""
    for batch in _around(tables, member):
        counts = tables.batch_counts(batch.record.id)
        if counts is not None and counts.is_stopping:
            tables.put_batch_counts(batch.record.id, attrs.evolve(counts, is_stopping=False))
            tables.note_changed(batch.record.id)


def change_batch(tables: Tables, row: StoredJob, transition: Transition) -> Applied:
    """Change the hold of the batch, or cancel it."""
    job = row.record
    if transition.session is not None or job.state not in transition.from_states:
        return Applied.REFUSED
    if transition.to is State.DELETED:
        after = row if row.is_cancelled else rules.cancelled(row, transition.reason, at=transition.at)
    elif transition.to is State.AWAITING and job.state is State.AWAITING and not row.is_cancelled:
        after = rules.held(row, transition.due_at)
    else:
        return Applied.REFUSED
    put(tables, after)
    return Applied.RELEASE_NEEDED if tables.is_changed(job.id) else Applied.APPLIED


def _suspended(
    tables: Tables, row: StoredJob, transition: Transition, *, now: int
) -> tuple[StoredJob, Applied]:
    """Return the suspended job; if the awaited event has already happened, the job is enqueued again."""
    reason = None
    ended = [tables.job(edge.parent_id) for edge in transition.parents]
    if ended and all(one is None or one.record.is_final for one in ended):
        last = ended[-1]
        reason = Moved.PARENT_GONE if last is None else Moved.PARENT_ENDED.format(state=last.record.state)
    kind, _, name = (transition.waits_for or "").partition(" ")
    if kind == MemoKind.SIGNAL:
        memo = tables.memo(row.record.id, MemoKind.SIGNAL, name)
        if memo is not None and memo.is_done:
            reason = Moved.SIGNALLED.format(name=name)
    if reason is not None:
        transition = attrs.evolve(transition, to=State.ENQUEUED, reason=reason, due_at=None, waits_for=None)
    after, result = rules.applied(row, transition, now=now)
    if result is not _APPLIED:
        return after, result
    if after.record.state is State.ENQUEUED:
        return attrs.evolve(after, record=attrs.evolve(after.record, enqueued_at=now)), result
    pending = tuple(
        edge
        for edge in transition.parents
        if (parent := tables.job(edge.parent_id)) is not None and not parent.record.is_final
    )
    return attrs.evolve(after, pending=pending), result


# ---- release ---------------------------------------------------------------------------------------------


def decide_children(tables: Tables, parent: JobRecord, children: list[StoredJob], *, now: int) -> int:
    """Move the children that wait for this parent, depending on its state; return how many were moved."""
    for child in children:
        after = rules.followed(child, parent, at=now, now=now)
        if after is child:
            continue  # it was moved in the meantime
        if after.record.state is not State.AWAITING or (after.record.is_batch and not after.pending):
            batch = None if after.batch_id is None else tables.job(after.batch_id)
            after = _kept_out(after, batch)
        put(tables, after)
    row = tables.job(parent.id) if parent.relations_json is not None else None
    if row is not None and not tables.is_releasing(parent.id):
        _update_counts(tables, row, _share(tables, row)._replace(active=1))
    return len(children)


def examine(tables: Tables, id: str, room: int, *, now: int) -> int:
    """Update the batch's state from its counts and move some members; return how many were processed."""
    batch = tables.job(id)
    if batch is None or batch.record.state is State.DELETED:
        return 1
    counts = counts_of(tables, batch)
    state = batches.end_of(counts)
    if state is not batch.record.state:
        batch = rules.batch_ended(batch, counts, state, now=now)
        put(tables, batch)
    if state in FINAL_STATES:
        tables.put_batch_counts(
            id, attrs.evolve(cast("BatchCounts", tables.batch_counts(id)), is_stopping=False)
        )
        return 1
    if counts.is_cancelled or counts.is_stopping:
        reason, of = Moved.SWEPT.value if counts.is_cancelled else Moved.STOPPED.value, _rules(batch)
        moved = [_swept(row, reason, of, now=now) for row in tables.unswept(id, room)]
    else:
        resumable = [] if counts.is_unopened else tables.waiting_for_batch(id, room)
        moved = [rules.resumed_member(row, now=now) for row in resumable]
    for row in moved:
        put(tables, row)
    if len(moved) == room:
        tables.note_changed(id)
    return max(1, len(moved))


def _swept(row: StoredJob, reason: str, of: BatchRules, *, now: int) -> StoredJob:
    if row.record.is_batch:
        return rules.cancelled(row, reason, at=now)
    expires_at = of.expiry(State.DELETED, now)
    deleted = lifecycle.delete(row.record.id, at=now, reason=reason, expires_at=expires_at)
    return rules.applied(row, deleted, now=now)[0]


# ---- memos -----------------------------------------------------------------------------------------------


def remember(tables: Tables, new: NewMemo, *, now: int) -> Remembered:
    """See `Storage.remember`."""
    row, memo = tables.job(new.job_id), new.memo
    if row is None:
        return Remembered(Applied.MISSING)
    stored = tables.memo(new.job_id, memo.kind, memo.name)
    is_same = stored is not None and attrs.evolve(stored, place=memo.place) == memo
    if not _may_remember(row.record, new) and not (new.session is None and is_same):
        return Remembered(Applied.REFUSED, stored)
    if stored is not None and (is_same or stored.is_done or not new.replaces):
        return Remembered(Applied.ALREADY if is_same else Applied.TAKEN, stored)
    total = tables.memo_sum(new.job_id)
    count, size = total.count + (stored is None), total.size + _size(memo) - _size(stored)
    if count > MEMOS_LIMIT or size > MEMOS_BYTES:
        return Remembered(Applied.REFUSED, stored)
    placed = attrs.evolve(memo, place=total.next_place if stored is None else stored.place)
    tables.put_memo(new.job_id, placed)
    next_place = total.next_place + (stored is None)
    tables.put_memo_sum(new.job_id, attrs.evolve(total, count=count, size=size, next_place=next_place))
    after = row if row.has_memos else attrs.evolve(row, has_memos=True)
    if memo.is_done and memo.kind is MemoKind.SIGNAL and _awaits(row.record, memo):
        after = rules.resumed(after, Moved.SIGNALLED.format(name=memo.name), at=now, now=now)
    if after is not row:
        put(tables, after)
    return Remembered(Applied.APPLIED, placed)


def _may_remember(job: JobRecord, new: NewMemo) -> bool:
    if new.session is None:
        return job.state not in _ENDED_UNWATCHED
    return is_claimed_by(job, new.session, new.fence)


def is_claimed_by(job: JobRecord, session: str, fence: int | None) -> bool:
    """Return whether the session runs the job with this fence."""
    return job.state is State.PROCESSING and (job.session, job.fence) == (session, fence)


def _awaits(job: JobRecord, memo: Memo) -> bool:
    return job.state is State.AWAITING and job.waits_for == memo_words(memo.kind, memo.name)


def _size(memo: Memo | None) -> int:
    return 0 if memo is None or memo.value is None else len(memo.value.encode(errors="surrogatepass"))


def recall(tables: Tables, id: str, session: str | None, fence: int | None) -> list[Memo] | None:
    """See `Storage.recall`."""
    row = tables.job(id)
    if row is None or (session is not None and not is_claimed_by(row.record, session, fence)):
        return None
    return tables.memos(id) if row.has_memos else []


def _forget(tables: Tables, row: StoredJob, since: tuple[MemoKind, str]) -> StoredJob:
    """Delete this memo and all later ones; return the job without them."""
    id, total = row.record.id, tables.memo_sum(row.record.id)
    first = cast("Memo", tables.memo(id, *since))
    deleted = [memo for memo in tables.memos(id) if memo.place >= first.place]
    for memo in deleted:
        tables.remove_memo(id, memo)
    count, size = total.count - len(deleted), total.size - sum(map(_size, deleted))
    tables.put_memo_sum(id, attrs.evolve(total, count=count, size=size))
    return attrs.evolve(row, has_memos=count > 0)


# ---- prune -----------------------------------------------------------------------------------------------


def stays_until(tables: Tables, row: StoredJob, *, now: int) -> int:
    """Return the time until which related jobs need the expired job; `now` if it can be deleted."""
    id, until = row.record.id, now
    relations = row.record.relations
    for batch in _around(tables, row):  # members of an inner batch are kept as long as the outer batches, too
        is_open = not batch.record.is_final or tables.is_releasing(batch.record.id)
        until = max(until, (not is_open and batch.record.expires_at) or now + _HOUR)
    caller = None if relations is None or relations.caller_id is None else tables.job(relations.caller_id)
    if caller is not None and not caller.record.is_final:
        until = max(until, now + _HOUR)
    if any(_refers_to(child, id) and not child.record.is_final for child in tables.children(id)):
        until = max(until, now + _HOUR)
    return until


def _refers_to(child: StoredJob, id: str) -> bool:
    relations = child.record.relations
    return relations is not None and any(one.job_id == id for one in relations.inputs)


def prune(tables: Tables, row: StoredJob, *, now: int) -> bool:
    """Delete the expired job with all its data.

    If the job must be kept, store its new expiry time and return False.
    """
    until = stays_until(tables, row, now=now)
    if until > now:
        tables.put(attrs.evolve(row, record=attrs.evolve(row.record, expires_at=until)))
        return False
    id = row.record.id
    waiting = tables.waiting(id)
    if row.record.is_batch:
        waiting += tables.unswept(id, (tables.batch_counts(id) or BatchCounts()).total)
        tables.put_batch_counts(id, None)
    for child in waiting:
        put(tables, rules.ended_with(child, row.record, reason=Moved.PARENT_GONE.value, at=now))
    if row.has_memos:
        tables.put_memo_sum(id, None)
    tables.remove(row)
    return True
