"""Limits: the lanes in which jobs wait for their keys, and the rows of the keys.

The row of a key lists the numbers of the jobs that were claimed with it. SQLite reuses the number of the last
row after that row was pruned, so a listed job counts only if its lane contains the key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import attrs
from typing_extensions import override

from firelock.limits import (
    LINE_LANES,
    LINE_LENGTH,
    Head,
    HolderFacts,
    KeyedLanes,
    KeyRow,
    LaneReading,
    LeavingOut,
    LimitSettings,
    Spot,
    arrival_after_spend,
    in_turns,
    is_past_holder,
    keys_of,
    name_of,
    parts_of,
    place_of,
    read_settings,
    settings_for,
    spots,
)
from firelock.storage import (
    ANY_QUEUE,
    FINAL_STATES,
    Feature,
    KeyState,
    State,
    StorageError,
    WaitingJobs,
    read_admission,
)
from firelock_sql.connections.counting import known_queues
from firelock_sql.connections.database import RowLocked, SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.rows.job_row import CLAIMABLE, read_state, readable_admission

LIMIT = "limit"
"""The kind of records that contain the settings of limits."""

IN_LANE = "state = 'enqueued' AND session IS NULL AND lane IS NOT NULL"
_INDEXED = "FROM firelock_jobs INDEXED BY firelock_lanes WHERE " + IN_LANE
_NEXT_LANE = f"SELECT lane {_INDEXED} AND queue = :queue AND lane >"
_BY_NAME = "ORDER BY lane LIMIT 1"
# One index lookup per lane, regardless of the number of jobs in it.
WALK = Text(f"""
WITH RECURSIVE walk (lane, number) AS (
    SELECT ({_NEXT_LANE} :after {_BY_NAME}), 1
    UNION ALL SELECT ({_NEXT_LANE} walk.lane {_BY_NAME}), number + 1 FROM walk
    WHERE lane IS NOT NULL AND number < :most
) SELECT lane FROM walk WHERE lane IS NOT NULL
""")  # noqa: S608 - our own conditions
_IS_IN_LANE = Text(f"SELECT 1 {_INDEXED} AND queue = :queue AND lane = :lane LIMIT 1")
SETTINGS = Text("SELECT key, value FROM firelock_records WHERE kind = 'limit' AND key IN :ids")
_KEYS = "SELECT key, holders, next_arrival_at FROM firelock_limit_keys WHERE key IN :ids ORDER BY key"
READ_KEYS = Text(_KEYS)
LOCK_KEYS, LOCK_FREE_KEYS = Text(f"{_KEYS} FOR UPDATE"), Text(f"{_KEYS} FOR UPDATE SKIP LOCKED")
# For a claim that may wait briefly for locked keys; such a claim runs in a brief transaction.
LOCK_KEYS_BRIEFLY = Text(f"{_KEYS} FOR UPDATE NOWAIT")
MAKE_KEY = Text("""
INSERT INTO firelock_limit_keys (key, holders, next_arrival_at) VALUES (:key, NULL, 0)
ON CONFLICT (key) DO NOTHING
""")
KEEP_KEY = Text("""
INSERT INTO firelock_limit_keys (key, holders, next_arrival_at) VALUES (:key, :holders, :next_arrival_at)
ON CONFLICT (key) DO UPDATE SET holders = excluded.holders, next_arrival_at = excluded.next_arrival_at
""")
_HOLDERS = Text("""
SELECT state, session IS NOT NULL, queue, lane, seq FROM firelock_jobs
WHERE seq IN :seqs AND lane IS NOT NULL
""")
_HELD = Text("""
SELECT seq, lane, admission_json FROM firelock_jobs INDEXED BY firelock_holder
WHERE session IS NOT NULL AND lane IS NOT NULL ORDER BY seq
""")
HEAD_COLUMNS = ", ".join(CLAIMABLE)
HEADS = Text(f"""
SELECT {HEAD_COLUMNS} {_INDEXED} AND queue = :queue AND lane = :lane
ORDER BY priority DESC, enqueued_at, seq LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
""")
_HEAD = Text(f"""
SELECT {HEAD_COLUMNS} FROM firelock_jobs INDEXED BY seq WHERE seq IN :seqs AND {IN_LANE}
FOR NO KEY UPDATE SKIP LOCKED
""")  # noqa: S608 - names of columns
_NEAR = Text(f"""
SELECT seq, task {_INDEXED} AND queue = :queue AND lane = :lane
ORDER BY priority DESC, enqueued_at, seq LIMIT :most
""")
_ID, _TASK, _QUEUE, _ATTEMPT, _CRASHES, _ENQUEUED_AT, _ADMISSION, _SEQ, _LANE = map(
    CLAIMABLE.index,
    (
        "id", "task", "queue", "attempt", "crashes", "enqueued_at", "admission_json", "seq", "lane",
    ),
)  # fmt: skip

STRICT = "!"
_NO_KEYS: frozenset[str] = frozenset()
Row = Sequence[Any]


class SqlLanes(KeyedLanes[Row]):
    """The lanes of a database within one transaction, with statements that run on every database.

    Unreadable jobs are omitted; `unreadable` contains their ids.
    """

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        # pairs of a key and the numbers of the jobs that it lists
        self._listed: list[tuple[str, Iterable[str]]] = []
        # numbers of the jobs that were returned, by queue and lane
        self._given: dict[tuple[str, str], set[str]] = {}
        self.unreadable: list[str] = []

    @override
    def read_lanes(self, queue: str, after: str, until: str, limit: int, *, is_patient: bool) -> LaneReading:
        lanes = self.walk(queue, after, limit)
        if until:
            lanes = [lane for lane in lanes if lane <= until]
        return self._lane_reading(lanes, is_patient=is_patient)

    @override
    def read_named_lanes(self, queue: str, lanes: Sequence[str]) -> LaneReading:
        with_work = [lane for lane in lanes if self._tx.one(_IS_IN_LANE, queue=queue, lane=lane) is not None]
        return self._lane_reading(with_work, is_patient=False)

    @override
    def holder_facts(self, refs: Sequence[str]) -> Mapping[str, HolderFacts]:
        facts: dict[str, HolderFacts] = {}
        listing = self._keys_listing(refs)
        for state, is_held, queue, lane, seqs in self.holder_groups([int(ref) for ref in refs]):
            keys = keys_of(lane)
            is_final = read_state(state) in FINAL_STATES
            is_waiting = state == State.ENQUEUED and not is_held
            one = HolderFacts(bool(is_held), is_final, (queue, lane) if is_waiting else None)
            facts |= {ref: one for ref in seqs if not listing.get(ref, _NO_KEYS).isdisjoint(keys)}
        return facts

    def _keys_listing(self, refs: Sequence[str]) -> Mapping[str, set[str]]:
        """Return, for each of these jobs, the keys that list it."""
        listing: dict[str, set[str]] = {ref: set() for ref in refs}
        for key, listed in self._listed:
            for ref in listed:
                if (number := ref.rstrip(STRICT)) in listing:
                    listing[number].add(key)
        return listing

    @override
    def current_holders(self, key: str) -> Sequence[str]:
        rows = self._tx.all(_HELD)
        found = [
            _listed_as(seq, admission_json, key) for seq, lane, admission_json in rows if key in keys_of(lane)
        ]
        self._note(key, found)
        return found

    @override
    def heads(
        self, queue: str, wanted: Mapping[str, tuple[int, int]], leaving_out: LeavingOut | None = None
    ) -> Mapping[str, Sequence[Head[Row]]]:
        if leaving_out is not None:
            return self._heads_leaving_out(queue, wanted, leaving_out)
        return self._first_heads(queue, wanted)

    def _first_heads(
        self, queue: str, wanted: Mapping[str, tuple[int, int]]
    ) -> Mapping[str, Sequence[Head[Row]]]:
        """Return the result of `heads` for a claim that does not skip tasks."""
        return {
            lane: self._new_of(queue, lane, self.rows_of(queue, lane, given + number), number)
            for lane, (given, number) in wanted.items()
        }

    def _heads_leaving_out(
        self, queue: str, wanted: Mapping[str, tuple[int, int]], leaving_out: LeavingOut
    ) -> Mapping[str, Sequence[Head[Row]]]:
        """Return the result of `heads` for a claim that skips tasks.

        Read candidates without locks, then lock the candidates that may start.
        """
        depth = leaving_out.depth(len(wanted))
        chosen: dict[int, str] = {}  # lanes, keyed by the number of their job, in order
        for lane, (_, number) in wanted.items():
            given = self._given.get((queue, lane), _NO_KEYS)
            near = self._tx.all(_NEAR, queue=queue, lane=lane, most=depth) if depth else ()
            seqs = [seq for seq, task in near if leaving_out.examine(task) and str(seq) not in given]
            chosen |= dict.fromkeys(seqs[:number], lane)
        found = {row[_SEQ]: row for row in self._tx.all(_HEAD, seqs=list(chosen))} if chosen else {}
        rows: dict[str, list[Row]] = {lane: [] for lane in wanted}
        for seq, lane in chosen.items():
            if seq in found:
                rows[lane].append(found[seq])
        return {lane: self._new_of(queue, lane, rows[lane], number) for lane, (_, number) in wanted.items()}

    @override
    def head(self, ref: str, leaving_out: LeavingOut | None = None) -> Head[Row] | None:
        found = self._tx.one(_HEAD, seqs=[int(ref)])
        if found is not None and leaving_out is not None and not leaving_out.examine(found[_TASK]):
            return None
        head = None if found is None else self._read(found)
        if head is not None:
            self._given.setdefault((found[_QUEUE], found[_LANE]), set()).add(ref)
        return head

    @override
    def put_back(self, heads: Sequence[Head[Row]]) -> None:
        for head in heads:  # the rows stay locked, and become the heads of their lanes again
            self._given[head.row[_QUEUE], head.row[_LANE]].discard(head.ref)

    @override
    def store_rows(self, rows: Mapping[str, KeyRow]) -> None:
        self._tx.run_many(KEEP_KEY, [key_values(key, row) for key, row in rows.items()])

    # ---- overridden by some databases --------------------------------------------------------------------

    def lock_settings(self) -> None:
        """Prevent changes of limits until this transaction ends: see `SqlRecordVerbs._hold_claims`."""

    def walk(self, queue: str, after: str, limit: int) -> list[str]:
        """Return up to `limit` lanes with work whose names come after `after`, in order."""
        return [str(row[0]) for row in self._tx.all(WALK, queue=queue, after=after, most=limit)]

    def lock(self, keys: Sequence[str], limited: Collection[str], *, is_patient: bool) -> LockedKeys:
        """Lock these keys and return their rows; create missing rows for limited keys."""
        tx = self._tx
        locked = LockedKeys(
            read_keys(tx.all(LOCK_KEYS_BRIEFLY if is_patient else LOCK_FREE_KEYS, ids=list(keys)))
        )
        if missing := sorted(set(limited) - locked.rows.keys()):
            busy = {str(row[0]) for row in tx.all(READ_KEYS, ids=missing)}
            for key in missing:
                if key not in busy and tx.changed(MAKE_KEY, key=key):
                    locked.rows[key] = KeyRow()
                else:
                    locked.busy.append(key)
        return locked

    def holder_groups(self, seqs: Sequence[int]) -> Iterable[tuple[str, Any, str, str, Iterable[str]]]:
        """Yield groups of jobs with their state, whether a session holds them, queue, lane and numbers."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for *facts, seq in self._tx.all(_HOLDERS, seqs=seqs):
            groups.setdefault(tuple(facts), []).append(str(seq))
        for (state, is_held, queue, lane), alike in groups.items():
            yield state, is_held, queue, lane, alike

    def rows_of(self, queue: str, lane: str, most: int) -> list[Row]:
        """Return the first rows of a lane, locked for this transaction."""
        return self._tx.all(HEADS, queue=queue, lane=lane, most=most)

    # ---- helpers -----------------------------------------------------------------------------------------

    def _lane_reading(self, lanes: Sequence[str], *, is_patient: bool) -> LaneReading:
        if not lanes:
            return LaneReading([], {}, {})
        keys = sorted({key for lane in lanes for key in keys_of(lane)})
        settings = settings_of(self._tx, keys)
        limited = [key for key in keys if is_limited(key, settings)]
        locked = self.lock(keys, limited, is_patient=is_patient)
        for key, row in locked.rows.items():
            self._note(key, row.holders or ())
        return LaneReading(lanes, settings, locked.rows, locked.busy)

    def _note(self, key: str, refs: Iterable[str]) -> None:
        """Remember which jobs a key lists; most claims do not read any of these jobs."""
        self._listed.append((key, refs))

    def _new_of(self, queue: str, lane: str, rows: Sequence[Row], number: int) -> list[Head[Row]]:
        """Return up to `number` rows of a lane that were not returned before; record them as returned."""
        given = self._given.setdefault((queue, lane), set())
        new = (head for row in rows if str(row[_SEQ]) not in given and (head := self._read(row)) is not None)
        heads = [head for head, _ in zip(new, range(number), strict=False)]
        given.update(head.ref for head in heads)
        return heads

    def _read(self, row: Row) -> Head[Row] | None:
        """Return the row as a head; None if it is unreadable."""
        try:
            return Head(
                str(row[_SEQ]), readable_admission(row[_ADMISSION]), row[_ENQUEUED_AT] + 0,
                row[_ATTEMPT] + 0, row[_CRASHES] + 0, row,
            )  # fmt: skip
        except (StorageError, TypeError):
            self.unreadable.append(row[_ID])
            return None


