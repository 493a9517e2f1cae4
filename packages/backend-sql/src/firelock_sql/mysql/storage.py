"""A MySQL or MariaDB storage: the verbs that run for every job, with few round trips.

A claim reads all the data that it needs in one round trip. A server that serves every queue must first find
the queues with work, which are nearly always the same as for the last claim. So one round trip checks the
list of these queues: for each queue, it queries the next queue with work. If the result is the same list, no
more queries are needed.
"""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from operator import attrgetter
from typing import Any, TypeVar, cast

import attrs
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import QueuePool
from typing_extensions import override

from firelock import ConfigurationError
from firelock.limits import LaneCursors, lane_of
from firelock.storage import (
    Applied,
    Claim,
    ClaimRequest,
    Duplicate,
    Feature,
    Memo,
    NewJob,
    NewMemo,
    Relations,
    Remembered,
    State,
    StorageUnavailable,
    Transition,
    read_relations,
)
from firelock_sql.connections.database import RowLocked
from firelock_sql.connections.pool import EnginePool
from firelock_sql.connections.transaction import Text, Transaction, insert_into
from firelock_sql.connections.url import ServerUrl, parse_server_url
from firelock_sql.mysql.connect import CLOCK, NOT_WAITING, is_lock_timeout
from firelock_sql.mysql.database import MysqlDatabase
from firelock_sql.mysql.deltas import take_deltas
from firelock_sql.mysql.lanes import HOLD_CLAIMS, LaneMemory, MysqlLanes
from firelock_sql.mysql.memos import (
    can_remember_in_one_round_trip,
    recall_in_one_round_trip,
    remember_in_one_round_trip,
)
from firelock_sql.mysql.pipeline import MultiStatementCursor, Written
from firelock_sql.mysql.suspensions import suspend_in_one_round_trip
from firelock_sql.rows.batch_row import TAKERS
from firelock_sql.rows.job_row import LOCK, lock_free, stored_among
from firelock_sql.rows.marks import HAS_MEMOS, IS_MEMBER
from firelock_sql.schema.names import Names
from firelock_sql.storage import (
    SETTLE,
    SETTLE_MEMBERS,
    SqlStorage,
    freed_by,
    settle_values,
)
from firelock_sql.verbs.claim import (
    DUE,
    FIRING,
    LIVING,
    PAUSED,
    READY,
    SERVER,
    SERVING,
    MixedClaim,
    QueueTurns,
    ReadyRow,
    ReadyRows,
    TakenRows,
    rows_in_turn,
    take_rows,
    taking,
)
from firelock_sql.verbs.insert import NO_FURTHER, further, insert_jobs, insert_new, is_called
from firelock_sql.verbs.limits import SqlLanes
from firelock_sql.verbs.memos import compact_long
from firelock_sql.verbs.settle import apply_transitions
from firelock_sql.verbs.suspensions import Suspension
from firelock_sql.verbs.unique import unique_use

# The query checks in the same round trip whether jobs wait in lanes; these jobs are at the end of the index.
_IN_LANES = "FROM firelock_jobs INDEXED BY firelock_ready WHERE state = 'enqueued' AND lane > ''"
_LANES = f"EXISTS (SELECT 1 {_IN_LANES}"
_SERVER_TIMED = Text(f"SELECT server, {_LANES} AND queue IN :ids), {CLOCK} + :offset {LIVING} FOR KEY SHARE")
NEXT_WITH_WORK = Text(f"""
SELECT (
    SELECT queue FROM firelock_jobs INDEXED BY firelock_ready
    WHERE state = 'enqueued' AND session IS NULL AND queue > :previous ORDER BY queue LIMIT 1
), {_LANES} AND queue = :previous)
""")  # noqa: S608 - our own conditions
IS_WAITING = Text("""
SELECT 1 FROM firelock_jobs INDEXED BY firelock_ready
WHERE state = 'enqueued' AND session IS NULL AND queue = :queue LIMIT 1
""")

TAKERS |= {"mysql": take_deltas, "mariadb": take_deltas}

