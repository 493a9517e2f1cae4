"""Upkeep of a worker process: due jobs, lost servers, retention, timeouts, logs and statistics.

Every routine except retention can run in every process at the same time, because the storage makes each
change only once. A routine delays only the routines in its own thread.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import attrs

from firelock.control.catalogue import publish_tasks
from firelock.errors import StorageError, StorageUnavailable
from firelock.model.clock import SECOND, StorageClockCheck, StorageWatch
from firelock.model.job import ClaimedJob
from firelock.model.text import number_of
from firelock.options import OnRisk
from firelock.server.process_state import has_descriptors, resident_bytes
from firelock.server.recurring import fire_due
from firelock.server.retention import Retention
from firelock.server.run import CancelKind, Run
from firelock.server.workers import WorkerContext, Workers, have_ended
from firelock.storage import DURATION_BUCKETS, Rollup, Storage, Taken, server_work

if TYPE_CHECKING:
    from firelock.plugins.hookspecs import ServerInfo
    from firelock.runtime import Runtime

log = logging.getLogger(__name__)

_BATCH = 1_000
_FIRED_AT_ONCE = 10  # maximum number of recurring jobs, with one commit each, that delay other due jobs
_SELDOM = 3  # sweeps per check for rare conditions
_IDLE_RETENTION = 6  # sweeps per check for expired jobs if none expire
_LONGEST_DISTRUST = 3  # maximum wait in session timeouts, even if the clock keeps jumping
_RENEWED_WITHIN = 1.0  # seconds; live servers check clocks twice as often and renew after a jump
_RELEASE_AGAIN = 1.0  # seconds after a release by the dispatcher, which may have skipped locked rows
_RELEASES = 20  # maximum number of calls after sessions were lost; the release routine does the rest
_SPARE_DESCRIPTORS = 16  # enough for a connection to the storage and the pipes of a job process
_IGNORED = 2.0  # a job that still runs this many seconds after its timeout is reported
_LEAST_GRACE = 1.0  # minimum number of seconds within which a cancelled job must end
_COMPLETED = 0.1  # seconds after which a run that has ended its job in its own transaction is checked
_REPORT, _CONSOLE, _METRICS, _WATCH = 1.0, 0.5, 2.0, 0.1
_CATALOGUE = 12 * 3_600.0  # seconds between two updates, and before the first update, which is not urgent
_CATALOGUE_AGAIN = 60.0
_FIRST_DELAY = 0.01
_LATER = (0.020, 0.080)  # seconds for which all servers but one wait after a due time before they check


_MINUTE = 60 * SECOND
_BUCKETS = tuple(int(bound * SECOND) for bound in DURATION_BUCKETS)


def _no_sums() -> defaultdict[tuple[int, str, str, str], list[int]]:
    return defaultdict(lambda: [0] * (len(_BUCKETS) + 3))  # count, total duration, histogram


def _describe_returned(taken: Taken) -> str:
    """Return what happened to the jobs of a dead session, as the last part of a sentence."""
    kinds = [(len(taken.crashed), "running"), (len(taken.returned), "waiting")]
    back = " and ".join(number_of(number, f"{kind} job") for number, kind in kinds if number)
    parts = [f"back in the queues: {back}"] if back else []
    if taken.left:
        parts.append(f"locked by other transactions, to follow: {taken.left}")
    return "; ".join(parts) or "it held no jobs"


@attrs.define(eq=False)
class MinuteRollups:
    """Counts, durations and histograms by minute, task, queue and outcome.

    These are only statistics: if a worker process is killed, the counts that it has not yet written are lost.
    """

    _lock: threading.Lock = attrs.Factory(threading.Lock)
    _sums: dict[tuple[int, str, str, str], list[int]] = attrs.Factory(_no_sums)

    def add(self, ends: Iterable[tuple[ClaimedJob, str, int, int]]) -> None:
        """Count ended attempts; each is a job, its outcome, and its time and duration in microseconds."""
        with self._lock:
            for job, outcome, at, duration in ends:
                sums = self._sums[at // _MINUTE, job.task, job.queue, outcome]
                sums[0] += 1
                sums[1] += duration
                sums[2 + bisect_left(_BUCKETS, duration)] += 1

    def flush(self, storage: Storage) -> None:
        """Write the counts to the storage; if this fails, keep them and raise the error."""
        with self._lock:
            sums, self._sums = self._sums, _no_sums()
        if not sums:
            return
        rollups = [
            Rollup(
                minute=minute * _MINUTE,
                task=task,
                queue=queue,
                outcome=outcome,
                count=count,
                duration=duration,
                histogram=tuple(histogram),
            )
            for (minute, task, queue, outcome), (count, duration, *histogram) in sums.items()
        ]
        try:
            storage.record_metrics(rollups)
        except BaseException:
            with self._lock:
                for key, older in sums.items():
                    self._sums[key] = [a + b for a, b in zip(older, self._sums[key], strict=True)]
            raise


@attrs.define(eq=False)
class _Routine:
    """An upkeep function and its interval."""

    name: str
    every: float
    run: Callable[[], float | None]  # returns the seconds until its next run; None means `every`, with jitter
    at: float = 0.0  # monotonic


@attrs.define(eq=False, slots=False)
class _RoutineThread:
    """A thread that runs each of its routines when it is due, and continues if a routine fails."""

    name: str
    routines: Sequence[_Routine]
    _on_outage: Callable[[], None]  # called if the storage was unreachable
    _has_own_connection: bool = False
    _condition: threading.Condition = attrs.Factory(threading.Condition)
    is_over: bool = False

    def __attrs_post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def advance(self, routine: _Routine, at: float) -> None:
        """Run the routine at this monotonic time, unless it is due earlier."""
        with self._condition:
            if at < routine.at:
                routine.at = at
                self._condition.notify()

    def end(self) -> None:
        """Start no more routines; a running routine can check `is_over`."""
        with self._condition:
            self.is_over = True
            self._condition.notify()

    def _run(self) -> None:
        while (routine := self._next()) is not None:
            again = None
            try:
                with server_work(has_own_connection=self._has_own_connection):
                    again = routine.run()
            except StorageUnavailable as error:
                self._on_outage()
                if error.longest_pause > StorageUnavailable.longest_pause:  # each attempt uses disk space
                    routine.at = max(routine.at, time.monotonic() + error.longest_pause)
                log.debug("Upkeep routine %s: storage unavailable: %s", routine.name, error)
            except Exception:
                log.exception("Unexpected error in upkeep routine %s; retrying.", routine.name)
            if again is not None:
                self.advance(routine, time.monotonic() + again)

    def _next(self) -> _Routine | None:
        """Wait until a routine is due and return it; None after the thread was ended."""
        with self._condition:
            while not self.is_over:
                now = time.monotonic()
                routine = min(self.routines, key=lambda routine: routine.at)
                if routine.at <= now:
                    jitter = random.uniform(0.8, 1.2)  # noqa: S311 - servers drift apart
                    routine.at = now + routine.every * jitter
                    return routine
                self._condition.wait(routine.at - now)
        return None


@attrs.define(eq=False, slots=False)
class Upkeep:
    """The upkeep routines of one worker process, in five threads: see docs/decisions/0092."""

    _runtime: Runtime
    _server: ServerInfo
    _context: WorkerContext
    _workers: Workers
    _on_worn: Callable[[str], None] | None = (
        None  # called once, with the reason, when the worker process must be replaced
    )
    ended: int = 0  # number of jobs that have ended in this worker process
    metrics: MinuteRollups = attrs.Factory(MinuteRollups)
    _is_worn: bool = False  # whether `_on_worn` was called
    _is_first: bool = True  # whether this server has the oldest session: it handles due jobs without delay
    _trusts_clock_from: float = 0.0  # monotonic time before which no session is declared dead
    _trusting: threading.Lock = attrs.Factory(threading.Lock)
    _jumped_at: float | None = None  # monotonic time of the jump since which no session is declared dead
    _had_right: bool = True
    _release_pause: float = float("inf")  # seconds; grows until the routine's own interval is shorter
    _promote_delay: float = _FIRST_DELAY  # seconds; grows as long as due jobs are not moved

    def __attrs_post_init__(self) -> None:
        storage, sweep = self._runtime.storage, self._runtime.settings.sweep
        self._awake = self._runtime.clock.host.awake
        self._clock_watch = StorageWatch(self._runtime.clock)
        # Every claim returns the next due time, and `release` is called whenever a parent ends. These
        # routines are only a safety net for both. They run rarely, so that an idle server makes fewer than
        # two storage calls per second.
        self._due = _Routine("due", _SELDOM * sweep, self._promote_and_fire)
        self._sweeps = _Routine("sweep", sweep, self._sweep)
        self._releases = _Routine("release", _SELDOM * sweep, self._release)
        self._catalogue = _Routine("catalogue", _CATALOGUE, self._store_tasks)
        self._flushes = [
            _Routine("console", _CONSOLE, lambda: self._context.console.flush(storage)),
            _Routine("metrics", _METRICS, lambda: self.metrics.flush(storage)),
        ]
        self._retention = Retention(
            storage, seldom=_IDLE_RETENTION * sweep, lease_seconds=self._runtime.settings.session_timeout,
            ended=lambda: self.ended, is_over=lambda: retention.is_over,
        )  # fmt: skip
        removes = _Routine("retention", _IDLE_RETENTION * sweep, self._retention.run_slice)
        near = [_Routine("report", _REPORT, self._report), _Routine("watch", _WATCH, self._watch)]

        def distrust() -> None:
            self.contact(is_available=False)

        def ignore() -> None:
            """Do nothing.

            Only the routines that find lost servers decide whether the storage is reachable.
            """

        self._promotes = _RoutineThread("firelock-due", [self._due], distrust, has_own_connection=True)
        self._upkeep = _RoutineThread(
            "firelock-upkeep", [self._sweeps, self._releases, self._catalogue], distrust
        )
        retention = _RoutineThread("firelock-retention", [removes], ignore)
        self._threads = [
            self._promotes,
            self._upkeep,
            retention,
            _RoutineThread("firelock-flush", self._flushes, ignore),
            _RoutineThread("firelock-watch", near, ignore),
        ]

    def start(self) -> None:
        """Start the routines.

        This process cannot notice that the clock was set shortly before it started. Therefore, no session is
        declared dead during the first heartbeat, in which every live server renews its session.
        """
        self._trusts_clock_from = self._awake() + self._runtime.settings.heartbeat
        self._report()
        for one in self._threads:
            one.thread.start()

    def stop(self, timeout: float) -> None:
        """End all threads; write the remaining logs and counts if the storage is available."""
        for one in self._threads:
            one.end()
        have_ended([one.thread for one in self._threads], timeout)
        with server_work():
            for flush in self._flushes:
                try:
                    flush.run()
                except StorageError as error:
                    log.warning("The last logs or statistics were not written: %s", error)
            self._retention.hand_over()

    def contact(self, *, is_available: bool) -> None:
        """Record whether the storage is reachable.

        After an outage, no session is declared dead until all servers have had a full session timeout to
        renew their sessions.
        """
        with self._trusting:
            if not is_available:
                self._trusts_clock_from = float("inf")
            elif self._trusts_clock_from == float("inf"):
                self._trusts_clock_from = self._awake() + self._runtime.settings.session_timeout

    # ---- due jobs ----------------------------------------------------------------------------------------

    def next_due(self, due_at: int | None) -> None:
        """Run the routine at the due time that the storage has reported, instead of at the next sweep."""
        if due_at is None:
            return
        seconds = max(0.0, (due_at - self._runtime.clock.now()) / SECOND)
        if not self._is_first:
            seconds += random.uniform(*_LATER)  # noqa: S311 - jitter
        self._promotes.advance(self._due, time.monotonic() + seconds)

    def _promote_and_fire(self) -> None:
        fired, refusal = 0, None
        try:
            fired = fire_due(self._runtime.client, limit=_FIRED_AT_ONCE)
        except Exception as error:  # noqa: BLE001 - raised after due jobs have been enqueued
            refusal = error
        if fired:
            self._context.inbox.note_reported_work()
        promotion = self._runtime.storage.promote(_BATCH)
        if promotion.promoted:
            self._context.inbox.note_reported_work()
        next_due_at, now = promotion.next_due_at, self._runtime.clock.now()
        if next_due_at is None or next_due_at > now or fired or promotion.promoted:
            self._promote_delay = _FIRST_DELAY
            self.next_due(next_due_at)  # if more jobs are due, the routine continues immediately
        else:  # jobs are due by the local clock but not by the storage's, or a definition cannot be fired
            self.next_due(now + int(self._promote_delay * SECOND))
            self._promote_delay = min(self._promote_delay * 2, self._due.every)
        if refusal is not None:
            raise refusal

    # ---- the sweep ---------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        # Check first, so that `as_of` was read before any later change of the clock.
        check = self._clock_watch.check()
        if check.jumped:
            self._distrust(check)
        first = self._runtime.storage.oldest_session()
        self._is_first = first is None or first.session.server_id == self._server.id
        # This server checks others only after the renewal of its own session.
        self.contact(is_available=self._context.memory.may_start())
        if check.jumped or self._awake() < self._trusts_clock_from:
            return
        self._jumped_at = None
        lost = self._runtime.storage.orphans(100, as_of=check.now)
        for taken in lost:
            log.warning(
                "The worker process of server %s with session %s was lost or has ended; %s.",
                taken.server, taken.session, _describe_returned(taken),
                extra={"session": taken.session},
            )  # fmt: skip
            self._context.inbox.note_reported_work()
        if lost:  # the last running members of cancelled batches may have stopped with these sessions
            for _ in range(_RELEASES):
                if self._release() is None:
                    return

    def release_again(self) -> None:
        """Release again within a second, because the dispatcher may have skipped locked rows."""
        self._release_pause = _RELEASE_AGAIN
        self._upkeep.advance(self._releases, time.monotonic() + _RELEASE_AGAIN)

    def _release(self) -> float | None:
        """Move some jobs that wait for ended parents or their batch; a due sweep runs before the others."""
        if self._runtime.storage.release(_BATCH) >= _BATCH:
            return 0.0
        self._release_pause *= 2
        return self._release_pause if self._release_pause < self._releases.every else None

    def _distrust(self, check: StorageClockCheck) -> None:
        """Record a jump of the storage's clock; for a full session timeout, no session is declared dead.

        During this time, all servers can renew their sessions. If the clock keeps jumping, the time is
        extended to at most three timeouts. After that, a second without a jump is sufficient, because live
        servers renew their sessions within a second. Without a maximum, dead sessions might never be found.
        """
        timeout, now = self._runtime.settings.session_timeout, self._awake()
        if self._jumped_at is None:
            self._jumped_at = now
        wait = max(0.0, min(timeout, self._jumped_at + _LONGEST_DISTRUST * timeout - now))
        if not wait:
            self._sweeps.at = time.monotonic() + _RENEWED_WITHIN
        self._trusts_clock_from = max(self._trusts_clock_from, now + wait)
        log.warning(
            "%s; renewing the sessions of this server now. No server is declared lost for %.0f s.",
            check, wait or _RENEWED_WITHIN,
        )  # fmt: skip

    def _store_tasks(self) -> None:
        next_at, self._catalogue.at = self._catalogue.at, time.monotonic() + _CATALOGUE_AGAIN
        publish_tasks(self._runtime.client)
        self._catalogue.at = next_at

    # ---- this worker process -----------------------------------------------------------------------------

    def _report(self) -> None:
        rss_bytes = resident_bytes()
        self._context.memory.report(
            self._workers.counts(), cpu_seconds=time.process_time(), rss_bytes=rss_bytes
        )
        if self._on_worn is not None and not self._is_worn and (why := self._worn_by(rss_bytes)):
            self._wear(why)

    def _wear(self, why: str) -> None:
        """Request that another worker process replaces this one; later calls do nothing."""
        if self._on_worn is not None and not self._is_worn:
            self._is_worn = True
            self._on_worn(why)

    def _worn_by(self, rss_bytes: int) -> str | None:
        """Return why another worker process must replace this one; None if it can continue.

        As with the memory limit, a process that has not run any job is not replaced, because its successor
        would soon be in the same state.
        """
        if self.ended and not has_descriptors(_SPARE_DESCRIPTORS):
            return "is out of file descriptors"
        return self._context.limits.reached(self.ended, rss_bytes)

    def _watch(self) -> None:
        """Cancel jobs that have timed out; without the right to run, also jobs that must not overlap."""
        if self._workers.coroutines is not None:
            self._workers.coroutines.watch()
        now = time.monotonic()
        has_right = self._context.memory.may_start()
        if has_right is not self._had_right:
            self._had_right = has_right
            if not has_right:
                self.contact(is_available=False)
                log.warning("This server could not renew its session in time; starting no jobs until it can.")
        for run in self._workers.runs():
            completion = run.completion
            if completion is not None and not completion.is_due and now - completion.written > _COMPLETED:
                completion.is_due = True
                self._context.inbox.wake()  # to check whether the job has ended although the task continues
            if run.is_stopped and not run.is_stuck and _ignores_timeout(run, now):
                run.is_stuck = True
                log.warning(
                    "Job %s of task %r ignores its timeout of %g s; its worker is occupied until it ends.",
                    run.job.id, run.job.task, run.timeout_seconds,
                    extra={"job_id": run.job.id, "task": run.job.task, "queue": run.job.queue},
                )  # fmt: skip
            if run.is_stopped and not run.ignores_cancellation and self._has_ignored_cancellation(run, now):
                self._note_ignored_cancellation(run)
            if run.is_stopped or not run.busy_since:
                continue
            has_ended = completion is not None and completion.is_counted
            if run.started and run.timeout_seconds is not None and now - run.started > run.timeout_seconds:
                run.cancel(CancelKind.TIMEOUT, f"timed out after {run.timeout_seconds:g} s")
            elif not has_right and run.info.on_risk is OnRisk.CANCEL and not has_ended:
                run.cancel(CancelKind.LOST, "the server is not certain that it still holds the job")

    def _has_ignored_cancellation(self, run: Run, now: float) -> bool:
        """Return whether the run continues although the grace period after its cancellation has passed."""
        if run.cancelled is CancelKind.STOP:  # handled when the server stops
            return False
        return now - run.cancelled_at > max(_LEAST_GRACE, self._runtime.settings.grace)

    def _note_ignored_cancellation(self, run: Run) -> None:
        """Request that another worker process replaces this one; the run ends when this process ends.

        Runs that ignore a timeout cause this request only if they occupy half of the workers, because each
        replacement might cut short long jobs in processes that were replaced earlier.
        """
        run.ignores_cancellation = True
        if run.cancelled is CancelKind.TIMEOUT and not self._workers.are_half_uncancellable():
            return
        log.warning(
            "Job %s of task %r still runs %.0f s after its cancellation (%s); %s.",
            run.job.id, run.job.task, time.monotonic() - run.cancelled_at, run.context.cancel_reason,
            "its worker is occupied until it ends" if self._on_worn is None
            else "another worker process replaces this one, which ends after its other jobs",
            extra={"job_id": run.job.id, "task": run.job.task, "queue": run.job.queue},
        )  # fmt: skip
        self._wear("runs a job that does not stop")


def _ignores_timeout(run: Run, now: float) -> bool:
    """Return whether the run continues although it timed out some seconds ago."""
    timeout = run.timeout_seconds
    return bool(run.started) and timeout is not None and now - run.started > timeout + _IGNORED
