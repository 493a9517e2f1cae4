"""The verbs that run for every job, in SQLite's fastest forms.

Measured on one core, µs of processor a job in batches of 100: many rows in one VALUES 2.1 against 3.0 for
executemany (binding costs more than inserting: 17 parameters 4.3, 8 parameters 2.9); a claim as SELECT,
then one UPDATE of all 3.2 against UPDATE … RETURNING 4.0; settling by guarded executemany 2.8 against
reading the rows first 4.5 and UPDATE … FROM (VALUES …) 6.0.

What is out of the ordinary is done by `insert.insert_jobs` and `apply.apply_transitions`; both end the
same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import chain
from operator import attrgetter

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
from firelock_sql.claim import (
    PLACE_IS_PARENT,
    PLACE_SEQ,
    Asked,
    Taken,
    Turns,
    has_ready,
    living_server,
    next_due_at,
    take_jobs,
)
from firelock_sql.insert import insert_jobs
from firelock_sql.job_engine import KIND, SETTLE, SETTLE_ORDER, Clash, Holdings, are_plain, kind
from firelock_sql.settle import apply_transitions
from firelock_sql.sqlite.database import SqliteDatabase
from firelock_sql.statements import Value
from firelock_sql.tables import jobs
from firelock_sql.transaction import Transaction

__all__ = ["SqliteHot"]

_PROCESSING, _SUCCEEDED, _ENQUEUED = State.PROCESSING.value, State.SUCCEEDED.value, State.ENQUEUED.value

_OWN = ("id", "arguments", "created_at")
_own, _kind_and_own = attrgetter(*_OWN), attrgetter(*KIND, *_OWN)
_SIZES = (100, 10, 1)  # rows in one VALUES


class SqliteHot:
    """`insert`, `claim`, `apply` and `exchange` of one database."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._turns = Turns()
        self._holdings = Holdings()

    def forget(self, session: str | None = None) -> None:
        """The session has ended, or all have: what it held is not settled from memory any more."""
        self._holdings.forget(session)

    # ---- insert ------------------------------------------------------------------------------------------

    def insert(self, batch: Sequence[NewJob]) -> list[bool]:
        """See `Storage.insert`."""
        if not batch:
            return []
        if are_plain(batch):
            try:
                self._database.write(lambda tx: self._insert_plain(tx, batch))
            except Clash:
                pass
            else:
                return [True] * len(batch)
        return self._database.write(lambda tx: insert_jobs(tx, self._database, batch))

    def _insert_plain(self, tx: Transaction, batch: Sequence[NewJob]) -> None:
        kinds = Counter(map(kind, batch))
        is_uniform = len(kinds) == 1
        common = [tx.now, *(kind(batch[0]) if is_uniform else ())]
        values = _own if is_uniform else _kind_and_own
        done = stored = 0
        for size in _SIZES:
            text = _many_rows(size, is_uniform=is_uniform)
            while len(batch) - done >= size:
                rows = map(values, batch[done : done + size])
                tx.cursor.execute(text, [*common, *chain.from_iterable(rows)])
                stored += tx.cursor.rowcount
                done += size
        if stored != len(batch):
            raise Clash
        for (queue, *_), number in kinds.items():
            tx.deltas[_ENQUEUED, queue] += number
            tx.woken.add(queue)

    # ---- claim -------------------------------------------------------------------------------------------

    def claim(self, queues: Sequence[str] | None, limit: int, session: str, now: int) -> Claim:
        """See `Storage.claim`; a look that finds nothing takes no lock."""
        self._database.looks_for_work(queues)
        idle = self._database.read(lambda tx: self._look(tx, queues, limit, session))
        if idle is not None:
            return self._kept(session, Taken(idle, [], ""))
        asked = Asked(queues, limit, session, now)
        return self._kept(session, self._database.write(lambda tx: self._claim(tx, asked)))

    def _look(self, tx: Transaction, queues: Sequence[str] | None, limit: int, session: str) -> Claim | None:
        """Return the claim where it takes nothing, None where there may be work."""
        if living_server(tx, session) is None:
            return Claim([], next_due_at(tx), is_session_lost=True)
        if limit > 0 and has_ready(tx, queues):
            return None
        return Claim([], next_due_at(tx))

    def _claim(self, tx: Transaction, asked: Asked) -> Taken:
        return take_jobs(tx, self._database, asked, self._turns)

    def _kept(self, session: str, taken: Taken) -> Claim:
        """What was claimed for sure is remembered, so that its end needs no reading."""
        claim = taken.claim
        if claim.is_session_lost:
            self.forget(session)
        if claim.jobs:
            self._holdings.remember(
                session,
                taken.server,
                (
                    (job.id, (row[PLACE_SEQ], job.queue, job.attempt, job.claimed_at))
                    for row, job in zip(taken.rows, claim.jobs, strict=True)
                    if not row[PLACE_IS_PARENT]
                ),
            )
        return claim

    # ---- apply -------------------------------------------------------------------------------------------

    def apply(self, transitions: Sequence[Transition]) -> list[Applied]:
        """See `Storage.apply`."""
        if not transitions:
            return []
        try:
            results = self._database.write(lambda tx: self._apply_fast(tx, transitions))
        except Clash:
            results = self._database.write(lambda tx: apply_transitions(tx, self._database, transitions))
        self._holdings.let_go(transitions)
        return results

    def _apply_fast(self, tx: Transaction, transitions: Sequence[Transition]) -> list[Applied]:
        """Plain ends are written without reading, others by way of their rows."""
        results = [Applied.APPLIED] * len(transitions)
        plain: list[tuple[Value, ...]] = []
        queues: list[str] = []
        others: list[int] = []
        for place, transition in enumerate(transitions):
            queue = self._plain_end(transition, plain)
            if queue is None:
                others.append(place)
            else:
                queues.append(queue)
        if others and plain and len({transition.job_id for transition in transitions}) < len(transitions):
            raise Clash
        if plain:
            tx.cursor.executemany(SETTLE.text(tx.dialect, *SETTLE_ORDER), plain)
            if tx.cursor.rowcount != len(plain):
                raise Clash
            for queue, number in Counter(queues).items():
                tx.deltas[_PROCESSING, queue] -= number
                tx.deltas[_SUCCEEDED, queue] += number
        if others:
            found = apply_transitions(tx, self._database, [transitions[place] for place in others])
            for place, result in zip(others, found, strict=True):
                results[place] = result
        return results

    def _plain_end(self, transition: Transition, plain: list[tuple[Value, ...]]) -> str | None:
        """Lay the parameters of a plain end with the others; return its queue, None where it is not plain."""
        held = self._holdings.plainly_held(transition)
        if held is None:
            return None
        seq, queue, *_ = held
        at = transition.at
        plain.append(
            (at, at, transition.started_at, transition.expires_at, transition.result,
            transition.result_absent,
             seq, transition.job_id, transition.session, transition.fence)
        )  # fmt: skip
        return queue

    # ---- exchange ----------------------------------------------------------------------------------------

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

        def both(tx: Transaction, *, is_fast: bool) -> tuple[list[Applied], Taken]:
            if is_fast:
                results = self._apply_fast(tx, transitions)
            else:
                results = apply_transitions(tx, self._database, transitions)
            return results, self._claim(tx, asked)

        try:
            try:
                results, taken = self._database.write(lambda tx: both(tx, is_fast=True))
            except Clash:
                results, taken = self._database.write(lambda tx: both(tx, is_fast=False))
        except StorageUnavailable:
            raise
        except StorageError:
            return Exchange(self.apply(transitions), self.claim(queues, limit, session, now))
        self._holdings.let_go(transitions)
        return Exchange(results, self._kept(session, taken))


@cache
def _many_rows(size: int, *, is_uniform: bool) -> str:
    """Return the statement that stores so many plain jobs.

    Its first parameters are `enqueued_at` of all and, where they are uniform, what is common to all.
    """
    common = ["?1", *(f"?{2 + place}" for place in range(len(KIND)))] if is_uniform else ["?1"]
    own = _OWN if is_uniform else (*KIND, *_OWN)
    rows = []
    for first in range(len(common) + 1, len(common) + 1 + size * len(own), len(own)):
        numbers = [f"?{first + place}" for place in range(len(own))]
        # The last of a row, created_at, is bound once and written twice.
        rows.append(f"('{_ENQUEUED}', {', '.join((*common, *numbers, numbers[-1]))})")
    columns = ", ".join(("state", "enqueued_at", *KIND, *_OWN, "changed_at"))
    return f"INSERT INTO {jobs.name} ({columns}) VALUES {', '.join(rows)} ON CONFLICT DO NOTHING"  # noqa: S608 - names