_KEY_SECONDS = 5.0  # seconds that a call waits for a unique key that another transaction has locked
_MOST_GUESSED = 32  # number of queues; if more queues have work, each of them needs a separate query
_T = TypeVar("_T")
_COMMIT: Written = ("COMMIT", ())

_Question = tuple[Text, Mapping[str, object]]


def cursor_of(tx: Transaction) -> MultiStatementCursor:
    """Return the transaction's cursor; all transactions on MySQL have one of this type."""
    return cast("MultiStatementCursor", tx.cursor)


@attrs.frozen
class _Answers:
    """The results of a claim's first round trip."""

    server: str | None
    has_lanes: bool
    paused: frozenset[str]
    next_due_at: int | None
    others: Sequence[Sequence[Any]]  # rows of the additional queries


class Claims:
    """The search for claimable jobs, including the state that is kept between claims.

    Args:
        database: the database of the storage.
        cursors: the position of each queue among its lanes.
    """

    def __init__(self, database: MysqlDatabase, cursors: LaneCursors) -> None:
        self._database, self._cursors = database, cursors
        self._memory = LaneMemory()
        self._turns = QueueTurns()
        self._guess: list[str] = []  # the queues that had work at the last claim, in order

    def lanes_in(self, tx: Transaction) -> MysqlLanes:
        """Return the lanes within this transaction."""
        return MysqlLanes(tx, cursor_of(tx), self._memory)

    def claim_nothing(self, tx: Transaction, request: ClaimRequest) -> Claim | None:
        """End the transaction; return an empty claim, or None if there may be work."""
        names = _once_each(request.queues)
        questions: list[_Question] = [(NEXT_WITH_WORK, {"previous": ""})]
        if names is not None:
            questions = [(IS_WAITING, {"queue": name}) for name in names]
        serving: _Question = (SERVER, {"session": request.session})
        known = _query_together(tx, serving, questions, is_last=True)
        if known.server is None:
            return Claim([], known.next_due_at, is_session_lost=True)
        if names is None:  # the first queue may be paused, but the claim itself checks the other queues
            has_work = known.others[0][0][0] is not None
        else:
            found = zip(names, known.others, strict=True)
            has_work = any(rows and name not in known.paused for name, rows in found)
        return None if has_work and request.limit > 0 else Claim([], known.next_due_at)

    def find_rows(self, tx: Transaction, request: ClaimRequest) -> ReadyRows:
        """Lock and return the rows that the session may claim."""
        names = _once_each(request.queues)
        if names is None:
            return self._find_in_all(tx, request)
        return self._find_in_named(tx, request, names)

    def _find_in_all(self, tx: Transaction, request: ClaimRequest) -> ReadyRows:
        guess = self._guess
        questions: list[_Question] = [(NEXT_WITH_WORK, {"previous": name}) for name in ["", *guess]]
        if len(guess) == 1 and not request.left_out:
            questions.append((READY, {"queue": guess[0], "most": request.limit}))
        known = self._query_first(tx, request, [], questions)
        if known.server is None or request.limit <= 0:
            return ReadyRows(known.server, [], known.next_due_at)
        # One row per queue with work, and one after the last queue. Each row has the name of the queue, and
        # whether the previous queue has lanes.
        found = [rows[0] for rows in known.others[: len(guess) + 1]]
        is_right = [row[0] for row in found] == [*guess, None]
        if not is_right:
            found = [tx.one(NEXT_WITH_WORK, previous="")]
            while found[-1][0] is not None:
                found.append(tx.one(NEXT_WITH_WORK, previous=found[-1][0]))
        names = [str(row[0]) for row in found[:-1]]
        self._guess = names if len(names) <= _MOST_GUESSED else []
        opened = [name for name in names if name not in known.paused]
        is_guessed = is_right and opened == guess and len(guess) == 1 and not request.left_out
        first = {guess[0]: known.others[-1]} if is_guessed else {}
        if any(has_lanes for _, has_lanes in found):
            return self._find_with_lanes(tx, request, known, opened, first)
        if is_guessed:
            return ReadyRows(known.server, known.others[-1], known.next_due_at)
        rows = rows_in_turn(opened, request.limit, self._turns, taking(tx, request, len(opened)))
        return ReadyRows(known.server, rows, known.next_due_at)

    def _find_in_named(self, tx: Transaction, request: ClaimRequest, names: Sequence[str]) -> ReadyRows:
        """Return rows of the queues in their order; read the first queue together with the other data."""
        asked = [] if request.left_out else names[:1]
        questions: list[_Question] = [(READY, {"queue": name, "most": request.limit}) for name in asked]
        known = self._query_first(tx, request, names, questions)
        rows: list[ReadyRow] = []
        if known.server is None or request.limit <= 0:
            return ReadyRows(known.server, rows, known.next_due_at)
        opened = [name for name in names if name not in known.paused]
        first = dict(zip(asked, known.others, strict=True))
        if known.has_lanes:
            return self._find_with_lanes(tx, request, known, opened, first)
        take = taking(tx, request, len(opened))
        for name in opened:
            if len(rows) >= request.limit:
                break
            rows += first[name] if name in first else take(name, request.limit - len(rows))
        return ReadyRows(known.server, rows, known.next_due_at)

    def _query_first(
        self, tx: Transaction, request: ClaimRequest, names: Sequence[str], questions: Sequence[_Question]
    ) -> _Answers:
        """Lock the session; return the data that a claim needs, including the time."""
        values = {"session": request.session, "ids": list(names), "offset": self._database.clock_offset}
        return _query_together(tx, (_SERVER_TIMED, values), questions if request.limit > 0 else [])

    def _find_with_lanes(
        self,
        tx: Transaction,
        request: ClaimRequest,
        known: _Answers,
        opened: Sequence[str],
        first: Mapping[str, Sequence[ReadyRow]],
    ) -> ReadyRows:
        """Return the rows of unpaused queues when jobs wait in lanes; `first` contains rows already read."""
        mixed = _PrefetchedClaim(tx, self.lanes_in(tx), self._cursors, request, opened=opened, first=first)
        rows = mixed.rows(self._turns)
        return ReadyRows(known.server, rows, known.next_due_at, mixed.next_claim_at)


