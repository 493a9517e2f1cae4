"""Wake-ups: who waits in this process, and what reaches it of work that others have stored.

Whoever commits work sends the names of its queues through a mailbox: datagrams between the processes of one
host on SQLite, NOTIFY on PostgreSQL, nothing at all where there is no way. A message that is lost costs a
poll and nothing else, so nobody ever blocks on one.

A busy server does not read its mailbox. Before it waits it claims, so what it has not read it has seen: the
first and the last of a burst always count.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from firelock_sql.transaction import ANY_QUEUE

__all__ = ["Mailbox", "Wake"]

_REMEMBERED = 1_000  # queues whose last wake-up is remembered apart
_SIZE = 1_400  # bytes of a datagram; more names than that are "any queue"

_living: weakref.WeakSet[Wake] = weakref.WeakSet()


def _leave_behind() -> None:
    for wake in list(_living):
        wake.leave_behind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_behind)


class Mailbox(Protocol):
    """The way to and from other processes. Only `send` and `nudge` are called by several threads at once."""

    @property
    def is_open(self) -> bool:
        """Tell whether messages reach this process."""
        ...

    def open(self) -> None:
        """Messages reach this process, unless there is trouble; `describe` says which."""
        ...

    def listen(self, seconds: float) -> None:
        """Return when there may be a message, after a nudge, or after so many seconds."""
        ...

    def take(self) -> list[bytes]:
        """Return what has arrived, without waiting."""
        ...

    def send(self, message: bytes) -> None:
        """Every other process gets the message, or never hears of it."""
        ...

    def nudge(self) -> None:
        """A `listen` under way in this process returns."""
        ...

    def describe(self) -> str:
        """Return how servers are told of work, for people."""
        ...

    def leave_behind(self) -> None:
        """This is another process than the one that opened it, after a fork."""
        ...

    def close(self) -> None:
        """No message reaches this process any more."""
        ...


class Wake:
    """Who waits in this process, and who is to be told in others."""

    def __init__(self, open_mailbox: Callable[[], Mailbox] | None) -> None:
        self._open_mailbox = open_mailbox
        self._reset()
        _living.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._mailbox = self._open_mailbox() if self._open_mailbox is not None else None
        self._number = 0  # of the last wake-up
        self._arrived: dict[str, int] = {}  # by queue: number of its last wake-up
        self._seen: dict[frozenset[str] | None, int] = {}  # by queues: the last one before their last claim
        self._interrupts = 0
        self._waiting = 0
        self._is_listening = False  # one of those who wait listens for all

    def leave_behind(self) -> None:
        """This is another process than the one that listened: it listens for itself."""
        if self._mailbox is not None:
            self._mailbox.leave_behind()
        self._reset()

    # ---- telling -----------------------------------------------------------------------------------------

    def tell(self, queues: Collection[str]) -> None:
        """Everybody who waits for one of these queues, here or in another process, looks for work soon."""
        with self._changed:
            self._note(queues)
            self._rouse()
        if self._mailbox is not None:
            self._mailbox.send(_written(queues))

    def _note(self, queues: Collection[str]) -> None:
        self._number += 1
        if len(self._arrived) + len(queues) > _REMEMBERED:
            self._arrived = {ANY_QUEUE: self._number}
        for queue in queues:
            self._arrived[queue] = self._number

    def _rouse(self) -> None:
        """Whoever waits looks at what was noted, also who listens for the others."""
        if not self._waiting:
            return
        self._changed.notify_all()
        if self._is_listening and self._mailbox is not None:
            self._mailbox.nudge()

    # ---- waiting -----------------------------------------------------------------------------------------

    def mark(self, queues: Sequence[str] | None) -> None:
        """Whatever was told before now will be seen by the claim that follows."""
        with self._changed:
            self._read()
            if len(self._seen) > _REMEMBERED:
                self._seen.clear()
            self._seen[_key(queues)] = self._number

    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        """See `Storage.wait`."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            interrupts = self._interrupts
            if self._mailbox is not None:
                self._mailbox.open()
            self._waiting += 1
            try:
                while True:
                    self._read()
                    if self._is_news(queues):
                        self._seen[_key(queues)] = self._number
                        return True
                    left = deadline - time.monotonic()
                    if left <= 0 or interrupts != self._interrupts:
                        return False
                    self._sleep(left)
            finally:
                self._waiting -= 1

    def _sleep(self, seconds: float) -> None:
        """Listen for all who wait, or wait for the one who does."""
        mailbox = self._mailbox
        if self._is_listening or mailbox is None or not mailbox.is_open:
            self._changed.wait(seconds)
            return
        self._is_listening = True
        self._changed.release()
        try:
            mailbox.listen(seconds)
        finally:
            self._changed.acquire()
            self._is_listening = False
            self._changed.notify_all()

    def _read(self) -> None:
        """What has arrived is noted, and told to those from whose mailbox it is taken."""
        arrived = [] if self._mailbox is None else self._mailbox.take()
        for datagram in arrived:
            self._note(datagram.decode(errors="replace").split("\n"))
        if arrived:
            self._rouse()

    def _is_news(self, queues: Sequence[str] | None) -> bool:
        key = _key(queues)
        seen = self._seen.setdefault(key, self._number)
        if key is None:
            return self._number > seen
        return any(self._arrived.get(queue, 0) > seen for queue in (ANY_QUEUE, *key))

    def interrupt(self) -> None:
        """Every `wait` under way in this process returns soon."""
        with self._changed:
            self._interrupts += 1
            self._changed.notify_all()
            if self._is_listening and self._mailbox is not None:
                self._mailbox.nudge()

    # ---- the rest ----------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Return how servers are told of work, for people."""
        if self._mailbox is None:
            return "off: other processes find work when they poll"
        return self._mailbox.describe()

    def close(self) -> None:
        """Nobody waits any more and the socket is gone."""
        self.interrupt()
        with self._changed:
            if self._mailbox is not None:
                self._mailbox.close()


def _key(queues: Sequence[str] | None) -> frozenset[str] | None:
    return None if queues is None else frozenset(queues)


def _written(queues: Collection[str]) -> bytes:
    names = "\n".join(queues).encode(errors="replace")
    return names if len(names) <= _SIZE else ANY_QUEUE.encode()
