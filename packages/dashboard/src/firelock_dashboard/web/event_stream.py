"""Server-Sent Events, sent in an endless response to one visitor, on the event loop of the request.

The format is defined in the section "Server-sent events" of the HTML standard.
"""

from __future__ import annotations

import signal
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio
from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_PACE = 0.25  # seconds between checks for new events
_KEEP_ALIVE = 15.0
CHECKS_EVERY = 30.0  # seconds between checks of the visitor's permission


class EventStream(Response):
    """A response that sends new events four times a second.

    The response ends when all events were sent, the visitor disconnects or the server shuts down. It
    regularly checks the visitor's permission again, because the visitor may have been logged out. It polls
    for events instead of being notified, so it works on any event loop. It also checks whether the server is
    shutting down, because the server waits for its open responses.
    """

    media_type = "text/event-stream"

    def __init__(
        self, is_reader: Callable[[], Awaitable[bool]] | None = None, checks_every: float = CHECKS_EVERY
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.is_reader = is_reader  # returns whether the visitor may still read
        self.visitor = ""  # the visitor's name, for `StreamLimit`
        self._checks_every = checks_every

    @abstractmethod
    async def read_new_events(self) -> bytes:
        """Return the new events in the wire format, or empty bytes if there are none."""

    def refusal(self) -> Response:
        """Return the response that is sent instead of the stream if too many are open."""
        return Response(
            "Too many streams are open; close one, or send the request again later.\n",
            503,
            {"Retry-After": "10"},
            "text/plain",
        )

    @property
    @abstractmethod
    def has_ended(self) -> bool:
        """Whether no more events will follow."""

    def join(self) -> None:
        """Start listening for events."""

    def leave(self) -> None:
        """Stop listening, because the response has ended."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send events until the stream ends or the visitor disconnects."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self.join()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                await self._send_events(send)
                tasks.cancel_scope.cancel()
        except* OSError:  # raised by servers when the client has disconnected
            pass
        finally:
            self.leave()

    async def _send_events(self, send: Send) -> None:
        await send(_body(b"retry: 2000\n\n"))
        sent_at = checked_at = anyio.current_time()
        while not self.has_ended and not _server_is_ending():
            if self.is_reader is not None and anyio.current_time() - checked_at >= self._checks_every:
                if not await self.is_reader():
                    break
                checked_at = anyio.current_time()
            events = await self.read_new_events()
            if events:
                await send(_body(events))
                sent_at = anyio.current_time()
            elif anyio.current_time() - sent_at >= _KEEP_ALIVE:
                await send(_body(b": still here\n\n"))
                sent_at = anyio.current_time()
            if not self.has_ended:
                await anyio.sleep(_PACE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class StreamLimit:
    """A limit on the open streams of one dashboard, because each one occupies a connection of its server.

    Args:
        most: the maximum for all visitors together; one visitor may have a quarter of it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_each = min(most, max(1, most // 4))
        self._open: Counter[str] = Counter()  # by visitor
        self._lock = threading.Lock()  # the event loops of a process share a dashboard

    @contextmanager
    def place(self, visitor: str) -> Iterator[bool]:
        """Count a stream of the visitor within the block, and yield whether it is within the limit."""
        with self._lock:
            is_free = self._open.total() < self._most and self._open[visitor] < self._most_each
            self._open[visitor] += is_free
        try:
            yield is_free
        finally:
            with self._lock:
                self._open[visitor] -= is_free
                self._open += Counter()  # remove visitors without streams


def event(name: str, text: str, *, id: int | None = None) -> bytes:
    """Return an event in the wire format; line breaks in the text are preserved."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    head = "" if id is None else f"id: {id}\n"
    data = "\n".join(f"data: {line}" for line in lines)
    return f"{head}event: {name}\n{data}\n\n".encode("utf-8", "replace")


def _body(chunk: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": chunk, "more_body": True}


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _server_is_ending() -> bool:
    """Return whether the server that runs this dashboard is shutting down.

    A mounted app is not notified of a shutdown, and uvicorn waits for its streams. Therefore this function
    finds uvicorn's server through the signal handler, which is one of its methods, and reads `should_exit`.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))
