"""Claims in few round trips: all that a claim has to know is asked for at once.

A server that serves every queue first has to learn which ones have work. They are nearly always those that
had some the last time: they are asked for together, each one's successor with it, and where these answers
are the very same queues, nothing more is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs

from firelock.storage import Claim
from firelock_sql.claiming import (
    DUE,
    FIRING,
    IS_READY,
    NEXT_WITH_WORK,
    PAUSED,
    READY,
    SERVER,
    SERVING,
    ReadyRow,
    Turns,
    queues_along_the_ready,
    ready_of,
    rows_in_turn,
)
from firelock_sql.taking import Asked, Found, Taken, lost, take_rows

if TYPE_CHECKING:
    from firelock_sql.database import Database, Transaction
    from firelock_sql.mysql.courier import Written
    from firelock_sql.mysql.together import TogetherCursor
    from firelock_sql.statements import Statement

__all__ = ["Claims", "cursor_of"]

_MOST_GUESSED = 32  # queues; of more each one is asked for by itself
_COMMIT: Written = ("COMMIT", ())

_Question = tuple["Statement", Mapping[str, object]]


def cursor_of(tx: Transaction) -> TogetherCursor:
    """Return the transaction's cursor, as all of MySQL have one."""
    return cast("TogetherCursor", tx.cursor)


@attrs.frozen
class _Known:
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

    def look(self, tx: Transaction, asked: Asked) -> Claim | None:
        """Return the claim where it takes nothing, None where there may be work; end the transaction."""
        names = _once_each(asked.queues)
        questions: list[_Question] = [(NEXT_WITH_WORK, {"former": ""})]
        if names is not None:
            questions = [(IS_READY, {"queue": name}) for name in names]
        known = _ask(tx, SERVER, asked, questions, is_last=True)
        if known.server is None:
            return Claim([], known.next_due_at, is_session_lost=True)
        if asked.limit > 0 and _may_have_work(names, known):
            return None
        return Claim([], known.next_due_at)

    def take(self, tx: Transaction, database: Database, asked: Asked) -> Taken:
        """Return what the session has claimed."""
        names = _once_each(asked.queues)
        if names is None:
            known, rows = self._ready_of_all(tx, asked)
        else:
            known, rows = _ready_of_some(tx, asked, names)
        if known.server is None:
            return lost(known.next_due_at)
        return take_rows(tx, database, asked, Found(known.server, rows, known.next_due_at))

    def _ready_of_all(self, tx: Transaction, asked: Asked) -> tuple[_Known, Sequence[ReadyRow]]:
        guess = self._guess
        questions: list[_Question] = [(NEXT_WITH_WORK, {"former": name}) for name in ["", *guess]]
        if len(guess) == 1:
            questions.append((READY, {"queue": guess[0], "most": asked.limit}))
        known = _ask(tx, SERVING, asked, questions if asked.limit > 0 else [])
        if known.server is None or asked.limit <= 0:
            return known, []
        found = [str(rows[0][0]) if rows else None for rows in known.others[: len(guess) + 1]]
        is_right = found == [*guess, None]
        names = guess if is_right else queues_along_the_ready(tx)
        self._guess = names if len(names) <= _MOST_GUESSED else []
        opened = [name for name in names if name not in known.paused]
        if is_right and opened == guess and len(guess) == 1:
            return known, known.others[-1]
        return known, rows_in_turn(tx, self._turns.of(opened), asked.limit, self._turns)


def _ready_of_some(tx: Transaction, asked: Asked, names: Sequence[str]) -> tuple[_Known, Sequence[ReadyRow]]:
    """Return the rows of the queues in their order; those of the first are asked for with all else."""
    questions: list[_Question] = [(READY, {"queue": name, "most": asked.limit}) for name in names[:1]]
    known = _ask(tx, SERVING, asked, questions if asked.limit > 0 else [])
    rows: list[ReadyRow] = []
    if known.server is None or asked.limit <= 0:
        return known, rows
    for name in names:
        if len(rows) >= asked.limit:
            break
        if name not in known.paused:
            rows += known.others[0] if name == names[0] else ready_of(tx, name, asked.limit - len(rows))
    return known, rows


def _may_have_work(names: Sequence[str] | None, known: _Known) -> bool:
    if names is None:  # the first queue may be a paused one: a claim looks at the others as well
        return any(known.others)
    return any(rows and name not in known.paused for name, rows in zip(names, known.others, strict=True))


def _ask(
    tx: Transaction,
    server: Statement,
    asked: Asked,
    questions: Sequence[_Question],
    *,
    is_last: bool = False,
) -> _Known:
    """Return what a claim has to know, and the answers to the questions, all in one round trip."""
    every: list[_Question] = [(server, {"session": asked.session}), (PAUSED, {}), (DUE, {}), (FIRING, {})]
    written = [statement.bind(tx.dialect, parameters) for statement, parameters in [*every, *questions]]
    found: list[Sequence[Any]] = cursor_of(tx).each([*written, _COMMIT] if is_last else written)
    tx.is_ended = is_last
    living, paused, due, firing, *others = found
    instants = [row[0] for row in (*due, *firing)]
    return _Known(
        str(living[0][0]) if living else None,
        frozenset(row[0] for row in paused),
        min(instants, default=None),
        others[: len(questions)],
    )


def _once_each(queues: Sequence[str] | None) -> list[str] | None:
    return None if queues is None else list(dict.fromkeys(queues))
