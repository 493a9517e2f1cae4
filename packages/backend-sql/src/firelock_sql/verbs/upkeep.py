"""Upkeep: due jobs, ended parents, pruning, and rollups of ended jobs."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import attrs
from typing_extensions import override

from firelock.storage import (
    ANY_QUEUE,
    HistoryEntry,
    Moved,
    Promotion,
    Rollup,
    State,
    StorageUnavailable,
    add_rollups,
)
from firelock_sql.connections.counting import forget_queues, idle_queues
from firelock_sql.connections.database import RowLocked, SqlVerbs
from firelock_sql.connections.full_reads import DueFloor
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.job_row import (
    COMPACT_FROM,
    compact,
    entry_line,
    load_rows,
    read_list,
    relations_in,
)
from firelock_sql.rows.marks import HAS_CHILDREN
from firelock_sql.verbs import locks
from firelock_sql.verbs.batches import (
    delete_waiting,
    forget_relations,
    keep_related,
    release_batches,
    time_out,
)
from firelock_sql.verbs.children import delete_children, release_children
from firelock_sql.verbs.claim import earlier, first_due, next_due_at, next_due_if_locked, next_firing
from firelock_sql.verbs.limits import forget_limits, idle_limits
from firelock_sql.verbs.unique import forget_unique, idle_unique

log = logging.getLogger(__name__)

_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_LOCKED_REST = 1_000_000  # microseconds after which locked due jobs are checked again
_CHILDREN_AT_ONCE = 1_000
_BATCHES_AT_ONCE = 1_000
_PRUNED_AT_ONCE = 500
_FIRST = (0, 0)  # the position before the first expired job
_WALK_SECONDS = 60.0  # the time after which `prune` starts again at the first expired job


class _Due(NamedTuple):
    seq: int
    id: str
    queue: str
    history_lines: int
    state: str
    due_at: int


_TAKE_DUE = Text(f"""
SELECT {", ".join(_Due._fields)} FROM firelock_jobs INDEXED BY firelock_due
WHERE due_at <= :now AND due_at >= :due_from ORDER BY due_at, id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED
""")  # noqa: S608 - names of columns
_PROMOTE = Text("""
UPDATE firelock_jobs
SET state = 'enqueued', reason = :reason, changed_at = :now, enqueued_at = :now, due_at = NULL,
    history = history || :line, history_lines = history_lines + 1
WHERE seq IN :seqs
""")
_IS_RELEASING = Text("""
SELECT CASE WHEN EXISTS (SELECT 1 FROM firelock_releasing) THEN 1 ELSE 0 END,
    CASE WHEN EXISTS (SELECT 1 FROM firelock_batches WHERE is_changed = 1)
        OR EXISTS (SELECT 1 FROM firelock_batch_deltas) THEN 1 ELSE 0 END
""")
# For `prune`: the next expired jobs after a position. The first condition is for MySQL, which cannot search
# an index by a row of values.


class _Expired(NamedTuple):
    id: str
    marks: int
    relations_json: str | None
    carries: int | None  # 1 if its result is passed to a child
    expires_at: int
    seq: int


_EXPIRED = Text("""
SELECT id, marks, relations_json, (
    SELECT max(carries) FROM firelock_edges WHERE parent_id = firelock_jobs.id
), expires_at, seq FROM firelock_jobs INDEXED BY firelock_expires
WHERE expires_at >= :place_at AND (expires_at, seq) > (:place_at, :place_seq) AND expires_at <= :now
    AND NOT EXISTS (SELECT 1 FROM firelock_releasing WHERE parent_id = firelock_jobs.id)
