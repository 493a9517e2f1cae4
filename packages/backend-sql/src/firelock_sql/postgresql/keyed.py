"""Claims among lanes on PostgreSQL: few statements, however many lanes and keys there are.

Transactions lock the session first, then the jobs that have ended, keys, and the jobs that they claim. Who
waits for a key holds none, and waits in the order of keys; who holds one waits for nobody. Only who has
locked no key yet makes new ones, in their order too. So no two claims stand in each other's way.

Who holds a key is asked by a statement behind the one that locks it: that one's snapshot is older than the
lock, and would not show what others committed while they had it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from typing_extensions import override

from firelock.storage.admission import Head, KeyRow, LaneCursors, LaneLook, keys_of, numbers_for
from firelock_sql.claim import MixedClaim, ReadyRow
from firelock_sql.job_row import CLAIMED_COLUMNS
from firelock_sql.limits import IN_LANE, Row, SqlLanes, numbers_in, read_keys
from firelock_sql.postgresql.connect import number_array, text_array
from firelock_sql.transaction import Text, Transaction

_NEXT = f"SELECT held_by FROM firelock_jobs WHERE {IN_LANE} AND queue = :queue AND held_by >"  # noqa: S608
# An index step a lane. A row is a lane, a key's row that is locked now, a key that has a row, or numbers.
_LOOK = f"""
WITH RECURSIVE walk (lane, place) AS (
    SELECT ({_NEXT} :after ORDER BY held_by LIMIT 1), 1::bigint WHERE :most > 0
    UNION ALL
    SELECT ({_NEXT} walk.lane ORDER BY held_by LIMIT 1), place + 1 FROM walk
    WHERE walk.lane IS NOT NULL AND place < :most AND (:until = '' OR walk.lane < :until)
), seen AS MATERIALIZED (
    SELECT lane, place FROM walk WHERE lane IS NOT NULL AND (:until = '' OR lane <= :until)
    UNION ALL
    SELECT lane, place FROM unnest(:lanes::text[]) WITH ORDINALITY AS named (lane, place)
    WHERE EXISTS (SELECT FROM firelock_jobs WHERE {IN_LANE} AND queue = :queue AND held_by = named.lane)
), wanted AS MATERIALIZED (
    SELECT DISTINCT key FROM seen, LATERAL unnest(string_to_array(lane, chr(10))) AS key
), locked AS MATERIALIZED (
    SELECT key, holders, free_at FROM firelock_limit_keys
    WHERE key = ANY (ARRAY (SELECT key FROM wanted)) ORDER BY key FOR NO KEY UPDATE
)
SELECT 'lane', lane, NULL, place FROM seen
UNION ALL SELECT 'row', key, holders, free_at FROM locked
UNION ALL
SELECT 'known', key, NULL, NULL FROM firelock_limit_keys WHERE key = ANY (ARRAY (SELECT key FROM wanted))
UNION ALL SELECT 'numbers', key, value, NULL FROM firelock_records
WHERE kind = 'limit' AND key = ANY (ARRAY (
    SELECT key FROM wanted UNION ALL SELECT regexp_replace(key, ':[^/]*', '', 'g') FROM wanted
))
"""  # noqa: S608 - conditions of ours
LOOK, LOOK_PATIENTLY = Text(_LOOK.replace("NO KEY UPDATE", "NO KEY UPDATE SKIP LOCKED")), Text(_LOOK)
MAKE_KEYS = Text("""
INSERT INTO firelock_limit_keys (key, holders, free_at) SELECT key, NULL, 0 FROM unnest(:keys::text[]) AS key
ON CONFLICT (key) DO NOTHING RETURNING key
""")
# The limit of 1,000 is for the planner: it knows nothing of the one around it.
HEADS = Text(f"""
SELECT job.* FROM unnest(:lanes::text[], :shares::integer[]) AS asked (lane, share), LATERAL (
    SELECT * FROM (
        SELECT {CLAIMED_COLUMNS}, seq, is_parent, held_by FROM firelock_jobs
        WHERE {IN_LANE} AND queue = :queue AND held_by = asked.lane
        ORDER BY priority DESC, enqueued_at, seq LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED
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
    UPDATE firelock_limit_keys AS stored SET holders = new.holders, free_at = new.free_at
    FROM unnest(:keys::text[], :lists::text[], :frees::bigint[]) AS new (key, holders, free_at)
    WHERE stored.key = new.key
)
INSERT INTO firelock_count_deltas (state, queue, jobs)
SELECT 'enqueued', queue, -count(*) FROM claimed GROUP BY queue
UNION ALL SELECT 'processing', queue, count(*) FROM claimed GROUP BY queue
""")
_LANE = 22  # its place in a head


class ClaimBeside(MixedClaim):
    """A claim that knows which queues have work without limits, and which have lanes.

    Args:
        plain, laned: those queues; none of them is paused.
    """

    def __init__(
        self,
        tx: Transaction,
        lanes: SqlLanes,
        cursors: LaneCursors,
        plain: Collection[str],
        laned: Collection[str],
    ) -> None:
        super().__init__(tx, lanes, cursors)
        self._plain, self._laned = frozenset(plain), frozenset(laned)

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
    """The lanes within one transaction; what a claim keeps is written by `TAKE`."""

    def __init__(self, tx: Transaction) -> None:
        super().__init__(tx)
        self.kept: dict[str, KeyRow] = {}
        self.missing: set[str] = set()  # keys without a row, which a transaction of its own has to make
        self.has_written = False
        self._has_locked = False

    @override
    def look(self, queue: str, after: str, until: str, limit: int, *, is_patient: bool) -> LaneLook:
        look = LOOK_PATIENTLY if is_patient and not self._has_locked else LOOK
        values = {"queue": queue, "after": after, "until": until, "most": limit, "lanes": "{}"}
        return self._looked(self._tx.all(look, **values))

    @override
    def look_at(self, queue: str, lanes: Sequence[str]) -> LaneLook:
        values = {"queue": queue, "after": "", "until": "", "most": 0, "lanes": text_array(lanes)}
        return self._looked(self._tx.all(LOOK, **values))

    def _looked(self, found: Sequence[Row]) -> LaneLook:
        of: dict[str, list[Row]] = {"lane": [], "row": [], "known": [], "numbers": []}
        for kind, *row in found:
            of[kind].append(row)
        lanes = [lane for lane, _, _ in sorted(of["lane"], key=lambda row: row[2])]
        rows, numbers = read_keys(of["row"]), {key: numbers_in(value) for key, value, _ in of["numbers"]}
        busy = {key for key, _, _ in of["known"]}.difference(rows)
        limited = {key for lane in lanes for key in keys_of(lane) if numbers_for(key, numbers).has_any}
        if missing := sorted(limited.difference(rows, busy)):
            made = self._made(missing)
            rows |= dict.fromkeys(made, KeyRow())
            busy.update(set(missing) - made)
        self._has_locked |= bool(rows)
        for key, one in rows.items():
            self._note(key, one.holders or ())
        return LaneLook(lanes, numbers, rows, busy)

    def _made(self, missing: Sequence[str]) -> set[str]:
        """Return which of these keys have a row from now on, which nobody else can have."""
        if self._has_locked:
            self.missing.update(missing)
            return set()
        self.has_written = True
        return {str(row[0]) for row in self._tx.all(MAKE_KEYS, keys=text_array(missing))}

    @override
    def heads(self, queue: str, wanted: Mapping[str, tuple[int, int]]) -> Mapping[str, Sequence[Head[Row]]]:
        shares = number_array([given + number for given, number in wanted.values()])
        rows: dict[str, list[Row]] = {lane: [] for lane in wanted}
        for row in self._tx.all(HEADS, queue=queue, lanes=text_array(list(wanted)), shares=shares):
            rows[row[_LANE]].append(row)
        return {lane: self._new_of(queue, lane, rows[lane], number) for lane, (_, number) in wanted.items()}

    @override
    def keep(self, rows: Mapping[str, KeyRow]) -> None:
        self.kept.update(rows)

    @property
    def values(self) -> dict[str, object]:
        """What `TAKE` is told of the keys."""
        kept = self.kept.values()
        lists = [None if row.holders is None else " ".join(row.holders) for row in kept]
        return {
            "keys": text_array(list(self.kept)),
            "lists": text_array(lists),
            "frees": number_array([row.free_at for row in kept]),
        }
