"""`claim`: the choice of queues, their shares of the limit, and the assignment of rows to a session."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import attrs

from firelock.limits import KeyedClaim, LaneCursors, examined_share, keyed_room, take_shares
from firelock.storage import (
    Claim,
    ClaimedJob,
    ClaimRequest,
    ErrorInfo,
    State,
    StorageError,
    Transition,
)
from firelock_sql.connections.full_reads import EARLIEST
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.rows.job_row import CLAIMABLE, CLAIMABLE_WITHOUT_LIMITS, read_list, readable_admission
from firelock_sql.rows.marks import HAS_MEMOS
from firelock_sql.verbs.limits import IN_LANE, SqlLanes, queues_with_lanes
from firelock_sql.verbs.settle import apply_transitions

_HAS_LANES = f"EXISTS (SELECT 1 FROM firelock_jobs INDEXED BY firelock_lanes WHERE {IN_LANE})"  # noqa: S608
LIVING = "FROM firelock_sessions WHERE id = :session AND died_at IS NULL"
SERVER = Text("SELECT server FROM firelock_sessions WHERE id = :session AND died_at IS NULL")
SERVING = Text("SELECT server FROM firelock_sessions WHERE id = :session AND died_at IS NULL FOR KEY SHARE")
_SERVER_AND_LANES = Text(f"SELECT server, {_HAS_LANES} {LIVING}")
_SERVING_AND_LANES = Text(f"SELECT server, {_HAS_LANES} {LIVING} FOR KEY SHARE")
PAUSED = Text("SELECT key FROM firelock_records WHERE is_paused = 1")
NEXT_WITH_WORK = Text("""
SELECT queue FROM firelock_jobs INDEXED BY firelock_ready
WHERE state = 'enqueued' AND session IS NULL AND lane IS NULL AND queue > :previous ORDER BY queue LIMIT 1
""")
_WITH_WORK = Text("SELECT queue FROM firelock_counts WHERE state = 'enqueued' AND jobs > 0")
DUE = Text("""
SELECT due_at FROM firelock_jobs INDEXED BY firelock_due
WHERE due_at IS NOT NULL ORDER BY due_at LIMIT 1
""")
_DUE_FROM = Text("""
SELECT due_at FROM firelock_jobs INDEXED BY firelock_due
WHERE due_at IS NOT NULL AND due_at >= :due_from ORDER BY due_at LIMIT 1
""")
_DUE_LATER = Text("""
SELECT due_at FROM firelock_jobs INDEXED BY firelock_due WHERE due_at > :now ORDER BY due_at LIMIT 1
""")
FIRING = Text("""
SELECT due_at FROM firelock_recurring
WHERE kind = 'recurring' AND due_at IS NOT NULL ORDER BY due_at LIMIT 1
""")
_COLUMNS = ", ".join(CLAIMABLE_WITHOUT_LIMITS)
READY = Text(f"""
SELECT {_COLUMNS} FROM firelock_jobs INDEXED BY firelock_ready
WHERE state = 'enqueued' AND session IS NULL AND lane IS NULL AND queue = :queue
ORDER BY priority DESC, enqueued_at, seq LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
""")  # noqa: S608 - names of columns
IS_READY = Text("""
SELECT 1 FROM firelock_jobs INDEXED BY firelock_ready
WHERE state = 'enqueued' AND session IS NULL AND lane IS NULL AND queue = :queue LIMIT 1
""")
_IS_IN_LANES = Text(f"""
SELECT 1 FROM firelock_jobs INDEXED BY firelock_lanes WHERE {IN_LANE} AND queue = :queue LIMIT 1
""")  # noqa: S608 - our own condition

# If a claim skips tasks, it first reads candidates without locks, and then locks the selected ones.
_NEAR = Text("""
SELECT seq, task FROM firelock_jobs INDEXED BY firelock_ready
WHERE state = 'enqueued' AND session IS NULL AND lane IS NULL AND queue = :queue
ORDER BY priority DESC, enqueued_at, seq LIMIT :most
""")
_READY_BY_NUMBER = Text(f"""
SELECT {_COLUMNS} FROM firelock_jobs INDEXED BY seq
WHERE seq IN :seqs AND state = 'enqueued' AND session IS NULL AND lane IS NULL
FOR NO KEY UPDATE SKIP LOCKED
""")  # noqa: S608 - names of columns

ReadyRow = Sequence[Any]  # a row with the columns `CLAIMABLE`; without `lane` if the job is not in a lane
_ID, _QUEUE, _PRIORITY, _TAGS = map(CLAIMABLE.index, ("id", "queue", "priority", "tags"))
PLACE_SEQ, PLACE_MARKS = map(CLAIMABLE.index, ("seq", "marks"))
TakeReady = Callable[[str, int], Sequence[ReadyRow]]
"""A function of a queue and a limit that locks and returns the first claimable rows that are in no lane."""


class QueueTurns:
    """The order of queues for claims that do not name queues; each process starts at a random queue."""

    def __init__(self) -> None:
        self._served = random.choice("0abcdefghijklmnopqrstuvwxyz")  # noqa: S311 - not a secret

    @property
    def last(self) -> str:
        """The queue that was served last."""
        return self._served

    def of(self, names: Sequence[str]) -> list[str]:
        """Return the names in order, starting after the queue that was served last."""
        start = next((place for place, name in enumerate(names) if name > self._served), 0)
        return [*names[start:], *names[:start]]

    def served(self, name: str) -> None:
        """Start the next claim after this queue."""
        self._served = name

    def rows(
        self, names: Sequence[str], limit: int, take: Callable[[str, int], Sequence[ReadyRow]]
    ) -> list[ReadyRow]:
        """Return an equal share of rows from each queue, starting after the queue that was served last."""
        rows = take_shares(self.of(names), limit, take)
        if rows:
            self.served(rows[-1][_QUEUE])
        return rows


def living_server(tx: Transaction, session: str) -> tuple[str | None, bool]:
    """Return the name of the session's server, and whether jobs wait in lanes.

    The name is None if the session is dead or unknown.
    """
    return _with_lanes(tx.one(_SERVER_AND_LANES, session=session))


def _with_lanes(found: Sequence[Any] | None) -> tuple[str | None, bool]:
    if found is None:
        return None, False
    server, has_lanes = found
    return str(server), bool(has_lanes)


def serving_with_lanes(tx: Transaction, session: str) -> tuple[str | None, bool]:
    """Return the same as `living_server`, and keep the session alive until this transaction ends."""
    return _with_lanes(tx.one(_SERVING_AND_LANES, session=session))


def serving(tx: Transaction, session: str) -> str | None:
    """Return the name of the session's server, and keep the session alive until this transaction ends.

    The name is None if the session is dead or unknown.
    """
    found = tx.one(SERVING, session=session)
    return None if found is None else str(found[0])


def next_due_at(tx: Transaction, due_from: int = EARLIEST) -> int | None:
    """Return the earliest due time of a scheduled or recurring job.

    Args:
        tx: the transaction.
        due_from: ignore jobs that are due before this time: see `DueFloor`.
    """
    return earlier(first_due(tx, due_from), next_firing(tx))


def next_due_if_locked(tx: Transaction, locked_until: int, due_from: int = EARLIEST) -> int | None:
    """Return the same as `next_due_at`, but treat jobs that are already due as due at `locked_until`.

    Call this after `promote`, when other transactions have locked the remaining due jobs.
    """
    first = first_due(tx, due_from)
    if first is not None and first <= tx.now:
        later = tx.one(_DUE_LATER, now=tx.now)
        first = earlier(locked_until, None if later is None else int(later[0]))
    return earlier(first, next_firing(tx))


def first_due(tx: Transaction, due_from: int = EARLIEST) -> int | None:
    """Return the earliest due time of a scheduled job that is not before `due_from`."""
    found = tx.one(DUE) if due_from == EARLIEST else tx.one(_DUE_FROM, due_from=due_from)
    return None if found is None else int(found[0])


def next_firing(tx: Transaction) -> int | None:
    """Return the earliest due time of a recurring job."""
    found = tx.one(FIRING)
    return None if found is None else int(found[0])


def earlier(*instants: int | None) -> int | None:
    """Return the earliest of these times; None if all are None."""
    return min((one for one in instants if one is not None), default=None)


def has_ready(tx: Transaction, request: ClaimRequest, *, has_lanes: bool) -> bool:
    """Return whether a claim may find work; this does not check limit keys, or the tasks of jobs in lanes."""
    names = _open_queues(tx, request.queues, has_lanes=has_lanes)
    near = NearRows(tx, request.left_out, len(names)) if request.left_out else None
    return any(
        (tx.one(IS_READY, queue=queue) if near is None else near.numbers(queue))
        or (has_lanes and tx.one(_IS_IN_LANES, queue=queue))
        for queue in names
    )


class NearRows:
    """The claimable rows outside lanes, for a claim that skips tasks."""

    def __init__(self, tx: Transaction, left_out: Collection[str], queues: int) -> None:
        self._tx, self._left_out = tx, left_out
        self._share = examined_share(queues)
        self._numbers: dict[str, list[int]] = {}

    def numbers(self, queue: str) -> list[int]:
        """Return the numbers of the claimable rows of a queue, in order."""
        if queue not in self._numbers:
            near = self._tx.all(_NEAR, queue=queue, most=self._share)
            self._numbers[queue] = [seq for seq, task in near if task not in self._left_out]
        return self._numbers[queue]

    def take(self, queue: str, limit: int) -> list[ReadyRow]:
        """Lock and return the first rows of a queue."""
        numbers = self.numbers(queue)
        rows: list[ReadyRow] = []
        while len(rows) < limit and numbers:
            some, numbers = numbers[: limit - len(rows)], numbers[limit - len(rows) :]
            found = {row[PLACE_SEQ]: row for row in self._tx.all(_READY_BY_NUMBER, seqs=some)}
            rows += [found[seq] for seq in some if seq in found]
        return rows


def ready_rows(tx: Transaction, request: ClaimRequest, turns: QueueTurns) -> list[ReadyRow]:
    """Return the rows to claim, in the order in which to run them; no job may wait in a lane."""
    queues, limit = request.queues, request.limit
    names = _open_queues(tx, queues, has_lanes=False)
    take = taking(tx, request, len(names))
    if queues is None and len(names) > 1:
        return rows_in_turn(names, limit, turns, take)
    rows: list[ReadyRow] = []
    for name in names:
        rows += take(name, limit - len(rows))
        if len(rows) >= limit:
            break
    return rows


def _open_queues(tx: Transaction, queues: Sequence[str] | None, *, has_lanes: bool) -> list[str]:
    paused = {row[0] for row in tx.all(PAUSED)}
    names = dict.fromkeys(queues) if queues is not None else _queues_with_work(tx, has_lanes=has_lanes)
    return [name for name in names if name not in paused]


def _queues_with_work(tx: Transaction, *, has_lanes: bool) -> list[str]:
    """Return every queue with enqueued jobs, including jobs that this transaction has enqueued.

    The table does not contain the transaction's own counts yet, because they are written at its end.
    """
    if tx.adds_deltas:
        names = queues_along_the_ready(tx)
        return sorted({*names, *queues_with_lanes(tx)}) if has_lanes else names
    stored = {str(row[0]) for row in tx.all(_WITH_WORK)}
    added = {queue for (state, queue), number in tx.deltas.items() if number > 0 and state == State.ENQUEUED}
    return sorted(stored | added)


def queues_along_the_ready(tx: Transaction) -> list[str]:
    """Return every queue with ready jobs, using one index lookup per queue."""
    names: list[str] = []
    while found := tx.one(NEXT_WITH_WORK, previous=names[-1] if names else ""):
        names.append(str(found[0]))
    return names


def ready_of(tx: Transaction, queue: str, limit: int) -> list[ReadyRow]:
    """Lock and return the first rows of one queue."""
    return tx.all(READY, queue=queue, most=limit)


def taking(tx: Transaction, request: ClaimRequest, queues: int) -> TakeReady:
    """Return the function that locks and returns rows outside lanes, for a claim of this many queues."""
    if request.left_out:
        return NearRows(tx, request.left_out, queues).take
    return partial(ready_of, tx)


def rows_in_turn(names: Sequence[str], limit: int, turns: QueueTurns, ready: TakeReady) -> list[ReadyRow]:
    """Return an equal share of rows from each queue; no queue may have lanes."""
    given: dict[str, set[str]] = {name: set() for name in names}

    def take(queue: str, room: int) -> list[ReadyRow]:
        known = given[queue]
        found = ready(queue, len(known) + room)  # earlier rows may have been unlocked in the meantime
        rows = [row for row in found if row[_ID] not in known][:room]
        known.update(row[_ID] for row in rows)
        return rows

    return turns.rows(names, limit, take)


class MixedClaim:
    """A claim while jobs wait in lanes; up to half of a queue's share comes from its lanes."""

    def __init__(self, tx: Transaction, lanes: SqlLanes, cursors: LaneCursors, request: ClaimRequest) -> None:
        self._tx, self._lanes, self._cursors, self._request = tx, lanes, cursors, request
        freed: dict[str, list[str]] = {}
        for _, queue, lane in tx.freed_keys:
            freed.setdefault(queue, []).append(lane)
        ended = [str(seq) for seq, _, _ in tx.freed_keys]
        names = self._names = self.open_queues(request.queues)
        self._ready = taking(tx, request, len(names))
        self._keyed = KeyedClaim(
            lanes, cursors, tx.now, ended=ended, freed=freed, left_out=request.left_out,
            share=examined_share(len(names)),
        )  # fmt: skip
        self._given: dict[str, set[str]] = {}  # jobs without limits, by queue

    @property
    def next_claim_at(self) -> int | None:
        """The next time at which a rate allows a job, or the current time if some lanes were not read."""
        return self._keyed.next_claim_at

    def rows(self, turns: QueueTurns) -> list[ReadyRow]:
        """Return the rows to claim, in the order in which to run them; store the changes of their keys."""
        names, queues, limit = self._names, self._request.queues, self._request.limit
        rows: list[ReadyRow] = []
        if queues is None and len(names) > 1:
            rows = turns.rows(names, limit, self._take)
        else:
            for name in names:
                if len(rows) < limit:
                    rows += self._take(name, limit - len(rows))
        self._keyed.finish()
        self._tx.freed_keys[:] = [
            (seq, queue, lane) for seq, queue, lane in self._tx.freed_keys if self._keyed.had_full_key(lane)
        ]
        if self._lanes.unreadable:
            apply_transitions(self._tx, [_quarantine(id, self._tx.now) for id in self._lanes.unreadable])
        return rows

    def _take(self, queue: str, room: int) -> list[ReadyRow]:
        given = self._given.setdefault(queue, set())
        # Rows before the returned ones may have been unlocked in the meantime.
        plain = [row for row in self.plain_rows(queue, len(given) + room) if row[_ID] not in given][:room]
        keyed = self.keyed_rows(queue, keyed_room(self._cursors, room, len(plain)))
        del plain[room - len(keyed) :]
        given.update(row[_ID] for row in plain)
        return sorted([*keyed, *plain], key=itemgetter(_PRIORITY), reverse=True)

    # ---- overridden by some databases --------------------------------------------------------------------

    def open_queues(self, queues: Sequence[str] | None) -> list[str]:
        """Return the queues to read."""
        return _open_queues(self._tx, queues, has_lanes=True)

    def plain_rows(self, queue: str, number: int) -> list[ReadyRow]:
        """Return the first rows of a queue that are not in a lane."""
        return list(self._ready(queue, number))

    def keyed_rows(self, queue: str, room: int) -> list[ReadyRow]:
        """Return up to this number of rows from the lanes of a queue."""
        return [head.row for head in self._keyed.take(queue, room)] if room > 0 else []


