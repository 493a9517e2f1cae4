"""`SqlStorage`: the verbs that run for every job, and which of these are plain; each one is a transaction.

A plain job asks for nothing; a plain end is a success that the storage hears of the first time. What most
jobs are is done a shorter way: what a session has claimed through this process is remembered, so that its
plain ends need no reading. Each dialect has a class of its own, in its fastest form. The other verbs are in
groups, each of which is a base of this class.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import ClassVar, NamedTuple, TypeVar

import attrs
from typing_extensions import override

from firelock.limits import LaneCursors, lane_of
from firelock.storage import (
    Applied,
    Claim,
    ClaimedJob,
    ClaimRequest,
    Duplicate,
    Exchange,
    Feature,
    Finding,
    Inserted,
    JobHistory,
    JobRecord,
    NewJob,
    RecordChange,
    SchemaState,
    Taken,
    Transition,
    read_relations,
)
from firelock_sql.connections.counting import FOLD_EVERY
from firelock_sql.connections.database import BRIEF_SECONDS, Database, RowLocked
from firelock_sql.connections.transaction import LetGo, Text, Transaction, Value
from firelock_sql.connections.whole_looks import DueFloor
from firelock_sql.rows.job_row import admission_in, get_history, get_jobs
from firelock_sql.rows.marks import HAS_MEMOS, IS_MEMBER
from firelock_sql.verbs.batches import SqlBatchVerbs
from firelock_sql.verbs.claim import (
    PLACE_MARKS,
    PLACE_SEQ,
    MixedClaim,
    QueueTurns,
    ReadyRow,
    ReadyRows,
    TakenRows,
    has_ready,
    living_server,
    next_due_at,
    ready_rows,
    serving_with_lanes,
    take_rows,
)
from firelock_sql.verbs.find import SqlReadingVerbs
from firelock_sql.verbs.insert import insert_jobs
from firelock_sql.verbs.limits import SqlLimitVerbs
from firelock_sql.verbs.locks import SqlLockVerbs
from firelock_sql.verbs.logs import SqlLogVerbs
from firelock_sql.verbs.memos import SqlMemoVerbs
from firelock_sql.verbs.moves import SqlMoveVerbs
from firelock_sql.verbs.records import SqlRecordVerbs, insert_if
from firelock_sql.verbs.sessions import SqlSessionVerbs
from firelock_sql.verbs.settle import apply_transitions
from firelock_sql.verbs.streams import SqlStreamVerbs
from firelock_sql.verbs.suspensions import Suspension, find_suspensions
from firelock_sql.verbs.unique import SqlUniqueVerbs
from firelock_sql.verbs.upkeep import SqlUpkeepVerbs

_T = TypeVar("_T")
KIND = ("queue", "priority", "task", "serializer")  # as a rule the same for every job of a batch
kind = attrgetter(*KIND)

_waits_for = attrgetter("waits_for")

# Settles one plain end, guarded by all that its claim knew; run once an end, by drivers that take many. The
# id is asked for too: a number is given out again after the last row was pruned.
_SETTLE = """
UPDATE firelock_jobs
SET state = 'succeeded', changed_at = :at, ended_at = :at, started_at = :started_at,
    expires_at = :expires_at, result = :result, result_absent = :result_absent, is_plain_end = 1,
    session = NULL, reason = NULL, due_at = NULL
WHERE seq = :seq AND id = :id AND session = :holder AND fence = :token AND state = 'processing'
    AND (marks = {marks} OR marks = {with_memos})
