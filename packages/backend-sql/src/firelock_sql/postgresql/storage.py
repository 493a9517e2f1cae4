"""A PostgreSQL storage: the verbs that run for every job, with one round trip for plain jobs.

A plain job or end needs only one statement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, repeat, zip_longest
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

import attrs
from psycopg import Pipeline
from psycopg.errors import UniqueViolation
from psycopg.pq import Conninfo
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import QueuePool
from typing_extensions import override

from firelock import ConfigurationError
from firelock.limits import lane_of
from firelock.storage import (
    ANY_QUEUE,
    Applied,
    Claim,
    ClaimRequest,
    Duplicate,
    Exchange,
    Feature,
    Memo,
    NewJob,
    NewMemo,
    Relations,
    Remembered,
    StorageError,
    Transition,
    further_fields,
    read_relations,
)
from firelock_sql.connections.database import BRIEF_SECONDS, RowLocked
from firelock_sql.connections.full_reads import LONG_SECONDS, DueFloor, HeldReadSchedule
from firelock_sql.connections.pool import EnginePool
from firelock_sql.connections.transaction import Text, Transaction
from firelock_sql.connections.url import ServerUrl, parse_server_url
from firelock_sql.postgresql.claim_start import ClaimRead, ClaimStart
from firelock_sql.postgresql.connect import connection_class, number_array, text_array
from firelock_sql.postgresql.database import PostgresqlDatabase
from firelock_sql.postgresql.deltas import take_deltas
from firelock_sql.postgresql.lanes import (
    HOLD_CLAIMS,
    MAKE_KEYS,
    TAKE,
    HeldLanes,
    KnownQueuesClaim,
    LaneFloors,
    PostgresqlLanes,
)
from firelock_sql.postgresql.memos import (
    RECALL,
    can_remember_in_one_round_trip,
    recalled,
    remember_in_one_round_trip,
)
from firelock_sql.postgresql.statements import (
    BEGIN_LANE_CLAIM,
    BEGIN_LANE_CLAIM_OF_EVERY,
    CLAIM_BY_PROBES,
    EXCHANGE,
    EXCHANGE_LEAVING_OUT,
    EXCHANGE_OF_EVERY,
    EXCHANGE_OF_EVERY_LEAVING_OUT,
    FILL,
    FILL_LIMITED,
    FIND_DUE,
    INSERT,
    INSERT_CALLED,
    INSERT_LIMITED,
    INSERT_LIMITED_MEMBERS,
    INSERT_MEMBERS,
    KEEP_OPEN,
    Settling,
)
from firelock_sql.postgresql.suspensions import can_suspend_in_one_round_trip, suspend_in_one_round_trip
from firelock_sql.postgresql.tags import untag
from firelock_sql.postgresql.unique_lock import lock_keys
from firelock_sql.rows.batch_row import TAKERS
from firelock_sql.rows.job_row import CLAIMED, LOCK, claimed_job, lock_free, stored_among
from firelock_sql.rows.marks import HAS_MEMOS, IS_MEMBER
from firelock_sql.schema.names import Names
from firelock_sql.storage import KIND, RememberedClaim, SplitTransitions, SqlStorage, freed_by, held_of, kind
from firelock_sql.verbs.claim import PLACE_SEQ, TakenRows, claim_row, serving
from firelock_sql.verbs.insert import NO_FURTHER, count_first_members, further, insert_jobs, is_called
from firelock_sql.verbs.limits import SqlLanes
from firelock_sql.verbs.memos import compact_long
from firelock_sql.verbs.settle import apply_transitions
from firelock_sql.verbs.suspensions import Suspension
from firelock_sql.verbs.unique import LOCKERS, unique_use
from firelock_sql.verbs.upkeep import UNTAGGERS, NextDue

LOCKERS["postgresql"] = lock_keys
UNTAGGERS["postgresql"] = untag
TAKERS["postgresql"] = take_deltas

_T = TypeVar("_T")
_MOST = 512  # maximum number of jobs that one statement claims
# A result row of EXCHANGE and CLAIM_BY_PROBES contains values for the whole claim, then a claimed job or
# NULLs.
_SAID = ("server", "next_due_at", "open_queues", "settled", "locked", "has_lanes", "took")
_ANSWER = (*_SAID, *CLAIMED, "seq", "marks")
_PLACE_OPEN, _PLACE_SETTLED, _PLACE_LOCKED, _PLACE_LANES = map(
    _ANSWER.index, ("open_queues", "settled", "locked", "has_lanes")
)
_FIRST = len(_SAID)
_QUEUE, _PRIORITY, _ENQUEUED_AT, _SEQ, _MARKS = map(
    _ANSWER.index, ("queue", "priority", "enqueued_at", "seq", "marks")
)
_AT_LEVEL = itemgetter(_QUEUE, _PRIORITY, _ENQUEUED_AT, _SEQ)

_PlainEnds = Sequence[tuple[Transition, RememberedClaim]]


@attrs.frozen
class _Ended:
    """The results of a statement that settles plain outcomes, by the numbers of the jobs."""

    settled: Collection[int] | None  # None: all
    locked: Collection[int] | None = None  # jobs that other transactions have locked

    def has(self, seq: int) -> bool:
        """Return whether the job has ended."""
        return self.settled is None or seq in self.settled

    def is_locked(self, seq: int) -> bool:
        """Return whether another transaction has locked the job."""
        return self.locked is not None and seq in self.locked


@attrs.frozen
class _LaneExchange:
    """The result of an exchange that has also read the lanes."""

    ended: _Ended
    taken: TakenRows
    open_queues: int | None = None  # number of queues that `EXCHANGE` read; None if lanes were read
    has_written: bool = True  # whether anything other than ends was written


class _NothingStored(Exception):
    """Raised if one of the jobs was stored before, or if the batch of the jobs is not open."""


class PostgresqlStorage(SqlStorage):
    """A storage in one database of a PostgreSQL server."""

    admits = frozenset({Feature.LIMITS, Feature.UNIQUE})
    fast_path_marks = (0, IS_MEMBER, HAS_MEMOS, IS_MEMBER | HAS_MEMOS)
    _database: PostgresqlDatabase
    _held_reads: HeldReadSchedule

    def __init__(
        self, shown: str, connect_url: str, connections: EnginePool, names: Names, listen: str
    ) -> None:
        database = PostgresqlDatabase(shown, connections, names, listen)
        database.connect_url = connect_url
        # A pooler is detected only by the first connection; from that time on, `describe` reports it.
        super().__init__(database, is_notified=database.wake.has_mailbox)
        self._claim_start = ClaimStart()
        self._floors = LaneFloors()
        self._due_floor = DueFloor(LONG_SECONDS)
        self._held_reads = HeldReadSchedule(LONG_SECONDS)
        self._laned: set[tuple[str, ...] | None] = set()  # lists of queues whose last claim found lanes

    def _commit_one(self, work: Callable[[Any], _T]) -> _T:
        """Run the work, which is a single statement, with a cursor as one transaction."""
        if self._database.is_direct:
            return self._database.in_one_round_trip(work)
        return self._database.write(lambda tx: work(tx.cursor))

    def _fetch_rows(self, cursor: Any, statement: Text, values: Mapping[str, object]) -> list[Any]:  # noqa: ANN401 - psycopg's
        self._execute(cursor, statement, values)
        rows: list[Any] = cursor.fetchall()
        return rows

    def _execute(self, cursor: Any, statement: Text, values: Mapping[str, object]) -> None:  # noqa: ANN401 - psycopg's
        text = statement.compiled(self._database.dialect).text
        cursor.execute(text, values, prepare=self._database.is_direct)

    # ---- insert ------------------------------------------------------------------------------------------

    @override
    def _insert(self, jobs: Sequence[NewJob]) -> Sequence[bool | Duplicate]:
        """Store the jobs as new ones, and check for existing jobs only if this fails.

        This takes one round trip if all jobs are of the same kind: plain, members of one batch, or called by
        one job.
        """
        if not all(job.is_plain for job in jobs) and not _are_alike(jobs):
            return self._insert_filled(jobs)
        database, orders = self._database, _orders(jobs)
        kinds = set(map(kind, jobs))
        relations = jobs[0].relations_json
        batch_id = None if relations is None else read_relations(relations).batch_id

        def store(tx: Transaction) -> None:
            if batch_id is not None:
                tx.run(KEEP_OPEN, batch=batch_id)
            self._store_kinds(tx.cursor, next(orders))

        try:
            if len(kinds) > 1:
                database.write(store)
            elif batch_id is None:
                self._commit_one(lambda cursor: self._store_kind(cursor, next(orders)))
            elif database.is_direct and Pipeline.is_supported():
                database.in_one_round_trip(lambda cursor: self._store_members(cursor, next(orders)))
            else:
                database.write(store)
        except _NothingStored:
            return self._insert_any(jobs)
        database.wake.notify({queue for queue, *_ in kinds})
        return [True] * len(jobs)

    def _insert_filled(self, jobs: Sequence[NewJob]) -> Sequence[bool | Duplicate]:
        """Store a batch with the plain members directly after it, then the others; return which are new."""
        if not (number := count_first_members(jobs)):
            return self._insert_any(jobs)
        members, rest = jobs[1 : number + 1], jobs[number + 1 :]

        def store(tx: Transaction) -> list[bool | Duplicate]:
            if not all(insert_jobs(tx, jobs[:1])):
                raise _NothingStored
            self._store_kinds(tx.cursor, members, is_batch_new=True)
            tx.woken |= {job.queue for job in members}
            return [True] * (1 + number) + insert_jobs(tx, rest)

        try:
            return self._database.write(store)
        except _NothingStored:
            return self._insert_any(jobs)

    def _store_members(self, cursor: Any, jobs: Sequence[NewJob]) -> None:  # noqa: ANN401 - psycopg's
        """Lock the batch and store members of one kind, in one round trip.

        Transactions that add members share the lock.

        Raises:
            _NothingStored: If a member was stored before, or if the batch is not open.
        """
        statement, values = self._compose_insert(jobs)
        answer = cursor.connection.cursor()
        try:
            with cursor.connection.pipeline():
                self._execute(cursor, KEEP_OPEN, {"batch": values["batch"]})
                self._execute(answer, statement, values)
        except UniqueViolation as error:
            raise _NothingStored from error
        if answer.fetchone() is None:
            raise _NothingStored

    def _store_kinds(
        self,
        cursor: Any,  # noqa: ANN401 - psycopg's
        new_jobs: Sequence[NewJob],
        *,
        is_batch_new: bool = False,
    ) -> None:
        """Store jobs with one statement per kind.

        Raises:
            _NothingStored: see `_store_kind`.
        """
        for one in dict.fromkeys(map(kind, new_jobs)):
            jobs = [job for job in new_jobs if kind(job) == one]
            self._store_kind(cursor, jobs, is_batch_new=is_batch_new)

    def _store_kind(
        self,
        cursor: Any,  # noqa: ANN401 - psycopg's
        jobs: Sequence[NewJob],
        *,
        is_batch_new: bool = False,
    ) -> None:
        """Store jobs of one kind.

        Raises:
            _NothingStored: If one of them was stored before, so that the transaction cannot continue, or if
                their batch is not open.
        """
        statement, values = self._compose_insert(jobs, is_batch_new=is_batch_new)
        try:
            cursor.execute(statement.compiled(self._database.dialect).text, values)
        except UniqueViolation as error:
            raise _NothingStored from error
        if "batch" in values and cursor.fetchone() is None:
            raise _NothingStored

    def _compose_insert(
        self, jobs: Sequence[NewJob], *, is_batch_new: bool = False
    ) -> tuple[Text, dict[str, object]]:
        """Return the statement that stores jobs of one kind, and its parameters."""
        values = {
            "ids": text_array([job.id for job in jobs]),
            "arguments": text_array([job.arguments for job in jobs]),
            "ats": number_array([job.created_at for job in jobs]),
            "offset": self._database.clock_offset,
            **dict(zip(KIND, kind(jobs[0]), strict=True)),
        }
        relations = jobs[0].relations_json
        statement, limited = INSERT, INSERT_LIMITED
        if relations is not None:
            values["relations"] = relations
            if (batch_id := read_relations(relations).batch_id) is None:
                return INSERT_CALLED, values
            values["batch"] = batch_id
            statement, limited = (
                (FILL, FILL_LIMITED) if is_batch_new else (INSERT_MEMBERS, INSERT_LIMITED_MEMBERS)
            )
        if all(job.admission_json is None for job in jobs):
            return statement, values
        values["lanes"] = text_array([lane_of(job.admission) for job in jobs])
        values["admissions"] = text_array([job.admission_json for job in jobs])
        return limited, values

    # ---- claim -------------------------------------------------------------------------------------------

    @override
    def claim(self, request: ClaimRequest) -> Claim:
        """Claim jobs; this takes one round trip unless jobs wait in lanes."""
        self._database.wake.mark(request.queues)
        try:
            if self._has_lanes(request):
                return self._remember_lanes(request, self._exchange_with_lanes(request, ()))
            return self._run_claim(self._next_read(request))
        except StorageError:
            self._held_reads.read_fully_next()  # jobs may have been claimed
            raise

    def _next_read(self, request: ClaimRequest) -> ClaimRead:
        """Return the claim with its probes; a claim that skips tasks is always a full read."""
        return ClaimRead(request) if request.left_out else self._claim_start.next_read(request)

    def _run_claim(self, read: ClaimRead) -> Claim:
        """Claim jobs with one statement: a full read, or a read with the probes of `read`."""
        rows = self._commit_one(lambda cursor: self._fetch_claim(cursor, read))
        return self._finish_claim(read, rows)

    def _fetch_claim(self, cursor: Any, read: ClaimRead, plain: _PlainEnds = ()) -> list[Any]:  # noqa: ANN401 - psycopg's
        """Run the statement of a claim, which also settles plain outcomes if it is a full read."""
        values = self._claim_values(read.request)
        if read.probes is not None:
            return self._fetch_rows(cursor, CLAIM_BY_PROBES, values | read.values)
        return self._fetch_settling(cursor, _exchange_for(read.request), values, plain)

    def _fetch_settling(
        self,
        cursor: Any,  # noqa: ANN401 - psycopg's
        statement: Settling,
        values: Mapping[str, object],
        plain: _PlainEnds,
    ) -> list[Any]:
        """Run a statement that settles plain outcomes; use the form for members if there are any."""
        ends = _end_values(plain)
        text = statement.with_members if "batches" in ends else statement.alone
        return self._fetch_rows(cursor, text, {**values, **ends})

    def _claim_values(self, request: ClaimRequest) -> dict[str, object]:
        values: dict[str, object] = {
            "session": request.session, "limit": max(request.limit, 0), "now": request.now,
            "queues": text_array(list(dict.fromkeys(request.queues or ()))), "every": request.queues is None,
            "served": self._turns.last, "with_lanes": False, "due_from": self._due_floor.start,
        }  # fmt: skip
        if request.left_out:
            values["left_out"] = text_array(sorted(request.left_out))
        return values

    def _finish_claim(self, read: ClaimRead, rows: list[Any]) -> Claim:
        """Return the claim in the result rows of a statement, and remember the claimed jobs.

        If a queue has lanes, the statement has not claimed any jobs. In this case, claim with lanes now.
        """
        request = read.request
        if rows[0][_PLACE_LANES] and request.limit > 0:
            self._laned.add(_queues_of(request))
            return self._remember_lanes(request, self._exchange_with_lanes(request, ()))
        server, next_due_at, opened, *_, took = rows[0][:_FIRST]
        if server is None:
            self._claimed_jobs.forget(request.session)
            return Claim([], next_due_at, is_session_lost=True)
        if rows[0][_FIRST] is None:
            rows = []
        if not request.left_out:
            self._claim_start.record(read, [_AT_LEVEL(row) for row in rows], opened if took is None else took)
        if not rows:
            return Claim([], next_due_at)
        rows = self._sort_rows(request, rows)
        claimed = [claimed_job(row[_FIRST:_SEQ], row[_MARKS]) for row in rows]
        self._claimed_jobs.remember(
            request.session,
            server,
            (
                (job.id, held_of(job, row[_SEQ]))
                for row, job in zip(rows, claimed, strict=True)
                if row[_MARKS] in self.fast_path_marks
            ),
        )
        return self._top_up(read, Claim(claimed, next_due_at), opened)

    def _sort_rows(self, request: ClaimRequest, rows: list[Any]) -> list[Any]:
        """Return the claimed rows in the order in which the jobs must run: by named queues, or by turns."""
        rows.sort(key=lambda row: (-row[_PRIORITY], row[_ENQUEUED_AT], row[_SEQ]))
        if request.queues is not None:
            if len(request.queues) > 1:
                places = {name: place for place, name in enumerate(dict.fromkeys(request.queues))}
                rows.sort(key=lambda row: places[row[_QUEUE]])
            return rows
        by_queue: dict[str, list[Any]] = {}
        for row in rows:
            by_queue.setdefault(row[_QUEUE], []).append(row)
        if len(by_queue) > 1:
            turns = [by_queue[name] for name in self._turns.of(sorted(by_queue))]
            rows = [row for row in chain.from_iterable(zip_longest(*turns)) if row is not None]
        self._turns.served(rows[-1][_QUEUE])
        return rows

    def _top_up(self, read: ClaimRead, claim: Claim, open_queues: int) -> Claim:
        """Claim more jobs if a queue may have more jobs than its share, or more than one statement claims."""
        request, most = read.request, _MOST
        left = request.limit - len(claim.jobs)
        if not claim.jobs or left <= 0:
            return claim
        if request.queues is None and read.probes is None and open_queues > 1:
            most = min(most, -(-request.limit // open_queues))
        if max(Counter(job.queue for job in claim.jobs).values()) < most:
            return claim
        if request.left_out:  # another read would return the same candidates
            return attrs.evolve(claim, next_claim_at=min(request.now, claim.next_claim_at or request.now))
        more = attrs.evolve(request, limit=left)
        rest = self._remember_claim(more, self._take_alone(more))
        return Claim([*claim.jobs, *rest.jobs], claim.next_due_at)

    # ---- claims from lanes -------------------------------------------------------------------------------

    def _has_lanes(self, request: ClaimRequest) -> bool:
        """Return whether the last claim of these queues has found jobs with limits."""
        return bool(self._laned) and request.limit > 0 and _queues_of(request) in self._laned

    def _remember_lanes(self, request: ClaimRequest, done: _LaneExchange) -> Claim:
        """Return the claim, and remember the claimed jobs."""
        claim = self._remember_claim(request, done.taken)
        return (
            claim if done.open_queues is None else self._top_up(ClaimRead(request), claim, done.open_queues)
        )

    def _exchange_with_lanes(self, request: ClaimRequest, plain: _PlainEnds) -> _LaneExchange:
        """Settle plain outcomes, then claim jobs with and without limits; create the missing rows of keys.

        The read of the lanes may wait briefly for keys that other transactions have locked.
        """
        missing: set[str] = set()

        def work(tx: Transaction) -> _LaneExchange:
            missing.clear()
            done = self._take_with_lanes(tx, request, plain, missing)
            tx.has_written = bool(plain or done.has_written)
            return done

        try:
            done = self._write_planned(work, is_brief=self._cursors.patient_walks > 0)
        except RowLocked:
            self._cursors.stop_waiting()
            done = self._write_planned(work, is_brief=False)
        if missing:
            keys = text_array(sorted(missing))
            self._commit_one(lambda cursor: self._fetch_rows(cursor, MAKE_KEYS, {"keys": keys}))
        return done

    def _write_planned(self, work: Callable[[Transaction], _T], *, is_brief: bool) -> _T:
        database = self._database
        if database.is_direct:
            return database.write_planned(work, is_brief=is_brief)
        return database.write_briefly(work) if is_brief else database.write(work)

    def _take_with_lanes(
        self, tx: Transaction, request: ClaimRequest, plain: _PlainEnds, missing: set[str]
    ) -> _LaneExchange:
        """Settle plain outcomes and claim jobs in this transaction; add keys without a row to `missing`."""
        statement = BEGIN_LANE_CLAIM if request.queues is not None else BEGIN_LANE_CLAIM_OF_EVERY
        floors = self._floors if self._floors.starts_at_floors and not request.left_out else None
        known = [] if floors is None else floors.queues
        values = self._claim_values(request) | {"known": text_array(known)}
        ((server, next_due_at, settled, locked, has_lanes, laned, others, now),) = self._fetch_settling(
            tx.cursor, statement, values, plain
        )
        ended = _Ended(settled, locked)
        if server is None:
            return _LaneExchange(ended, TakenRows(Claim([], next_due_at, is_session_lost=True), [], ""))
        tx.freed_keys += freed_by([(end, held) for end, held in plain if ended.has(held.seq)])
        if not has_lanes:
            self._laned.discard(_queues_of(request))
        if not laned:
            rows = self._fetch_settling(tx.cursor, _exchange_for(request), values | {"with_lanes": True}, ())
            found = [] if rows[0][_FIRST] is None else self._sort_rows(request, rows)
            jobs = [claimed_job(row[_FIRST:_SEQ], row[_MARKS]) for row in found]
            taken = TakenRows(Claim(jobs, next_due_at), [row[_FIRST:] for row in found], server)
            done = _LaneExchange(ended, taken, rows[0][_PLACE_OPEN])
        else:
            timed = attrs.evolve(tx, began=now + self._database.clock_offset)
            lanes = PostgresqlLanes(timed, floors)
            claim = KnownQueuesClaim(timed, lanes, self._cursors, request, plain=others, laned=laned)
            found = claim.rows(self._turns)
            if found:
                seqs = number_array([row[PLACE_SEQ] for row in found])
                self._execute(tx.cursor, TAKE, {**values, **lanes.values, "server": server, "seqs": seqs})
            missing |= lanes.missing
            if floors is None:
                self._floors.record(*lanes.longest)
            if (
                not request.left_out
            ):  # a claim that skips tasks also skips jobs, so it must not move the floors
                self._floors.claimed(found)
            jobs = [claim_row(row, request.now) for row in found]
            taken = TakenRows(Claim(jobs, next_due_at, next_claim_at=claim.next_claim_at), found, server)
            has_written = bool(found or lanes.has_written or lanes.unreadable)
            done = _LaneExchange(ended, taken, has_written=has_written)
        if tx.freed_keys:
            self._skip_needless_wake(tx, request, taken.claim)
        return done

    @override
    def _hold_claims(self, tx: Transaction) -> None:
        tx.one(HOLD_CLAIMS)

    @override
    def _lanes_in(self, tx: Transaction) -> SqlLanes:
        return HeldLanes(tx)

    # ---- apply -------------------------------------------------------------------------------------------

    @override
    def _settle(self, transitions: Sequence[Transition]) -> list[Applied]:
        """Settle the transitions; this takes one round trip if all are plain outcomes."""
        split = self._claimed_jobs.split(transitions, None)
        if split.others:
            return self._unhindered(transitions, self._settle_mixed_alone)[0]
        ended = self._commit_one(lambda cursor: self._settle_plain(cursor, split.plain))
        self._wake_for_keys(split.plain, ended)
        return self._settle_rest(transitions, split, ended)

    def _settle_plain(self, cursor: Any, plain: _PlainEnds) -> _Ended:  # noqa: ANN401 - psycopg's
        """Settle plain outcomes with the statement of a claim whose limit is 0."""
        no_jobs = ClaimRequest([], 0, str(plain[0][0].session), 0)
        row = self._fetch_claim(cursor, ClaimRead(no_jobs), plain)[0]
        return _Ended(row[_PLACE_SETTLED], row[_PLACE_LOCKED])

    def _settle_mixed_alone(
        self, tx: Transaction, transitions: Sequence[Transition]
    ) -> tuple[list[Applied], None]:
        return self._settle_mixed(tx, transitions, self._claimed_jobs.split(transitions, None)), None

    def _settle_mixed(
        self, tx: Transaction, transitions: Sequence[Transition], split: SplitTransitions
    ) -> list[Applied]:
        """Settle the transitions; lock the session before the jobs, as `end_session` does."""
        if not split.plain:
            return apply_transitions(tx, transitions)
        serving(tx, str(split.plain[0][0].session))
        ids = {one.job_id for one in transitions}
        if tx.skips_own:
            taken_away = ids - lock_free(tx, ids)
            locked = stored_among(tx, taken_away)
            plain = [(end, held) for end, held in split.plain if end.job_id not in taken_away]
        else:
            tx.all(LOCK, ids=sorted(ids))
            locked, plain = set(), split.plain
        ended = self._settle_plain(tx.cursor, plain) if plain else _Ended(())
        done = {end.job_id for end, held in plain if ended.has(held.seq)}
        tx.freed_keys += freed_by([(end, held) for end, held in plain if end.job_id in done])
        left = [n for n, one in enumerate(transitions) if one.job_id not in done | locked]
        results = self._apply_rest(tx, transitions, left)
        return _mark_busy(transitions, _mark_release_needed(transitions, split, results), locked)

    def _settle_rest(
        self, transitions: Sequence[Transition], split: SplitTransitions, ended: _Ended
    ) -> list[Applied]:
        """Apply ends that turn out not to be plain, for example ends of parents; return all results."""
        results = [Applied.APPLIED] * len(transitions)
        if ended.settled is None:
            return _mark_release_needed(transitions, split, results)
        locked = {end.job_id for end, held in split.plain if ended.is_locked(held.seq)}
        done = {end.job_id for end, held in split.plain if ended.has(held.seq)}
        if left := [n for n, one in enumerate(transitions) if one.job_id not in done | locked]:
            rest = [transitions[place] for place in left]
            found, _ = self._unhindered(rest, lambda tx, ends: (apply_transitions(tx, ends), None))
            for place, result in zip(left, found, strict=True):
                results[place] = result
        return _mark_busy(transitions, _mark_release_needed(transitions, split, results), locked)

    def _wake_for_keys(self, plain: _PlainEnds, ended: _Ended) -> None:
        """Notify servers if ended jobs have released keys for which other jobs may wait."""
        if freed_by(plain) and any(
            ended.has(held.seq) for _, held in plain if held.admission_json is not None
        ):
            self._database.wake.notify({ANY_QUEUE})

    @override
    def _suspend(self, suspensions: Sequence[Suspension]) -> Collection[str]:
        database = self._database
        if not (database.is_direct and can_suspend_in_one_round_trip()):
            return ()
        try:
            keys = database.in_one_round_trip(
                lambda cursor: suspend_in_one_round_trip(cursor, database.dialect, suspensions),
                lock_seconds=BRIEF_SECONDS,
            )
        except RowLocked:  # the general path determines which jobs are busy
            return ()
        if any(keys.values()):
            database.wake.notify({ANY_QUEUE})
        return keys

    # ---- exchange ----------------------------------------------------------------------------------------

    @override
    def _settle_and_claim(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """Settle and claim; this takes one round trip if all ends are plain and no job waits in a lane."""
        try:
            read = self._next_read(request)
            split = self._claimed_jobs.split(transitions, request.session)
            if split.others:
                return super()._settle_and_claim(transitions, request)
            if self._has_lanes(request):
                done = self._exchange_with_lanes(request, split.plain)
                results = self._settle_rest(transitions, split, done.ended)
                self._claimed_jobs.forget_stored(transitions, results)
                return Exchange(results, self._remember_lanes(request, done))
            if read.probes is not None:
                return Exchange(self.apply(transitions), self._run_claim(read))
            rows = self._commit_one(lambda cursor: self._fetch_claim(cursor, read, split.plain))
            ended = _Ended(rows[0][_PLACE_SETTLED], rows[0][_PLACE_LOCKED])
            results = self._settle_rest(transitions, split, ended)
            self._claimed_jobs.forget_stored(transitions, results)
            claim = self._finish_claim(read, rows)
        except StorageError:
            self._held_reads.read_fully_next()  # jobs may have been claimed
            raise
        if request.queues is not None or len(claim.jobs) >= request.limit:
            self._wake_for_keys(split.plain, ended)
        return Exchange(results, claim)

    @override
    def _settle_and_take(
        self, tx: Transaction, transitions: Sequence[Transition], request: ClaimRequest
    ) -> tuple[list[Applied], TakenRows]:
        serving(tx, request.session)
        split = self._claimed_jobs.split(transitions, request.session)
        results = self._settle_mixed(tx, transitions, split)
        if self._has_lanes(request):
            return results, self._take_with_lanes(tx, request, (), set()).taken
        return results, self._take_jobs(tx, request)

    # ---- memos -------------------------------------------------------------------------------------------

    @override
    def remember(self, memos: Sequence[NewMemo], *, within: object | None = None) -> list[Remembered]:
        """Store the memos; this takes one round trip unless the caller passes a transaction."""
        database = self._database
        if within is not None or not memos or not database.is_direct or not can_remember_in_one_round_trip():
            return super().remember(memos, within=within)
        offset = database.clock_offset
        stored = database.in_one_round_trip(
            lambda cursor: remember_in_one_round_trip(cursor, database.dialect, memos, offset)
        )
        if stored.queues:
            database.wake.notify(stored.queues)
        if stored.long:
            database.write(lambda tx: compact_long(tx, stored.long))
        return stored.results

    @override
    def recall(
        self, job_id: str, *, session: str | None = None, fence: int | None = None
    ) -> list[Memo] | None:
        if not self._database.is_direct:
            return super().recall(job_id, session=session, fence=fence)
        values = {"job": job_id, "session": session, "fence": fence}
        return recalled(
            self._database.in_one_round_trip(lambda cursor: self._fetch_rows(cursor, RECALL, values))
        )

    # ---- upkeep ------------------------------------------------------------------------------------------

    @override
    def _find_due(self, begin: int) -> NextDue:
        """Read the next due times in one round trip."""
        first, firing, now, micros = self._database.query(lambda tx: tx.one(FIND_DUE, due_from=begin))
        self._due_floor.record(begin, micros / 1_000_000)
        return NextDue(first, firing, now + self._database.clock_offset)


_further_or_relations, _ = further_fields("admission_json")


def _are_alike(jobs: Sequence[NewJob]) -> bool:
    """Return whether the jobs need only values that a claim reads.

    All of them may be members of one batch. If they have no limits, they may instead all be called by one
    job.
    """
    relations = jobs[0].relations_json
    wanted = _further_or_relations(jobs[0])
    if further(jobs[0]) != NO_FURTHER or any(fields != wanted for fields in map(_further_or_relations, jobs)):
        return False
    if relations is not None and read_relations(relations) != Relations(read_relations(relations).batch_id):
        return is_called(relations) and all(job.admission_json is None for job in jobs)
    return all(unique_use(job) is None for job in jobs)


def _exchange_for(request: ClaimRequest) -> Settling:
    if request.left_out:
        return EXCHANGE_OF_EVERY_LEAVING_OUT if request.queues is None else EXCHANGE_LEAVING_OUT
    return EXCHANGE_OF_EVERY if request.queues is None else EXCHANGE


def _queues_of(request: ClaimRequest) -> tuple[str, ...] | None:
    return None if request.queues is None else tuple(request.queues)


def _mark_busy(
    transitions: Sequence[Transition], results: list[Applied], locked: Collection[str]
) -> list[Applied]:
    """Return the results, with BUSY for jobs that other transactions have locked."""
    if not locked:
        return results
    return [
        Applied.BUSY if one.job_id in locked else result
        for one, result in zip(transitions, results, strict=True)
    ]


def _mark_release_needed(
    transitions: Sequence[Transition], split: SplitTransitions, results: list[Applied]
) -> list[Applied]:
    """Return the results, with RELEASE_NEEDED for plain outcomes of members, whose batch may have ended."""
    members = {end.job_id for end, held in split.plain if held.batch_id is not None}
    if not members:
        return results
    return [
        Applied.RELEASE_NEEDED if result is Applied.APPLIED and one.job_id in members else result
        for one, result in zip(transitions, results, strict=True)
    ]


def _orders(jobs: Sequence[NewJob]) -> Iterator[Sequence[NewJob]]:
    """Yield the jobs in the given order the first time and, for retries after a conflict, in order of id."""
    yield jobs
    yield from repeat(sorted(jobs, key=attrgetter("id")))


def _end_values(plain: _PlainEnds) -> dict[str, object]:
    """Return the parameters of plain outcomes, in order of job id."""
    if not plain:
        return _NO_ENDS
    plain = sorted(plain, key=lambda one: one[0].job_id)
    ends = [transition for transition, _ in plain]
    batches = [held.batch_id for _, held in plain]
    of_members: dict[str, object] = {"batches": text_array(batches)} if any(batches) else {}
    return of_members | {
        "seqs": number_array([held.seq for _, held in plain]),
        "ids": text_array([end.job_id for end in ends]),
        "fences": number_array([end.fence for end in ends]),
        "ats": number_array([end.at for end in ends]),
        "starts": number_array([end.started_at for end in ends]),
        "expiries": number_array([end.expires_at for end in ends]),
        "results": text_array([end.result for end in ends]),
        "absent": text_array([end.result_absent for end in ends]),
    }


_NO_ENDS: dict[str, object] = dict.fromkeys(
    ("seqs", "ids", "fences", "ats", "starts", "expiries", "results", "absent"), "{}"
)


# ---- opening ---------------------------------------------------------------------------------------------

_CHOICES = {"listen": ("auto", "on", "off")}
_CONNECT_SECONDS = 10
_POOL_SECONDS = 15.0
# if there is no reply for this many seconds, the server is considered unreachable; statements have shorter
# timeouts
SILENT_SECONDS = 90.0


def open_url(url: str) -> SqlStorage:
    """Return the storage for a `postgresql://` URL; it does not connect yet."""
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    parsed = parse_server_url(url, scheme="postgresql", choices=_CHOICES, known=known)
    connections = EnginePool(str(parsed), lambda: _make_engine(parsed), is_own=True)
    return PostgresqlStorage(
        str(parsed), parsed.connect_url, connections, parsed.names, parsed.options["listen"]
    )


def open_engine(engine: Engine) -> SqlStorage:
    """Return the storage in a caller's database, which uses the caller's own connections.

    Raises:
        ConfigurationError: If the driver of the engine is not psycopg 3.
    """
    if engine.dialect.driver not in {"psycopg", "psycopg_async"}:
        raise ConfigurationError(
            f"The engine must use psycopg 3, got {engine.dialect.driver}. Create the engine from "
            "postgresql+psycopg://…, or pass its URL; jobs can still be enqueued within transactions on it."
        )
    shown = engine.url.set(query={}, drivername="postgresql").render_as_string(hide_password=True)
    connections = EnginePool(shown, lambda: engine, is_own=False)
    return PostgresqlStorage(shown, "", connections, Names(), "auto")


def _make_engine(parsed: ServerUrl) -> Engine:
    """Return an engine whose transactions are started and ended only by our statements."""
    engine = create_engine(
        parsed.url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=parsed.pool_size,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_reset_on_return=None,
        pool_use_lifo=True,  # the connection that was used last has prepared its statements
        connect_args=_connect_args(parsed),
    )
    kind = connection_class(SILENT_SECONDS)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: object, record: object, words: Sequence[Any], named: Mapping[str, Any]) -> object:
        del dialect, record
        return kind.connect(*words, **named)

    return engine


def _connect_args(parsed: ServerUrl) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "application_name": "firelock",
        "connect_timeout": _CONNECT_SECONDS,
        # An unreachable server is detected within half a minute, even by a connection that only listens.
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    }
    return {name: value for name, value in defaults.items() if name not in parsed.url.query}
