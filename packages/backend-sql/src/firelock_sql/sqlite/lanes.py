"""Lanes on SQLite, where a writing transaction locks the whole file, so keys and jobs need no locks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache

from typing_extensions import override

from firelock.limits import Head
from firelock_sql.connections.transaction import Text
from firelock_sql.rows.job_row import CLAIMABLE
from firelock_sql.verbs.limits import (
    HEAD_COLUMNS,
    IN_LANE,
    READ_KEYS,
    LockedKeys,
    Row,
    SqlLanes,
    read_keys,
)

_FEW = 8  # maximum number of jobs per lane in a statement that reads jobs of many lanes by position


@cache
def _first_of(most: int) -> Text:
    """Return the statement that reads the first jobs of many lanes."""
    numbers = " UNION ALL ".join(
        f"""
        SELECT (
            SELECT seq FROM firelock_jobs INDEXED BY firelock_lanes
            WHERE {IN_LANE} AND queue = :queue AND lane = asked.value
            ORDER BY priority DESC, enqueued_at, seq LIMIT 1 OFFSET {place}
        ) FROM json_each(:ids) AS asked
        """  # noqa: S608 - our own conditions
        for place in range(most)
    )
    return Text(
        f"SELECT {HEAD_COLUMNS} FROM firelock_jobs WHERE seq IN ({numbers})"  # noqa: S608 - names of columns
        " ORDER BY priority DESC, enqueued_at, seq"
    )


_LANE = CLAIMABLE.index("lane")


class SqliteLanes(SqlLanes):
    """The lanes of a database file, within one transaction."""

    @override
    def lock(self, keys: Sequence[str], limited: Collection[str], *, is_patient: bool) -> LockedKeys:
        return LockedKeys(read_keys(self._tx.all(READ_KEYS, ids=list(keys))))

    @override
    def _first_heads(
        self, queue: str, wanted: Mapping[str, tuple[int, int]]
    ) -> Mapping[str, Sequence[Head[Row]]]:
        by_number: dict[int, list[str]] = {}
        for lane, (given, number) in wanted.items():
            by_number.setdefault(given + number, []).append(lane)
        heads: dict[str, Sequence[Head[Row]]] = {}
        for most, lanes in by_number.items():
            if len(lanes) == 1 or most > _FEW:
                heads.update(super()._first_heads(queue, {lane: wanted[lane] for lane in lanes}))
                continue
            rows: dict[str, list[Row]] = {lane: [] for lane in lanes}
            for row in self._tx.all(_first_of(most), queue=queue, ids=lanes):
                rows[row[_LANE]].append(row)
            for lane in lanes:
                _, number = wanted[lane]
                heads[lane] = self._new_of(queue, lane, rows[lane], number)
        return heads
