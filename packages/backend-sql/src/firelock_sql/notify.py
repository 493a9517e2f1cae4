"""Wake-ups: who waits in this process, and what reaches it of work that others have stored.

Whoever commits work sends the names of its queues through a mailbox: datagrams between the processes of one
host on SQLite, NOTIFY on PostgreSQL, nothing at all where there is no way. A message that is lost costs a
poll and nothing else, so nobody ever blocks on one.

A busy server does not read its mailbox. Before it waits it claims, so what it has not read it has seen: the
first and the last of a burst always count.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from typing_extensions import override

from firelock.storage import ANY_QUEUE, Waiting

__all__ = ["Mailbox", "Wake"]

_SIZE = 1_400  # bytes of a datagram; more names than that are "any queue"


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


class Wake(Waiting):
    """Who waits in this process, and who is to be told in others."""

    def __init__(self, open_mailbox: Callable[[], Mailbox] | None) -> None:
        self._open_mailbox = open_mailbox
        self._make_mailbox()
        super().__init__()

    def _make_mailbox(self) -> None:
        self._mailbox = self._open_mailbox() if self._open_mailbox is not None else None
        self._is_listening = False  # one of those who wait listens for all

    @override
    def leave_behind(self) -> None:
        if self._mailbox is not None:
            self._mailbox.leave_behind()
        self._make_mailbox()
        super().leave_behind()

    def tell(self, queues: Collection[str]) -> None:
        """Everybody who waits for one of these queues, here or in another process, looks for work soon."""
        self.note(queues)
        if self._mailbox is not None:
            self._mailbox.send(_written(queues))

    @override
    def wait(self, queues: Sequence[str] | None, timeout_seconds: float) -> bool:
        if self._mailbox is not None:
            with self.changed:
                self._mailbox.open()
        return super().wait(queues, timeout_seconds)

    @override
    def look(self) -> None:
        for message in self._mailbox.take() if self._mailbox is not None else ():
            self.note(message.decode(errors="replace").split("\n"))

    @override
    def sleep(self, seconds: float) -> None:
        """Listen for all who wait, or wait for the one who does."""
        mailbox = self._mailbox
        if self._is_listening or mailbox is None or not mailbox.is_open:
            super().sleep(seconds)
            return
        self._is_listening = True
        self.changed.release()
        try:
            mailbox.listen(seconds)
        finally:
            self.changed.acquire()
            self._is_listening = False
            self.changed.notify_all()

    @override
    def rouse(self) -> None:
        super().rouse()
        if self._is_listening and self._mailbox is not None:
            self._mailbox.nudge()

    def describe(self) -> str:
        """Return how servers are told of work, for people."""
        if self._mailbox is None:
            return "off: other processes find work when they poll"
        return self._mailbox.describe()

    def close(self) -> None:
        """Nobody waits any more and the socket is gone."""
        self.interrupt()
        with self.changed:
            if self._mailbox is not None:
                self._mailbox.close()


def _written(queues: Collection[str]) -> bytes:
    names = "\n".join(queues).encode(errors="replace")
    return names if len(names) <= _SIZE else ANY_QUEUE.encode()