@attrs.define
class LockedKeys:
    """The rows of keys that this transaction has locked, and the keys that other transactions have locked."""

    rows: dict[str, KeyRow]
    busy: list[str] = attrs.field(factory=list)


def read_keys(rows: Iterable[Row]) -> dict[str, KeyRow]:
    """Return the rows of keys as a mapping by key."""
    return {
        key: KeyRow(None if holders is None else tuple(holders.split()), next_arrival_at)
        for key, holders, next_arrival_at in rows
    }


def key_values(key: str, row: KeyRow) -> dict[str, object]:
    """Return the parameters of `KEEP_KEY`."""
    holders = None if row.holders is None else " ".join(row.holders)
    return {"key": key, "holders": holders, "next_arrival_at": row.next_arrival_at}


def settings_of(tx: Transaction, keys: Iterable[str]) -> dict[str, LimitSettings]:
    """Return the stored settings of these keys and of their names."""
    wanted = sorted({name for key in keys for name in (key, name_of(key))})
    return {key: settings_in(value) for key, value in tx.all(SETTINGS, ids=wanted)}


@lru_cache(maxsize=1_024)
def settings_in(value: str) -> LimitSettings:
    """Return the settings in a record; an unreadable record sets no limit."""
    try:
        return read_settings(value)
    except StorageError:
        return LimitSettings()


