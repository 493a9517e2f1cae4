"""The dispatcher of a worker process: one exchange settles ended jobs and claims new ones.

Only this thread claims, settles and reconciles jobs, so these calls never race with each other. The only
exception is a job that ends within the task's own transaction: the thread that runs the task settles it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from firelock.errors import StorageError, StorageUnavailable
from firelock.model import lifecycle
from firelock.model.clock import SECOND
from firelock.model.dependencies import read_relations
from firelock.model.job import ClaimedJob, Settled, Transition
from firelock.model.session import ClaimHolder, LostClaim
from firelock.model.state import State
from firelock.server.batch_releases import BatchReleases
from firelock.server.failure import describe_failure
from firelock.server.outage import Outage
from firelock.server.parked_ends import PARKED_LIMIT, ParkedEnd, ParkedEnds
from firelock.server.run import (
    CancelKind,
    Completion,
    EndedRun,
    Run,
    completed_end,
    has_succeeded,
)
from firelock.server.workers import (
    FLUSH_SIZE,
    PASSING_POLL,
    ClaimedRun,
    WorkerContext,
    Workers,
    have_ended,
)
from firelock.storage import Applied, Claim, ClaimRequest, Exchange, Feature, HeldClaim, server_work

if TYPE_CHECKING:
    from firelock.runtime import Runtime
    from firelock.server.queue_choice import QueueChoice
    from firelock.server.upkeep import Upkeep

log = logging.getLogger(__name__)

_FLUSH_WAIT = 0.010  # maximum seconds that an outcome waits for others
_LONG_RUN = 1.0  # after this many seconds, runs are reconciled every second, to notice deletions
_OFTENEST = 1.0  # seconds between two reconciliations
_FIRST_PAUSE, _SECOND_PAUSE, _LONGEST_PAUSE = 0.01, 0.1, 5.0  # seconds; lost connections are soon restored
_IDLE_HEARTBEATS = 3
_SHOWN_AS_STARTED = 1.0  # if a job runs longer than this many seconds, `started_at` is written
_LONG_WAIT, _TOO_LONG_WAIT = 0.020, 0.050
_FEW_ENDS = 10  # an exchange with up to this many outcomes costs little more than one with none
# Compared with such an exchange, a slow one takes this many seconds longer and this many times as long.
_MUCH_LONGER, _TIMES_LONGER = 0.020, 3
_STALL = 0.2  # if no worker becomes free in this many seconds after a hand-back, the jobs are long
_CLOCK_SLACK = 0.0005  # seconds to wait after a due time, so that the storage's clock has also reached it
_SENDER_GRACE = 2.0  # seconds for which the current attempt to store a parked end may continue
_IMMEDIATE_CLAIMS, _CLAIM_PAUSE = 100, 0.020  # enough for about 25,000 lanes; if not, rows are locked
_REFUSED = (
    "Job %s was deleted, or given to another server, while it ran; dropping its end, which was refused."
)
_IN_STORAGE = frozenset(result for result in Applied if result.is_applied)


class DispatcherState(StrEnum):
    """What the loop does in addition to settling jobs; without a session, it never claims any."""

    CLAIMING = "claiming"
    QUIET = "quiet"
    STOPPED = "stopped"


@attrs.define(eq=False, slots=False)
class Dispatcher:
    """The loop that manages the jobs of a worker process: claimed, running, and ended but not settled.

    Args:
        runtime: the parts of the app.
        context: the context of the workers; its inbox contains the messages of workers and other threads.
        workers: run the claimed jobs.
        queues: the queues to claim from.
        upkeep: is notified of outages and of the next due time.
        on_session_lost: called in the dispatcher's thread with the id of an expired session.
    """

    _runtime: Runtime
    _context: WorkerContext
    _workers: Workers
    _queues: QueueChoice
    _upkeep: Upkeep
    _on_session_lost: Callable[[str], None]
    _state: DispatcherState = DispatcherState.CLAIMING
    _holder: ClaimHolder | None = None  # None if there is no session
    _is_reachable: bool = True
    _outage: Outage = attrs.Factory(Outage)
    _failing_since: float = 0.0  # monotonic time; 0 if the last exchange succeeded
    _pause: float = _FIRST_PAUSE  # seconds to pause after the next error
    _reconciled_at: float = attrs.Factory(time.monotonic)
    _next_claim_at: int | None = None  # storage time from which a claim may find more jobs
    _was_refused: bool = False  # whether the last exchange was refused
    _empty_claims: int = 0  # number of consecutive claims that found nothing and were repeated immediately
    _needs_release: bool = False  # whether continuations wait for a release
    _has_parked_too_many: bool = False  # the state that was last logged

    def __attrs_post_init__(self) -> None:
        self._settler = _Settler(self._runtime, self._context, self._upkeep, self._answer_parked)
        self._ahead = ClaimAhead(self._runtime.settings.claim_ahead)
        self._batches = BatchReleases(self._runtime.storage)
        self._inbox = self._context.inbox
        self._thread = threading.Thread(target=self._run, name="firelock-dispatcher", daemon=True)

    def start(self, holder: ClaimHolder) -> None:
        """Start claiming jobs for this session."""
        self._holder = holder
        self._thread.start()

    def quiet(self, *, is_quiet: bool) -> None:
        """Stop claiming and hand back the jobs that have not started, or start claiming again."""

        def change() -> None:
            if is_quiet:
                self._hand_back(self._workers.take_back(), "server stopping")
            self._enter(DispatcherState.QUIET if is_quiet else DispatcherState.CLAIMING)

        self._inbox.order(change)

    def adopt(self, holder: ClaimHolder) -> None:
        """Replace a lost session: drop its claims, cancel its running jobs, and claim for this session."""

        def change() -> None:
            self._workers.take_back()
            self._settler.drop_all()
            for run in self._workers.runs():
                run.cancel(CancelKind.LOST, "the session of this server was lost")
            self._context.memory.adopt_session()  # last, so that waiting workers find their claims dropped
            self._holder = holder

        self._inbox.order(change)

    def suspend_and_reconcile(self) -> None:
        """Do not start waiting jobs until a reconciliation shows which jobs the session has lost.

        Call this method when jobs were taken from the session.
        """
        held_up = self._workers.hold_up()

        def compare() -> None:
            try:
                self._reconcile()
            finally:
                for workers, waiting in held_up:
                    kept = [each for each in waiting if not each.is_dropped]
                    if self._state is not DispatcherState.CLAIMING:
                        self._hand_back(kept, "server stopping")
                    elif kept:
                        workers.put(kept)

        self._inbox.order(compare)

    def abandon(self, reason: str) -> None:
        """Hand back all jobs that have not ended. If a run ends later, its outcome is not stored."""

        def change() -> None:
            self._settler.collect()
            unended = self._settler.unended_runs()
            running = self._drop(unended)
            for claimed in unended:
                run = running.get(claimed.job.id)
                if run is not None and run.started:
                    self._settler.add_end(self._context.runner.abandoned(run, reason))
                else:
                    self._hand_back([claimed], "server stopping")

        self._inbox.order(change)

    @property
    def is_quiet(self) -> bool:
        """Whether no more jobs are claimed, and no claim that could return jobs is in progress."""
        return self._state is DispatcherState.QUIET

    @property
    def is_drained(self) -> bool:
        """Whether no job runs or waits to run here; ended jobs may still wait to be settled."""
        return not self._workers.runs() and self._settler.unended <= 0

    @property
    def is_drained_of_cancellable(self) -> bool:
        """Whether all runs have ended except those that ignore their cancellation."""
        ignoring = self._workers.runs()
        if not all(run.ignores_cancellation for run in ignoring):
            return False
        ours = sum(run.cancelled is not CancelKind.LOST for run in ignoring)  # the session has not lost these
        return self._settler.unended <= ours

    @property
    def holds_nothing(self) -> bool:
        """Whether all claimed jobs have been settled."""
        return self._settler.holds_nothing

    @property
    def has_settled(self) -> bool:
        """Whether the storage has settled all claimed jobs, except those whose rows are locked."""
        return self._settler.has_settled

    def stop(self, timeout: float) -> bool:
        """End the loop and return whether it has ended in time."""
        parked = self._settler.parked
        parked.stop(_SENDER_GRACE)
        self._inbox.order(lambda: self._enter(DispatcherState.STOPPED))
        self._inbox.ran_dry()  # wakes the threads that wait in `wait_until_dry`
        has_ended = have_ended([self._thread], timeout)
        parked.report_unstored()
        return has_ended

    def hurry_parked(self) -> None:
        """Try to store parked ends more often, because the server is stopping."""
        self._inbox.order(self._settler.parked.hurry_all)

    def _enter(self, state: DispatcherState) -> None:
        if self._state is not DispatcherState.STOPPED:  # final, even if another state is requested later
            self._state = state

    def _run(self) -> None:
        with server_work():
            while self._state is not DispatcherState.STOPPED:
                try:
                    self._take_turn()
                except Exception as error:  # noqa: BLE001 - the loop continues; the error is logged
                    self._rest(error)

    def _rest(self, error: Exception) -> None:
        """Wait after an error; the wait is longer after each consecutive error."""
        seconds, longest = self._pause, _LONGEST_PAUSE
        self._note_failing(self._failing_since or time.monotonic())
        if isinstance(error, StorageUnavailable):
            seconds = random.uniform(0, seconds)  # noqa: S311 - jitter
            longest = max(longest, error.longest_pause)
            if (lasted := self._outage.note_failure()) is not None:
                log.warning("Storage still unavailable after %.0f min; retrying: %s", lasted / 60, error)
            if self._is_reachable:
                self._is_reachable = False
                log.warning("Storage unavailable; keeping the outcomes of jobs and retrying: %s", error)
                if longest > _LONGEST_PAUSE:
                    log.warning(
                        "The storage logs each refused call, so retries are up to %g s apart.", longest
                    )
            self._upkeep.contact(is_available=False)
        else:
            log.error("Unexpected error in the dispatcher; continuing.", exc_info=error)
        self._reconciled_at = 0.0  # the reply to a claim may have been lost: reconcile as soon as possible
        self._inbox.wait(seconds)
        least = _SECOND_PAUSE if longest == _LONGEST_PAUSE else _LONGEST_PAUSE
        self._pause = min(longest, max(least, self._pause * 2))

    def _note_failing(self, since: float) -> None:
        """Report to the probes since when the storage refuses claims and outcomes; 0 if it accepts them."""
        self._failing_since = since
        if self._state is not DispatcherState.STOPPED:  # after a stop, the memory may be unmapped
            self._context.memory.note_failing(since)

    def _take_turn(self) -> None:
        if self._inbox.begin_turn():
            self._workers.note_new_work()
        self._inbox.parked = len(self._settler.parked)
        if self._state is not DispatcherState.STOPPED:  # after a stop, the memory may be unmapped
            self._context.memory.turn()
        self._settler.collect()
        self._hand_back_late()
        if self._is_time_to_reconcile():
            self._reconcile()
        limit, began = self._limit(), time.monotonic()
        reply = self._exchange(limit)
        if reply.results:
            self._ahead.exchanged(len(reply.results), time.monotonic() - began)
        if not self._is_reachable:
            self._is_reachable = True
            log.info("Storage available again after %.0f s.", self._outage.end())
            self._upkeep.contact(is_available=True)
        if self._failing_since and (limit or reply.results):  # otherwise, nothing was sent
            self._note_failing(0.0)
        self._pause = _FIRST_PAUSE
        self._needs_release |= self._settler.answered(reply.results, self._batches)
        is_full = self._give_out(reply.claim, limit)
        is_stopped = self._state is DispatcherState.STOPPED
        # This comes last, so that the claimed jobs already run if it fails. Upkeep does the remaining work.
        self._needs_release |= self._settler.check_uncertain(self._batches)
        if self._needs_release or self._batches.is_due() or (is_stopped and self._batches.is_needed):
            self._needs_release = False
            self._inbox.skip_next_wait()
            self._batches.release()
            self._upkeep.release_again()
        self._wait(is_more_likely=is_full)

    def _limit(self) -> int:
        """Return the number of jobs that can be claimed now."""
        is_claiming = self._state is DispatcherState.CLAIMING and self._holder is not None
        if not is_claiming or not self._context.memory.may_start() or self._has_too_many_parked():
            return 0
        if self._ahead.is_stalled and self._workers.threads.has_idle:
            self._ahead.go_on()
        return self._workers.room(self._ahead.ahead, self._settler.unended)

    def _has_too_many_parked(self) -> bool:
        """Return whether there are too many parked ends to claim jobs; log when this changes."""
        has_too_many = len(self._settler.parked) >= PARKED_LIMIT
        if has_too_many is not self._has_parked_too_many:
            self._has_parked_too_many = has_too_many
            if has_too_many:
                log.warning(
                    "The outcomes of %d jobs wait for rows that other transactions have locked; claiming no "
                    "jobs until there are fewer. Check the database for a long transaction.",
                    len(self._settler.parked),
                )
            else:
                log.info("Fewer than %d outcomes wait for locked rows; claiming jobs again.", PARKED_LIMIT)
        return has_too_many

    def _answer_parked(self, parked: ParkedEnd, result: Applied) -> None:
        """Handle the storage's result for a parked end, in the dispatcher's thread."""

        def answer() -> None:
            self._needs_release |= self._settler.answered_parked(parked, result, self._batches)

        self._inbox.order(answer)

    def _exchange(self, limit: int) -> Exchange:
        """Send the waiting outcomes and claim up to `limit` jobs, in one round trip.

        If the storage refuses the exchange, only settle jobs, so that no outcome is lost; the next exchange
        claims jobs.
        """
        transitions, holder = self._settler.transitions(), self._holder
        if not limit or holder is None:
            return Exchange(self._settler.apply(transitions) if transitions else [], Claim([]))
        now, left_out = self._runtime.clock.now(), self._workers.claiming()
        request = ClaimRequest(self._queues.order(), limit, holder.session, now, left_out)
        if not transitions:
            claim = self._runtime.storage.claim(request)
            self._was_refused = False
            return Exchange([], claim)
        reply: Exchange | None = None
        try:
            reply = self._runtime.storage.exchange(transitions, request)
        except StorageUnavailable:
            raise
        except StorageError:
            log.exception("The storage rejected a combined settle and claim; settling first, then claiming.")
            self._inbox.skip_next_wait()
        was_refused, self._was_refused = self._was_refused, reply is None
        if reply is not None:
            return reply
        if not was_refused:  # as in `_rest`; a second consecutive refusal is caused by an outcome
            self._reconciled_at = 0.0
        return Exchange(self._settler.apply(transitions), Claim([]))

    def _give_out(self, claim: Claim, limit: int) -> bool:
        """Give the claimed jobs to the workers; return whether there were as many as requested."""
        holder = self._holder
        self._next_claim_at = claim.next_claim_at
        if holder is None or not limit:  # nothing was claimed
            return False
        if claim.is_session_lost:
            self._lose_session(holder)
            return False
        self._upkeep.next_due(claim.next_due_at)
        is_full = len(claim.jobs) >= limit
        has_more = is_full or claim.next_claim_at is not None
        have_run_dry = self._workers.claimed(is_full=is_full, has_more=has_more)
        self._empty_claims = 0 if claim.jobs else self._empty_claims + 1
        if not is_full:
            self._inbox.ran_dry()
        if claim.jobs:
            if have_run_dry:
                self._ahead.ran_dry()
            claimed = [ClaimedRun(job, holder) for job in claim.jobs]
            self._settler.held.update((each.job.id, each) for each in claimed)
            try:
                self._workers.put(claimed)
            except Exception:  # for example, no thread could be started; no claimed job may be lost
                running = self._drop(claimed)
                self._hand_back([each for each in claimed if each.job.id not in running], "not started")
                raise
        return is_full

    def _lose_session(self, holder: ClaimHolder) -> None:
        self._holder = None
        self._on_session_lost(holder.session)

    def _wait(self, *, is_more_likely: bool) -> None:
        if self._state is DispatcherState.STOPPED or self._inbox.orders or self._settler.has_hand_backs:
            return
        ended = self._inbox.ended
        if len(ended) >= FLUSH_SIZE or (ended and not self._workers.threads.waiting):
            return
        if (is_more_likely or self._workers.claims_for_other_next) and self._limit() > 0:
            return
        if ended or self._settler.has_busy:
            self._inbox.wait(_FLUSH_WAIT)
        elif self._batches.is_needed:
            self._inbox.wait_for_work(self._batches.rest)
        else:
            self._inbox.wait_for_work(self._idle_time())

    def _idle_time(self) -> float:
        """Return the longest time to wait: the poll interval, or less while jobs wait for long jobs."""
        if self._workers.has_waiting:
            return _FLUSH_WAIT
        poll = self._runtime.settings.poll
        if self._holder is not None and any(_is_uncertain(run) for run in self._workers.runs()):
            poll = min(poll, max(0.0, self._reconciled_at + _OFTENEST - time.monotonic()))
        if self._workers.is_passing_over:
            poll = min(poll, PASSING_POLL)
        if self._next_claim_at is None:
            return poll
        seconds = (self._next_claim_at - self._runtime.clock.now()) / SECOND
        if seconds > 0:
            return min(poll, seconds + _CLOCK_SLACK)
        if not self._empty_claims:
            return 0.0
        # The last claims were repeated without a pause and found nothing; wait, to avoid a busy loop.
        return min(poll, _CLOCK_SLACK if self._empty_claims <= _IMMEDIATE_CLAIMS else _CLAIM_PAUSE)

    def _hand_back_late(self) -> None:
        wait, coroutines = self._workers.threads.oldest_wait(), self._workers.coroutines
        late = [] if coroutines is None else coroutines.take_back_late()
        ahead, are_too_many = self._ahead.ahead, bool(late)
        if wait and self._ahead.observe(wait):
            waiting = self._workers.threads.take_back()
            are_too_many |= len(waiting) > ahead
            late += waiting
        if are_too_many:
            self._workers.separate_claims()
        self._hand_back(late, "waited too long behind others")

    def _hand_back(self, claimed: Iterable[ClaimedRun], reason: str) -> None:
        for each in claimed:
            if self._settler.held.pop(each.job.id, None) is not None:
                self._settler.hand_back(each.job, each.holder, reason)

    def _drop(self, claimed: Iterable[ClaimedRun]) -> dict[str, Run]:
        """Mark the jobs so that no worker starts them; return all runs, including those that have started.

        The order matters, because a worker checks its claim once more after its run has become visible here.
        """
        for each in claimed:
            each.is_dropped = True
        return {run.job.id: run for run in self._workers.runs()}

    def _is_time_to_reconcile(self) -> bool:
        now = time.monotonic()
        since = now - self._reconciled_at
        if since < _OFTENEST or self._holder is None:
            return False
        # Reconcile even without jobs, but less often, because a failover of the storage may lose outcomes.
        if since >= self._runtime.settings.heartbeat * (1 if self._settler.held else _IDLE_HEARTBEATS):
            return True
        if self._workers.has_waiting and Feature.NOTIFY not in self._runtime.storage.features:
            return True  # waiting jobs may be deleted without notifying this process
        return self._reconciled_at == 0.0 or any(
            (run.busy_since and now - run.busy_since > _LONG_RUN) or _is_uncertain(run)
            for run in self._workers.runs()
        )

    def _reconcile(self) -> None:
        """Compare the claims in this process with the stored ones; stop lost jobs, return unknown ones.

        If a run has ended its own job within a transaction of the task, the job is not lost. The job is
        counted as ended, and the task may continue after the commit.
        """
        holder = self._holder
        if holder is None:
            return
        beliefs = self._settler.beliefs(self._workers.runs())
        reply = self._runtime.storage.reconcile(holder.session, beliefs)
        self._reconciled_at = time.monotonic()
        self._settler.note_starts(beliefs, reply.busy)
        if reply.is_session_lost:
            self._lose_session(holder)
            return
        parked = self._settler.parked
        parked.hurry([one.held.job_id for one in reply.lost])  # refused now: see `Storage.apply`
        losses = [one for one in reply.lost if parked.get(one.held.job_id) is None]
        lost = [self._settler.held.pop(one.held.job_id) for one in losses]
        running = self._drop(lost)
        completed: list[EndedRun] = []
        for one, claimed in zip(losses, lost, strict=True):
            run = running.get(claimed.job.id)
            if run is None:  # the refused transition shows the storage that the job does not run here
                self._settler.hand_back(claimed.job, claimed.holder, "lost before it started")
            elif (completion := _completion_of(run, one)) is not None:
                completed.append(completed_end(run.job, completion))
            else:
                run.cancel(CancelKind.LOST, "deleted, or taken from this server")
        if completed:
            self._needs_release |= self._settler.completed(completed, self._batches)
        for job in reply.unknown:
            run = running.get(job.id)
            if run is None or run.job.fence != job.fence:
                self._settler.hand_back(job, holder, "claim whose reply was lost")


def _is_uncertain(run: Run) -> bool:
    """Return whether the run may have ended the job in its own transaction, which was not checked yet."""
    completion = run.completion
    return completion is not None and completion.is_due and not completion.is_counted


def _completion_of(run: Run, lost: LostClaim) -> Completion | None:
    """Return the success that the run itself has stored for the lost job; None if others took the job.

    The server of the run was notified of the success before its transaction could commit. Therefore, if a job
    is final, has the run's fence and has no tail, that transaction ended it. A running job that an operator
    deletes or requeues has a tail. A job that no longer exists was pruned in the meantime, which only happens
    to final jobs.
    """
    completion = run.completion
    is_of_run = run.job.fence == lost.held.fence
    return completion if is_of_run and (lost.has_ended or lost.is_gone) else None


@attrs.define
class ClaimAhead:
    """The number of jobs that may wait here for a free worker: 0 at first, then adjusted to their waits.

    The number is reduced as long as exchanges take too long because of it. The outcome of a job waits for the
    current exchange and then for its own. If the process is killed during this time, the job runs again.

    After a hand-back, the number is 0 until a worker is free. Otherwise, the exchange that hands jobs back
    would claim them again.
    """

    limit: int  # the maximum number of jobs
    _clock: Callable[[], float] = time.monotonic
    _ahead: float = 0.0
    _stalled_at: float | None = None  # time of the last hand-back, if no worker has been free since
    _short: float | None = None  # average duration, in seconds, of an exchange with few outcomes
    _is_long: bool = False  # whether the last exchange took much longer than the average

    @property
    def ahead(self) -> int:
        """The number of jobs to claim in addition to the jobs that the workers run."""
        return int(self._ahead) if self._stalled_at is None else 0

    @property
    def is_stalled(self) -> bool:
        """Whether no worker has been free since jobs were handed back."""
        return self._stalled_at is not None

    def go_on(self) -> None:
        """Record that a worker is free again. If this took long, the jobs are long, so claim none ahead."""
        if self._stalled_at is not None and self._clock() - self._stalled_at > _STALL:
            self._ahead = 0.0
        self._stalled_at = None

    def ran_dry(self) -> None:
        """Claim more jobs ahead, because workers were idle during a claim that found jobs."""
        if not self._is_long:
            self._ahead = min(self.limit, self._ahead * 1.05 + 1)

    def exchanged(self, ends: int, seconds: float) -> None:
        """Record an exchange that stored this many outcomes; if it was slow, claim fewer jobs ahead."""
        if self._short is None or seconds < self._short:
            self._short = seconds
        elif ends <= _FEW_ENDS:
            self._short += (seconds - self._short) / 8
        longest = max(self._short + _MUCH_LONGER, self._short * _TIMES_LONGER)
        self._is_long = ends > _FEW_ENDS and seconds > longest
        if self._is_long:
            self._ahead *= 0.9

    def observe(self, oldest_wait: float) -> bool:
        """Record the longest wait, in seconds; return whether all waiting jobs should be handed back."""
        if oldest_wait > _TOO_LONG_WAIT:
            self._ahead /= 2
            self._stalled_at = self._clock()
            return True
        if oldest_wait > _LONG_WAIT:
            self._ahead *= 0.9
        return False


@attrs.define(eq=False)
class _Settler:
    """The outcomes of jobs, each of which is sent until the storage has accepted or refused it.

    An outcome is refused if the job no longer belongs to the session. Only the dispatcher's thread uses this
    object.
    """

    _runtime: Runtime
    _context: WorkerContext
    _upkeep: Upkeep
    _answer_parked: Callable[[ParkedEnd, Applied], None]  # called in the sender's thread
    _unsent: list[EndedRun] = attrs.Factory(list)
    _back: list[EndedRun] = attrs.Factory(list)  # hand-backs of jobs that never started
    _uncertain: list[EndedRun] = attrs.Factory(list)  # refused outcomes of jobs that may have ended before
    held: dict[str, ClaimedRun] = attrs.Factory(dict)
    parked: ParkedEnds = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.parked = ParkedEnds(self.apply, self._block_key, self._answer_parked)

    def collect(self) -> None:
        """Collect the outcomes from the workers, so that they are sent."""
        ended = self._context.inbox.ended
        while ended:
            self.add_end(ended.popleft())

    def add_end(self, ended: EndedRun) -> None:
        """Add an outcome that must be sent."""
        self._unsent.append(ended)

    def hand_back(self, job: ClaimedJob, holder: ClaimHolder, reason: str) -> None:
        """Let the next exchange return a job that never started to its place in the queue."""
        at = self._runtime.clock.now()
        back = lifecycle.handed_back(job, holder, at=at, started_at=None, reason=reason)
        self._back.append(EndedRun(job, back))

    def drop_all(self) -> None:
        """Drop everything, because the session was lost: it has no jobs, and hand-backs are not needed."""
        for claimed in self.held.values():
            claimed.is_dropped = True
        self.held.clear()
        self._back.clear()
        self.parked.drop_all()

    @property
    def unended(self) -> int:
        """The number of claimed jobs that have not ended."""
        return len(self.held) - len(self._unsent) - len(self._context.inbox.ended) - self.parked.ended

    def unended_runs(self) -> list[ClaimedRun]:
        """Return the claimed jobs for which no outcome has been collected."""
        ended = {(end.job.id, end.job.fence) for end in self._unsent}
        ended |= {(one.end.job.id, one.end.job.fence) for one in self.parked.all()}
        return [each for each in self.held.values() if (each.job.id, each.job.fence) not in ended]

    def beliefs(self, runs: Sequence[Run]) -> list[HeldClaim]:
        """Return the claimed jobs for a reconciliation, with start times of long runs that are not stored."""
        long_ago = time.monotonic() - _SHOWN_AS_STARTED
        starts = {run.job.id: run.started_at for run in runs if run.started and run.started < long_ago}
        held = [
            HeldClaim(job_id, claimed.job.fence, None if claimed.is_start_stored else starts.get(job_id))
            for job_id, claimed in self.held.items()
        ]
        backs = [one.end.job for one in self.parked.all() if one.is_hand_back]
        return held + [HeldClaim(job.id, job.fence) for job in backs if job.id not in self.held]

    def note_starts(self, beliefs: Sequence[HeldClaim], busy: Collection[str]) -> None:
        """Record that these start times are stored, except for busy jobs, so that each is written once."""
        for one in beliefs:
            claimed = self.held.get(one.job_id)
            if claimed is None or one.started_at is None or one.job_id in busy:
                continue
            if claimed.job.fence == one.fence:
                claimed.is_start_stored = True

    @property
    def has_hand_backs(self) -> bool:
        """Whether jobs wait to be handed back."""
        return bool(self._back)

    @property
    def holds_nothing(self) -> bool:
        """Whether all claimed jobs have been settled."""
        return self.has_settled and not self.parked

    @property
    def has_settled(self) -> bool:
        """Whether all claimed jobs have been settled, except for parked ends."""
        waits = self._unsent or self._context.inbox.ended or self._back or self._uncertain
        return not waits and len(self.held) <= self.parked.ended

    def _block_keys(self) -> None:
        """Block the limit keys that outcomes name, each of them once; park outcomes whose key is locked.

        Keys are blocked before the outcomes are stored, because the next job can start as soon as an outcome
        is stored.
        """
        untils: dict[str, int] = {}
        for key, until in filter(None, (end.blocks for end in self._unsent)):
            untils[key] = max(until, untils.get(key, 0))
        are_blocked = {key: self._block(key, until) for key, until in untils.items()}
        for end in list(self._unsent):
            if end.blocks is None:
                continue
            if are_blocked[end.blocks[0]]:
                end.blocks = None
            else:
                self._unsent.remove(end)
                self.parked.park(end)

    def _block_key(self, end: EndedRun) -> bool:
        """Block the limit key that the outcome names; return False if another transaction has locked it."""
        return end.blocks is None or self._block(*end.blocks)

    def _block(self, key: str, until: int) -> bool:
        try:
            return self._runtime.storage.block(key, until=until)
        except StorageUnavailable:
            raise
        except StorageError as error:
            log.warning("Limit %r could not be blocked: %s", key, error)
            return True

    def transitions(self) -> list[Transition]:
        """Store log lines and block keys; return the transitions to send, with hand-backs last."""
        if any(end.blocks is not None for end in self._unsent):
            self._block_keys()
        transitions = [ended.transition for ended in self._unsent]
        transitions += [back.transition for back in self._back]
        if transitions:
            self._context.console.flush(self._runtime.storage)
        return transitions

    def apply(self, transitions: list[Transition]) -> list[Applied]:
        """Settle jobs; if the storage refuses this, settle each alone, so that a bad one affects no other."""
        try:
            return self._runtime.storage.apply(transitions)
        except StorageUnavailable:
            raise
        except StorageError as error:
            if len(transitions) > 1:
                return [result for transition in transitions for result in self.apply([transition])]
            return self._apply_poisoned(transitions[0], error)

    def _apply_poisoned(self, transition: Transition, error: StorageError) -> list[Applied]:
        """Settle a job as failed, with the storage's message, because the storage rejected its outcome."""
        log.error("The outcome of job %s cannot be stored: %s", transition.job_id, error)
        if transition.session is None or transition.fence is None:
            return [Applied.REFUSED]
        info = attrs.evolve(describe_failure(error), traceback=None)
        bare = attrs.evolve(
            transition, to=State.FAILED, reason=f"its outcome could not be stored: {info.message}",
            error=info, gives_back=False, retries=None, due_at=None, waits_for=None, parents=(), result=None,
            result_absent=None, is_silent=False,
            expires_at=self._runtime.client.retention.until(State.FAILED, transition.at),
        )  # fmt: skip
        try:
            return self._runtime.storage.apply([bare])
        except StorageUnavailable:
            raise
        except StorageError:
            log.exception(
                "The failure of job %s cannot be stored either; discarding its outcome.", transition.job_id
            )
            return [Applied.REFUSED]

    def answered(self, results: Sequence[Applied], batches: BatchReleases) -> bool:
        """Remove the outcomes that were accepted or refused; return whether to release continuations.

        Also report to `batches` the batches whose members have ended, or were deleted earlier and have now
        stopped.
        """
        ended, self._unsent = self._unsent, []
        back, self._back = self._back, []
        if Applied.BUSY in results:
            number = len(ended)
            free: list[tuple[EndedRun, Applied]] = []
            for place, (end, result) in enumerate(zip([*ended, *back], results, strict=False)):
                if result is Applied.BUSY:
                    self._send_again(end, is_hand_back=place >= len(ended))
                    number -= place < len(ended)
                else:
                    free.append((end, result))
            sent, results = [end for end, _ in free], [result for _, result in free]
            ended, back = sent[:number], sent[number:]
        return self._handle_results(ended, back, results, batches)

    def _send_again(self, end: EndedRun, *, is_hand_back: bool) -> None:
        """Send a busy outcome again with the next exchange; if its row is still busy, park the outcome.

        On PostgreSQL, another process's claim may lock a row for a few milliseconds. This happens if it read
        the row as enqueued shortly before this process claimed the job.
        """
        if end.was_busy:
            self.parked.park(end, is_hand_back=is_hand_back)
        else:
            end.was_busy = True
            (self._back if is_hand_back else self._unsent).append(end)

    @property
    def has_busy(self) -> bool:
        """Whether busy outcomes wait to be sent again; called between two exchanges."""
        return bool(self._unsent)

    def answered_parked(self, parked: ParkedEnd, result: Applied, batches: BatchReleases) -> bool:
        """Handle the storage's result for a parked end; return the same as `answered`."""
        self.parked.remove(parked)
        ended, back = ([], [parked.end]) if parked.is_hand_back else ([parked.end], [])
        return self._handle_results(ended, back, [result], batches)

    def _handle_results(
        self, ended: list[EndedRun], back: list[EndedRun], results: Sequence[Applied], batches: BatchReleases
    ) -> bool:
        """Handle the storage's results, with those of hand-backs last; return the same as `answered`."""
        if Applied.REFUSED in results:
            _notify_stopped([*ended, *back], results, batches)
        if not ended:
            return False
        held = self.held
        accepted: list[EndedRun] = []
        for end, result in zip(ended, results, strict=False):  # results of hand-backs come last
            claimed = held.get(end.job.id)
            if claimed is not None and claimed.job.fence == end.job.fence:
                del held[end.job.id]
            completion = end.completion
            if completion is not None:  # the run may have ended the job within its own transaction
                if completion.is_counted:
                    continue
                is_repeat = result is Applied.ALREADY and end.transition.to is State.SUCCEEDED
                is_late = result is Applied.REFUSED and completion.is_stored
                if is_repeat or is_late or result is Applied.MISSING:
                    completion.is_counted = True
                    accepted.append(completed_end(end.job, completion))
                    continue
            if result in _IN_STORAGE:  # if the task had its own transaction, this was rolled back
                accepted.append(end)
                if end.log_failure is not None:
                    end.log_failure()
            elif completion is not None:
                self._uncertain.append(end)  # if the transaction committed, only a success is accepted
            else:
                log.info(_REFUSED, end.job.id)
        self._count(accepted)
        releasing = []
        if Applied.RELEASE_NEEDED in results:
            releasing = [
                end for end, result in zip(ended, results, strict=False) if result is Applied.RELEASE_NEEDED
            ]
        return self._notify_batches(releasing + _freeing(accepted), batches)

    def completed(self, ends: list[EndedRun], batches: BatchReleases) -> bool:
        """Count jobs that ended in their tasks' own transactions; return the same as `answered`."""
        for end in ends:
            if end.completion is not None:
                end.completion.is_counted = end.completion.is_stored = True
        self._count(ends)
        return self._notify_batches(_freeing(ends), batches)

    def check_uncertain(self, batches: BatchReleases) -> bool:
        """Check refused outcomes, and count those whose jobs had ended before; return as `answered` does.

        The outcomes are kept until the storage is available.
        """
        if not self._uncertain:
            return False
        uncertain = [
            end for end in self._uncertain if end.completion is not None and not end.completion.is_counted
        ]
        try:
            records = self._runtime.storage.get([end.job.id for end in uncertain]) if uncertain else []
        except StorageUnavailable:
            raise
        except StorageError:
            log.exception("Cannot read whether jobs ended within their own transactions; not counting them.")
            records, uncertain = [], []
        self._uncertain.clear()
        completed = []
        for end, record in zip(uncertain, records, strict=True):
            if end.completion is None or not has_succeeded(end.job, record):
                log.info(_REFUSED, end.job.id)
                continue
            log.info(
                "Job %s had already succeeded within its own transaction; ignoring its outcome here (%s).",
                end.job.id, end.transition.to,
                extra={"job_id": end.job.id},
            )  # fmt: skip
            completed.append(completed_end(end.job, end.completion))
        return self.completed(completed, batches) if completed else False

    def _count(self, accepted: Sequence[EndedRun]) -> None:
        """Count the stored outcomes, and report them to plugins."""
        self._upkeep.ended += len(accepted)
        self._upkeep.metrics.add(
            (end.job, outcome, end.transition.at, end.duration)
            for end in accepted
            if (outcome := _outcome(end.transition)) is not None
        )
        observers = self._context.observers
        if accepted and observers.is_used:
            observers.report([Settled(end.job, end.transition, end.duration) for end in accepted])

    @staticmethod
    def _notify_batches(releasing: Sequence[EndedRun], batches: BatchReleases) -> bool:
        """Report the batches of these jobs to `batches`; return whether continuations must be released."""
        if not releasing:
            return False
        texts = {end.job.relations_json for end in releasing}
        found = {None if text is None else read_relations(text).batch_id for text in texts}
        batches.record_ends(
            {id for id in found if id is not None},
            have_failed=any(end.transition.to is not State.SUCCEEDED for end in releasing),
        )
        return None in found


