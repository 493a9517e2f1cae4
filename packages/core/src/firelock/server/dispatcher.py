"""The loop of a child: settle what ended, claim what there is room for, in one exchange; then wait.

Everything that is sent to the storage about jobs is sent from this one thread, so a reconciliation never
races a claim of its own.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock import lifecycle
from firelock.errors import StorageError, StorageUnavailable
from firelock.failure import describe_failure
from firelock.server.attempt import CancelKind, Ended, Run
from firelock.server.workers import FLUSH_SIZE, FULL_PAUSE, AsyncWorkers, Desk, ThreadWorkers, Ticket
from firelock.storage import Applied, Claim, Exchange, Held
from firelock.values import ClaimedJob, Holder, Settled, State, Transition

if TYPE_CHECKING:
    from firelock.queue_choice import QueueChoice
    from firelock.runtime import Runtime
    from firelock.server.upkeep import Metrics

__all__ = [
    "ClaimAhead",
    "Dispatcher",
    "Settler",
]

log = logging.getLogger(__name__)

_FLUSH_WAIT = 0.010  # an end waits at most this long for company
_LONG_RUN = 1.0  # seconds from which a run is worth a reconciliation a second, so that a delete reaches it
_FIRST_PAUSE, _SECOND_PAUSE, _LONGEST_PAUSE = 0.01, 0.1, 5.0  # a lost connection is soon made anew
_IDLE_HEARTBEATS = 3


class Dispatcher:
    """Owns what the child holds: claimed, running, ended and not yet settled."""

    def __init__(
        self,
        runtime: Runtime,
        desk: Desk,
        *,
        threads: ThreadWorkers,
        coroutines: AsyncWorkers,
        queues: QueueChoice,
        metrics: Metrics,
    ) -> None:
        self._runtime = runtime
        self._storage = runtime.storage
        self._clock = runtime.clock
        self._desk = desk
        self._threads = threads
        self._coroutines = coroutines
        self._queues = queues
        self._settler = Settler(runtime, desk, metrics)
        self._ahead = ClaimAhead(runtime.settings.claim_ahead)
        on_loop = [info.is_async and not desk.runs_apart(info) for info in runtime.tasks.runnable()]
        self._has_async, self._has_sync = any(on_loop), not all(on_loop)
        self._async_window = runtime.settings.async_workers if not self._has_sync else 1
        self._holder: Holder | None = None  # None: claim nothing
        self._flag = threading.Event()
        self._dry = threading.Event()  # the last claim got less than it asked for
        self._is_idle = False
        self._has_work = False
        self._orders: deque[Callable[[], None]] = deque()
        self._reconciled_at = time.monotonic()
        self._pause = _FIRST_PAUSE
        self._is_claiming = True
        self._is_over = False
        self._is_unreachable = False
        self.on_next_due: Callable[[int | None], None] = lambda _: None
        self.on_session_lost: Callable[[str], None] = lambda _: None
        self.on_contact: Callable[[bool], None] = lambda _: None
        self._thread = threading.Thread(target=self._run, name="firelock-dispatcher", daemon=True)

    # ---- called from other threads -----------------------------------------------------------------------

    def start(self, holder: Holder) -> None:
        """Jobs are claimed for this session from now on."""
        self._holder = holder
        self._thread.start()

    def wake(self) -> None:
        """An executor has something to settle, or nothing to do."""
        if not self._flag.is_set():
            self._flag.set()

    def work_came(self) -> None:
        """The storage said that there is work; a loop that is busy finds it by itself."""
        self._dry.clear()
        self._has_work = True
        if self._is_idle:
            self._flag.set()

    def wait_until_dry(self, timeout: float) -> None:
        """Return when a claim has got less than it asked for since work came, or after the timeout."""
        self._dry.wait(timeout)

    @property
    def is_idle(self) -> bool:
        """Tell whether the loop waits for work."""
        return self._is_idle

    def order(self, what: Callable[[], None]) -> None:
        """The loop does this next, between two exchanges."""
        self._orders.append(what)
        self._flag.set()

    def quiet(self, *, is_quiet: bool) -> None:
        """No job is claimed, those not started are handed back; or jobs are claimed again."""

        def change() -> None:
            self._is_claiming = not is_quiet
            if is_quiet:
                waiting = [*self._threads.take_back(), *self._coroutines.take_back()]
                self._hand_back(waiting, "server stopping")

        self.order(change)

    def adopt(self, holder: Holder) -> None:
        """The former session is lost: what it held is dropped, what runs is cancelled; this one claims on."""

        def change() -> None:
            self._threads.take_back()
            self._coroutines.take_back()
            self._settler.drop_all()
            for run in self.runs():
                run.cancel(CancelKind.LOST, "the session of this server was lost")
            self._desk.board.adopt_session()  # last: workers that wait for their right find their job void
            self._holder = holder

        self.order(change)

    def runs(self) -> list[Run]:
        """Return what is running now."""
        return [*list(self._threads.running.values()), *list(self._coroutines.running.values())]

    def abandon(self, reason: str) -> None:
        """What has not ended is handed back, whatever it does later; its end will be refused."""

        def change() -> None:
            self._settler.collect()
            tickets = self._settler.unended_tickets()
            running = self._dropped(tickets)
            for ticket in tickets:
                run = running.get(ticket.job.id)
                if run is not None and run.started:
                    self._settler.owe(self._desk.runner.hand_back(run, reason))
                else:
                    self._hand_back([ticket], "server stopping")

        self.order(change)

    def _dropped(self, tickets: Iterable[Ticket]) -> dict[str, Run]:
        """No worker starts one of these any more; return what runs, theirs among it if they have started.

        In this order: a worker looks at its ticket once more when its run can be seen here.
        """
        for ticket in tickets:
            ticket.is_dropped = True
        return {run.job.id: run for run in self.runs()}

    @property
    def is_quiet(self) -> bool:
        """Tell whether no job is claimed, and no claim is under way that would still bring some."""
        return not self._is_claiming

    @property
    def is_drained(self) -> bool:
        """Tell whether nothing runs here or waits to run; ends may still wait to be settled."""
        return not self.runs() and self._settler.unended <= 0

    @property
    def holds_nothing(self) -> bool:
        """Tell whether everything claimed has been settled."""
        return self._settler.holds_nothing

    @property
    def settled(self) -> int:
        """How many ends the storage has accepted."""
        return self._settler.settled

    @property
    def refused(self) -> int:
        """How many late ends the storage has refused."""
        return self._settler.refused

    def stop(self, timeout: float) -> bool:
        """The loop has ended; False if it did not in time."""
        self._is_over = True
        self._flag.set()
        self._dry.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # ---- the loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._turn()
            except StorageUnavailable as error:
                self._wait_for_storage(error)
            except Exception:
                log.exception("The dispatcher met an error that it does not know; it goes on.")
                self._reconciled_at = 0.0  # it may have cost the reply to a claim
                self._rest(self._pause)

    def _wait_for_storage(self, error: StorageUnavailable) -> None:
        if not self._is_unreachable:
            self._is_unreachable = True
            log.warning("Storage unavailable, keeping what has ended and trying again: %s", error)
        self.on_contact(False)
        self._reconciled_at = 0.0  # the reply to a claim may have been lost: compare as soon as it answers
        self._rest(random.uniform(0, self._pause))  # noqa: S311 - jitter

    def _rest(self, seconds: float) -> None:
        """Wait after an error, each time in a row longer."""
        self._flag.clear()
        self._flag.wait(seconds)
        self._pause = min(_LONGEST_PAUSE, max(_SECOND_PAUSE, self._pause * 2))

    def _turn(self) -> None:
        self._flag.clear()
        while self._orders:
            self._orders.popleft()()
        self._has_work = False
        self._settler.collect()
        self._watch_waits()
        if self._is_time_to_reconcile():
            self._reconcile()
        limit = self._limit()
        reply = self._send(limit)
        if self._is_unreachable:
            self._is_unreachable = False
            log.info("Storage is back.")
            self.on_contact(True)
        self._pause = _FIRST_PAUSE
        took = self._take(reply, limit, was_dry=self._threads.has_idle)
        self._wait(is_more_likely=took > 0 and took >= limit)

    def _limit(self) -> int:
        """Return how many jobs there is room for."""
        if self._holder is None or not self._is_claiming or not self._desk.board.may_start():
            return 0
        if self._has_async and self._coroutines.is_full:
            return 0  # a claim cannot choose, and would bring more of them
        threads = self._threads
        room = 0
        if self._has_sync or not self._has_async:
            room = threads.count + self._ahead.ahead - len(threads.running) - threads.waiting
        if self._has_async:
            free = self._coroutines.limit - self._async_held()
            room = max(room, 0) + max(0, min(free, self._async_window))
        return max(0, min(room, 500))

    def _async_held(self) -> int:
        settler = self._settler
        held = len(settler.held) - settler.unsettled - len(self._threads.running) - self._threads.waiting
        return max(len(self._coroutines.running), held)

    def _send(self, limit: int) -> Exchange:
        transitions = self._settler.transitions()
        holder = self._holder
        if limit and holder is not None:
            now, order = self._clock.now(), self._queues.order()
            if transitions:
                return self._settler.exchange(transitions, order, limit, holder.session, now)
            return Exchange([], self._storage.claim(order, limit, holder.session, now))
        return Exchange(self._settler.apply(transitions) if transitions else [], Claim([]))

    # ---- what came back ----------------------------------------------------------------------------------

    def _take(self, reply: Exchange, limit: int, *, was_dry: bool) -> int:
        is_releasing = self._settler.answered(reply.results)
        if is_releasing or self._settler.owes_claim:
            self._has_work, self._settler.owes_claim = True, False
        took = self._take_claim(reply.claim, limit, was_dry=was_dry)
        if is_releasing:  # last: whatever this meets, what was claimed is at work
            self._settler.release()
        return took

    def _take_claim(self, claim: Claim, limit: int, *, was_dry: bool) -> int:
        if claim.is_session_lost and self._holder is not None:
            lost, self._holder = self._holder, None
            self.on_session_lost(lost.session)
            return 0
        if limit:
            self.on_next_due(claim.next_due_at)
            if len(claim.jobs) < limit:
                self._dry.set()
        if claim.jobs and self._holder is not None:
            if was_dry and len(claim.jobs) >= limit:
                self._ahead.ran_dry()
            self._give_out([Ticket(job, self._holder) for job in claim.jobs])
        return len(claim.jobs)

    def _give_out(self, tickets: list[Ticket]) -> None:
        self._settler.held.update((ticket.job.id, ticket) for ticket in tickets)
        if not self._has_async:
            self._threads.put(tickets)
            return
        coroutines = [ticket for ticket in tickets if self._is_async(ticket)]
        others = tickets if not coroutines else [ticket for ticket in tickets if not self._is_async(ticket)]
        if others:
            self._threads.put(others)
        if coroutines:
            self._coroutines.put(coroutines)
        if self._has_sync:
            window = self._async_window
            grown = window * 2 if len(coroutines) * 2 > window else window // 2
            self._async_window = max(1, min(self._coroutines.limit, grown))

    def _is_async(self, ticket: Ticket) -> bool:
        info = self._runtime.tasks.get(ticket.job.task)
        return info is not None and info.is_async and not self._desk.runs_apart(info, ticket.job.crashes)

    # ---- fairness ----------------------------------------------------------------------------------------

    def _watch_waits(self) -> None:
        wait = self._threads.oldest_wait()
        if wait and self._ahead.observe(wait):
            self._hand_back(self._threads.take_back(), "waited too long behind others")
        if late := self._coroutines.take_back_late():
            self._hand_back(late, "waited too long behind others")

    def _hand_back(self, tickets: list[Ticket], reason: str) -> None:
        at = self._clock.now()
        for ticket in tickets:
            if self._settler.held.pop(ticket.job.id, None) is not None:
                self._settler.hand_back(ticket.job, ticket.holder, at, reason)

    # ---- reconciling -------------------------------------------------------------------------------------

    def _is_time_to_reconcile(self) -> bool:
        now = time.monotonic()
        since = now - self._reconciled_at
        if since < 1.0 or self._holder is None:
            return False
        # Also who holds nothing asks, only more seldom: a storage that failed over may have forgotten an end.
        if since >= self._runtime.settings.heartbeat * (1 if self._settler.held else _IDLE_HEARTBEATS):
            return True
        return self._reconciled_at == 0.0 or any(
            run.started and now - run.started > _LONG_RUN for run in self.runs()
        )

    def _reconcile(self) -> None:
        """Compare what we hold with what the storage says: stop what is lost, return what is unknown."""
        holder = self._holder
        if holder is None:
            return
        beliefs = self._settler.beliefs(self.runs())
        reply = self._storage.reconcile(holder.session, beliefs)
        self._reconciled_at = time.monotonic()
        self._settler.told(beliefs)
        if reply.is_session_lost:
            self._holder = None
            self.on_session_lost(holder.session)
            return
        at = self._clock.now()
        lost = [self._settler.held.pop(one.job_id) for one in reply.lost]
        running = self._dropped(lost)
        for ticket in lost:
            if (run := running.get(ticket.job.id)) is not None:
                run.cancel(CancelKind.LOST, "deleted, or taken from this server")
            else:  # an end that is refused tells the storage that nobody here runs it
                self._settler.hand_back(ticket.job, ticket.holder, at, "lost before it started")
        for job in reply.unknown:
            run = running.get(job.id)
            if run is None or run.job.fence != job.fence:
                self._settler.hand_back(job, holder, at, "claim whose reply was lost")

    # ---- waiting -----------------------------------------------------------------------------------------

    def _wait(self, *, is_more_likely: bool) -> None:
        if self._is_over or self._orders or self._settler.has_hand_backs:
            return
        ended = self._desk.ended
        if len(ended) >= FLUSH_SIZE or (ended and not self._threads.waiting):
            return
        if is_more_likely and self._limit() > 0:
            return
        if ended:
            self._flag.wait(_FLUSH_WAIT)
            return
        self._is_idle = True
        if not self._has_work and not self._desk.ended:
            self._flag.wait(self._idle_time())
        self._is_idle = False

    def _idle_time(self) -> float:
        """Return how long to wait at most: the poll, or a moment while jobs wait here behind long ones."""
        if self._threads.waiting or self._coroutines.waiting:
            return _FLUSH_WAIT
        poll = self._runtime.settings.poll
        return min(poll, FULL_PAUSE) if self._coroutines.is_full else poll


_SHOWN_AS_STARTED = 1.0  # seconds from which `started_at` is written while the job still runs
_IN_STORAGE = frozenset(result for result in Applied if result.is_applied)


class Settler:
    """Sends ends until the storage has answered for each; it may answer that the job is no longer ours."""

    def __init__(self, runtime: Runtime, desk: Desk, metrics: Metrics) -> None:
        self._client = runtime.client
        self._storage = runtime.storage
        self._plugins = runtime.plugins
        self._retention = runtime.settings.retention
        self._desk = desk
        self._metrics = metrics
        self._unsent: list[Ended] = []
        self._back: list[Transition] = []
        self.held: dict[str, Ticket] = {}
        self.refused = 0  # late ends that the storage refused
        self.settled = 0
        self.owes_claim = False  # an exchange was refused, and its claim has not been made

    # ---- what is owed ------------------------------------------------------------------------------------

    def collect(self) -> None:
        """What executors have ended is owed now."""
        ended = self._desk.ended
        while ended:
            self._unsent.append(ended.popleft())

    def owe(self, ended: Ended) -> None:
        """An end that no executor gave is owed."""
        self._unsent.append(ended)

    def hand_back(self, job: ClaimedJob, holder: Holder, at: int, reason: str) -> None:
        """A job that never started goes back to its place in the queue with the next exchange."""
        self._back.append(lifecycle.handed_back(job, holder, at=at, started_at=None, reason=reason))

    def drop_all(self) -> None:
        """The session is lost: nothing is held any more, and nobody waits for what would be handed back."""
        for ticket in self.held.values():
            ticket.is_dropped = True
        self.held.clear()
        self._back.clear()

    @property
    def unsettled(self) -> int:
        """How many ends wait to be sent or answered."""
        return len(self._unsent)

    @property
    def unended(self) -> int:
        """How many of the jobs held have not ended."""
        return len(self.held) - len(self._unsent) - len(self._desk.ended)

    def unended_tickets(self) -> list[Ticket]:
        """Return the jobs held that have not ended, of what was collected."""
        ended = {(end.job.id, end.job.fence) for end in self._unsent}
        return [ticket for ticket in self.held.values() if (ticket.job.id, ticket.job.fence) not in ended]

    def beliefs(self, runs: Sequence[Run]) -> list[Held]:
        """Return what is held, to be compared; with its start where it has run for long and was not told."""
        long_ago = time.monotonic() - _SHOWN_AS_STARTED
        starts = {run.job.id: run.started_at for run in runs if run.started and run.started < long_ago}
        return [
            Held(job_id, ticket.job.fence, None if ticket.is_start_told else starts.get(job_id))
            for job_id, ticket in self.held.items()
        ]

    def told(self, beliefs: Sequence[Held]) -> None:
        """The storage knows the starts among these: each is written once."""
        for one in beliefs:
            ticket = self.held.get(one.job_id)
            if ticket is not None and one.started_at is not None and ticket.job.fence == one.fence:
                ticket.is_start_told = True

    @property
    def has_hand_backs(self) -> bool:
        """Tell whether jobs wait to be handed back."""
        return bool(self._back)

    @property
    def holds_nothing(self) -> bool:
        """Tell whether everything claimed has been settled."""
        return not self.held and not self._unsent and not self._desk.ended and not self._back

    def transitions(self) -> list[Transition]:
        """Return what is owed, ends first, after what the jobs said is written."""
        transitions = [ended.transition for ended in self._unsent] + self._back
        if transitions:
            self._desk.console.flush(self._storage)
        return transitions

    # ---- sending -----------------------------------------------------------------------------------------

    def exchange(
        self, transitions: list[Transition], order: Sequence[str] | None, limit: int, session: str, now: int
    ) -> Exchange:
        """Settle and claim in one; where that is refused, settle alone, so that a bad claim loses no end."""
        try:
            return self._storage.exchange(transitions, order, limit, session, now)
        except StorageUnavailable:
            raise
        except StorageError:
            log.exception("An exchange was refused; settling first, claiming in the next turn.")
            self.owes_claim = True
            return Exchange(self.apply(transitions), Claim([]))

    def apply(self, transitions: list[Transition]) -> list[Applied]:
        """Settle; where a batch is refused, one by one, so that one bad end hinders no other."""
        try:
            return self._storage.apply(transitions)
        except StorageUnavailable:
            raise
        except StorageError as error:
            if len(transitions) > 1:
                return [result for transition in transitions for result in self.apply([transition])]
            return self._apply_poisoned(transitions[0], error)

    def _apply_poisoned(self, transition: Transition, error: StorageError) -> list[Applied]:
        """Settle a job whose end the storage refuses to write: as failed, with the storage's words."""
        log.error("The end of job %s cannot be stored: %s", transition.job_id, error)
        if transition.session is None or transition.fence is None:
            return [Applied.REFUSED]
        info = attrs.evolve(describe_failure(error), traceback=None)
        bare = attrs.evolve(
            transition, to=State.FAILED, reason=f"its end could not be stored: {info.message}", error=info,
            gives_back=False, retries=None, due_at=None, result=None, result_absent=None, is_silent=False,
            expires_at=self._retention.until(State.FAILED, transition.at),
        )  # fmt: skip
        try:
            return self._storage.apply([bare])
        except StorageUnavailable:
            raise
        except StorageError:
            log.exception("Nothing can be stored about job %s; its end is given up.", transition.job_id)
            return [Applied.REFUSED]

    # ---- what came of it ---------------------------------------------------------------------------------

    def answered(self, results: Sequence[Applied]) -> bool:
        """Nothing that was answered is owed any more; return whether continuations are to be released."""
        ended, self._unsent = self._unsent, []
        self._back.clear()
        if not ended:
            return False
        held = self.held
        accepted: list[Ended] = []
        for end, result in zip(ended, results, strict=False):  # hand-backs are answered behind the ends
            ticket = held.get(end.job.id)
            if ticket is not None and ticket.job.fence == end.job.fence:
                del held[end.job.id]
            if result in _IN_STORAGE:
                accepted.append(end)
                if end.tell is not None:
                    end.tell()
            else:
                self.refused += 1
                log.info("The end of job %s was refused: it is no longer ours.", end.job.id)
        self.settled += len(accepted)
        self._metrics.add(
            (end.job, outcome, end.transition.at, end.duration)
            for end in accepted
            if (outcome := _outcome(end.transition)) is not None
        )
        if accepted and self._plugins.has_jobs_settled:
            self._plugins.jobs_settled([Settled(end.job, end.transition, end.duration) for end in accepted])
        return Applied.RELEASING in results or any(end.frees_children for end in accepted)

    def release(self) -> None:
        """Continuations that the last ends set free are moved; upkeep does what is left."""
        self._client.release_children()


