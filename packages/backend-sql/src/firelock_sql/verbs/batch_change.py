"""Changes by operators to a batch and its members, and the effect of a requeue on the enclosing batches."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from firelock.storage import Applied, Relations, State, Transition
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.rows.batch_row import SWEEP, BatchRow, fold, load_batches, save_batch
from firelock_sql.rows.job_row import JobRow, relations_in

_RELATIONS = Text(
    "SELECT id, relations_json FROM firelock_jobs WHERE id IN :ids AND relations_json IS NOT NULL"
)
_STATES = Text("SELECT id, state FROM firelock_jobs WHERE id IN :ids")


def cancel_batch(tx: Transaction, row: JobRow, batch: BatchRow, reason: str | None, at: int) -> None:
    """Cancel the batch permanently; it is no longer held, and ends as soon as no member runs or waits."""
    row.move(
        tx, State.AWAITING, reason=reason, changed_at=at, due_at=None, ended_at=None, expires_at=None
    )  # fmt: skip
    row.note(State.AWAITING, at, reason)
    batch.is_cancelled = 1
    batch.begin(SWEEP)
    save_batch(tx, batch)


def change_batch(tx: Transaction, row: JobRow, batch: BatchRow | None, transition: Transition) -> Applied:
    """Hold or cancel the batch; no other transition is possible, because a batch never runs."""
    if transition.session is not None or row.state not in transition.from_states or batch is None:
        return Applied.REFUSED
    if transition.to is State.DELETED:
        if not batch.is_cancelled:
            cancel_batch(tx, row, batch, transition.reason, transition.at)
    elif transition.to is State.AWAITING is row.state and not batch.is_cancelled:
        row.change({"due_at": transition.due_at})
        batch.is_changed = 1
        save_batch(tx, batch)
    else:
        return Applied.REFUSED
    return Applied.APPLIED


# ---- requeues --------------------------------------------------------------------------------------------


def _may_let_run(transition: Transition) -> bool:
    return transition.session is None and transition.to in {State.ENQUEUED, State.SCHEDULED}


def lets_run(row: JobRow, transition: Transition) -> bool:
    """Return whether the transition is an operator's restart of an ended or waiting job with relations."""
    if row.relations_json is None or not _may_let_run(transition):
        return False
    return transition.to is State.ENQUEUED or row.is_final


@attrs.define
class BatchesAround:
    """The locked batches that contain certain jobs, directly or through inner batches."""

    relations: dict[str, Relations] = attrs.field(factory=dict)  # relations of the jobs and batches, by id
    batches: dict[str, BatchRow] = attrs.field(factory=dict)

    def of(self, job_id: str) -> list[BatchRow]:
        """Return the batches that contain the job, from the innermost to the outermost."""
        found: list[BatchRow] = []
        while (relations := self.relations.get(job_id)) is not None and relations.batch_id in self.batches:
            job_id = str(relations.batch_id)
            found.append(self.batches[job_id])
        return found

    def calm(self, tx: Transaction, job_id: str) -> None:
        """Reset the batches of a job that runs again, so that earlier failures no longer stop them."""
        for batch in self.of(job_id):
            rules = self.relations[batch.id].batch
            if rules is not None and rules.fails_fast:
                fold(tx, batch, fails_fast=True)
                if batch.is_stopping:
                    batch.is_stopping, batch.is_changed, batch.walk = 0, 1, None
                    save_batch(tx, batch)


def lock_around(tx: Transaction, transitions: Sequence[Transition]) -> BatchesAround:
    """Lock and return the batches of jobs that an operator restarts, before the jobs are locked."""
    around = BatchesAround()
    wanted = {one.job_id for one in transitions if _may_let_run(one)}
    while wanted:
        found = {id: relations_in(text) for id, text in tx.all_known(_RELATIONS, ids=sorted(wanted))}
        around.relations |= found
        wanted = {relations.batch_id for relations in found.values() if relations.batch_id is not None} - set(
            around.relations
        )
    batches = {
        relations.batch_id for relations in around.relations.values() if relations.batch_id is not None
    }
    around.batches = load_batches(tx, batches)
    return around


def is_forbidden(tx: Transaction, row: JobRow, transition: Transition, around: BatchesAround) -> bool:
    """Return whether the job's relations prevent an operator from restarting it."""
    if not lets_run(row, transition):
        return False
    return any(batch.is_cancelled for batch in around.of(row.id)) or _misses_input(tx, row)


def _misses_input(tx: Transaction, row: JobRow) -> bool:
    wanted = {one.job_id for one in row.relations.inputs}
    if row.state is not State.AWAITING or not wanted:
        return False
    states = dict(tx.all_known(_STATES, ids=sorted(wanted)))
    return any(states.get(id) != State.SUCCEEDED for id in wanted)