class _PrefetchedClaim(MixedClaim):
    """A claim with lanes that uses the results of its first round trip."""

    def __init__(
        self,
        tx: Transaction,
        lanes: MysqlLanes,
        cursors: LaneCursors,
        request: ClaimRequest,
        *,
        opened: Sequence[str],
        first: Mapping[str, Sequence[ReadyRow]],
    ) -> None:
        self._opened, self._first = opened, dict(first)
        super().__init__(tx, lanes, cursors, request)

    @override
    def open_queues(self, queues: Sequence[str] | None) -> list[str]:
        return list(self._opened)

    @override
    def plain_rows(self, queue: str, number: int) -> list[ReadyRow]:
        first = self._first.pop(queue, None)
        return super().plain_rows(queue, number) if first is None else list(first)


def _query_together(
    tx: Transaction, serving: _Question, questions: Sequence[_Question], *, is_last: bool = False
) -> _Answers:
    """Return the data that a claim needs and the results of the queries, using one round trip."""
    every: list[_Question] = [serving, (PAUSED, {}), (DUE, {}), (FIRING, {})]
    written = [_written(tx, *question) for question in [*every, *questions]]
    found: list[Sequence[Any]] = cursor_of(tx).each([*written, _COMMIT] if is_last else written)
    tx.is_ended = is_last
    living, paused, due, firing, *others = found
    instants = [row[0] for row in (*due, *firing)]
    server, *more = living[0] if living else (None,)
    has_lanes, now = more or (False, None)
    if now is not None:
        tx.know_now(int(now))
    return _Answers(
        None if server is None else str(server),
        bool(has_lanes),
        frozenset(row[0] for row in paused),
        min(instants, default=None),
        others[: len(questions)],
    )


def _written(tx: Transaction, statement: Text, parameters: Mapping[str, object]) -> Written:
    compiled = statement.compiled(tx.dialect)
    return compiled.text, compiled.bind(parameters)


