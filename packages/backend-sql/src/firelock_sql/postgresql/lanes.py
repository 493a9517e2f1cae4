"""Lanes on PostgreSQL: claims of jobs in lanes with few statements, however many lanes and keys there are.

Transactions lock the session first, then the ended jobs, then keys, and then the jobs that they claim. A
transaction waits for keys, in their order, only while it has not locked any key; after that, it never waits
for a key. A transaction also creates new keys only before it has locked one, and in their order. So no two
claims can deadlock.

The holders of a key are read by a separate statement after the one that locks the key. The snapshot of the
locking statement is older than the lock, so it would not include the commits of previous lock holders.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs
from typing_extensions import override

from firelock.limits import Head, KeyRow, LaneCursors, LaneReading, keys_of, settings_for
from firelock.storage import ClaimRequest
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.postgresql.connect import number_array, text_array
from firelock_sql.rows.job_row import CLAIMABLE
from firelock_sql.verbs.claim import MixedClaim, ReadyRow
from firelock_sql.verbs.limits import IN_LANE, Row, SqlLanes, read_keys, settings_in

# Claims with lanes share this lock, and a change of a limit's settings locks it exclusively: see
# `_hold_claims`.
GATE = "(1179210860::bigint << 32) | 'firelock_limit_keys'::regclass::oid::bigint"
HOLD_CLAIMS = Text(f"SELECT pg_advisory_xact_lock({GATE})")
_LOCK_SETTINGS_SHARED = Text(f"SELECT pg_advisory_xact_lock_shared({GATE})")

_OF_QUEUE = f"FROM firelock_jobs WHERE {IN_LANE} AND queue = :queue"
_IN_ORDER = "ORDER BY lane LIMIT 1"


def _next(after: str) -> str:
    """Return a query for the lane after another one; the query takes one index lookup."""
    return f"SELECT lane {_OF_QUEUE} AND lane > {after} {_IN_ORDER}"


def _next_from_floor(after: str) -> str:
    """Return a query for the lane after another one; it reads only a small part of the deepest lane.

    While a snapshot is open, the old index entries of the deepest lane are kept, so reads of that lane start
    at a floor.
    """
    of_deep = f"SELECT {_OF_QUEUE} AND lane = :deep AND priority"
    return f"""
SELECT coalesce(
    (SELECT lane {_OF_QUEUE} AND lane > {after} AND lane < :deep {_IN_ORDER}),
    (SELECT :deep::text WHERE {after} < :deep AND (
        EXISTS ({of_deep} > :deep_priority) OR EXISTS ({of_deep} < :deep_priority)
        OR EXISTS ({of_deep} = :deep_priority AND (enqueued_at, seq) > (:deep_at, :deep_seq))
    )),
    (SELECT lane {_OF_QUEUE} AND lane > greatest({after}, :deep) {_IN_ORDER})
)"""


def _look(next_lane: Callable[[str], str], *, locked: str = "SKIP LOCKED") -> Text:
    """Return the statement that reads the lanes of a queue, using the query `next_lane`, and their keys.

    Each result row is a lane, a locked row of a key, a key that has a row, the settings of a key, or the
    duration in microseconds.
    """
    return Text(f"""
