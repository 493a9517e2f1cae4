"""Observers of ended attempts. The `jobs_settled` hook of each plugin has its own bounded queue and thread.

The dispatcher claims and settles jobs, so it must not wait for a plugin. A hook that only adds to counters
in memory can be marked with `counts_in_memory`. The dispatcher calls such a hook directly, so it does not
miss any ended attempts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import attrs

if TYPE_CHECKING:
    from firelock.model.job import Settled

log = logging.getLogger(__name__)

QUEUE_LIMIT: Final = 10_000
"""Maximum number of outcomes that wait for one plugin, including those that its hook is processing."""
CALL_LIMIT: Final = 1_000
"""Maximum number of outcomes in one call of a hook."""
SLOW_SECONDS: Final = 0.5
"""Duration of a call, in seconds, above which the plugin is logged as slow."""
LOG_INTERVAL: Final = 60.0
"""Minimum number of seconds between two log lines about the same plugin and hook."""

_MARK = "firelock_counts_in_memory"
_WAITED = {
    "jobs_created": "The call that created the jobs waited for it.",
    "attempt_failed": "The worker of the failed job waited for it.",
    "jobs_settled": "The ends of later jobs wait for it.",
}
_START_OR_STOP = "The server waited for it."
_UNHURRIED = frozenset({"worker_process_started", "worker_process_stopped"})  # slow preparation is common

_Hook = TypeVar("_Hook", bound=Callable[..., object])


def counts_in_memory(hook: _Hook) -> _Hook:
    """Mark a `jobs_settled` hook that only adds to counters, so that the dispatcher calls it directly.

    Use it only for Firelock's own observers, because an observer that waits for anything blocks its worker
    process.
    """
    setattr(hook, _MARK, True)
    return hook


@attrs.frozen
class EndObserver:
    """The `jobs_settled` hook of one plugin."""

    plugin: str
    hook: Callable[..., object]
    call: Callable[[Sequence[Settled]], None]
    """Calls the hook; if the hook raises an exception, it is logged and not raised."""

    @property
    def is_direct(self) -> bool:
        """Whether the dispatcher calls the hook directly, without a queue."""
        return getattr(self.hook, _MARK, False) is True


class SlowObservers:
    """Logs slow observers: each hook of a plugin once, and then at most once per interval."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logged_at: dict[tuple[str, str], float] = {}

    def note(self, plugin: str, hook: str, seconds: float, *, is_running: bool = False) -> None:
        """Log a call that took longer than `SLOW_SECONDS`, or that has been running for longer."""
        if seconds <= SLOW_SECONDS:
            return
        key, now = (plugin, hook), time.monotonic()
        with self._lock:
            if now - self._logged_at.get(key, -LOG_INTERVAL) < LOG_INTERVAL:
                return
            self._logged_at[key] = now
        level = logging.INFO if hook in _UNHURRIED else logging.WARNING
        took = "has been running" if is_running else "ran"
        waited = _WAITED.get(hook, _START_OR_STOP)
        log.log(level, "Plugin %r: %s %s for %.1f s. %s", plugin, hook, took, seconds, waited)


class _EndQueue:
    """The ended attempts that wait for one plugin, in order, and the thread that reports them."""

    def __init__(self, observer: EndObserver, slow: SlowObservers) -> None:
        self._observer = observer
        self._slow = slow
        self._changed = threading.Condition()
        self._waiting: deque[Settled] = deque()
        self._held = 0  # number of attempts in the queue or in the current call
        self._called_at: float | None = None  # time when the current call began
        self._dropped = self._unlogged = 0
        self._logged_at = -LOG_INTERVAL
        self._is_closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"firelock-observer-{observer.plugin}", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def put(self, settled: Sequence[Settled]) -> None:
        """Add as many attempts as fit into the queue, and count the others as dropped; this never waits."""
        with self._changed:
            room = 0 if self._is_closed else QUEUE_LIMIT - self._held
            taken = settled if len(settled) <= room else settled[:room]
            self._waiting.extend(taken)
            self._held += len(taken)
            self._dropped += len(settled) - len(taken)
            self._unlogged += len(settled) - len(taken)
            called_at = self._called_at
            self._changed.notify_all()
        if called_at is not None:
            seconds = time.monotonic() - called_at
            self._slow.note(self._observer.plugin, "jobs_settled", seconds, is_running=True)
        self._log_dropped()

    @property
    def is_empty(self) -> bool:
        """Whether all attempts that were added have been reported."""
        return not self._held

    def close(self, deadline: float) -> None:
        """Report the waiting attempts until the deadline; then discard the others and log their number."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            while self._held and self._thread.is_alive() and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            held = self._held
            self._waiting.clear()
        self._log_dropped(is_last=True)
        if held:
            log.warning(
                "Plugin %r: the server stopped before jobs_settled had returned; outcomes not reported: %d.",
                self._observer.plugin, held,
            )  # fmt: skip
        elif self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while settled := self._next():
            try:
                self._observer.call(settled)
            except BaseException:  # for example SystemExit; later attempts must still be reported
                log.exception(
                    "Plugin %r raised an exception in jobs_settled; no job is affected.",
                    self._observer.plugin,
                )
            finally:
                with self._changed:
                    self._called_at = None
                    self._held -= len(settled)
                    self._changed.notify_all()
            self._log_dropped()

    def _next(self) -> list[Settled]:
        """Wait for ended attempts and return them; if the queue has been closed, return an empty list."""
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed and not self._unlogged:
                    self._changed.wait()
                if self._waiting or self._is_closed:
                    count = min(CALL_LIMIT, len(self._waiting))
                    self._called_at = time.monotonic() if count else None
                    return [self._waiting.popleft() for _ in range(count)]
                self._changed.wait(max(0.0, self._logged_at + LOG_INTERVAL - time.monotonic()))
            self._log_dropped()

    def _log_dropped(self, *, is_last: bool = False) -> None:
        """Log the first dropped attempts immediately, and the number of later ones once per interval."""
        if not self._unlogged:
            return
        with self._changed:
            now, count = time.monotonic(), self._unlogged
            if not count or (not is_last and now - self._logged_at < LOG_INTERVAL):
                return
            self._unlogged, self._logged_at = 0, now
            in_all = self._dropped
        log.warning(
            "Plugin %r: jobs_settled is slower than the jobs. Outcomes dropped: %d (%d in total). The jobs "
            "are not affected.", self._observer.plugin, count, in_all,
        )  # fmt: skip


class EndObservers:
    """The observers of ended attempts in one worker process.

    Args:
        observers: the observers, in the order in which they are called.
        slow: logs the names of slow observers.
    """

    def __init__(self, observers: Sequence[EndObserver] = (), slow: SlowObservers | None = None) -> None:
        slow = slow or SlowObservers()
        self._direct = [each.call for each in observers if each.is_direct]
        self._queues = [_EndQueue(each, slow) for each in observers if not each.is_direct]
        self.is_used = bool(observers)

    def start(self) -> None:
        """Start one thread for each queue."""
        for each in self._queues:
            each.start()

    def report(self, settled: Sequence[Settled]) -> None:
        """Call the direct observers with the attempts, and add these to the queue of every other plugin."""
        for call in self._direct:
            call(settled)
        for each in self._queues:
            each.put(settled)

    @property
    def is_drained(self) -> bool:
        """Whether all attempts, except dropped ones, have been reported to every plugin."""
        return all(each.is_empty for each in self._queues)

    def close(self, seconds: float) -> None:
        """Report the waiting attempts for at most this many seconds in total, and end the threads."""
        deadline = time.monotonic() + seconds
        for each in self._queues:
            each.close(deadline)