def is_limited(key: str, settings: Mapping[str, LimitSettings]) -> bool:
    """Return whether a key has settings or is paused."""
    found = settings_for(key, settings)
    return found.has_any or found.is_paused


def _listed_as(seq: int, admission_json: str, key: str) -> str:
    """Return the reference with which a key lists a job that holds it."""
    is_strict = any(use.is_strict and use.key == key for use in read_admission(admission_json).limits)
    return f"{seq}{STRICT}" if is_strict else str(seq)


# ---- queries and commands --------------------------------------------------------------------------------

SHOWN_HOLDERS, SHOWN_OTHERS, COUNTED = 100, 10, 10_000
_NEXT_QUEUE = Text(f"SELECT queue {_INDEXED} AND queue > :previous ORDER BY queue LIMIT 1")
_COUNT = Text(f"""
SELECT count(*) FROM (SELECT 1 {_INDEXED} AND queue = :queue AND lane = :lane LIMIT :most) AS few
""")  # noqa: S608 - our own conditions
# A part of a lane, in the order of its index.
_IDS = Text(f"""
SELECT id {_INDEXED} AND queue = :queue AND lane = :lane
ORDER BY priority DESC, enqueued_at, seq LIMIT :most OFFSET :skipped
""")
_REQUESTED = Text(f"""
SELECT queue, lane, priority, enqueued_at, seq FROM firelock_jobs WHERE id = :id AND {IN_LANE}
""")  # noqa: S608 - our own conditions
# The number of jobs before a given job of a lane. Each count reads a range of the index, up to the maximum.
_ALIKE = f"{_INDEXED} AND queue = :queue AND lane = :lane AND priority"
_BEFORE = Text(f"""
SELECT (SELECT count(*) FROM (SELECT 1 {_ALIKE} > :priority LIMIT :most) AS higher)
    + (SELECT count(*) FROM (
        SELECT 1 {_ALIKE} = :priority AND enqueued_at < :enqueued_at LIMIT :most
    ) AS older)
    + (SELECT count(*) FROM (
        SELECT 1 {_ALIKE} = :priority AND enqueued_at = :enqueued_at AND seq < :seq LIMIT :most
    ) AS earlier)
""")  # noqa: S608 - our own conditions
_CLAIMED = Text("""
SELECT id, lane, claimed_at FROM firelock_jobs INDEXED BY firelock_holder
WHERE session IS NOT NULL AND lane IS NOT NULL ORDER BY claimed_at, seq
""")
_STRICT_KEYS = Text("""
SELECT key, holders, next_arrival_at FROM firelock_limit_keys
WHERE key > :after AND key >= :prefix AND substr(key, 1, :length) = :prefix
    AND (next_arrival_at > :now OR replace(holders, '!', '') <> holders)
ORDER BY key
""")
_LISTED = Text("SELECT seq, id, state, session, lane FROM firelock_jobs WHERE seq IN :seqs")
_SOME_KEYS = "SELECT key, holders, next_arrival_at FROM firelock_limit_keys"
_SOME = Text(f"{_SOME_KEYS} WHERE key > :after ORDER BY key LIMIT :most")
_LOCK_SOME = Text(f"{_SOME_KEYS} WHERE key IN :ids ORDER BY key FOR UPDATE SKIP LOCKED")
_FORGET = Text("DELETE FROM firelock_limit_keys WHERE key IN :ids")