ORDER BY expires_at, seq LIMIT :most
""")
_WITH_OPEN_EDGES = Text(
    "SELECT DISTINCT parent_id FROM firelock_edges WHERE parent_id IN :ids AND is_decided = 0"
)
_LOCK = Text("""
SELECT id FROM firelock_jobs INDEXED BY id WHERE id IN :ids ORDER BY id FOR UPDATE SKIP LOCKED
""")


class _Belongings(NamedTuple):
    id: str
    state: str
    queue: str
    tags: str
    created_at: int
    relations_json: str | None
    is_holding: bool  # whether the job holds a limit key


_BELONGINGS = Text("""
SELECT id, state, queue, tags, created_at, relations_json, lane IS NOT NULL AND session IS NOT NULL
FROM firelock_jobs
WHERE id IN :ids AND expires_at <= :now
    AND NOT EXISTS (SELECT 1 FROM firelock_edges WHERE parent_id = firelock_jobs.id AND is_decided = 0)
    AND NOT EXISTS (SELECT 1 FROM firelock_releasing WHERE parent_id = firelock_jobs.id)
""")
_UNTAG = Text("DELETE FROM firelock_job_tags WHERE tag = :tag AND created_at = :created_at AND job_id = :job")
_DELETE = [
    Text(f"DELETE FROM firelock_{table} WHERE {column} IN :ids")  # noqa: S608 - our own names
    for table, column in (
        ("attempt_errors", "job_id"),
        ("log_lines", "job_id"),
        ("progress", "job_id"),
        ("edges", "child_id"),
        ("edges", "parent_id"),
        ("memos", "job_id"),
        ("stream_chunks", "job_id"),
        ("jobs", "id"),
    )
]
_HAS_OLD_NEWS = Text("""
SELECT 1 WHERE EXISTS (SELECT 1 FROM firelock_sessions WHERE forget_at <= :now)
    OR EXISTS (SELECT 1 FROM firelock_rollups WHERE minute < :before)
""")
_HAS_HOURLY = Text("""
SELECT EXISTS (SELECT 1 FROM firelock_locks WHERE expires_at < :before AND name > ''),
    EXISTS (SELECT 1 FROM firelock_limit_keys), EXISTS (SELECT 1 FROM firelock_unique_keys)
""")
_OLD_SESSIONS = Text(
    "SELECT id FROM firelock_sessions WHERE forget_at <= :now ORDER BY forget_at LIMIT :most"
)
_FORGET_SESSIONS = Text("DELETE FROM firelock_sessions WHERE id IN :ids")
_OLD_ROLLUPS = Text("DELETE FROM firelock_rollups WHERE minute < :before")

_COLUMNS = ("minute", "task", "queue", "outcome", "count", "duration", "histogram")
_ROLLUP = f"SELECT {', '.join(_COLUMNS)} FROM firelock_rollups WHERE"  # noqa: S608 - names of columns
_THIS = "minute = :minute AND task = :task AND queue = :queue AND outcome = :outcome"
_GET = Text(f"{_ROLLUP} {_THIS} FOR UPDATE")
_PUT = insert_into("firelock_rollups", *_COLUMNS)
_REPLACE = Text(f"""
UPDATE firelock_rollups SET count = :count, duration = :duration, histogram = :histogram WHERE {_THIS}
""")  # noqa: S608 - our own condition
_SINCE = Text(f"{_ROLLUP} minute >= :since AND minute < :until ORDER BY minute, task, queue, outcome")


@attrs.frozen
class NextDue:
    """The next due times, and the storage's clock."""

    first: int | None  # the next due time of scheduled jobs
    firing: int | None  # the next due time of recurring jobs
    now: int


