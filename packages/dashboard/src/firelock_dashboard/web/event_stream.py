"""Server-Sent Events: an answer without an end, for one visitor, on the event loop that it came by.

The format is that of the section "Server-sent events" of the HTML standard.
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

_PACE = 0.25  # seconds between looks at what there is to send
_KEEP_ALIVE = 15.0
ASKS_EVERY = 30.0  # seconds after which it is asked again whether the visitor may read


class EventStream(Response):
    """What there is to tell, four times a second, until it is over, the visitor leaves or the server ends.

    It has no end of its own, so now and then it asks again for the visitor, who may have been logged out. It
    asks for news rather than to be told, so that it belongs to its own event loop alone, whichever that is,
    and notices the end of a server, which waits for it.
    """

    media_type = "text/event-stream"

    def __init__(
        self, is_reader: Callable[[], Awaitable[bool]] | None = None, asks_every: float = ASKS_EVERY
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.is_reader = is_reader  # asks whether the visitor may still read
        self.visitor = ""  # whose it is, for `StreamLimit`
        self._asks_every = asks_every

    @abstractmethod
    async def look(self) -> bytes:
        """Return the events that are new, as they go over the wire; nothing for none."""

    def refusal(self) -> Response:
        """Return what is answered in place of the stream if too many are open."""
        return Response(
            "Too many streams are open; close one, or retry later.\n",
            503,
            {"Retry-After": "10"},
            "text/plain",
        )

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Tell whether there is nothing more to come."""

    def join(self) -> None:
        """The visitor listens from now on."""

    def leave(self) -> None:
        """The visitor is gone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send events."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        self.join()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                await self._send_events(send)
                tasks.cancel_scope.cancel()
        except* OSError:  # a server says by this that nobody listens any more
            pass
        finally:
            self.leave()

    async def _send_events(self, send: Send) -> None:
        await send(_body(b"retry: 2000\n\n"))
        sent_at = asked_at = anyio.current_time()
        while not self.is_over and not _server_is_ending():
            if self.is_reader is not None and anyio.current_time() - asked_at >= self._asks_every:
                if not await self.is_reader():
                    break
                asked_at = anyio.current_time()
            events = await self.look()
            if events:
                await send(_body(events))
                sent_at = anyio.current_time()
            elif anyio.current_time() - sent_at >= _KEEP_ALIVE:
                await send(_body(b": still here\n\n"))
                sent_at = anyio.current_time()
            if not self.is_over:
                await anyio.sleep(_PACE)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class StreamLimit:
    """Limits the streams that one dashboard keeps open, since each holds a connection of its server.

    Args:
        most: of all visitors together; one visitor has a fourth of them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_each = min(most, max(1, most // 4))
        self._open: Counter[str] = Counter()  # by visitor
        self._lock = threading.Lock()  # the event loops of a process share a dashboard

    @contextmanager
    def place(self, visitor: str) -> Iterator[bool]:
        """Hold a place for a stream of the visitor; False if there is none."""
        with self._lock:
            is_free = self._open.total() < self._most and self._open[visitor] < self._most_each
            self._open[visitor] += is_free
        try:
            yield is_free
        finally:
            with self._lock:
                self._open[visitor] -= is_free
                self._open += Counter()  # without those who have none


def event(name: str, text: str, *, id: int | None = None) -> bytes:
    """Return an event as it goes over the wire; a text of several lines arrives as it was."""
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
    """Tell whether the server that runs this wants to end.

    A mounted app is told of no shutdown, and uvicorn waits for its streams: but it handles signals itself, by
    a method of its server, which says whether it is to end.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))