def _once_each(queues: Sequence[str] | None) -> list[str] | None:
    return None if queues is None else list(dict.fromkeys(queues))


_ENQUEUED, _PROCESSING, _SUCCEEDED = (
    State.ENQUEUED.value,
    State.PROCESSING.value,
    State.SUCCEEDED.value,
)


_OWN = ("id", "arguments")
_OF_MEMBERS = ("relations_json", "marks")
# Values that are the same for all jobs of a call are sent once, because sending nine values per job takes
# half of the client's time.
_ALIKE = ("queue", "priority", "task", "serializer", "created_at")
_own, _own_called, _alike = attrgetter(*_OWN), attrgetter(*_OWN, "relations_json"), attrgetter(*_ALIKE)
_SET_COMMON = f"SET {', '.join(f'@{name} = %s' for name in _ALIKE)}, @now = {CLOCK} + %s"
_SET_OF_MEMBERS = f"{_SET_COMMON}, {', '.join(f'@{name} = %s' for name in _OF_MEMBERS)}"


@attrs.frozen
class _Inserts:
    """The statements for jobs that need only a queue, a priority and, with more columns, limits."""

    each: Text
    alike: Text
    set_common: str  # statement that sets the common values before `alike`


def _inserts(*more: str, are_members: bool = False) -> _Inserts:
    of_members = _OF_MEMBERS if are_members else ()
    columns = ", ".join((*_OWN, *more, *_ALIKE, "changed_at", "enqueued_at", "state", *of_members))
    own = "".join(f":{name}, " for name in (*_OWN, *more))
    into = f"INSERT INTO firelock_jobs ({columns}) VALUES ({own}"  # noqa: S608 - names of columns
    each = f":queue, :priority, :task, :serializer, :created_at, :created_at, {CLOCK} + :offset, 'enqueued'"
    alike = "@queue, @priority, @task, @serializer, @created_at, @created_at, @now, 'enqueued'"
    each += "".join(f", :{name}" for name in of_members)
    alike += "".join(f", @{name}" for name in of_members)
    set_common = _SET_OF_MEMBERS if are_members else _SET_COMMON
    return _Inserts(Text(f"{into}{each})"), Text(f"{into}{alike})"), set_common)


_LIMITS = ("lane", "admission_json")
_PLAIN, _LIMITED, _CALLED = _inserts(), _inserts(*_LIMITS), _inserts("relations_json")
_MEMBERS, _LIMITED_MEMBERS = _inserts(are_members=True), _inserts(*_LIMITS, are_members=True)
# Transactions that add members share the lock of the batch. Only after they have acquired the lock can they
# check whether the batch is open.
_KEEP_OPEN = Text("SELECT is_unopened, is_cancelled FROM firelock_batches WHERE id = :batch FOR KEY SHARE")
_IS_OPEN = Text("SELECT 1 FROM firelock_jobs WHERE id = :batch AND state = 'awaiting'")
_LIST_MEMBER = Text(
    "INSERT INTO firelock_members (batch_id, created_at, job_id) VALUES (@batch, :created_at, :id)"
)
_ADD_BATCH_CHANGE = insert_into("firelock_batch_deltas", "batch_id", "total", "active", "succeeded")


def _batch_of_all(jobs: Sequence[NewJob]) -> str | None:
    """Return the batch if all jobs are its members and use no features except limits; otherwise None."""
    relations = jobs[0].relations_json
    if relations is None or any(
        job.relations_json != relations or further(job) != NO_FURTHER for job in jobs
    ):
        return None
    batch_id = read_relations(relations).batch_id
    return batch_id if read_relations(relations) == Relations(batch_id) else None


def _are_called(jobs: Sequence[NewJob]) -> bool:
    """Return whether other jobs call all these jobs, which otherwise need only a queue and a priority."""
    return all(
        job.relations_json is not None
        and is_called(job.relations_json)
        and job.admission_json is None
        and further(job) == NO_FURTHER
        for job in jobs
    )


