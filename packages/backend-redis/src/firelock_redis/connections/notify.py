"""Notifications, which are published when a queue gets its first job.

Each process receives them over one connection. Notifications are only hints: if one is lost, the next poll
finds the work. A caller of `wait` has subscribed before its last claim. So no message is lost between that
claim and the wait.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis import exceptions as driver
from typing_extensions import override

from firelock.storage import ANY_QUEUE, StorageError, Waiting, is_of_taken
from firelock_redis.connections.database import RedisDatabase
from firelock_redis.layout.partitions import EVERYWHERE

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

log = logging.getLogger(__name__)

_PING_SECONDS = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_SUBSCRIBING_SECONDS = 1.0
_REMEMBERED = 1_000  # sets of queues


class RedisWaiting(Waiting):
    """The waiting callers of this process, and the thread that receives notifications for them."""

    def __init__(self, database: RedisDatabase, on_message: Callable[[int, str], None]) -> None:
        super().__init__()
        self._database = database
        self._on_message = on_message
        self._channels = {f"{base}:wake": place for place, base in enumerate(database.partitions.bases)}
        self._is_closed = threading.Event()
        self._quiet: set[frozenset[str] | None] = set()  # queues whose last wait received no notification
        self._begin_listening()

    def _begin_listening(self) -> None:
        self._thread: threading.Thread | None = None
        self._connection: AbstractConnection | None = None
        self._is_subscribed = threading.Event()

    @override
    def leave_behind(self) -> None:
        """Prepare a forked process: it opens its own connections and starts its own listening thread."""
        super().leave_behind()
        self._database.connections.leave_behind()
        is_closed = self._is_closed.is_set()
        # A thread of the parent process might have held the lock of the old event during the fork.
        self._is_closed = threading.Event()
        if is_closed:
            self._is_closed.set()
        self._begin_listening()

    # ---- waiting -----------------------------------------------------------------------------------------

    @override
    def mark(self, queues: Sequence[str] | None) -> None:
        self._listen()
        super().mark(queues)

    @override
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """See `Storage.wait`; if the caller has not claimed before, first check whether jobs are ready."""
        if queues and all(map(is_of_taken, queues)):
            self._listen()
            return super().wait(queues, timeout_seconds)
        if not self.is_marked(queues):
            self.mark(queues)
            if any(self._database.run_everywhere("reading.ready", *(queues or ()))):
                return True
        key = None if queues is None else frozenset(queues)
        self._quiet.discard(key)
        is_notified = super().wait(queues, timeout_seconds)
        if not is_notified and len(self._quiet) < _REMEMBERED:
            self._quiet.add(key)
        return is_notified

    def pop_quiet(self, queues: Sequence[str] | None) -> bool:
        """Return whether the last wait for these queues received no notification, and reset this value.

        So this method returns True at most once per wait.
        """
        key = None if queues is None else frozenset(queues)
        is_quiet = key in self._quiet
        self._quiet.discard(key)
        return is_quiet

    def close(self) -> None:
        """Stop listening and end every wait."""
        with self.changed:  # wait, because a thread that is being started cannot be joined yet
            self._is_closed.set()
            connection, thread = self._connection, self._thread
        self.end()
        if connection is not None:
            connection.disconnect()
        if thread is not None and thread is not threading.current_thread():
            thread.join(_SUBSCRIBING_SECONDS)

    # ---- listening ---------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if self._thread is not None or self._is_closed.is_set():
            return
        with self.changed:
            if self._thread is None and not self._is_closed.is_set():
                self._thread = threading.Thread(target=self._run, name="firelock-redis-wake", daemon=True)
                self._thread.start()
        self._is_subscribed.wait(_SUBSCRIBING_SECONDS)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._is_closed.is_set():
            try:
                self._receive()
                pause = _FIRST_PAUSE
            except (driver.RedisError, StorageError, OSError, AttributeError, TypeError, ValueError) as error:
                # The driver raises the last three if a connection is closed while it is read.
                if not self._is_closed.is_set():
                    log.debug("Lost the connection for notifications; reconnecting: %s", error)
                self._is_subscribed.set()  # a claim must not wait for an unreachable server
                self._is_closed.wait(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)

    def _receive(self) -> None:
        connection = self._connection = self._database.connections.listener()
        try:
            connection.connect()
            connection.send_command("SUBSCRIBE", *self._channels)
            for _ in self._channels:
                connection.read_response()
            if self._is_subscribed.is_set():  # a reconnection; messages published in the meantime are lost
                self._notify(EVERYWHERE, ANY_QUEUE)
            self._is_subscribed.set()
            while not self._is_closed.is_set():
                self._read(connection)
        finally:
            connection.disconnect()

    def _read(self, connection: AbstractConnection) -> None:
        if not connection.can_read(timeout=_PING_SECONDS):
            connection.send_command("PING")
            if not connection.can_read(timeout=self._database.url.timeout_seconds):
                raise driver.TimeoutError("no reply to PING")
        reply: Any = connection.read_response()
        if reply[0] == "message":
            self._notify(self._channels[reply[1]], reply[2])

    def _notify(self, partition: int, queue: str) -> None:
        if not is_of_taken(queue):
            self._on_message(partition, queue)
        self.note([queue])
