"""Notifications of new work: the waiting threads of this process, and messages between processes.

A process that commits work sends the names of its queues through a mailbox. On SQLite, a message is a
datagram between processes of one host. On PostgreSQL, a message is sent with NOTIFY. On other databases, no
messages are sent. A lost message only delays work until the next poll, so sending never blocks.

A busy server does not read its mailbox. It always claims jobs before it waits, so it finds the work that
unread messages announce. This ensures that the first and the last message of a burst always have an effect.
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

_SIZE = 1_400  # maximum size of a datagram in bytes; a longer list of names becomes "any queue"


class Mailbox(Protocol):
    """The messages to and from other processes. Only `send` and `nudge` must be thread-safe."""

    @property
    def is_open(self) -> bool:
        """Whether this process receives messages."""
        ...

    def open(self) -> None:
        """Start receiving messages; if this fails, `describe` returns the reason."""
        ...

    def listen(self, seconds: float) -> None:
        """Wait until a message may have arrived, a nudge occurs, or the timeout expires."""
        ...

    def take(self) -> list[bytes]:
        """Return the messages that have arrived, without waiting."""
        ...

    def send(self, message: bytes) -> None:
        """Send the message to all other processes; the message might be lost."""
        ...

    def nudge(self) -> None:
        """Make a call of `listen` in this process return."""
        ...

    def describe(self) -> str:
        """Return a description of how servers are notified of work."""
        ...

    def leave_behind(self) -> None:
        """Drop the connections after a fork, because they belong to the parent process."""
        ...

    def close(self) -> None:
        """Stop receiving messages."""
        ...


class Wake(Waiting):
    """The waiting threads of this process, and the notifications to other processes."""

    def __init__(self, open_mailbox: Callable[[], Mailbox] | None) -> None:
        self._open_mailbox = open_mailbox
        self._make_mailbox()
        super().__init__()

    def _make_mailbox(self) -> None:
        self._mailbox = self._open_mailbox() if self._open_mailbox is not None else None
        self._is_listening = False  # True if one of the waiting threads is listening on behalf of all

    @override
    def leave_behind(self) -> None:
        if self._mailbox is not None:
            self._mailbox.leave_behind()
        self._make_mailbox()
        super().leave_behind()

    def notify(self, queues: Collection[str]) -> None:
        """End the waits for these queues, immediately in this process and soon after in other processes."""
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
    def poll(self) -> None:
        for message in self._mailbox.take() if self._mailbox is not None else ():
            self.note(message.decode(errors="replace").split("\n"))

    @override
    def sleep(self, seconds: float) -> None:
        """Listen on behalf of all waiting threads, or wait for the thread that listens."""
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
        """Whether other processes can notify this process of work."""
        return self._mailbox is not None

    def describe(self) -> str:
        """Return a description of how servers are notified of work."""
        if self._mailbox is None:
            return "off: other processes find work by polling"
        return self._mailbox.describe()

    def close(self) -> None:
        """End all waits and close the mailbox."""
        self.end()
        with self.changed:
            if self._mailbox is not None:
                self._mailbox.close()


def _written(queues: Collection[str]) -> bytes:
    names = "\n".join(queues).encode(errors="replace")
    return names if len(names) <= _SIZE else ANY_QUEUE.encode()


# ---- between the processes of one host -------------------------------------------------------------------

_LONGEST_ADDRESS = 103  # bytes; Linux allows 107, macOS 103
_NAME_LENGTH = 24  # length of "/" and the longest name of a socket
# a folder that has changed within this time may change again within the same clock tick
_FRESH_NS = 50_000_000


class SocketMailbox:
    """Datagram sockets for one database file, in a folder that only its owner can access.

    Each waiting process binds one socket. A process that commits work sends a datagram to all of them, and
    removes the sockets of dead processes. The socket of a busy server is full after a few datagrams. Sending
    to a full socket fails immediately and costs almost nothing.

    The folder is `<file>.wake`. If its path is too long for the address of a socket, a folder in the system's
    temporary folder is used instead. This folder is named after the file's path, and it is used only if no
    other user can access it.
    """

    def __init__(self, database: Path) -> None:
        self._folder = _folder(database)
        self._trouble: str | None = None
        self._socket: socket.socket | None = None
        self._address: str | None = None
        self._sender: socket.socket | None = None  # created by the first `send`
        self._sending = threading.Lock()  # held while sockets are created or closed
        self._is_closed = self._is_listening = False
        self._nudge: tuple[socket.socket, socket.socket] | None = None
        self._listed: list[str] = []
        self._listed_at = -1  # modification time of the folder when it was listed

    @property
    def is_open(self) -> bool:
        """Whether this process receives datagrams."""
        return self._socket is not None

    # ---- receiving ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start receiving datagrams; if the folder is unusable, `describe` returns the reason."""
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
        """Return the datagrams that have arrived; the first call starts receiving them."""
        if self._socket is None:
            # a claim calls this first, so that datagrams between the claim and the following wait are not
            # lost
            self.open()
        bound, arrived = self._socket, list[bytes]()
        if bound is not None:
            with suppress(OSError):  # there are no more datagrams, or another thread has closed the socket
                while True:
                    arrived.append(bound.recv(2_048))
        return arrived

    def listen(self, seconds: float) -> None:
        """Wait until a datagram has arrived, `nudge` is called, or the timeout expires."""
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
                    self._close_sockets()

    def nudge(self) -> None:
        """Make a `listen` return."""
        nudge = self._nudge
        if nudge is not None:
            with suppress(OSError):
                nudge[1].send(b".")

    # ---- sending -----------------------------------------------------------------------------------------

    def send(self, datagram: bytes) -> None:
        """Send the datagram to the sockets of all other processes; never block or fail."""
        others = [address for address in self._others() if address != self._address]
        sender = self._open_sender() if others else None
        if sender is None:
            return
        for address in others:
            try:
                sender.sendto(datagram, address)
            except ConnectionRefusedError:  # the process of this socket is dead
                with suppress(OSError):
                    Path(address).unlink()
            except OSError:  # the socket is full, so its process has unread messages; or it was just closed
                continue

    def _open_sender(self) -> socket.socket | None:
        """Return the socket from which all threads send; None after `close`."""
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

    # ---- other methods -----------------------------------------------------------------------------------

    def describe(self) -> str:
        """Return a description of how processes are notified of work."""
        if self._trouble is not None:
            return f"off: {self._folder} cannot be used ({self._trouble}); servers find work by polling"
        return f"sockets in {self._folder}"

    def leave_behind(self) -> None:
        """Close the sockets of the parent process after a fork, without removing their names."""
        for one in (self._socket, self._sender, *(self._nudge or ())):
            if one is not None:
                one.close()

    def close(self) -> None:
        """Close the socket and remove its name."""
        with self._sending:
            self._is_closed = True
            if not self._is_listening:  # otherwise, the listening thread closes the sockets when it returns
                self._close_sockets()
        self.nudge()
        if self._address is not None:
            with suppress(OSError):
                Path(self._address).unlink()
            self._address = None

    def _close_sockets(self) -> None:
        self.leave_behind()
        self._socket = self._sender = self._nudge = None


def _folder(database: Path) -> Path:
    sibling = database.with_name(database.name + ".wake")
    if len(os.fsencode(sibling)) + _NAME_LENGTH <= _LONGEST_ADDRESS:
        return sibling
    digest = hashlib.sha256(os.fsencode(database)).hexdigest()[:16]
    try:
        return Path(tempfile.gettempdir()) / f"firelock-{os.getuid()}-{digest}"
    except FileNotFoundError:  # the database's folder is the only writable one
        return sibling  # this path is too long, so `open` fails and servers find work by polling


def _claim_folder(folder: Path) -> None:
    """Create the folder if it is missing, and check that no other user can access it.

    Raises:
        PermissionError: If the folder belongs to another user, or if other users can access it.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not _is_ours_alone(folder.lstat()):
        message = "other users can access it, or it is not a folder"
        raise PermissionError(0, message)


def _is_ours_alone(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names, not paths
    except OSError:
        return []
