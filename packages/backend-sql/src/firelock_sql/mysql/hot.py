"""The verbs that run for every job, on MySQL and MariaDB: plain ones with as few round trips as there are.

A batch of plain ends is one UPDATE joined to a table of their values, without reading the jobs first; jobs
are stored without asking which are known, since a known one is refused by the server anyway. What is out of
the ordinary is done by `insert.insert_jobs`, `apply.apply_transitions` and `taking.take_jobs`; both ways end
the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import attrs
from sqlalchemy import bindparam, insert, literal_column, select
from sqlalchemy.sql.elements import ColumnElement
from typing_extensions import override

from firelock.storage import (
    Applied,
    Claim,
    Exchange,
    NewJob,
    State,
    StorageUnavailable,
    Transition,
)
from firelock_sql.apply import apply_transitions
from firelock_sql.claiming import SERVING
from firelock_sql.insert import insert_jobs, insert_new
from firelock_sql.mysql.claims import Claims, cursor_of
from firelock_sql.mysql.clock import CLOCK
from firelock_sql.plain import SETTLE, SETTLE_ORDER, Clash, Held, are_plain
from firelock_sql.servers.hot import ServerHot
from firelock_sql.statements import Statement, among
from firelock_sql.tables import ONE, by_id, jobs, text_literal
from firelock_sql.taking import Asked, Taken

if TYPE_CHECKING:
    from firelock_sql.database import Transaction
    from firelock_sql.mysql.courier import Answer
    from firelock_sql.servers.database import ServerDatabase
    from firelock_sql.statements import Parameter

__all__ = ["MysqlHot"]

_ENQUEUED, _PROCESSING, _SUCCEEDED = (
    State.ENQUEUED.value,
    State.PROCESSING.value,
    State.SUCCEEDED.value,
)


def _insert(**values: ColumnElement[Any]) -> Statement:
    """Return the statement that stores one plain job."""
    return Statement(insert(jobs).values(state=text_literal(_ENQUEUED), **values))


_CLOCK: ColumnElement[int] = literal_column(CLOCK)
_INSERT = _insert(
    id=bindparam("new_id"),
    queue=bindparam("new_queue"),
    priority=bindparam("new_priority"),
    enqueued_at=_CLOCK + bindparam("offset"),
    changed_at=bindparam("new_changed_at"),
    task=bindparam("new_task"),
    arguments=bindparam("new_arguments"),
    serializer=bindparam("new_serializer"),
    created_at=bindparam("new_created_at"),
)
_INSERT_ORDER = (
    "new_id", "new_queue", "new_priority", "offset", "new_changed_at", "new_task", "new_arguments",
    "new_serializer", "new_created_at",
)  # fmt: skip
# What all jobs of a batch have alike is told once: to write nine values a job is half of the client's time.
_ALIKE = ("queue", "priority", "task", "serializer", "created_at")
_alike = attrgetter(*_ALIKE)
_TELL_ALIKE = f"SET {', '.join(f'@new_{name} = %s' for name in _ALIKE)}, @new_now = {CLOCK} + %s"
_INSERT_ALIKE = _insert(
    id=bindparam("new_id"),
    queue=literal_column("@new_queue"),
    priority=literal_column("@new_priority"),
    enqueued_at=literal_column("@new_now"),
    changed_at=literal_column("@new_created_at"),
    task=literal_column("@new_task"),
    arguments=bindparam("new_arguments"),
    serializer=literal_column("@new_serializer"),
    created_at=literal_column("@new_created_at"),
)

_LOCK = Statement(
    by_id(select(ONE).select_from(jobs))
    .where(among(jobs.c.id, "ids"))
    .order_by(jobs.c.id)
    .with_for_update(key_share=True)
)


@attrs.frozen
class _Settled:
    """Plain ends on their way to the server."""

    tx: Transaction
    number: int
    answers: Sequence[Answer]

    def check(self) -> None:
        """Every one of them was settled.

        Raises:
            Clash: one was not.
        """
        if any(answer.rowcount < 0 for answer in self.answers):
            cursor_of(self.tx).send()
        if sum(answer.rowcount for answer in self.answers) != self.number:
            raise Clash


class MysqlHot(ServerHot["ServerDatabase"]):
    """`insert`, `claim`, `apply` and `exchange` of one database."""

    def __init__(self, database: ServerDatabase) -> None:
        super().__init__(database)
        self._claims = Claims()

    # ---- insert ------------------------------------------------------------------------------------------

    @override
    def insert(self, batch: Sequence[NewJob]) -> list[bool]:
        """See `Storage.insert`; one round trip where the jobs are plain and none is known."""
        if not batch:
            return []
        if not any(job.parents for job in batch):
            tries = count()
            try:
                self._database.write(lambda tx: self._insert_unknown(tx, batch, next(tries)))
            except Clash:
                pass
            else:
                return [True] * len(batch)
        return self._insert_any(batch)

    def _insert_unknown(self, tx: Transaction, batch: Sequence[NewJob], tries: int) -> None:
        if tx.is_again:
            self._insert_again(tx, batch)
        elif tries:  # a key was known, or somebody was in the way
            raise Clash
        elif are_plain(batch):
            self._insert_plain(tx, batch)
        else:
            insert_new(tx, self._database, batch)

    def _insert_again(self, tx: Transaction, batch: Sequence[NewJob]) -> None:
        """The jobs are stored, unless one is: by the first try perhaps, perhaps long before.

        Raises:
            StorageUnavailable: one is, and so nobody can tell whether it is new.
        """
        if not all(insert_jobs(tx, self._database, batch)):
            message = f"{self._database.name}: the connection was lost; the jobs may have been stored."
            raise StorageUnavailable(message)

    def _insert_plain(self, tx: Transaction, batch: Sequence[NewJob]) -> None:
        tx.may_repeat = True  # a job that is stored already is known then
        if len(batch) > 1 and len(set(map(_alike, batch))) == 1:
            cursor_of(tx).put(_TELL_ALIKE, [*_alike(batch[0]), self._database.clock_offset])
            text = _INSERT_ALIKE.text(tx.dialect, "new_id", "new_arguments")
            tx.cursor.executemany(text, [(job.id, job.arguments) for job in batch])
        else:
            tx.cursor.executemany(_INSERT.text(tx.dialect, *_INSERT_ORDER), self._inserted(batch))
        for queue, number in Counter(job.queue for job in batch).items():
            tx.deltas[_ENQUEUED, queue] += number
            tx.woken.add(queue)

    def _inserted(self, batch: Sequence[NewJob]) -> list[Sequence[Parameter]]:
        offset = self._database.clock_offset
        return [
            (
                job.id, job.queue, job.priority, offset, job.created_at, job.task, job.arguments,
                job.serializer, job.created_at,
            )
            for job in batch
        ]  # fmt: skip

    # ---- claim -------------------------------------------------------------------------------------------

    @override
    def claim(self, queues: Sequence[str] | None, limit: int, session: str, now: int) -> Claim:
        """See `Storage.claim`; a look that finds nothing takes no lock, and is one round trip."""
        self._database.looks_for_work(queues)
        asked = Asked(queues, limit, session, now)
        idle = self._database.read(lambda tx: self._claims.look(tx, asked))
        if idle is None:
            return self._remembered(asked, self._database.write(lambda tx: self._take(tx, asked)))
        if idle.is_session_lost:
            self.forget(session)
        return idle

    def _take(self, tx: Transaction, asked: Asked) -> Taken:
        return self._claims.take(tx, self._database, asked)

    # ---- apply -------------------------------------------------------------------------------------------

    @override
    def _apply_fast(self, transitions: Sequence[Transition]) -> list[Applied]:
        def settle(tx: Transaction) -> list[Applied]:
            results, settled = self._put_ends(tx, transitions)
            settled.check()
            return results

        return self._database.write(settle)

    def _put_ends(self, tx: Transaction, transitions: Sequence[Transition]) -> tuple[list[Applied], _Settled]:
        """Return the results, if what settles the plain ones turns out to have changed them all."""
        batch = self._holdings.parted(transitions, None)
        if not batch.plain:
            return apply_transitions(tx, self._database, transitions), _Settled(tx, 0, [])
        results = [Applied.APPLIED] * len(transitions)
        if batch.others:
            ids = [transition.job_id for transition in transitions]
            if len(set(ids)) < len(ids):
                raise Clash
            tx.all(_LOCK, {"ids": self._database.among(ids)})  # all in one order, as everywhere
        settled = self._settle(tx, batch.plain)
        if batch.others:
            others = [transitions[place] for place in batch.others]
            found = apply_transitions(tx, self._database, others)
            for place, result in zip(batch.others, found, strict=True):
                results[place] = result
        return results, settled

    def _settle(self, tx: Transaction, plain: Sequence[tuple[Transition, Held]]) -> _Settled:
        rows: list[Sequence[Parameter]] = [
            (
                end.at, end.at, end.started_at, end.expires_at, end.result, end.result_absent, seq,
                end.job_id, end.session, end.fence,
            )
            for end, (seq, *_) in plain
        ]  # fmt: skip
        answers = cursor_of(tx).executemany(SETTLE.text(tx.dialect, *SETTLE_ORDER), rows)
        for queue, number in Counter(queue for _, (_, queue, *_) in plain).items():
            tx.deltas[_PROCESSING, queue] -= number
            tx.deltas[_SUCCEEDED, queue] += number
        return _Settled(tx, len(rows), answers)

    # ---- exchange ----------------------------------------------------------------------------------------

    @override
    def _exchange(self, transitions: Sequence[Transition], asked: Asked) -> Exchange:
        def lock_session(tx: Transaction) -> None:
            """It is locked before the jobs are, as by who ends a session."""
            cursor_of(tx).put(*SERVING.bind(tx.dialect, {"session": asked.session}))

        def fast(tx: Transaction) -> tuple[list[Applied], Taken]:
            lock_session(tx)
            results, settled = self._put_ends(tx, transitions)
            taken = self._take(tx, asked)
            settled.check()
            return results, taken

        def slow(tx: Transaction) -> tuple[list[Applied], Taken]:
            lock_session(tx)
            return apply_transitions(tx, self._database, transitions), self._take(tx, asked)

        try:
            results, taken = self._database.write(fast)
        except Clash:
            results, taken = self._database.write(slow)
        self._holdings.let_go(transitions)
        return Exchange(results, self._remembered(asked, taken))
