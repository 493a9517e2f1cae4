"""Suspensions: jobs that wait, without occupying a worker, for a signal, for other jobs or for a time.

On a database server, nearly all suspensions take the fast path, which is one round trip. One statement locks
the job and the jobs for which it will wait. A second statement, which sees everything that was committed
before these locks, checks whether the awaited event has happened. If it has not happened, and the run still
holds the job, the statement suspends the job. All other suspensions, and all suspensions on SQLite, take the
general path, which reads rows as part of `settle`. A long history is rewritten later, when the job resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from firelock.storage import MemoKind, Moved, State, Transition
from firelock_sql.connections.transaction import Transaction, insert_into
from firelock_sql.rows.job_row import JobRow, entry_line
from firelock_sql.rows.marks import HAS_CHILDREN
from firelock_sql.rows.memo_row import read_memo
from firelock_sql.verbs.children import MARK_PARENTS

_HELD = frozenset({State.PROCESSING})
_WAITING = frozenset({State.AWAITING, State.SCHEDULED})
_WAIT = insert_into("firelock_edges", "parent_id", "child_id", "awaited", "is_decided", "is_wait")


@attrs.frozen
class Suspension:
    """A suspension that may take the fast path."""

    transition: Transition
    signal: str | None  # the name of the signal that the job waits for

    @property
    def job_id(self) -> str:
        """The id of the job to suspend."""
        return self.transition.job_id

    @property
    def parents(self) -> list[str]:
        """The ids of the jobs for which it waits."""
        return [edge.parent_id for edge in self.transition.parents]

    @property
    def line(self) -> str:
        """The line to add to the job's history."""
        return "" if self.transition.is_silent else entry_line(self.transition.entry())


def find_suspensions(transitions: Sequence[Transition]) -> list[Suspension]:
    """Return the suspensions that may take the fast path; an empty list if a job occurs more than once."""
    found = [_read(one) for one in transitions if one.waits_for is not None and _is_bare(one)]
    if not found:
        return []
    ids = [one.job_id for one in transitions]
    parents = {id for one in found for id in one.parents}
    return found if len(set(ids)) == len(ids) and parents.isdisjoint(ids) else []


def _is_bare(one: Transition) -> bool:
    """Return whether the transition only suspends a run, and does not wait for the same job twice."""
    is_wait = one.gives_back and one.session is not None and one.from_states == _HELD
    is_alone = one.error is None and one.retries is None and one.crashes is None
    parents = {edge.parent_id for edge in one.parents}
    return is_wait and is_alone and one.to in _WAITING and len(parents) == len(one.parents)


def _read(one: Transition) -> Suspension:
    kind, _, name = (one.waits_for or "").partition(" ")
    is_looking = one.to is State.AWAITING and kind == MemoKind.SIGNAL
    return Suspension(one, name if is_looking else None)


def jobs_of(suspensions: Sequence[Suspension]) -> list[str]:
    """Return the jobs to suspend and the jobs for which they wait, in the order in which to lock them."""
    return sorted({id for one in suspensions for id in (one.job_id, *one.parents)})


# ---- the general path, on rows -----------------------------------------------------------------------------


def awaited_jobs(transition: Transition) -> list[str]:
    """Return the jobs for which a suspended job waits."""
    return [edge.parent_id for edge in transition.parents]


def resume_if_met(tx: Transaction, rows: Mapping[str, JobRow], transition: Transition) -> Transition:
    """Return the suspension, or a transition that enqueues the job if the awaited event has happened."""
    reason = None
    awaited = [rows.get(id) for id in awaited_jobs(transition)]
    if awaited and all(one is None or one.is_final for one in awaited):
        last = awaited[-1]
        reason = Moved.PARENT_GONE if last is None else Moved.PARENT_ENDED.format(state=last.state)
    kind, _, name = (transition.waits_for or "").partition(" ")
    if kind == MemoKind.SIGNAL:
        memo = read_memo(tx, transition.job_id, kind, name)
        if memo is not None and memo.is_done:
            reason = Moved.SIGNALLED.format(name=name)
    if reason is None:
        return transition
    return attrs.evolve(
        transition, to=State.ENQUEUED, reason=str(reason), due_at=None, waits_for=None, parents=()
    )


def wait_for(tx: Transaction, rows: Mapping[str, JobRow], transition: Transition) -> None:
    """Add an edge from the suspended job to each awaited job that has not ended."""
    found = [
        (edge, parent) for edge in transition.parents if (parent := rows.get(edge.parent_id)) is not None
    ]
    waiting = [(edge, parent) for edge, parent in found if not parent.is_final]
    tx.run_many(
        _WAIT,
        [
            {
                "parent_id": edge.parent_id, "child_id": transition.job_id, "awaited": edge.on.value,
                "is_decided": 0, "is_wait": 1,
            }
            for edge, _ in waiting
        ],
    )  # fmt: skip
    tx.run(MARK_PARENTS, ids=sorted({edge.parent_id for edge, _ in waiting}))
    for _, parent in waiting:
        parent.marks |= HAS_CHILDREN