class SqlUpkeepVerbs(SqlVerbs):
    """The verbs that any server runs on behalf of all servers."""

    _hourly_checked_at: int | None = None
    _due_floor: DueFloor
    _seen_locked: frozenset[str] | set[str] = frozenset()  # jobs that the last release skipped
    _place = _FIRST  # the position of the expired job that `prune` checked last
    _began_at_first = 0.0  # monotonic time when `prune` last started at the first expired job

    @override
    def promote(self, limit: int) -> Promotion:
        """Enqueue up to `limit` due jobs; do not lock anything if a first read finds none."""
        self._database.tidy()
        floor = self._due_floor
        begin = floor.begin()
        found = self._find_due(begin)
        if found.first is None or found.first > found.now:
            floor.passed(begin, found.now)
            return Promotion(0, earlier(found.first, found.firing))
        return self._database.write(lambda tx: self._promote(tx, limit, begin))

    def _find_due(self, begin: int) -> NextDue:
        """Return the next due times, ignoring jobs that are due before `begin`."""
        return self._database.read(lambda tx: NextDue(first_due(tx, begin), next_firing(tx), tx.now))

    def _promote(self, tx: Transaction, limit: int, begin: int) -> Promotion:
        due = [_Due(*row) for row in tx.all(_TAKE_DUE, now=tx.now, due_from=begin, most=limit)]
        is_full, floor = len(due) == limit, self._due_floor
        floor.passed(begin, due[-1].due_at if is_full else tx.now)
        number = _enqueue(tx, due)
        if is_full:
            return Promotion(number, next_due_at(tx, floor.start))
        return Promotion(number, next_due_if_locked(tx, tx.now + _LOCKED_REST, floor.start))

    @override
    def release(self, limit: int) -> int:
        """Release children and batches until nothing more changes.

        Several passes may be needed, because a batch that ends may have children, and may be a member of
        another batch.
        """
        checked = 0
        while checked < limit and any(looks := self._find_releases()):
            has_parents, has_batches = looks
            children = self._release_children(limit - checked) if has_parents else 0
            checked += children
            batches = 0
            if has_batches or not children:
                batches = self._release_batches(limit - checked)
                checked += batches
            if not children and not batches:
                break
        return checked

    def _release_children(self, limit: int) -> int:
        """Release children; wait briefly for newly locked children. Return the number of checked children."""
        done = self._database.write(partial(release_children, limit=limit))
        new, self._seen_locked = done.skipped - self._seen_locked, done.skipped
        if new and done.checked < limit:
            room = limit - done.checked
            with suppress(RowLocked):
                more = partial(release_children, limit=room, awaited=new)
                return done.checked + self._database.write_briefly(more).checked
        return done.checked

    def _release_batches(self, limit: int) -> int:
        checked = 0
        while checked < limit:
            room = min(limit - checked, _BATCHES_AT_ONCE)
            more = self._database.write(partial(release_batches, limit=room))
            checked += more
            if more < room:
                break
        return checked

    def _find_releases(self) -> tuple[int, int]:
        """Return whether parents have ended, and whether batches have changed."""
        has_parents, has_batches = self._database.query(lambda tx: tx.one(_IS_RELEASING))
        return has_parents, has_batches

    @override
    def prune(self, limit: int) -> int:
        """Delete up to `limit` expired jobs, at most 500 per transaction.

        A call reads the expired jobs in order, and continues where the previous call ended. Otherwise each
        call would again read the jobs that must be kept, and the deleted rows that an open snapshot can still
        see. Only a pass through all expired jobs can show that none is left to delete.
        """
        pruned = 0
        if time.monotonic() - self._began_at_first > _WALK_SECONDS:
            self._place = _FIRST
        has_seen_all = self._place == _FIRST
        if has_seen_all:
            self._prune_others()
        while pruned < limit:
            if self._place == _FIRST:
                self._began_at_first = time.monotonic()
            wanted = min(limit - pruned, _PRUNED_AT_ONCE)
            found, gone = self._prune_some(wanted)
            pruned += gone
            if found < wanted:
                self._place = _FIRST
                if has_seen_all:
                    break
                has_seen_all = True
        return pruned

    def _prune_others(self) -> None:
        """Delete old rows of other tables; not called if `prune` continues the pass of an earlier call."""
        has_news, has_locks, has_limits, has_unique = self._database.read(self._has_old)
        if has_news:
            self._database.write(partial(_prune_old_news, limit=_PRUNED_AT_ONCE))
        if has_locks:
            while self._database.write(partial(locks.prune_locks, limit=_PRUNED_AT_ONCE)) == _PRUNED_AT_ONCE:
                continue
        if has_limits:
            self._prune_keys(idle_limits, forget_limits)
        if has_unique:
            self._prune_keys(idle_unique, forget_unique)
        if queues := self._database.read(lambda tx: idle_queues(tx, _PRUNED_AT_ONCE)):
            self._database.write(lambda tx: forget_queues(tx, queues))

    def _has_old(self, tx: Transaction) -> tuple[bool, bool, bool, bool]:
        """Return whether old sessions or rollups, old locks, limit keys and unique keys exist.

        The last three are checked once per hour. Old locks and idle keys have no index, because every renewal
        and every claim would change it.
        """
        news = tx.one(_HAS_OLD_NEWS, now=tx.now, before=tx.now - 30 * _DAY) is not None
        last = self._hourly_checked_at
        if last is not None and 0 <= tx.now - last < _HOUR:
            return news, False, False, False
        self._hourly_checked_at = tx.now
        locks, limits, unique = tx.one(_HAS_HOURLY, before=tx.now - _DAY)
        return news, bool(locks), bool(limits), bool(unique)

    def _prune_keys(self, find: _Find, forget: _Forget) -> None:
        """Delete idle keys: read the keys in groups, and lock only the idle ones."""
        after: str | None = None
        while after != "":
            begin = after or ""
            idle, after = self._database.read(lambda tx: find(tx, begin, _PRUNED_AT_ONCE))  # noqa: B023 - now
            if idle:
                self._database.write(lambda tx: forget(tx, idle))  # noqa: B023 - now

    def _prune_some(self, limit: int) -> tuple[int, int]:
        """Delete expired jobs after the last position; return how many were found and how many deleted."""
        place_at, place_seq = self._place

        def expired(tx: Transaction) -> list[_Expired]:
            rows = tx.all(_EXPIRED, now=tx.now, place_at=place_at, place_seq=place_seq, most=limit)
            return [_Expired(*row) for row in rows]

        found = self._database.read(expired)
        if not found:
            return 0, 0
        self._place = found[-1].expires_at, found[-1].seq
        related = [row.id for row in found if row.marks or row.relations_json is not None or row.carries]
        kept = self._database.write(lambda tx: keep_related(tx, related)) if related else set()
        left = [row for row in found if row.id not in kept]
        kept |= self._delete_dependents(left)
        ids = [row.id for row in left if row.id not in kept]
        return len(found), self._database.write(lambda tx: _prune_jobs(tx, ids)) if ids else 0

    def _delete_dependents(self, found: Sequence[_Expired]) -> set[str]:
        """Delete children and members that wait for the jobs; return the jobs for which this failed."""
        parents = [row.id for row in found if row.marks & HAS_CHILDREN]
        waited_for: set[str] = set()
        if parents:
            waited_for = {
                row[0] for row in self._database.read(lambda tx: tx.all(_WITH_OPEN_EDGES, ids=parents))
            }
        kept: set[str] = set()
        for job_id, _, relations, *_ in found:
            works: list[Callable[[Transaction], int]] = []
            if job_id in waited_for:
                works.append(partial(delete_children, parent_id=job_id, limit=_CHILDREN_AT_ONCE))
            if relations is not None:
                works.append(partial(delete_waiting, id=job_id))
            try:
                for work in works:
                    while self._database.write(work):
                        continue
            except StorageUnavailable as error:
                if not error.is_untouched:
                    raise
                # another transaction has locked a dependent job; the other expired jobs must not wait for it
                kept.add(job_id)
                log.info("Could not delete dependents of expired job %s; keeping the job: %s", job_id, error)
        return kept

    @override
    def record_metrics(self, rollups: Sequence[Rollup]) -> None:
        if rollups:
            self._database.write(lambda tx: _record(tx, rollups))

    @override
    def timeline(
        self, since: int, until: int, *, task: str | None = None, queue: str | None = None
    ) -> list[Rollup]:
        rows = self._database.read(lambda tx: tx.all(_SINCE, since=since, until=until))
        return [one for one in map(_read, rows) if task in {None, one.task} and queue in {None, one.queue}]