def _outcome(transition: Transition) -> str | None:
    """Return under which word an end is counted; None for one that is no end, such as a hand-back."""
    to = transition.to
    if to is State.SUCCEEDED:
        return "succeeded"
    if transition.crashes is not None:
        return "crashed"
    if to is State.SCHEDULED or to is State.ENQUEUED:
        return None if transition.retries is None else "retried"
    return str(to)


_LONG_WAIT, _TOO_LONG_WAIT = 0.020, 0.050  # seconds


@attrs.define
class ClaimAhead:
    """The number of jobs that may wait here without a free worker; 0 at first."""

    limit: int  # the most it may be
    _ahead: float = 0.0

    @property
    def ahead(self) -> int:
        """Return how many jobs to hold beyond the workers."""
        return int(self._ahead)

    def ran_dry(self) -> None:
        """Workers had nothing to do while a claim that found jobs was under way: hold more."""
        self._ahead = min(self.limit, self._ahead * 1.05 + 1)

    def observe(self, oldest_wait: float) -> bool:
        """Note the oldest wait here, in seconds; return True if all that wait should be handed back."""
        if oldest_wait > _TOO_LONG_WAIT:
            self._ahead /= 2
            return True
        if oldest_wait > _LONG_WAIT:
            self._ahead *= 0.9
        return False
