"""Statements that share a round trip, where a connection takes several at once, as our own do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from firelock_sql.statements import Parameter, Value

__all__ = ["Answer", "Courier", "Written"]

_MOST_CHARACTERS = 512 * 1024  # that wait; a server takes 4 MB at the least

Row = Sequence["Parameter"]
Written = tuple[str, Row]
"""A statement's text and its parameters."""


@attrs.define
class Answer:
    """What the server says to one statement, as soon as that was sent."""

    rowcount: int = -1
    rows: Sequence[tuple[Value, ...]] = ()


class Courier:
    """Sends statements by a driver's cursor, as many as wait in one round trip.

    What fails among them fails where they are sent, and nothing behind it has run.
    """

    def __init__(self, cursor: Any, *, carries_several: bool) -> None:  # noqa: ANN401 - any driver's
        self._cursor = cursor
        self._carries_several = carries_several
        self._waiting: list[tuple[Written, Answer]] = []
        self._size = 0
        self.has_answered = False

    def put(self, sql: str, parameters: Row = ()) -> Answer:
        """Return what will be the answer; the statement goes with the next ones that are sent."""
        answer = Answer()
        self._waiting.append(((sql, parameters), answer))
        self._size += len(sql) + sum([len(value) for value in parameters if isinstance(value, str)])
        if not self._carries_several or self._size > _MOST_CHARACTERS:
            self.send()
        return answer

    def send(self) -> None:
        """Whatever waits has run."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        if not waiting:
            return
        text = "; ".join(sql for (sql, _), _ in waiting)
        values = [value for (_, parameters), _ in waiting for value in parameters]
        self._cursor.execute(text, values or None)
        self._read_all(answer for _, answer in waiting)

    def _read_all(self, answers: Iterable[Answer]) -> None:
        for number, answer in enumerate(answers):
            if number:
                self._cursor.nextset()
            self.has_answered = True
            answer.rowcount = self._cursor.rowcount
            if self._cursor.description is not None:
                answer.rows = list(self._cursor.fetchall())

    def drop(self) -> None:
        """Nothing waits any more; what does is not run."""
        self._waiting, self._size = [], 0
