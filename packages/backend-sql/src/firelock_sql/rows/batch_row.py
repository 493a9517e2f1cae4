"""A batch as a row, and the counts of its members.

A transaction that changes a member stores the change to the counts without locking the batch. On SQLite,
where only one transaction writes at a time, it changes the row of the batch. On other databases, it inserts a
row into `batch_deltas`. A transaction that changes the row of a batch locks this row. If it also needs the
row of the batch's job, it locks the job's row first. Transactions that add members share the lock of the
batch. Unfolded deltas are read by a separate statement after the lock, because only such a statement sees the
commits of previous lock holders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import attrs

from firelock.storage import BatchCounts, JobRecord, State
from firelock.storage.batches import NOTHING, Share, changed, folded, share_of
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.rows.job_row import JobRow

_SUMS = Share._fields
_COUNTED = [name for name in _SUMS if name != "failures"]  # new failures are not one of the counts
SWEEP, RESUME = "sweep", "resume"
_BEFORE_ALL = -(1 << 62)


@attrs.define(eq=False)
class BatchRow:
    """The columns of `batches` for one batch, as this transaction sees and changes them."""

    id: str
    total: int
    active: int
    waiting: int
    succeeded: int
    failed: int
    deleted: int
    batches: int
    failures: int
    is_unopened: int
    is_cancelled: int
    is_stopping: int
    is_changed: int
    walk: str | None
    walked_at: int
    walked_id: str

    def batch_counts(self, state: State, due_at: int | None) -> BatchCounts:
        """Return the counts of a batch whose job is in this state and has this `due_at`."""
        return BatchCounts(
            total=self.total,
            active=self.active,
            waiting=self.waiting,
            succeeded=self.succeeded,
            failed=self.failed,
            deleted=self.deleted,
            is_held=state is State.AWAITING and due_at is not None,
            is_unopened=bool(self.is_unopened),
            is_cancelled=bool(self.is_cancelled),
            is_stopping=bool(self.is_stopping),
            batches=self.batches,
        )

    @property
    def flags(self) -> tuple[object, ...]:
        """All values that `save_batch` writes."""
        return tuple(getattr(self, name) for name in _FLAGS)

    def begin(self, walk: str) -> None:
        """Start a pass of `release` over all members."""
        self.walk, self.walked_at, self.walked_id, self.is_changed = walk, _BEFORE_ALL, "", 1

    def open(self) -> None:
        """Open the batch, so that its members may start."""
        self.is_unopened = 0
        self.begin(RESUME)


_READ = [field.name for field in attrs.fields(BatchRow)]
_FLAGS = _READ[_READ.index("is_unopened") :]
_LOOK = f"SELECT {', '.join(_READ)} FROM firelock_batches WHERE id IN :ids ORDER BY id"  # noqa: S608 - names
_LOAD, _LOAD_FREE = Text(f"{_LOOK} FOR NO KEY UPDATE"), Text(f"{_LOOK} FOR NO KEY UPDATE SKIP LOCKED")
_PEEK = Text(_LOOK)
_SHARE, _SHARE_FREE = Text(f"{_LOOK} FOR SHARE"), Text(f"{_LOOK} FOR SHARE SKIP LOCKED")
_SAVE = Text(
    f"UPDATE firelock_batches SET {', '.join(f'{name} = :{name}' for name in _FLAGS)} WHERE id = :id"  # noqa: S608 - names
)
_PUT = insert_into("firelock_batches", *_READ)
# This statement is for counts that are changed in place. The batch is marked as changed only if `release` may
# have work for it.
_COUNT = Text(f"""
UPDATE firelock_batches
SET {", ".join(f"{name} = {name} + :{name}" for name in _SUMS)}, is_changed = CASE
    WHEN active <= 0 OR active + :active <= 0 OR is_cancelled = 1 OR is_stopping = 1 OR :failures > 0 THEN 1
    ELSE is_changed END
