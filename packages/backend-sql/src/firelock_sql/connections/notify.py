"""Wake-ups: who waits in this process, and what reaches it of work that others have stored.

Whoever commits work sends the names of its queues through a mailbox: datagrams between the processes of one
host on SQLite, NOTIFY on PostgreSQL, nothing at all where there is no way. A message that is lost costs a
poll and nothing else, so nobody ever blocks on one.

A busy server does not read its mailbox. Before it waits it claims, so what it has not read it has seen: the
first and the last of a burst always count.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from typing_extensions import override

from firelock.storage import ANY_QUEUE, Waiting

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

    @property
    def has_mailbox(self) -> bool:
        """Tell whether other processes can tell this one of work."""
        return self._mailbox is not None

    def describe(self) -> str:
        """Return how servers are told of work, for people."""
        if self._mailbox is None:
            return "off: other processes find work when they poll"
        return self._mailbox.describe()

    def close(self) -> None:
        """Nobody waits any more and the socket is gone."""
        self.end()
        with self.changed:
            if self._mailbox is not None:
                self._mailbox.close()


def _written(queues: Collection[str]) -> bytes:
    names = "\n".join(queues).encode(errors="replace")
    return names if len(names) <= _SIZE else ANY_QUEUE.encode()


# ---- between the processes of one host -------------------------------------------------------------------

_LONGEST_ADDRESS = 103  # bytes; Linux takes 107, macOS 103
_NAME_LENGTH = 24  # "/" and the longest name of a socket
_FRESH_NS = 50_000_000  # a folder that changed so lately may have changed again within the same tick


class SocketMailbox:
    """The sockets of one database file: where they are, whose they are, and when one is dead.

    Each process that waits binds one; who commits work sends a datagram to all of them. The socket of a busy
    server fills up after a few, and sending to it then fails at once and costs next to nothing.

    The folder is `<file>.wake`, open to its owner alone. Where its path is too long for a socket's address, a
    folder in the system's temporary folder takes its place, named after the file's path; it is used only if
    it is ours alone.
    """

    def __init__(self, database: Path) -> None:
        self._folder = _folder(database)
        self._trouble: str | None = None
        self._socket: socket.socket | None = None
        self._address: str | None = None
        self._sender: socket.socket | None = None  # made by the first `send`
        self._sending = threading.Lock()  # around making and closing sockets
        self._is_closed = self._is_listening = False
        self._nudge: tuple[socket.socket, socket.socket] | None = None
        self._listed: list[str] = []
        self._listed_at = -1  # the folder's time of change when it was listed

    @property
    def is_open(self) -> bool:
        """Tell whether datagrams reach this process."""
        return self._socket is not None

    # ---- receiving ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Datagrams reach this process, unless the folder cannot be used; `describe` says why."""
        if self._socket is not None or self._trouble is not None or self._is_closed:
            return
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            _claim_folder(self._folder)
            bound.setblocking(False)
            address = str(self._folder / f"{os.getpid():x}.{os.urandom(5).hex()}")
            bound.bind(address)
            self._nudge = socket.socketpair()
            for end in self._nudge:
                end.setblocking(False)
        except OSError as error:
            bound.close()
            self._trouble = f"{error.strerror or error}"
            return
        self._socket, self._address = bound, address

    def take(self) -> list[bytes]:
        """Return what has arrived; from the first call on datagrams reach this process."""
        if self._socket is None:
            self.open()  # by a claim: what is sent between it and the wait that follows must not be lost
        bound, arrived = self._socket, list[bytes]()
        if bound is not None:
            with suppress(OSError):  # nothing more, or closed by another thread
                while True:
                    arrived.append(bound.recv(2_048))
        return arrived

    def listen(self, seconds: float) -> None:
        """Return when something has arrived, somebody has called `nudge`, or the time is over."""
        with self._sending:
            if self._socket is None or self._nudge is None:
                return
            bound, nudged = self._socket, self._nudge[0]
            self._is_listening = True
        try:
            poll = select.poll()
            poll.register(bound, select.POLLIN)
            poll.register(nudged, select.POLLIN)
            ready = dict(poll.poll(seconds * 1_000))
            if nudged.fileno() in ready:
                with suppress(OSError):
                    nudged.recv(1_024)
        finally:
            with self._sending:
                self._is_listening = False
                if self._is_closed:
                    self._shut()

    def nudge(self) -> None:
        """A `listen` under way returns."""
        nudge = self._nudge
        if nudge is not None:
            with suppress(OSError):
                nudge[1].send(b".")

    # ---- sending -----------------------------------------------------------------------------------------

    def send(self, datagram: bytes) -> None:
        """Every other process that waits, or will, has the datagram in its socket; never blocks or fails."""
        others = [address for address in self._others() if address != self._address]
        sender = self._open_sender() if others else None
        if sender is None:
            return
        for address in others:
            try:
                sender.sendto(datagram, address)
            except ConnectionRefusedError:  # its process is dead
                with suppress(OSError):
                    Path(address).unlink()
            except OSError:  # full: it has enough to wake up for; or closed meanwhile
                continue

    def _open_sender(self) -> socket.socket | None:
        """Return the socket that all threads send from, None after `close`."""
        with self._sending:
            if self._sender is None and not self._is_closed:
                self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._sender.setblocking(False)
            return self._sender

    def _others(self) -> list[str]:
        try:
            found = os.lstat(self._folder)
        except OSError:
            return []
        changed_at = found.st_mtime_ns
        if changed_at != self._listed_at:
            names = _names(self._folder) if _is_ours_alone(found) else []
            self._listed = [f"{self._folder}/{name}" for name in names]
            is_settled = time.time_ns() - changed_at > _FRESH_NS
            self._listed_at = changed_at if is_settled else -1
        return self._listed

    # ---- the rest ----------------------------------------------------------------------------------------

    def describe(self) -> str:
        """Return how processes are told of work, for people."""
        if self._trouble is not None:
            return f"off, {self._folder} cannot be used ({self._trouble}): work is found by polling"
        return f"sockets in {self._folder}"

    def leave_behind(self) -> None:
        """The sockets belong to the process before the fork; here they are only closed."""
        for one in (self._socket, self._sender, *(self._nudge or ())):
            if one is not None:
                one.close()

    def close(self) -> None:
        """The socket is gone, and so is its name."""
        with self._sending:
            self._is_closed = True
            if not self._is_listening:  # otherwise the one who listens closes them, as soon as it returns
                self._shut()
        self.nudge()
        if self._address is not None:
            with suppress(OSError):
                Path(self._address).unlink()
            self._address = None

    def _shut(self) -> None:
        self.leave_behind()
        self._socket = self._sender = self._nudge = None


def _folder(database: Path) -> Path:
    beside = database.with_name(database.name + ".wake")
    if len(os.fsencode(beside)) + _NAME_LENGTH <= _LONGEST_ADDRESS:
        return beside
    digest = hashlib.sha256(os.fsencode(database)).hexdigest()[:16]
    try:
        return Path(tempfile.gettempdir()) / f"firelock-{os.getuid()}-{digest}"
    except FileNotFoundError:  # the only place that can be written is the database's
        return beside  # `open` meets the length, says so and leaves work to be found by polling


def _claim_folder(folder: Path) -> None:
    """The folder exists and is ours alone.

    Raises:
        PermissionError: it is somebody else's or open to others: a stranger could read or plant sockets.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_ours_alone(folder.lstat()):
        message = "it is not a folder of this user alone"
        raise PermissionError(0, message)


def _is_ours_alone(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names, not paths
    except OSError:
        return []
