"""The verbs that run for every job, on MySQL and MariaDB, in few round trips.

All that a claim has to know is asked for at once. A server that serves every queue first has to learn which
ones have work. They are nearly always those that had some the last time: they are asked for together, each
one's successor with it, and where these answers are the very same queues, nothing more is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
from sqlalchemy import bindparam, insert, literal_column, select
from sqlalchemy.sql.elements import ColumnElement
from typing_extensions import override

from firelock.storage import (
    Applied,
    Claim,
    ClaimRequest,
    Exchange,
    NewJob,
    State,
    StorageUnavailable,
    Transition,
)
from firelock_sql.claim import (
    DUE,
    FIRING,
    IS_READY,
    NEXT_WITH_WORK,
    PAUSED,
    READY,
    SERVER,
    SERVING,
    ReadyRow,
    ReadyRows,
    TakenRows,
    Turns,
    queues_along_the_ready,
    ready_of,
    rows_in_turn,
    take_rows,
)
from firelock_sql.insert import insert_jobs, insert_new
from firelock_sql.job_engine import SETTLE, JobEngine, settle_values
from firelock_sql.mysql.connect import CLOCK
from firelock_sql.settle import apply_transitions
from firelock_sql.statements import Statement, among
from firelock_sql.tables import ONE, by_id, jobs, text_literal

if TYPE_CHECKING:
    from firelock_sql.mysql.pipeline import TogetherCursor, Written
    from firelock_sql.server_database import ServerDatabase
    from firelock_sql.statements import Parameter
    from firelock_sql.transaction import Transaction

__all__ = [
    "Claims",
    "MysqlEngine",
    "cursor_of",
]

_MOST_GUESSED = 32  # queues; of more each one is asked for by itself
_T = TypeVar("_T")
_COMMIT: Written = ("COMMIT", ())

_Question = tuple["Statement", Mapping[str, object]]


def cursor_of(tx: Transaction) -> TogetherCursor:
    """Return the transaction's cursor, as all of MySQL have one."""
    return cast("TogetherCursor", tx.cursor)


@attrs.frozen
class _Answers:
    """What a claim knows by its first round trip."""

    server: str | None
    paused: frozenset[str]
    next_due_at: int | None
    others: Sequence[Sequence[Any]]  # the rows of what was asked besides


class Claims:
    """Looks for work and takes it."""

    def __init__(self) -> None:
        self._turns = Turns()
        self._guess: list[str] = []  # the queues that had work, in order

    def look(self, tx: Transaction, request: ClaimRequest) -> Claim | None:
        """Return the claim where it takes nothing, None where there may be work; end the transaction."""
        names = _once_each(request.queues)
        questions: list[_Question] = [(NEXT_WITH_WORK, {"former": ""})]
        if names is not None:
            questions = [(IS_READY, {"queue": name}) for name in names]
        known = _ask(tx, SERVER, request, questions, is_last=True)
        if known.server is None:
            return Claim([], known.next_due_at, is_session_lost=True)
        if request.limit > 0 and _may_have_work(names, known):
            return None
        return Claim([], known.next_due_at)

    def find(self, tx: Transaction, request: ClaimRequest) -> ReadyRows:
        """Return what the session may take, locked."""
        names = _once_each(request.queues)
        if names is None:
            known, rows = self._ready_of_all(tx, request)
        else:
            known, rows = _ready_of_some(tx, request, names)
        return ReadyRows(known.server, rows, known.next_due_at)

    def _ready_of_all(self, tx: Transaction, request: ClaimRequest) -> tuple[_Answers, Sequence[ReadyRow]]:
        guess = self._guess
        questions: list[_Question] = [(NEXT_WITH_WORK, {"former": name}) for name in ["", *guess]]
        if len(guess) == 1:
            questions.append((READY, {"queue": guess[0], "most": request.limit}))
        known = _ask(tx, SERVING, request, questions if request.limit > 0 else [])
        if known.server is None or request.limit <= 0:
            return known, []
        found = [str(rows[0][0]) if rows else None for rows in known.others[: len(guess) + 1]]
        is_right = found == [*guess, None]
        names = guess if is_right else queues_along_the_ready(tx)
        self._guess = names if len(names) <= _MOST_GUESSED else []
        opened = [name for name in names if name not in known.paused]
        if is_right and opened == guess and len(guess) == 1:
            return known, known.others[-1]
        return known, rows_in_turn(tx, self._turns.of(opened), request.limit, self._turns)


def _ready_of_some(
    tx: Transaction, request: ClaimRequest, names: Sequence[str]
) -> tuple[_Answers, Sequence[ReadyRow]]:
    """Return the rows of the queues in their order; those of the first are asked for with all else."""
    questions: list[_Question] = [(READY, {"queue": name, "most": request.limit}) for name in names[:1]]
    known = _ask(tx, SERVING, request, questions if request.limit > 0 else [])
    rows: list[ReadyRow] = []
    if known.server is None or request.limit <= 0:
        return known, rows
    for name in names:
        if len(rows) >= request.limit:
            break
        if name not in known.paused:
            rows += known.others[0] if name == names[0] else ready_of(tx, name, request.limit - len(rows))
    return known, rows


def _may_have_work(names: Sequence[str] | None, known: _Answers) -> bool:
    if names is None:  # the first queue may be a paused one: a claim looks at the others as well
        return any(known.others)
    return any(rows and name not in known.paused for name, rows in zip(names, known.others, strict=True))


