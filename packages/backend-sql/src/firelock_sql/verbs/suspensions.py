"""Suspensions, of runs that wait without a worker: which of them go the short way, nearly all.

That is one round trip. It locks the job, and the jobs that it is to wait for, in a statement of its own; a
second one, which sees what others have left behind these locks, looks for what the job waits for, and writes
where that is not there and the run holds the job. It leaves all else alone: that is decided on rows, by
`settle`. A long history it leaves to what lets the job run again.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from firelock.storage import MemoKind, State, Transition
from firelock_sql.rows.job_row import entry_line

_HELD = frozenset({State.PROCESSING})
_WAITING = frozenset({State.AWAITING, State.SCHEDULED})


@attrs.frozen
class Suspension:
    """A suspension that may go the short way."""

    transition: Transition
    signal: str | None  # it waits for, by name

    @property
    def job_id(self) -> str:
        """Return the job that is to wait."""
        return self.transition.job_id

    @property
    def parents(self) -> list[str]:
        """Return the jobs that it waits for."""
        return [edge.parent_id for edge in self.transition.parents]

    @property
    def line(self) -> str:
        """Return what its job's history has more."""
        return "" if self.transition.is_silent else entry_line(self.transition.entry())


def find_suspensions(transitions: Sequence[Transition]) -> list[Suspension]:
    """Return those that may go the short way; none where a job is there more than once."""
    found = [_read(one) for one in transitions if one.waits_for is not None and _is_bare(one)]
    if not found:
        return []
    ids = [one.job_id for one in transitions]
    parents = {id for one in found for id in one.parents}
    return found if len(set(ids)) == len(ids) and parents.isdisjoint(ids) else []


def _is_bare(one: Transition) -> bool:
    """Tell whether it says nothing but that a run waits, and for no job twice."""
    is_wait = one.gives_back and one.session is not None and one.from_states == _HELD
    is_alone = one.error is None and one.retries is None and one.crashes is None
    parents = {edge.parent_id for edge in one.parents}
    return is_wait and is_alone and one.to in _WAITING and len(parents) == len(one.parents)


def _read(one: Transition) -> Suspension:
    kind, _, name = (one.waits_for or "").partition(" ")
    is_looking = one.to is State.AWAITING and kind == MemoKind.SIGNAL
    return Suspension(one, name if is_looking else None)


def jobs_of(suspensions: Sequence[Suspension]) -> list[str]:
    """Return those that are to wait, and those that they wait for, in the order to lock them."""
    return sorted({id for one in suspensions for id in (one.job_id, *one.parents)})