def _limited(job: NewJob) -> tuple[Any, ...]:
    """Return, for a job with limits, the values that differ between jobs."""
    return (*_own(job), lane_of(job.admission), job.admission_json)


class MysqlStorage(SqlStorage):
    """A storage in one database of a MySQL or MariaDB server."""

    admits = frozenset({Feature.LIMITS, Feature.UNIQUE})
    fast_path_marks = (0, IS_MEMBER, HAS_MEMOS, IS_MEMBER | HAS_MEMOS)
    first_wait_seconds = 0.0  # no wait, because the second try, which skips locked rows, follows immediately
    _database: MysqlDatabase

    def __init__(self, shown: str, connect_url: str, connections: EnginePool, names: Names) -> None:
        database = MysqlDatabase(shown, connections, names)
        database.connect_url = connect_url
        super().__init__(database, is_notified=False)
        self._claims = Claims(database, self._cursors)

    # ---- insert ------------------------------------------------------------------------------------------

    @override
    def _insert(self, jobs: Sequence[NewJob]) -> Sequence[bool | Duplicate]:
        """Store the jobs, in one round trip if they are plain and the unique index shows that all are new."""
        if any(unique_use(job) is not None for job in jobs):
            return self._insert_unique(jobs)
        if any(job.parents for job in jobs):
            return self._insert_any(jobs)
        tries = count()
        if (batch_id := _batch_of_all(jobs)) is not None:
            return self._database.write(
                lambda tx: self._insert_members(tx, jobs, batch_id, is_first=next(tries) == 0)
            )
        if any(job.relations_json is not None for job in jobs) and not _are_called(jobs):
            return self._insert_any(jobs)
        return self._database.write(lambda tx: self._insert_in(tx, jobs, is_first=next(tries) == 0))

    def _insert_members(
        self, tx: Transaction, jobs: Sequence[NewJob], batch_id: str, *, is_first: bool
    ) -> Sequence[bool | Duplicate]:
        """Store members of a batch; this takes two round trips if all are new and the batch is open.

        Return which jobs are new.
        """
        if is_first:
            of = {"batch": batch_id}
            asked = cursor_of(tx).each([_written(tx, _KEEP_OPEN, of), _written(tx, _IS_OPEN, of)])
            is_first = [list(map(tuple, rows)) for rows in asked] == [[(0, 0)], [(1,)]]
        if not is_first:
            return insert_jobs(tx, jobs)
        if all(job.admission_json is None for job in jobs):
            self._store_alike(tx, jobs, _MEMBERS, _own)
        else:
            self._store_alike(tx, jobs, _LIMITED_MEMBERS, _limited)
        cursor_of(tx).put("SET @batch = %s", [batch_id])
        listed = [(job.created_at, job.id) for job in jobs]
        tx.cursor.executemany(_LIST_MEMBER.compiled(tx.dialect).text, listed)
        store_batch_change(tx, batch_id, total=len(jobs), active=len(jobs))
        return [True] * len(jobs)

    def _insert_unique(self, jobs: Sequence[NewJob]) -> Sequence[bool | Duplicate]:
        """Store jobs, some of which have unique keys; return the result of `_insert_any`.

        Raises:
            StorageUnavailable: If another transaction has held one of the keys for the whole time.
        """
        deadline = time.monotonic() + _KEY_SECONDS

        def insert(tx: Transaction) -> Sequence[bool | Duplicate]:
            try:
                return insert_jobs(tx, jobs)
            except Exception as error:
                if not is_lock_timeout(error) or time.monotonic() < deadline:
                    raise
                busy = StorageUnavailable(
                    f"{self._database.name}: another transaction has held a unique key of this call for "
                    f"{_KEY_SECONDS:.0f} seconds; nothing was stored. Commit that transaction, or retry "
                    "later."
                )
                busy.is_untouched = busy.has_waited = True
                raise busy from error

        return self._database.write(insert)

    def _insert_in(
        self, tx: Transaction, jobs: Sequence[NewJob], *, is_first: bool
    ) -> Sequence[bool | Duplicate]:
        """Store the jobs; return which are new.

        Raises:
            StorageUnavailable: If a job already exists, either from the first try, whose reply was lost, or
                from an earlier call.
        """
        if not is_first:
            answers = insert_jobs(tx, jobs)
            if tx.is_again and not all(answers):
                raise StorageUnavailable(
                    f"{self._database.name}: the connection was lost; the jobs may have been stored."
                )
            return answers
        is_plain = all(job.is_plain for job in jobs)
        if is_plain or all(further(job) == NO_FURTHER for job in jobs):
            tx.may_repeat = True  # repeating is harmless, because a job that is already stored is detected
            way = (_PLAIN, _own) if is_plain else (_LIMITED, _limited)
            self._store_alike(tx, jobs, *((_CALLED, _own_called) if jobs[0].relations_json else way))
        else:
            insert_new(tx, jobs)
        return [True] * len(jobs)

    def _store_alike(
        self,
        tx: Transaction,
        jobs: Sequence[NewJob],
        inserts: _Inserts,
        own: Callable[[NewJob], tuple[Any, ...]],
    ) -> None:
        """Store jobs that need only the columns of these statements; send common values once."""
        offset = self._database.clock_offset
        relations = () if inserts.set_common is _SET_COMMON else (jobs[0].relations_json, IS_MEMBER)
        if len(jobs) > 1 and len(set(map(_alike, jobs))) == 1:
            cursor_of(tx).put(inserts.set_common, [*_alike(jobs[0]), offset, *relations])
            tx.cursor.executemany(inserts.alike.compiled(tx.dialect).text, list(map(own, jobs)))
        else:
            rows = [(*own(job), *_alike(job), job.created_at, offset, *relations) for job in jobs]
            tx.cursor.executemany(inserts.each.compiled(tx.dialect).text, rows)
        for queue, number in Counter(job.queue for job in jobs).items():
            tx.moved(queue, None, _ENQUEUED, number)
            tx.woken.add(queue)

    # ---- claim -------------------------------------------------------------------------------------------

    @override
    def _claim_nothing(self, tx: Transaction, request: ClaimRequest) -> Claim | None:
        return self._claims.claim_nothing(tx, request)

    @override
    def _take_jobs(self, tx: Transaction, request: ClaimRequest) -> TakenRows:
        return take_rows(tx, request, self._claims.find_rows(tx, request))

    @override
    def _lanes_in(self, tx: Transaction) -> SqlLanes:
        return self._claims.lanes_in(tx)

    @override
    def _hold_claims(self, tx: Transaction) -> None:
        tx.one(HOLD_CLAIMS)

    # ---- apply -------------------------------------------------------------------------------------------

    @override
    def _settle(self, transitions: Sequence[Transition]) -> list[Applied]:
        return self._unhindered(transitions, lambda tx, ends: self._settle_in(tx, ends, lambda: None))[0]

    def _settle_in(
        self, tx: Transaction, transitions: Sequence[Transition], query: Callable[[], _T]
    ) -> tuple[list[Applied], _T]:
        """Settle jobs; return the results and that of `query`, which is sent together with plain outcomes.

        If an end turns out not to be plain, read the rows to apply all transitions, and run `query` again. If
        other transactions have locked some of the jobs, settle only the others.
        """
        split = self._claimed_jobs.split(transitions, None)
        if not split.plain:
            return apply_transitions(tx, transitions), query()
        ids = {transition.job_id for transition in transitions}
        if tx.checks_locks_first or (tx.skips_own and (split.others or not self._database.has_brief_updates)):
            if taken_away := ids - lock_free(tx, ids):
                return self._settle_free(tx, transitions, taken_away, query)
        elif split.others:
            tx.all(LOCK, ids=sorted(ids))
        cursor = cursor_of(tx)
        before = NOT_WAITING[tx.dialect.name] if tx.skips_own else ""
        cursor.put("SAVEPOINT plain")
        answers: list[Any] = []
        in_order = sorted(split.plain, key=lambda plain: plain[0].job_id)
        for statement, are_members in ((SETTLE, False), (SETTLE_MEMBERS, True)):
            rows = [
                settle_values(end, held)
                for end, held in in_order
                if (held.batch_id is not None) is are_members
            ]
            if rows:
                text = statement.compiled(tx.dialect).text
                answers += cursor.executemany(text, rows, before=before)
        deltas, freed_keys = dict(tx.deltas), list(tx.freed_keys)
        results = self._apply_rest(tx, transitions, split.others)
        tx.freed_keys += freed_by(split.plain)
        found = query()
        if any(answer.rowcount < 0 for answer in answers):
            cursor.send()
        if sum(answer.rowcount for answer in answers) != len(split.plain):
            cursor.put("ROLLBACK TO SAVEPOINT plain")
            tx.deltas.clear()
            tx.deltas.update(deltas)
            tx.freed_keys[:] = freed_keys
            return apply_transitions(tx, transitions), query()
        for queue, number in Counter(held.queue for _, held in split.plain).items():
            tx.moved(queue, _PROCESSING, _SUCCEEDED, number)
        batches = {end.job_id: held.batch_id for end, held in split.plain if held.batch_id is not None}
        if not batches:
            return results, found
        for batch_id, number in sorted(Counter(batches.values()).items()):
            store_batch_change(tx, batch_id, active=-number, succeeded=number)
        return [  # the batch of a member may end when the member ends
            Applied.RELEASE_NEEDED if one.job_id in batches else result
            for one, result in zip(transitions, results, strict=True)
        ], found

    def _settle_free(
        self,
        tx: Transaction,
        transitions: Sequence[Transition],
        taken_away: Collection[str],
        query: Callable[[], _T],
    ) -> tuple[list[Applied], _T]:
        """Settle the other jobs as `_settle_in` does; report the jobs in `taken_away` as busy or missing."""
        locked = stored_among(tx, taken_away)
        free = [one for one in transitions if one.job_id not in taken_away]
        results, found = self._settle_in(tx, free, query)
        rest = iter(results)
        gone = {True: Applied.BUSY, False: Applied.MISSING}
        return [
            gone[one.job_id in locked] if one.job_id in taken_away else next(rest) for one in transitions
        ], found

    @override
    def _suspend(self, suspensions: Sequence[Suspension]) -> Collection[str]:
        try:
            return self._database.write_briefly(
                lambda tx: suspend_in_one_round_trip(tx, cursor_of(tx), suspensions)
            )
        except RowLocked:  # the general path determines which jobs are busy
            return ()

    # ---- exchange ----------------------------------------------------------------------------------------

    @override
    def _settle_and_take(
        self, tx: Transaction, transitions: Sequence[Transition], request: ClaimRequest
    ) -> tuple[list[Applied], TakenRows]:
        """Settle and claim; lock the session before the jobs, like a transaction that ends a session."""
        cursor_of(tx).put(*_written(tx, SERVING, {"session": request.session}))
        results, found = self._settle_in(tx, transitions, lambda: self._claims.find_rows(tx, request))
        return results, take_rows(tx, request, found)

    # ---- memos -------------------------------------------------------------------------------------------

    @override
    def remember(self, memos: Sequence[NewMemo], *, within: object | None = None) -> list[Remembered]:
        """Store the memos; this takes one round trip unless the caller passes a transaction."""
        if within is not None or not memos or not can_remember_in_one_round_trip(memos):
            return super().remember(memos, within=within)
        database, long = self._database, list[str]()
        answers = database.write(
            lambda tx: remember_in_one_round_trip(tx, cursor_of(tx), memos, database.clock_offset, long)
        )
        if long:
            database.write(lambda tx: compact_long(tx, long))
        return answers

    @override
    def recall(
        self, job_id: str, *, session: str | None = None, fence: int | None = None
    ) -> list[Memo] | None:
        return self._database.read(
            lambda tx: recall_in_one_round_trip(tx, cursor_of(tx), job_id, session, fence)
        )


