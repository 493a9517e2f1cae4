"""What a worker process does beside its jobs: due jobs, lost servers, retention, timeouts, logs, statistics.

Every duty but retention may run in every process at the same time; the storage makes each change once. A duty
delays only the duties of its own thread.
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

from firelock.control.catalogue import tell_tasks
from firelock.errors import StorageError, StorageUnavailable
from firelock.model.clock import SECOND, StorageLook, StorageWatch
from firelock.model.job import ClaimedJob
from firelock.options import OnRisk
from firelock.server.attempt import CancelKind, Run
from firelock.server.process_state import has_descriptors, resident_bytes
from firelock.server.recurring import fire_due
from firelock.server.retention import Retention
from firelock.server.workers import WorkerContext, Workers, have_ended
from firelock.storage import DURATION_BUCKETS, Rollup, Storage, Taken, server_work

if TYPE_CHECKING:
    from firelock.plugins.hookspecs import ServerInfo
    from firelock.runtime import Runtime

log = logging.getLogger(__name__)

_BATCH = 1_000
_FIRED_AT_ONCE = 10  # recurring jobs, a commit each; due jobs wait for no more of them
_SELDOM = 3  # sweeps to one look for what is seldom there
_IDLE_RETENTION = 6  # sweeps to one look for expired jobs if none expire
_LONGEST_DISTRUST = 3  # session timeouts, however often the clock jumps
_RENEWED_WITHIN = 1.0  # seconds; living servers look at their clocks twice as often, and renew after a jump
_RELEASE_AGAIN = 1.0  # seconds after a release of the dispatcher, which may have skipped locked rows
_RELEASES = 20  # calls after sessions were lost; the duty that releases does the rest
_SPARE_DESCRIPTORS = 16  # for a connection to the storage and the pipes of a job process
_IGNORED = 2.0  # seconds after its timeout in which a job may still end
_LEAST_GRACE = 1.0  # seconds that a job has to end after it was told to stop, where `grace` is shorter
_COMPLETED = 0.1  # seconds after which a run that ended within its own transaction has likely more to do
_REPORT, _CONSOLE, _METRICS, _WATCH = 1.0, 0.5, 2.0, 0.1
_CATALOGUE = 12 * 3_600.0  # and at the start, when nobody waits for it
_CATALOGUE_AGAIN = 60.0
_FIRST_LOOK = 0.01
_LATER = (0.020, 0.080)  # seconds that all but one server wait behind a due instant, to look again


_MINUTE = 60 * SECOND
_BUCKETS = tuple(int(bound * SECOND) for bound in DURATION_BUCKETS)


def _no_sums() -> defaultdict[tuple[int, str, str, str], list[int]]:
    return defaultdict(lambda: [0] * (len(_BUCKETS) + 3))  # how many, how long, and the histogram


def _what_became_of(taken: Taken) -> str:
    """Return what became of the jobs of a dead session, as the end of a sentence."""
    kinds = [(len(taken.crashed), "running"), (len(taken.returned), "waiting")]
    back = " and ".join(
        f"{number} {kind} {'job' if number == 1 else 'jobs'}" for number, kind in kinds if number
    )
    told = [f"back in the queues: {back}"] if back else []
    if taken.left:
        told.append(f"locked by other transactions, to follow: {taken.left}")
    return "; ".join(told) or "it held no jobs"


@attrs.define(eq=False)
class MinuteRollups:
    """Counts, durations and histograms by minute, task, queue and outcome.

    Statistics, not truth: what a killed worker process had not written yet is missing in them.
    """

    _lock: threading.Lock = attrs.Factory(threading.Lock)
    _sums: dict[tuple[int, str, str, str], list[int]] = attrs.Factory(_no_sums)

    def add(self, ends: Iterable[tuple[ClaimedJob, str, int, int]]) -> None:
        """Ended attempts are counted: each its job, outcome, instant and duration in micros."""
        with self._lock:
            for job, outcome, at, duration in ends:
                sums = self._sums[at // _MINUTE, job.task, job.queue, outcome]
                sums[0] += 1
                sums[1] += duration
                sums[2 + bisect_left(_BUCKETS, duration)] += 1

    def flush(self, storage: Storage) -> None:
        """What was counted is in the storage; on its error it is counted still and the error passes."""
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
class _Duty:
    name: str
    every: float
    run: Callable[[], float | None]  # returns the seconds until its next turn; None for `every`, with jitter
    at: float = 0.0  # monotonic


@attrs.define(eq=False, slots=False)
class _DutyThread:
    """Does each of its duties when it is time, and continues whatever a duty meets."""

    name: str
    duties: Sequence[_Duty]
    _on_outage: Callable[[], None]  # called if the storage could not be reached
    _has_own_connection: bool = False
    _condition: threading.Condition = attrs.Factory(threading.Condition)
    is_over: bool = False

    def __attrs_post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def advance(self, duty: _Duty, at: float) -> None:
        """Do the duty at that monotonic time, unless its turn comes earlier."""
        with self._condition:
            if at < duty.at:
                duty.at = at
                self._condition.notify()

    def end(self) -> None:
        """Begin no further duty; a duty under way may look at `is_over`."""
        with self._condition:
            self.is_over = True
            self._condition.notify()

    def _run(self) -> None:
        while (duty := self._next()) is not None:
            again = None
            try:
                with server_work(has_own_connection=self._has_own_connection):
                    again = duty.run()
            except StorageUnavailable as error:
                self._on_outage()
                if error.longest_pause > StorageUnavailable.longest_pause:  # each try costs a full disk space
                    duty.at = max(duty.at, time.monotonic() + error.longest_pause)
                log.debug("Duty %s: storage unavailable: %s", duty.name, error)
            except Exception:
                log.exception("Duty %s met an error; it is tried again.", duty.name)
            if again is not None:
                self.advance(duty, time.monotonic() + again)

    def _next(self) -> _Duty | None:
        """Wait for the next turn and return its duty; None if all is over."""
        with self._condition:
            while not self.is_over:
                now = time.monotonic()
                duty = min(self.duties, key=lambda duty: duty.at)
                if duty.at <= now:
                    duty.at = now + duty.every * random.uniform(0.8, 1.2)  # noqa: S311 - servers drift apart
                    return duty
                self._condition.wait(duty.at - now)
        return None


@attrs.define(eq=False, slots=False)
class Upkeep:
    """The duties of one worker process, in five threads: see docs/decisions/0092."""

    _runtime: Runtime
    _server: ServerInfo
    _context: WorkerContext
    _workers: Workers
    _on_worn: Callable[[str], None] | None = (
        None  # told once, and why, when the worker process is to be replaced
    )
    ended: int = 0  # jobs of this worker process
    metrics: MinuteRollups = attrs.Factory(MinuteRollups)
    _is_worn: bool = False  # `_on_worn` has been told
    _is_first: bool = True  # of the living sessions: it takes due instants at once
    _trusts_clock_from: float = 0.0  # monotonic instant before which nobody is reaped
    _trusting: threading.Lock = attrs.Factory(threading.Lock)
    _jumped_at: float | None = None  # monotonic; the first jump of the clock since nobody has been reaped
    _had_right: bool = True
    _release_pause: float = float("inf")  # seconds, growing until only the duty's own interval is left
    _look_again: float = _FIRST_LOOK  # seconds, growing while what is due does not move

    def __attrs_post_init__(self) -> None:
        storage, sweep = self._runtime.storage, self._runtime.settings.sweep
        self._awake = self._runtime.clock.host.awake
        self._clock_watch = StorageWatch(self._runtime.clock)
        # Every claim tells the next due instant and every end of a parent calls `release`: looking for both
        # is a second net, and seldom, so that an idle server stays below two storage calls a second.
        self._due = _Duty("due", _SELDOM * sweep, self._promote_and_fire)
        self._sweeps = _Duty("sweep", sweep, self._sweep)
        self._releases = _Duty("release", _SELDOM * sweep, self._release)
        self._catalogue = _Duty("catalogue", _CATALOGUE, self._tell_tasks)
        self._flushes = [
            _Duty("console", _CONSOLE, lambda: self._context.console.flush(storage)),
            _Duty("metrics", _METRICS, lambda: self.metrics.flush(storage)),
        ]
        self._retention = Retention(
            storage, seldom=_IDLE_RETENTION * sweep, lease_seconds=self._runtime.settings.session_timeout,
            ended=lambda: self.ended, is_over=lambda: retention.is_over,
        )  # fmt: skip
        removes = _Duty("retention", _IDLE_RETENTION * sweep, self._retention.run_slice)
        near = [_Duty("report", _REPORT, self._report), _Duty("watch", _WATCH, self._watch)]

        def distrust() -> None:
            self.contact(is_there=False)

        def ignore() -> None:
            """Only what would find lost servers judges whether the storage can be reached."""

        self._promotes = _DutyThread("firelock-due", [self._due], distrust, has_own_connection=True)
        self._upkeep = _DutyThread(
            "firelock-upkeep", [self._sweeps, self._releases, self._catalogue], distrust
        )
        retention = _DutyThread("firelock-retention", [removes], ignore)
        self._threads = [
            self._promotes,
            self._upkeep,
            retention,
            _DutyThread("firelock-flush", self._flushes, ignore),
            _DutyThread("firelock-watch", near, ignore),
        ]

    def start(self) -> None:
        """The duties are done from now on.

        A clock that was set just before is not seen here. So nobody is reaped for a heartbeat, in which every
        living server renews its session.
        """
        self._trusts_clock_from = self._awake() + self._runtime.settings.heartbeat
        self._report()
        for one in self._threads:
            one.thread.start()

    def stop(self, timeout: float) -> None:
        """End all threads; write what jobs logged and what was counted if the storage answers."""
        for one in self._threads:
            one.end()
        have_ended([one.thread for one in self._threads], timeout)
        with server_work():
            for flush in self._flushes:
                try:
                    flush.run()
                except StorageError as error:
                    log.warning("Logs or statistics of the last moments were not written: %s", error)
            self._retention.hand_over()

    def contact(self, *, is_there: bool) -> None:
        """After an outage nobody is reaped until all had a full session timeout to renew."""
        with self._trusting:
            if not is_there:
                self._trusts_clock_from = float("inf")
            elif self._trusts_clock_from == float("inf"):
                self._trusts_clock_from = self._awake() + self._runtime.settings.session_timeout

    # ---- due instants ------------------------------------------------------------------------------------

    def next_due(self, instant: int | None) -> None:
        """The storage said when the next job is due; the duty is done then, not at the next sweep."""
        if instant is None:
            return
        seconds = max(0.0, (instant - self._runtime.clock.now()) / SECOND)
        if not self._is_first:
            seconds += random.uniform(*_LATER)  # noqa: S311 - jitter
        self._promotes.advance(self._due, time.monotonic() + seconds)

    def _promote_and_fire(self) -> None:
        fired, refusal = 0, None
        try:
            fired = fire_due(self._runtime.client, limit=_FIRED_AT_ONCE)
        except Exception as error:  # noqa: BLE001 - it is raised when due jobs have been enqueued
            refusal = error
        if fired:
            self._context.inbox.work_came()
        promotion = self._runtime.storage.promote(_BATCH)
        if promotion.promoted:
            self._context.inbox.work_came()
        next_due_at, now = promotion.next_due_at, self._runtime.clock.now()
        if next_due_at is None or next_due_at > now or fired or promotion.promoted:
            self._look_again = _FIRST_LOOK
            self.next_due(next_due_at)  # while more is due, the duty goes on at once
        else:  # due by our clock and not yet by the storage's, or by a definition that cannot be fired
            self.next_due(now + int(self._look_again * SECOND))
            self._look_again = min(self._look_again * 2, self._due.every)
        if refusal is not None:
            raise refusal

    # ---- the sweep ---------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        look = self._clock_watch.look()  # before anything else: what is set later is later than `as_of`
        if look.jumped:
            self._distrust(look)
        first = self._runtime.storage.oldest_session()
        self._is_first = first is None or first.session.server_id == self._server.id
        self.contact(is_there=self._context.memory.may_start())  # who could not renew is no judge of others
        if look.jumped or self._awake() < self._trusts_clock_from:
            return
        self._jumped_at = None
        lost = self._runtime.storage.orphans(100, as_of=look.now)
        for taken in lost:
            log.warning(
                "The worker process of server %s with session %s was lost or has ended; %s.",
                taken.server, taken.session, _what_became_of(taken),
                extra={"session": taken.session},
            )  # fmt: skip
            self._context.inbox.work_came()
        if lost:  # the last running members of cancelled batches may have stopped with these sessions
            for _ in range(_RELEASES):
                if self._release() is None:
                    return

    def release_again(self) -> None:
        """Release within a second: the dispatcher has just done so, and rows may have been locked then."""
        self._release_pause = _RELEASE_AGAIN
        self._upkeep.advance(self._releases, time.monotonic() + _RELEASE_AGAIN)

    def _release(self) -> float | None:
        """Move some of what waits for ended parents, or for its batch; a due sweep comes before the rest."""
        if self._runtime.storage.release(_BATCH) >= _BATCH:
            return 0.0
        self._release_pause *= 2
        return self._release_pause if self._release_pause < self._releases.every else None

    def _distrust(self, look: StorageLook) -> None:
        """The storage's clock jumped: nobody is reaped until all had a full session timeout to renew.

        A clock that keeps jumping puts that off for three timeouts at most; then a second without a jump is
        enough, in which living servers renew. Otherwise dead ones would never be found.
        """
        timeout, now = self._runtime.settings.session_timeout, self._awake()
        if self._jumped_at is None:
            self._jumped_at = now
        wait = max(0.0, min(timeout, self._jumped_at + _LONGEST_DISTRUST * timeout - now))
        if not wait:
            self._sweeps.at = time.monotonic() + _RENEWED_WITHIN
        self._trusts_clock_from = max(self._trusts_clock_from, now + wait)
        log.warning(
            "%s; the sessions of this server are renewed now, and no server is declared lost for %.0f s.",
            look, wait or _RENEWED_WITHIN,
        )  # fmt: skip

    def _tell_tasks(self) -> None:
        next_at, self._catalogue.at = self._catalogue.at, time.monotonic() + _CATALOGUE_AGAIN
        tell_tasks(self._runtime.client)
        self._catalogue.at = next_at

    # ---- this worker process
    # --------------------------------------------------------------------------------------

    def _report(self) -> None:
        rss_bytes = resident_bytes()
        self._context.memory.report(
            self._workers.counts(), cpu_seconds=time.process_time(), rss_bytes=rss_bytes
        )
        if self._on_worn is not None and not self._is_worn and (why := self._worn_by(rss_bytes)):
            self._wear(why)

    def _wear(self, why: str) -> None:
        """Ask once for another worker process in the place of this one."""
        if self._on_worn is not None and not self._is_worn:
            self._is_worn = True
            self._on_worn(why)

    def _worn_by(self, rss_bytes: int) -> str | None:
        """Return why another worker process has to take the place of this one; None if it can go on.

        As for memory, one that has run no job is not to blame: its successor would soon be like it.
        """
        if self.ended and not has_descriptors(_SPARE_DESCRIPTORS):
            return "is out of file descriptors"
        return self._context.limits.reached(self.ended, rss_bytes)

    def _watch(self) -> None:
        """Jobs whose time is over are told so; and jobs that must not overlap, when the right to run ends."""
        if self._workers.coroutines is not None:
            self._workers.coroutines.watch()
        now = time.monotonic()
        has_right = self._context.memory.may_start()
        if has_right is not self._had_right:
            self._had_right = has_right
            if not has_right:
                self.contact(is_there=False)
                log.warning(
                    "This server could not renew its session in time; no job is started until it can."
                )
        for run in self._workers.runs():
            completion = run.completion
            if completion is not None and not completion.is_due and now - completion.written > _COMPLETED:
                completion.is_due = True
                self._context.inbox.wake()  # to look whether its job has ended, while what follows goes on
            if run.is_stopped and not run.is_stuck and _ignores_timeout(run, now):
                run.is_stuck = True
                log.warning(
                    "Job %s of task %r ignores its timeout of %g s; its worker is occupied until it ends.",
                    run.job.id, run.job.task, run.timeout_seconds,
                    extra={"job_id": run.job.id, "task": run.job.task, "queue": run.job.queue},
                )  # fmt: skip
            if run.is_stopped and not run.is_deaf and self._ignores_its_stop(run, now):
                self._note_deaf(run)
            if run.is_stopped or not run.busy_since:
                continue
            has_ended = completion is not None and completion.is_counted
            if run.started and run.timeout_seconds is not None and now - run.started > run.timeout_seconds:
                run.cancel(CancelKind.TIMEOUT, f"timed out after {run.timeout_seconds:g} s")
            elif not has_right and run.info.on_risk is OnRisk.CANCEL and not has_ended:
                run.cancel(CancelKind.LOST, "the server cannot be sure that the job is still its own")

    def _ignores_its_stop(self, run: Run, now: float) -> bool:
        """Return whether the run goes on although it has had the grace time to end."""
        if run.cancelled is CancelKind.STOP:  # the stop of the server looks after it
            return False
        return now - run.told_to_stop > max(_LEAST_GRACE, self._runtime.settings.grace)

    def _note_deaf(self, run: Run) -> None:
        """Have another worker process take the place of this one, which then ends, and the run with it.

        For runs whose time is over not before they take half of the workers: each replacement may cut short
        long jobs of the processes that were replaced before.
        """
        run.is_deaf = True
        if run.cancelled is CancelKind.TIMEOUT and not self._workers.are_half_deaf():
            return
        log.warning(
            "Job %s of task %r still runs %.0f s after it was told to stop (%s); %s.",
            run.job.id, run.job.task, time.monotonic() - run.told_to_stop, run.context.cancel_reason,
            "its worker is occupied until it ends" if self._on_worn is None
            else "another worker process takes the place of this one, which ends after its other jobs",
            extra={"job_id": run.job.id, "task": run.job.task, "queue": run.job.queue},
        )  # fmt: skip
        self._wear("runs a job that does not stop")


def _ignores_timeout(run: Run, now: float) -> bool:
    """Return whether the run goes on although its time was over a while ago."""
    timeout = run.timeout_seconds
    return bool(run.started) and timeout is not None and now - run.started > timeout + _IGNORED