_PROCESSING, _ENQUEUED = State.PROCESSING.value, State.ENQUEUED.value

_TAKE = Text("""
UPDATE firelock_jobs
SET state = 'processing', attempt = attempt + 1, fence = fence + 1, session = :session, server = :server,
    claimed_at = :now, changed_at = :now, started_at = NULL, reason = NULL
WHERE seq IN :seqs
""")


@attrs.frozen
class ReadyRows:
    """The locked rows that a session may claim."""

    server: str | None  # the server of the session; None if the session is dead or unknown
    rows: Sequence[Any]
    next_due_at: int | None
    next_claim_at: int | None = None


@attrs.frozen
class TakenRows:
    """The result of a claim, with the previous contents of the rows."""

    claim: Claim
    rows: Sequence[Any]
    server: str


def take_rows(tx: Transaction, request: ClaimRequest, found: ReadyRows) -> TakenRows:
    """Assign the rows to the session; return the claim."""
    if found.server is None:
        return TakenRows(Claim([], found.next_due_at, is_session_lost=True), [], "")
    now, rows = request.now, found.rows
    claimed, unreadable = _claimed_of(rows, now)
    if unreadable:
        rows = [row for row in rows if row[_ID] not in unreadable]
        apply_transitions(tx, [_quarantine(id, now) for id in unreadable])
    if rows:
        seqs = [row[PLACE_SEQ] for row in rows]
        tx.run_many(_TAKE, [{"session": request.session, "server": found.server, "now": now, "seqs": seqs}])
        for queue, number in Counter(row[_QUEUE] for row in rows).items():
            tx.moved(queue, _ENQUEUED, _PROCESSING, number)
    claim = Claim(claimed, found.next_due_at, next_claim_at=found.next_claim_at)
    return TakenRows(claim, rows, found.server)


