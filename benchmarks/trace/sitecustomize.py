"""A module that Python loads at the start of a traced process, to record each storage call in a file.

A call is a transaction, or a statement outside of one. It is recorded in the driver, below all of the
contender's code, and in every process of the server.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

_file = os.open(os.environ["FIRELOCK_BENCH_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


class Counter:
    """The counter of a connection's calls."""

    def __init__(self) -> None:
        self._is_in_transaction = False

    def __call__(self, statement: str) -> None:
        """Write a line, unless the statement belongs to a transaction that already has a line."""
        verb = statement.lstrip().partition(" ")[0].upper().rstrip(";")
        if not self._is_in_transaction:
            os.write(_file, b"%d %s\n" % (os.getpid(), verb.encode()))
        if verb == "BEGIN":
            self._is_in_transaction = True
        elif verb in {"COMMIT", "ROLLBACK", "END"}:
            self._is_in_transaction = False


def traced(connect: Callable[P, sqlite3.Connection]) -> Callable[P, sqlite3.Connection]:
    """Return a function that opens the same connections with a counter."""

    def connect_traced(*arguments: P.args, **options: P.kwargs) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(Counter())
        return connection

    return connect_traced


# The overloads are lost, because no tool reads types from a traced process.
sqlite3.connect = sqlite3.dbapi2.connect = traced(sqlite3.connect)  # type: ignore[assignment]
