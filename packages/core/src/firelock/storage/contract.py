"""The storage contract: one abstract class.

A storage stores jobs and applies guarded changes to them. It does not make decisions itself: `lifecycle`
makes them, and they are passed to the storage as data.

Every verb must be thread-safe. Verbs accept and return lists of items, and each call must be one atomic
operation, unless the docstring of the verb says otherwise.

The storage's own clock decides which jobs are due and which sessions have expired, and supplies the
timestamps of the storage's own changes. A time supplied by a caller is stored as a timestamp and never used
to make a decision.

A driver's exception must never leave the storage. Convert it to `StorageUnavailable` if trying again might
help, and otherwise to `StorageError`.

`DerivedStorage` implements some verbs with other verbs. See docs/writing-a-storage.md. The conformance kit in
`firelock.testing` tests every promise of the contract.
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
    """A place where jobs are stored.

    Opening a storage must not do any I/O. The first call of a verb connects to the store, and creates the
    schema if it has permission.
    """

    # The version of the contract for which the storage was written. Each storage class must set a number.
    contract: ClassVar[int]
    features: frozenset[Feature] = frozenset()  # constant, and known before the first verb is called
    url: str = ""  # the URL for display, absolute and without a password
    # The URL with which another process can open the storage, including the password, so it is never shown.
    # Empty if no other process can open the storage.
    connect_url: str = ""

    # ---- handle ------------------------------------------------------------------------------------------

    @abstractmethod
    def migrate(self) -> list[str]:
        """Bring the schema to the version that this code needs.

        Return one sentence for each migration that was applied; the list is empty if none was necessary.

        Raises:
            SchemaMismatch: If the stored schema is newer than this code.
        """

    @abstractmethod
    def schema(self) -> SchemaState:
        """Return the version of the stored schema and the version that this code needs."""

    @abstractmethod
    def clear(self) -> None:
        """Delete everything that is stored; for tests and demos."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection, and end every current `wait` of this handle.

        A wait that ends in this way returns False, or raises `StorageError` like every later verb. Closing
        twice must be allowed.
        """

    @abstractmethod
    def clock(self) -> int:
        """Return the storage's own time in microseconds; its resolution must be finer than a second.

        The time may go back only if the clock of the store's host is set back. Servers detect this, and then
        do not treat any session as lost. Tests move the clock: see `firelock.testing.MovableClock`.
        """

    @abstractmethod
    def new_ids(self, count: int, colocate_with: str | Sequence[str | None] | None = None) -> list[str]:
        """Return ids for new jobs, in ascending order.

        On storages with partitions, each id must place its job in the partition of the job or key that is
        passed as `colocate_with`.

        Args:
            count: the number of ids.
            colocate_with: the id of a parent, or a limit key or unique key of the jobs; None for any
                partition. A list contains one entry per id.
        """

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """Return the facts that a server logs when it starts and that `doctor` shows."""

    @abstractmethod
    def diagnose(self) -> list[Finding]:
        """Return the problems of the storage itself, and how to fix them."""

    # ---- main path ---------------------------------------------------------------------------------------

    @abstractmethod
    def insert(
        self, jobs: Sequence[NewJob], *, within: object | None = None, only_if: RecordChange | None = None
    ) -> Inserted:
        """Store all the jobs, or none, and return for each job whether it is new.

        **Jobs that already exist.** A job whose id is already stored must stay unchanged; its result is
        False, and its parents are not read. If an id occurs twice in one call, only its first job is new.

        **Stored values.** The `enqueued_at` of an enqueued job is the storage's time, and `changed_at` is
        `created_at`. If two jobs of a queue have the same priority and time, they keep the order of this
        sequence. The history begins with one entry: the state in which the job was stored, `created_at` and
        the reason.

        **Parents.** The `parents` of an awaiting job must be read in the same operation; a parent can also be
        an earlier job of this call. If a parent has ended, its edge is decided immediately, as `release`
        would decide it. Otherwise, the parent is marked as having children.

        **Notification.** Servers that wait for work are notified after the commit.

        **`within`** is a transaction of the caller in the same database. The jobs are committed or rolled
        back with this transaction. This requires `Feature.TRANSACTIONAL_ENQUEUE`. If `within` is an
        `OpenTransaction`, the jobs are stored in the transaction on its connection, and servers are notified
        with its `on_commit`.

        **Unique keys.** A job whose unique key belongs to another job is not stored. Its result is a
        `Duplicate` with the id of the other job, which the call changes as `replaces` and `debounced_due` in
        `unique_rules` specify. The jobs are treated as if they were inserted by separate calls, in order, so
        a job can be a duplicate of an earlier one. A call must wait for an open transaction that requested
        the same key earlier.

        **Members.** A member of a batch (`Relations.batch_id`) is included in the counts of its batch from
        this call on. The batch can be an earlier job of this call. If the batch has not opened, because it
        waits for other jobs, its members without undecided parents must wait for the opening: awaiting,
        without `due_at`, with the reason `Moved.WAITS_FOR_BATCH`. The same applies to inner batches, and
        therefore to their members. To add members to a stored batch, lock the batch against `release`;
        inserts share this lock.

        **Batches.** A batch itself (`Relations.batch`) is awaiting. Its `due_at` is the time at which its
        hold ends. Its parents are the jobs that must end before the batch opens.

        **`only_if`** replaces a record in the same operation, as `put_record` does, even if there are no
        jobs. If the record does not have the expected version, nothing is stored. In that case, the result
        for the record is ALREADY if the record has the new value and due time at the next version, so that a
        lost reply does no harm. Otherwise, the result is REFUSED. With partitions, each job must be in the
        partition of the record, as jobs with ids from `derived_id` are.

        Raises:
            JobNotFound: If a parent or a batch is not stored. Nothing was stored.
            BatchFinished: If a batch has ended or is cancelled. Nothing was stored.
            DuplicateJob: If another job has the unique key of a job, and the key is set to refuse duplicates;
                or if that other job was deleted and still runs. Nothing was stored.
            ConfigurationError: If the keys of a job are in different partitions. Nothing was stored.
            StorageError: If a job is not in the partition of the record. Nothing was stored.
            UnsupportedFeature: If `within` is given, but the storage does not offer it.
        """

    @abstractmethod
    def claim(self, request: ClaimRequest) -> Claim:
        """Claim up to `limit` enqueued jobs for a session; return them in the order in which they must run.

        **Order.** If queues are named, they are used in the given order: jobs of a later queue are claimed
        only if the earlier queues are empty. None means every queue, and each queue gets its share: a claim
        for at least as many jobs as there are queues with work must take jobs from each of these queues, and
        smaller claims must take jobs from different queues in turn, so that no queue starves. Within a queue,
        a higher priority comes first, then an older `enqueued_at`, then the order of insertion.

        **Skipped jobs.** Jobs with a tail and jobs of paused queues must not be claimed. A queue is paused if
        its record (kind "queue", key its name) contains `"paused": true`.

        **Stored values.** Each claimed job becomes processing, with attempt + 1, fence + 1, this session, the
        name of its server, `claimed_at` and `changed_at` = `now`, and without `started_at` and reason. No
        history entry is written.

        **Session.** A session that has ended or is unknown must claim nothing, and the claim reports it as
        lost. Check this in the same operation. An expired session does not count as ended until `orphans` or
        `end_session` has marked it as ended.

        **Limits.** Jobs with limits wait in lanes, one per set of keys. They must start as
        `admission.KeyedClaim` specifies: either all limits of a job allow it to start, according to the
        settings in the records of the kind `limit`, or none of its keys is changed. If a queue has jobs with
        limits and jobs without, each kind gets half of the claim; the part that one kind does not need goes
        to the other kind. `next_claim_at` is the time at which a rate next allows a start, or now if some
        lanes were not checked.

        **Excluded tasks.** A claim with `left_out` must skip the jobs of these tasks, including those in
        lanes. These jobs keep their places and do not use any key, and the order of the other jobs stays the
        same. Such a claim checks at most 1,000 jobs without limits and 1,000 in lanes (with partitions: per
        partition), divided equally among its queues. It may therefore return fewer jobs than it could claim.
        If the claim left lanes unchecked, `next_claim_at` is now, unless successive claims have checked all
        of them and found nothing.
        """

    @abstractmethod
    def apply(self, transitions: Sequence[Transition], *, within: object | None = None) -> list[Applied]:
        """Write each transition whose guards hold; return one result per transition, in order.

        **Written values:**

        - the state and the reason, and `changed_at` = `at`;
        - `ended_at` = `at` and `expires_at`; both empty if the target state is not final;
        - `due_at` and `waits_for`, always as given;
        - `retries`, `crashes`, `started_at` and `server`, if given;
        - attempt − 1, if the attempt is given back;
        - the error, if given; its traceback is kept under its attempt;
        - `result` and `result_absent`; both empty if the target state is not succeeded;
        - `enqueued_at` = the storage's time, if the target state is enqueued; but a job whose attempt is
          given back keeps its `enqueued_at` and therefore its place;
        - one history entry, unless the transition is silent.

        The history entry of an operator's change (`session` empty) must record the state that the change
        ended: for a processing job, the attempt with its `claimed_at`, `started_at` and server; for a
        scheduled job, its previous `due_at`.

        **Sessions and tails.** A settling transition (`session` set) clears the session and keeps the fence.
        An operator's change that takes a job out of processing must keep the session and the fence as the
        job's tail. The tail is cleared when a settling transition of this session is refused, or when the
        session ends. A job that is requeued while it has a tail is enqueued, but must not be claimed until
        the tail is cleared. `ALREADY` is returned only for a settling transition, and never for a job with a
        tail.

        **Unique keys and children.** When a job is requeued from a final state, it takes its unique key
        again; if another job has the key, the result is TAKEN. When a job with children ends, it must be put
        on the releasing list in the same operation; `release` then moves its children.

        **Suspensions.** A suspension to `awaiting` must check in the same operation whether the awaited event
        has already happened: whether the signal of that name is stored and completed, or whether all its
        `parents` have ended. An unknown parent counts as ended. These parents are not the parents of a
        continuation: neither `JobRecord.parents` nor `find` returns them. If the event has already happened,
        the job is enqueued at the end of its queue instead, with the reason `Moved.SIGNALLED` or
        `Moved.PARENT_ENDED`, and at most one history entry is written.

        **`forget_from`** deletes this memo and all later ones (by `place`) in the same operation. The result
        is REFUSED if there is no such memo, or if the job is processing.

        **Members.** The counts of a batch must include a member's change as soon as the operation is
        complete. The result of such a change can be RELEASE_NEEDED even if the member has no children. These
        changes are REFUSED: a requeue of a member of a cancelled batch, its restoration to a state that is
        not final, and the requeue of an awaiting job whose input is missing. The requeue of a member must
        lock each surrounding batch that fails fast, from the innermost outwards, fold its recorded changes
        into its counts, and clear `is_stopping`.

        **Batches.** A batch is never enqueued: such a transition is REFUSED. Deleting a batch that is not
        deleted cancels it. The batch becomes awaiting with the given reason, even if it had ended, and its
        hold ends; `release` then cancels its members and ends the batch. A second delete changes nothing. A
        transition from awaiting to awaiting writes only `due_at`, under the batch's lock. This transition
        is REFUSED if the batch is cancelled, or if the job is not a batch.

        **Order.** Several transitions of one job are applied in order. A refused transition must not affect
        others. For `within`, see `insert`.

        **Locked rows.** A settling transition (`session` set, no `within`) must never wait for a row that
        another transaction has locked. If the row is locked, the result is BUSY: the job exists and keeps its
        state, session, fence, keys and place, no part of the transition is written, and the caller sends the
        transition again. The other transitions of the call are applied as if this one were not part of the
        call, except that a later transition of the same job is also BUSY. A settling transition that needs
        other rows, for example a parent's list of children, a batch or a unique key, may wait some
        milliseconds for them before it is BUSY. BUSY may also be returned for a row that has just been
        changed rather than locked. Operators' changes and changes `within` a transaction wait for locks. A
        storage without row locks never returns BUSY.

        Raises:
            UnsupportedFeature: If `within` is given, but the storage does not offer it.
        """

    @abstractmethod
    def move(self, moves: Sequence[Move]) -> list[Applied]:
        """Move each job whose guard holds to another queue or priority; return one result per move.

        The result is REFUSED for a job whose state is not in `from_states`, and for a batch. It is ALREADY
        for a job that already has this queue and priority; in that case, nothing is written.

        Everything else must stay unchanged: state, reason, `changed_at`, `due_at`, `enqueued_at`, retries,
        tail, relations, memos, limits and unique key. The job also keeps its number in the order of
        insertion, and therefore its place among jobs of the same priority. The counts of both queues change
        in the same operation, and servers that wait for the new queue are notified after the commit. One
        history entry is written, with the state, `at` and `rules.moved_reason`.

        Several moves of one job are applied in order. As with operators' changes in `apply`, the call waits
        for rows that another transaction has locked.
        """

    @abstractmethod
    def exchange(self, transitions: Sequence[Transition], request: ClaimRequest) -> Exchange:
        """Call `apply` and then `claim`, in one round trip or one transaction if the storage can do so.

        If one of the two is refused, the other may also be refused. The caller then repeats each of them
        separately, so that no outcome is lost because of a bad claim. A BUSY transition must affect neither
        the claim nor other transitions.
        """

    @abstractmethod
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """Return True as soon as there may be work, and False after the timeout.

        The result is only a hint, because servers also poll. If a wait returns True although there is no
        work, the only cost is an empty claim.

        A wake-up must not be lost between a claim that found nothing and the wait. Therefore, every wake-up
        counts that occurs after the later of two times: when this handle's last claim of the same queues
        began, and when its last wait for them returned. If the handle has done neither, wake-ups count from
        this call on.

        The wait also returns True if the next due time has become earlier than the one that `claim` or
        `promote` returned last. Jobs that the last claim skipped because it left out their tasks do not count
        as work.

        With `Feature.NOTIFY`, a caller can also wait for `[taken_from(session)]`. Such a wait returns True as
        soon as another caller has taken a job of that session out of processing, for example by deleting it,
        and never because there is work.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Make every current `wait` in this process return soon."""

    # ---- memos, batches, streams ---------------------------------------------------------------------------

    @abstractmethod
    def remember(self, memos: Sequence[NewMemo], *, within: object | None = None) -> list[Remembered]:
        """Store each memo unless a completed memo of its kind and name exists; see `NewMemo`.

        Return for each memo, in order, the result and the memo that is stored now.

        For a memo from outside (without `session`) that is already stored, the result is ALREADY in every
        state of the job, so that a sender that repeats a call gets the same result. A completed signal must
        enqueue a job that waits for it (`waits_for`), in the same operation, with the reason
        `Moved.SIGNALLED`. A job keeps at most MEMOS_LIMIT memos, with at most MEMOS_BYTES of values; a memo
        beyond that is REFUSED. For `within`, see `insert`: the job's row stays locked until that transaction
        ends.

        Raises:
            UnsupportedFeature: If `within` is given, but the storage does not offer it.
        """

    @abstractmethod
    def recall(
        self, job_id: str, *, session: str | None = None, fence: int | None = None
    ) -> list[Memo] | None:
        """Return all memos of the job, in order of place.

        Return None if the job is unknown. With a session, also return None if the job is not processing for
        that session with this fence: an old run must not continue with memos that a newer run has deleted.
        """

    @abstractmethod
    def batch_counts(self, ids: Sequence[str]) -> list[BatchCounts | None]:
        """Return each batch's counts at one point in time, in the same order; None for other jobs."""

    @abstractmethod
    def append_stream(self, job_id: str, chunks: Sequence[Chunk], *, session: str, fence: int) -> int | None:
        """Store the chunks; chunks that are already stored stay unchanged.

        Return the current stored size, in bytes, of the largest stream in this call. If the job is not
        processing for this session with this fence, store nothing and return None.
        """

    @abstractmethod
    def read_stream(self, job_id: str, stream: str, *, after: int = -1, limit: int = 100) -> list[Chunk]:
        """Return chunks with an offset above `after`, in order."""

    # ---- limits and unique keys --------------------------------------------------------------------------

    @abstractmethod
    def spend(self, key: str, *, cost: int = 0, until: int | None = None) -> int:
        """Use this many units of the key's rate, and block the key until this time.

        Return the time from which the key allows a start of cost 1; it is now or earlier if the key allows
        one already. A negative cost returns units until none are used. If the key has no rate, a positive
        cost has no effect, and a negative cost ends the key's block.
        """

    @abstractmethod
    def block(self, key: str, *, until: int) -> bool:
        """Block the key until this time, as `spend` does.

        If another transaction has locked the key, write nothing and return False. A server calls this verb
        before it stores the outcome of a job that raised `RateLimited`, and must not wait for such a lock.
        """

    @abstractmethod
    def find_keys(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[KeyState]:
        """Return the limit keys that have this prefix and are above `after`, sorted by code points.

        These are the keys that jobs use or wait for, and those whose rate has not completely recovered.
        """

    @abstractmethod
    def find_waiting(
        self, key: str, *, after: int = 0, limit: int = 100, job_id: str | None = None
    ) -> WaitingJobs:
        """Return the ids of jobs that wait for a limit key, in their order in the line for this key.

        These are the enqueued jobs without a tail whose limits contain the key. They wait in lanes, one per
        queue and set of keys. The line begins with the first job of each lane, then the second job of each,
        and so on. The lanes have a fixed order; the jobs of a lane are in the order in which `claim` takes
        them. `after` is the number of jobs to skip.

        With `job_id`, the result also contains the position of that job, which is the number of jobs before
        it, or None if it does not wait for the key. With `limit=0`, only the position is read.

        To bound the cost, a line contains at most 10,000 jobs. They come from the first 1,000 lanes with the
        key and from the lane of `job_id`. `is_cut` is true if there are more lanes. The line may be read in
        more than one operation.
        """

    @abstractmethod
    def find_unique(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[UniqueState]:
        """Return the unique keys that have this prefix and are above `after`, sorted by code points."""

    # ---- sessions ----------------------------------------------------------------------------------------

    @abstractmethod
    def begin_session(self, session: NewSession) -> None:
        """Create a session that lives for its timeout, starting now, by the storage's clock.

        A repeated call must change nothing.
        """

    @abstractmethod
    def renew(self, renewals: Sequence[Renewal]) -> list[bool]:
        """Renew each living session for its timeout, starting now; return for each whether it is alive.

        A session that has ended or is unknown must not be revived, and its result is always False. A session
        that has expired but is not yet marked as ended is renewed.
        """

    @abstractmethod
    def reconcile(self, session: str, held: Sequence[HeldClaim]) -> Reconciliation:
        """Compare the claims that a worker process believes it holds with those in the storage; move nothing.

        `started_at` is stored for each claim that has one, except for jobs that another transaction has
        locked. Their ids are returned in `busy`, and the caller sends their start times again.

        A held claim is lost unless its job is processing for this session with this fence, whether locked or
        not. Each lost claim is returned with the stored values of its job: its state (None if no such job is
        stored), the fence of its latest claim, and whether it has a tail, regardless of the session. From
        these values, the worker process can distinguish a job that its own run ended, within a transaction of
        the task, from one that was deleted, requeued or claimed again. Read these values only for lost
        claims.

        The unknown claims are the session's processing jobs and tails that the worker process did not list
        with their current fence. The worker process hands them back with `apply`, because only this process
        can determine that none of its own claims is still in progress. A session that has ended or is unknown
        is reported as lost.
        """

    @abstractmethod
    def end_session(self, session: str, running: Collection[str] | None, *, reason: str) -> Taken:
        """End the session forever, and return its jobs to their queues.

        Each processing job whose id is in `running` gets crashes + 1, and the reason in its history. The
        others get the reason `Moved.NOT_STARTED` and no history entry. All of them are enqueued at their
        previous places, and their attempts are given back. If `running` is None, it is unknown which jobs
        were running, so a crash is counted for each of them. The session's tails are cleared. The call does
        nothing if the session is unknown, or if it has ended and has no jobs or tails.

        If other transactions can lock rows of a storage, it must end a session in two phases; a storage that
        divides long work may do so too. First, mark the session as ended, and store `running` and the reason
        with it. From then on, the session cannot claim jobs or be renewed. Then release its jobs and tails, a
        bounded number per transaction. Skip locked rows without waiting, and count them in `Taken.left`. The
        session is closing (`SessionRecord.is_closing`) until it has no jobs or tails. `orphans` and later
        calls of `end_session` continue the work with the stored `running` and reason instead of their own.

        Whether a settling transition is accepted depends only on the row of its job. A closing session can
        therefore still store the outcome of a job, which then does not need to be released.
        """

    @abstractmethod
    def orphans(self, limit: int, *, as_of: int | None = None) -> list[Taken]:
        """End the sessions that have expired by the storage's clock, as `end_session(running=None)` does.

        The reason is `Moved.SESSION_LOST`. A session that would live for more than two of its timeouts from
        now also counts as expired, because the storage's clock was set back since its last renewal. At most
        `limit` sessions are ended, each in an operation that checks again whether it has expired. A session
        whose own record is locked is left to the next call, and must not prevent other sessions from being
        ended.

        The call also continues to end closing sessions: at most `limit` per call, but all of them in
        successive calls.

        Return a result for each session that was ended. Also return one for each closing session if a job or
        a tail of the session was released, or if this call finished ending it because the original caller
        could not.

        Args:
            limit: the maximum number of sessions to end, and of closing sessions to continue.
            as_of: the storage's time in microseconds, as the caller last read it. A session ends only if it
                has expired by the storage's clock and also by this time. A clock change after the caller's
                reading therefore does not end any session. Pass None to use only the storage's clock.
        """

    @abstractmethod
    def oldest_session(self) -> SessionRecord | None:
        """Return the living session that comes first in `list_sessions`; None if no session lives.

        Each worker process calls this every few seconds, so the cost must not grow with the number of stored
        sessions.
        """

    @abstractmethod
    def list_sessions(self) -> list[SessionRecord]:
        """Return living sessions, and ended ones until `prune` deletes them, in order of `started_at`.

        An ended session keeps its last renewal, whose report shows whether it stopped or was lost. A closing
        session must not be pruned.
        """

    # ---- upkeep ------------------------------------------------------------------------------------------

    @abstractmethod
    def promote(self, limit: int) -> Promotion:
        """Enqueue up to `limit` scheduled jobs that are due by the storage's clock, earliest due time first.

        Their `enqueued_at` is the storage's time, `due_at` becomes empty, and one history entry with the
        reason `Moved.DUE` is written. Awaiting jobs that are due are enqueued in the same way: their wait has
        timed out, and they no longer wait for anything. A batch that is due is cancelled with the reason
        `Moved.HOLD_EXPIRED`, because its creator did not extend the hold. Skip jobs that another transaction
        has locked; a later call moves them.
        """

    @abstractmethod
    def release(self, limit: int) -> int:
        """Move up to `limit` awaiting children of ended parents as `continuation_target` specifies.

        Return the number of processed children; 0 if the releasing list is empty, or if all remaining rows
        are locked.

        **Locked rows.** The call must never wait for a row that another transaction has locked. A locked
        child is skipped and not counted; its parent stays on the list and is not pruned, and a later call
        moves the child. The same applies to a locked parent, batch or member.

        **Children.** Each edge with a target is decided once. A child with several parents is enqueued when
        its last edge is decided, or deleted as soon as an edge is decided whose target is deleted. A child
        that keeps waiting gets `waiting_reason`. A released child gets one history entry with the reason of
        `Moved.PARENT_ENDED`. A child that is deleted here puts its own children on the releasing list. Its
        retention is that of its parent (`expires_at` − `ended_at`; forever if the parent is kept forever). A
        child that is a batch is opened instead of being enqueued, and cancelled instead of being deleted. A
        parent that was requeued before it was processed leaves the list, and is added again when it next
        ends.

        **Batches** whose counts have changed are processed next. Lock the batch first, and skip it if another
        transaction has locked it. In a later statement, fold its recorded changes into its counts.
        `batches.end_of` then computes its state: a batch that is held or has not opened stays open, unless it
        is cancelled.

        - A batch that ends gets `ended_at` = the storage's time, a history entry, and the `expires_at` of its
          `BatchRules.keeps`. Its reason is that of its cancellation, or `batch_failure_reason` if it failed.
        - A batch that had ended and is open again becomes awaiting with `Moved.REOPENED` and one history
          entry. This entry is written even if the batch immediately ends in another state.
        - If the batch has `fails_fast`, a failure since the last fold sets `is_stopping`, which is cleared
          when the batch ends.

        **Members** are moved last, under the lock of their batch, up to the limit:

        - If the batch is cancelled or stopping, all members that have not ended are deleted, and running ones
          leave a tail. Inner batches are cancelled. The reason is `Moved.SWEPT` or `Moved.STOPPED`, and
          `expires_at` is that of `BatchRules.keeps`.
        - If the batch has opened, members that waited for the opening are enqueued with `Moved.BATCH_OPENED`,
          or scheduled if their `nominal_at` is in the future.

        The same call must also make all changes that become possible because of these changes, up to the
        limit: for example, those of the children of a batch that has ended, and of its outer batches.
        """

    @abstractmethod
    def prune(self, limit: int) -> int:
        """Delete up to `limit` jobs whose `expires_at` has passed, with all data that belongs to them.

        Return how many were deleted; a number below `limit` means that there was nothing else to delete. Skip
        jobs that another transaction has locked.

        **Kept jobs.** A member is kept as long as its batch and all outer batches. A result is kept while a
        job that has not ended still needs it as an input. A called job is kept until its caller has ended.
        The `expires_at` of such a job is postponed to that of the batch that is kept longest, or by an hour.

        **Waiting jobs.** A job on the releasing list must stay until its children were released. Children
        that still wait for a pruned job are deleted first, with the reason of `Moved.PARENT_GONE` and the
        expiry that `release` would set. The waiting members of a pruned batch are deleted first in the same
        way.

        **Other data.** Rollups older than 30 days are also deleted. Locks are deleted a day after they end,
        or up to an hour later. If a deleted lock is acquired again, its token must still be larger than all
        earlier ones. An ended session is deleted an hour after its end if another session of the same server
        (`NewSession.server_id`) began after it; otherwise, a day after its end. One call deletes a bounded
        number of sessions.
        """

    # ---- reading -----------------------------------------------------------------------------------------

    @abstractmethod
    def get(self, ids: Sequence[str]) -> list[JobRecord | None]:
        """Return one record per id, with its progress, in the same order; None for an unknown id."""

    @abstractmethod
    def find(
        self, where: JobFilter, *, limit: int, cursor: str | None = None, oldest_first: bool = False
    ) -> FoundJobs:
        """Return a page of matching jobs in order of time, the newest first unless `oldest_first` is set.

        The time is `due_at` if the filter has `by_due`, which finds only scheduled jobs; otherwise
        `changed_at` if it has a state; otherwise `created_at`. Jobs with the same time are in order of id.
        "Newest first" means that the largest time and the largest id come first, so with `by_due` the jobs
        that are due last come first. `since` and `until` apply to the same time. `tag` matches exactly, and
        `id_prefix` matches a prefix.

        A cursor is opaque and belongs to one filter and direction. It must stay valid while jobs are added
        and removed; an invalid cursor raises `StorageError`. A storage may limit its search for rare jobs. A
        page can therefore be short or empty and still have a cursor: only a page without a cursor is the last
        one.
        """

    @abstractmethod
    def history(self, job_id: str) -> JobHistory:
        """Return the job's history and its failed attempts with their tracebacks, both oldest first.

        There are at most `lifecycle.HISTORY_LIMIT` history entries, one of which can replace omitted entries
        in the middle, and at most the last 20 attempts.
        """

    @abstractmethod
    def counts(self) -> Counts:
        """Return the number of jobs in each state and queue. This must be exact, and fast at any size."""

    @abstractmethod
    def failure_groups(self, limit: int) -> list[FailureGroup]:
        """Return groups of the newest 10,000 failed jobs by fingerprint, the largest group first."""

    @abstractmethod
    def record_metrics(self, rollups: Sequence[Rollup]) -> None:
        """Add the counts, durations and histograms to the stored ones."""

    @abstractmethod
    def timeline(
        self, since: int, until: int, *, task: str | None = None, queue: str | None = None
    ) -> list[Rollup]:
        """Return the rollups of the minutes in [since, until), in order of time."""

    @abstractmethod
    def append_logs(
        self, lines: Mapping[str, Sequence[LogLine]], progress: Mapping[str, Progress]
    ) -> Collection[str]:
        """Append the lines to the logs of their jobs, and replace the progress of jobs.

        Unknown jobs are skipped. The newest 1,000 lines of a job are kept. The storage numbers the lines of a
        job: each number must be larger than the numbers of all earlier lines, including deleted ones.

        Never wait for a locked row. Return the ids of jobs that another transaction has locked, usually none.
        Nothing must be stored for these jobs; the caller sends their lines and progress again.
        """

    @abstractmethod
    def read_log(self, job_id: str, *, after: int = 0, limit: int = 100) -> list[LogLine]:
        """Return log lines with a number above `after`, in order."""

    # ---- locks and small records ---------------------------------------------------------------------------

    @abstractmethod
    def acquire_lock(self, name: str, owner: str, ttl_seconds: float) -> int | None:
        """Return a fencing token if the lock was free or had expired; otherwise None.

        The tokens of a name must only grow, even after the lock was released or pruned. The current owner
        gets the same token again, and the lock is extended.
        """

    @abstractmethod
    def renew_lock(self, name: str, owner: str, fence: int, ttl_seconds: float) -> bool:
        """Renew the lock for the ttl from now; return False unless this owner holds it with this token."""

    @abstractmethod
    def release_lock(self, name: str, owner: str, fence: int) -> bool:
        """Release the lock; return False if this owner no longer holds it with this token."""

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
        """Store the record and return its new version; return None if the stored one has another version.

        An expected version of 0 means that no record is stored; None accepts any version. The versions of a
        key must only grow, even after a delete. `due_at` replaces the previous due time. For the kind
        `recurring`, it is considered in the next due time that `claim` and `promote` return, and servers that
        sleep until a later time are notified.
        """

    @abstractmethod
    def get_record(self, kind: str, key: str) -> Record | None:
        """Return the record; None if it does not exist."""

    @abstractmethod
    def list_records(self, kind: str, *, after: str = "", limit: int = 100) -> list[Record]:
        """Return records of a kind whose keys are above `after`, sorted by key in code point order."""

    @abstractmethod
    def due_records(self, kind: str, limit: int) -> list[Record]:
        """Return records of a kind that are due by the storage's clock, the earliest due time first."""

    @abstractmethod
    def delete_record(self, kind: str, key: str, *, expected_version: int | None = None) -> bool:
        """Delete the record; return False if it does not exist or has another version."""


def shown_url(url: str) -> str:
    """Return a URL without its password, for `Storage.url`, messages and logs.

    Raises:
        StorageError: If the URL cannot be parsed. Such a URL must not be shown, because a password can be
            anywhere in it.
    """
    try:
        parts = urlsplit(url)
        secret = parts.password
    except ValueError as error:
        raise StorageError("The storage URL is invalid; check its brackets and its port.") from error
    if secret is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}"))