def _claimed_of(rows: Sequence[Any], now: int) -> tuple[list[ClaimedJob], list[str]]:
    """Return the rows as jobs, and the ids of unreadable rows; a SQLite column can contain any value."""
    try:
        return [claim_row(row, now) for row in rows], []
    except (TypeError, ValueError, StorageError):
        if len(rows) == 1:
            return [], [rows[0][_ID]]
    parts = [_claimed_of([row], now) for row in rows]
    return [job for jobs, _ in parts for job in jobs], [id for _, ids in parts for id in ids]


def _quarantine(id: str, now: int) -> Transition:
    """Return the transition for a job with an unreadable row: failed, and kept until a person deletes it."""
    error = ErrorInfo("firelock.StorageError", "a column contains an invalid value", "unreadable row")
    reason = f"the stored row cannot be read: {error.message}"
    return Transition(id, frozenset({State.ENQUEUED}), None, None, State.FAILED, now, reason, error=error)


def claim_row(row: Sequence[Any], now: int) -> ClaimedJob:
    """Return the job of an unclaimed row, with the values that the claim gives it."""
    job = ClaimedJob(*row[:PLACE_SEQ])
    job.attempt += 1  # an addition is also the cheapest check that the value is a number
    job.fence += 1
    job.retries += 0
    job.crashes += 0
    job.created_at += 0
    job.claimed_at = now
    job.tags = read_list(row[_TAGS])
    job.has_memos = bool(row[PLACE_MARKS] & HAS_MEMOS)
    if job.timeout_seconds is not None:
        job.timeout_seconds = float(job.timeout_seconds)
    if job.meta_json is not None:
        job.meta_json = str(job.meta_json)
    if job.admission_json is not None:
        job.admission_json = readable_admission(job.admission_json)
    if job.relations_json is not None:
        job.relations_json = str(job.relations_json)
    return job