_Find = Callable[[Transaction, str, int], tuple[list[str], str]]
_Forget = Callable[[Transaction, Sequence[str]], None]


def _enqueue(tx: Transaction, due: Sequence[_Due]) -> int:
    """Enqueue due jobs, and time out waiting jobs whose wait has ended; return the total number."""
    waiting = [row.id for row in due if row.state == State.AWAITING]
    due = [row for row in due if row.state == State.SCHEDULED]
    promoted = len(due) + (time_out(tx, waiting) if waiting else 0)
    if due:
        reason = Moved.DUE.value
        line = entry_line(HistoryEntry(State.ENQUEUED, tx.now, reason))
        tx.run(_PROMOTE, now=tx.now, reason=reason, line=line, seqs=[row.seq for row in due])
        for queue, number in Counter(row.queue for row in due).items():
            tx.moved(queue, State.SCHEDULED.value, State.ENQUEUED.value, number)
            tx.woken.add(queue)
        if long := [row.id for row in due if row.history_lines + 1 >= COMPACT_FROM]:
            for one in load_rows(tx, long).values():
                compact(tx, one)
    return promoted


def _prune_jobs(tx: Transaction, ids: list[str]) -> int:
    """Delete the jobs that are neither changed nor locked; return the number of deleted jobs."""
    held = [str(row[0]) for row in tx.all(_LOCK, ids=ids)]
    found = [_Belongings(*row) for row in tx.all(_BELONGINGS, ids=held, now=tx.now)]
    gone = [row.id for row in found]
    for statement in _DELETE:
        tx.run(statement, ids=gone)
    related = [
        (row.id, row.created_at, relations_in(row.relations_json))
        for row in found
        if row.relations_json is not None
    ]
    if related:
        forget_relations(tx, related)
    if tags := [(tag, row.created_at, row.id) for row in found for tag in read_list(row.tags)]:
        UNTAGGERS.get(tx.dialect.name, _untag)(tx, tags)
    for row in found:
        if row.is_holding:
            tx.woken.add(ANY_QUEUE)  # jobs in other queues may wait for the keys of the deleted job
        tx.moved(row.queue, row.state, None)
    return len(found)