def _freeing(accepted: Iterable[EndedRun]) -> list[EndedRun]:
    """Return the jobs that ended in their tasks' own transactions and for which other jobs wait."""
    return [
        end
        for end in accepted
        if (completion := end.completion) is not None and completion.is_counted and completion.frees_children
    ]


def _notify_stopped(sent: Sequence[EndedRun], results: Sequence[Applied], batches: BatchReleases) -> None:
    """Report the batches of jobs whose outcome was refused to `batches`.

    Most likely, such a job was deleted after this server had claimed it. Its batch may have waited until the
    job stopped, which has now happened: see `Storage.apply`.
    """
    refused = zip(sent, results, strict=False)
    texts = {one.job.relations_json for one, result in refused if result is Applied.REFUSED}
    found = {read_relations(text).batch_id for text in texts if text is not None}
    batches.record_ends({id for id in found if id is not None}, have_failed=True)


def _outcome(transition: Transition) -> str | None:
    """Return the name under which a transition is counted; None if it does not end an attempt."""
    to = transition.to
    if to is State.SUCCEEDED:
        return "succeeded"
    if transition.crashes is not None:
        return "crashed"
    if to is State.SCHEDULED or to is State.ENQUEUED or to is State.AWAITING:
        return None if transition.retries is None else "retried"
    return str(to)
