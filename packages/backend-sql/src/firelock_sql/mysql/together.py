"""Many rows changed by one statement, where the drivers would send one statement a row.

They join the rows of an INSERT by themselves. For UPDATE and DELETE the rows become a table of their own,
written into the statement, which the changed one is joined to: 69 µs a row of server and client in place of
342, in hundreds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import attrs

if TYPE_CHECKING:
    from firelock_sql.statements import Parameter, Value

__all__ = ["TogetherCursor"]

_MOST_CHARACTERS = 256 * 1024  # of one statement's values; a server takes 4 MB at the least
_MOST_ROWS = 500
_LISTED = " IN %s"  # as `statements.among` is written

Row = Sequence["Parameter"]


class TogetherCursor:
    """A driver's cursor whose `executemany` is one round trip for changes of many rows."""

    def __init__(self, cursor: Any) -> None:  # noqa: ANN401 - any driver's
        self._cursor = cursor
        self.fetchone = cursor.fetchone
        self._changed: int | None = None  # by the last `executemany` of our own

    @property
    def rowcount(self) -> int:
        """Return how many rows the last statement changed."""
        number: int = self._cursor.rowcount if self._changed is None else self._changed
        return number

    def execute(self, sql: str, *parameters: Row) -> object:
        """The statement has run once.

        A change of a list's rows is joined to the list. Planned as it stands it may walk through the whole
        table, as long as that is small, and wait for every row that somebody holds.
        """
        self._changed = None
        if not parameters or _LISTED not in sql:
            return self._cursor.execute(sql, *parameters)
        listed = _listed(sql)
        if listed is None:
            return self._cursor.execute(*_spread(sql, *parameters))
        [[*others, values]] = parameters
        self._change_together(listed, [(value,) for value in cast("Row", values)], others)
        return None

    def fetchall(self) -> list[tuple[Value, ...]]:
        """Return the rows that are left."""
        return list(self._cursor.fetchall())

    def executemany(self, sql: str, rows: Sequence[Row], /) -> object:
        """The statement has run once for each row of parameters."""
        self._changed = None
        together = None if len(rows) == 1 else _together(sql)
        if together is None:
            return self._cursor.executemany(sql, rows)
        self._change_together(together, rows)
        return None

    def _change_together(self, together: _Together, rows: Sequence[Row], others: Row = ()) -> None:
        changed = 0
        for some in _bounded(rows):
            values = [*(value for row in some for value in row), *others]
            self._cursor.execute(together.text(len(some)), values)
            changed += self._cursor.rowcount
        self._changed = changed


def _spread(sql: str, values: Row) -> tuple[str, Row]:
    """Return the statement with a parameter for each value of its lists: aiomysql takes no list for one."""
    spread: list[Parameter] = []
    for value in values:
        if isinstance(value, tuple):
            sql = sql.replace(_LISTED, f" IN ({', '.join(['%s'] * len(value))})", 1)
            spread += value
        else:
            spread.append(value)
    return sql, spread


def _bounded(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield the rows in groups whose statements are not too large for the server."""
    group: list[Row] = []
    size = 0
    for row in rows:
        length = sum(len(value) for value in row if isinstance(value, str))
        if group and (size + length > _MOST_CHARACTERS or len(group) == _MOST_ROWS):
            yield group
            group, size = [], 0
        group.append(row)
        size += length
    yield group


@attrs.frozen
class _Together:
    """A statement of one row, cut where the rows go."""

    verb: str
    rest: str
    width: int

    def text(self, number: int) -> str:
        """Return the statement for so many rows."""
        first = ", ".join(f"%s AS p{place}" for place in range(self.width))
        other = f" UNION ALL SELECT {', '.join(['%s'] * self.width)}"
        return f"{self.verb} (SELECT {first}{other * (number - 1)}) AS new STRAIGHT_JOIN {self.rest}"


@lru_cache(maxsize=256)
def _listed(sql: str) -> _Together | None:
    """Return how a change of a list's rows is joined to the list, its last parameter; None for all else."""
    verb, _, rest = sql.partition(" ")
    before, is_there, behind = rest.partition(_LISTED)
    if verb not in {"UPDATE", "DELETE"} or not is_there:
        return None
    assert "%s" not in behind, sql  # noqa: S101 - tests/sql/test_statements.py holds it
    return _joined(verb, f"{before} = new.p0{behind}", 1)


@lru_cache(maxsize=256)
def _together(sql: str) -> _Together | None:
    """Return how an UPDATE or DELETE of one row is written for many; None where the driver joins the rows."""
    verb, _, rest = sql.partition(" ")
    texts = rest.split("%s")
    named = "".join(f"{text}new.p{place}" for place, text in enumerate(texts[:-1])) + texts[-1]
    return _joined(verb, named, len(texts) - 1)


def _joined(verb: str, rest: str, width: int) -> _Together | None:
    match verb:
        case "UPDATE":
            return _Together(verb, rest, width)
        case "DELETE":
            source = rest.removeprefix("FROM ")
            return _Together(f"DELETE {source.partition(' ')[0]} FROM", source, width)
        case _:
            return None