def _untag(tx: Transaction, rows: Sequence[tuple[str, int, str]]) -> None:
    """Delete the given rows of tags, each with the job's `created_at` and id."""
    tx.run_many(_UNTAG, [{"tag": tag, "created_at": at, "job": job} for tag, at, job in rows])


UNTAGGERS: dict[str, Callable[[Transaction, Sequence[tuple[str, int, str]]], None]] = {}
"""By dialect: the function that deletes many rows of tags, if one statement for all rows is faster."""


def _prune_old_news(tx: Transaction, limit: int) -> None:
    """Delete some dead sessions that may be forgotten, and rollups older than 30 days."""
    if ids := [row[0] for row in tx.all(_OLD_SESSIONS, now=tx.now, most=limit)]:
        tx.run(_FORGET_SESSIONS, ids=ids)
    tx.run(_OLD_ROLLUPS, before=tx.now - 30 * _DAY)


def _read(row: Any) -> Rollup:  # noqa: ANN401 - a driver's row
    minute, task, queue, outcome, count, duration, histogram = row
    return Rollup(
        minute=minute,
        task=task,
        queue=queue,
        outcome=outcome,
        count=count,
        duration=duration,
        histogram=tuple(json.loads(histogram)),
    )


def _record(tx: Transaction, new: Sequence[Rollup]) -> None:
    """See `Storage.record_metrics`. Rows are sorted so that concurrent transactions cannot deadlock."""
    for rollup in sorted(new, key=attrgetter("minute", "task", "queue", "outcome")):
        this = {name: getattr(rollup, name) for name in _COLUMNS[:4]}
        found = tx.one(_GET, **this)
        total = rollup if found is None else add_rollups(_read(found), rollup)
        numbers = {"count": total.count, "duration": total.duration, "histogram": json.dumps(total.histogram)}
        tx.run(_PUT if found is None else _REPLACE, **this, **numbers)
