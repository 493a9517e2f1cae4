"""Wake-ups by LISTEN and NOTIFY: one connection of this process hears, a thread of it tells.

The connection is made by a thread of its own, so that neither who waits nor who enqueues ever waits for a
server that is away. What was sent while there was none is not known; so each new connection counts as a
message that concerns every queue, the first one too where somebody had looked for work before.
"""

from __future__ import annotations

import random
import secrets
import selectors
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg

from firelock_sql.database import ANY_QUEUE
from firelock_sql.postgresql.sender import Sender

if TYPE_CHECKING:
    from firelock_sql.postgresql.channel import Channel

__all__ = ["Mailbox"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_ORIGIN = "@"  # begins the line that names the process a message is from


class Mailbox:
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
            elif self._nudge is None:  # nobody has waited yet: this is a claim's look
                self._may_have_missed = True
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