"""
SETTLE, SETTLE_MEMBERS = (
    Text(_SETTLE.format(marks=marks, with_memos=marks | HAS_MEMOS)) for marks in (0, IS_MEMBER)
)


def settle_values(end: Transition, held: HeldClaim) -> tuple[Value, ...]:
    """Return the parameters of `SETTLE` and `SETTLE_MEMBERS`."""
    return (
        end.at, end.at, end.started_at, end.expires_at, end.result, end.result_absent, held.seq, end.job_id,
        end.session, end.fence,
    )  # fmt: skip


class HeldClaim(NamedTuple):
    """What is remembered of a claimed job: enough to settle it without reading its row."""

    seq: int
    queue: str
    attempt: int
    claimed_at: int
    admission_json: str | None
    batch_id: str | None


def held_of(job: ClaimedJob, seq: int) -> HeldClaim:
    """Return what is remembered of a claimed job."""
    batch_id = None if job.relations_json is None else read_relations(job.relations_json).batch_id
    # Calling the class takes twice as long.
    return HeldClaim._make((seq, job.queue, job.attempt, job.claimed_at, job.admission_json, batch_id))


def freed_by(plain: Sequence[tuple[Transition, HeldClaim]]) -> list[LetGo]:
    """Return what these plain ends leave for jobs that wait for the same keys."""
    keyed = [held for _, held in plain if held.admission_json is not None]
    return [
        (held.seq, held.queue, lane)
        for held in keyed
        if (lane := lane_of(admission_in(held.admission_json))) is not None
    ]


@attrs.define
class _Holding:
    server: str
    jobs: dict[str, HeldClaim] = attrs.field(factory=dict)


@attrs.define
class Parted:
    """Transitions, parted: plain ends, and the places of all others."""

    plain: list[tuple[Transition, HeldClaim]] = attrs.field(factory=list)
    others: list[int] = attrs.field(factory=list)


class Holdings:
    """What each session has claimed through this process: enough to settle it without reading."""

    def __init__(self) -> None:
        self._of: dict[str, _Holding] = {}

    def forget(self, session: str | None) -> None:
        """The session has ended, or all have: what it held is not settled from memory any more."""
        if session is None:
            self._of.clear()
        else:
            self._of.pop(session, None)

    def remember(self, session: str, server: str, claimed: Iterable[tuple[str, HeldClaim]]) -> None:
        """The session of this server has claimed these jobs, by id, for sure."""
        holding = self._of.get(session)
        if holding is None:
            holding = self._of[session] = _Holding(server)
        holding.jobs.update(claimed)

    def split(self, transitions: Sequence[Transition], session: str | None) -> Parted:
        """Return the plain ends of one session, whichever comes first if none is given, apart from others.

        None is plain where a job is there twice: the order counts.
        """
        if len({one.job_id for one in transitions}) < len(transitions):
            return Parted([], list(range(len(transitions))))
        parted = Parted()
        for place, end in enumerate(transitions):
            holding = None if end.session is None else self._of.get(end.session)
            held = None if holding is None else holding.jobs.get(end.job_id)
            if (
                holding is None
                or held is None
                or end.session != (session or end.session)
                or end.server != holding.server
                or end.started_at is None
                or (end.attempt, end.claimed_at) != (held.attempt, held.claimed_at)
                or not end.is_plain_success
            ):
                parted.others.append(place)
            else:
                session = end.session
                parted.plain.append((end, held))
        return parted

    def let_go(self, transitions: Sequence[Transition], results: Sequence[Applied]) -> None:
        """The transitions are stored, whatever became of them; one that is busy will be sent again."""
        if Applied.BUSY in results:
            both = zip(transitions, results, strict=True)
            transitions = [one for one, result in both if result is not Applied.BUSY]
        for transition in transitions:
            holding = self._of.get(transition.session) if transition.session is not None else None
            if holding is not None:
                holding.jobs.pop(transition.job_id, None)


class SqlStorage(
    SqlMoveVerbs,  # move
    SqlMemoVerbs,  # remember, recall
    SqlBatchVerbs,  # counts
    SqlStreamVerbs,  # append_stream, read_stream
    SqlLimitVerbs,  # spend, find_keys, find_waiting
    SqlUniqueVerbs,  # find_unique
    SqlSessionVerbs,  # begin_session, renew, reconcile, end_session, orphans, list_sessions
    SqlUpkeepVerbs,  # promote, release, prune; record_metrics, timeline
    SqlReadingVerbs,  # find, counts, failure_groups
    SqlLogVerbs,  # append_logs, read_log
    SqlLockVerbs,  # acquire_lock, renew_lock, release_lock
    SqlRecordVerbs,  # put_record, get_record, list_records, due_records, delete_record
):
    """A storage in an SQL database."""

    contract = 1
    admits: ClassVar[frozenset[Feature]] = frozenset()
    """What this dialect offers of limits and unique keys."""
    hot_marks: ClassVar[Collection[int]] = (0,)
    """The marks of jobs whose plain ends it writes without reading: 0, and others where it can."""
    locks_rows: ClassVar[bool] = True
    """Whether others can lock a row here."""
    first_wait_seconds: ClassVar[float] = BRIEF_SECONDS
    """How long the first try of a turn with ends waits for locks of others."""

    def __init__(self, database: Database, *, is_notified: bool) -> None:
        self._database = database
        self._holdings = Holdings()
        self._turns = QueueTurns()
        self._cursors = LaneCursors()
        self._due_floor = DueFloor()
        self._inserts = _first_number()
        self.features = self.admits | {Feature.SHARED, Feature.DURABLE, Feature.TRANSACTIONAL_ENQUEUE}
        if is_notified:
            self.features |= {Feature.NOTIFY}
        self.url = database.name
        self.connect_url = database.connect_url

    # ---- life --------------------------------------------------------------------------------------------

    @property
    def clock_offset(self) -> int:
        """Return the micros added to the database's clock."""
        return self._database.clock_offset

    @clock_offset.setter
    def clock_offset(self, offset: int) -> None:
        self._database.clock_offset = offset

    @override
    def migrate(self) -> list[str]:
        return self._database.migrate()

    def migration_sql(self) -> list[str]:
        """Return the statements that do what `migrate` would; none where it is done."""
        return self._database.migration_sql()

    @override
    def schema(self) -> SchemaState:
        return self._database.schema_state()

    @override
    def clear(self) -> None:
        self._database.clear()
        self._holdings.forget(None)

    @override
    def close(self) -> None:
        self._database.close()

    @override
    def clock(self) -> int:
        return self._database.clock()

    @override
    def describe(self) -> Mapping[str, str]:
        return self._database.describe()

    @override
    def diagnose(self) -> list[Finding]:
        return [*self._database.diagnose(), *self._diagnose_sessions()]

    # ---- the hot path ------------------------------------------------------------------------------------

    @override
    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        if within is None and only_if is None:
            answers = self._insert(jobs) if jobs else []
            self._inserts += 1
            if self._inserts >= FOLD_EVERY:
                self._inserts = 0
                self._database.tidy_some()
            return Inserted(answers)

        def insert(tx: Transaction) -> Inserted:
            return Inserted(insert_jobs(tx, jobs)) if only_if is None else insert_if(tx, jobs, only_if)

        if within is None:
            return self._database.write(insert)
        is_adding_alone = only_if is None and all(job.is_plain for job in jobs)
        return self._database.join(within, insert, is_adding_alone=is_adding_alone)

    @abstractmethod
    def _insert(self, jobs: Sequence[NewJob]) -> Sequence[bool | Duplicate]:
        """Return which of some jobs are new, in a transaction of their own."""

    def _insert_any(self, jobs: Sequence[NewJob]) -> Sequence[bool | Duplicate]:
        """Return which of the jobs are new, whatever jobs they are."""
        return self._database.write(lambda tx: insert_jobs(tx, jobs))

    @override
    def claim(self, request: ClaimRequest) -> Claim:
        """A look that finds nothing takes no lock."""
        self._database.wake.mark(request.queues)
        nothing = self._database.read(lambda tx: self._claim_nothing(tx, request))
        if nothing is not None:
            return self._remember_claim(request, TakenRows(nothing, [], ""))
        return self._remember_claim(request, self._take_alone(request))

    def _take_alone(self, request: ClaimRequest) -> TakenRows:
        """Claim jobs; where a key that others keep locked is waited for, briefly, look again without that."""
        if self._cursors.patience > 0:
            try:
                return self._database.write_briefly(lambda tx: self._take_jobs(tx, request))
            except RowLocked:
                self._cursors.lose_patience()
        return self._database.write(lambda tx: self._take_jobs(tx, request))

    def _claim_nothing(self, tx: Transaction, request: ClaimRequest) -> Claim | None:
        """Return the claim of a session that takes nothing, None where there may be work for it."""
        server, has_lanes = living_server(tx, request.session)
        if server is None:
            return Claim([], next_due_at(tx, self._due_floor.start), is_session_lost=True)
        if request.limit > 0 and has_ready(tx, request, has_lanes=has_lanes):
            return None
        return Claim([], next_due_at(tx, self._due_floor.start))

    def _take_jobs(self, tx: Transaction, request: ClaimRequest) -> TakenRows:
        """Claim jobs in this transaction, before whose end the session cannot end."""
        server, has_lanes = serving_with_lanes(tx, request.session)
        rows: Sequence[ReadyRow] = []
        look_again_at = None
        if server is not None and request.limit > 0:
            if has_lanes:
                lanes = self._lanes_in(tx)
                lanes.hold_numbers()
                mixed = MixedClaim(tx, lanes, self._cursors, request)
                rows = mixed.rows(self._turns)
                look_again_at = mixed.look_again_at
            else:
                rows = ready_rows(tx, request, self._turns)
        due_at = next_due_at(tx, self._due_floor.start)
        return take_rows(tx, request, ReadyRows(server, rows, due_at, look_again_at))

    def _remember_claim(self, request: ClaimRequest, taken: TakenRows) -> Claim:
        """Return the claim; what was claimed for sure is remembered, so that its end needs no reading."""
        if taken.claim.is_session_lost:
            self._holdings.forget(request.session)
        held = (
            (job.id, held_of(job, row[PLACE_SEQ]))
            for row, job in zip(taken.rows, taken.claim.jobs, strict=True)
            if row[PLACE_MARKS] in self.hot_marks
        )
        if taken.claim.jobs:
            self._holdings.remember(request.session, taken.server, held)
        return taken.claim

    @override
    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        if within is not None:
            return self._database.join(within, lambda tx: apply_transitions(tx, transitions))
        if not transitions:
            return []
        waiting = self._suspend_jobs(transitions)
        left = _without(transitions, waiting)
        results = _merged(transitions, waiting, self._settle(left) if left else [])
        self._holdings.let_go(transitions, results)
        return results

    @abstractmethod
    def _settle(self, transitions: Sequence[Transition]) -> list[Applied]:
        """Return the results; plain ends are written without reading, others by way of their rows."""

    def _suspend_jobs(self, transitions: Sequence[Transition]) -> Collection[str]:
        """Return the jobs that wait now, by the short way of suspensions."""
        if not any(map(_waits_for, transitions)):
            return ()
        suspensions = find_suspensions(transitions)
        return self._suspend(suspensions) if suspensions else ()

    def _suspend(self, suspensions: Sequence[Suspension]) -> Collection[str]:
        """Return the jobs that wait now; what is not stored the short way is by way of its row."""
        del suspensions
        return ()

    def _unhindered(
        self,
        transitions: Sequence[Transition],
        work: Callable[[Transaction, Sequence[Transition]], tuple[list[Applied], _T]],
    ) -> tuple[list[Applied], _T]:
        """Return what the work does with the transitions in one transaction, which waits for no locked row.

        At first rows other than the transitions' own are waited for briefly. If one of these stays locked,
        the second try skips every locked row of a job. If the lock is on something else, that is left to
        plain ends, which need nothing else; all others are busy. An operator's change waits as long as any.
        """
        if not self.locks_rows or any(one.session is None for one in transitions):
            return self._database.write(lambda tx: work(tx, transitions))

        def skipping(
            ends: Sequence[Transition], *, is_first: bool
        ) -> Callable[[Transaction], tuple[list[Applied], _T]]:
            def work_on(tx: Transaction) -> tuple[list[Applied], _T]:
                tx.skips_own, tx.skips_all, tx.parts_first = True, not is_first, not is_first
                return work(tx, ends)

            return work_on

        try:
            first = skipping(transitions, is_first=True)
            return self._database.write_briefly(first, seconds=self.first_wait_seconds)
        except RowLocked:
            self._cursors.lose_patience()
        try:
            return self._database.write_briefly(skipping(transitions, is_first=False))
        except RowLocked:
            plain = [end for end, _ in self._holdings.split(transitions, None).plain]
            settled, other = self._database.write(skipping(plain, is_first=False))
            found = dict(zip((end.job_id for end in plain), settled, strict=True))
            return [found.get(one.job_id, Applied.BUSY) for one in transitions], other

    def _apply_rest(
        self, tx: Transaction, transitions: Sequence[Transition], places: Sequence[int]
    ) -> list[Applied]:
        """Return the results of all; those at these places are applied now, the others are already."""
        results = [Applied.APPLIED] * len(transitions)
        if places:
            found = apply_transitions(tx, [transitions[place] for place in places])
            for place, result in zip(places, found, strict=True):
                results[place] = result
        return results

    @override
    def exchange(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """Suspensions come first, in a transaction of their own."""
        waiting = self._suspend_jobs(transitions)
        left = _without(transitions, waiting)
        if waiting:
            self._holdings.let_go([one for one in transitions if one.job_id in waiting], ())
        if not left:
            return Exchange(_merged(transitions, waiting, []), self.claim(request))
        self._database.wake.mark(request.queues)
        exchange = self._settle_and_claim(left, request)
        return Exchange(_merged(transitions, waiting, exchange.results), exchange.claim)

    def _settle_and_claim(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """Return what became of the transitions and of the claim.

        What has ended is let go before what is claimed is remembered: it may be the same job.
        """

        def both(tx: Transaction, ends: Sequence[Transition]) -> tuple[list[Applied], TakenRows]:
            results, taken = self._settle_and_take(tx, ends, request)
            if tx.let_go:
                self._skip_needless_wake(tx, request, taken.claim)
            return results, taken

        results, taken = self._unhindered(transitions, both)
        self._holdings.let_go(transitions, results)
        return Exchange(results, self._remember_claim(request, taken))

    @abstractmethod
    def _settle_and_take(
        self, tx: Transaction, transitions: Sequence[Transition], request: ClaimRequest
    ) -> tuple[list[Applied], TakenRows]:
        """Return the results, and what the session has claimed behind them."""

    def _skip_needless_wake(self, tx: Transaction, request: ClaimRequest, claim: Claim) -> None:
        """Wake nobody for the keys that the transitions have let go, where this claim took all."""
        if request.queues is None and len(claim.jobs) < request.limit:
            tx.let_go.clear()

    @override
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        self._database.check_open()
        return self._database.wake.wait(queues, timeout_seconds)

    @override
    def interrupt(self) -> None:
        self._database.wake.interrupt()

    # ---- sessions ----------------------------------------------------------------------------------------

    @override
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        taken = super().end_session(session, running, reason=reason)
        self._holdings.forget(session)
        return taken

    # ---- what people read --------------------------------------------------------------------------------

    @override
    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        return self._database.look(lambda tx: get_jobs(tx, ids)) if ids else []

    @override
    def history(self, job_id: str) -> JobHistory:
        return self._database.read(lambda tx: get_history(tx, job_id))


def _first_number() -> int:
    """Return how many inserts a new storage counts as done: many processes may live for few calls."""
    return random.randrange(FOLD_EVERY)  # noqa: S311 - no secret


def _without(transitions: Sequence[Transition], jobs: Collection[str]) -> Sequence[Transition]:
    """Return the transitions of other jobs."""
    return [one for one in transitions if one.job_id not in jobs] if jobs else transitions


def _merged(
    transitions: Sequence[Transition], applied: Collection[str], others: Sequence[Applied]
) -> list[Applied]:
    """Return the results of all: those of these jobs are applied, of the others they are given in order."""
    if not applied:
        return list(others)
    rest = iter(others)
    return [Applied.APPLIED if one.job_id in applied else next(rest) for one in transitions]