def queues_with_lanes(tx: Transaction) -> list[str]:
    """Return every queue in which jobs wait in lanes, using one index lookup per queue."""
    names: list[str] = []
    while found := tx.one(_NEXT_QUEUE, previous=names[-1] if names else ""):
        names.append(str(found[0]))
    return names


class SqlLimitVerbs(SqlVerbs):
    """The verbs for individual limit keys."""

    @override
    def spend(self, key: str, *, cost: int = 0, until: int | None = None) -> int:
        self._offers_limits(key)
        return self._database.write(lambda tx: self._spend(tx, key, cost, until))

    @override
    def block(self, key: str, *, until: int) -> bool:
        self._offers_limits(key)
        try:
            self._database.write_briefly(lambda tx: self._spend(tx, key, 0, until))
        except RowLocked:
            return False
        return True

    def _offers_limits(self, about: str) -> None:
        if Feature.LIMITS not in self.features:
            raise self._without(Feature.LIMITS, about)

    def _spend(self, tx: Transaction, key: str, cost: int, until: int | None) -> int:
        settings = settings_for(key, settings_of(tx, [key]))
        tx.changed(MAKE_KEY, key=key)
        row = read_keys(tx.all(LOCK_KEYS, ids=[key]))[key]
        previous = row.next_arrival_at
        arrival_at = arrival_after_spend(settings, previous, cost=cost, until=until, now=tx.now)
        if arrival_at != previous:
            tx.run_many(KEEP_KEY, [key_values(key, KeyRow(row.holders, arrival_at))])
        if arrival_at < previous:
            tx.woken.add(ANY_QUEUE)  # wakes servers that sleep until the key allows a job
        return max(0, round(settings.opens_at(arrival_at)))

    @override
    def find_keys(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[KeyState]:
        """See `Storage.find_keys`. This verb reads every lane, with one index lookup per lane."""
        self._offers_limits(prefix)
        return self._database.read(
            lambda tx: _KeyStates(tx, prefix, after, limit, self._lanes_in(tx)).found()
        )

    @override
    def find_waiting(
        self, key: str, *, after: int = 0, limit: int = 100, job_id: str | None = None
    ) -> WaitingJobs:
        """See `Storage.find_waiting`. Like `find_keys`, this verb reads every lane."""
        self._offers_limits(key)

        def read(tx: Transaction) -> WaitingJobs:
            return _Line(tx, self._lanes_in(tx), key, job_id).part(after, limit)

        return self._database.read(read)

    def _lanes_in(self, tx: Transaction) -> SqlLanes:
        """Return the lanes as this transaction sees them."""
        return SqlLanes(tx)


class _KeyStates:
    """The holders of keys, and the jobs that wait for the keys."""

    def __init__(self, tx: Transaction, prefix: str, after: str, limit: int, lanes: SqlLanes) -> None:
        self._tx, self._prefix, self._after, self._limit = tx, prefix, after, limit
        self._lanes = lanes

    def found(self) -> list[KeyState]:
        running: dict[str, dict[str, None]] = {}  # by key: ids of jobs, in the order of their claims
        for id, lane, _ in self._tx.all(_CLAIMED):
            for key in self._wanted(lane):
                running.setdefault(key, {})[id] = None
        arrivals = self._add_strict_holders(running)
        waiting: dict[str, list[tuple[str, str]]] = {}
        for queue, lane in every_lane(self._tx, self._lanes):
            for key in self._wanted(lane):
                waiting.setdefault(key, []).append((queue, lane))
        keys = sorted({*running, *waiting, *(key for key, at in arrivals.items() if at > self._tx.now)})
        shown = keys[: self._limit]
        missing = [key for key in shown if key not in arrivals]
        rows = read_keys(self._tx.all(READ_KEYS, ids=missing))
        arrivals |= {key: row.next_arrival_at for key, row in rows.items()}
        return [
            KeyState(
                key=key,
                holders=tuple(list(running.get(key, ()))[:SHOWN_HOLDERS]),
                running=len(running.get(key, ())),
                waiting=self._count(waiting.get(key, ())),
                next_arrival_at=arrivals.get(key, 0),
                others=_others(key, waiting.get(key, ())),
            )
            for key in shown
        ]

    def _wanted(self, lane: str) -> list[str]:
        return [key for key in keys_of(lane) if key.startswith(self._prefix) and key > self._after]

    def _add_strict_holders(self, running: dict[str, dict[str, None]]) -> dict[str, int]:
        """Add jobs that hold a key strictly, and are between two attempts, to `running`.

        For each key with a used rate or a strict holder, return when the rate allows the next unit.
        """
        found: dict[str, int] = {}
        asked = {"prefix": self._prefix, "length": len(self._prefix), "after": self._after}
        strict: list[tuple[str, str]] = []
        for key, row in read_keys(self._tx.all(_STRICT_KEYS, **asked, now=self._tx.now)).items():
            found[key] = row.next_arrival_at
            strict += [(key, ref.rstrip(STRICT)) for ref in row.holders or () if ref.endswith(STRICT)]
        listed = listed_jobs(self._tx, {ref for _, ref in strict})
        for key, ref in strict:
            job = listed.get(ref)
            if job is not None and not is_past_holder(job.facts, is_strict=True) and key in keys_of(job.lane):
                running.setdefault(key, {})[job.id] = None
        return found

    def _count(self, lanes: Iterable[tuple[str, str]]) -> int:
        number = 0
        for queue, lane in lanes:
            if number < COUNTED:
                number += int(self._tx.one(_COUNT, queue=queue, lane=lane, most=COUNTED - number)[0])
        return number


_LANES_AT_ONCE = 1_000


def every_lane(tx: Transaction, lanes: SqlLanes) -> Iterator[tuple[str, str]]:
    """Yield the queue and the name of each lane in which jobs wait."""
    for queue in known_queues(tx):
        after = ""
        while names := lanes.walk(queue, after, _LANES_AT_ONCE):
            yield from ((queue, lane) for lane in names)
            after = names[-1]


def _others(key: str, lanes: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the other keys in the lanes with this key, in order."""
    return tuple(sorted({other for _, lane in lanes for other in keys_of(lane)} - {key})[:SHOWN_OTHERS])


class _Line:
    """The jobs that wait for a key, in order, and the position of one of them."""

    def __init__(self, tx: Transaction, lanes: SqlLanes, key: str, job_id: str | None) -> None:
        self._tx = tx
        with_key = ((queue, lane) for queue, lane in every_lane(tx, lanes) if key in keys_of(lane))
        found = list(islice(with_key, LINE_LANES + 1))
        self._is_cut, self._lanes = len(found) > LINE_LANES, found[:LINE_LANES]
        row = None if job_id is None else tx.one(_REQUESTED, id=job_id)
        self._requested = None if row is None or key not in keys_of(row[1]) else row

    def part(self, after: int, limit: int) -> WaitingJobs:
        """Return the jobs of a part of the line, and the position of the job."""
        place = None if self._requested is None else self._place(*self._requested)
        found = spots(self._count, len(self._lanes), after, limit)
        parts = parts_of(found)
        asked = [
            (_IDS, {**self._names(lane), "skipped": skipped, "most": number})
            for lane, (skipped, number) in parts.items()
        ]
        rows = self._tx.each(asked) if asked else []
        ids = {lane: [str(id) for (id,) in some] for lane, some in zip(parts, rows, strict=True)}
        return WaitingJobs(in_turns(found, ids), place, self._is_cut)

    def _place(self, queue: str, lane: str, priority: int, enqueued_at: int, seq: int) -> int:
        own = (str(queue), str(lane))
        if own not in self._lanes:
            self._lanes.append(own)
        at = {"priority": priority, "enqueued_at": enqueued_at, "seq": seq, "most": LINE_LENGTH}
        rank = int(self._tx.one(_BEFORE, queue=queue, lane=lane, **at)[0])
        return place_of(self._count, len(self._lanes), Spot(self._lanes.index(own), rank))

    def _count(self, of: Sequence[int], most: int) -> list[int]:
        rows = self._tx.each([(_COUNT, {**self._names(lane), "most": most}) for lane in of])
        return [int(some[0][0]) for some in rows]

    def _names(self, lane: int) -> dict[str, object]:
        queue, name = self._lanes[lane]
        return {"queue": queue, "lane": name}


@attrs.frozen
class _Listed:
    """A job in the list of a key."""

    id: str
    lane: str
    facts: HolderFacts


def listed_jobs(tx: Transaction, refs: Collection[str]) -> dict[str, _Listed]:
    """Return the listed jobs, keyed by their numbers."""
    rows = tx.all(_LISTED, seqs=sorted(map(int, refs))) if refs else []
    return {
        str(seq): _Listed(id, lane or "", HolderFacts(session is not None, read_state(state) in FINAL_STATES))
        for seq, id, state, session, lane in rows
    }


# ---- upkeep ----------------------------------------------------------------------------------------------


def idle_limits(tx: Transaction, after: str, limit: int) -> tuple[list[str], str]:
    """Return the idle keys among the next `limit` keys after `after`, and the key after which to continue.

    A key is idle if no job holds it and its rate does not block it. The second value is "" after the last
    key.
    """
    rows = read_keys(tx.all(_SOME, after=after, most=limit))
    return _idle(tx, rows), max(rows) if len(rows) == limit else ""


def forget_limits(tx: Transaction, keys: Sequence[str]) -> None:
    """Delete the given keys that are still idle and that no other transaction has locked."""
    gone = _idle(tx, read_keys(tx.all(_LOCK_SOME, ids=list(keys))))
    if gone:
        tx.run(_FORGET, ids=gone)


def _idle(tx: Transaction, rows: Mapping[str, KeyRow]) -> list[str]:
    refs = {ref.rstrip(STRICT) for row in rows.values() for ref in row.holders or ()}
    listed = listed_jobs(tx, refs)

    def is_held(key: str, ref: str) -> bool:
        job = listed.get(ref.rstrip(STRICT))
        if job is None or key not in keys_of(job.lane):
            return False
        return not is_past_holder(job.facts, is_strict=ref.endswith(STRICT))

    return [
        key
        for key, row in rows.items()
        if row.next_arrival_at <= tx.now and not any(is_held(key, ref) for ref in row.holders or ())
    ]
