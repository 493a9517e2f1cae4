"""What nobody waits for, in each child: due jobs, dead sessions, retention, timeouts, logs and statistics.

Every duty may run on every server at once; the storage makes each change once.
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
from firelock.server.attempt import CancelKind
from firelock.server.process_state import resident_bytes
from firelock.server.recurring import fire_due
from firelock.server.workers import WorkerContext, Workers, have_ended
from firelock.storage import DURATION_BUCKETS, Rollup, Storage, server_work

if TYPE_CHECKING:
    from firelock.plugins.hookspecs import ServerInfo
    from firelock.runtime import Runtime

log = logging.getLogger(__name__)

_BATCH = 1_000
_SELDOM = 3  # sweeps to one look for what is seldom there
_LONGEST_DISTRUST = 3  # session timeouts, however often the clock jumps
_RENEWED_WITHIN = 1.0  # seconds; living servers look at their clocks twice as often, and renew after a jump
_BATCHES_A_SWEEP = 20  # then the next sweep goes on: retention yields to claims
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


@attrs.define(eq=False)
class MinuteRollups:
    """Counts, durations and histograms by minute, task, queue and outcome.

    Statistics, not truth: what a killed child had not written yet is missing in them.
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
            Rollup(minute * _MINUTE, task, queue, outcome, count, duration, tuple(histogram))
            for (minute, task, queue, outcome), (count, duration, *histogram) in sums.items()
        ]
        try:
            storage.record_metrics(rollups)
        except BaseException:
            with self._lock:
                for key, older in sums.items():
                    self._sums[key] = [a + b for a, b in zip(older, self._sums[key], strict=True)]
            raise


def _repeat(verb: Callable[[int], int]) -> None:
    """Call the verb until it finds less than a batch, or often enough for one sweep."""
    for _ in range(_BATCHES_A_SWEEP):
        if verb(_BATCH) < _BATCH:
            return


@attrs.define(eq=False)
class _Duty:
    name: str
    every: float
    run: Callable[[], None]
    at: float = 0.0  # monotonic


