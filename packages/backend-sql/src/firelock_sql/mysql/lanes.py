"""Lanes on MySQL and MariaDB: claims of jobs in lanes with few round trips.

Neither database can move from lane to lane efficiently within one statement: a subquery that starts after a
value of its outer query reads the whole queue. So one round trip reads the first job of each lane that this
process has seen before, and checks whether any other lane exists. Only unknown lanes need a separate
statement each.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

import attrs
from typing_extensions import override

from firelock.limits import Head, KeyRow, LaneReading, LimitSettings, keys_of, name_of
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.mysql.pipeline import MultiStatementCursor, Written
from firelock_sql.rows.job_row import CLAIMABLE
from firelock_sql.verbs.limits import (
    HEAD_COLUMNS,
    HEADS,
    IN_LANE,
    LOCK_FREE_KEYS,
    LOCK_KEYS_BRIEFLY,
    MAKE_KEY,
    READ_KEYS,
    SETTINGS,
    Row,
    SqlLanes,
    is_limited,
    key_values,
    read_keys,
    settings_in,
)

_IN_QUEUE = f"FROM firelock_jobs INDEXED BY firelock_lanes WHERE {IN_LANE} AND queue = :queue"
_BEHIND = f"SELECT lane {_IN_QUEUE} AND lane > :after"
_BY_NAME = "ORDER BY lane LIMIT 1"
# The excluded list splits the scan into ranges between its values, so jobs in the listed lanes are not read.
_FIRST_UNKNOWN = Text(f"{_BEHIND} AND lane NOT IN :ids {_BY_NAME}")
_FIRST_UNKNOWN_TO = Text(f"{_BEHIND} AND lane <= :until AND lane NOT IN :ids {_BY_NAME}")
_LANE_AFTER = Text(f"SELECT ({_BEHIND} {_BY_NAME}) INTO @lane")
_FOLLOWING_LANE = Text(f"SELECT (SELECT lane {_IN_QUEUE} AND lane > @lane {_BY_NAME}) INTO @lane")
_FOUND_LANE: Written = ("SELECT @lane", ())
_BY_NUMBER = Text(f"""
SELECT {HEAD_COLUMNS} FROM firelock_jobs INDEXED BY seq WHERE seq IN :seqs AND {IN_LANE}
FOR NO KEY UPDATE SKIP LOCKED
""")  # noqa: S608 - names of columns
# Claims that read lanes share a lock on the first row of the schema table, and a change of a limit's settings
# locks that row exclusively: see `_hold_claims`.
_GATE = "SELECT 1 FROM firelock_schema ORDER BY version LIMIT 1"
HOLD_CLAIMS, _LOCK_SETTINGS_SHARED = Text(f"{_GATE} FOR UPDATE"), Text(f"{_GATE} FOR KEY SHARE")
_KEEP = Text(
    "UPDATE firelock_limit_keys SET holders = :holders, next_arrival_at = :next_arrival_at WHERE key = :key"
)
_LANE = CLAIMABLE.index("lane")


@lru_cache(maxsize=512)
def _firsts_of(number: int) -> Text:
    """Return the statement that reads the first jobs in this number of lanes."""
    return Text(f"""
