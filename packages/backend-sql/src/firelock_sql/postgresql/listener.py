"""Wake-ups by LISTEN and NOTIFY: one connection of this process hears, a thread of it tells.

While a notification commits, the server lets no other one do so. Sent with each enqueue, notifications would
line all of them up. So a thread sends them, after the commit, by a transaction of its own, and a queue is
named at most once in five milliseconds: at once when it was quiet before, and once more at the end of a
burst.
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
    from firelock_sql.postgresql.connect import Way

_LONGEST_NAME = 63  # bytes; the server cuts off what is longer
_SCHEMA = (
    "SELECT coalesce((SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
    " ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass(%s)), current_schema())"
)
# It takes a transaction number, and with it a commit that waits for the disk; a lost message does no harm.
_NOTIFY = "SELECT pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify(%s, %s)"


class Channel:
    """Where messages about these tables are sent and heard. Nothing is connected before the first one."""

    def __init__(
        self, connections: EnginePool, names: Names, dialect: Dialect, way: Way, *, is_forced: bool
    ) -> None:
        self._connections = connections
        self._names = names
        self._dialect = dialect
        self._way = way
        self._is_forced = is_forced
        self._name: str | None = None

    @property
    def is_deaf(self) -> bool:
        """Tell whether nothing would be heard: a pooler is in between."""
        return bool(self._way.is_pooled) and not self._is_forced

    def listen(self) -> psycopg.Connection[Any] | None:
        """Return a connection of its own that hears the channel; None behind a pooler, where none would.

        Raises:
            Exception: of the driver, or a StorageError.
        """
        driver: psycopg.Connection[Any] = self._connections.connect_apart()
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
        """Whoever hears the channel gets the message; one round trip by a connection of the pool.

        A connection that is lost is put aside for another: heard twice, a message does no harm.

        Raises:
            Exception: of the driver, or a StorageError.
        """
        for tries in range(1, STALE_LIMIT + 1):
            with self._connections.lend() as lent:
                try:
                    lent.driver.execute(_NOTIFY, [self.name(lent.driver), message])
                except psycopg.OperationalError as error:
                    lent.is_lost = True
                    failure = read_failure(error)
                    if failure is None or failure.meaning is not Meaning.LOST or tries == STALE_LIMIT:
                        raise
                else:
                    return

    def name(self, driver: psycopg.Connection[Any]) -> str:
        """Return the channel's name; one round trip, once."""
        if self._name is None:
            self._name = channel_name(self._schema(driver), self._names.prefix)
        return self._name

    def _schema(self, driver: psycopg.Connection[Any]) -> str:
        """Return the schema that the tables are in, whether the URL or the search path says so."""
        if self._names.schema is not None:
            return self._names.schema
        found: Any = driver.execute(_SCHEMA, [table_name(self._dialect, SCHEMA_TABLE)]).fetchone()
        return str(found[0])


def channel_name(schema: str, prefix: str) -> str:
    """Return the name of the channel of these tables: `public.firelock_wake`."""
    name = f"{schema}.{prefix}wake"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{prefix}wake.{digest}"


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


_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_ORIGIN = "@"  # begins the line that names the process a message is from


class ChannelMailbox:
    """One process's connection that hears, and the way to those of all others."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._origin = _ORIGIN + secrets.token_hex(4)
        self._sender = Sender(lambda queues: channel.post(f"{self._origin}\n{queues}"))
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._nudge: tuple[socket.socket, socket.socket] | None = None
        self._dead: list[psycopg.Connection[Any]] = []  # closed by who listens, who may look at them yet
        self._news: list[bytes] = []  # arrived, or made up for what may have been missed
        self._state = ""  # what is wrong, for people
        self._may_have_missed = False  # somebody looked for work while nothing could be heard
        self._has_looked = (
            False  # a wait has begun while nothing could be heard; a second one has missed what came
        )
        self._is_dialing = False
        self._is_listening = False
        self._is_pooled = False
        self._is_over = False
        self._pause = _FIRST_PAUSE
        self._dials_at = 0.0

    @property
    def is_open(self) -> bool:
        """Tell whether a wait of this process can be ended from elsewhere."""
        return self._nudge is not None

    # ---- receiving ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """A connection is made as soon as somebody listens."""
        if self._nudge is None and not self._is_over:
            self._nudge = socket.socketpair()
            for end in self._nudge:
                end.setblocking(False)

    def take(self) -> list[bytes]:
        """Return what has arrived; a connection that turns out to be dead is put aside."""
        with self._lock:
            if self._connection is not None:
                self._read(self._connection)
            elif self._nudge is None or self._has_looked:  # a claim's look, or that of a second wait
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
                if not origin.startswith(_ORIGIN):  # somebody's own NOTIFY
                    origin, queues = "", f"{origin}\n{queues}".rstrip("\n")
                if origin != self._origin:
                    self._news.append((queues or ANY_QUEUE).encode())
        except psycopg.Error as error:
            self._lose(error)

    def listen(self, seconds: float) -> None:
        """Return when something has arrived, somebody has called `nudge`, or the time is over."""
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
        """A `listen` under way returns."""
        nudge = self._nudge
        if nudge is not None:
            with suppress(OSError):
                nudge[1].send(b".")

    # ---- the connection ----------------------------------------------------------------------------------

    def _dial_in_time(self) -> float | None:
        """A connection is being made where there is none; return the seconds until it may be tried again."""
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
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again, and a poll finds work
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
        self._dials_at = time.monotonic() + self._pause * random.uniform(0.5, 1)  # noqa: S311 - no secret
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)

    # ---- sending -----------------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Every other process is told soon, by a thread; never blocks or fails."""
        self._sender.add(message.decode(errors="replace").split("\n"))

    # ---- the rest ----------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Return how processes are told of work, for people."""
        if self._is_pooled or self._channel.is_deaf:
            return "off behind a pooler, which lends connections: work is found by polling"
        return f"NOTIFY, one connection a process{', ' if self._state else ''}{self._state}"

    def leave_behind(self) -> None:
        """The connection belongs to the process before the fork, and so does the server's end of it."""
        self._sender.leave_behind()
        _left_behind.extend(self._dead)
        if self._connection is not None:
            _left_behind.append(self._connection)
        for end in self._nudge or ():
            end.close()

    def close(self) -> None:
        """What was to be sent is sent, and nothing arrives any more."""
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


_left_behind: list[psycopg.Connection[Any]] = []  # to close one here would end it there


def _await(nudged: socket.socket, heard: int | None, seconds: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(nudged, selectors.EVENT_READ)
        if heard is not None:
            selector.register(heard, selectors.EVENT_READ)
        ready = {key.fd for key, _ in selector.select(seconds)}
    if nudged.fileno() in ready:
        with suppress(OSError):
            nudged.recv(1_024)
