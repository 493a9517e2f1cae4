"""Statements that wait for one whose answer is needed, and share its round trip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

import psycopg
from typing_extensions import override

if TYPE_CHECKING:
    from firelock_sql.connections.transaction import Row


class BundlingCursor(psycopg.Cursor[Any]):
    """A cursor that sends several queries in one round trip."""

    def each(self, asked: Sequence[tuple[str, Any]]) -> list[list[Row]]:
        """Return the rows of each query."""
        if not psycopg.Pipeline.is_supported():
            return [self.execute(*one).fetchall() for one in asked]
        cursors = [self._another() for _ in asked]
        with self.connection.pipeline():
            for cursor, one in zip(cursors, asked, strict=True):
                cursor.execute(*one)
        return [cursor.fetchall() for cursor in cursors]

    def _another(self) -> Self:
        """Return one more cursor of this kind on the same connection."""
        return type(self)(self.connection)


class PreparingCursor(BundlingCursor):
    """A cursor of a connection of our own: every statement is prepared when it comes first.

    psycopg then looks at the answer, and forgets one that was not prepared, as another had failed before it
    in a pipeline. It does not where it has counted a statement, and prepares it late.
    """

    @override
    def execute(
        self, query: Any, params: Any = None, *, prepare: bool | None = True, binary: bool | None = None
    ) -> Self:
        """See `Cursor.execute`."""
        return super().execute(query, params, prepare=prepare, binary=binary)


class PipelinedCursor:
    """A cursor (PEP 249) that sends few times: what is put waits for what is executed, or for the end.

    What fails among them fails there, and nothing behind it has run.

    They are sent together, and the server is asked to synchronize: only so it knows that it is our turn, and
    ends the transaction of who stands still. The pipeline is open until the transaction ends, since psycopg
    says one word more when it closes one, with which the server forgets that it waits. As for what is
    prepared, see `PreparingCursor`.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._open = ExitStack()
        self._pipeline = self._open.enter_context(connection.pipeline())
        self._last: psycopg.Cursor[Any] = connection.cursor()
        self._waiting: list[Callable[[], object]] = []
        self.has_answered = False  # whether the server has answered anything yet

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """Return the connection; all that waited has run."""
        self.send()
        return self._connection

    @property
    def rowcount(self) -> int:
        """Return how many rows the last statement changed that was executed."""
        self.send()
        return self._last.rowcount

    def execute(self, sql: str, parameters: Any = (), /, *, prepare: bool = True) -> None:  # noqa: ANN401 - in order, or by name
        """The statement has run once, behind all that waited."""
        self._last = self.put(sql, parameters, prepare=prepare)
        self.send()

    def each(self, asked: Sequence[tuple[str, Any]]) -> list[list[Row]]:
        """Return the rows of several queries, behind all that waited, in one round trip."""
        cursors = [self.put(*one) for one in asked]
        self.send()
        return [cursor.fetchall() for cursor in cursors]

    def put(self, sql: str, parameters: Any = (), /, *, prepare: bool = True) -> psycopg.Cursor[Any]:  # noqa: ANN401 - in order, or by name
        """Return what will have the answer; the statement runs before any that is executed after it."""
        cursor = self._connection.cursor()
        self._waiting.append(lambda: cursor.execute(sql, parameters, prepare=prepare))
        return cursor

    def executemany(self, sql: str, parameters: Sequence[Any], /) -> None:
        """The statement runs once for each row of parameters, likewise."""
        cursor = self._last = self._connection.cursor()
        self._waiting.append(lambda: cursor.executemany(sql, parameters))

    def fetchall(self) -> list[Row]:
        """Return the rows that are left."""
        return self._last.fetchall()

    def fetchone(self) -> Row | None:
        """Return the next row, None behind the last."""
        row: Row | None = self._last.fetchone()
        return row

    def commit(self) -> None:
        """The transaction is committed, with all that waits."""
        self.put("COMMIT", prepare=False)
        self._run_waiting()
        self._open.close()

    def undo(self) -> None:
        """The transaction is undone; what waits is not run."""
        self._waiting = []
        with suppress(psycopg.Error):  # has been told
            self._pipeline.sync()
        self._open.close()
        self._connection.execute("ROLLBACK")  # outside, as psycopg has the server forget what was prepared

    def send(self) -> None:
        """Whatever waits has run."""
        if self._waiting:
            self._run_waiting()
            self._pipeline.sync()
            self.has_answered = True

    def _run_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for run in waiting:
            run()
