"""The verbs that run for every job, where transactions run side by side: each in one transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from firelock.storage import Applied, Claim, Exchange, NewJob, StorageError, StorageUnavailable, Transition
from firelock_sql.apply import apply_transitions
from firelock_sql.insert import insert_jobs
from firelock_sql.plain import Clash, Holdings
from firelock_sql.taking import PLACE_IS_PARENT, PLACE_SEQ, Asked, Taken

if TYPE_CHECKING:
    from firelock_sql.servers.database import ServerDatabase

__all__ = ["ServerHot"]

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