def store_batch_change(
    tx: Transaction, batch_id: str, *, total: int = 0, active: int = 0, succeeded: int = 0
) -> None:
    """Store the transaction's changes to a batch as a separate row, without a lock."""
    row = {"batch_id": batch_id, "total": total, "active": active, "succeeded": succeeded}
    tx.run_many(_ADD_BATCH_CHANGE, [row])


# ---- opening ---------------------------------------------------------------------------------------------

_MODULES = {"pymysql": "pymysql", "mysqldb": "MySQLdb"}
_KNOWN = frozenset(
    {"connect_timeout", "read_timeout", "write_timeout", "unix_socket", "bind_address", "ssl_ca", "ssl_cert",
     "ssl_key", "ssl_capath", "ssl_cipher", "ssl_check_hostname", "read_default_file", "read_default_group"}
)  # fmt: skip
_CONNECT_SECONDS = 10
_SILENT_SECONDS = 90  # if there is no reply for this many seconds, the server is considered unreachable
_POOL_SECONDS = 15.0
_SEVERAL = 1 << 16  # CLIENT_MULTI_STATEMENTS: several statements share a round trip
_FOUND_ROWS = 1 << 1  # CLIENT_FOUND_ROWS: the row count of an UPDATE includes unchanged matching rows


def open_url(url: str) -> SqlStorage:
    """Return the storage for a `mysql://` or `mariadb://` URL; it does not connect yet."""
    parsed = parse_server_url(url, scheme=url.partition(":")[0].partition("+")[0], choices={}, known=_KNOWN)
    driver = _driver_of(parsed)
    shown = str(parsed)
    connections = EnginePool(shown, lambda: _make_engine(parsed, driver), is_own=True)
    return MysqlStorage(shown, parsed.connect_url, connections, parsed.names)


