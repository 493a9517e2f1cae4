"""The verbs that run for every job, and which of them are plain: what most jobs are, done a shorter way.

A plain job asks for nothing; a plain end is a success that the storage hears of the first time. What a
session has claimed through this process is remembered, so that its plain ends need no reading.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Generic, TypeVar

import attrs

from firelock.storage import Applied, Claim, ClaimRequest, Exchange, NewJob, Transition
from firelock_sql.claim import PLACE_IS_PARENT, PLACE_SEQ, TakenRows, Turns, take_jobs
from firelock_sql.insert import insert_jobs
from firelock_sql.settle import apply_transitions
from firelock_sql.statements import Text, Value
from firelock_sql.transaction import Database, Transaction

__all__ = ["KIND", "SETTLE", "Held", "Holdings", "JobEngine", "Parted", "kind", "settle_values"]

KIND = ("queue", "priority", "task", "serializer")  # as a rule the same for every job of a batch
kind = attrgetter(*KIND)

# Settles one plain end, guarded by all that its claim knew; run once an end, by drivers that take many. The
# id is asked for too: a number is given out again after the last row was pruned.
SETTLE = Text("""
UPDATE firelock_jobs
SET state = 'succeeded', changed_at = :at, ended_at = :at_again, started_at = :started_at,
    expires_at = :expires_at, result = :result, result_absent = :result_absent, is_plain_end = 1,
    session = NULL, reason = NULL, due_at = NULL
WHERE seq = :seq AND id = :id AND session = :holder AND fence = :token AND state = 'processing'
    AND is_parent = 0
""")


def settle_values(end: Transition, held: Held) -> tuple[Value, ...]:
    """Return the parameters of `SETTLE`."""
    return (
        end.at, end.at, end.started_at, end.expires_at, end.result, end.result_absent, held[0], end.job_id,
        end.session, end.fence,
    )  # fmt: skip


Held = tuple[int, str, int, int]
"""Of a claimed job: seq, queue, attempt, claimed_at."""


@attrs.define
class _Holding:
    server: str
    jobs: dict[str, Held] = attrs.field(factory=dict)


@attrs.define
class Parted:
    """Transitions, parted: plain ends, and the places of all others."""

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
        if holding is None or not transition.is_plain_success or transition.server != holding.server:
            return None
        held = holding.jobs.get(transition.job_id)
        if held is None or transition.started_at is None:
            return None
        is_current = transition.attempt == held[2] and transition.claimed_at == held[3]
        return held if is_current else None

    def parted(self, transitions: Sequence[Transition], session: str | None) -> Parted:
        """Return the plain ends of one session, whichever comes first if none is given, apart from others.

        None is plain where a job is there twice: the order counts.
        """
        if len({one.job_id for one in transitions}) < len(transitions):
            return Parted([], list(range(len(transitions))))
        parted = Parted()
        for place, transition in enumerate(transitions):
            held = self.plainly_held(transition)
            if held is None or transition.session != (session or transition.session):
                parted.others.append(place)
            else:
                session = transition.session
                parted.plain.append((transition, held))
        return parted

    def let_go(self, transitions: Iterable[Transition]) -> None:
        """The transitions are stored, whatever became of them."""
        for transition in transitions:
            holding = self._of.get(transition.session) if transition.session is not None else None
            if holding is not None:
                holding.jobs.pop(transition.job_id, None)


_D = TypeVar("_D", bound=Database)


class JobEngine(ABC, Generic[_D]):
    """`insert`, `claim`, `apply` and `exchange` of one database, in the fastest form that it has."""

    def __init__(self, database: _D) -> None:
        self._database = database
        self._holdings = Holdings()
        self._turns = Turns()

    def forget(self, session: str | None = None) -> None:
        """The session has ended, or all have: what it held is not settled from memory any more."""
        self._holdings.forget(session)

    @abstractmethod
    def insert(self, batch: Sequence[NewJob]) -> list[bool]:
        """See `Storage.insert`."""

    def insert_any(self, batch: Sequence[NewJob]) -> list[bool]:
        """Return which of the jobs are new, whatever jobs they are."""
        return self._database.write(lambda tx: insert_jobs(tx, self._database, batch))

    @abstractmethod
    def claim(self, request: ClaimRequest) -> Claim:
        """See `Storage.claim`; a look that finds nothing takes no lock."""

    def apply(self, transitions: Sequence[Transition]) -> list[Applied]:
        """See `Storage.apply`."""
        if not transitions:
            return []
        results = self.settle(transitions)
        self._holdings.let_go(transitions)
        return results

    @abstractmethod
    def settle(self, transitions: Sequence[Transition]) -> list[Applied]:
        """Return the results; plain ends are written without reading, others by way of their rows."""

    def exchange(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """See `Storage.exchange`."""
        if not transitions:
            return Exchange([], self.claim(request))
        self._database.looks_for_work(request.queues)
        return self.settle_and_claim(transitions, request)

    @abstractmethod
    def settle_and_claim(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """Return what became of the transitions and of the claim.

        What has ended is let go before what is claimed is remembered: it may be the same job.
        """

    def take(self, tx: Transaction, request: ClaimRequest) -> TakenRows:
        """Return what the session has claimed, by the statements that serve every database."""
        return take_jobs(tx, self._database, request, self._turns)

    def apply_rest(
        self, tx: Transaction, transitions: Sequence[Transition], places: Sequence[int]
    ) -> list[Applied]:
        """Return the results of all; those at these places are applied now, the others are already."""
        results = [Applied.APPLIED] * len(transitions)
        if places:
            found = apply_transitions(tx, self._database, [transitions[place] for place in places])
            for place, result in zip(places, found, strict=True):
                results[place] = result
        return results

    def remembered(self, request: ClaimRequest, taken: TakenRows) -> Claim:
        """Return the claim; what was claimed for sure is remembered, so that its end needs no reading."""
        if taken.claim.is_session_lost:
            self.forget(request.session)
        held = (
            (job.id, (row[PLACE_SEQ], job.queue, job.attempt, job.claimed_at))
            for row, job in zip(taken.rows, taken.claim.jobs, strict=True)
            if not row[PLACE_IS_PARENT]
        )
        if taken.claim.jobs:
            self._holdings.remember(request.session, taken.server, held)
        return taken.claim
