"""Notifications with LISTEN and NOTIFY: one connection of this process listens, and a thread sends.

While a transaction with a notification commits, the server blocks the commits of other such transactions. If
each enqueue sent a notification in its transaction, all enqueues would be serialized. So a thread sends the
notifications after the commits, in separate transactions. It sends the name of a queue at most once every
five milliseconds: immediately if the name was not sent shortly before, and once more at the end of a burst.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import random
import secrets
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from firelock.storage import ANY_QUEUE
from firelock_sql.connections.server_database import STALE_LIMIT, Meaning
from firelock_sql.postgresql.connect import read_failure
from firelock_sql.schema.names import SCHEMA_TABLE, Names, table_name

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

    from firelock_sql.connections.pool import EnginePool
    from firelock_sql.postgresql.connect import ConnectionPath

_LONGEST_NAME = 63  # maximum length in bytes; the server truncates longer names
_SCHEMA = (
    "SELECT coalesce((SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
    " ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass(%s)), current_schema())"
)
# NOTIFY assigns a transaction id, so the commit would wait for the disk. But a lost message is harmless.
_NOTIFY = "SELECT pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify(%s, %s)"


class Channel:
    """The channel for messages about these tables. The first message opens the first connection."""

    def __init__(
        self,
        connections: EnginePool,
        names: Names,
        dialect: Dialect,
        path: ConnectionPath,
        *,
        is_forced: bool,
    ) -> None:
        self._connections = connections
        self._names = names
        self._dialect = dialect
        self._path = path
        self._is_forced = is_forced
        self._name: str | None = None

    @property
    def is_deaf(self) -> bool:
        """Whether connections pass through a pooler, so that messages would not arrive."""
        return bool(self._path.is_pooled) and not self._is_forced

    def listen(self) -> psycopg.Connection[Any] | None:
        """Return a new connection that listens to the channel; None behind a pooler, which prevents this.

        Raises:
            Exception: If the driver fails, or a StorageError if the server is unsupported.
        """
        driver: psycopg.Connection[Any] = self._connections.connect_outside_pool()
        try:
            if self.is_deaf:
                driver.close()
                return None
            driver.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self.name(driver))))
        except BaseException:
            driver.close()
            raise
        return driver

    def post(self, message: str) -> None:
        """Send a message to all listeners of the channel, in one round trip on a connection of the pool.

        If the connection is lost, retry on another one; a message that arrives twice is harmless.

        Raises:
            Exception: If the driver fails, or a StorageError if no connection is available.
        """
        for tries in range(1, STALE_LIMIT + 1):
            with self._connections.check_out() as checkout:
                try:
                    checkout.driver.execute(_NOTIFY, [self.name(checkout.driver), message])
                except psycopg.OperationalError as error:
                    checkout.is_lost = True
                    failure = read_failure(error)
                    if failure is None or failure.meaning is not Meaning.LOST or tries == STALE_LIMIT:
                        raise
                else:
                    return

    def name(self, driver: psycopg.Connection[Any]) -> str:
        """Return the name of the channel; the first call may take one round trip."""
        if self._name is None:
            self._name = channel_name(self._schema(driver), self._names.prefix)
        return self._name

    def _schema(self, driver: psycopg.Connection[Any]) -> str:
        """Return the schema of the tables, from the URL or from the search path."""
        if self._names.schema is not None:
            return self._names.schema
        found: Any = driver.execute(_SCHEMA, [table_name(self._dialect, SCHEMA_TABLE)]).fetchone()
        return str(found[0])


def channel_name(schema: str, prefix: str) -> str:
    """Return the name of the channel of these tables, for example `public.firelock_wake`."""
    name = f"{schema}.{prefix}wake"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{prefix}wake.{digest}"


log = logging.getLogger(__name__)

GAP_SECONDS = 0.005
_SIZE = 7_900  # maximum size of a message in bytes; the server accepts fewer than 8,000
_IDLE_SECONDS = 30.0  # the thread ends after this many seconds without messages
_LAST_SECONDS = 2.0  # time to send the remaining messages when the process exits

_living: weakref.WeakSet[Sender] = weakref.WeakSet()


def flush() -> None:
    """Send all messages that the senders of this process have not sent yet; called at exit."""
    for sender in list(_living):
        sender.close()


atexit.register(flush)


class Coalescing:
    """The schedule of notifications: the queues that are due now, and the times when others will be due."""

    def __init__(self) -> None:
        self._waiting: set[str] = set()
        self._named_at: dict[str, float] = {}  # queues that were notified in the last GAP_SECONDS

    def add(self, queues: Collection[str]) -> bool:
        """Schedule the queues; return whether one of them was not scheduled before."""
        before = len(self._waiting)
        self._waiting.update(queues)
        return len(self._waiting) > before

    def take(self, now: float) -> list[str]:
        """Return the queues that are due for a notification, and record that they were notified."""
        oldest = now - GAP_SECONDS
        self._named_at = {queue: at for queue, at in self._named_at.items() if at > oldest}
        due = sorted(self._waiting - self._named_at.keys())
        self._waiting.difference_update(due)
        self._named_at.update(dict.fromkeys(due, now))
        return due

    def take_all(self) -> list[str]:
        """Return all scheduled queues, including those that were notified recently."""
        due = sorted(self._waiting)
        self._waiting.clear()
        return due

    def pause(self, now: float) -> float | None:
        """Return the seconds until the next notification is due; None if none is scheduled."""
        at = min((self._named_at.get(queue, 0.0) + GAP_SECONDS for queue in self._waiting), default=None)
        return None if at is None else max(0.0, at - now)


class Sender:
    """The sender of notifications. Its thread is started by the first message and does not survive a fork.

    Args:
        post: sends one message; it may be slow, and it may fail.
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
        """Schedule the queues for a notification, which might be lost; never wait or fail."""
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
        """Send the scheduled notifications, but stop waiting if the server does not reply in time."""
        with self._changed:
            self._is_over = True
            self._changed.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_LAST_SECONDS)

    def leave_behind(self) -> None:
        """Forget the sender after a fork, so that this process does not send its notifications at exit."""
        _living.discard(self)

    def _run(self) -> None:
        while queues := self._next():
            try:
                self._post(written(queues))
            except Exception as error:  # noqa: BLE001 - the job is stored in any case, and a poll finds it
                self._log_failure(error)
            else:
                self._is_failing = False

    def _next(self) -> list[str]:
        """Wait until notifications are due and return their queues; an empty list if the thread must end."""
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
                is_notified = self._changed.wait(_IDLE_SECONDS if pause is None else pause)
                is_idle = pause is None and not is_notified

    def _log_failure(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            log.warning(
                "Could not notify servers of work (%s); they will find it by polling.", type(error).__name__
            )


def written(queues: Collection[str]) -> str:
    """Return a message with one queue per line; if it would be too long, return "any queue"."""
    names = "\n".join(queues)
    return names if len(names.encode()) <= _SIZE else ANY_QUEUE


_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_ORIGIN = "@"  # prefix of the line that identifies the sending process


class ChannelMailbox:
    """The listening connection of a process, and its notifications to all other processes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._origin = _ORIGIN + secrets.token_hex(4)
        self._sender = Sender(lambda queues: channel.post(f"{self._origin}\n{queues}"))
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._nudge: tuple[socket.socket, socket.socket] | None = None
        # connections that the listening thread must close, because it may still use them
        self._dead: list[psycopg.Connection[Any]] = []
        self._news: list[bytes] = []  # received messages, and substitutes for missed messages
        self._state = ""  # the current problem, for display
        # True if a claim or a second wait has begun without a connection, so messages may have been missed
        self._may_have_missed = False
        self._has_looked = False  # True if the first wait without a connection has begun
        self._is_dialing = False
        self._is_listening = False
        self._is_pooled = False
        self._is_over = False
        self._pause = _FIRST_PAUSE
        self._dials_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether another thread can end a wait in this process."""
        return self._nudge is not None

    # ---- receiving ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Allow a connection, which will be opened when a thread listens."""
        if self._nudge is None and not self._is_over:
            self._nudge = socket.socketpair()
            for end in self._nudge:
                end.setblocking(False)

    def take(self) -> list[bytes]:
        """Return the messages that have arrived; discard a connection that turns out to be dead."""
        with self._lock:
            if self._connection is not None:
                self._read(self._connection)
            elif self._nudge is None or self._has_looked:  # this is a claim or a second wait
                self._may_have_missed = True
            else:
                self._has_looked = True
            news, self._news = self._news, []
            return news

    def _read(self, connection: psycopg.Connection[Any]) -> None:
        try:
            pgconn = connection.pgconn
            pgconn.consume_input()
            while (notification := pgconn.notifies()) is not None:
                origin, _, queues = notification.extra.decode(errors="replace").partition("\n")
                if not origin.startswith(_ORIGIN):  # the message is from another program
                    origin, queues = "", f"{origin}\n{queues}".rstrip("\n")
                if origin != self._origin:
                    self._news.append((queues or ANY_QUEUE).encode())
        except psycopg.Error as error:
            self._lose(error)

    def listen(self, seconds: float) -> None:
        """Wait until a message has arrived, `nudge` is called, or the timeout expires."""
        with self._lock:
            if self._nudge is None:
                return
            self._is_listening = True
            left = self._dial_in_time()
            nudged = self._nudge[0]
            heard = None if self._connection is None else self._connection.fileno()
        try:
            _await(nudged, heard, seconds if left is None else min(seconds, left))
        finally:
            with self._lock:
                self._is_listening = False
                while self._dead:
                    self._dead.pop().close()
                if self._is_over:
                    self._shut()

    def nudge(self) -> None:
        """Make a `listen` return."""
        nudge = self._nudge
        if nudge is not None:
            with suppress(OSError):
                nudge[1].send(b".")

    # ---- the connection ----------------------------------------------------------------------------------

    def _dial_in_time(self) -> float | None:
        """Start opening a connection if none exists; return the seconds until the next try is allowed."""
        if self._connection is not None or self._is_dialing or self._is_pooled or self._is_over:
            return None
        left = self._dials_at - time.monotonic()
        if left > 0:
            return left
        self._is_dialing = True
        threading.Thread(target=self._dial, name="firelock-listen", daemon=True).start()
        return None

    def _dial(self) -> None:
        try:
            connection = self._channel.listen()
        except Exception as error:  # noqa: BLE001 - the connection is retried, and polling finds work
            with self._lock:
                self._is_dialing = False
                self._lose(error)
        else:
            with self._lock:
                self._is_dialing = False
                self._adopt(connection)
        self.nudge()

    def _adopt(self, connection: psycopg.Connection[Any] | None) -> None:
        if connection is None:
            self._is_pooled = True
        elif self._is_over:
            connection.close()
        else:
            self._connection, self._state, self._pause = connection, "", _FIRST_PAUSE
            if self._may_have_missed:
                self._news.append(ANY_QUEUE.encode())
            self._may_have_missed = True

    def _lose(self, error: Exception) -> None:
        if self._connection is not None:
            self._dead.append(self._connection)
            self._connection = None
            self.nudge()
        self._state = f"not connected ({type(error).__name__})"
        self._dials_at = time.monotonic() + self._pause * random.uniform(0.5, 1)  # noqa: S311 - not a secret
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)

    # ---- sending -----------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Schedule the message, which a thread sends to all other processes; never block or fail."""
        self._sender.add(message.decode(errors="replace").split("\n"))

    # ---- other methods -----------------------------------------------------------------------------------

    def describe(self) -> str:
        """Return a description of how processes are notified of work."""
        if self._is_pooled or self._channel.is_deaf:
            return "off behind a pooler; servers find work by polling"
        return f"NOTIFY, one connection per process{', ' if self._state else ''}{self._state}"

    def leave_behind(self) -> None:
        """Leave the connection to the parent process after a fork, because both processes share it."""
        self._sender.leave_behind()
        _left_behind.extend(self._dead)
        if self._connection is not None:
            _left_behind.append(self._connection)
        for end in self._nudge or ():
            end.close()

    def close(self) -> None:
        """Send the scheduled notifications, then stop receiving messages."""
        self._sender.close()
        with self._lock:
            self._is_over = True
            if not self._is_listening:
                self._shut()
        self.nudge()

    def _shut(self) -> None:
        nudge, self._nudge = self._nudge, None
        for end in nudge or ():
            end.close()
        while self._dead:
            self._dead.pop().close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_left_behind: list[psycopg.Connection[Any]] = []  # closing these would also close them in the parent process


def _await(nudged: socket.socket, heard: int | None, seconds: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(nudged, selectors.EVENT_READ)
        if heard is not None:
            selector.register(heard, selectors.EVENT_READ)
        ready = {key.fd for key, _ in selector.select(seconds)}
    if nudged.fileno() in ready:
        with suppress(OSError):
            nudged.recv(1_024)
