"""Tells servers of work by NOTIFY: after the commit, beside whoever enqueued, seldom.

While a notification commits, the server lets no other one do so. Sent with each enqueue, notifications would
line all of them up. So a thread sends them, by a transaction of its own, and a queue is named at most once in
five milliseconds: at once when it was quiet before, and once more at the end of a burst. With a gap of a
tenth of a second a job waited half of it to be started.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable, Collection

from firelock_sql.database import ANY_QUEUE

__all__ = ["GAP_SECONDS", "Coalescing", "Sender", "flush", "written"]

log = logging.getLogger(__name__)

GAP_SECONDS = 0.005
_SIZE = 7_900  # bytes; the server takes fewer than 8,000
_IDLE_SECONDS = 30.0  # the thread ends when nothing was to be told for so long
_LAST_SECONDS = 2.0  # for what is left when everything ends

_living: weakref.WeakSet[Sender] = weakref.WeakSet()


def flush() -> None:
    """What every sender of this process has yet to send is sent; called at its exit."""
    for sender in list(_living):
        sender.close()


atexit.register(flush)


class Coalescing:
    """Which queues are to be named now, and when the others are."""

    def __init__(self) -> None:
        self._waiting: set[str] = set()
        self._named_at: dict[str, float] = {}  # those of the last GAP_SECONDS

    def add(self, queues: Collection[str]) -> bool:
        """The queues will be named; return whether one of them was not waiting for that already."""
        before = len(self._waiting)
        self._waiting.update(queues)
        return len(self._waiting) > before

    def take(self, now: float) -> list[str]:
        """Return the queues to be named now, which they count as from here on."""
        oldest = now - GAP_SECONDS
        self._named_at = {queue: at for queue, at in self._named_at.items() if at > oldest}
        due = sorted(self._waiting - self._named_at.keys())
        self._waiting.difference_update(due)
        self._named_at.update(dict.fromkeys(due, now))
        return due

    def take_all(self) -> list[str]:
        """Return every queue that waits to be named, whatever the time."""
        due = sorted(self._waiting)
        self._waiting.clear()
        return due

    def pause(self, now: float) -> float | None:
        """Return the seconds until the next queue is to be named; None when none waits."""
        at = min((self._named_at.get(queue, 0.0) + GAP_SECONDS for queue in self._waiting), default=None)
        return None if at is None else max(0.0, at - now)


class Sender:
    """The thread that sends; it is made by the first message, and a fork leaves it behind.

    Args:
        post: sends one message, and may take its time or fail.
    """

    def __init__(self, post: Callable[[str], None]) -> None:
        self._post = post
        self._changed = threading.Condition()
        self._coalescing = Coalescing()
        self._thread: threading.Thread | None = None
        self._is_over = False
        self._is_failing = False
        _living.add(self)

    def add(self, queues: Collection[str]) -> None:
        """The queues are named soon, or never; it neither waits nor fails."""
        with self._changed:
            if self._is_over:
                return
            is_news = self._coalescing.add(queues)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-notify", daemon=True)
                self._thread.start()
            elif is_news:
                self._changed.notify()

    def close(self) -> None:
        """What was to be named has been, unless the server does not answer."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_LAST_SECONDS)

    def leave_behind(self) -> None:
        """This is another process than the one whose thread sends: its end flushes nothing of this."""
        _living.discard(self)

    def _run(self) -> None:
        while queues := self._next():
            try:
                self._post(written(queues))
            except Exception as error:  # noqa: BLE001 - whatever it is: the job is stored, a poll finds it
                self._log_failure(error)
            else:
                self._is_failing = False

    def _next(self) -> list[str]:
        """Return the queues to be named, once there are some; none when the thread is to end."""
        is_idle = False
        with self._changed:
            while True:
                now = time.monotonic()
                due = self._coalescing.take_all() if self._is_over else self._coalescing.take(now)
                if due:
                    return due
                if self._is_over or is_idle:
                    self._thread = None
                    return []
                pause = self._coalescing.pause(now)
                is_told = self._changed.wait(_IDLE_SECONDS if pause is None else pause)
                is_idle = pause is None and not is_told

    def _log_failure(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            log.warning(
                "Servers could not be told of work (%s); they find it when they poll.", type(error).__name__
            )


def written(queues: Collection[str]) -> str:
    """Return the queues as one message, one a line; too many of them are "any"."""
    names = "\n".join(queues)
    return names if len(names.encode()) <= _SIZE else ANY_QUEUE