def open_engine(engine: Engine) -> SqlStorage:
    """Return the storage in a caller's database, which uses the caller's own connections.

    Raises:
        ConfigurationError: If the driver of the engine is neither PyMySQL nor mysqlclient.
    """
    if engine.dialect.driver not in _MODULES:
        raise ConfigurationError(
            f"The engine must use PyMySQL or mysqlclient, got {engine.dialect.driver}. Create the engine "
            "from mysql+pymysql://…, or pass its URL; jobs can still be enqueued within transactions on it."
        )
    shown = engine.url.set(query={}, drivername=engine.dialect.name).render_as_string(hide_password=True)
    connections = EnginePool(shown, lambda: engine, is_own=False)
    return MysqlStorage(shown, "", connections, Names())


def _driver_of(parsed: ServerUrl) -> str:
    """Return the URL's driver; if it has none, return mysqlclient if it is installed, otherwise PyMySQL.

    Raises:
        ConfigurationError: If the driver is not installed.
    """
    _, _, named = parsed.url.drivername.partition("+")
    for driver in [named] if named else ["mysqldb", "pymysql"]:
        if importlib.util.find_spec(_MODULES[driver]) is not None:
            return driver
    needed = "mysqlclient" if named == "mysqldb" else "PyMySQL"
    raise ConfigurationError(f"{parsed} requires {needed}, which is not installed. Run {_install(named)}")


def _install(named: str) -> str:
    return "pip install mysqlclient." if named == "mysqldb" else 'pip install "firelock[mysql]".'


def _make_engine(parsed: ServerUrl, driver: str) -> Engine:
    """Return an engine whose transactions are started and ended only by our statements."""
    return create_engine(
        parsed.url.set(drivername=f"mysql+{driver}"),
        poolclass=QueuePool,
        pool_size=parsed.pool_size,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_reset_on_return=None,
        connect_args=_connect_args(parsed, driver),
    )


def _connect_args(parsed: ServerUrl, driver: str) -> dict[str, Any]:
    own: dict[str, Any] = {
        "charset": "utf8mb4",
        "autocommit": True,
        "client_flag": _FOUND_ROWS | _SEVERAL,
        "connect_timeout": _CONNECT_SECONDS,
        "read_timeout": _SILENT_SECONDS,
        "write_timeout": _SILENT_SECONDS,
    }
    if driver == "pymysql":
        own["program_name"] = "firelock"
    return {name: value for name, value in own.items() if name not in parsed.url.query}
