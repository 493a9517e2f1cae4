"""Wake-ups: what is published when a queue gets its first work, heard over one connection a process.

A hint and nothing else: a message that is lost costs a poll. Whoever waits has claimed before, and subscribed
before that, so that nothing falls between the claim that found nothing and the wait.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions as driver

from firelock.storage import StorageError

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

    from firelock_redis.database import RedisDatabase

__all__ = ["ANYTHING", "Wake"]

log = logging.getLogger(__name__)

ANYTHING = "@"  # the message that concerns every queue: an instant came nearer, a queue was resumed
_REMEMBERED = 1_000  # queues, and sets of queues, of which the last wake-up is remembered apart
_PING_SECONDS = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_SUBSCRIBING_SECONDS = 1.0

_living: weakref.WeakSet[Wake] = weakref.WeakSet()


def _leave_behind() -> None:
    for wake in list(_living):
        wake.leave_behind()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows cannot fork
    os.register_at_fork(after_in_child=_leave_behind)


class Wake:
    """Who waits in this process, and the thread that listens for them."""

    def __init__(self, database: RedisDatabase, on_message: Callable[[int, str], None]) -> None:
        self._database = database
        self._on_message = on_message
        self._channels = {f"{base}:wake": place for place, base in enumerate(database.partitions.bases)}
        self._reset()
        _living.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._number = 0  # of the last wake-up
        self._arrived: dict[str, int] = {}  # by queue: number of its last wake-up
        self._seen: dict[frozenset[str] | None, int] = {}  # by queues: the last one before their last claim
        self._interrupts = 0
        self._thread: threading.Thread | None = None
        self._connection: AbstractConnection | None = None
        self._is_subscribed = threading.Event()
        self._is_over = threading.Event()

    def leave_behind(self) -> None:
        """This is another process than the one that listened: it listens for itself."""
        is_over = self._is_over.is_set()
        self._reset()
        if is_over:
            self._is_over.set()

    # ---- waiting -----------------------------------------------------------------------------------------

    def mark(self, queues: Sequence[str] | None) -> None:
        """Whatever was told before now will be seen by the claim that follows."""
        self._listen()
        with self._changed:
            if len(self._seen) > _REMEMBERED:
                self._seen.clear()
            self._seen[_key(queues)] = self._number

    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """See `Storage.wait`; who has not claimed before gets a look at what there is."""
        if _key(queues) not in self._seen:
            self.mark(queues)
            if any(self._database.run_everywhere("ready", *(queues or ()))):
                return True
        with self._changed:
            interrupts = self._interrupts
            self._changed.wait_for(
                lambda: self._is_news(queues) or interrupts != self._interrupts, timeout_seconds
            )
            if not self._is_news(queues):
                return False
            self._seen[_key(queues)] = self._number
            return True

    def _is_news(self, queues: Sequence[str] | None) -> bool:
        seen = self._seen.get(_key(queues), 0)
        if queues is None:
            return self._number > seen
        return any(self._arrived.get(queue, 0) > seen for queue in (ANYTHING, *queues))

    def interrupt(self) -> None:
        """Every `wait` under way returns."""
        with self._changed:
            self._interrupts += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody listens any more."""
        self._is_over.set()
        self.interrupt()
        connection, thread = self._connection, self._thread
        if connection is not None:
            connection.disconnect()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_SUBSCRIBING_SECONDS)

    # ---- listening ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._thread is not None or self._is_over.is_set():
            return
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="firelock-redis-wake", daemon=True)
                self._thread.start()
        self._is_subscribed.wait(_SUBSCRIBING_SECONDS)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._is_over.is_set():
            try:
                self._hear()
                pause = _FIRST_PAUSE
            except (driver.RedisError, StorageError, OSError, AttributeError, TypeError, ValueError) as error:
                # The last three are what a connection says that was closed while it was read.
                if not self._is_over.is_set():
                    log.debug("The connection for wake-ups is lost and made anew: %s", error)
                self._is_subscribed.set()  # who claims does not wait for a server that is not there
                self._is_over.wait(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)

    def _hear(self) -> None:
        connection = self._database.connections.listener()
        self._connection = connection
        try:
            connection.connect()
            connection.send_command("SUBSCRIBE", *self._channels)
            for _ in self._channels:
                connection.read_response()
            if self._is_subscribed.is_set():  # again: what was published meanwhile is lost
                self._note(-1, ANYTHING)
            self._is_subscribed.set()
            while not self._is_over.is_set():
                self._read(connection)
        finally:
            connection.disconnect()

    def _read(self, connection: AbstractConnection) -> None:
        if not connection.can_read(timeout=_PING_SECONDS):
            connection.send_command("PING")
            if not connection.can_read(timeout=self._database.url.timeout_seconds):
                raise driver.TimeoutError("no answer to PING")
        reply: Any = connection.read_response()
        if reply[0] == "message":
            self._note(self._channels[reply[1]], reply[2])

    def _note(self, partition: int, message: str) -> None:
        self._on_message(partition, message)
        with self._changed:
            self._number += 1
            if len(self._arrived) >= _REMEMBERED:
                self._arrived = {ANYTHING: self._number}
            self._arrived[message] = self._number
            self._changed.notify_all()


def _key(queues: Sequence[str] | None) -> frozenset[str] | None:
    return None if queues is None else frozenset(queues)
