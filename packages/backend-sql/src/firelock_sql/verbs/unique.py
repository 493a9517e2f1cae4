"""Unique keys. The row of a key names the last job that took the key.

The job's own row shows whether the job still has the key.

On database servers, transactions run concurrently. There, a key is locked first and then read by a separate
statement, which sees the commits of the previous holder of the lock. Keys are locked in order, and before any
job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
from typing_extensions import override

from firelock.limits import (
    JobFacts,
    UniqueRow,
    debounced_due,
    lane_of,
    refuse_duplicate,
    replaces,
    starts_of,
    taken_by,
    unique_is_taken,
)
from firelock.storage import (
    ANY_QUEUE,
    FINAL_STATES,
    Duplicate,
    Feature,
    NewJob,
    State,
    Transition,
    UniqueState,
    UniqueUse,
    write_admission,
)
from firelock_sql.connections.database import SqlVerbs
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.job_row import (
    JobRow,
    add_duplicates,
    admission_in,
    list_text,
    load_rows,
    read_list,
    read_state,
)

_LOCK = Text("""
INSERT INTO firelock_unique_keys (key, job_id, mark, free_at) VALUES (:key, '', 0, 0)
ON CONFLICT (key) DO UPDATE SET key = excluded.key
""")
_PUT = Text("""
INSERT INTO firelock_unique_keys (key, job_id, mark, free_at) VALUES (:key, :job_id, :mark, :free_at)
ON CONFLICT (key) DO UPDATE SET job_id = excluded.job_id, mark = excluded.mark, free_at = excluded.free_at
""")
_READ = Text("""
SELECT named.key, named.job_id, named.mark, named.free_at,
    job.state, job.attempt, job.crashes, job.session, job.enqueued_at, job.admission_json
