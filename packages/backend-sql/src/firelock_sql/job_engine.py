"""What is ordinary: jobs that ask for nothing, and ends of which the storage hears the first time.

Most jobs are so, and the hot path takes them a shorter way; both ways end the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs
from sqlalchemy import bindparam, null, update

from firelock.storage import (
    Applied,
    Claim,
    Exchange,
    NewJob,
    State,
    StorageError,
    StorageUnavailable,
    Transition,
)
from firelock_sql.claim import PLACE_IS_PARENT, PLACE_SEQ, Asked, Taken
from firelock_sql.insert import insert_jobs
from firelock_sql.settle import apply_transitions
from firelock_sql.statements import Statement
from firelock_sql.tables import ONE, ZERO, jobs, text_literal

if TYPE_CHECKING:
    from firelock_sql.server_database import ServerDatabase

__all__ = [
    "KIND",
    "SETTLE",
    "SETTLE_ORDER",
    "Clash",
    "Held",
    "Holdings",
    "Parted",
    "ServerHot",
    "are_plain",
    "kind",
]

# A plain job: enqueued at once, nothing special asked for.
_asked = attrgetter(
    "state", "due_at", "nominal_at", "reason", "tags", "timeout_seconds", "retry", "recurring_id", "parents"
)
_NOTHING_ASKED = (State.ENQUEUED, None, None, None, (), None, None, None, ())
KIND = ("queue", "priority", "task", "serializer")  # as a rule the same for every job of a batch
kind = attrgetter(*KIND)

# A plain end: the task returned, the first the storage hears of it.
_odd = attrgetter(
    "to", "from_states", "reason", "error", "retries", "crashes", "due_at", "gives_back", "is_silent"
)
_NOTHING_ODD = (State.SUCCEEDED, frozenset({State.PROCESSING}), None, None, None, None, None, False, False)

# Settles one plain end, guarded by all that its claim knew; run once an end, by drivers that take many.
SETTLE = Statement(
    update(jobs)
    .where(
        jobs.c.seq == bindparam("row_seq"),
        jobs.c.id == bindparam("job_id"),  # a number is given out again after the last row was pruned
        jobs.c.session == bindparam("holder"),
        jobs.c.fence == bindparam("token"),
        jobs.c.state == text_literal(State.PROCESSING),
        jobs.c.is_parent == ZERO,
    )
    .ordered_values(
        (jobs.c.state, text_literal(State.SUCCEEDED)),
        (jobs.c.changed_at, bindparam("at")),
        (jobs.c.ended_at, bindparam("at_again")),
        (jobs.c.started_at, bindparam("new_started_at")),
        (jobs.c.expires_at, bindparam("new_expires_at")),
        (jobs.c.result, bindparam("new_result")),
        (jobs.c.result_absent, bindparam("new_result_absent")),
        (jobs.c.is_plain_end, ONE),
        (jobs.c.session, null()),
        (jobs.c.reason, null()),
        (jobs.c.due_at, null()),
    )
)
SETTLE_ORDER = (
    "at", "at_again", "new_started_at", "new_expires_at", "new_result", "new_result_absent", "row_seq",
    "job_id", "holder", "token",
)  # fmt: skip

Held = tuple[int, str, int, int]
"""Of a claimed job: seq, queue, attempt, claimed_at."""


class Clash(Exception):
    """Something in the batch is not plain after all; the transaction is undone and done the long way."""


def are_plain(batch: Sequence[NewJob]) -> bool:
    """Tell whether each of the jobs is a plain one."""
    return all(_asked(job) == _NOTHING_ASKED for job in batch)


@attrs.define
class _Holding:
    server: str
    jobs: dict[str, Held] = attrs.field(factory=dict)


@attrs.define
class Parted:
    """Transitions, parted: plain ends in the order of their ids, and the places of all others."""

    plain: list[tuple[Transition, Held]] = attrs.field(factory=list)
    others: list[int] = attrs.field(factory=list)


class Holdings:
    """What each session has claimed through this process: enough to settle it without reading."""

    def __init__(self) -> None:
        self._of: dict[str, _Holding] = {}

    def forget(self, session: str | None) -> None:
        """The session has ended, or all have: what it held is not settled from memory any more."""
        if session is None:
            self._of.clear()
        else:
            self._of.pop(session, None)

    def remember(self, session: str, server: str, claimed: Iterable[tuple[str, Held]]) -> None:
        """The session of this server has claimed these jobs, by id, for sure."""
        holding = self._of.get(session)
        if holding is None:
            holding = self._of[session] = _Holding(server)
        holding.jobs.update(claimed)

    def plainly_held(self, transition: Transition) -> Held | None:
        """Return the job whose plain end this is; None where it is not one."""
        session = transition.session
        holding = self._of.get(session) if session is not None else None
        if holding is None or _odd(transition) != _NOTHING_ODD or transition.server != holding.server:
            return None
        held = holding.jobs.get(transition.job_id)
        if held is None or transition.started_at is None:
            return None
        is_current = transition.attempt == held[2] and transition.claimed_at == held[3]
        return held if is_current else None

    def parted(self, transitions: Sequence[Transition], session: str | None) -> Parted:
        """Return the plain ends of one session, whichever comes first if none is given, apart from others."""
        parted = Parted()
        for place, transition in enumerate(transitions):
            held = self.plainly_held(transition)
            if held is None or transition.session != (session or transition.session):
                parted.others.append(place)
            else:
                session = transition.session
                parted.plain.append((transition, held))
        parted.plain.sort(key=lambda one: one[0].job_id)
        return parted

    def let_go(self, transitions: Iterable[Transition]) -> None:
        """The transitions are stored, whatever became of them."""
        for transition in transitions:
            holding = self._of.get(transition.session) if transition.session is not None else None
            if holding is not None:
                holding.jobs.pop(transition.job_id, None)


_D = TypeVar("_D", bound="ServerDatabase")


class ServerHot(ABC, Generic[_D]):
    """`insert`, `claim`, `apply` and `exchange` of one database."""

    def __init__(self, database: _D) -> None:
        self._database = database
        self._holdings = Holdings()

    def forget(self, session: str | None = None) -> None:
        """The session has ended, or all have: what it held is not settled from memory any more."""
        self._holdings.forget(session)

    @abstractmethod
    def insert(self, batch: Sequence[NewJob]) -> list[bool]:
        """See `Storage.insert`."""

    @abstractmethod
    def claim(self, queues: Sequence[str] | None, limit: int, session: str, now: int) -> Claim:
        """See `Storage.claim`; a look that finds nothing takes no lock."""

    def apply(self, transitions: Sequence[Transition]) -> list[Applied]:
        """See `Storage.apply`."""
        if not transitions:
            return []
        try:
            results = self._apply_fast(transitions)
        except Clash:
            results = self._database.write(lambda tx: apply_transitions(tx, self._database, transitions))
        self._holdings.let_go(transitions)
        return results

    @abstractmethod
    def _apply_fast(self, transitions: Sequence[Transition]) -> list[Applied]:
        """Return the results; plain ends are written without reading, others by way of their rows.

        Raises:
            Clash: nothing of it was done, and the long way has to be taken.
        """

    def exchange(
        self,
        transitions: Sequence[Transition],
        queues: Sequence[str] | None,
        limit: int,
        session: str,
        now: int,
    ) -> Exchange:
        """See `Storage.exchange`."""
        if not transitions:
            return Exchange([], self.claim(queues, limit, session, now))
        self._database.looks_for_work(queues)
        try:
            return self._exchange(transitions, Asked(queues, limit, session, now))
        except StorageUnavailable:
            raise
        except StorageError:
            return Exchange(self.apply(transitions), self.claim(queues, limit, session, now))

    @abstractmethod
    def _exchange(self, transitions: Sequence[Transition], asked: Asked) -> Exchange:
        """Return what became of the transitions and of the claim, in one transaction.

        What has ended is let go before what is claimed is remembered: it may be the same job.
        """

    def _insert_any(self, batch: Sequence[NewJob]) -> list[bool]:
        """Return which of the jobs are new, whatever jobs they are."""
        return self._database.write(lambda tx: insert_jobs(tx, self._database, batch))

    def _remembered(self, asked: Asked, taken: Taken) -> Claim:
        """Return the claim; what was claimed for sure is remembered, so that its end needs no reading."""
        if taken.claim.is_session_lost:
            self.forget(asked.session)
        held = (
            (job.id, (row[PLACE_SEQ], job.queue, job.attempt, job.claimed_at))
            for row, job in zip(taken.rows, taken.claim.jobs, strict=True)
            if not row[PLACE_IS_PARENT]
        )
        if taken.claim.jobs:
            self._holdings.remember(asked.session, taken.server, held)
        return taken.claim
