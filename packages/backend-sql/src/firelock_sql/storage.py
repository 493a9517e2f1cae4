"""`SqlStorage`: the verbs that run for every job. Each verb is one transaction.

A job is *plain* if it needs only a queue. An outcome is *plain* if it is a success that the storage receives
for the first time. Most jobs and outcomes are plain, so they have a fast path: the storage remembers the jobs
that a session has claimed through this process, and settles their plain outcomes without reading their rows.
Each dialect has a subclass with the fastest form for its database. The other verbs are grouped in the base
classes of this class.
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
from firelock_sql.connections.full_reads import DueFloor
from firelock_sql.connections.transaction import FreedKeys, Text, Transaction, Value
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
KIND = ("queue", "priority", "task", "serializer")  # usually the same for every job of a batch
kind = attrgetter(*KIND)

_waits_for = attrgetter("waits_for")

# Settles one plain outcome if the row still has all values that the claim read. Drivers with `executemany`
# run it for many outcomes at a time. The condition includes the id, because SQLite reuses the number of the
# last row after that row was pruned.
_SETTLE = """
UPDATE firelock_jobs
SET state = 'succeeded', changed_at = :at, ended_at = :at, started_at = :started_at,
    expires_at = :expires_at, result = :result, result_absent = :result_absent, is_plain_end = 1,
    session = NULL, reason = NULL, due_at = NULL
WHERE seq = :seq AND id = :id AND session = :session AND fence = :fence AND state = 'processing'
    AND (marks = {marks} OR marks = {with_memos})
