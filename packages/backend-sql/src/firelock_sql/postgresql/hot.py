"""The verbs that run for every job, on PostgreSQL: plain ones in one statement, which is one round trip.

On a connection of our own, without a pooler between, that statement is the transaction. Anywhere else it
runs within one that sets its limits. What is out of the ordinary is done by `insert.insert_jobs`,
`apply.apply_transitions` and `taking.take_jobs`; both ways end the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat, zip_longest
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from psycopg.errors import UniqueViolation
from sqlalchemy import select
from typing_extensions import override

from firelock.storage import (
    Applied,
    Claim,
    ClaimedJob,
    Exchange,
    NewJob,
    Transition,
)
from firelock_sql.apply import apply_transitions
from firelock_sql.claiming import Turns, claimed_job, serving
from firelock_sql.plain import KIND, Clash, Held, are_plain, kind
from firelock_sql.postgresql.arrays import number_array, text_array
from firelock_sql.postgresql.hot_statements import exchange_text, insert_text
from firelock_sql.postgresql.lanes import Lanes, Look
from firelock_sql.servers.hot import ServerHot
from firelock_sql.statements import Statement, among
from firelock_sql.tables import ONE, jobs
from firelock_sql.taking import Asked, Taken, take_jobs

if TYPE_CHECKING:
    from firelock_sql.database import Transaction
    from firelock_sql.postgresql.database import PostgresqlDatabase

__all__ = ["PostgresqlHot"]

_T = TypeVar("_T")
_LOCK = Statement(
    select(ONE)
    .select_from(jobs)
    .where(among(jobs.c.id, "ids"))
    .order_by(jobs.c.id)
    .with_for_update(key_share=True)
)
_MOST, _MOST_EVER = 512, 1 << 30  # what a claim may take as a rule, and at all
# Places in the answer to a claim.
_SERVER, _DUE, _OPEN, _LOOKED, _FIRST = 0, 1, 2, 3, 4
_QUEUE, _PRIORITY, _ENQUEUED_AT, _SEQ, _IS_PARENT = 8, 9, 15, 22, 23
_IN_LANE = itemgetter(_QUEUE, _PRIORITY, _ENQUEUED_AT, _SEQ)


class PostgresqlHot(ServerHot["PostgresqlDatabase"]):
    """`insert`, `claim`, `apply` and `exchange` of one database."""

    def __init__(self, database: PostgresqlDatabase) -> None:
        super().__init__(database)
        self._turns = Turns()
        self._lanes = Lanes()

    def _run(self, work: Callable[[Any], _T]) -> _T:
        """The work, one statement run by a cursor, is committed as one transaction."""
        if self._database.is_direct:
            return self._database.at_once(work)
        return self._database.write(lambda tx: work(tx.cursor))

    # ---- insert ------------------------------------------------------------------------------------------

    @override
    def insert(self, batch: Sequence[NewJob]) -> list[bool]:
        """See `Storage.insert`."""
        if not batch:
            return []
        if are_plain(batch):
            try:
                self._insert_plain(batch)
            except Clash:
                pass
            else:
                return [True] * len(batch)
        return self._insert_any(batch)

    def _insert_plain(self, batch: Sequence[NewJob]) -> None:
        kinds = Counter(map(kind, batch))
        is_uniform = len(kinds) == 1
        queues = Counter({queue: 0 for queue, *_ in kinds})
        for (queue, *_), number in kinds.items():
            queues[queue] += number
        common: dict[str, object] = {
            "offset": self._database.clock_offset,
            "queues": text_array(list(queues)),
            "numbers": number_array(list(queues.values())),
        }
        if is_uniform:
            common |= zip(KIND, kind(batch[0]), strict=True)
        text = insert_text(self._database.dialect, is_uniform=is_uniform)
        orders = _orders(batch)

        def store(cursor: Any) -> None:  # noqa: ANN401 - psycopg's, of whatever rows
            try:
                cursor.execute(text, common | _stored(next(orders), is_uniform=is_uniform))
            except UniqueViolation as error:
                raise Clash from error

        self._run(store)
        self._database.tell(set(queues))

    # ---- claim -------------------------------------------------------------------------------------------

    @override
    def claim(self, queues: Sequence[str] | None, limit: int, session: str, now: int) -> Claim:
        """See `Storage.claim`; a look that finds nothing writes nothing."""
        self._database.looks_for_work(queues)
        look = self._lanes.look(Asked(queues, limit, session, now))
        rows = self._run(lambda cursor: self._fetch(cursor, look, []))
        return self._topped_up(self._kept(look, rows), rows, look)

    def _fetch(
        self,
        cursor: Any,  # noqa: ANN401 - see above
        look: Look | None,
        plain: Sequence[tuple[Transition, Held]],
    ) -> list[Any]:
        """Return the answer to one statement that settles, claims or both."""
        values: dict[str, object] = {}
        if look is not None:
            asked = look.asked
            values = {
                "session": asked.session, "queues": text_array(list(dict.fromkeys(asked.queues or ()))),
                "limit": max(asked.limit, 0), "now": asked.now, "served": self._turns.last,
            }  # fmt: skip
            if look.probes is not None:
                values |= look.values
        if plain:
            values |= {"session": plain[0][0].session} | _ended(plain)
        text = exchange_text(
            self._database.dialect,
            settles=bool(plain),
            claims=look is not None,
            names_queues=look is not None and look.asked.queues is not None,
            is_short=look is not None and look.probes is not None,
            most=_MOST if look is None or look.asked.limit <= _MOST else _MOST_EVER,
        )
        cursor.execute(text, values, prepare=self._database.is_direct)
        found: list[Any] = cursor.fetchall()
        return found

    def _kept(self, look: Look, rows: list[Any]) -> Claim:
        """Return the answer as a claim; what was claimed for sure is remembered."""
        server, next_due_at, _, looked = rows[0][:_FIRST]
        asked = look.asked
        if server is None:
            self.forget(asked.session)
            return Claim([], next_due_at, is_session_lost=True)
        if rows[0][_FIRST] is None:
            self._lanes.looked(look, [], looked)
            return Claim([], next_due_at)
        self._lanes.looked(look, [_IN_LANE(row) for row in rows], looked)
        rows = self._in_order(asked, rows)
        claimed = [claimed_job(row[_FIRST:_SEQ]) for row in rows]
        self._remember(
            asked.session,
            server,
            [(job, row[_SEQ]) for row, job in zip(rows, claimed, strict=True) if not row[_IS_PARENT]],
        )
        return Claim(claimed, next_due_at)

    def _in_order(self, asked: Asked, rows: list[Any]) -> list[Any]:
        """Return the claimed rows in the order to run them: queue by queue as named, or by turns."""
        rows.sort(key=lambda row: (-row[_PRIORITY], row[_ENQUEUED_AT], row[_SEQ]))
        if asked.queues is not None:
            if len(asked.queues) > 1:
                places = {name: place for place, name in enumerate(dict.fromkeys(asked.queues))}
                rows.sort(key=lambda row: places[row[_QUEUE]])
            return rows
        of: dict[str, list[Any]] = {}
        for row in rows:
            of.setdefault(row[_QUEUE], []).append(row)
        if len(of) > 1:
            turns = [of[name] for name in self._turns.of(sorted(of))]
            rows = [row for row in chain.from_iterable(zip_longest(*turns)) if row is not None]
        self._turns.served(rows[-1][_QUEUE])
        return rows

    def _topped_up(self, claim: Claim, rows: list[Any], look: Look) -> Claim:
        """Return the claim with what some queues have beyond their share and others have left to them."""
        asked = look.asked
        left = asked.limit - len(claim.jobs)
        if asked.queues is not None or look.probes is not None or not claim.jobs or left <= 0:
            return claim
        number = rows[0][_OPEN]
        share = -(-asked.limit // number)
        if number == 1 or max(Counter(job.queue for job in claim.jobs).values()) < share:
            return claim
        more = attrs.evolve(asked, limit=left)
        rest = self._remembered(more, self._database.write(lambda tx: self._take(tx, more)))
        return Claim([*claim.jobs, *rest.jobs], claim.next_due_at)

    def _take(self, tx: Transaction, asked: Asked) -> Taken:
        return take_jobs(tx, self._database, asked, self._turns)

    def _remember(self, session: str, server: str, claimed: Iterable[tuple[ClaimedJob, int]]) -> None:
        """The jobs, each with its number, were claimed for sure: their ends need no reading."""
        held = ((job.id, (seq, job.queue, job.attempt, job.claimed_at)) for job, seq in claimed)
        self._holdings.remember(session, server, held)

    # ---- apply -------------------------------------------------------------------------------------------

    @override
    def _apply_fast(self, transitions: Sequence[Transition]) -> list[Applied]:
        results, _ = self._done_fast(transitions, None)
        return results

    def _done_fast(
        self, transitions: Sequence[Transition], look: Look | None
    ) -> tuple[list[Applied], list[Any]]:
        """Return what became of the transitions, and the answer to a claim beside them.

        Ends that turn out not to be plain, as of a job that is a parent by now, are applied after the others.

        Raises:
            Clash: nothing of it was done, and the long way has to be taken.
        """
        batch = self._holdings.parted(transitions, None if look is None else look.asked.session)
        results = [Applied.APPLIED] * len(transitions)
        if not batch.plain or len({one.job_id for one in transitions}) < len(transitions):
            raise Clash
        places = {one.job_id: place for place, one in enumerate(transitions)}

        def left_by(rows: list[Any]) -> list[int]:
            return sorted([*batch.others, *(places[id] for id in _unsettled(batch.plain, rows))])

        def rest(tx: Transaction, left: Sequence[int]) -> None:
            found = apply_transitions(tx, self._database, [transitions[place] for place in left])
            for place, result in zip(left, found, strict=True):
                results[place] = result

        def both(tx: Transaction) -> list[Any]:
            serving(tx, str(batch.plain[0][0].session))
            tx.all(_LOCK, {"ids": [one.job_id for one in transitions]})
            rest(tx, left_by(self._fetch(tx.cursor, None, batch.plain)))
            return [] if look is None else self._fetch(tx.cursor, look, [])

        if batch.others:
            return results, self._database.write(both)
        rows = self._run(lambda cursor: self._fetch(cursor, look, batch.plain))
        if left := left_by(rows):
            self._database.write(lambda tx: rest(tx, left))
        return results, rows

    # ---- exchange ----------------------------------------------------------------------------------------

    @override
    def _exchange(self, transitions: Sequence[Transition], asked: Asked) -> Exchange:
        def both(tx: Transaction) -> tuple[list[Applied], Taken]:
            serving(tx, asked.session)  # locked before the jobs are, as by who ends a session
            return apply_transitions(tx, self._database, transitions), self._take(tx, asked)

        look = self._lanes.look(asked)
        try:
            results, rows = self._done_fast(transitions, look)
        except Clash:
            results, taken = self._database.write(both)
            self._holdings.let_go(transitions)
            return Exchange(results, self._remembered(asked, taken))
        self._holdings.let_go(transitions)
        return Exchange(results, self._topped_up(self._kept(look, rows), rows, look))


def _unsettled(plain: Sequence[tuple[Transition, Held]], rows: list[Any]) -> list[str]:
    """Return the ids of the jobs that the statement has left alone."""
    settled = rows[0][-1]
    if settled is None:
        return []
    found = frozenset(settled)
    return [end.job_id for end, held in plain if held[0] not in found]


def _orders(batch: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """Yield the jobs as they are given; from then on, as others store some too, in everybody's order."""
    yield batch
    yield from repeat(sorted(batch, key=attrgetter("id")))


def _stored(batch: Sequence[NewJob], *, is_uniform: bool) -> dict[str, object]:
    """Return what an insert is told of each job."""
    values: dict[str, object] = {
        "id": text_array([job.id for job in batch]),
        "arguments": text_array([job.arguments for job in batch]),
        "at": number_array([job.created_at for job in batch]),
    }
    if not is_uniform:
        for name, column in zip(KIND, zip(*map(kind, batch), strict=True), strict=True):
            values[name] = number_array(column) if name == "priority" else text_array(column)
    return values


def _ended(plain: Sequence[tuple[Transition, Held]]) -> dict[str, object]:
    """Return what a settle is told of plain ends."""
    ends = [transition for transition, _ in plain]
    return {
        "seqs": number_array([held[0] for _, held in plain]),
        "ids": text_array([end.job_id for end in ends]),
        "fences": number_array([end.fence for end in ends]),
        "ends": number_array([end.at for end in ends]),
        "starts": number_array([end.started_at for end in ends]),
        "expiries": number_array([end.expires_at for end in ends]),
        "results": text_array([end.result for end in ends]),
        "absent": text_array([end.result_absent for end in ends]),
    }