WITH RECURSIVE walk (lane, place) AS (
    SELECT ({next_lane(':after::text COLLATE "C"')}), 1::bigint WHERE :most > 0
    UNION ALL
    SELECT ({next_lane("walk.lane")}), place + 1 FROM walk
    WHERE walk.lane IS NOT NULL AND place < :most AND (:until = '' OR walk.lane < :until)
), seen AS MATERIALIZED (
    SELECT lane, place FROM walk WHERE lane IS NOT NULL AND (:until = '' OR lane <= :until)
    UNION ALL
    SELECT lane, place FROM unnest(:lanes::text[]) WITH ORDINALITY AS named (lane, place)
    WHERE EXISTS (SELECT FROM firelock_jobs WHERE {IN_LANE} AND queue = :queue AND lane = named.lane)
), wanted AS MATERIALIZED (
    SELECT DISTINCT key FROM seen, LATERAL unnest(string_to_array(lane, chr(10))) AS key
), locked AS MATERIALIZED (
    SELECT key, holders, next_arrival_at FROM firelock_limit_keys
    WHERE key = ANY (ARRAY (SELECT key FROM wanted)) ORDER BY key FOR NO KEY UPDATE {locked}
)
SELECT 'lane', lane, NULL, place FROM seen
UNION ALL SELECT 'row', key, holders, next_arrival_at FROM locked
UNION ALL
SELECT 'known', key, NULL, NULL FROM firelock_limit_keys WHERE key = ANY (ARRAY (SELECT key FROM wanted))
UNION ALL SELECT 'settings', key, value, NULL FROM firelock_records
WHERE kind = 'limit' AND key = ANY (ARRAY (
    SELECT key FROM wanted UNION ALL SELECT regexp_replace(key, ':[^/]*', '', 'g') FROM wanted
))
UNION ALL
SELECT 'took', NULL, NULL, (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint
""")  # noqa: S608 - our own conditions


LOOK, LOOK_FROM_FLOORS, LOOK_PATIENTLY = _look(_next), _look(_next_from_floor), _look(_next, locked="")
MAKE_KEYS = Text("""
INSERT INTO firelock_limit_keys (key, holders, next_arrival_at)
SELECT key, NULL, 0 FROM unnest(:keys::text[]) AS key
ON CONFLICT (key) DO NOTHING RETURNING key
""")
_HEAD = ", ".join(CLAIMABLE)
# The inner limits of 1,000 help the planner, which ignores the outer limit.
HEADS = Text(f"""
SELECT job.* FROM unnest(:lanes::text[], :shares::integer[]) AS asked (lane, share), LATERAL (
    SELECT * FROM (
        SELECT {_HEAD} {_OF_QUEUE} AND lane = asked.lane
        ORDER BY priority DESC, enqueued_at, seq LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED
    ) AS near
    LIMIT asked.share
) AS job
""")  # noqa: S608 - names of columns
HEADS_FROM_FLOORS = Text(f"""
SELECT job.* FROM unnest(
    :lanes::text[], :shares::integer[], :priorities::bigint[], :ats::bigint[], :afters::bigint[]
) AS asked (lane, share, priority, at, after), LATERAL (
    SELECT * FROM (
        SELECT * FROM (
            SELECT {_HEAD} {_OF_QUEUE} AND lane = asked.lane AND priority > asked.priority
            ORDER BY priority DESC, enqueued_at, seq LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED
        ) AS above
        UNION ALL SELECT * FROM (
            SELECT {_HEAD} {_OF_QUEUE} AND lane = asked.lane AND priority = asked.priority
                AND (enqueued_at, seq) > (asked.at, asked.after)
            ORDER BY enqueued_at, seq LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED
        ) AS behind
        UNION ALL SELECT * FROM (
            SELECT {_HEAD} {_OF_QUEUE} AND lane = asked.lane AND priority < asked.priority
            ORDER BY priority DESC, enqueued_at, seq LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED
        ) AS below
    ) AS near
    LIMIT asked.share
) AS job
""")  # noqa: S608 - names of columns
TAKE = Text("""
WITH claimed AS (
    UPDATE firelock_jobs
    SET state = 'processing', attempt = attempt + 1, fence = fence + 1, session = :session, server = :server,
        claimed_at = :now, changed_at = :now, started_at = NULL, reason = NULL
    WHERE seq IN :seqs RETURNING queue
), kept AS (
    UPDATE firelock_limit_keys AS stored SET holders = new.holders, next_arrival_at = new.next_arrival_at
    FROM unnest(:keys::text[], :lists::text[], :arrivals::bigint[]) AS new (key, holders, next_arrival_at)
    WHERE stored.key = new.key
)
INSERT INTO firelock_count_deltas (state, queue, jobs)
SELECT 'enqueued', queue, -count(*) FROM claimed GROUP BY queue
UNION ALL SELECT 'processing', queue, count(*) FROM claimed GROUP BY queue
""")
_HOLDER_GROUPS = Text("""
SELECT state, session IS NOT NULL, queue, lane, string_agg(seq::text, ' ') FROM firelock_jobs
WHERE seq IN :seqs AND lane IS NOT NULL GROUP BY 1, 2, 3, 4
""")
_QUEUE, _PRIORITY, _ENQUEUED_AT, _SEQ, _LANE = map(
    CLAIMABLE.index, ("queue", "priority", "enqueued_at", "seq", "lane")
)

_LONG = 1_500  # microseconds; a longer read is slow; more time is allowed for each lane
_MICROS_OF_A_LANE = 20
_DEEP = 1_000  # a lane from which at least this many jobs were claimed may slow down reads
_IN_A_ROW = 3  # the same as for plain jobs: see `claim_start`
_REST = 20  # pause after a slow full read, as a multiple of its duration
_MOST_LANES = 1_000
_BEFORE_ALL = (-(1 << 31) - 1, -1, -1)


@attrs.define
class _Floor:
    place: tuple[int, int, int]  # priority, time, number; no job of this priority waits before this place
    claimed: int = 0


class LaneFloors:
    """The progress of claims in each lane, for reads that skip old index entries of an open snapshot.

    For jobs with limits, this class does the same as `ClaimStart` does for other jobs. After several slow
    reads, the following reads start, in each lane, after the job that was claimed last. An occasional read is
    full and finds late jobs. Threads may share it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._floors: dict[tuple[str, str], _Floor] = {}
        self._next_full_at = clock()
        self._slow_reads = 0

    @property
    def starts_at_floors(self) -> bool:
        """Whether the next read starts at the floors."""
        return self._clock() < self._next_full_at

    @property
    def queues(self) -> list[str]:
        """The queues with known lanes."""
        return sorted({queue for queue, _ in self._floors.copy()})

    def of(self, queue: str, lane: str) -> tuple[int, int, int]:
        """Return the position after which a read of the lane starts."""
        floor = self._floors.get((queue, lane))
        return _BEFORE_ALL if floor is None else floor.place

    def deepest(self, queue: str) -> str:
        """Return the lane from which most jobs were claimed; "" if no lane in the queue is known."""
        found = [
            (floor.claimed, lane) for (name, lane), floor in self._floors.copy().items() if name == queue
        ]
        _, deepest = max(found, default=(0, ""))
        return deepest

    def record(self, micros: int, lanes: int) -> None:
        """Record the duration of a full read and the number of lanes that it has read."""
        deepest = max((floor.claimed for floor in self._floors.copy().values()), default=0)
        if micros <= _LONG + _MICROS_OF_A_LANE * lanes or deepest < _DEEP:
            self._slow_reads = 0
            return
        self._slow_reads += 1
        if self._slow_reads >= _IN_A_ROW:
            self._next_full_at = self._clock() + micros * _REST / 1_000_000

    def claimed(self, heads: Iterable[Row]) -> None:
        """Record the jobs that were claimed from their lanes."""
        if len(self._floors) > _MOST_LANES:
            self._floors.clear()
        for row in heads:
            if len(row) <= _LANE:  # the job has no limits
                continue
            floor = self._floors.setdefault((row[_QUEUE], row[_LANE]), _Floor(_BEFORE_ALL))
            place = (row[_PRIORITY], row[_ENQUEUED_AT], row[_SEQ])
            if place[0] != floor.place[0]:
                if floor.claimed >= _DEEP:
                    continue
                floor.place = place
            floor.place, floor.claimed = max(floor.place, place), floor.claimed + 1


class KnownQueuesClaim(MixedClaim):
    """A claim for which it is already known which queues have lanes and which have other work.

    Args:
        tx: the transaction.
        lanes: the lanes within it.
        cursors: the position of each queue among its lanes.
        request: the claim.
        plain: the unpaused queues with jobs that are not in a lane.
        laned: the unpaused queues with lanes.
    """

    def __init__(
        self,
        tx: Transaction,
        lanes: SqlLanes,
        cursors: LaneCursors,
        request: ClaimRequest,
        *,
        plain: Collection[str],
        laned: Collection[str],
    ) -> None:
        self._plain, self._laned = frozenset(plain), frozenset(laned)
        super().__init__(tx, lanes, cursors, request)

    @override
    def open_queues(self, queues: Sequence[str] | None) -> list[str]:
        names = self._plain | self._laned
        return sorted(names) if queues is None else [name for name in dict.fromkeys(queues) if name in names]

    @override
    def plain_rows(self, queue: str, number: int) -> list[ReadyRow]:
        return super().plain_rows(queue, number) if queue in self._plain else []

    @override
    def keyed_rows(self, queue: str, room: int) -> list[ReadyRow]:
        return super().keyed_rows(queue, room) if queue in self._laned and room > 0 else []


class PostgresqlLanes(SqlLanes):
    """The lanes within one transaction; `TAKE` stores the changes to keys."""

    def __init__(self, tx: Transaction, floors: LaneFloors | None = None) -> None:
        super().__init__(tx)
        self._floors = floors  # None: all reads are full
        self.longest = (0, 0)  # duration of the longest read in microseconds, and its number of lanes
        self.kept: dict[str, KeyRow] = {}
        self.missing: set[str] = set()  # keys without rows, which a separate transaction must create
        self.has_written = False
        self._has_locked = False

    @override
    def read_lanes(self, queue: str, after: str, until: str, limit: int, *, is_patient: bool) -> LaneReading:
        look = LOOK_PATIENTLY if is_patient and not self._has_locked else LOOK
        values = {"queue": queue, "after": after, "until": until, "most": limit, "lanes": "{}"}
        if self._floors is not None and look is LOOK:
            deep = self._floors.deepest(queue)
            priority, at, seq = self._floors.of(queue, deep)
            floor = {"deep": deep, "deep_priority": priority, "deep_at": at, "deep_seq": seq}
            return self._reading_from(self._tx.all(LOOK_FROM_FLOORS, **values, **floor))
        return self._reading_from(self._tx.all(look, **values))

    @override
    def read_named_lanes(self, queue: str, lanes: Sequence[str]) -> LaneReading:
        values = {"queue": queue, "after": "", "until": "", "most": 0, "lanes": text_array(lanes)}
        return self._reading_from(self._tx.all(LOOK, **values))

    def _reading_from(self, found: Sequence[Row]) -> LaneReading:
        of: dict[str, list[Row]] = {"lane": [], "row": [], "known": [], "settings": [], "took": []}
        for kind, *row in found:
            of[kind].append(row)
        places = {lane: place for lane, _, place in of["lane"]}
        lanes = sorted(places, key=places.__getitem__)
        [(_, _, took)] = of["took"]
        self.longest = max(self.longest, (took, len(lanes)))
        rows, settings = read_keys(of["row"]), {key: settings_in(value) for key, value, _ in of["settings"]}
        busy = {key for key, _, _ in of["known"]}.difference(rows)
        limited = {key for lane in lanes for key in keys_of(lane) if settings_for(key, settings).has_any}
        if missing := sorted(limited.difference(rows, busy)):
            created = self._create(missing)
            rows |= dict.fromkeys(created, KeyRow())
            busy.update(set(missing) - created)
        self._has_locked |= bool(rows)
        for key, one in rows.items():
            self._note(key, one.holders or ())
        return LaneReading(lanes, settings, rows, busy)

    def _create(self, missing: Sequence[str]) -> set[str]:
        """Create rows for these keys; return those that this transaction has created."""
        if self._has_locked:
            self.missing.update(missing)
            return set()
        self.has_written = True
        return {str(row[0]) for row in self._tx.all(MAKE_KEYS, keys=text_array(missing))}

    @override
    def _first_heads(
        self, queue: str, wanted: Mapping[str, tuple[int, int]]
    ) -> Mapping[str, Sequence[Head[Row]]]:
        shares = number_array([given + number for given, number in wanted.values()])
        values: dict[str, object] = {"queue": queue, "lanes": text_array(list(wanted)), "shares": shares}
        heads = HEADS
        if self._floors is not None:
            heads, places = HEADS_FROM_FLOORS, [self._floors.of(queue, lane) for lane in wanted]
            for place, name in enumerate(("priorities", "ats", "afters")):
                values[name] = number_array([one[place] for one in places])
        rows: dict[str, list[Row]] = {lane: [] for lane in wanted}
        for row in self._tx.all(heads, **values):
            rows[row[_LANE]].append(row)
        return {lane: self._new_of(queue, lane, rows[lane], number) for lane, (_, number) in wanted.items()}

    @override
    def holder_groups(self, seqs: Sequence[int]) -> Iterable[tuple[str, Any, str, str, Iterable[str]]]:
        """Group the jobs on the server, so that a thousand jobs with one key are one row."""
        for state, is_held, queue, lane, alike in self._tx.all(_HOLDER_GROUPS, seqs=seqs):
            yield state, is_held, queue, lane, alike.split()

    @override
    def store_rows(self, rows: Mapping[str, KeyRow]) -> None:
        self.kept.update(rows)

    @property
    def values(self) -> dict[str, object]:
        """The parameters of `TAKE` for the keys."""
        kept = self.kept.values()
        lists = [None if row.holders is None else " ".join(row.holders) for row in kept]
        return {
            "keys": text_array(list(self.kept)),
            "lists": text_array(lists),
            "arrivals": number_array([row.next_arrival_at for row in kept]),
        }


class HeldLanes(SqlLanes):
    """The lanes within a transaction that did not begin as a claim with lanes."""

    @override
    def lock_settings(self) -> None:
        self._tx.one(_LOCK_SETTINGS_SHARED)