"""
SETTLE, SETTLE_MEMBERS = (
    Text(_SETTLE.format(marks=marks, with_memos=marks | HAS_MEMOS)) for marks in (0, IS_MEMBER)
)


def settle_values(end: Transition, held: RememberedClaim) -> tuple[Value, ...]:
    """Return the parameters of `SETTLE` and `SETTLE_MEMBERS`."""
    return (
        end.at, end.at, end.started_at, end.expires_at, end.result, end.result_absent, held.seq, end.job_id,
        end.session, end.fence,
    )  # fmt: skip


class RememberedClaim(NamedTuple):
    """The remembered values of a claimed job, which are used to settle it without reading its row."""

    seq: int
    queue: str
    attempt: int
    claimed_at: int
    admission_json: str | None
    batch_id: str | None


def held_of(job: ClaimedJob, seq: int) -> RememberedClaim:
    """Return the values to remember for a claimed job."""
    batch_id = None if job.relations_json is None else read_relations(job.relations_json).batch_id
    # Calling the class instead takes twice as long.
    return RememberedClaim._make((seq, job.queue, job.attempt, job.claimed_at, job.admission_json, batch_id))


def freed_by(plain: Sequence[tuple[Transition, RememberedClaim]]) -> list[FreedKeys]:
    """Return the jobs of these plain outcomes that held limit keys; other jobs may wait for these keys."""
    keyed = [held for _, held in plain if held.admission_json is not None]
    return [
        (held.seq, held.queue, lane)
        for held in keyed
        if (lane := lane_of(admission_in(held.admission_json))) is not None
    ]


@attrs.define
class _SessionClaims:
    server: str
    jobs: dict[str, RememberedClaim] = attrs.field(factory=dict)


@attrs.define
class SplitTransitions:
    """A list of transitions, split into its plain outcomes and the positions of all others."""

    plain: list[tuple[Transition, RememberedClaim]] = attrs.field(factory=list)
    others: list[int] = attrs.field(factory=list)


class ClaimedJobs:
    """The jobs that sessions of this process have claimed; their plain outcomes are stored without reads."""

    def __init__(self) -> None:
        self._of: dict[str, _SessionClaims] = {}

    def forget(self, session: str | None) -> None:
        """Forget the jobs of a session that has ended, or of all sessions if `session` is None."""
        if session is None:
            self._of.clear()
        else:
            self._of.pop(session, None)

    def remember(self, session: str, server: str, claimed: Iterable[tuple[str, RememberedClaim]]) -> None:
        """Remember the jobs, by id, that a session of this server has claimed in a committed transaction."""
        claims = self._of.get(session)
        if claims is None:
            claims = self._of[session] = _SessionClaims(server)
        claims.jobs.update(claimed)

    def split(self, transitions: Sequence[Transition], session: str | None) -> SplitTransitions:
        """Return the plain outcomes of one session, separate from the other transitions.

        If `session` is None, use the session of the first plain outcome. If a job occurs twice, no transition
        is plain, because their order matters.
        """
        if len({one.job_id for one in transitions}) < len(transitions):
            return SplitTransitions([], list(range(len(transitions))))
        split = SplitTransitions()
        for place, end in enumerate(transitions):
            claims = None if end.session is None else self._of.get(end.session)
            held = None if claims is None else claims.jobs.get(end.job_id)
            if (
                claims is None
                or held is None
                or end.session != (session or end.session)
                or end.server != claims.server
                or end.started_at is None
                or (end.attempt, end.claimed_at) != (held.attempt, held.claimed_at)
                or not end.is_plain_success
            ):
                split.others.append(place)
            else:
                session = end.session
                split.plain.append((end, held))
        return split

    def forget_stored(self, transitions: Sequence[Transition], results: Sequence[Applied]) -> None:
        """Forget the jobs of stored transitions, regardless of their results.

        The job of a busy transition is kept, because the transition will be sent again.
        """
        if Applied.BUSY in results:
            both = zip(transitions, results, strict=True)
            transitions = [one for one, result in both if result is not Applied.BUSY]
        for transition in transitions:
            claims = self._of.get(transition.session) if transition.session is not None else None
            if claims is not None:
                claims.jobs.pop(transition.job_id, None)


class SqlStorage(
    SqlMoveVerbs,  # move
    SqlMemoVerbs,  # remember, recall
    SqlBatchVerbs,  # batch_counts
    SqlStreamVerbs,  # append_stream, read_stream
    SqlLimitVerbs,  # spend, block, find_keys, find_waiting
    SqlUniqueVerbs,  # find_unique
    SqlSessionVerbs,  # begin_session, renew, reconcile, end_session, orphans, list_sessions, oldest_session
    SqlUpkeepVerbs,  # promote, release, prune; record_metrics, timeline
    SqlReadingVerbs,  # find, counts, failure_groups
    SqlLogVerbs,  # append_logs, read_log
    SqlLockVerbs,  # acquire_lock, renew_lock, release_lock
    SqlRecordVerbs,  # put_record, get_record, list_records, due_records, delete_record
):
    """A storage in an SQL database."""

    contract = 1
    admits: ClassVar[frozenset[Feature]] = frozenset()
    """Whether this dialect supports limits and unique keys, as features."""
    fast_path_marks: ClassVar[Collection[int]] = (0,)
    """The marks of jobs whose plain outcomes are written without reading: 0, and others on some dialects."""
    locks_rows: ClassVar[bool] = True
    """Whether other transactions can lock single rows."""
    first_wait_seconds: ClassVar[float] = BRIEF_SECONDS
    """The seconds that the first try of a transaction with ends waits for locks of other transactions."""

    def __init__(self, database: Database, *, is_notified: bool) -> None:
        self._database = database
        self._claimed_jobs = ClaimedJobs()
        self._turns = QueueTurns()
        self._cursors = LaneCursors()
        self._due_floor = DueFloor()
        self._inserts = _first_number()
        self.features = self.admits | {Feature.SHARED, Feature.DURABLE, Feature.TRANSACTIONAL_ENQUEUE}
        if is_notified:
            self.features |= {Feature.NOTIFY}
        self.url = database.name
        self.connect_url = database.connect_url

    # ---- lifecycle ---------------------------------------------------------------------------------------

    @property
    def clock_offset(self) -> int:
        """The number of microseconds that are added to the database's clock."""
        return self._database.clock_offset

    @clock_offset.setter
    def clock_offset(self, offset: int) -> None:
        self._database.clock_offset = offset

    @override
    def migrate(self) -> list[str]:
        return self._database.migrate()

    def migration_sql(self) -> list[str]:
        """Return the statements that `migrate` would run; none if the schema is up to date."""
        return self._database.migration_sql()

    @override
    def schema(self) -> SchemaState:
        return self._database.schema_state()

    @override
    def clear(self) -> None:
        self._database.clear()
        self._claimed_jobs.forget(None)

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
        """Store the jobs in a separate transaction; return for each job whether it is new."""

    def _insert_any(self, jobs: Sequence[NewJob]) -> Sequence[bool | Duplicate]:
        """Store jobs of any kind; return for each job whether it is new."""
        return self._database.write(lambda tx: insert_jobs(tx, jobs))

    @override
    def claim(self, request: ClaimRequest) -> Claim:
        """Claim jobs; do not lock anything if a first read finds no jobs."""
        self._database.wake.mark(request.queues)
        nothing = self._database.read(lambda tx: self._claim_nothing(tx, request))
        if nothing is not None:
            return self._remember_claim(request, TakenRows(nothing, [], ""))
        return self._remember_claim(request, self._take_alone(request))

    def _take_alone(self, request: ClaimRequest) -> TakenRows:
        """Claim jobs, waiting briefly for locked keys; if a key stays locked, claim again without waiting."""
        if self._cursors.patient_walks > 0:
            try:
                return self._database.write_briefly(lambda tx: self._take_jobs(tx, request))
            except RowLocked:
                self._cursors.stop_waiting()
        return self._database.write(lambda tx: self._take_jobs(tx, request))

    def _claim_nothing(self, tx: Transaction, request: ClaimRequest) -> Claim | None:
        """Return an empty claim if the session cannot claim any job; None if there may be jobs for it."""
        server, has_lanes = living_server(tx, request.session)
        if server is None:
            return Claim([], next_due_at(tx, self._due_floor.start), is_session_lost=True)
        if request.limit > 0 and has_ready(tx, request, has_lanes=has_lanes):
            return None
        return Claim([], next_due_at(tx, self._due_floor.start))

    def _take_jobs(self, tx: Transaction, request: ClaimRequest) -> TakenRows:
        """Claim jobs in this transaction; the session cannot end before the transaction does."""
        server, has_lanes = serving_with_lanes(tx, request.session)
        rows: Sequence[ReadyRow] = []
        next_claim_at = None
        if server is not None and request.limit > 0:
            if has_lanes:
                lanes = self._lanes_in(tx)
                lanes.lock_settings()
                mixed = MixedClaim(tx, lanes, self._cursors, request)
                rows = mixed.rows(self._turns)
                next_claim_at = mixed.next_claim_at
            else:
                rows = ready_rows(tx, request, self._turns)
        due_at = next_due_at(tx, self._due_floor.start)
        return take_rows(tx, request, ReadyRows(server, rows, due_at, next_claim_at))

    def _remember_claim(self, request: ClaimRequest, taken: TakenRows) -> Claim:
        """Remember the claimed jobs, so that plain outcomes can be stored without reads; return the claim."""
        if taken.claim.is_session_lost:
            self._claimed_jobs.forget(request.session)
        held = (
            (job.id, held_of(job, row[PLACE_SEQ]))
            for row, job in zip(taken.rows, taken.claim.jobs, strict=True)
            if row[PLACE_MARKS] in self.fast_path_marks
        )
        if taken.claim.jobs:
            self._claimed_jobs.remember(request.session, taken.server, held)
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
        self._claimed_jobs.forget_stored(transitions, results)
        return results

    @abstractmethod
    def _settle(self, transitions: Sequence[Transition]) -> list[Applied]:
        """Settle the transitions; store plain outcomes without reading rows, and others after a read."""

    def _suspend_jobs(self, transitions: Sequence[Transition]) -> Collection[str]:
        """Suspend jobs on the fast path for suspensions; return the jobs that were suspended."""
        if not any(map(_waits_for, transitions)):
            return ()
        suspensions = find_suspensions(transitions)
        return self._suspend(suspensions) if suspensions else ()

    def _suspend(self, suspensions: Sequence[Suspension]) -> Collection[str]:
        """Suspend jobs; return the suspended ones. The general path, which reads rows, handles the others."""
        del suspensions
        return ()

    def _unhindered(
        self,
        transitions: Sequence[Transition],
        work: Callable[[Transaction, Sequence[Transition]], tuple[list[Applied], _T]],
    ) -> tuple[list[Applied], _T]:
        """Run the work with the transitions in one transaction that never waits long for a locked row.

        The first try skips locked rows of the transitions' own jobs, and waits briefly for other rows. If
        another row stays locked, the second try skips every locked row of a job. If a row of another kind is
        locked, a third try stores only the plain outcomes, which need no other rows, and returns BUSY for all
        other transitions. An operator's change waits for locked rows like any other transaction.
        """
        if not self.locks_rows or any(one.session is None for one in transitions):
            return self._database.write(lambda tx: work(tx, transitions))

        def skipping(
            ends: Sequence[Transition], *, is_first: bool
        ) -> Callable[[Transaction], tuple[list[Applied], _T]]:
            def work_on(tx: Transaction) -> tuple[list[Applied], _T]:
                tx.skips_own, tx.skips_all, tx.checks_locks_first = True, not is_first, not is_first
                return work(tx, ends)

            return work_on

        try:
            first = skipping(transitions, is_first=True)
            return self._database.write_briefly(first, seconds=self.first_wait_seconds)
        except RowLocked:
            self._cursors.stop_waiting()
        try:
            return self._database.write_briefly(skipping(transitions, is_first=False))
        except RowLocked:
            plain = [end for end, _ in self._claimed_jobs.split(transitions, None).plain]
            settled, other = self._database.write(skipping(plain, is_first=False))
            found = dict(zip((end.job_id for end in plain), settled, strict=True))
            return [found.get(one.job_id, Applied.BUSY) for one in transitions], other

    def _apply_rest(
        self, tx: Transaction, transitions: Sequence[Transition], places: Sequence[int]
    ) -> list[Applied]:
        """Apply the transitions at these positions; return the results of all.

        The transitions at other positions have been applied already.
        """
        results = [Applied.APPLIED] * len(transitions)
        if places:
            found = apply_transitions(tx, [transitions[place] for place in places])
            for place, result in zip(places, found, strict=True):
                results[place] = result
        return results

    @override
    def exchange(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """Store suspensions first, in a separate transaction; then settle and claim."""
        waiting = self._suspend_jobs(transitions)
        left = _without(transitions, waiting)
        if waiting:
            self._claimed_jobs.forget_stored([one for one in transitions if one.job_id in waiting], ())
        if not left:
            return Exchange(_merged(transitions, waiting, []), self.claim(request))
        self._database.wake.mark(request.queues)
        exchange = self._settle_and_claim(left, request)
        return Exchange(_merged(transitions, waiting, exchange.results), exchange.claim)

    def _settle_and_claim(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """Settle the transitions and claim; return both results.

        Forget ended jobs before remembering claimed ones, because the same job may be among both.
        """

        def both(tx: Transaction, ends: Sequence[Transition]) -> tuple[list[Applied], TakenRows]:
            results, taken = self._settle_and_take(tx, ends, request)
            if tx.freed_keys:
                self._skip_needless_wake(tx, request, taken.claim)
            return results, taken

        results, taken = self._unhindered(transitions, both)
        self._claimed_jobs.forget_stored(transitions, results)
        return Exchange(results, self._remember_claim(request, taken))

    @abstractmethod
    def _settle_and_take(
        self, tx: Transaction, transitions: Sequence[Transition], request: ClaimRequest
    ) -> tuple[list[Applied], TakenRows]:
        """Settle the transitions, then claim for the session; return the results and the claimed jobs."""

    def _skip_needless_wake(self, tx: Transaction, request: ClaimRequest, claim: Claim) -> None:
        """Do not notify other servers of the freed keys if this claim has claimed all jobs that it could."""
        if request.queues is None and len(claim.jobs) < request.limit:
            tx.freed_keys.clear()

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
        self._claimed_jobs.forget(session)
        return taken

    # ---- queries for people ------------------------------------------------------------------------------

    @override
    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        return self._database.query(lambda tx: get_jobs(tx, ids)) if ids else []

    @override
    def history(self, job_id: str) -> JobHistory:
        return self._database.read(lambda tx: get_history(tx, job_id))


def _first_number() -> int:
    """Return a random start value for the insert counter, because many processes insert only a few times."""
    return random.randrange(FOLD_EVERY)  # noqa: S311 - not a secret


def _without(transitions: Sequence[Transition], jobs: Collection[str]) -> Sequence[Transition]:
    """Return the transitions whose jobs are not in `jobs`."""
    return [one for one in transitions if one.job_id not in jobs] if jobs else transitions


def _merged(
    transitions: Sequence[Transition], applied: Collection[str], others: Sequence[Applied]
) -> list[Applied]:
    """Return the results of all transitions in order: APPLIED for `applied` jobs, `others` for the rest."""
    if not applied:
        return list(others)
    rest = iter(others)
    return [Applied.APPLIED if one.job_id in applied else next(rest) for one in transitions]