def _ask(
    tx: Transaction,
    server: Statement,
    request: ClaimRequest,
    questions: Sequence[_Question],
    *,
    is_last: bool = False,
) -> _Answers:
    """Return what a claim has to know, and the answers to the questions, all in one round trip."""
    every: list[_Question] = [(server, {"session": request.session}), (PAUSED, {}), (DUE, {}), (FIRING, {})]
    written = [statement.bind(tx.dialect, parameters) for statement, parameters in [*every, *questions]]
    found: list[Sequence[Any]] = cursor_of(tx).each([*written, _COMMIT] if is_last else written)
    tx.is_ended = is_last
    living, paused, due, firing, *others = found
    instants = [row[0] for row in (*due, *firing)]
    return _Answers(
        str(living[0][0]) if living else None,
        frozenset(row[0] for row in paused),
        min(instants, default=None),
        others[: len(questions)],
    )


def _once_each(queues: Sequence[str] | None) -> list[str] | None:
    return None if queues is None else list(dict.fromkeys(queues))


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


class MysqlEngine(JobEngine["ServerDatabase"]):
    """`insert`, `claim`, `apply` and `exchange` of one database."""

    def __init__(self, database: ServerDatabase) -> None:
        super().__init__(database)
        self._claims = Claims()

    # ---- insert ------------------------------------------------------------------------------------------

    @override
    def insert(self, batch: Sequence[NewJob]) -> list[bool]:
        """One round trip where the jobs are plain and none is known, which the unique key tells."""
        if not batch:
            return []
        if any(job.parents for job in batch):
            return self.insert_any(batch)
        tries = count()
        return self._database.write(lambda tx: self._insert(tx, batch, is_first=next(tries) == 0))

    def _insert(self, tx: Transaction, batch: Sequence[NewJob], *, is_first: bool) -> list[bool]:
        """Return which are new.

        Raises:
            StorageUnavailable: one is known, by the first try, whose answer was lost, or from long before.
        """
        if not is_first:
            answers = insert_jobs(tx, self._database, batch)
            if tx.is_again and not all(answers):
                message = f"{self._database.name}: the connection was lost; the jobs may have been stored."
                raise StorageUnavailable(message)
            return answers
        if all(job.is_plain for job in batch):
            self._insert_plain(tx, batch)
        else:
            insert_new(tx, self._database, batch)
        return [True] * len(batch)

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
    def claim(self, request: ClaimRequest) -> Claim:
        """A look that finds nothing takes no lock, and is one round trip."""
        self._database.looks_for_work(request.queues)
        idle = self._database.read(lambda tx: self._claims.look(tx, request))
        if idle is not None:
            return self.remembered(request, TakenRows(idle, [], ""))
        return self.remembered(request, self._database.write(lambda tx: self.take(tx, request)))

    @override
    def take(self, tx: Transaction, request: ClaimRequest) -> TakenRows:
        return take_rows(tx, self._database, request, self._claims.find(tx, request))

    # ---- apply -------------------------------------------------------------------------------------------

    @override
    def settle(self, transitions: Sequence[Transition]) -> list[Applied]:
        results, _ = self._database.write(lambda tx: self._settle(tx, transitions, lambda: None))
        return results

    def _settle(
        self, tx: Transaction, transitions: Sequence[Transition], ask: Callable[[], _T]
    ) -> tuple[list[Applied], _T]:
        """Return the results and what `ask` returns, whose questions go with the plain ends.

        Where an end turns out not to be plain, all are applied by way of their rows, and `ask` asks again.
        """
        batch = self._holdings.parted(transitions, None)
        if not batch.plain:
            return apply_transitions(tx, self._database, transitions), ask()
        if batch.others:
            ids = [transition.job_id for transition in transitions]
            tx.all(_LOCK, {"ids": self._database.among(ids)})  # all in one order, as everywhere
        cursor = cursor_of(tx)
        cursor.put("SAVEPOINT plain")
        plain = sorted(batch.plain, key=lambda one: one[0].job_id)
        rows = [settle_values(end, held) for end, held in plain]
        answers = cursor.executemany(SETTLE.compiled(tx.dialect).text, rows)
        deltas = dict(tx.deltas)
        results = self.apply_rest(tx, transitions, batch.others)
        found = ask()
        cursor.send()
        if sum(answer.rowcount for answer in answers) != len(rows):
            cursor.put("ROLLBACK TO SAVEPOINT plain")
            tx.deltas.clear()
            tx.deltas.update(deltas)
            return apply_transitions(tx, self._database, transitions), ask()
        for queue, number in Counter(held[1] for _, held in batch.plain).items():
            tx.deltas[_PROCESSING, queue] -= number
            tx.deltas[_SUCCEEDED, queue] += number
        return results, found

    # ---- exchange ----------------------------------------------------------------------------------------

    @override
    def settle_and_claim(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        def both(tx: Transaction) -> tuple[list[Applied], TakenRows]:
            # The session is locked before the jobs are, as by who ends a session.
            cursor_of(tx).put(*SERVING.bind(tx.dialect, {"session": request.session}))
            results, found = self._settle(tx, transitions, lambda: self._claims.find(tx, request))
            return results, take_rows(tx, self._database, request, found)

        results, taken = self._database.write(both)
        self._holdings.let_go(transitions)
        return Exchange(results, self.remembered(request, taken))