FROM firelock_unique_keys AS named LEFT JOIN firelock_jobs AS job ON job.id = named.job_id
WHERE named.key IN :ids
""")
_WITH_ADMISSION = Text(
    "SELECT admission_json FROM firelock_jobs WHERE id IN :ids AND admission_json IS NOT NULL"
)
_CALL = ("arguments", "serializer", "tags", "priority", "lane", "admission_json", "due_at")
_READ_CALL = Text(f"SELECT {', '.join(_CALL)} FROM firelock_jobs WHERE seq = :seq")  # noqa: S608 - names
_REPLACE_CALL = Text(
    f"UPDATE firelock_jobs SET {', '.join(f'{name} = :{name}' for name in _CALL)} WHERE seq = :seq"  # noqa: S608
)
_TAG = insert_into("firelock_job_tags", "tag", "created_at", "job_id")
_UNTAG = Text("""
DELETE FROM firelock_job_tags WHERE tag = :tag AND created_at = :created_at AND job_id = :job_id
""")
_LIST = Text("""
SELECT key, job_id, free_at FROM firelock_unique_keys
WHERE key > :after AND key >= :prefix AND substr(key, 1, :length) = :prefix AND job_id <> ''
ORDER BY key LIMIT :most
""")
_SOME_KEYS = (
    "SELECT key, job_id, free_at FROM firelock_unique_keys WHERE key > :after ORDER BY key LIMIT :most"
)
SOME_UNIQUE = Text(_SOME_KEYS)
_KNOWN = Text("SELECT id FROM firelock_jobs WHERE id IN :ids")
_FORGET = Text("DELETE FROM firelock_unique_keys WHERE free_at <= :now AND key IN :ids")
_LOCK_IDLE = Text(
    "SELECT key, job_id, free_at FROM firelock_unique_keys WHERE key IN :ids ORDER BY key"
    " FOR UPDATE SKIP LOCKED"
)


def unique_use(job: NewJob) -> UniqueUse | None:
    """Return how the job uses a unique key; None if it does not use one."""
    return None if job.admission_json is None else admission_in(job.admission_json).unique


def _facts_of(row: JobRow) -> JobFacts:
    return JobFacts(
        row.state, row.attempt, row.crashes, row.session is not None, row.enqueued_at,
        admission_in(row.admission_json),
    )  # fmt: skip


def lock_keys(tx: Transaction, keys: Iterable[str]) -> None:
    """Lock these keys until this transaction ends; wait for other transactions that have locked them."""
    ordered = sorted(keys)
    if ordered and tx.dialect.name != "sqlite":  # on SQLite, the transaction has locked the whole file
        LOCKERS.get(tx.dialect.name, _lock_each)(tx, ordered)


def _lock_each(tx: Transaction, keys: Sequence[str]) -> None:
    tx.run_many(_LOCK, [{"key": key} for key in keys])


LOCKERS: dict[str, Callable[[Transaction, Sequence[str]], None]] = {}
"""By dialect: the function that locks sorted keys, if the dialect does not use one statement per key."""


@attrs.frozen
class _PointedAt:
    row: UniqueRow
    job: JobFacts | None  # None if the job was deleted


def _read_stored(tx: Transaction, keys: Iterable[str]) -> dict[str, _PointedAt]:
    found = {}
    for key, job_id, mark, free_at, state, attempt, crashes, session, enqueued_at, admission_json in tx.all(
        _READ, ids=sorted(keys)
    ):
        job = None
        if state is not None:
            is_held = session is not None
            job = JobFacts(
                read_state(state), attempt, crashes, is_held, enqueued_at, admission_in(admission_json)
            )
        found[key] = _PointedAt(UniqueRow(job_id, mark, free_at), job)
    return found


# ---- inserts ---------------------------------------------------------------------------------------------


@attrs.define
class _Changed:
    """The changes that duplicate calls make to the job that has their key."""

    row: JobRow
    calls: int = 0
    last: NewJob | None = None  # a call whose arguments, tags, priority and limits replace those of the job
    due_at: int | None = None


class UniqueCalls:
    """The unique keys of some new jobs, which are handled one after another.

    Args:
        tx: the transaction that stores the jobs.
        calls: the jobs, none of which is stored yet.
        flush: stores the jobs of the batch that have turned out to be new so far.
    """

    def __init__(self, tx: Transaction, calls: Sequence[NewJob], flush: Callable[[], None]) -> None:
        self._tx, self._now, self._flush = tx, tx.now, flush
        uses = [use for job in calls if (use := unique_use(job)) is not None]
        self._stored = _read_stored(tx, {use.key for use in uses})
        open_keys = {use.key for use in uses if self._may_write(use)}
        lock_keys(tx, open_keys)
        if open_keys and tx.dialect.name != "sqlite":
            for key in open_keys:
                self._stored.pop(key, None)
            self._stored.update(_read_stored(tx, open_keys))
        self._pending: dict[str, JobFacts] = {}  # new jobs of the batch
        self._taken: dict[str, UniqueRow] = {}
        self._changed: dict[str, _Changed] = {}

    def _may_write(self, use: UniqueUse) -> bool:
        """Return whether the call needs more than a read of the key."""
        stored = self._stored.get(use.key)
        changes = use.keeps_last or use.wait is not None
        return changes or stored is None or not unique_is_taken(stored.row, stored.job, self._now)

    def answer(self, job: NewJob) -> Duplicate | None:
        """Return the duplicate of a new job; None if the job now has the key, or does not use one.

        Raises:
            DuplicateJob: see `refuse_duplicate`.
        """
        use = unique_use(job)
        if use is None:
            return None
        row, facts = self._of(use.key)
        if row is not None and unique_is_taken(row, facts, self._now):
            refuse_duplicate(use, row, facts)
            if not (use.keeps_last or use.wait is not None) or self._change(job, use, row):
                return Duplicate(row.job_id)
        self._taken[use.key] = taken_by(job, self._now)
        return None

    def began(self, job: NewJob, state: State) -> None:
        """Record that the job is new, with its initial state."""
        if job.admission_json is not None:
            enqueued_at = self._now if state is State.ENQUEUED else None
            admission = admission_in(job.admission_json)
            self._pending[job.id] = JobFacts(
                state, 0, 0, is_held=False, enqueued_at=enqueued_at, admission=admission
            )

    def _of(self, key: str) -> tuple[UniqueRow | None, JobFacts | None]:
        taken = self._taken.get(key)
        if taken is not None:
            return taken, self._pending.get(taken.job_id)
        stored = self._stored.get(key)
        return (None, None) if stored is None else (stored.row, stored.job)

    def _change(self, job: NewJob, use: UniqueUse, row: UniqueRow) -> bool:
        """Change the job that has the key as the call requires; return False if that job has lost the key."""
        changed = self._changed.get(row.job_id)
        if changed is None:
            if row.job_id in self._pending:
                self._flush()
            locked = load_rows(self._tx, [row.job_id]).get(row.job_id)
            facts = None if locked is None else _facts_of(locked)
            if not unique_is_taken(row, facts, self._now):
                return False
            if locked is None:
                return True
            changed = self._changed[row.job_id] = _Changed(locked)
        facts = _facts_of(changed.row)
        due_at = debounced_due(use, row, facts, created_at=changed.row.created_at, now=self._now)
        is_replaced = replaces(use, row, facts)
        if is_replaced:
            changed.last = job
        if due_at is not None:
            changed.due_at = due_at
        changed.calls += is_replaced or due_at is not None
        return True

    def store(self) -> None:
        """Store the keys, and the jobs that calls have changed."""
        self._tx.run_many(_PUT, [_key_values(key, row) for key, row in sorted(self._taken.items())])
        for changed in self._changed.values():
            if changed.calls:
                _store_changed(self._tx, changed, self._now)


def _key_values(key: str, row: UniqueRow) -> dict[str, object]:
    return {"key": key, "job_id": row.job_id, "mark": row.mark, "free_at": row.free_at}


def _store_changed(tx: Transaction, changed: _Changed, now: int) -> None:
    row, last = changed.row, changed.last
    fields = dict(zip(_CALL, tx.one(_READ_CALL, seq=row.seq), strict=True))
    if changed.due_at is not None:
        if row.due_at is None or changed.due_at < row.due_at:
            tx.woken.add(ANY_QUEUE)  # wakes servers that sleep until the next due time
        fields["due_at"] = changed.due_at
    if last is not None:
        limits = admission_in(last.admission_json).limits
        admission = attrs.evolve(admission_in(row.admission_json), limits=limits)
        _replace_tags(tx, row, read_list(fields["tags"]), last.tags)
        fields |= {
            "arguments": last.arguments, "serializer": last.serializer, "tags": list_text(last.tags),
            "priority": last.priority, "lane": lane_of(admission),
            "admission_json": write_admission(admission),
        }  # fmt: skip
        if row.state == State.ENQUEUED:
            tx.woken.add(row.queue)  # the job may be able to start from its new lane
    tx.run(_REPLACE_CALL, seq=row.seq, **fields)
    add_duplicates(tx, row, changed.calls, now)


def _replace_tags(tx: Transaction, row: JobRow, before: Iterable[str], after: Iterable[str]) -> None:
    of_job = {"created_at": row.created_at, "job_id": row.id}
    old, new = set(before), set(after)
    tx.run_many(_UNTAG, [{"tag": tag, **of_job} for tag in sorted(old - new)])
    tx.run_many(_TAG, [{"tag": tag, **of_job} for tag in sorted(new - old)])


# ---- requeues --------------------------------------------------------------------------------------------


def lock_again(tx: Transaction, transitions: Sequence[Transition]) -> bool:
    """Lock the unique keys of ended jobs that may be requeued, before the jobs are locked.

    Return whether any of the jobs has a key.
    """
    ids = [one.job_id for one in transitions if _may_revive(one)]
    if not ids:
        return False
    found = [admission_in(row[0]).unique for row in tx.all(_WITH_ADMISSION, ids=ids)]
    keys = {use.key for use in found if use is not None}
    lock_keys(tx, keys)
    return bool(keys)


def _may_revive(transition: Transition) -> bool:
    is_operators = transition.session is None and transition.to not in FINAL_STATES
    return is_operators and not FINAL_STATES.isdisjoint(transition.from_states)


def revived_key(row: JobRow, transition: Transition) -> str | None:
    """Return the unique key that an ended job takes again when it is requeued; None if it has none."""
    if row.admission_json is None or row.state not in FINAL_STATES or not _may_revive(transition):
        return None
    use = admission_in(row.admission_json).unique
    return None if use is None else use.key


def is_taken_from(tx: Transaction, row: JobRow, key: str) -> bool:
    """Return whether another job has the key."""
    stored = _read_stored(tx, [key]).get(key)
    if stored is None or stored.row.job_id == row.id:
        return False
    return unique_is_taken(attrs.evolve(stored.row, free_at=0), stored.job, tx.now)


def take_again(tx: Transaction, row: JobRow, key: str) -> None:
    """Give the key to the requeued job; the time at which the key becomes free does not change."""
    stored = _read_stored(tx, [key]).get(key)
    free_at = 0 if stored is None else stored.row.free_at
    tx.run(_PUT, **_key_values(key, UniqueRow(row.id, starts_of(row.attempt, row.crashes), free_at)))


# ---- queries and upkeep ----------------------------------------------------------------------------------


class SqlUniqueVerbs(SqlVerbs):
    """The verb that finds the job with a unique key."""

    @override
    def find_unique(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[UniqueState]:
        if Feature.UNIQUE not in self.features:
            raise self._without(Feature.UNIQUE, prefix)
        rows = self._database.read(
            lambda tx: tx.all(_LIST, prefix=prefix, length=len(prefix), after=after, most=limit)
        )
        return [UniqueState(key=key, job_id=id, free_at=free_at) for key, id, free_at in rows]


def idle_unique(tx: Transaction, after: str, limit: int) -> tuple[list[str], str]:
    """Return the idle keys among the next `limit` keys after `after`, and the key after which to continue.

    A key is idle if no stored job has it. The second value is "" after the last key.
    """
    rows: list[Any] = tx.all(SOME_UNIQUE, after=after, most=limit)
    known = {id for (id,) in tx.all(_KNOWN, ids=[id for _, id, _ in rows])} if rows else set()
    idle = [key for key, id, free_at in rows if id not in known and free_at <= tx.now]
    return idle, str(rows[-1][0]) if len(rows) == limit else ""


def forget_unique(tx: Transaction, keys: Sequence[str]) -> None:
    """Delete the given keys that no stored job has and that no other transaction has locked."""
    rows = tx.all(_LOCK_IDLE, ids=list(keys))
    known = {id for (id,) in tx.all(_KNOWN, ids=[id for _, id, _ in rows])}
    gone = [key for key, id, _ in rows if id not in known]
    if gone:
        tx.run(_FORGET, ids=gone, now=tx.now)