@attrs.define(eq=False, slots=False)
class ChildUpkeep:
    """Does each duty when it is time, and goes on whatever a duty meets.

    What asks the storage has one thread, and what looks after this child another, so that a storage that
    hangs keeps no job beyond its time, nor beyond the right to run.
    """

    _runtime: Runtime
    _server: ServerInfo
    _context: WorkerContext
    _workers: Workers
    _on_worn: Callable[[str], None] | None = None  # told once, and why, when a limit of the child is reached
    ended: int = 0  # jobs of this child
    metrics: MinuteRollups = attrs.Factory(MinuteRollups)
    _condition: threading.Condition = attrs.Factory(threading.Condition)
    _is_over: bool = False
    _is_first: bool = True  # of the living sessions: it takes due instants at once
    _trusts_clock_from: float = 0.0  # monotonic instant before which nobody is reaped
    _jumped_at: float | None = None  # monotonic; the first jump of the clock since nobody has been reaped
    _had_right: bool = True
    _look_again: float = _FIRST_LOOK  # seconds, growing while what is due does not move

    def __attrs_post_init__(self) -> None:
        storage, sweep = self._runtime.storage, self._runtime.settings.sweep
        self._awake = self._runtime.clock.host.awake
        self._clock_watch = StorageWatch(self._runtime.clock)
        # Every claim tells the next due instant and every end of a parent calls `release`: looking for both
        # is a second net, and seldom, so that an idle server stays below two storage calls a second.
        self._due = _Duty("due", _SELDOM * sweep, self._promote_and_fire)
        self._catalogue = _Duty("catalogue", _CATALOGUE, self._tell_tasks)
        self._flushes = [
            _Duty("console", _CONSOLE, lambda: self._context.console.flush(storage)),
            _Duty("metrics", _METRICS, lambda: self.metrics.flush(storage)),
        ]
        self._sweeps, tidies = _Duty("sweep", sweep, self._sweep), _Duty("tidy", _SELDOM * sweep, self._tidy)
        far = [self._due, self._sweeps, tidies, *self._flushes, self._catalogue]
        near = [_Duty("report", _REPORT, self._report), _Duty("watch", _WATCH, self._watch)]
        self._threads = [
            threading.Thread(target=self._run, args=(duties,), name=name, daemon=True)
            for name, duties in (("firelock-upkeep", far), ("firelock-watch", near))
        ]

    def start(self) -> None:
        """The duties are done from now on.

        A clock that was set just before is not seen here. So nobody is reaped for a heartbeat, in which every
        living server renews its session.
        """
        self._trusts_clock_from = self._awake() + self._runtime.settings.heartbeat
        self._report()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float) -> None:
        """The threads have ended; what jobs said and what was counted is written if the storage answers."""
        with self._condition:
            self._is_over = True
            self._condition.notify_all()
        have_ended(self._threads, timeout)
        for flush in self._flushes:
            try:
                with server_work():
                    flush.run()
            except StorageError as error:
                log.warning("Logs or statistics of the last moments were not written: %s", error)

    # ---- the loop ----------------------------------------------------------------------------------------

    def _run(self, duties: Sequence[_Duty]) -> None:
        """Do the duty whose time comes next, and continue after any error."""
        while True:
            with self._condition:
                if self._is_over:
                    return
                now = time.monotonic()
                duty = min(duties, key=lambda duty: duty.at)
                if duty.at > now:
                    self._condition.wait(duty.at - now)
                    continue
                duty.at = now + duty.every * random.uniform(0.8, 1.2)  # noqa: S311 - servers drift apart
            try:
                with server_work():
                    duty.run()
            except StorageUnavailable as error:
                self.contact(is_there=False)
                log.debug("Duty %s: storage unavailable: %s", duty.name, error)
            except Exception:
                log.exception("Duty %s met an error; it is tried again.", duty.name)

    def contact(self, *, is_there: bool) -> None:
        """After an outage nobody is reaped until all had a full session timeout to renew."""
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
        at = time.monotonic() + seconds
        with self._condition:
            if at < self._due.at:
                self._due.at = at
                self._condition.notify_all()

    def _promote_and_fire(self) -> None:
        fired, refusal = 0, None
        try:
            fired = fire_due(self._runtime.client)
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
            self.next_due(next_due_at)  # of a full batch it is due: the duty goes on at once
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
        first = next(
            (record.session for record in self._runtime.storage.list_sessions() if record.is_alive), None
        )
        self._is_first = first is None or first.server_id == self._server.id
        self.contact(is_there=self._context.memory.may_start())  # who could not renew is no judge of others
        if look.jumped or self._awake() < self._trusts_clock_from:
            return
        self._jumped_at = None
        lost = self._runtime.storage.orphans(100, as_of=look.now)
        for taken in lost:
            log.warning(
                "Server %s was lost; %d running jobs and %d waiting ones are back in their queues.",
                taken.server, len(taken.crashed), len(taken.returned),
                extra={"session": taken.session},
            )  # fmt: skip
            self._context.inbox.work_came()
        if lost:  # the last running members of cancelled batches may have stopped with these sessions
            _repeat(self._runtime.storage.release)

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

    def _tidy(self) -> None:
        _repeat(self._runtime.storage.release)
        _repeat(self._runtime.storage.prune)

    def _tell_tasks(self) -> None:
        next_at, self._catalogue.at = self._catalogue.at, time.monotonic() + _CATALOGUE_AGAIN
        tell_tasks(self._runtime.client)
        self._catalogue.at = next_at

    # ---- this child --------------------------------------------------------------------------------------

    def _report(self) -> None:
        rss_bytes = resident_bytes()
        self._context.memory.report(
            len(self._workers.runs()), cpu_seconds=time.process_time(), rss_bytes=rss_bytes
        )
        if self._on_worn is not None and (why := self._context.limits.reached(self.ended, rss_bytes)):
            on_worn, self._on_worn = self._on_worn, None
            on_worn(why)

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
            if run.is_stopped or not run.busy_since:
                continue
            has_ended = completion is not None and completion.is_counted
            if run.started and run.timeout_seconds is not None and now - run.started > run.timeout_seconds:
                run.cancel(CancelKind.TIMEOUT, f"timed out after {run.timeout_seconds:g} s")
            elif not has_right and run.info.on_risk is OnRisk.CANCEL and not has_ended:
                run.cancel(CancelKind.LOST, "the server cannot be sure that the job is still its own")
