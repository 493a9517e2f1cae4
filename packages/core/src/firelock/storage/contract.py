"""The storage contract: one abstract class.

A storage keeps jobs and applies guarded changes; it decides nothing that `lifecycle` does not give as data.
Every verb is thread-safe, takes and gives batches, and is one atomic step unless it says otherwise. Its own
clock judges what is due or dead and stamps what it moves by itself; callers' instants only stamp. A driver's
exception never leaves it: it becomes `StorageUnavailable` (trying again may help) or `StorageError` (not).
`DerivedStorage` makes some verbs out of others. See docs/writing-a-storage.md; `firelock.testing` proves all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

from firelock.errors import StorageError
from firelock.model.answers import Applied, Inserted
from firelock.model.batch import BatchCounts
from firelock.model.job import (
    FoundJobs,
    JobFilter,
    JobHistory,
    JobRecord,
    LogLine,
    Move,
    NewJob,
    Progress,
    Transition,
)
from firelock.model.limit import KeyState, UniqueState, WaitingJobs
from firelock.model.memo import Chunk, Memo, NewMemo, Remembered
from firelock.model.record import Record, RecordChange
from firelock.model.report import Counts, FailureGroup, Finding, Rollup
from firelock.model.session import (
    Claim,
    ClaimRequest,
    Exchange,
    HeldClaim,
    NewSession,
    Promotion,
    Reconciliation,
    Renewal,
    SessionRecord,
    Taken,
)
from firelock.model.storage import Feature, SchemaState

CONTRACT = 1


class Storage(ABC):
    """Where jobs live. Opening one does no I/O; the first verb connects and creates the schema if it may."""

    contract: ClassVar[int]  # the version it was written for, as a number: each storage's class declares it
    features: frozenset[Feature] = frozenset()  # known before the first verb, the same ever after
    url: str = ""  # as it may be shown: absolute, without a password
    connect_url: str = ""  # by which another process opens it, password included: never shown; empty if none

    # ---- life --------------------------------------------------------------------------------------------

    @abstractmethod
    def migrate(self) -> list[str]:
        """The schema is the one this code needs; return one sentence a step taken, none if it already was.

        Raises:
            SchemaMismatch: the stored schema is newer than this code.
        """

    @abstractmethod
    def schema(self) -> SchemaState:
        """Return the stored schema's version and the wanted one."""

    @abstractmethod
    def clear(self) -> None:
        """Nothing is stored any more; for tests and demos."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection, and end every `wait` under way on this handle.

        A wait that ends so returns False, or raises `StorageError` as every later verb does. Closing twice is
        allowed.
        """

    @abstractmethod
    def clock(self) -> int:
        """Return the storage's own time in micros; it is finer than a second.

        It goes back only if the clock of the store's host is set back: servers notice that, and take nobody
        for dead meanwhile. Tests move it: see `firelock.testing.MovableClock`.
        """

    @abstractmethod
    def new_ids(self, count: int, beside: str | Sequence[str | None] | None = None) -> list[str]:
        """Return ids for new jobs in ascending order; they lie where what they must lie beside does.

        Args:
            count: how many.
            beside: the id of a parent, or a limit's key or a unique key of the jobs; None for anywhere. A
                list says it of each.
        """

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """Return what a server says at its start and `doctor` shows."""

    @abstractmethod
    def diagnose(self) -> list[Finding]:
        """Return what is wrong with the storage itself and how to mend it."""

    # ---- the hot path ------------------------------------------------------------------------------------

    @abstractmethod
    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        """All the jobs are stored, or none; return per job whether it is new (False: it was there before).

        A job already there is left as it is, its parents unread; an id twice in one batch is new once.
        `enqueued_at` of an enqueued job is the storage's clock, and order among equals of a queue is the
        order of this sequence. `changed_at` is `created_at`. An awaiting job reads each of its `parents` in
        the same step (one earlier in this batch counts): an ended parent is decided at once as `release`
        would, else the parent is marked as having children. History begins with one entry: the state the
        job got here, `created_at` and the reason. Servers that wait for work are told after the commit.

        `within` is a transaction of the caller's in the same database, which then commits or rolls back the
        jobs; it needs `Feature.TRANSACTIONAL_ENQUEUE`. Of an `OpenTransaction` it is that on its connection,
        and servers are told by its `on_commit`.

        A job whose unique key another one has is not stored, its answer is `Duplicate` with that one's id;
        the call changes that one as `replaces` and `debounced_due` in `unique_rules` say. A batch counts as
        one call after another, so a job may be the duplicate of one before it. Whoever asks for a key waits
        for a transaction under way that asked for it before.

        A member of a batch (`Relations.batch_id`; the batch may be one earlier in this call) counts in its
        counts from this step on. Where the batch waits for what it is after, its members without undecided
        parents wait for its opening: awaiting, without `due_at`, with the reason `Moved.SHUT_OUT`. So do
        batches in it, and so their members. A batch itself (`Relations.batch`) is awaiting; its `due_at` is
        the end of its hold, its parents are what it is after. Whoever adds to a batch that is stored locks it
        against `release`, shared with others who add.

        `only_if` replaces a record in the same step, also where there are no jobs: as `put_record` would, if
        it has the expected version. Else nothing is stored: ALREADY where it holds the new value and instant
        at the next version, so that a lost reply is harmless, REFUSED otherwise. With partitions each job
        has to lie beside the record, as those with ids of `derived_id` do.

        Raises:
            JobNotFound: a parent or a batch is not stored; nothing was.
            BatchFinished: a batch has ended or is cancelled; nothing was stored.
            DuplicateJob: another job has the unique key of one whose call is refused then, or was deleted
                and still runs; nothing was stored.
            ConfigurationError: with partitions, the keys of a job lie apart; nothing was stored.
            StorageError: a job does not lie beside the record; nothing was stored.
            UnsupportedFeature: `within` is given and not offered.
        """

    @abstractmethod
    def claim(self, request: ClaimRequest) -> Claim:
        """Up to `limit` enqueued jobs are processing for this session; return them in the order to run them.

        Queues are taken in the order given, a later one only when the former ones are empty; None means every
        queue, each getting its share. Within a queue: higher priority first, then older `enqueued_at`, then
        insertion. Skipped are queues whose record (kind "queue", key its name) says `"paused": true`, and
        jobs with a tail. Each job gets attempt + 1, fence + 1, this session and its server's name,
        `claimed_at` = `changed_at` = now, an empty `started_at` and an empty reason; no history. A session
        that is dead or unknown takes nothing and is lost: it is tested in the same step. One that has expired
        is dead only when `orphans` or `end_session` has marked it. Without a list, a claim of at least as
        many jobs as there are queues with work takes from each of them; smaller ones take turns, so that no
        queue starves.

        Jobs with limits wait in lanes, one for each set of keys, and start as `admission.KeyedClaim` says:
        all keys of a job admit it, by the numbers of the records of the kind `limit`, or none is touched.
        Where a queue has work of both kinds, each gets half of what is claimed; what one does not need goes
        to the other. `look_again_at` says when a rate opens, and now where lanes were not looked at.

        A claim that leaves out tasks (`left_out`) passes over their jobs, which keep their places and touch
        no key, in lanes as well; the others come in the same order. It examines at most 1,000 jobs without
        limits and as many in lanes (with partitions, of each), shared equally among the queues that it looks
        at, and so may return fewer jobs than there are. `look_again_at` is now where it left lanes
        unexamined, unless claims have come round all of them and found nothing.
        """

    @abstractmethod
    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        """Each transition whose guards hold is written; return one result a transition, in order.

        Written are: state, reason, `changed_at` = at; `ended_at` = at and `expires_at` (both empty where
        the target is not final); `due_at`; retries and crashes where given; attempt − 1 where given back;
        the error where given, its traceback kept under its attempt; result and its absence (both empty
        unless succeeded); `started_at` where given; server where given. One history entry, unless silent. A
        target of enqueued gets `enqueued_at` from the storage's clock, but a job given back keeps the one
        it had, and so its place.

        The history entry of an operator's change (`session` empty) says what it ended: out of processing the
        attempt with its `claimed_at`, `started_at` and server, out of scheduled the `due_at` the job had.

        A settle (`session` set) clears session and keeps fence. An operator's change (`session` empty) that
        takes a job out of processing leaves session and fence as a tail; the holder's refused settle clears
        it, as does the end of the session. A job requeued under a tail is enqueued but not claimable until
        the tail is gone. A requeue out of a final state takes the job's unique key again; where another job
        has it, the answer is TAKEN. The end of a job with children puts it on the releasing list in the same
        step.
        `ALREADY` answers a settle alone, and never one of a job with a tail.

        A suspension to `awaiting` looks in the same step for what it waits for: a done signal of that name,
        or the end of all its `parents`, which are no continuations' ties: neither `JobRecord.parents` nor
        `find` shows them; one that is unknown has ended. Where that is there, it is enqueued instead, behind
        its queue, with the reason `Moved.SIGNALLED` or that of `Moved.PARENT_ENDED` and no more than one
        history entry. Every change writes `waits_for` and `due_at` as given. With `forget_from` that memo
        and all with a place from it on are gone with the change; REFUSED where there is none, or while the
        job is processing.

        A change of a member is in the counts of its batch with the same step; its answer may be RELEASING
        without children. A batch is never enqueued: REFUSED. Deleting one that is not deleted cancels it: it
        is awaiting with the reason given, also if it had ended, held no more, and `release` does the rest. A
        second delete changes nothing. From awaiting to awaiting its `due_at` alone is written, with the
        batch's lock; REFUSED where it is cancelled, or is no batch. REFUSED is a requeue, and a restore to
        what is not final, of a member of a cancelled batch, and the requeue of an awaiting job that misses an
        input. A requeue of a member locks each batch around it that fails fast, from the inside, folds what
        is known of it, and clears `is_stopping`.

        Several transitions of one job are applied in order. One refused never hinders another. `within` as in
        `insert`.

        A settle (`session` set, no `within`) never waits for a row that another transaction has locked. Its
        answer is then BUSY: the job exists and keeps its state, session, fence, keys and place, nothing is
        written of it, and the caller sends the same transition again. The others of the call are applied as
        if it were not there, but a later transition of the same job is BUSY as well. A settle that needs more
        rows than its own, such as those of a parent's children list, a batch or a unique key, may wait for
        these some milliseconds before it is BUSY. BUSY may be told of a row that was changed just then
        instead of locked. An operator's change and one `within` wait. A storage without row locks is never
        busy.

        Raises:
            UnsupportedFeature: `within` is given and not offered.
        """

    @abstractmethod
    def move(self, moves: Sequence[Move]) -> list[Applied]:
        """Each job whose guard holds waits in the new queue, with the new priority; return one result a move.

        REFUSED is a job in none of `from_states`, and a batch; ALREADY one that has this queue and priority:
        nothing is written of it. Everything else of the job stays: its state and reason, `changed_at`,
        `due_at`, `enqueued_at` and its number in the order of insertion, and so its place among jobs of the
        same priority; retries, tail, ties, memos, limits and unique key. The counts follow, and servers that
        wait for the new queue are told after the commit. The history gets one entry: the state, `at`, and
        `rules.moved_reason`.

        Several moves of one job are applied in order. A row that another transaction has locked is waited
        for, as for an operator's change by `apply`.
        """

    @abstractmethod
    def exchange(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """`apply`, then `claim`: one round trip or one transaction where the storage can.

        Where one of the two is refused, the other may be as well: the caller then does each alone, so that a
        bad claim never loses a settle. A settle that is BUSY hinders neither the claim nor other settles.
        """

    @abstractmethod
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """Return True as soon as there may be work, False after the timeout; a hint, the poll is the truth.

        A wake-up counts since this handle's last claim of the same queues began, or since its last wait for
        them returned, whichever is later. So work that arrives between a claim that found nothing and the
        wait ends the wait. For a handle that has done neither it counts from this call. A wait that returns
        True for no reason costs an empty claim.

        True also if the next due time has become earlier than `claim` or `promote` returned last. Jobs that
        the last claim passed over because it left out their tasks are not work.

        With `Feature.NOTIFY` one may also wait for `[taken_from(session)]`: True as soon as others have taken
        a job of that session out of processing, as a delete does, and never for work.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Every `wait` under way in this process returns soon."""

    # ---- what is remembered, batches, streams --------------------------------------------------------------

    @abstractmethod
    def remember(self, memos: Sequence[NewMemo], *, within: object | None = None) -> list[Remembered]:
        """Each memo is put where nothing stands under its kind and name, or over what is begun: `NewMemo`.

        Return per memo what became of it and what stands there now, in order. From outside, ALREADY is told
        whatever has become of the job: a sender's repeat gets the same answer. A done signal enqueues a job
        that is awaiting it (`waits_for`), in the same step, with the reason `Moved.SIGNALLED`. A job keeps at
        most MEMOS_LIMIT memos and MEMOS_BYTES of values: what is more is REFUSED. `within` as in `insert`:
        the job's row is locked until that transaction ends.

        Raises:
            UnsupportedFeature: `within` is given and not offered.
        """

    @abstractmethod
    def recall(
        self, job_id: str, *, session: str | None = None, fence: int | None = None
    ) -> list[Memo] | None:
        """Return all that the job remembers, in order of place.

        None where the job is unknown; or, with a session, where it is not processing for that session with
        this fence: an old run must not go on with what a newer one has been told to forget.
        """

    @abstractmethod
    def batch_counts(self, ids: Sequence[str]) -> list[BatchCounts | None]:
        """Return how far each batch is, each of one instant, same order; None for what is no batch."""

    @abstractmethod
    def append_stream(self, job_id: str, chunks: Sequence[Chunk], *, session: str, fence: int) -> int | None:
        """The chunks are stored, those that already are left as they are.

        Return how many bytes of data are stored of the streams named, the largest of them; None where the job
        is not processing for this session with this fence: nothing was stored.
        """

    @abstractmethod
    def read_stream(self, job_id: str, stream: str, *, after: int = -1, limit: int = 100) -> list[Chunk]:
        """Return chunks with an offset above `after`, in order."""

    # ---- limits and unique keys --------------------------------------------------------------------------

    @abstractmethod
    def spend(self, key: str, *, cost: int = 0, until: int | None = None) -> int:
        """The key's rate has been used by this cost, and the key is shut until this instant.

        Return the instant from which a start of cost 1 is admitted, now or earlier where it is open. A
        negative cost gives back, down to unused. Of a key without a rate a cost uses nothing, and a negative
        one opens it.
        """

    @abstractmethod
    def shut(self, key: str, *, until: int) -> bool:
        """Shut the key until this time, as `spend` does.

        Return False if another transaction has locked the key; nothing was written then. A server calls this
        before it stores the end of a job that was told to wait, and must not wait for such a lock.
        """

    @abstractmethod
    def find_keys(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[KeyState]:
        """Return the limit keys that begin so, above `after`, in order of key, by code points.

        Those that a job holds or waits for, and those whose rate has been used and is not free yet.
        """

    @abstractmethod
    def find_waiting(
        self, key: str, *, after: int = 0, limit: int = 100, job_id: str | None = None
    ) -> WaitingJobs:
        """Return the ids of jobs that wait for a limit's key, in the order of their turns.

        These are the enqueued jobs without a tail whose limits contain the key. They wait in lanes, one for
        each queue and set of keys. First comes the first job of each lane, then the second of each, and so
        on. The lanes have a fixed order; the jobs of a lane are in the order in which `claim` takes them.
        `after` leaves out so many jobs from the front.

        With `job_id` the result has the place of that job as well: how many jobs come before it, or None if
        it does not wait for the key. `limit=0` reads the place alone.

        To bound the cost, a line has at most 10,000 places, and consists of the first 1,000 lanes with the
        key and the lane of `job_id`. `is_cut` means that there are more lanes. The line may be read in more
        than one step.
        """

    @abstractmethod
    def find_unique(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[UniqueState]:
        """Return the unique keys that begin so, above `after`, in order of key, by code points."""

    # ---- sessions ----------------------------------------------------------------------------------------

    @abstractmethod
    def begin_session(self, session: NewSession) -> None:
        """The session lives for its timeout from now, by the storage's clock; a repeat changes nothing."""

    @abstractmethod
    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        """Each living session lives for its timeout from now; return per session whether it does.

        A dead or unknown one stays so: False, for ever. One that expired but is not marked dead yet lives on.
        """

    @abstractmethod
    def reconcile(self, session: str, held: Sequence[HeldClaim]) -> Reconciliation:
        """Compare what a worker process believes it holds with what the storage says; nothing is moved.

        `started_at` is written where given, except to jobs that another transaction has locked: these are
        named in `busy`, and the caller sends their starts again. A held job is lost unless it is processing
        for this session with this fence, locked or not. Each lost one is returned with what is stored of its
        job: its state (None where no such job is stored), the fence of its latest claim, and whether it has a
        tail, of whichever session. By that the worker process tells a job that its run ended within a
        transaction of its own from one that was deleted, requeued or taken away. A storage reads this for
        lost jobs alone.

        Unknown are the session's processing jobs and tails that the worker process did not name with their
        present fence; it hands them back by `apply` itself, since only it can tell that no claim of its own
        is still on its way. A session that is dead or unknown is lost.
        """

    @abstractmethod
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        """The session is dead for ever, and its jobs return to their queues.

        Of its processing jobs those named in `running` get crashes + 1 and the reason in their history; the
        others go back with the reason `Moved.NOT_STARTED` and without a trace in their history. All are
        enqueued at their old place, attempt given back. None for `running` means nothing is known: all get a
        crash. Its tails are cleared. The end of an unknown session, or of one that ended and holds nothing,
        does nothing.

        A storage whose rows other transactions can lock ends a session in two steps, and so may one that
        splits long work. First the session is marked as dead, together with `running` and the reason. From
        then on it claims nothing and cannot be renewed. Then its jobs and tails are released, a bounded
        number in each transaction. Locked rows are skipped, never waited for, and counted in `Taken.left`.
        The session is closing (`SessionRecord.is_closing`) until it holds nothing: `orphans` continues with
        it, and so does another `end_session`. Both use the stored blame and ignore their own.

        A settle is decided by the row of its job alone. So the end of a job that a closing session still
        holds is stored, and then there is nothing to release.
        """

    @abstractmethod
    def orphans(self, limit: int, *, as_of: int | None = None) -> list[Taken]:
        """Sessions that expired by the storage's clock are ended as `end_session(running=None)` does.

        A session that would live for more than two of its timeouts from now has expired too: it was renewed
        before the storage's clock was set back, and never since. The reason is `Moved.SESSION_LOST`. At most
        `limit` sessions, each a step that tests expiry again. A session whose own record is locked is left to
        the next call; it does not stop the others from being ended.

        Closing sessions are continued as well, also at most `limit` of them, and each of them in turn.

        Return a result for each session that was ended, and for each closing session of which a job or a tail
        was released, or whose end was finished for a caller that could not.

        Args:
            limit: the most sessions to end, and the most closing ones to continue.
            as_of: the storage's time in micros, as the caller last read it. A session ends only if it has
                expired by the storage's clock and by this time, so a clock that is set after the caller
                looked at it ends no session. None for the storage's clock alone.
        """

    @abstractmethod
    def oldest_session(self) -> SessionRecord | None:
        """Return the living session that comes first in `list_sessions`; None if none lives.

        Each worker process calls this every few seconds, so the cost must not grow with the number of stored
        sessions.
        """

    @abstractmethod
    def list_sessions(self) -> list[SessionRecord]:
        """Return the living sessions, and dead ones until `prune` deletes them; oldest first by `started_at`.

        A dead session keeps its last renewal: what it said tells one that stopped from one that was lost. A
        closing session is never pruned.
        """

    # ---- upkeep ------------------------------------------------------------------------------------------

    @abstractmethod
    def promote(self, limit: int) -> Promotion:
        """Up to `limit` scheduled jobs that are due by the storage's clock are enqueued, oldest due first.

        `enqueued_at` is the storage's clock; one history entry with the reason `Moved.DUE`, `due_at` empty.
        Likewise awaiting jobs that are due: their wait has timed out, and they wait for nothing any more. A
        batch that is due is cancelled, with the reason `Moved.HOLD_OVER`: whoever filled it is gone. Jobs
        that another transaction has locked are skipped, and moved by a later call.
        """

    @abstractmethod
    def release(self, limit: int) -> int:
        """Up to `limit` awaiting children of ended parents are moved as `continuation_target` says.

        Return how many were looked at; 0 when the releasing list is empty, or nothing but locked rows is left
        to do. It never waits for a row that another transaction has locked: such a child is skipped and not
        counted, its parent stays on the list and is not pruned, and a later call moves the child; a locked
        parent, batch or member likewise. A child that goes on waiting gets
        `waiting_reason`. Each edge is decided once by a target; a child with several parents is enqueued with
        the last and deleted with the first that asks for it. Children that are deleted here put their own
        children on the releasing list; such a child stays as long after its end as its parent stays after its
        own (`expires_at` − `ended_at`; for ever where the parent does). A released child gets one history
        entry with the reason of `Moved.PARENT_ENDED`. A parent that was requeued before its turn leaves the
        list; its next end puts it back.

        Then batches whose counts has changed are decided: the batch locked (one that is locked is passed
        over), what is known of it folded by a later statement, and it is as `batches.end_of` says: open while
        it is held or shut, if not cancelled. One that ends gets `ended_at` = the storage's clock, a history
        entry, the reason of its cancellation or `batch_failure_reason` where it failed, and the `expires_at`
        of its `BatchRules.keeps`; one that had ended and is open again is awaiting with `Moved.REOPENED`, for
        one history entry also where it ends otherwise at once. Of one that `fails_fast`, a failure since the
        last fold sets `is_stopping`, its end clears it. A child that is a batch is opened by its last edge
        instead of enqueued, and cancelled where it would be deleted.

        Then members are moved, under the batch's lock, as far as the limit goes: of a cancelled or stopping
        batch all that have not ended are deleted, those that run leaving a tail, inner batches cancelled,
        with the reason `Moved.SWEPT` or `Moved.STOPPED` and the `expires_at` of `BatchRules.keeps`; of one
        that has opened those that were shut out are enqueued, or scheduled where their `nominal_at` is to
        come, with `Moved.LET_IN`.

        What that sets free in turn, such as the children of a batch that has ended and the batches around it,
        is done by the same call, as far as the limit goes.
        """

    @abstractmethod
    def prune(self, limit: int) -> int:
        """Up to `limit` jobs whose `expires_at` has passed are gone with all that belongs to them.

        But a member stays with its batch and with all batches around that, a result with a job that has not
        ended and misses it as an input, a called job with its caller until that has ended: such a job's
        `expires_at` is moved on, to that of the batch that stays longest or by an hour. Of a batch the
        waiting members are deleted first, as waiting children are.

        Return how many. A job on the releasing list stays until its children were released; those that
        still wait for it then are deleted first, with the reason of `Moved.PARENT_GONE` and the expiry that
        `release` gives. Rollups older than 30 days go too, and within an hour locks that ended a day ago: a
        name that was forgotten goes on with a larger token all the same.

        A dead session is deleted an hour after its death if another session of the same server
        (`NewSession.server_id`) began after it, otherwise a day after its death. One call deletes a bounded
        number of them.

        A job that another transaction has locked is passed over. Fewer than `limit` means that there was
        nothing else to delete.
        """

    # ---- what people read --------------------------------------------------------------------------------

    @abstractmethod
    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """Return one record an id, with its progress, same order; None where unknown."""

    @abstractmethod
    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> FoundJobs:
        """Return a page of matching jobs in order of time, newest first unless told otherwise.

        Time is `due_at` where the filter is by due, which finds scheduled jobs alone; else `changed_at` where
        it names a state; else `created_at`. Ties are in order of id, newest first with the largest id first,
        and by due the newest are those due last. `since` and `until` cut by the same time. `tag` is exact,
        `id_prefix` a prefix. A cursor is opaque, belongs to one filter and direction, and stays good while
        jobs come and go; a bad one raises `StorageError`. A page may be short, or empty, and still have a
        cursor, where a storage bounds how far it looks for what is rare; only a page without one is the last.
        """

    @abstractmethod
    def history(self, job_id: str) -> JobHistory:
        """Return the job's steps and its failed attempts with their tracebacks, each oldest first.

        At most `lifecycle.HISTORY_LIMIT` steps, one of them for a middle left out; the last 20 attempts.
        """

    @abstractmethod
    def counts(self) -> Counts:
        """Return how many jobs are in each state and queue; exact, and cheap at any size."""

    @abstractmethod
    def failure_groups(self, limit: int) -> list[FailureGroup]:
        """Return failed jobs grouped by fingerprint, largest group first; looks at the newest 10,000."""

    @abstractmethod
    def record_metrics(self, rollups: Sequence[Rollup]) -> None:
        """The counts, durations and histograms are added to those stored."""

    @abstractmethod
    def timeline(
        self, since: int, until: int, *, task: str | None = None, queue: str | None = None
    ) -> list[Rollup]:
        """Return the rollups of minutes in [since, until), in order of minute."""

    @abstractmethod
    def append_logs(
        self, lines: Mapping[str, Sequence[LogLine]], progress: Mapping[str, Progress]
    ) -> Collection[str]:
        """The lines are added to their jobs' logs and the progress replaces the former.

        Unknown jobs are passed over. The newest 1,000 lines stay. The storage numbers the lines of a job:
        each number is larger than that of every earlier line, also of lines that no longer exist.

        Return the ids of jobs that another transaction has locked, as a rule none: nothing of these was
        stored, and the caller sends it again. It never waits for a locked row.
        """

    @abstractmethod
    def read_log(self, job_id: str, *, after: int = 0, limit: int = 100) -> list[LogLine]:
        """Return log lines with a number above `after`, in order."""

    # ---- locks and small records ---------------------------------------------------------------------------

    @abstractmethod
    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        """Return a fencing token if the lock was free or its life had ended, else None.

        Tokens of one name only grow, also after release, and after it was pruned. Its holder gets the same
        token again and a new life.
        """

    @abstractmethod
    def renew_lock(self, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
        """The lock lives on for the ttl from now; False where it is not this owner's with this token."""

    @abstractmethod
    def release_lock(self, name: str, owner: str, fence: int) -> bool:
        """The lock is free; False where it was no longer this owner's with this token."""

    @abstractmethod
    def put_record(
        self,
        kind: str,
        key: str,
        value: str,
        *,
        expected_version: int | None = None,
        due_at: int | None = None,
    ) -> int | None:
        """The record is stored; return its new version, None where the stored one is not the expected one.

        Expected 0: none is stored; None: whatever is there. Versions of a key only grow, also after a delete.
        The instant replaces the former one. Of the kind `recurring` it counts in the next due instant that
        `claim` and `promote` tell; servers that sleep until a later one are told.
        """

    @abstractmethod
    def get_record(self, kind: str, key: str) -> Record | None:
        """Return the record, None where there is none."""

    @abstractmethod
    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        """Return records of a kind in order of key, by code points, those above `after`."""

    @abstractmethod
    def due_records(self, kind: str, limit: int) -> list[Record]:
        """Return records of a kind whose instant has come by the storage's clock, longest due first."""

    @abstractmethod
    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        """The record is gone; False where there was none or its version is not the expected one."""


def shown_url(url: str) -> str:
    """Return a URL without its password, for `Storage.url`, messages and logs.

    Raises:
        StorageError: it cannot be read, and so not be shown: a password may stand anywhere in it.
    """
    try:
        parts = urlsplit(url)
        secret = parts.password
    except ValueError as error:
        raise StorageError("The storage URL cannot be read; a bracket or port in it is wrong.") from error
    if secret is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))