WHERE id = :id
""")  # noqa: S608 - names
_CHANGED_AMONG = Text("SELECT id FROM firelock_batches WHERE is_changed = 1 AND id IN :ids")
_ADD_CHANGE = insert_into("firelock_batch_deltas", "batch_id", *_SUMS)
_FOLD = Text(f"""
UPDATE firelock_batches
SET {", ".join(f"{name} = {name} + :{name}" for name in _COUNTED)}, failures = 0, is_stopping = :is_stopping
WHERE id = :id
""")  # noqa: S608 - names
_UNFOLDED = Text(f"""
SELECT batch_id, {", ".join(f"sum({name})" for name in _SUMS)} FROM firelock_batch_deltas
WHERE batch_id IN :ids GROUP BY batch_id
""")  # noqa: S608 - names
_DELTAS = Text(f"SELECT seq, {', '.join(_SUMS)} FROM firelock_batch_deltas WHERE batch_id = :id")  # noqa: S608 - names
_DROP = Text("DELETE FROM firelock_batch_deltas WHERE seq IN :seqs")
_FAILURES = Text("SELECT seq, failures FROM firelock_batch_deltas WHERE batch_id = :id AND failures <> 0")

TAKERS: dict[str, Callable[[Transaction, str], Share]] = {}
"""By dialect: the function that takes the deltas of a batch, if one statement can do it."""


def load_batches(tx: Transaction, ids: Iterable[str], *, is_patient: bool = True) -> dict[str, BatchRow]:
    """Return the batches among these jobs by id, locked in order.

    Unless `is_patient`, return only those that no other transaction has locked.
    """
    return _found(tx, _LOAD if is_patient else _LOAD_FREE, ids)


def peek_batches(tx: Transaction, ids: Iterable[str]) -> dict[str, BatchRow]:
    """Return the current rows of the batches among these jobs, without a lock."""
    return _rows_by_id(tx.all_now(_PEEK, ids=wanted)) if (wanted := sorted(set(ids))) else {}


def share_batches(tx: Transaction, ids: Iterable[str], *, is_patient: bool = True) -> dict[str, BatchRow]:
    """Return the batches among these jobs, with a shared lock until this transaction ends.

    Unless `is_patient`, return only those that no other transaction has locked.
    """
    return _found(tx, _SHARE if is_patient else _SHARE_FREE, ids)


def _found(tx: Transaction, statement: Text, ids: Iterable[str]) -> dict[str, BatchRow]:
    wanted = sorted(set(ids))
    return _rows_by_id(tx.all(statement, ids=wanted)) if wanted else {}


def _rows_by_id(found: Iterable[Sequence[Any]]) -> dict[str, BatchRow]:
    return {row[0]: BatchRow(*row) for row in found}


def new_batch(id: str, *, is_unopened: bool, is_cancelled: bool) -> BatchRow:
    """Return the row of a new batch."""
    return BatchRow(id, 0, 0, 0, 0, 0, 0, 0, 0, int(is_unopened), int(is_cancelled), 0, 0, None, 0, "")


def put_batches(tx: Transaction, new: Sequence[BatchRow]) -> None:
    """Store the rows of new batches with their counts."""
    tx.run_many(_PUT, [{name: getattr(row, name) for name in _READ} for row in new])


def save_batch(tx: Transaction, batch: BatchRow) -> None:
    """Write the flags of the batch; its counts are written by the transactions that change them."""
    tx.run_many(_SAVE, [{"id": batch.id, **{name: getattr(batch, name) for name in _FLAGS}}])


def unopened_among(tx: Transaction, ids: Iterable[str | None]) -> tuple[set[str], set[str]]:
    """Return the batches that are not open and cannot be opened before this transaction ends.

    Also return the batches that might not be open but are locked by other transactions.
    """
    wanted = [id for id in ids if id is not None]
    seen = {id for id, batch in peek_batches(tx, wanted).items() if batch.is_unopened}
    if not seen:
        return set(), set()  # an open batch stays open
    shared = share_batches(tx, seen, is_patient=False)
    return {id for id, batch in shared.items() if batch.is_unopened}, seen.difference(shared)


# ---- counting --------------------------------------------------------------------------------------------


def store_batch_changes(tx: Transaction, changes: Mapping[str, Share]) -> set[str]:
    """Store changes to the counts; return the batches that `release` must check."""
    rows = [
        {("batch_id" if tx.adds_deltas else "id"): id, **change._asdict()}
        for id, change in sorted(changes.items())
        if change != NOTHING
    ]
    if not rows:
        return set()
    if tx.adds_deltas:
        tx.run_many(_ADD_CHANGE, rows)
        return {str(row["batch_id"]) for row in rows}
    tx.run_many(_COUNT, rows)
    return {row[0] for row in tx.all(_CHANGED_AMONG, ids=[row["id"] for row in rows])}


def fold(tx: Transaction, batch: BatchRow, *, fails_fast: bool) -> None:
    """Add all deltas to the row, which this transaction has locked; new failures can stop the batch."""
    if tx.newer is not None:
        _discount_failures(tx, batch.id)
        return
    known = NOTHING
    if tx.adds_deltas:
        known = TAKERS.get(tx.dialect.name, _take_deltas)(tx, batch.id)
    is_stopping = batch.is_stopping or (fails_fast and known.failures + batch.failures > 0)
    if known == NOTHING and not batch.failures and is_stopping == batch.is_stopping:
        return
    counts = known._asdict()
    del counts["failures"]
    tx.run(_FOLD, id=batch.id, is_stopping=int(is_stopping), **counts)
    for name, more in counts.items():
        setattr(batch, name, getattr(batch, name) + more)
    batch.failures, batch.is_stopping = 0, int(is_stopping)


def _discount_failures(tx: Transaction, id: str) -> None:
    """Insert a delta that cancels out all failures so far, so that folding does not stop the batch.

    In a caller's transaction, nothing is folded, because its queries might not show the remaining deltas.
    """
    own = {seq: number for seq, number in tx.all(_FAILURES, id=id) if number < 0}
    others = dict(tx.newer(_FAILURES, {"id": id})) if tx.newer is not None else {}
    number = sum({**own, **others}.values())
    if number > 0:
        tx.run_many(_ADD_CHANGE, [{"batch_id": id, **NOTHING._replace(failures=-number)._asdict()}])


def _take_deltas(tx: Transaction, id: str) -> Share:
    found = tx.all(_DELTAS, id=id)
    if found:
        tx.run(_DROP, seqs=[seq for seq, *_ in found])
    return summed(sums for _, *sums in found)


def summed(rows: Iterable[Sequence[int]]) -> Share:
    """Return the sum of rows of differences."""
    total = NOTHING
    for row in rows:
        total = total.plus(Share(*map(int, row)))
    return total


def with_unfolded(
    tx: Transaction, all_counts: Mapping[str, tuple[BatchCounts, bool]]
) -> dict[str, BatchCounts]:
    """Return the counts including all unfolded deltas.

    The flag that follows the counts of a batch shows whether the batch fails fast.
    """
    unfolded = {}
    if tx.adds_deltas and all_counts:
        unfolded = {id: summed([row]) for id, *row in tx.all(_UNFOLDED, ids=sorted(all_counts))}
    return {
        id: folded(counts, unfolded.get(id, NOTHING), fails_fast=fails_fast)
        for id, (counts, fails_fast) in all_counts.items()
    }


# ---- members ---------------------------------------------------------------------------------------------

_WAITING_FOR_PARENTS = Text(
    "SELECT DISTINCT child_id FROM firelock_edges WHERE child_id IN :ids AND is_decided = 0"
)
_RELEASING = Text("SELECT parent_id FROM firelock_releasing WHERE parent_id IN :ids")


def waiting_for_parents(tx: Transaction, ids: Sequence[str]) -> set[str]:
    """Return the jobs that wait for a parent."""
    return {row[0] for row in tx.all_now(_WAITING_FOR_PARENTS, ids=list(ids))} if ids else set()


class MemberCounts:
    """The changes to the counts of batches that result from a transaction's changes to loaded members."""

    def __init__(self, tx: Transaction, rows: Iterable[JobRow]) -> None:
        self._tx = tx
        self._rows = [row for row in rows if row.is_member]
        self._before = self._shares() if self._rows else {}

    def store(self) -> set[str]:
        """Store all changes to the counts since this object was created; return the batches to check.

        Before this call, all changes to the rows, their relations and the releasing list must be complete.
        """
        if not self._rows:
            return set()
        after = self._shares()
        changes: dict[str, Share] = {}
        for row in self._rows:
            change = changed(self._before[row.id], after[row.id])
            batch_id = row.relations.batch_id
            if change != NOTHING and batch_id is not None:
                changes[batch_id] = changes.get(batch_id, NOTHING).plus(change)
        return store_batch_changes(self._tx, changes)

    def _shares(self) -> dict[str, Share]:
        rows = self._rows
        related = waiting_for_parents(
            self._tx, [row.id for row in rows if row.state is State.AWAITING and row.waits_for is None]
        )
        ended = [row.id for row in rows if row.is_final and row.has_children]
        releasing = {row[0] for row in self._tx.all_now(_RELEASING, ids=ended)} if ended else set()
        inner = peek_batches(self._tx, [row.id for row in rows if row.is_batch])
        cancelled = {id for id, batch in inner.items() if batch.is_cancelled}
        return {
            row.id: share_of(
                cast("JobRecord", row),  # `share_of` reads only fields that both classes have
                is_related=row.id in related,
                is_releasing=row.id in releasing,
                is_cancelled=row.id in cancelled,
            )
            for row in rows
        }
