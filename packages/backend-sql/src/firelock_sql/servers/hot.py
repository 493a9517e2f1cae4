"""The verbs that run for every job, where transactions run side by side: each in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from firelock.storage import Applied, Claim, Exchange, NewJob, StorageError, StorageUnavailable, Transition
from firelock_sql.apply import apply_transitions
from firelock_sql.claiming import Turns, has_ready, living_server, next_due_at, serving
from firelock_sql.insert import insert_jobs
from firelock_sql.taking import Asked, take_jobs

if TYPE_CHECKING:
    from firelock_sql.database import Transaction
    from firelock_sql.servers.database import ServerDatabase

__all__ = ["ServerHot"]


class ServerHot:
    """`insert`, `claim`, `apply` and `exchange` of one database."""

    def __init__(self, database: ServerDatabase) -> None:
        self._database = database
        self._turns = Turns()

    def forget(self, session: str | None = None) -> None:
        """Nothing is remembered here."""

    def insert(self, batch: Sequence[NewJob]) -> list[bool]:
        """See `Storage.insert`."""
        return self._database.write(lambda tx: insert_jobs(tx, self._database, batch)) if batch else []

    def claim(self, queues: Sequence[str] | None, limit: int, session: str, now: int) -> Claim:
        """See `Storage.claim`; a look that finds nothing takes no lock."""
        self._database.looks_for_work(queues)
        asked = Asked(queues, limit, session, now)
        return self.look(asked) or self.take(asked)

    def look(self, asked: Asked) -> Claim | None:
        """Return the claim where it takes nothing, None where there may be work."""
        return self._database.read(lambda tx: _look(tx, asked))

    def take(self, asked: Asked) -> Claim:
        """Return the claim of what is there now."""
        return self._database.write(lambda tx: self._claim(tx, asked))

    def _claim(self, tx: Transaction, asked: Asked) -> Claim:
        return take_jobs(tx, self._database, asked, self._turns).claim

    def apply(self, transitions: Sequence[Transition]) -> list[Applied]:
        """See `Storage.apply`."""
        if not transitions:
            return []
        return self._database.write(lambda tx: apply_transitions(tx, self._database, transitions))

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
        asked = Asked(queues, limit, session, now)

        def both(tx: Transaction) -> Exchange:
            serving(tx, session)  # locked before the jobs are, as by who ends a session
            return Exchange(apply_transitions(tx, self._database, transitions), self._claim(tx, asked))

        try:
            return self._database.write(both)
        except StorageUnavailable:
            raise
        except StorageError:
            return Exchange(self.apply(transitions), self.claim(queues, limit, session, now))


def _look(tx: Transaction, asked: Asked) -> Claim | None:
    """Return the claim where it takes nothing, None where there may be work."""
    if living_server(tx, asked.session) is None:
        return Claim([], next_due_at(tx), is_session_lost=True)
    if asked.limit > 0 and has_ready(tx, asked.queues):
        return None
    return Claim([], next_due_at(tx))
