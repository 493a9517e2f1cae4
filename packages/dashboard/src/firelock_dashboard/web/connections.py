"""Limits on the connections of `firelock dashboard`: their number, and the time to wait for a client.

uvicorn waits without limit for a request that never arrives, and its `limit_concurrency` counts a connection
only after its request has arrived. So clients without a login could use up the file descriptors of the
process if they connect and send nothing, or half a request. The guard closes a connection that waits too long
for its client. To make room for a new connection, it closes the connection that has waited longest.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from typing import Self

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0  # the time limit for the head of a request; `read_body` limits the body
STALLED_SECONDS = 60.0  # the time limit for a client that does not read its response
_MOST = 512
_FEWEST = 8
_LOGGED_EVERY = 60.0  # seconds
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 44\r\n"
    b"Retry-After: 5\r\nConnection: close\r\n\r\nToo many requests are running; retry later.\n"
)


class ConnectionGuard:
    """A limit on the connections of one server, used only in its event loop.

    Args:
        most: the maximum number of open connections.
        request_seconds: the time within which the head of a request must arrive.
        stalled_seconds: the time for which a client may leave its response unread.
    """

    def __init__(
        self, most: int, *, request_seconds: float = REQUEST_SECONDS, stalled_seconds: float = STALLED_SECONDS
    ) -> None:
        self.most = most
        self.request_seconds = request_seconds
        self.stalled_seconds = stalled_seconds
        self._open: set[GuardedConnection] = set()
        self._waiting: dict[GuardedConnection, None] = {}  # in the order in which they began to wait
        self._logged_at = float("-inf")

    @classmethod
    def of_process(cls) -> Self:
        """Return a guard that leaves half of the file descriptors to the storage and other uses."""
        return cls(max(_FEWEST, min(_MOST, _files() // 2)))

    @property
    def backlog(self) -> int:
        """The maximum number of connections that are accepted in one iteration of the event loop.

        The number of open connections can exceed `most` during this iteration.
        """
        return max(_FEWEST, self.most // 8)

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """The protocol for uvicorn's setting `http`."""
        return type("Guarded", (GuardedConnection,), {"guard": self})

    def enter(self, connection: GuardedConnection) -> bool:
        """Add the connection, and return whether it can stay open.

        If necessary, close the connection that has waited longest.
        """
        self._open.add(connection)
        if len(self._open) <= self.most:
            return True
        self._log(connection.loop.time())
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self.leave(oldest)
        oldest.transport.abort()
        return True

    def note(self, connection: GuardedConnection, *, is_waiting: bool) -> None:
        """Record whether the connection waits for its client."""
        if not is_waiting:
            self._waiting.pop(connection, None)
        elif connection in self._open:
            self._waiting.setdefault(connection)

    def leave(self, connection: GuardedConnection) -> None:
        """Remove a closed connection."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def _log(self, now: float) -> None:
        if now - self._logged_at >= _LOGGED_EVERY:
            self._logged_at = now
            log.warning(
                "All %d connections are open; closing those that have waited longest for their clients. If "
                "this is not an attack, put a proxy in front of the dashboard.", self.most,
            )  # fmt: skip


class GuardedConnection(H11Protocol):
    """One connection, which has at most one deadline at any time."""

    guard: ClassVar[ConnectionGuard]
    _deadline: asyncio.TimerHandle | None = None
    _is_stalled = False  # the client does not read its response

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`; refuse the connection if the limit is reached."""
        super().connection_made(transport)
        if self.guard.enter(self):
            self._wait_for_request()
        else:
            transport.write(_FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._set_deadline(None)
        self.guard.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`; the deadline of a request ends when its head has arrived."""
        super().data_received(data)
        if self._has_request and not self._is_stalled:
            self._set_deadline(None)
        self._note()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the client to read this response."""
        self._wait_for_request()
        super().on_response_complete()  # starts the next request if it has already arrived
        if self._has_request and not self._is_stalled:
            self._set_deadline(None)
        self._note()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        super().pause_writing()
        self._is_stalled = True
        self._set_deadline(self.guard.stalled_seconds)
        self._note()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._is_stalled = False
        if self._has_request:
            self._set_deadline(None)
            self._note()
        else:
            self._wait_for_request()
        super().resume_writing()

    @property
    def _has_request(self) -> bool:
        """Whether a request's head has arrived and its response is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_request(self) -> None:
        has_unread = self._is_stalled or self.transport.get_write_buffer_size() > 0
        self._set_deadline(self.guard.stalled_seconds if has_unread else self.guard.request_seconds)
        self._note()

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)

    def _note(self) -> None:
        waits = not self._has_request or self.cycle.more_body or self._is_stalled
        self.guard.note(self, is_waiting=waits)


def _files() -> int:
    """Return the maximum number of file descriptors of the process."""
    try:
        import resource  # noqa: PLC0415 - exists only on POSIX
    except ImportError:
        return 2 * _MOST
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2 * _MOST if soft == resource.RLIM_INFINITY else soft
