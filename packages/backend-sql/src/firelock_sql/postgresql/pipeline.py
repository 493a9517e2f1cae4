"""Statements whose results are not needed; they are sent in the same round trip as the next statement."""

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
        """Return another cursor of this class on the same connection."""
        return type(self)(self.connection)


class PreparingCursor(BundlingCursor):
    """A cursor for one of our own connections, which prepares every statement on its first use.

    If an earlier statement in the pipeline fails, the statement is not prepared. psycopg detects this from
    the reply, but not for a statement that it prepares only after several uses.
    """

    @override
    def execute(
        self, query: Any, params: Any = None, *, prepare: bool | None = True, binary: bool | None = None
    ) -> Self:
        """See `Cursor.execute`."""
        return super().execute(query, params, prepare=prepare, binary=binary)


class PipelinedCursor:
    """A cursor (PEP 249) that combines statements and needs few round trips.

    `put` adds a statement, which is sent with the next `execute` or the commit. If one of the statements
    fails, the call that sends it raises the error, and later statements do not run.

    The statements are sent together, followed by a Sync message. The server counts the client as idle only
    after this message, and its timeout for idle clients ends the transaction of a client that hangs. The
    pipeline stays open until the transaction ends: when psycopg closes a pipeline, it sends one more message,
    after which the server does not count the client as idle. For prepared statements, see `PreparingCursor`.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._open = ExitStack()
        self._pipeline = self._open.enter_context(connection.pipeline())
        self._last: psycopg.Cursor[Any] = connection.cursor()
        self._waiting: list[Callable[[], object]] = []
        self.has_replied = False  # whether the server has replied to anything yet

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The connection, after all pending statements have run."""
        self.send()
        return self._connection

    @property
    def rowcount(self) -> int:
        """The number of rows that the last executed statement changed."""
        self.send()
        return self._last.rowcount

    def execute(self, sql: str, parameters: Any = (), /, *, prepare: bool = True) -> None:  # noqa: ANN401 - in order, or by name
        """Run the statement once, after all pending ones."""
        self._last = self.put(sql, parameters, prepare=prepare)
        self.send()

    def each(self, asked: Sequence[tuple[str, Any]]) -> list[list[Row]]:
        """Run several queries after all pending statements, in one round trip; return their rows."""
        cursors = [self.put(*one) for one in asked]
        self.send()
        return [cursor.fetchall() for cursor in cursors]

    def put(self, sql: str, parameters: Any = (), /, *, prepare: bool = True) -> psycopg.Cursor[Any]:  # noqa: ANN401 - in order, or by name
        """Add a statement, which runs before any later statement; return a cursor for its result."""
        cursor = self._connection.cursor()
        self._waiting.append(lambda: cursor.execute(sql, parameters, prepare=prepare))
        return cursor

    def executemany(self, sql: str, parameters: Sequence[Any], /) -> None:
        """Add a statement that runs once for each row of parameters."""
        cursor = self._last = self._connection.cursor()
        self._waiting.append(lambda: cursor.executemany(sql, parameters))

    def fetchall(self) -> list[Row]:
        """Return the remaining rows."""
        return self._last.fetchall()

    def fetchone(self) -> Row | None:
        """Return the next row, or None."""
        row: Row | None = self._last.fetchone()
        return row

    def commit(self) -> None:
        """Send all pending statements and commit the transaction."""
        self.put("COMMIT", prepare=False)
        self._run_waiting()
        self._open.close()

    def undo(self) -> None:
        """Roll back the transaction; drop the pending statements."""
        self._waiting = []
        with suppress(psycopg.Error):  # this error was already raised
            self._pipeline.sync()
        self._open.close()
        # outside the pipeline, because psycopg deallocates all prepared statements after a ROLLBACK
        self._connection.execute("ROLLBACK")

    def send(self) -> None:
        """Run all waiting statements."""
        if self._waiting:
            self._run_waiting()
            self._pipeline.sync()
            self.has_replied = True

    def _run_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for run in waiting:
            run()
