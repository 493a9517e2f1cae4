"""The verbs that run for every job, in their fastest forms for SQLite.

Measured on one core, in µs of processor time per job, in batches of 100:

- insert: many rows in one VALUES take 2.1, executemany 3.0. Binding costs more than inserting: 17 parameters
  take 4.3, and 8 parameters 2.9.
- claim: SELECT and one UPDATE of all rows take 3.2, UPDATE … RETURNING 4.0.
- settle: executemany with all conditions takes 2.8, reading the rows first 4.5, UPDATE … FROM (VALUES …) 6.0.

`insert_jobs` and `apply_transitions` handle all jobs and ends that are not plain, with the same results.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain, compress
from operator import attrgetter
from typing import Any

from typing_extensions import override

from firelock.limits import lane_of
from firelock.storage import (
    Applied,
    ClaimRequest,
    Duplicate,
    Feature,
    NewJob,
    Relations,
    State,
    Transition,
)
from firelock.storage.batches import Share
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.connections.url import parse_sqlite_url
from firelock_sql.rows.batch_row import store_batch_changes
from firelock_sql.rows.job_row import relations_in
from firelock_sql.rows.marks import HAS_MEMOS, IS_MEMBER
from firelock_sql.sqlite.database import SqliteDatabase
from firelock_sql.sqlite.lanes import SqliteLanes
from firelock_sql.storage import (
    KIND,
    SETTLE,
    SETTLE_MEMBERS,
    RememberedClaim,
    SqlStorage,
    freed_by,
    kind,
    settle_values,
)
from firelock_sql.verbs.claim import TakenRows
from firelock_sql.verbs.insert import count_first_members, insert_jobs, needs_only_limits
from firelock_sql.verbs.limits import SqlLanes
from firelock_sql.verbs.settle import apply_transitions

_PROCESSING, _SUCCEEDED, _ENQUEUED = State.PROCESSING.value, State.SUCCEEDED.value, State.ENQUEUED.value

_OWN = ("id", "arguments", "created_at")
_own, _kind_and_own = attrgetter(*_OWN), attrgetter(*KIND, *_OWN)
_WITH_LANE = ("lane", "admission_json", *_OWN)
_SIZES = (100, 10, 1)  # numbers of rows per VALUES list
_IS_OPEN = Text("""
SELECT 1 FROM firelock_batches AS batch JOIN firelock_jobs AS job ON job.id = batch.id
WHERE batch.id = :id AND is_unopened = 0 AND is_cancelled = 0 AND job.state = 'awaiting'
""")
# The batch was stored without members, so it was marked as a batch that may have ended.
_FILLED = Text("UPDATE firelock_batches SET is_changed = 0 WHERE id = :id AND active > 0")
_NEWEST = Text("SELECT id FROM firelock_jobs ORDER BY seq DESC LIMIT :most")


class SqliteStorage(SqlStorage):
    """A storage in one file, which is opened by the first verb."""

    admits = frozenset({Feature.LIMITS, Feature.UNIQUE})
    fast_path_marks = (0, IS_MEMBER, HAS_MEMOS, IS_MEMBER | HAS_MEMOS)
    locks_rows = False

    def __init__(self, url: str, wall_nanos: Callable[[], int] = time.time_ns) -> None:
        database = SqliteDatabase(parse_sqlite_url(url), wall_nanos)
        super().__init__(database, is_notified=database.wake.has_mailbox)

    # ---- insert ------------------------------------------------------------------------------------------

    @override
    def _insert(self, jobs: Sequence[NewJob]) -> Sequence[bool | Duplicate]:
        if all(job.is_plain for job in jobs):
            return self._database.write(lambda tx: self._insert_plain(tx, jobs))
        if all(map(needs_only_limits, jobs)):
            return self._database.write(lambda tx: self._insert_plain(tx, jobs, has_lanes=True))
        if are_members_of_one_batch(jobs):
            return self._database.write(lambda tx: self._insert_members(tx, jobs))
        if number := count_first_members(jobs):
            return self._database.write(lambda tx: self._insert_batch(tx, jobs, number))
        return self._insert_any(jobs)

    def _insert_batch(
        self, tx: Transaction, jobs: Sequence[NewJob], number: int
    ) -> Sequence[bool | Duplicate]:
        """Store a batch, `number` otherwise plain members, then all other jobs; return which jobs are new."""
        first, members, rest = jobs[:1], jobs[1 : number + 1], jobs[number + 1 :]
        is_new = insert_jobs(tx, first)
        answers = [*is_new, *self._insert_members(tx, members)]
        if is_new[0]:
            tx.run(_FILLED, id=first[0].id)
        return [*answers, *(insert_jobs(tx, rest) if rest else [])]

    def _insert_members(self, tx: Transaction, jobs: Sequence[NewJob]) -> Sequence[bool | Duplicate]:
        """Store the otherwise plain members of a batch if it is open; return which jobs are new."""
        batch_id = relations_in(jobs[0].relations_json).batch_id
        if tx.one(_IS_OPEN, id=batch_id) is None:
            return insert_jobs(tx, jobs)
        has_lanes = any(job.admission_json is not None for job in jobs)
        answers = self._insert_plain(tx, jobs, has_lanes=has_lanes, are_members=True)
        new = list(compress(jobs, answers))
        done = 0
        for size in _SIZES:
            while len(new) - done >= size:
                rows = ((job.created_at, job.id) for job in new[done : done + size])
                tx.cursor.execute(_many_members(size), [batch_id, *chain.from_iterable(rows)])
                done += size
        store_batch_changes(tx, {str(batch_id): Share(len(new), len(new))})
        return answers

    def _insert_plain(
        self,
        tx: Transaction,
        jobs: Sequence[NewJob],
        *,
        has_lanes: bool = False,
        are_members: bool = False,
    ) -> list[bool]:
        """Store plain jobs; return which of them are new.

        The new jobs are those with the highest row numbers.
        """
        kinds = Counter(map(kind, jobs))
        is_uniform = len(kinds) == 1
        common = [
            tx.now,
            *((jobs[0].relations_json,) if are_members else ()),
            *(kind(jobs[0]) if is_uniform else ()),
        ]
        values: Callable[[NewJob], Iterable[Any]] = _own if is_uniform else _kind_and_own
        if has_lanes:
            values = _own_with_lane if is_uniform else _kind_and_own_with_lane
        done = stored = 0
        for size in _SIZES:
            text = _many_rows(size, is_uniform=is_uniform, has_lanes=has_lanes, are_members=are_members)
            while len(jobs) - done >= size:
                rows = map(values, jobs[done : done + size])
                tx.cursor.execute(text, [*common, *chain.from_iterable(rows)])
                stored += tx.cursor.rowcount
                done += size
        answers = [True] * len(jobs)
        if stored != len(jobs):
            new = {row[0] for row in tx.all(_NEWEST, most=stored)}
            for place, job in enumerate(jobs):
                answers[place] = job.id in new
                new.discard(job.id)  # if an id occurs twice, only the first job with it is new
            kinds = Counter(map(kind, compress(jobs, answers)))
        for (queue, *_), number in kinds.items():
            tx.moved(queue, None, _ENQUEUED, number)
            tx.woken.add(queue)
        return answers

    # ---- claim -------------------------------------------------------------------------------------------

    @override
    def _lanes_in(self, tx: Transaction) -> SqlLanes:
        return SqliteLanes(tx)

    # ---- apply -------------------------------------------------------------------------------------------

    @override
    def _settle(self, transitions: Sequence[Transition]) -> list[Applied]:
        return self._database.write(lambda tx: self._settle_in(tx, transitions))

    def _settle_in(self, tx: Transaction, transitions: Sequence[Transition]) -> list[Applied]:
        """Settle and return the results; if an end is not plain after all, read the rows and settle again."""
        split = self._claimed_jobs.split(transitions, None)
        if not split.plain:
            return self._apply_rest(tx, transitions, split.others)
        tx.cursor.execute("SAVEPOINT plain")
        members = [(end, held) for end, held in split.plain if held.batch_id is not None]
        alone = split.plain
        if members:
            alone = [(end, held) for end, held in split.plain if held.batch_id is None]
        if not (_write_ends(tx, SETTLE, alone) and _write_ends(tx, SETTLE_MEMBERS, members)):
            tx.cursor.execute("ROLLBACK TO plain")
            return apply_transitions(tx, transitions)
        tx.cursor.execute("RELEASE plain")
        for queue, number in Counter(held.queue for _, held in split.plain).items():
            tx.moved(queue, _PROCESSING, _SUCCEEDED, number)
        tx.freed_keys += freed_by(split.plain)
        if not members:
            return self._apply_rest(tx, transitions, split.others)
        ended = Counter(str(held.batch_id) for _, held in members)
        shares = {id: Share(active=-number, succeeded=number) for id, number in ended.items()}
        changed_batches = store_batch_changes(tx, shares)  # batches that may end because of these ends
        in_changed = {end.job_id for end, held in members if held.batch_id in changed_batches}
        results = self._apply_rest(tx, transitions, split.others)
        return [
            Applied.RELEASE_NEEDED if end.job_id in in_changed else result
            for end, result in zip(transitions, results, strict=True)
        ]

    @override
    def _settle_and_take(
        self, tx: Transaction, transitions: Sequence[Transition], request: ClaimRequest
    ) -> tuple[list[Applied], TakenRows]:
        return self._settle_in(tx, transitions), self._take_jobs(tx, request)


def are_members_of_one_batch(jobs: Sequence[NewJob]) -> bool:
    """Return whether the jobs are members of one batch and need nothing else except limits."""
    relations = jobs[0].relations_json
    return (
        relations is not None
        and all(
            job.relations_json == relations and needs_only_limits(job, but_relations=True) for job in jobs
        )
        and relations_in(relations) == Relations(relations_in(relations).batch_id)
    )


def _write_ends(tx: Transaction, statement: Text, ends: Sequence[tuple[Transition, RememberedClaim]]) -> bool:
    """Write the ends as plain ones; return whether all of them were plain."""
    if not ends:
        return True
    tx.cursor.executemany(
        statement.compiled(tx.dialect).text, [settle_values(end, held) for end, held in ends]
    )
    return tx.cursor.rowcount == len(ends)


def _own_with_lane(job: NewJob) -> tuple[Any, ...]:
    lane = None if job.admission_json is None else lane_of(job.admission)
    return lane, job.admission_json, *_own(job)


def _kind_and_own_with_lane(job: NewJob) -> tuple[Any, ...]:
    return *kind(job), *_own_with_lane(job)


@cache
def _many_rows(size: int, *, is_uniform: bool, has_lanes: bool, are_members: bool) -> str:
    """Return the statement that stores this number of plain jobs.

    Its first parameters are `enqueued_at` for all jobs and their `relations_json` if they are members of a
    batch. If the jobs are uniform, their other common values follow.
    """
    of_all = ("enqueued_at", *(("relations_json",) if are_members else ()))
    number_of_common = len(of_all) + (len(KIND) if is_uniform else 0)
    common = [f"?{1 + place}" for place in range(number_of_common)]
    of_job = _WITH_LANE if has_lanes else _OWN
    own = of_job if is_uniform else (*KIND, *of_job)
    rows = []
    for first in range(len(common) + 1, len(common) + 1 + size * len(own), len(own)):
        numbers = [f"?{first + place}" for place in range(len(own))]
        # created_at, the last value of a row, is bound once and also stored as changed_at.
        marks = (str(IS_MEMBER),) if are_members else ()
        rows.append(f"('{_ENQUEUED}', {', '.join((*marks, *common, *numbers, numbers[-1]))})")
    marked = ("marks",) if are_members else ()
    columns = ", ".join(("state", *marked, *of_all, *KIND, *of_job, "changed_at"))
    return f"INSERT INTO firelock_jobs ({columns}) VALUES {', '.join(rows)} ON CONFLICT DO NOTHING"  # noqa: S608 - names


@cache
def _many_members(size: int) -> str:
    """Return the statement that inserts this number of members; its first parameter is their batch."""
    rows = ", ".join(f"(?1, ?{2 * place}, ?{2 * place + 1})" for place in range(1, size + 1))
    return f"INSERT INTO firelock_members (batch_id, created_at, job_id) VALUES {rows}"  # noqa: S608 - digits