SELECT named.lane, (
    SELECT seq {_IN_QUEUE} AND lane = named.lane ORDER BY priority DESC, enqueued_at, seq LIMIT 1
) FROM (SELECT :lane AS lane{" UNION ALL SELECT :lane" * (number - 1)}) AS named
""")  # noqa: S608 - our own conditions


_KNOWN_AT_ONCE = 256
_FEWEST_READS, _MOST_READS = 4, 64  # minimum and maximum number of reads of unknown lanes in one round trip
_REMEMBERED = 20_000  # maximum number of known lanes in all queues


def _read_settings(rows: Sequence[Row]) -> dict[str, LimitSettings]:
    return {str(key): settings_in(str(value)) for key, value in rows}


class LaneMemory:
    """The lanes of each queue that a storage has seen, in order."""

    def __init__(self) -> None:
        self._of: dict[str, list[str]] = {}

    def next_lanes(self, queue: str, after: str, limit: int) -> list[str]:
        """Return up to `limit` known lanes after `after`."""
        known = self._of.get(queue, [])
        start = bisect_right(known, after)
        return known[start : start + limit]

    def learn(self, queue: str, lanes: Iterable[str]) -> None:
        """Add lanes that have work."""
        if sum(map(len, self._of.values())) > _REMEMBERED:
            self._of = {}
        known = list(self._of.get(queue, ()))
        for lane in lanes:
            insort(known, lane)
        self._of[queue] = known  # a list is never changed in place, because another thread may be reading it

    def forget(self, queue: str, lanes: Collection[str]) -> None:
        """Remove lanes that have no work."""
        gone = set(lanes)
        self._of[queue] = [lane for lane in self._of.get(queue, ()) if lane not in gone]


@attrs.define
class _LaneQuery:
    """A query of the lanes after a given lane, and its results; several queries may share a round trip."""

    queue: str
    after: str
    known: Sequence[str]  # the lanes that this process already knows
    until: str | None  # search for unknown lanes up to this one; None: search for all
    goes_on: bool  # the search continues after `until`
    with_work: list[str] = attrs.field(factory=list)  # known lanes that have work
    first_unknown: str | None = None  # first other lane that has work
    keys: Collection[str] = ()  # keys that the query also reads
    settings: dict[str, LimitSettings] = attrs.field(factory=dict)
    rows: dict[str, KeyRow] = attrs.field(factory=dict)  # locked


class MysqlLanes(SqlLanes):
    """The lanes of a MySQL or MariaDB database, within one transaction."""

    def __init__(self, tx: Transaction, cursor: MultiStatementCursor, memory: LaneMemory) -> None:
        super().__init__(tx)
        self._cursor, self._memory = cursor, memory
        self._firsts: dict[tuple[str, str], int] = {}  # number of the first job, by queue and lane
        self._ahead: dict[str, _LaneQuery] = {}  # the finished query of the first lanes, by queue
        self._has_locked_settings = False

    # ---- walks -------------------------------------------------------------------------------------------

    @override
    def read_lanes(self, queue: str, after: str, until: str, limit: int, *, is_patient: bool) -> LaneReading:
        """Read lanes, together with the first lanes if the search may restart there, in one round trip."""
        query = None if after else self._ahead.pop(queue, None)
        if query is None:
            query = self._new_query(queue, after, limit)
            queries = [query]
            if after and not query.goes_on:
                self._ahead[queue] = self._new_query(queue, "", limit, end=after)
                queries.append(self._ahead[queue])
            with_keys = queries[-1] if not query.known else query
            self._run_queries(queries, with_keys, is_patient=is_patient)
        lanes = [lane for lane in self._walked(query, limit) if not until or lane <= until]
        return self._lane_reading(lanes, is_patient=is_patient, query=query)

    @override
    def read_named_lanes(self, queue: str, lanes: Sequence[str]) -> LaneReading:
        [firsts] = self._cursor.each([self._written_firsts(queue, list(lanes))])
        with_work = [str(lane) for lane, seq in firsts if seq is not None]
        return self._lane_reading(with_work, is_patient=False)

    @override
    def walk(self, queue: str, after: str, limit: int) -> list[str]:
        query = self._new_query(queue, after, limit)
        self._run_queries([query])
        return self._walked(query, limit)

    def _walked(self, query: _LaneQuery, limit: int) -> list[str]:
        lanes: list[str] = []
        number = _FEWEST_READS
        while True:
            if query.first_unknown is None:
                lanes += query.with_work
                after = query.until or ""
                if not query.goes_on or len(lanes) >= limit:
                    return lanes[:limit]
            else:
                lanes += [lane for lane in query.with_work if lane < query.first_unknown]
                lanes += self._read_on(query.queue, query.first_unknown, min(number, limit))
                number = min(2 * number, _MOST_READS)
                after = lanes[-1]
                if len(lanes) >= limit:
                    return lanes[:limit]
            query = self._new_query(query.queue, after, limit - len(lanes))
            self._run_queries([query])

    def _new_query(self, queue: str, after: str, limit: int, end: str = "") -> _LaneQuery:
        """Return a query of up to `limit` lanes after `after`, up to `end` ("": all)."""
        asked = min(limit, _KNOWN_AT_ONCE)
        known = [lane for lane in self._memory.next_lanes(queue, after, asked) if not end or lane <= end]
        goes_on = len(known) == asked
        return _LaneQuery(queue, after, known, known[-1] if goes_on else end or None, goes_on)

    def _run_queries(
        self, queries: Sequence[_LaneQuery], with_keys: _LaneQuery | None = None, *, is_patient: bool = False
    ) -> None:
        """Run the queries in one round trip; also lock the keys in the known lanes of one query."""
        asked = [written for query in queries for written in self._statements(query)]
        if with_keys is not None and with_keys.known:
            with_keys.keys = sorted({key for lane in with_keys.known for key in keys_of(lane)})
            asked += self._key_statements(with_keys.keys, is_patient=is_patient)
        answers = iter(self._cursor.each(asked))
        for query in queries:
            found = next(answers)
            query.first_unknown = str(found[0][0]) if found else None
            if query.known:
                self._note_firsts(query, next(answers))
        if with_keys is not None and with_keys.keys:
            with_keys.settings, with_keys.rows = _read_settings(next(answers)), read_keys(next(answers))

    def _statements(self, query: _LaneQuery) -> list[Written]:
        of = {"queue": query.queue, "after": query.after, "ids": [*query.known, ""]}
        if query.until is None:
            unknown = self._written(_FIRST_UNKNOWN, **of)
        else:
            unknown = self._written(_FIRST_UNKNOWN_TO, **of, until=query.until)
        return [unknown, self._written_firsts(query.queue, query.known)] if query.known else [unknown]

    def _note_firsts(self, query: _LaneQuery, firsts: Sequence[Row]) -> None:
        for lane, seq in firsts:
            if seq is not None:
                query.with_work.append(str(lane))
                self._firsts[query.queue, str(lane)] = int(seq)
        query.with_work.sort()
        if len(query.with_work) < len(query.known):
            self._memory.forget(query.queue, {*query.known} - {*query.with_work})

    def _written_firsts(self, queue: str, lanes: Sequence[str]) -> Written:
        return _firsts_of(len(lanes)).compiled(self._tx.dialect).text, [queue, *lanes]

    def _read_on(self, queue: str, first: str, limit: int) -> list[str]:
        """Return up to `limit` lanes that have work, starting at an unknown lane; some may be known lanes."""
        reads = [self._written(_LANE_AFTER, queue=queue, after=first)]
        reads += [self._written(_FOLLOWING_LANE, queue=queue)] * (limit - 2)
        asked = [one for read in reads[: limit - 1] for one in (read, _FOUND_LANE)]
        found = [rows[0][0] for rows in self._cursor.each(asked)[1::2]] if asked else []
        lanes = [first, *(str(lane) for lane in found if lane is not None)]
        known = set(self._memory.next_lanes(queue, "", _REMEMBERED))
        self._memory.learn(queue, [lane for lane in lanes if lane not in known])
        return lanes

    # ---- keys --------------------------------------------------------------------------------------------

    @override
    def _lane_reading(
        self, lanes: Sequence[str], *, is_patient: bool, query: _LaneQuery | None = None
    ) -> LaneReading:
        keys = sorted({key for lane in lanes for key in keys_of(lane)})
        settings = {} if query is None else dict(query.settings)
        rows = {} if query is None else dict(query.rows)
        if asked := [key for key in keys if query is None or key not in query.keys]:
            stored, locked = self._cursor.each(self._key_statements(asked, is_patient=is_patient))
            settings |= _read_settings(stored)
            rows |= read_keys(locked)
        busy: list[str] = []
        if missing := [key for key in keys if key not in rows and is_limited(key, settings)]:
            made = self._make(missing)
            rows |= dict.fromkeys(made, KeyRow())
            busy = [key for key in missing if key not in made]
        for key, row in rows.items():
            self._note(key, row.holders or ())
        return LaneReading(lanes, settings, rows, busy)

    def _key_statements(self, keys: Sequence[str], *, is_patient: bool) -> list[Written]:
        if not self._has_locked_settings:
            self._has_locked_settings = True
            self._cursor.put(*self._written(_LOCK_SETTINGS_SHARED))
        names = sorted({name for key in keys for name in (key, name_of(key))})
        locks = self._written(LOCK_KEYS_BRIEFLY if is_patient else LOCK_FREE_KEYS, ids=list(keys))
        return [self._written(SETTINGS, ids=names), locks]

    def _make(self, missing: Sequence[str]) -> set[str]:
        """Create missing rows for the keys; return the keys whose rows this transaction has created."""
        stored = {str(row[0]) for row in self._tx.all(READ_KEYS, ids=list(missing))}
        return {key for key in missing if key not in stored and self._tx.changed(MAKE_KEY, key=key)}

    @override
    def store_rows(self, rows: Mapping[str, KeyRow]) -> None:
        self._tx.run_many(_KEEP, [key_values(key, row) for key, row in rows.items()])

    # ---- jobs --------------------------------------------------------------------------------------------

    @override
    def _first_heads(
        self, queue: str, wanted: Mapping[str, tuple[int, int]]
    ) -> Mapping[str, Sequence[Head[Row]]]:
        """Return the first heads of each lane.

        If only the first job of a lane is requested, read this job by its number. If another transaction has
        locked or claimed that job, read this lane in the same way as all others.
        """
        firsts = {
            lane: first
            for lane, (given, number) in wanted.items()
            if (given, number) == (0, 1) and (first := self._firsts.pop((queue, lane), None)) is not None
        }
        if len(firsts) == 1:
            firsts = {}
        others = [lane for lane in wanted if lane not in firsts]
        found = self._rows_of_each(queue, {lane: sum(wanted[lane]) for lane in others}, list(firsts.values()))
        if late := [lane for lane in firsts if not found.get(lane)]:
            found |= self._rows_of_each(queue, {lane: sum(wanted[lane]) for lane in late}, [])
        return {
            lane: self._new_of(queue, lane, found.get(lane, ()), number)
            for lane, (_, number) in wanted.items()
        }

    def _rows_of_each(self, queue: str, most: Mapping[str, int], seqs: list[int]) -> dict[str, list[Row]]:
        asked = [self._written(HEADS, queue=queue, lane=lane, most=number) for lane, number in most.items()]
        if seqs:
            asked.append(self._written(_BY_NUMBER, seqs=seqs))
        rows: dict[str, list[Row]] = {}
        for row in (row for some in self._cursor.each(asked) for row in some):
            rows.setdefault(str(row[_LANE]), []).append(row)
        return rows

    def _written(self, statement: Text, **parameters: object) -> Written:
        compiled = statement.compiled(self._tx.dialect)
        return compiled.text, compiled.bind(parameters)
